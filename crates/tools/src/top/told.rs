//! What the control port answers, as far as it is shown.

use std::collections::BTreeMap;

use serde::Deserialize;

/// `/api/v1/stats`.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Stats {
    pub(super) uptime_seconds: f64,
    pub(super) build: Build,
    pub(super) histogram_bounds_seconds: Vec<f64>,
    pub(super) totals: Totals,
    pub(super) shards: Vec<Shard>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Build {
    pub(super) version: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Totals {
    #[serde(flatten)]
    pub(super) numbers: Numbers,
    pub(super) process_resident_memory_bytes: Option<f64>,
    pub(super) process_cpu_seconds: Option<f64>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Shard {
    pub(super) core: u64,
    pub(super) state: String,
    #[serde(flatten)]
    pub(super) numbers: Numbers,
}

/// Of one shard, or of all together.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Numbers {
    pub(super) frames_accepted: u64,
    pub(super) frames_rejected: BTreeMap<String, u64>,
    pub(super) points: u64,
    pub(super) received_bytes: u64,
    pub(super) connections: u64,
    pub(super) series: u64,
    pub(super) security_events: BTreeMap<String, u64>,
    pub(super) pool_utilization_ratio: f64,
    pub(super) ingest_backlog_bytes: u64,
    pub(super) ingest_latency_seconds: Histogram,
    pub(super) loop_stall_seconds: Histogram,
    pub(super) telemetry_samples: u64,
    pub(super) telemetry_samples_dropped: u64,
    pub(super) allocations: u64,
    pub(super) shard_cpu_seconds: f64,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Histogram {
    /// Observations of each bucket since the start, not cumulative.
    pub(super) buckets: Vec<u64>,
}

/// `/api/v1/sensors`.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Sensors {
    pub(super) sensors: Vec<Sensor>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Sensor {
    pub(super) id: String,
    pub(super) sensor: String,
    pub(super) count: u64,
    pub(super) last: f64,
    /// Nanoseconds since the Unix epoch.
    pub(super) last_timestamp: u64,
}

/// `/api/v1/events`, newest first.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Events {
    pub(super) events: Vec<SecurityEvent>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct SecurityEvent {
    pub(super) time_unix_nanos: i128,
    pub(super) kind: String,
    pub(super) peer: String,
    pub(super) detail: String,
}

impl Numbers {
    /// Refused frames, for any reason.
    pub(super) fn rejected(&self) -> u64 {
        self.frames_rejected.values().sum()
    }
}
