//! `/api/v1/stats`: every counter of the server.
//!
//! A number has the name of its metric without `corelane_` and `_total`, and the meaning that `docs/metrics.md` gives.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, Serializer};

/// The answer of `/api/v1/stats`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Stats {
    /// Which program it is.
    pub build: Build,
    /// What it runs with.
    #[serde(default)]
    pub configuration: Vec<Setting>,
    /// Bounds of the histograms' buckets; the last bucket has none.
    pub histogram_bounds_seconds: Vec<f64>,
    /// In the order of their numbers.
    pub shards: Vec<Shard>,
    /// Added up over the shards, and those of the process.
    pub totals: Totals,
    /// Time since the start of the control plane.
    pub uptime_seconds: f64,
}

/// Version and source revision.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Build {
    /// Of the source, from git.
    pub revision: String,
    /// Of the release.
    pub version: String,
}

/// One setting in use.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Setting {
    /// Key in the configuration file.
    pub key: String,
    /// Where it comes from: `default`, `flag`, `environment` or `file`.
    pub source: String,
    /// As the file would have it; `None` where nothing is set.
    pub value: Option<String>,
}

/// One shard.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Shard {
    /// The core that it runs on.
    pub core: u64,
    /// Its number.
    pub shard: u64,
    /// `starting`, `accepting`, `draining` or `stopped`.
    pub state: String,
    /// What it counted.
    #[serde(flatten)]
    pub numbers: Numbers,
}

/// All shards together, and the process. A number of the process that it cannot find out is left out.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
#[expect(missing_docs, reason = "docs/metrics.md describes each metric")]
pub struct Totals {
    #[serde(flatten)]
    pub numbers: Numbers,
    #[serde(serialize_with = "whole", skip_serializing_if = "Option::is_none")]
    pub control_unauthorized: Option<f64>,
    #[serde(serialize_with = "whole", skip_serializing_if = "Option::is_none")]
    pub log_lines_dropped: Option<f64>,
    #[serde(serialize_with = "whole", skip_serializing_if = "Option::is_none")]
    pub memory_allocated_bytes: Option<f64>,
    #[serde(serialize_with = "whole", skip_serializing_if = "Option::is_none")]
    pub memory_resident_bytes: Option<f64>,
    #[serde(serialize_with = "whole", skip_serializing_if = "Option::is_none")]
    pub process_cpu_seconds: Option<f64>,
    #[serde(serialize_with = "whole", skip_serializing_if = "Option::is_none")]
    pub process_max_fds: Option<f64>,
    #[serde(serialize_with = "whole", skip_serializing_if = "Option::is_none")]
    pub process_open_fds: Option<f64>,
    #[serde(serialize_with = "whole", skip_serializing_if = "Option::is_none")]
    pub process_resident_memory_bytes: Option<f64>,
    #[serde(serialize_with = "whole", skip_serializing_if = "Option::is_none")]
    pub process_start_time_seconds: Option<f64>,
    #[serde(serialize_with = "whole", skip_serializing_if = "Option::is_none")]
    pub tls_certificate_expiry_timestamp_seconds: Option<f64>,
}

/// Of one shard, or of all together. Those by a label are maps by its value.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
#[expect(missing_docs, reason = "docs/metrics.md describes each metric")]
pub struct Numbers {
    pub allocated_bytes: u64,
    pub allocations: u64,
    pub connections: u64,
    pub connections_accepted: u64,
    pub connections_closed: BTreeMap<String, u64>,
    pub frames_accepted: u64,
    pub frames_rejected: BTreeMap<String, u64>,
    pub ingest_backlog_bytes: u64,
    pub ingest_latency_seconds: Histogram,
    pub loop_stall_seconds: Histogram,
    pub points: u64,
    pub pool_buffers: PoolBuffers,
    pub pool_short: u64,
    /// Of several shards the highest.
    pub pool_utilization_ratio: f64,
    pub pool_waits: u64,
    pub received_bytes: u64,
    pub security_events: BTreeMap<String, u64>,
    pub series: u64,
    pub series_evicted: u64,
    pub shard_cpu_seconds: f64,
    pub telemetry_samples: u64,
    pub telemetry_samples_dropped: u64,
}

impl Numbers {
    /// Rejected frames, for any reason.
    pub fn rejected(&self) -> u64 {
        self.frames_rejected.values().sum()
    }
}

/// Receive buffers by state.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct PoolBuffers {
    /// Also those that are empty and lent to the kernel.
    pub free: u64,
    /// Those that hold unread or kept bytes.
    pub in_use: u64,
}

/// Observations by bucket, from which a reader can take the quantiles of any interval between two answers.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Histogram {
    /// Observations of each bucket since the start, not cumulative.
    pub buckets: Vec<u64>,
    /// Observations since the start.
    pub count: u64,
    /// The bound in seconds of the bucket that the median falls into; `None` without observations and beyond the last
    /// bound.
    pub p50: Option<f64>,
    /// The same of 99 %.
    pub p99: Option<f64>,
    /// The same of 99.9 %.
    pub p999: Option<f64>,
    /// Sum of all observations in seconds.
    pub sum: f64,
}

/// Writes a number without a decimal point if it has no fraction.
fn whole<S: Serializer>(number: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    match *number {
        Some(number) if number.fract() == 0.0 && number.abs() < 9e15 => serializer.serialize_i64(number as i64),
        number => number.serialize(serializer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_the_process_have_a_decimal_point_only_when_they_need_one() {
        let totals = Totals {
            process_cpu_seconds: Some(1.25),
            process_open_fds: Some(12.0),
            process_max_fds: Some(1e19),
            ..Totals::default()
        };
        let text = serde_json::to_string(&totals).unwrap();
        let (_, process) = text.split_once(r#""telemetry_samples_dropped":0,"#).unwrap();
        assert_eq!(process, r#""process_cpu_seconds":1.25,"process_max_fds":1e+19,"process_open_fds":12}"#);
    }

    #[test]
    fn a_server_of_another_version_is_understood() {
        let text = r#"{ "build": { "revision": "abc", "version": "9" }, "histogram_bounds_seconds": [], "new": {},
            "shards": [{ "shard": 0, "core": 1, "state": "accepting", "points": 7 }],
            "totals": { "points": 7, "process_open_fds": 12 }, "uptime_seconds": 1.5 }"#;
        let stats: Stats = serde_json::from_str(text).unwrap();
        assert_eq!((stats.shards[0].numbers.points, stats.totals.numbers.points), (7, 7));
        assert_eq!((stats.totals.process_open_fds, stats.totals.process_max_fds), (Some(12.0), None));
    }
}
