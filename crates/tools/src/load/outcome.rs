//! What came of a run, in numbers: the JSON result, which the text and the report are made of.

use std::collections::BTreeMap;

use corelane_api::Stats;
use serde::Serialize;

use super::{
    limits::Verdict,
    sample::Sample,
    series::{Percentiles, Reading, Second, rate, rates_in_windows, slope},
};

/// All that is told of a run.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    pub(super) version: &'static str,
    /// Seconds since the Unix epoch.
    pub(super) started_at: f64,
    pub(super) load: LoadText,
    /// How long frames were due.
    pub(super) seconds: f64,
    /// Whether Ctrl-C ended it early.
    pub(super) is_interrupted: bool,
    pub(super) frames: Frames,
    pub(super) bytes_sent: u64,
    pub(super) frames_per_second: f64,
    pub(super) mbit_per_second: f64,
    /// From the moment a frame was due to its answer.
    pub(super) latency_ms: Option<Percentiles>,
    /// From the write of a frame to its answer: without the time it waited to be written.
    pub(super) latency_uncorrected_ms: Option<Percentiles>,
    /// From the moment a tick was due to the moment the sender began with it.
    pub(super) sender_late_ms: Option<Percentiles>,
    /// CPU of this process, in percent of one core.
    pub(super) sender_cpu_percent: f64,
    pub(super) server: Option<ServerOutcome>,
    pub(super) limits: Vec<Verdict>,
    /// What makes the run a failure, limits aside.
    pub(super) problems: Vec<String>,
    pub(super) series: Vec<Second>,
}

/// What was asked for.
#[derive(Clone, Debug, Serialize)]
pub(super) struct LoadText {
    pub(super) target: String,
    pub(super) rate: String,
    pub(super) mix: String,
    pub(super) connections: usize,
    pub(super) commit_every: u64,
}

/// Every frame, accounted for: `scheduled = sent + unsent`, `sent = accepted + rejected + lost`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Frames {
    pub(super) scheduled: u64,
    /// Never written: their connection had ended, or the server did not read.
    pub(super) unsent: u64,
    pub(super) sent: u64,
    /// By the last answer of each connection.
    pub(super) accepted: u64,
    pub(super) rejected: u64,
    /// Sent, and in no answer.
    pub(super) lost: u64,
}

/// What the server said of itself.
#[derive(Debug, Serialize)]
pub(super) struct ServerOutcome {
    /// What its counters grew by.
    pub(super) frames_accepted: u64,
    pub(super) frames_rejected: BTreeMap<String, u64>,
    pub(super) connections_accepted: u64,
    pub(super) pool_waits: u64,
    pub(super) resident: Resident,
    /// Of the whole process, in percent of one core.
    pub(super) cpu_percent: f64,
    pub(super) data_cores: Vec<DataCore>,
}

/// Resident memory of the process, in bytes.
#[derive(Debug, Serialize)]
pub(super) struct Resident {
    /// Before the first connection.
    pub(super) start: f64,
    /// The highest of the samples, which are taken each second.
    pub(super) peak: f64,
    /// With all connections still open.
    pub(super) end: f64,
    /// Of the line that fits the samples of the second half best; none of a run that is too short.
    pub(super) slope_per_hour: Option<f64>,
    /// How long that half was.
    pub(super) slope_over_seconds: f64,
}

/// One data core, from the end of the ramp to the last frame due.
#[derive(Debug, Serialize)]
pub(super) struct DataCore {
    pub(super) shard: u64,
    pub(super) frames_accepted: u64,
    pub(super) cpu_percent: f64,
    /// By windows of `window_seconds`; of a shorter run there is one.
    pub(super) cpu_percent_windows: Vec<f64>,
    pub(super) window_seconds: f64,
    /// How far a window is from the mean at most, in points.
    pub(super) cpu_spread: f64,
    pub(super) allocations_per_second: f64,
}

impl ServerOutcome {
    /// `samples` are of the run, by seconds from its start; the load was steady between `steady.0` and `steady.1`.
    pub(super) fn of(before: &Sample, samples: &[(f64, Stats)], steady: (f64, f64)) -> Option<Self> {
        let (_, last) = samples.last()?;
        let since = |of: fn(&Stats) -> u64| of(last).saturating_sub(of(&before.stats));
        let rejected = last.totals.numbers.frames_rejected.iter().map(|(reason, count)| {
            let had = before.stats.totals.numbers.frames_rejected.get(reason).copied().unwrap_or(0);
            (reason.clone(), count.saturating_sub(had))
        });
        let all: Vec<Reading> = readings(samples, |stats| stats.totals.process_cpu_seconds);
        let data_cores = (0..last.shards.len()).filter_map(|index| DataCore::of(samples, index, steady)).collect();
        Some(Self {
            frames_accepted: since(|stats| stats.totals.numbers.frames_accepted),
            frames_rejected: rejected.filter(|(_, count)| *count > 0).collect(),
            connections_accepted: since(|stats| stats.totals.numbers.connections_accepted),
            pool_waits: since(|stats| stats.totals.numbers.pool_waits),
            resident: Resident::of(before, samples, steady),
            cpu_percent: rates_in_windows(&all, steady.0, steady.1, f64::MAX).first().map_or(0.0, |rate| rate * 100.0),
            data_cores,
        })
    }
}

impl Resident {
    fn of(before: &Sample, samples: &[(f64, Stats)], steady: (f64, f64)) -> Self {
        let resident = readings(samples, |stats| stats.totals.process_resident_memory_bytes);
        let start = before.stats.totals.process_resident_memory_bytes.unwrap_or_default();
        let middle = (steady.0 + steady.1) / 2.0;
        let half: Vec<_> = resident.iter().copied().filter(|(time, _)| *time >= middle).collect();
        Self {
            start,
            peak: resident.iter().map(|(_, bytes)| *bytes).fold(start, f64::max),
            end: resident.last().map_or(start, |(_, bytes)| *bytes),
            slope_per_hour: slope(&half).filter(|_| half.len() >= SLOPE_SAMPLES_MIN).map(|slope| slope * 3600.0),
            slope_over_seconds: steady.1 - middle,
        }
    }
}

impl DataCore {
    fn of(samples: &[(f64, Stats)], index: usize, steady: (f64, f64)) -> Option<Self> {
        let cpu = readings(samples, |stats| Some(stats.shards.get(index)?.numbers.shard_cpu_seconds));
        let allocations = readings(samples, |stats| Some(stats.shards.get(index)?.numbers.allocations as f64));
        let whole = |readings: &[Reading]| rates_in_windows(readings, steady.0, steady.1, f64::MAX).first().copied();
        let windows: Vec<_> =
            rates_in_windows(&cpu, steady.0, steady.1, WINDOW_SECONDS).iter().map(|rate| rate * 100.0).collect();
        let mean = windows.iter().sum::<f64>() / windows.len() as f64;
        let first = samples.first()?.1.shards.get(index)?;
        let last = samples.last()?.1.shards.get(index)?;
        Some(Self {
            shard: last.shard,
            frames_accepted: last.numbers.frames_accepted.saturating_sub(first.numbers.frames_accepted),
            cpu_percent: whole(&cpu)? * 100.0,
            cpu_spread: windows.iter().map(|window| (window - mean).abs()).fold(0.0, f64::max),
            window_seconds: WINDOW_SECONDS.min(steady.1 - steady.0),
            cpu_percent_windows: windows,
            allocations_per_second: whole(&allocations)?,
        })
    }
}

/// What the data cores did between two samples.
pub(super) fn cores_between(before: &(f64, Stats), after: &(f64, Stats)) -> Vec<super::series::CoreSecond> {
    let pairs = before.1.shards.iter().zip(&after.1.shards);
    let cores = pairs.filter_map(|(was, is)| {
        Some(super::series::CoreSecond {
            cpu_percent: rate(&(before.0, was.numbers.shard_cpu_seconds), &(after.0, is.numbers.shard_cpu_seconds))?
                * 100.0,
            allocations_per_second: rate(
                &(before.0, was.numbers.allocations as f64),
                &(after.0, is.numbers.allocations as f64),
            )?,
        })
    });
    cores.collect()
}

fn readings(samples: &[(f64, Stats)], of: impl Fn(&Stats) -> Option<f64>) -> Vec<Reading> {
    samples.iter().filter_map(|(time, stats)| Some((*time, of(stats)?))).collect()
}

/// Long enough that what happens once a second is all the same.
const WINDOW_SECONDS: f64 = 30.0;

/// Below, one page more is a slope.
const SLOPE_SAMPLES_MIN: usize = 10;
