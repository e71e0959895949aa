//! What the sender has measured, second by second.

use std::time::Duration;

use hdrhistogram::Histogram;

/// The numbers of one second, or of what is left behind the last whole one.
#[derive(Debug)]
pub(super) struct Interval {
    /// When it began and how long it was, from the start of the load.
    pub(super) start: Duration,
    pub(super) length: Duration,
    /// Frames that were sent, and their bytes, headers included.
    pub(super) sent: u64,
    pub(super) bytes: u64,
    pub(super) times: Times,
}

/// Times in nanoseconds.
#[derive(Clone, Debug)]
pub(super) struct Times {
    /// From the moment a frame was due to its answer: the waiting that the sender would hide if it waited is in it.
    pub(super) from_due: Histogram<u64>,
    /// From the write of a frame to its answer.
    pub(super) from_write: Histogram<u64>,
    /// From the moment a tick was due to the moment the sender began with it.
    pub(super) late: Histogram<u64>,
}

impl Interval {
    pub(super) fn new(start: Duration) -> Self {
        Self { start, length: Duration::ZERO, sent: 0, bytes: 0, times: Times::new() }
    }

    pub(super) fn answered(&mut self, from_due: Duration, from_write: Duration) {
        self.times.from_due.saturating_record(from_due.as_nanos() as u64);
        self.times.from_write.saturating_record(from_write.as_nanos() as u64);
    }

    pub(super) fn began_tick(&mut self, late: Duration) {
        self.times.late.saturating_record(late.as_nanos() as u64);
    }
}

impl Times {
    pub(super) fn new() -> Self {
        let histogram =
            || Histogram::new_with_bounds(RESOLUTION_NS, LONGEST_NS, DIGITS).expect("the bounds are in order");
        Self { from_due: histogram(), from_write: histogram(), late: histogram() }
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (all, some) in [
            (&mut self.from_due, &other.from_due),
            (&mut self.from_write, &other.from_write),
            (&mut self.late, &other.late),
        ] {
            all.add(some).expect("all have the same bounds");
        }
    }
}

const RESOLUTION_NS: u64 = 1_000;

/// An hour. What is longer counts as this.
const LONGEST_NS: u64 = 3_600_000_000_000;

/// Digits that are exact.
const DIGITS: u8 = 3;
