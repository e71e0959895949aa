//! A run, second by second: the sender in a thread of its own, the server's numbers beside it.

use std::{
    fs, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use corelane_api::Stats;
use corelane_command::Failure;
use rustix::time::{ClockId, clock_gettime};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::{
    connection::Connection,
    corpus::Corpus,
    interval_log::IntervalLog,
    measured::{Interval, Times},
    outcome::{Frames, LoadText, Outcome, ServerOutcome, cores_between},
    progress::Progress,
    sample::Sample,
    schedule::Schedule,
    sender::{Sender, Sent},
    series::{Percentiles, Second},
};
use crate::control_client::ControlClient;

/// All that a run needs.
pub(super) struct Run<'a> {
    pub(super) schedule: Schedule,
    pub(super) corpus: &'a Corpus,
    pub(super) connections: Vec<Connection>,
    pub(super) control: Option<ControlClient>,
    /// Taken before the first connection was made.
    pub(super) before: Option<Sample>,
    pub(super) load: LoadText,
    pub(super) hdr: Option<fs::File>,
    pub(super) is_quiet: bool,
}

/// What is gathered while it runs.
struct Watch {
    control: Option<ControlClient>,
    start: Instant,
    times: Times,
    bytes: u64,
    series: Vec<Second>,
    /// Of the server, by seconds from the start.
    samples: Vec<(f64, Stats)>,
    /// Why the last sample that failed did, and how many did.
    failed: Option<(String, u64)>,
}

impl Run<'_> {
    /// Runs to the end.
    ///
    /// # Errors
    /// What this host refuses. What the server does wrong is in the outcome.
    pub(super) fn run(self) -> Result<Outcome, Failure> {
        let stop = stop_flag().map_err(|error| Failure::failed(format!("cannot listen for Ctrl-C: {error}")))?;
        let started_at = SystemTime::now();
        let mut log =
            IntervalLog::begin(self.hdr, started_at).map_err(|error| Failure::failed(format!("--hdr: {error}")))?;
        let progress = Progress::new(self.is_quiet, self.schedule.duration);
        let mut watch = Watch {
            control: self.control,
            start: Instant::now(),
            times: Times::new(),
            bytes: 0,
            series: Vec::new(),
            samples: Vec::new(),
            failed: None,
        };
        watch.sample();
        let (intervals, received) = mpsc::channel();
        let connections = self.connections;
        let (corpus, schedule, stop_sending) = (self.corpus, self.schedule, &*stop);
        let cpu_before = cpu_time();
        watch.start = Instant::now();
        let sent = thread::scope(|scope| {
            let sender = Sender { connections, corpus, schedule, stop: stop_sending, intervals };
            let sending = thread::Builder::new().name("load-sender".to_owned()).spawn_scoped(scope, || sender.run())?;
            for interval in received {
                log.write(&interval)?;
                watch.take(&interval);
                progress.show(&watch.series, watch.bytes);
            }
            sending.join().expect("the sender does not panic")
        });
        progress.finish();
        let sent = sent.map_err(|error| Failure::failed(format!("the load ended early: {error}")))?;
        let cpu_percent = (cpu_time() - cpu_before).as_secs_f64() / watch.start.elapsed().as_secs_f64() * 100.0;
        Ok(watch.outcome(
            &sent,
            Told {
                load: self.load,
                before: self.before,
                ramp: self.schedule.ramp,
                started_at,
                is_interrupted: stop.load(Ordering::Relaxed),
                cpu_percent,
            },
        ))
    }
}

/// What the outcome says besides what was measured.
struct Told {
    load: LoadText,
    before: Option<Sample>,
    ramp: Duration,
    started_at: SystemTime,
    is_interrupted: bool,
    cpu_percent: f64,
}

impl Watch {
    fn sample(&mut self) {
        match self.control.as_ref().map(Sample::take) {
            Some(Ok(sample)) => {
                let at = sample.at.saturating_duration_since(self.start).as_secs_f64();
                self.samples.push((at, sample.stats));
            }
            Some(Err(error)) => {
                let count = self.failed.as_ref().map_or(0, |(_, count)| *count);
                self.failed = Some((error, count + 1));
            }
            None => (),
        }
    }

    fn take(&mut self, interval: &Interval) {
        self.times.add(&interval.times);
        self.bytes += interval.bytes;
        let known = self.samples.len();
        self.sample();
        let new = (self.samples.len() > known).then(|| self.samples.last()).flatten();
        let seconds = interval.length.as_secs_f64();
        // A rest that is shorter tells nothing by the second.
        if interval.length < Duration::from_millis(500) {
            return;
        }
        self.series.push(Second {
            at_seconds: (interval.start + interval.length).as_secs_f64(),
            sent_per_second: interval.sent as f64 / seconds,
            mbit_per_second: interval.bytes as f64 * 8e-6 / seconds,
            latency_ms: Percentiles::of(&interval.times.from_due),
            late_max_ms: interval.times.late.max() as f64 / 1e6,
            resident_bytes: new.and_then(|(_, stats)| stats.totals.process_resident_memory_bytes),
            cores: match (new, self.samples.get(known.wrapping_sub(1))) {
                (Some(new), Some(previous)) => cores_between(previous, new),
                _ => Vec::new(),
            },
        });
    }

    fn outcome(self, sent: &Sent, told: Told) -> Outcome {
        let seconds = sent.elapsed.as_secs_f64();
        let frames = account(&sent.connections);
        let steady = (told.ramp.as_secs_f64().min(seconds), seconds);
        let server = told.before.as_ref().and_then(|before| ServerOutcome::of(before, &self.samples, steady));
        let mut problems = connection_problems(&sent.connections);
        problems
            .extend(self.failed.map(|(error, count)| format!("{count} of the server's samples are missing: {error}")));
        if let (Some(server), Some(before)) = (&server, &told.before) {
            let has_restarted =
                self.samples.last().is_some_and(|(_, stats)| stats.uptime_seconds < before.stats.uptime_seconds);
            problems.extend(mismatch(&frames, server, told.load.connections as u64, has_restarted));
        }
        let per_second = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        Outcome {
            version: env!("CARGO_PKG_VERSION"),
            started_at: told.started_at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
            load: told.load,
            seconds,
            is_interrupted: told.is_interrupted,
            frames,
            bytes_sent: self.bytes,
            frames_per_second: per_second(frames.sent),
            mbit_per_second: per_second(self.bytes) * 8e-6,
            latency_ms: Percentiles::of(&self.times.from_due),
            latency_uncorrected_ms: Percentiles::of(&self.times.from_write),
            sender_late_ms: Percentiles::of(&self.times.late),
            sender_cpu_percent: told.cpu_percent,
            server,
            limits: Vec::new(),
            problems,
            series: self.series,
        }
    }
}

fn account(connections: &[Connection]) -> Frames {
    let mut frames = Frames::default();
    for connection in connections {
        let answer = connection.answer();
        frames.scheduled += connection.scheduled();
        frames.sent += connection.sent();
        frames.accepted += answer.committed;
        frames.rejected += answer.rejected;
    }
    frames.unsent = frames.scheduled - frames.sent;
    frames.lost = frames.sent.saturating_sub(frames.accepted + frames.rejected);
    frames
}

/// Connections that ended early, and answers that never came.
fn connection_problems(connections: &[Connection]) -> Vec<String> {
    let mut problems = Vec::new();
    let ended = || connections.iter().filter_map(Connection::ended);
    if let Some(why) = ended().next() {
        problems.push(format!(
            "{} of {} connections ended early, the first: {why}",
            ended().count(),
            connections.len()
        ));
    }
    let waiting = connections.iter().filter(|connection| connection.ended().is_none());
    let unanswered: u64 = waiting.map(Connection::unanswered).sum();
    if unanswered > 0 {
        problems.push(format!("{unanswered} commit requests were not answered in time"));
    }
    problems
}

/// How the server's counters differ from what was sent and answered.
fn mismatch(frames: &Frames, server: &ServerOutcome, connections: u64, has_restarted: bool) -> Option<String> {
    if has_restarted {
        return Some("the server was started anew meanwhile: its counters tell nothing".to_owned());
    }
    let rejected: u64 = server.frames_rejected.values().sum();
    if (server.frames_accepted, rejected) == (frames.accepted, frames.rejected) {
        return None;
    }
    let mut text = format!(
        "both sides counted differently: the server accepted {} and rejected {rejected}, it answered for {} and {}",
        server.frames_accepted, frames.accepted, frames.rejected
    );
    let others = server.connections_accepted.saturating_sub(connections);
    if others > 0 {
        text += &format!("; {others} connections of others came meanwhile");
    } else if server.frames_accepted + rejected > frames.sent {
        text += "; others send to this server, too";
    }
    Some(text)
}

/// Set by the first SIGINT or SIGTERM; a second ends the process.
fn stop_flag() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&stop))?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
