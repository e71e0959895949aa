//! Histograms with fixed buckets that double from 1 us to 8.4 s.
//!
//! Fixed buckets and not an HDR histogram, because bucket totals cross the telemetry ring as running totals: 26 cells a
//! histogram instead of thousands, added up over shards by plain addition, observed without a loop or an allocation,
//! and exact to Prometheus, which would cut a finer histogram into such buckets anyway.

use crate::Cell;
use crate::table::first_cell;

/// Buckets of a histogram, the one without upper bound included.
pub const BUCKET_COUNT: usize = 25;

/// Cells of a histogram: its buckets, then the sum in nanoseconds.
pub(crate) const HISTOGRAM_CELLS: usize = BUCKET_COUNT + 1;

const FIRST_BOUND_NANOSECONDS: u64 = 1_000;

/// A histogram of a shard: the place of its buckets among the cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Histogram {
    first_cell: usize,
}

impl Histogram {
    /// From the return of the read to the frame counted.
    pub const INGEST_LATENCY: Self = Self::named("corelane_ingest_latency_seconds");
    /// How late the shard's own timer fires.
    pub const LOOP_STALL: Self = Self::named("corelane_loop_stall_seconds");

    const fn named(family: &str) -> Self {
        Self { first_cell: first_cell(family, HISTOGRAM_CELLS) }
    }

    /// The cell that counts the observations of one bucket (not of the smaller ones, too).
    pub(crate) const fn bucket_cell(self, bucket: usize) -> Cell {
        Cell((self.first_cell + bucket) as u32)
    }

    pub(crate) const fn sum_cell(self) -> Cell {
        Cell((self.first_cell + BUCKET_COUNT) as u32)
    }

    pub(crate) const fn at(first_cell: usize) -> Self {
        Self { first_cell }
    }
}

/// The bucket of an observation: the first whose bound is not below it.
#[inline]
pub const fn bucket_index(nanoseconds: u64) -> usize {
    // Doublings of the first bound that are needed to reach the value: the bit length of `ceil(value / bound) - 1`.
    let bounds_below = nanoseconds.saturating_sub(1) / FIRST_BOUND_NANOSECONDS;
    let doublings = (u64::BITS - bounds_below.leading_zeros()) as usize;
    if doublings < BUCKET_COUNT { doublings } else { BUCKET_COUNT - 1 }
}

/// The inclusive upper bound of a bucket in seconds; infinite for the last.
pub fn bucket_bound_seconds(bucket: usize) -> f64 {
    // Doubling is exact, so a bound prints as short as the first one does.
    if bucket + 1 < BUCKET_COUNT { 1e-6 * (1_u64 << bucket) as f64 } else { f64::INFINITY }
}

/// What the control plane knows of one histogram.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HistogramTotals {
    /// Observations of each bucket, not cumulative.
    pub buckets: [u64; BUCKET_COUNT],
    /// Sum of the observations in seconds.
    pub sum_seconds: f64,
}

impl HistogramTotals {
    /// Number of observations.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Adds the observations of another histogram.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.buckets.iter_mut().zip(other.buckets) {
            *mine += theirs;
        }
        self.sum_seconds += other.sum_seconds;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bound_is_the_last_value_of_its_bucket() {
        for bucket in 0..BUCKET_COUNT - 1 {
            let bound = 1_000_u64 << bucket;
            assert_eq!(bucket_index(bound), bucket);
            assert_eq!(bucket_index(bound + 1), bucket + 1);
            assert_eq!(bound as f64 / 1e9, bucket_bound_seconds(bucket), "bounds are what a decimal would parse to");
        }
        assert_eq!(bucket_index(0), 0);
        assert_eq!(bucket_index(u64::MAX), BUCKET_COUNT - 1);
        assert_eq!(bucket_bound_seconds(BUCKET_COUNT - 2), 8.388608);
        assert_eq!(bucket_bound_seconds(BUCKET_COUNT - 1), f64::INFINITY);
    }

    #[test]
    fn the_index_agrees_with_a_search_through_the_bounds() {
        for step in 0..200_000_u64 {
            let nanoseconds = step * step / 3;
            let searched = (0..BUCKET_COUNT - 1).find(|bucket| nanoseconds <= 1_000 << bucket);
            assert_eq!(bucket_index(nanoseconds), searched.unwrap_or(BUCKET_COUNT - 1), "{nanoseconds} ns");
        }
    }
}
