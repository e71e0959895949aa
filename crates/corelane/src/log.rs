//! The log on stderr, and what a panic writes there.

use std::io::IsTerminal;

use crate::config::LogFormat;

/// Sets the log up for the whole process.
pub(crate) fn init(format: Option<LogFormat>) {
    let terminal = std::io::stderr().is_terminal();
    let format = format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json });
    let builder = tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false).with_ansi(terminal);
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        tracing::error!(thread, place, "internal error: {}", panic.payload_as_str().unwrap_or("panic"));
    }));
}
