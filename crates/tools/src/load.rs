//! `corelane load`: sends at a rate of its own, whatever the server does, and measures what comes back.
//!
//! Open loop: frames are due by a schedule, and latency counts from the moment a frame was due, so that a server which
//! stalls is charged for everybody who would have waited. In reading order: `schedule` (what is due when),
//! `distribution`, `irregular`, `corpus` (the frames), `connection`, `sender` (the loop), `measured`, `sample` (the
//! server's own numbers), `watch` (a run, second by second), `series`, `outcome`, `limits`, and `text`, `report`
//! and `interval_log` tell it.

mod connection;
mod corpus;
mod distribution;
mod interval_log;
mod irregular;
mod limits;
mod measured;
mod outcome;
mod progress;
mod report;
mod sample;
mod schedule;
mod sender;
mod series;
mod text;
mod watch;

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use corelane_client::{Client, Replies};
use corelane_command::{Failure, duration, raise_descriptors};
use tokio::{runtime, task::JoinSet};

use self::{
    connection::{Connection, Deal},
    corpus::{Corpus, Mix},
    distribution::Distribution,
    limits::Limits,
    outcome::{LoadText, Outcome},
    sample::Sample,
    schedule::{Bursts, DURATION_MAX, Rate, Schedule},
    watch::Run,
};
use crate::{
    control_client::{ControlAccess, ControlClient},
    send,
};

/// Generate load, measure it, and hold it against limits.
///
/// Frames are due by a schedule that does not wait for the server: latency is from the moment a frame was due to the
/// server's answer, so that waiting counts. Both sides' counters are compared at the end; exit code 1 when they differ,
/// when a connection ends early, or when a limit is broken. Ctrl-C ends the load early, with the result so far.
#[derive(clap::Args, Debug)]
#[command(args_override_self = true)]
pub struct LoadArgs {
    /// Data port of the server.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7600", value_parser = send::parse_address)]
    target: String,

    /// Control port of the server, for its own numbers [default: port 9600 of the target's host].
    #[arg(long, value_name = "ADDR", value_parser = send::parse_address)]
    control: Option<String>,

    #[command(flatten)]
    access: ControlAccess,

    /// Do without the server's own numbers.
    #[arg(long, conflicts_with_all = ["control", "control_ca", "control_token_file"])]
    no_control: bool,

    /// Frames a second, as 10000, or bits, as 80Mbit/s, by the average size of the frames; all connections together.
    #[arg(long, value_name = "RATE", default_value = "80Mbit/s", value_parser = Rate::parse)]
    rate: Rate,

    /// How long.
    #[arg(long, value_name = "DUR", default_value = "60s", value_parser = duration(Duration::from_millis(1)..=DURATION_MAX))]
    duration: Duration,

    /// Connections, which take turns.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    connections: u32,

    /// Time in which the rate grows from nothing, as part of the duration.
    #[arg(long, value_name = "DUR", default_value = "0", value_parser = duration(Duration::ZERO..=DURATION_MAX))]
    ramp: Duration,

    /// Multiply the rate every so often, after the ramp, in the middle of each period: FACTORxLENGTH/PERIOD, as
    /// 10x1s/30s.
    #[arg(long, value_name = "BURST", value_parser = Bursts::parse)]
    burst: Option<Bursts>,

    /// Every Nth frame of a connection is followed by a commit request, which measures latency; 0 for none.
    #[arg(long, value_name = "N", default_value_t = 100)]
    commit_every: u64,

    /// What the frames are like.
    #[arg(long, value_enum, default_value_t)]
    mix: MixName,

    /// Points of an event: N, A..B, log:A..B, normal:MEAN,DEVIATION or exp:MEAN [default: 14, or with --size as many as
    /// fit].
    #[arg(long, value_name = "DIST", value_parser = Distribution::parse, conflicts_with_all = ["mix", "replay"])]
    points: Option<Distribution>,

    /// Bytes of a frame, header included, written as --points; metadata fills what points leave [default: 1000, or with
    /// --points what they take].
    #[arg(long, value_name = "DIST", value_parser = Distribution::parse, conflicts_with_all = ["mix", "replay"])]
    size: Option<Distribution>,

    /// Send the rows of a CSV or NDJSON file, over and over, read as `send` reads it.
    #[arg(long, value_name = "FILE", conflicts_with = "mix")]
    replay: Option<PathBuf>,

    /// Write the result as JSON; `-` is stdout, in place of the table.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Write an HdrHistogram log: an interval a second, values in nanoseconds. Without tag it is due to answer; tag
    /// `uncorrected` is write to answer, tag `late` the sender's own lateness.
    #[arg(long, value_name = "FILE")]
    hdr: Option<PathBuf>,

    /// Write a report with plots over time, as one HTML page.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Show no progress.
    #[arg(long)]
    quiet: bool,

    #[command(flatten)]
    limits: Limits,
}

/// What `--mix` takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum MixName {
    /// Devices that send one shape each: 14 points in 1000 bytes, or --points and --size.
    #[default]
    Device,
    /// 0 to 400 points in 60 bytes to 60 KB, keys in any order, nested unknown keys.
    Irregular,
}

/// Sends, and prints what came of it.
pub fn run(args: &LoadArgs) -> Result<(), Failure> {
    check(args)?;
    let (corpus, mix) = frames(args)?;
    let hdr = args.hdr.as_deref().map(|path| create("--hdr", path)).transpose()?;
    let html = args.html.as_deref().map(|path| create("--html", path)).transpose()?;
    let json = args.json.as_deref().filter(|path| !is_stdout(path)).map(|path| create("--json", path)).transpose()?;
    let control = control(args)?;
    let before = control.as_ref().map(Sample::take).transpose().map_err(|error| {
        let mend = "name the control port with --control, or do without with --no-control";
        Failure::failed(format!("{error}; {mend}"))
    })?;
    let connections = connect(args)?;
    let run = Run {
        schedule: Schedule {
            frames_a_second: args.rate.frames_a_second(corpus.frame_bytes_mean()),
            ramp: args.ramp,
            bursts: args.burst,
            duration: args.duration,
        },
        corpus: &corpus,
        connections,
        control,
        before,
        load: LoadText {
            target: args.target.clone(),
            rate: rate_text(args),
            mix,
            connections: args.connections as usize,
            commit_every: args.commit_every,
        },
        hdr,
        is_quiet: args.quiet,
    };
    let mut outcome = run.run()?;
    outcome.limits = args.limits.judge(&outcome);
    tell(args, &outcome, json, html)
}

/// What the parser of arguments cannot check.
fn check(args: &LoadArgs) -> Result<(), Failure> {
    if args.ramp > args.duration {
        return Err(Failure::usage("--ramp is longer than --duration"));
    }
    if args.no_control
        && let Some(flag) = args.limits.needs_server()
    {
        return Err(Failure::usage(format!("{flag} needs the server's own numbers, and --no-control does without")));
    }
    if args.commit_every == 0 && args.limits.needs_answers() {
        return Err(Failure::usage("--max-p99 needs answers: give --commit-every 1 or more"));
    }
    let needed = u64::from(args.connections) + DESCRIPTORS_BESIDES;
    let allowed = raise_descriptors(needed);
    if needed > allowed {
        return Err(Failure::usage(format!(
            "--connections {} need {needed} descriptors and this process may open {allowed}: ulimit -n {needed}",
            args.connections
        )));
    }
    Ok(())
}

/// The frames, and what to call them.
fn frames(args: &LoadArgs) -> Result<(Corpus, String), Failure> {
    let connections = args.connections as usize;
    let (corpus, name) = match (&args.replay, args.mix) {
        (Some(file), _) => {
            let corpus = Corpus::of(send::read_frames(file, REPLAY_BYTES_MAX)?);
            if corpus.frame_count() == 0 {
                return Err(Failure::usage(format!("--replay: {} has no rows", file.display())));
            }
            (corpus, format!("rows of {}", file.display()))
        }
        (None, MixName::Irregular) => (Corpus::generate(Mix::Irregular, connections), "irregular frames".to_owned()),
        (None, MixName::Device) => {
            let (points, size) = match (args.points, args.size) {
                (None, None) => (Some(Distribution::Fixed(14.0)), Some(Distribution::Fixed(1000.0))),
                given => given,
            };
            (Corpus::generate(Mix::Device { points, size }, connections), "frames of devices".to_owned())
        }
    };
    let text = format!("{name}, {:.0} bytes on average", corpus.frame_bytes_mean());
    Ok((corpus, text))
}

fn control(args: &LoadArgs) -> Result<Option<ControlClient>, Failure> {
    if args.no_control {
        return Ok(None);
    }
    let name = args.target.rsplit_once(':').map_or("", |(name, _)| name);
    let address = args.control.clone().unwrap_or_else(|| format!("{name}:{CONTROL_PORT}"));
    ControlClient::new(&address, &args.access).map(Some)
}

fn connect(args: &LoadArgs) -> Result<Vec<Connection>, Failure> {
    let count = u64::from(args.connections);
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start: {error}")))?;
    let parts = runtime.block_on(connect_all(Arc::from(args.target.as_str()), args.connections as usize))?;
    let deal = |index| Deal { index, connections: count, commit_every: args.commit_every };
    let connections = (0..).zip(parts).map(|(index, (stream, replies))| Connection::new(stream, replies, deal(index)));
    Ok(connections.collect())
}

async fn connect_all(target: Arc<str>, count: usize) -> Result<Vec<(std::net::TcpStream, Replies)>, Failure> {
    let mut parts = Vec::with_capacity(count);
    let mut connecting = JoinSet::new();
    for number in 0..count {
        let target = Arc::clone(&target);
        connecting.spawn(async move { Client::connect(&target, send::CONNECT_TIMEOUT).await });
        if connecting.len() < CONNECTING_MAX && number + 1 < count {
            continue;
        }
        while let Some(connected) = connecting.join_next().await {
            let connected = connected.map_err(|error| Failure::failed(format!("cannot connect: {error}")))?;
            let client = connected.map_err(|error| Failure::failed(error.to_string()))?;
            let taken = client.into_parts().map_err(|error| Failure::failed(format!("cannot connect: {error}")))?;
            parts.push(taken);
        }
    }
    Ok(parts)
}

/// Writes the result, and fails when the run did.
fn tell(args: &LoadArgs, outcome: &Outcome, json: Option<fs::File>, html: Option<fs::File>) -> Result<(), Failure> {
    // A closed stdout is no reason to fail.
    let mut stdout = io::stdout();
    if args.json.as_deref().is_some_and(is_stdout) {
        let _ = writeln!(stdout, "{}", json_text(outcome));
    } else {
        let _ = write!(stdout, "{}", text::table(outcome));
    }
    if let (Some(mut file), Some(path)) = (json, &args.json) {
        writeln!(file, "{}", json_text(outcome)).map_err(|error| unwritable("--json", path, &error))?;
    }
    if let (Some(mut file), Some(path)) = (html, &args.html) {
        file.write_all(report::page(outcome).as_bytes()).map_err(|error| unwritable("--html", path, &error))?;
    }
    let broken = outcome.limits.iter().filter(|verdict| !verdict.is_held);
    let broken = broken.map(|verdict| format!("limit broken: {}: {}", verdict.limit, verdict.measured));
    let failures: Vec<_> = outcome.problems.iter().cloned().chain(broken).collect();
    if failures.is_empty() { Ok(()) } else { Err(Failure::failed(failures.join("\n"))) }
}

fn json_text(outcome: &Outcome) -> String {
    serde_json::to_string_pretty(outcome).expect("numbers and texts can be written as JSON")
}

fn rate_text(args: &LoadArgs) -> String {
    let mut text = match args.rate {
        Rate::Frames(frames) => format!("{frames} frames/s"),
        Rate::Bits(bits) => format!("{} Mbit/s", bits / 1e6),
    };
    if args.ramp > Duration::ZERO {
        text += &format!(", ramp {:?}", args.ramp);
    }
    if let Some(bursts) = args.burst {
        text += &format!(", bursts {bursts}");
    }
    text
}

fn create(flag: &str, path: &Path) -> Result<fs::File, Failure> {
    fs::File::create(path).map_err(|error| unwritable(flag, path, &error))
}

fn unwritable(flag: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::usage(format!("{flag}: cannot write {}: {error}", path.display()))
}

fn is_stdout(path: &Path) -> bool {
    path == Path::new("-")
}

/// Where a server listens by default.
const CONTROL_PORT: u16 = 9600;

/// Connections that are made at a time: few enough for any accept queue.
const CONNECTING_MAX: usize = 64;

/// Files, the timer, the control port.
const DESCRIPTORS_BESIDES: u64 = 32;

/// Frames of a file, which are all kept in memory.
const REPLAY_BYTES_MAX: usize = 256 << 20;
