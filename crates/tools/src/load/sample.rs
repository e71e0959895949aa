//! The server's own numbers, asked of its control port.

use std::time::Instant;

use corelane_api::Stats;

use crate::control_client::ControlClient;

/// What the server said of itself at one moment.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    /// When the answer came.
    pub(super) at: Instant,
    pub(super) stats: Stats,
}

impl Sample {
    /// Asks once. The answer has everything that a commit answer told before.
    ///
    /// # Errors
    /// No answer, or one of somebody else.
    pub(super) fn take(control: &ControlClient) -> Result<Self, String> {
        let stats: Stats =
            control.get("/api/v1/stats", &[]).map_err(|error| format!("{}: {error}", control.shown()))?;
        let totals = &stats.totals;
        if totals.process_resident_memory_bytes.is_none() || totals.process_cpu_seconds.is_none() {
            return Err(format!("{}: the server reports neither its memory nor its CPU time", control.shown()));
        }
        Ok(Self { at: Instant::now(), stats })
    }
}
