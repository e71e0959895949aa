//! The server's own numbers, asked of its control port.

use std::{collections::BTreeMap, time::Instant};

use serde::Deserialize;

use crate::control_client::ControlClient;

/// What the server said of itself at one moment.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    /// When the answer came.
    pub(super) at: Instant,
    pub(super) stats: Stats,
}

/// The answer of `/api/v1/stats`, as far as it matters here.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Stats {
    pub(super) uptime_seconds: f64,
    pub(super) totals: Totals,
    pub(super) shards: Vec<Shard>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Totals {
    pub(super) frames_accepted: u64,
    pub(super) frames_rejected: BTreeMap<String, u64>,
    pub(super) connections_accepted: u64,
    pub(super) pool_waits: u64,
    pub(super) process_resident_memory_bytes: f64,
    pub(super) process_cpu_seconds: f64,
}

/// One data core.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Shard {
    pub(super) shard: u64,
    pub(super) frames_accepted: u64,
    pub(super) shard_cpu_seconds: f64,
    pub(super) allocations: u64,
}

impl Sample {
    /// Asks once. The answer has everything that a commit answer told before.
    ///
    /// # Errors
    /// No answer, or one of somebody else.
    pub(super) fn take(control: &ControlClient) -> Result<Self, String> {
        let stats = control.get("/api/v1/stats", &[]).map_err(|error| format!("{}: {error}", control.shown()))?;
        Ok(Self { at: Instant::now(), stats })
    }
}
