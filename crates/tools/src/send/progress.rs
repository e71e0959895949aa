//! What a person sees while files are sent: a bar on a terminal, and warnings. All of it on stderr.

use std::io::{self, IsTerminal, Write};

use indicatif::{ProgressBar, ProgressStyle};

/// Shared by all transfers.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
    is_quiet: bool,
}

impl Progress {
    /// Without a bar so far.
    pub(super) fn new(is_quiet: bool) -> Self {
        Self { bar: ProgressBar::hidden(), is_quiet }
    }

    /// Shows a bar if somebody may be looking; `bytes_total` is unknown when a pipe is read.
    pub(super) fn start(&mut self, bytes_total: Option<u64>) {
        if self.is_quiet || !io::stderr().is_terminal() {
            return;
        }
        let (bar, template) = match bytes_total {
            Some(bytes) => (ProgressBar::new(bytes), "{bytes} of {total_bytes} {wide_bar} {bytes_per_sec}, {eta} left"),
            None => (ProgressBar::no_length(), "{spinner} {bytes} in {elapsed}, {bytes_per_sec}"),
        };
        self.bar = match ProgressStyle::with_template(template) {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        };
    }

    /// Counts bytes that were read.
    pub(super) fn add(&self, bytes: usize) {
        self.bar.inc(bytes as u64);
    }

    /// Tells what does not stop the sending.
    pub(super) fn warn(&self, text: &str) {
        if !self.is_quiet {
            // Nobody may read stderr; that does not stop the sending either.
            self.bar.suspend(|| drop(writeln!(io::stderr(), "warning: {text}")));
        }
    }

    /// Takes the bar away.
    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
