//! What a run was like over time: windows of CPU, the slope of memory, and a row for each second.

use serde::Serialize;

/// One second of the run, for plots. What is not known is left out.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Second {
    /// Its end, from the start of the load.
    pub(super) at_seconds: f64,
    pub(super) sent_per_second: f64,
    pub(super) mbit_per_second: f64,
    /// Of the frames that were answered in it, from due to answer; none when there was no answer.
    pub(super) latency_ms: Option<Percentiles>,
    /// How late the sender itself was at most.
    pub(super) late_max_ms: f64,
    /// Resident memory of the server.
    pub(super) resident_bytes: Option<f64>,
    /// Of each data core, in the order of their shards.
    pub(super) cores: Vec<CoreSecond>,
}

impl Second {
    /// Of two seconds in a row, the end of the later and the highest of everything.
    pub(super) fn highest(mut self, later: &Self) -> Self {
        let option = |a: Option<f64>, b: Option<f64>| a.into_iter().chain(b).reduce(f64::max);
        self.at_seconds = later.at_seconds;
        self.sent_per_second = self.sent_per_second.max(later.sent_per_second);
        self.mbit_per_second = self.mbit_per_second.max(later.mbit_per_second);
        self.late_max_ms = self.late_max_ms.max(later.late_max_ms);
        self.resident_bytes = option(self.resident_bytes, later.resident_bytes);
        self.latency_ms = match (self.latency_ms, later.latency_ms) {
            (Some(a), Some(b)) => Some(Percentiles {
                p50: a.p50.max(b.p50),
                p90: a.p90.max(b.p90),
                p99: a.p99.max(b.p99),
                p999: a.p999.max(b.p999),
                max: a.max.max(b.max),
                count: a.count + b.count,
            }),
            (a, b) => a.or(b),
        };
        for (core, other) in self.cores.iter_mut().zip(&later.cores) {
            core.cpu_percent = core.cpu_percent.max(other.cpu_percent);
            core.allocations_per_second = core.allocations_per_second.max(other.allocations_per_second);
        }
        self
    }
}

/// What one data core did in a second.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct CoreSecond {
    pub(super) cpu_percent: f64,
    pub(super) allocations_per_second: f64,
}

/// Times in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Percentiles {
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    pub(super) p999: f64,
    pub(super) max: f64,
    /// How many were measured.
    pub(super) count: u64,
}

impl Percentiles {
    /// None of an empty histogram, which is in nanoseconds.
    pub(super) fn of(histogram: &hdrhistogram::Histogram<u64>) -> Option<Self> {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e6;
        (!histogram.is_empty()).then(|| Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: histogram.max() as f64 / 1e6,
            count: histogram.len(),
        })
    }
}

/// A running total at a time, in seconds from the start.
pub(super) type Reading = (f64, f64);

/// How much a total grew a second in each window of `length` between `from` and `to`. A window is from the reading that is
/// nearest to its begin to the one nearest to its end; when there is not one whole window, all is one.
pub(super) fn rates_in_windows(readings: &[Reading], from: f64, to: f64, length: f64) -> Vec<f64> {
    let nearest = |time: f64| readings.iter().min_by(|a, b| (a.0 - time).abs().total_cmp(&(b.0 - time).abs()));
    // A sample may come a moment after the second it is for.
    let count = ((to - from + SLACK_SECONDS) / length) as usize;
    let edges: Vec<f64> =
        if count == 0 { vec![from, to] } else { (0..=count).map(|window| from + window as f64 * length).collect() };
    edges.windows(2).filter_map(|edge| rate(nearest(edge[0])?, nearest(edge[1])?)).collect()
}

/// How much a total grew a second between two readings.
pub(super) fn rate(first: &Reading, last: &Reading) -> Option<f64> {
    (last.0 > first.0).then(|| (last.1 - first.1) / (last.0 - first.0))
}

/// The slope of the line that fits the readings best (least squares), a second. None for fewer than two.
pub(super) fn slope(readings: &[Reading]) -> Option<f64> {
    let count = readings.len() as f64;
    let mean = |of: fn(&Reading) -> f64| readings.iter().map(of).sum::<f64>() / count;
    let (time_mean, value_mean) = (mean(|reading| reading.0), mean(|reading| reading.1));
    let together: f64 = readings.iter().map(|(time, value)| (time - time_mean) * (value - value_mean)).sum();
    let alone: f64 = readings.iter().map(|(time, _)| (time - time_mean).powi(2)).sum();
    (alone > 0.0).then(|| together / alone)
}

const SLACK_SECONDS: f64 = 0.5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_of_a_line_is_found_in_noise() {
        let line: Vec<_> = (0..900).map(|second| (f64::from(second), 1e7 + 25.0 * f64::from(second))).collect();
        assert!((slope(&line).unwrap() - 25.0).abs() < 1e-6);
        let noise = |time: f64| if time % 2.0 == 0.0 { 4e3 } else { -4e3 };
        let noisy: Vec<_> = line.iter().map(|(time, value)| (*time, value + noise(*time))).collect();
        assert!((slope(&noisy).unwrap() - 25.0).abs() < 0.5);
        let flat: Vec<_> = (0..10).map(|second| (f64::from(second), 5.0)).collect();
        assert_eq!(slope(&flat), Some(0.0));
        assert_eq!((slope(&[]), slope(&[(1.0, 1.0)])), (None, None));
    }

    #[test]
    fn windows_are_of_one_length_and_a_rest_is_left_out() {
        // A total that grows by 0.2 a second, then by 0.4.
        let readings: Vec<_> =
            (0..=100).map(f64::from).map(|t| (t + 0.01, 0.2 * t + 0.2 * (t - 60.0f64).max(0.0))).collect();
        let windows = rates_in_windows(&readings, 0.0, 100.0, 30.0);
        assert_eq!(windows.len(), 3);
        for (window, expected) in windows.iter().zip([0.2, 0.2, 0.4]) {
            assert!((window - expected).abs() < 1e-9, "{windows:?}");
        }
        assert_eq!(rates_in_windows(&readings, 0.0, 59.9, 30.0).len(), 2, "the last sample may be late");
        assert_eq!(rates_in_windows(&readings, 10.0, 100.0, 30.0).len(), 3);
    }

    #[test]
    fn a_run_shorter_than_a_window_is_one() {
        let readings = [(0.0, 1.0), (2.5, 2.0), (5.0, 2.5)];
        assert_eq!(rates_in_windows(&readings, 0.0, 5.0, 30.0), [0.3]);
        assert!(rates_in_windows(&[], 0.0, 5.0, 30.0).is_empty());
        assert!(rates_in_windows(&[(0.0, 1.0)], 0.0, 5.0, 30.0).is_empty());
    }
}
