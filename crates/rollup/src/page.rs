//! A page: a copy of one fixed range of the table's slots, in memory of whoever asks for it.
//!
//! Allocates once, in `new`, on the requester's thread; the shard only fills it. A series never moves to another slot, so
//! the pages of a round, in whatever order they are filled, hold every series that lived through the round once. One
//! that was evicted and came back in between may be told twice: the counts before and after are of different points.

use std::ops::Range;

use crate::{TEXT_BYTES_MAX, series::Aggregate};

/// A copy of the series in slots `index * PAGE_SLOTS ..` of a table.
pub struct SeriesPage {
    index: usize,
    round: u64,
    is_last: bool,
    /// Invariant: at most `PAGE_SLOTS`, its capacity.
    entries: Vec<Entry>,
    /// Id and sensor of each entry in turn. Invariant: its capacity holds the longest texts in every slot.
    texts: Vec<u8>,
}

/// One live series, as it was when its page was filled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SeriesView<'a> {
    /// The source.
    pub id: &'a str,
    /// The sensor of that source.
    pub sensor: &'a str,
    /// Points since the series became live; at least 1.
    pub count: u64,
    /// The value with the greatest event timestamp; of equal ones, that which arrived last.
    pub last: f64,
    /// The event timestamp of `last`, in nanoseconds since the Unix epoch as the source told it.
    pub last_timestamp: u64,
    /// Smallest value.
    pub min: f64,
    /// Largest value.
    pub max: f64,
    /// Sum of all values. Infinite, or NaN after both infinities, where finite values add up to more than a double holds.
    pub sum: f64,
}

struct Entry {
    aggregate: Aggregate,
    id_bytes: u16,
    sensor_bytes: u16,
}

impl SeriesPage {
    /// An empty page for slots `0 .. PAGE_SLOTS` in round 0; allocates at most `PAGE_BYTES_MAX`, touched as it fills.
    #[expect(clippy::new_without_default, reason = "an allocation of this size is asked for by name")]
    pub fn new() -> SeriesPage {
        SeriesPage {
            index: 0,
            round: 0,
            is_last: false,
            entries: Vec::with_capacity(PAGE_SLOTS),
            texts: Vec::with_capacity(PAGE_SLOTS * 2 * TEXT_BYTES_MAX),
        }
    }

    /// Empties the page, so that it can be requested as number `index` of `round`. The round is echoed, no more.
    pub fn reset(&mut self, index: usize, round: u64) {
        (self.index, self.round, self.is_last) = (index, round, false);
        self.entries.clear();
        self.texts.clear();
    }

    /// Which range of slots this is.
    pub fn index(&self) -> usize {
        self.index
    }

    /// The round it was requested for.
    pub fn round(&self) -> u64 {
        self.round
    }

    /// Whether the table had no series in a later page when this one was filled.
    pub fn is_last(&self) -> bool {
        self.is_last
    }

    /// The series, by slot.
    pub fn iter(&self) -> impl Iterator<Item = SeriesView<'_>> {
        let mut texts = self.texts.as_slice();
        let mut text = move |bytes: u16| {
            let (text, rest) = texts.split_at(usize::from(bytes));
            texts = rest;
            str::from_utf8(text).expect("texts came in as str")
        };
        self.entries.iter().map(move |Entry { aggregate, id_bytes, sensor_bytes }| {
            let Aggregate { count, last, last_timestamp, min, max, sum } = *aggregate;
            SeriesView { id: text(*id_bytes), sensor: text(*sensor_bytes), count, last, last_timestamp, min, max, sum }
        })
    }

    pub(crate) fn slots(&self) -> Range<usize> {
        let start = self.index.saturating_mul(PAGE_SLOTS);
        start..start.saturating_add(PAGE_SLOTS)
    }

    pub(crate) fn push(&mut self, id: &[u8], sensor: &[u8], aggregate: Aggregate) {
        debug_assert!(self.entries.len() < PAGE_SLOTS, "a page is filled once, after its reset");
        self.entries.push(Entry { aggregate, id_bytes: id.len() as u16, sensor_bytes: sensor.len() as u16 });
        self.texts.extend_from_slice(id);
        self.texts.extend_from_slice(sensor);
    }

    pub(crate) fn finish(&mut self, is_last: bool) {
        self.is_last = is_last;
    }
}

/// Slots a page covers. More would hold the shard's loop up for longer than some microseconds, fewer would make a round
/// longer: a table of the default 65 536 series takes 128 pages, and at most one is filled a turn of the loop.
pub const PAGE_SLOTS: usize = 512;

/// What `SeriesPage::new` allocates.
pub const PAGE_BYTES_MAX: usize = PAGE_SLOTS * (size_of::<Entry>() + 2 * TEXT_BYTES_MAX);
