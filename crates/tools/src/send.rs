//! `corelane send`: CSV and NDJSON to events, one a row, over one connection a file.
//!
//! Every file is opened and its header understood before the first connection is made. In reading order: `input` opens,
//! `csv` and `ndjson` read rows, `time` their times, `feed` makes batches of frames of them, `pace` slows them down,
//! `transfer` brings them to the server, `progress` shows it. `host` sends this machine's own telemetry instead.

mod csv;
mod feed;
mod host;
mod input;
mod ndjson;
mod pace;
mod progress;
mod time;
mod transfer;

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use corelane_client::Client;
use corelane_command::Failure;
use tokio::{runtime, task::JoinSet};

pub(crate) use self::transfer::CONNECT_TIMEOUT;
use self::{
    csv::{CsvOptions, Layout},
    feed::{RowError, check_name},
    host::HostOptions,
    input::Input,
    pace::{Pacer, parse_rate},
    progress::Progress,
    time::TimeFormat,
    transfer::{Format, Outcome, Source},
};

/// Send records from CSV or NDJSON files as events.
#[derive(clap::Args, Debug)]
pub struct SendArgs {
    /// Files to send, each over its own connection; `-` is stdin.
    #[arg(value_name = "FILE", required_unless_present = "host")]
    files: Vec<PathBuf>,

    /// Data port of the server, as `host:7600`.
    #[arg(long, value_name = "ADDR", value_parser = parse_address)]
    to: String,

    /// Source id of the events [default: the file's name without ending; with --host, the host's name].
    #[arg(long, conflicts_with = "id_column")]
    id: Option<String>,

    /// Column that holds the source id of each row.
    #[arg(long, value_name = "COLUMN")]
    id_column: Option<String>,

    /// Column that holds the time [default: found by its name, or by its cells].
    #[arg(long, value_name = "COLUMN")]
    time_column: Option<String>,

    /// Column that is not to be sent; repeatable.
    #[arg(long, value_name = "COLUMN")]
    ignore_column: Vec<String>,

    /// One character between cells, or `tab` [default: found among , ; tab |].
    #[arg(long, value_name = "CHAR", value_parser = parse_delimiter)]
    delimiter: Option<u8>,

    /// How times are written; those without a zone are UTC.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    time_format: TimeFormat,

    /// Format of the files [default: by their ending, else by their first byte].
    #[arg(long, value_enum)]
    format: Option<FormatName>,

    /// Send at most N events a second, all files together.
    #[arg(long, value_name = "N", value_parser = parse_rate)]
    rate: Option<f64>,

    /// Send this machine's CPU, memory, disk and network once an interval, until Ctrl-C.
    #[arg(long, conflicts_with_all = ["files", "id_column", "time_column", "ignore_column", "delimiter", "time_format", "format", "rate"])]
    host: bool,

    /// With --host: time between two events.
    #[arg(long, value_name = "DUR", default_value = "1s", value_parser = parse_interval,
        requires = "host", conflicts_with = "files")]
    interval: Duration,

    /// With --host: end after N events.
    #[arg(long, value_name = "N", requires = "host", conflicts_with = "files")]
    count: Option<u64>,

    /// Print no progress and no warnings.
    #[arg(long)]
    quiet: bool,
}

/// What `--format` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum FormatName {
    Csv,
    Ndjson,
}

/// Sends, and prints what became of it.
pub fn run(args: SendArgs) -> Result<(), Failure> {
    let mut progress = Progress::new(args.quiet);
    let sources = open_all(&args, &progress)?;
    let from = match sources.len() {
        _ if args.host => "this host".to_owned(),
        1 => "1 file".to_owned(),
        count => format!("{count} files"),
    };
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start: {error}")))?;
    let started = Instant::now();
    let outcome = if args.host {
        runtime.block_on(send_host(&args))
    } else {
        progress.start(sources.iter().map(|source| source.input.bytes).sum());
        let outcome = runtime.block_on(send_all(&args, sources, &progress));
        progress.finish();
        outcome
    };
    // Not dropped: that waits for readers, and one may wait for a pipe.
    runtime.shutdown_background();
    report(&outcome, &from, started.elapsed())
}

/// Opens every file and finds its layout; nothing is sent unless all of them can be read.
fn open_all(args: &SendArgs, progress: &Progress) -> Result<Vec<Source>, Failure> {
    if args.files.iter().filter(|path| is_stdin(path)).count() > 1 {
        return Err(Failure::usage("`-` is named twice: stdin can be read once"));
    }
    let (options, id) = (csv_options(args), args.id.as_deref());
    let open = |path: &PathBuf| open(path, args.format, id, &options, progress);
    let sources = args.files.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let has_csv = sources.iter().any(|source| matches!(source.format, Format::Csv(_)));
    let has_csv_flags = args.id_column.is_some()
        || args.time_column.is_some()
        || args.delimiter.is_some()
        || !args.ignore_column.is_empty()
        || args.time_format != TimeFormat::Auto;
    if !has_csv && has_csv_flags {
        return Err(Failure::usage(
            "--id-column, --time-column, --ignore-column, --delimiter and --time-format are for CSV, and no file is CSV",
        ));
    }
    Ok(sources)
}

fn open(
    path: &Path,
    format: Option<FormatName>,
    id: Option<&str>,
    options: &CsvOptions,
    progress: &Progress,
) -> Result<Source, Failure> {
    let input = Input::open(path).map_err(Failure::usage)?;
    let named = |text: String| Failure::usage(format!("{}: {text}; nothing was sent", input.name));
    let format = match format.unwrap_or_else(|| format_of(path, &input)) {
        FormatName::Ndjson => {
            if let Some(id) = id {
                check_name("--id", id).map_err(named)?;
            }
            Format::Ndjson { id: id.map(str::to_owned) }
        }
        FormatName::Csv => {
            let id = match (id, &options.id_column) {
                (Some(id), _) => id.to_owned(),
                (None, Some(_)) => String::new(),
                (None, None) if is_stdin(path) => {
                    return Err(Failure::usage("stdin has no name to take the id from: give --id or --id-column"));
                }
                (None, None) => path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            };
            if options.id_column.is_none() {
                check_name("the id", &id).map_err(|text| named(format!("{text}: give another with --id")))?;
            }
            let layout =
                Layout::find(options, &id, input.lines(), input.is_whole).map_err(|RowError { line, text }| {
                    Failure::usage(format!("{}:{line}: {text}; nothing was sent", input.name))
                })?;
            warn_of_text_columns(progress, &input.name, &layout);
            Format::Csv(layout)
        }
    };
    Ok(Source { input, format })
}

fn csv_options(args: &SendArgs) -> CsvOptions {
    CsvOptions {
        id_column: args.id_column.clone(),
        time_column: args.time_column.clone(),
        ignored_columns: args.ignore_column.clone(),
        delimiter: args.delimiter,
        time_format: args.time_format,
    }
}

fn warn_of_text_columns(progress: &Progress, name: &str, layout: &Layout) {
    let columns: Vec<_> = layout.text_columns().collect();
    if !columns.is_empty() {
        let columns = columns.join(", ");
        progress.warn(&format!(
            "{name}: columns that hold no numbers are not sent: {columns} (--id-column takes the id from one)"
        ));
    }
}

fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

/// By the ending, else by the first byte: an event in JSON begins with a brace.
fn format_of(path: &Path, input: &Input) -> FormatName {
    let ending = path.extension().unwrap_or_default().to_ascii_lowercase();
    match ending.to_str() {
        Some("csv" | "tsv") => FormatName::Csv,
        Some("ndjson" | "jsonl") => FormatName::Ndjson,
        _ if input.lines().trim_ascii_start().starts_with(b"{") => FormatName::Ndjson,
        _ => FormatName::Csv,
    }
}

async fn send_all(args: &SendArgs, sources: Vec<Source>, progress: &Progress) -> Outcome {
    let pacer = args.rate.map(|rate| Arc::new(Pacer::new(rate)));
    let mut total = Outcome::default();
    let mut transfers = JoinSet::new();
    for source in sources {
        if transfers.len() == CONNECTIONS_MAX {
            add_next(&mut transfers, &mut total).await;
        }
        let (address, pacer, progress) = (args.to.clone(), pacer.clone(), progress.clone());
        transfers.spawn(async move { transfer::send(source, &address, pacer, progress).await });
    }
    while !transfers.is_empty() {
        add_next(&mut transfers, &mut total).await;
    }
    total
}

async fn add_next(transfers: &mut JoinSet<Outcome>, total: &mut Outcome) {
    match transfers.join_next().await {
        Some(Ok(outcome)) => total.add(outcome),
        Some(Err(error)) => total.errors.push(format!("a transfer failed: {error}")),
        None => (),
    }
}

async fn send_host(args: &SendArgs) -> Outcome {
    let options = HostOptions { id: args.id.clone(), interval: args.interval, count: args.count };
    match Client::connect(&args.to, CONNECT_TIMEOUT).await {
        Ok(client) => host::stream(client, &options).await,
        Err(error) => Outcome { errors: vec![error.to_string()], ..Outcome::default() },
    }
}

/// All frames that `corelane send` would make of a file.
///
/// # Errors
/// What keeps it from being sent as a whole, or more than `bytes_max` bytes of frames.
pub(crate) fn read_frames(path: &Path, bytes_max: usize) -> Result<Vec<u8>, Failure> {
    let source = open(path, None, None, &CsvOptions::default(), &Progress::new(false))?;
    let name = source.input.name.clone();
    transfer::read_all(source, bytes_max).map_err(|text| Failure::usage(format!("{name}:{text}")))
}

/// Prints the summary; an error unless the server accepted everything.
fn report(outcome: &Outcome, from: &str, elapsed: Duration) -> Result<(), Failure> {
    // A closed stdout is no reason to fail: the data has arrived.
    let _ = writeln!(io::stdout(), "{}", summary(outcome, from, elapsed));
    let mut errors = outcome.errors.clone();
    if outcome.rejected > 0 {
        errors.push(format!(
            "the server rejected {} of {} events; corelane_frames_rejected_total on its control port tells the reasons",
            outcome.rejected, outcome.events
        ));
    }
    if errors.is_empty() { Ok(()) } else { Err(Failure::failed(errors.join("\n"))) }
}

fn summary(outcome: &Outcome, from: &str, elapsed: Duration) -> String {
    let Outcome { events, points, empty_cells, committed, rejected, .. } = outcome;
    let seconds = elapsed.as_secs_f64();
    format!(
        "sent {events} events ({points} points) from {from} in {seconds:.1} s: {committed} committed, {rejected} \
         rejected, {empty_cells} empty cells skipped"
    )
}

/// A name or an IP address, and a port. Names are resolved when the connection is made.
pub(crate) fn parse_address(text: &str) -> Result<String, String> {
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    if host.is_empty() || !port.parse::<u16>().is_ok_and(|port| port > 0) {
        return Err("host:port is wanted, as 127.0.0.1:7600".to_owned());
    }
    Ok(text.to_owned())
}

fn parse_delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        _ if text == "tab" || text == "\\t" => Ok(b'\t'),
        [byte] if !matches!(byte, b'"' | b'\n' | b'\r') => Ok(*byte),
        _ => Err("one ASCII character is wanted, or `tab`".to_owned()),
    }
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    let wanted = || "a time as 1s or 500ms is wanted, from 10ms to 1d".to_owned();
    let interval: jiff::SignedDuration = text.parse().map_err(|_| wanted())?;
    let interval = Duration::try_from(interval).map_err(|_| wanted())?;
    if (INTERVAL_MIN..=INTERVAL_MAX).contains(&interval) { Ok(interval) } else { Err(wanted()) }
}

/// Files that are sent at a time: enough to keep every shard busy, and few threads and descriptors.
const CONNECTIONS_MAX: usize = 64;

/// A shorter interval holds no tick of the kernel's CPU times.
const INTERVAL_MIN: Duration = Duration::from_millis(10);
const INTERVAL_MAX: Duration = Duration::from_secs(24 * 3600);

#[cfg(test)]
mod tests;
