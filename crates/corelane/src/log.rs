//! The log on stderr: a thread that logs puts a line into a bounded queue, and one thread writes.
//!
//! In reading order: here the subscriber of `tracing`, the panic hook and the end; `line` turns a record into one line
//! of bounded length; `writer` queues the lines and writes them. Nobody but the writer's thread waits for stderr, and no
//! error of stderr ends anything: a line that cannot be queued or written is dropped and counted.

mod line;
mod writer;

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use corelane_command::Failure;
use signal_hook::consts::SIGXFSZ;
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use self::line::Line;
pub(crate) use self::writer::BYTES_MAX;
use self::writer::Writer;
use crate::config::LogFormat;

/// How long the end of the process waits for queued lines. A stderr that works takes them in well under 1 ms; one that
/// is stuck must not delay a stop by more than this.
pub(crate) const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The same at a second signal, which asks for an end at once.
pub(crate) const LAST_FLUSH_TIMEOUT: Duration = Duration::from_millis(100);

static WRITER: OnceLock<Writer> = OnceLock::new();

/// How a line is written.
#[derive(Clone, Copy, Debug)]
struct Style {
    format: LogFormat,
    /// Whether the level of a text line is coloured.
    colour: bool,
}

/// Sets up the log for the whole process.
///
/// # Errors
/// When the thread that writes cannot be started.
pub(crate) fn init(format: Option<LogFormat>) -> Result<(), Failure> {
    let terminal = io::stderr().is_terminal();
    let format = format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json });
    let style = Style { format, colour: terminal };
    // Beyond RLIMIT_FSIZE a write to a file would end the process; with a handler it fails with EFBIG.
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)));
    let writer = Writer::start(writer::Stderr, style)
        .map_err(|error| Failure::failed(format!("cannot start the log thread: {error}; {}", Failure::MORE_THREADS)))?;
    if WRITER.set(writer).is_ok() {
        // Fails only when there is a subscriber already.
        let _ = tracing::subscriber::set_global_default(Log { style });
    }
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        tracing::error!(thread, place, "internal error: {}", panic.payload_as_str().unwrap_or("panic"));
    }));
    Ok(())
}

/// Lines dropped so far: for want of room in the queue, by the limit of lines a second, or because stderr failed.
pub(crate) fn lines_dropped() -> u64 {
    WRITER.get().map_or(0, Writer::dropped)
}

/// Waits until every line queued so far is written or dropped, for at most `timeout`.
pub(crate) fn flush(timeout: Duration) {
    if let Some(writer) = WRITER.get() {
        writer.flush(timeout);
    }
}

/// Prints the error that a command ends with. Through the queue if there is one, so that a stuck stderr does not keep the
/// process from ending.
pub(crate) fn print_error(failure: &Failure) {
    let line = format!("error: {failure}\n");
    match WRITER.get() {
        Some(writer) => writer.put_always(line),
        // Nobody may read stderr, and the exit code reports the failure, too.
        None => drop(io::stderr().write_all(line.as_bytes())),
    }
}

/// Takes the records of this program. Those of other crates are left out: a peer causes most of them (TLS warnings, before
/// it has shown who it is), and what an operator must know is logged here.
struct Log {
    style: Style,
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= Level::INFO && is_own(metadata.target())
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::INFO)
    }

    fn event(&self, event: &Event<'_>) {
        if let Some(writer) = WRITER.get() {
            writer.put(|| Line::of(event, self.style));
        }
    }

    // There are no spans: `enabled` refuses them.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Whether a record is of one of the crates of this program: `corelane` itself or `corelane_NAME`.
fn is_own(target: &str) -> bool {
    let crate_name = target.split("::").next().unwrap_or_default();
    crate_name == "corelane" || crate_name.starts_with("corelane_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_records_of_this_program_pass() {
        for own in ["corelane", "corelane::serve", "corelane_control::events"] {
            assert!(is_own(own), "{own}");
        }
        for foreign in ["rustls::msgs::handshake", "glommio", "corelanes", "tokio::corelane", ""] {
            assert!(!is_own(foreign), "{foreign}");
        }
    }
}
