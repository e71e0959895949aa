//! A sample: one cell's number at one time, as the words that cross a telemetry ring.

use crate::CELLS;
use crate::cell::KINDS;
use crate::table::CellKind;

/// Words of a sample: cell and kind, time, value.
pub const SAMPLE_WORDS: usize = 3;

/// One number of one shard at one time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Id of the cell.
    pub metric: u32,
    /// Nanoseconds of CLOCK_MONOTONIC at the flush.
    pub timestamp: u64,
    /// The number.
    pub value: SampleValue,
}

/// The number in a sample, by what its cell holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SampleValue {
    /// Running total; also that of one histogram bucket.
    Counter(u64),
    /// The value now.
    Gauge(f64),
    /// Running sum of a histogram's observations in seconds. Its bucket totals travel as counters.
    Histogram(f64),
}

impl Sample {
    /// The sample as words.
    pub fn to_words(self) -> [u64; SAMPLE_WORDS] {
        let (tag, value) = match self.value {
            SampleValue::Counter(total) => (0, total),
            SampleValue::Gauge(value) => (1, value.to_bits()),
            SampleValue::Histogram(sum) => (2, sum.to_bits()),
        };
        [tag << 32 | u64::from(self.metric), self.timestamp, value]
    }

    /// The sample that the words are; none for a cell that does not exist or a value that the cell cannot hold.
    pub fn from_words([head, timestamp, value]: [u64; SAMPLE_WORDS]) -> Option<Self> {
        let metric = head as u32;
        let (kind, value) = match head >> 32 {
            0 => (CellKind::Counter, SampleValue::Counter(value)),
            1 => (CellKind::Gauge, SampleValue::Gauge(f64::from_bits(value))),
            2 => (CellKind::Sum, SampleValue::Histogram(f64::from_bits(value))),
            _ => return None,
        };
        ((metric as usize) < CELLS && KINDS[metric as usize] == kind).then_some(Self { metric, timestamp, value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Histogram, cell};

    #[test]
    fn words_come_back_as_the_sample_they_were() {
        for (cell, value) in [
            (cell::POINTS, SampleValue::Counter(u64::MAX)),
            (cell::STATE, SampleValue::Gauge(-0.5)),
            (Histogram::LOOP_STALL.sum_cell(), SampleValue::Histogram(1e300)),
        ] {
            let sample = Sample { metric: cell.id(), timestamp: 7, value };
            assert_eq!(Sample::from_words(sample.to_words()), Some(sample));
        }
    }

    #[test]
    fn words_that_fit_no_cell_are_refused() {
        let gauge_of_a_counter = Sample { metric: cell::POINTS.id(), timestamp: 0, value: SampleValue::Gauge(1.0) };
        assert_eq!(Sample::from_words(gauge_of_a_counter.to_words()), None);
        assert_eq!(Sample::from_words([CELLS as u64, 0, 0]), None);
        assert_eq!(Sample::from_words([3 << 32, 0, 0]), None);
    }
}
