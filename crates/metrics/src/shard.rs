//! A shard's own numbers: plain integers, no atomics, flushed as samples.
//!
//! Counting is one addition and one bit that marks the cell as changed; a flush walks the marked cells only. Every so
//! many samples a flush carries all cells, so that the newest [`RING_SLOTS_MIN`] samples always tell everything: a ring
//! of at least that many slots may overwrite what it likes and the reader still ends with the shard's exact numbers.

use crate::histogram::bucket_index;
use crate::table::CellKind;
use crate::{CELLS, Cell, Histogram, SAMPLE_WORDS, Sample, SampleValue, ShardState, cell};

/// Least slots of a ring that carries a shard's samples. Costs 32 bytes a slot.
pub const RING_SLOTS_MIN: usize = 1_024;

/// Samples after which a flush carries every cell. The flush that passes this number and the full one after it may
/// both hold every cell, and all of it has to fit into the smallest ring.
const REFRESH_SAMPLES: usize = RING_SLOTS_MIN - 2 * CELLS;
const _: () = assert!(REFRESH_SAMPLES >= 4 * CELLS, "full flushes stay a small part of all samples");

const WORD_BITS: usize = u64::BITS as usize;
const DIRTY_WORDS: usize = CELLS.div_ceil(WORD_BITS);

/// All numbers of one shard, written by its thread alone.
pub struct ShardMetrics {
    /// Totals as they are, gauges as bits of `f64`, sums of histograms in nanoseconds.
    cells: [u64; CELLS],
    /// Invariant: a cell whose bit is clear holds what its newest sample says.
    dirty: [u64; DIRTY_WORDS],
    samples_since_refresh: usize,
}

impl ShardMetrics {
    /// Every total and gauge 0, the state `Starting`, and nothing told yet.
    pub fn new() -> Self {
        Self { cells: [0; CELLS], dirty: [u64::MAX; DIRTY_WORDS], samples_since_refresh: 0 }
    }

    /// Adds to a counter.
    #[inline]
    pub fn add(&mut self, cell: Cell, count: u64) {
        debug_assert_eq!(cell.kind(), CellKind::Counter);
        self.cells[cell.index()] += count;
        self.mark(cell, true);
    }

    /// Sets a counter that is kept elsewhere. Totals never go back.
    #[inline]
    pub fn set_total(&mut self, cell: Cell, total: u64) {
        debug_assert_eq!(cell.kind(), CellKind::Counter);
        debug_assert!(total >= self.cells[cell.index()], "a total went back");
        self.set(cell, total);
    }

    /// Sets a gauge.
    #[inline]
    pub fn set_gauge(&mut self, cell: Cell, value: f64) {
        debug_assert_eq!(cell.kind(), CellKind::Gauge);
        self.set(cell, value.to_bits());
    }

    /// Sets the state that the next flush tells.
    pub fn set_state(&mut self, state: ShardState) {
        self.set_gauge(cell::STATE, state.index() as f64);
    }

    /// The total of a counter.
    pub fn get(&self, cell: Cell) -> u64 {
        debug_assert_eq!(cell.kind(), CellKind::Counter);
        self.cells[cell.index()]
    }

    /// Counts `count` observations of the same duration.
    #[inline]
    pub fn observe(&mut self, histogram: Histogram, nanoseconds: u64, count: u64) {
        self.add(histogram.bucket_cell(bucket_index(nanoseconds)), count);
        let sum = histogram.sum_cell();
        // Wraps after 584 years of observed time, and saturates for one absurd duration rather than panic.
        let cell = &mut self.cells[sum.index()];
        *cell = cell.wrapping_add(nanoseconds.saturating_mul(count));
        self.mark(sum, true);
    }

    /// Records a sample of every cell that changed since the last flush, and of the state in any case.
    ///
    /// `now_nanoseconds` is CLOCK_MONOTONIC.
    pub fn flush(&mut self, now_nanoseconds: u64, mut record: impl FnMut([u64; SAMPLE_WORDS])) {
        self.mark(cell::STATE, true);
        if self.samples_since_refresh >= REFRESH_SAMPLES {
            self.dirty = [u64::MAX; DIRTY_WORDS];
            self.samples_since_refresh = 0;
        }
        for word in 0..DIRTY_WORDS {
            let mut bits = std::mem::take(&mut self.dirty[word]);
            while bits != 0 {
                let index = word * WORD_BITS + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                if index < CELLS {
                    record(self.sample(Cell(index as u32), now_nanoseconds).to_words());
                    self.samples_since_refresh += 1;
                }
            }
        }
    }

    fn sample(&self, cell: Cell, timestamp: u64) -> Sample {
        let number = self.cells[cell.index()];
        let value = match cell.kind() {
            CellKind::Counter => SampleValue::Counter(number),
            CellKind::Gauge => SampleValue::Gauge(f64::from_bits(number)),
            CellKind::Sum => SampleValue::Histogram(number as f64 / 1e9),
        };
        Sample { metric: cell.id(), timestamp, value }
    }

    #[inline]
    fn set(&mut self, cell: Cell, number: u64) {
        let changed = self.cells[cell.index()] != number;
        self.cells[cell.index()] = number;
        self.mark(cell, changed);
    }

    #[inline]
    fn mark(&mut self, cell: Cell, changed: bool) {
        self.dirty[cell.index() / WORD_BITS] |= u64::from(changed) << (cell.index() % WORD_BITS);
    }
}

impl Default for ShardMetrics {
    fn default() -> Self {
        Self::new()
    }
}
