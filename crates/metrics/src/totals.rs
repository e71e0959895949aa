//! The control plane's copy of every shard's numbers, kept up to date by samples.

use crate::histogram::{BUCKET_COUNT, HistogramTotals};
use crate::table::CellKind;
use crate::{CELLS, Cell, Histogram, Sample, SampleValue, ShardState, cell};

/// The newest number of every cell of every shard.
#[derive(Clone, Debug)]
pub struct Totals {
    /// By shard. Totals as they are, gauges and sums (in seconds) as bits of `f64`.
    shards: Vec<[u64; CELLS]>,
}

impl Totals {
    /// Every number 0 and every state `Starting`.
    pub fn new(shards: usize) -> Self {
        Self { shards: vec![[0; CELLS]; shards] }
    }

    /// How many shards there are.
    pub fn shard_count(&self) -> usize {
        self.shards.len()
    }

    /// Takes over one sample. Samples of a shard have to come in the order in which it recorded them.
    ///
    /// # Panics
    /// If the shard does not exist, or the sample names a cell that does not (which
    /// [`Sample::from_words`] never returns).
    pub fn apply(&mut self, shard: usize, sample: Sample) {
        self.shards[shard][sample.metric as usize] = match sample.value {
            SampleValue::Counter(total) => total,
            SampleValue::Gauge(value) | SampleValue::Histogram(value) => value.to_bits(),
        };
    }

    /// A counter of one shard.
    pub fn counter(&self, shard: usize, cell: Cell) -> u64 {
        debug_assert_eq!(cell.kind(), CellKind::Counter);
        self.shards[shard][cell.index()]
    }

    /// A counter, added up over the shards.
    pub fn counter_sum(&self, cell: Cell) -> u64 {
        (0..self.shards.len()).map(|shard| self.counter(shard, cell)).sum()
    }

    /// A gauge of one shard.
    pub fn gauge(&self, shard: usize, cell: Cell) -> f64 {
        debug_assert_eq!(cell.kind(), CellKind::Gauge);
        f64::from_bits(self.shards[shard][cell.index()])
    }

    /// A gauge, added up over the shards.
    pub fn gauge_sum(&self, cell: Cell) -> f64 {
        (0..self.shards.len()).map(|shard| self.gauge(shard, cell)).sum()
    }

    /// Any cell of one shard as a plain number, the way Prometheus sees it.
    pub fn number(&self, shard: usize, cell: Cell) -> f64 {
        let number = self.shards[shard][cell.index()];
        match cell.kind() {
            CellKind::Counter => number as f64,
            CellKind::Gauge | CellKind::Sum => f64::from_bits(number),
        }
    }

    /// The state that a shard told last; `Starting` before its first sample.
    pub fn state(&self, shard: usize) -> ShardState {
        ShardState::from_index(self.gauge(shard, cell::STATE) as usize).unwrap_or(ShardState::Starting)
    }

    /// A histogram of one shard.
    pub fn histogram(&self, shard: usize, histogram: Histogram) -> HistogramTotals {
        let cells = &self.shards[shard];
        let mut totals = HistogramTotals::default();
        for bucket in 0..BUCKET_COUNT {
            totals.buckets[bucket] = cells[histogram.bucket_cell(bucket).index()];
        }
        totals.sum_seconds = f64::from_bits(cells[histogram.sum_cell().index()]);
        totals
    }

    /// A histogram, added up over the shards.
    pub fn histogram_sum(&self, histogram: Histogram) -> HistogramTotals {
        let mut sum = HistogramTotals::default();
        for shard in 0..self.shards.len() {
            sum.merge(&self.histogram(shard, histogram));
        }
        sum
    }
}
