//! What happened between two answers. The server's uptime is the clock, so that a slow network bends no rate.

use corelane_api::{Histogram, Numbers, Stats};

/// Of one shard or of all, per second.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rates {
    pub(super) frames: f64,
    pub(super) megabits: f64,
    pub(super) points: f64,
    pub(super) rejected: f64,
    pub(super) allocations: f64,
    /// Telemetry samples that were overwritten unread.
    pub(super) loss: f64,
    /// Cores' worth of CPU time.
    pub(super) cpu: f64,
    /// Bounds in seconds of the buckets that half, 99 % and 99.9 % of the frames stayed within; none without frames.
    pub(super) latency: [Option<f64>; 3],
    /// The same for 99 % of the shard's timers.
    pub(super) stall: Option<f64>,
}

/// Of all together, and of each shard.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct AllRates {
    pub(super) totals: Rates,
    /// CPU of the whole process.
    pub(super) process_cpu: Option<f64>,
    pub(super) shards: Vec<Rates>,
}

impl AllRates {
    /// None where there is nothing to compare: another process answered, or the same moment was told twice.
    pub(super) fn between(before: &Stats, after: &Stats) -> Option<Self> {
        let seconds = after.uptime_seconds - before.uptime_seconds;
        if is_restarted(before, after) || seconds < SECONDS_MIN {
            return None;
        }
        let bounds = &after.histogram_bounds_seconds;
        let rates = |before, after| Rates::between(before, after, seconds, bounds);
        let shards = before.shards.iter().zip(&after.shards);
        let cpu = after.totals.process_cpu_seconds.zip(before.totals.process_cpu_seconds);
        Some(Self {
            totals: rates(&before.totals.numbers, &after.totals.numbers),
            process_cpu: cpu.map(|(after, before)| (after - before) / seconds),
            shards: shards.map(|(before, after)| rates(&before.numbers, &after.numbers)).collect(),
        })
    }
}

/// Whether another process answered. One that took over may be older than the last answer of the one before it.
pub(super) fn is_restarted(before: &Stats, after: &Stats) -> bool {
    let samples = |stats: &Stats, shard: usize| stats.shards[shard].numbers.telemetry_samples;
    after.uptime_seconds < before.uptime_seconds
        || before.shards.len() != after.shards.len()
        || (0..after.shards.len()).any(|shard| samples(after, shard) < samples(before, shard))
}

impl Rates {
    fn between(before: &Numbers, after: &Numbers, seconds: f64, bounds: &[f64]) -> Self {
        let per_second = |before: u64, after: u64| after.saturating_sub(before) as f64 / seconds;
        let latency = |share| quantile(&before.ingest_latency_seconds, &after.ingest_latency_seconds, bounds, share);
        Self {
            frames: per_second(before.frames_accepted, after.frames_accepted),
            megabits: per_second(before.received_bytes, after.received_bytes) * 8.0 / 1e6,
            points: per_second(before.points, after.points),
            rejected: per_second(before.rejected(), after.rejected()),
            allocations: per_second(before.allocations, after.allocations),
            loss: per_second(before.telemetry_samples_dropped, after.telemetry_samples_dropped),
            cpu: (after.shard_cpu_seconds - before.shard_cpu_seconds) / seconds,
            latency: [latency(0.5), latency(0.99), latency(0.999)],
            stall: quantile(&before.loop_stall_seconds, &after.loop_stall_seconds, bounds, 0.99),
        }
    }
}

/// The bound of the bucket that the quantile of what came in between falls into; infinite for the last bucket.
fn quantile(before: &Histogram, after: &Histogram, bounds: &[f64], share: f64) -> Option<f64> {
    let counts = before.buckets.iter().zip(&after.buckets).map(|(before, after)| after.saturating_sub(*before));
    let counts: Vec<u64> = counts.collect();
    let rank = (counts.iter().sum::<u64>() as f64 * share).ceil();
    let mut below = 0;
    let bucket = counts.iter().position(|count| {
        below += count;
        below > 0 && below as f64 >= rank
    })?;
    Some(bounds.get(bucket).copied().unwrap_or(f64::INFINITY))
}

/// Less is no interval to tell a rate of.
const SECONDS_MIN: f64 = 0.05;
