//! Limits that a run has to keep, and whether it did.

use std::time::Duration;

use bytesize::ByteSize;
use corelane_command::{duration, size};
use serde::Serialize;

use super::outcome::Outcome;

/// What makes the command fail when it is broken.
#[derive(clap::Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Limits (exit code 1 when one is broken)")]
pub(super) struct Limits {
    /// Highest p99 of the time from due to answer.
    #[arg(long, value_name = "DUR", value_parser = duration(Duration::from_nanos(1)..=Duration::from_secs(3600)))]
    max_p99: Option<Duration>,

    /// Frames that may be lost: sent, and in no answer.
    #[arg(long, value_name = "N")]
    max_loss: Option<u64>,

    /// Frames that the server may reject.
    #[arg(long, value_name = "N")]
    max_rejected: Option<u64>,

    /// Highest resident memory of the server, as 140MB.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    max_rss: Option<u64>,

    /// Most that its resident memory may grow in an hour, by the line through the second half.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    max_rss_slope: Option<u64>,

    /// Most heap allocations a second of a data core, on average.
    #[arg(long, value_name = "N")]
    max_allocs_per_second: Option<f64>,

    /// How many points a data core's CPU may be off its mean in any window of 30 s.
    #[arg(long, value_name = "POINTS")]
    max_cpu_spread: Option<f64>,
}

/// One limit, and what it was held against.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Verdict {
    pub(super) limit: String,
    pub(super) measured: String,
    pub(super) is_held: bool,
}

impl Limits {
    /// The first limit that only the server's own numbers can be held against.
    pub(super) fn needs_server(&self) -> Option<&'static str> {
        [
            ("--max-rss", self.max_rss.is_some()),
            ("--max-rss-slope", self.max_rss_slope.is_some()),
            ("--max-allocs-per-second", self.max_allocs_per_second.is_some()),
            ("--max-cpu-spread", self.max_cpu_spread.is_some()),
        ]
        .into_iter()
        .find_map(|(flag, is_given)| is_given.then_some(flag))
    }

    /// Whether latency has a limit.
    pub(super) fn needs_answers(&self) -> bool {
        self.max_p99.is_some()
    }

    /// Holds the limits against a run. What could not be measured breaks its limit.
    pub(super) fn judge(&self, outcome: &Outcome) -> Vec<Verdict> {
        let server = outcome.server.as_ref();
        let highest =
            |of: fn(&super::outcome::DataCore) -> f64| server?.data_cores.iter().map(of).max_by(f64::total_cmp);
        let mut verdicts = Vec::new();
        let mut judge = |flag: &str, limit: Option<(f64, String)>, measured: Option<f64>, text: fn(f64) -> String| {
            if let Some((limit, limit_text)) = limit {
                verdicts.push(Verdict {
                    limit: format!("{flag} {limit_text}"),
                    measured: measured.map_or_else(|| "nothing was measured".to_owned(), text),
                    is_held: measured.is_some_and(|measured| measured <= limit),
                });
            }
        };
        let count = |limit: Option<u64>| limit.map(|limit| (limit as f64, limit.to_string()));
        let size = |limit: Option<u64>| limit.map(|limit| (limit as f64, megabytes(limit as f64)));
        let number = |limit: Option<f64>| limit.map(|limit| (limit, limit.to_string()));
        judge(
            "--max-p99",
            self.max_p99.map(|limit| (limit.as_secs_f64() * 1e3, format!("{limit:?}"))),
            outcome.latency_ms.map(|latency| latency.p99),
            |ms| format!("{ms:.3} ms"),
        );
        judge("--max-loss", count(self.max_loss), Some(outcome.frames.lost as f64), |frames| {
            format!("{frames} frames")
        });
        judge("--max-rejected", count(self.max_rejected), Some(outcome.frames.rejected as f64), |frames| {
            format!("{frames} frames")
        });
        judge("--max-rss", size(self.max_rss), server.map(|server| server.resident.peak), megabytes);
        judge(
            "--max-rss-slope",
            size(self.max_rss_slope),
            server.and_then(|server| server.resident.slope_per_hour),
            |bytes| format!("{} an hour", megabytes(bytes)),
        );
        judge(
            "--max-allocs-per-second",
            number(self.max_allocs_per_second),
            highest(|core| core.allocations_per_second),
            |rate| format!("{rate:.0}/s"),
        );
        judge("--max-cpu-spread", number(self.max_cpu_spread), highest(|core| core.cpu_spread), |points| {
            format!("{points:.2} points")
        });
        verdicts
    }
}

/// In units of 10^6 bytes, as the limits are stated.
pub(super) fn megabytes(bytes: f64) -> String {
    if bytes < 0.0 {
        return format!("-{}", megabytes(-bytes));
    }
    format!("{}", ByteSize::b(bytes as u64).display().si())
}
