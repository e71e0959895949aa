//! What a person sees on a terminal while the load runs.

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};

use super::series::Second;

pub(super) struct Progress(ProgressBar);

impl Progress {
    /// A bar, if somebody may be looking.
    pub(super) fn new(is_quiet: bool, duration: Duration) -> Self {
        if is_quiet || !io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new(duration.as_secs());
        Self(match ProgressStyle::with_template("{elapsed} {wide_bar} {eta} left, {msg}") {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        })
    }

    /// Shows the last second.
    pub(super) fn show(&self, series: &[Second], bytes: u64) {
        let Some(second) = series.last().filter(|_| !self.0.is_hidden()) else { return };
        let p99 = second.latency_ms.map_or_else(|| "-".to_owned(), |latency| format!("{:.3} ms", latency.p99));
        self.0.set_position(second.at_seconds as u64);
        self.0.set_message(format!(
            "{:.0} frames/s, {:.1} Mbit/s, p99 {p99}, {} MB sent",
            second.sent_per_second,
            second.mbit_per_second,
            bytes / 1_000_000
        ));
    }

    /// Takes the bar away.
    pub(super) fn finish(&self) {
        self.0.finish_and_clear();
    }
}
