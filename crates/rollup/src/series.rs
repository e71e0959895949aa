//! The live series of one shard: count, last, min, max and sum by (id, sensor).
//!
//! Owns every table of the crate, all of a size fixed at construction. A new series beyond the bound takes the place of
//! the one that has been silent longest. Never allocates, locks or reads a clock; time comes in as a tick.

use crate::{
    index::Index,
    page::SeriesPage,
    recency::Recency,
    text::{Symbol, TextTable, symbols_max},
};

/// Live series by (id, sensor), bounded, for one thread.
pub struct Rollup {
    table: Table,
    shapes: Shapes,
}

/// The series and what finds them.
struct Table {
    /// One cache line a slot. Grows within its capacity, and a slot once used stays live: an evicted series is replaced.
    series: Vec<Series>,
    /// Slot + 1 by (id, sensor).
    index: Index,
    /// Invariant: its order is that of the series' last ticks.
    recency: Recency,
    /// Invariant: a text has one user for each series that it is the id of, and one for each that it is the sensor of.
    texts: TextTable,
    /// By symbol of an id: where the series of the first point of its last event was. A guess, see `Rollup::record`.
    leads: Vec<u32>,
    series_max: usize,
    evicted: u64,
}

/// By the number of a shape: the series of its points, in their order.
struct Shapes {
    points_max: usize,
    /// `points_max` slots a shape.
    series: Vec<u32>,
    /// Points of a shape, and what `Rollup::age` was when they were noted: 0 for never, and any other age but the present
    /// one means that a series was evicted since, maybe one of these.
    noted: Vec<(usize, u64)>,
}

/// What is told about a series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Aggregate {
    pub(crate) count: u64,
    pub(crate) last: f64,
    pub(crate) last_timestamp: u64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) sum: f64,
}

#[repr(align(64))]
struct Series {
    aggregate: Aggregate,
    id: Symbol,
    sensor: Symbol,
    /// The tick of the last point, its lower half.
    tick: u32,
    /// Where the series of the next point was in the last event that touched this one. A guess, see `Rollup::record`.
    follower: u32,
}

impl Rollup {
    /// An empty table for at most `series_max` series; panics unless that is within `1 ..= SERIES_MAX_LIMIT`.
    ///
    /// Allocates all it will ever use, but touches none of it: memory becomes resident as series come.
    pub fn new(series_max: usize) -> Rollup {
        Self::with_shapes(series_max, 0, 0)
    }

    /// As [`new`](Self::new), with memory for the series of `shapes` shapes of up to `points_max` points: see
    /// [`record_known`](Self::record_known).
    pub fn with_shapes(series_max: usize, shapes: usize, points_max: usize) -> Rollup {
        assert!((1..=SERIES_MAX_LIMIT).contains(&series_max), "series_max is 1 to {SERIES_MAX_LIMIT}");
        let table = Table {
            series: Vec::with_capacity(series_max),
            index: Index::new(series_max),
            recency: Recency::new(series_max),
            texts: TextTable::new(texts_max(series_max)),
            leads: vec![0; symbols_max(texts_max(series_max))],
            series_max,
            evicted: 0,
        };
        let shapes = Shapes { points_max, series: vec![0; shapes * points_max], noted: vec![(0, 0); shapes] };
        Rollup { table, shapes }
    }

    /// What `new(series_max)` allocates, in bytes: resident at most, once series with texts of every length have come.
    pub fn memory_bytes_max(series_max: usize) -> usize {
        series_max * size_of::<Series>()
            + Index::bytes_max(series_max)
            + Recency::bytes_max(series_max)
            + TextTable::bytes_max(texts_max(series_max))
            + symbols_max(texts_max(series_max)) * size_of::<u32>()
    }

    /// What [`with_shapes`](Self::with_shapes) allocates for shapes, in bytes.
    pub const fn shapes_bytes_max(shapes: usize, points_max: usize) -> usize {
        shapes * (points_max * size_of::<u32>() + size_of::<(usize, u64)>())
    }

    /// Counts the points of one valid event into their series.
    ///
    /// `tick` is any number that never runs backwards, one a receive for a shard; it only tells how long a series has
    /// been silent. `timestamp` is the event's own. Texts are 1 to `TEXT_BYTES_MAX` bytes and values finite, as the
    /// decoder checked; a longer new text panics. An event may have more points of new series than `series_max`: each
    /// is counted, and evicts another.
    ///
    /// Events of one source name the same sensors in the same order, mostly. So the series of the point after is
    /// remembered with each series, and one comparison of a name replaces two lookups. The memory may be stale: it is
    /// a guess that counts only when id and sensor of that series are right.
    pub fn record<'a>(&mut self, tick: u64, id: &str, timestamp: u64, points: impl Iterator<Item = (&'a str, f64)>) {
        self.table.record(tick, id, timestamp, points, |_| ());
    }

    /// As [`record`](Self::record), and notes the series of the points under `shape`, a number below the shapes of
    /// [`with_shapes`](Self::with_shapes): until it is noted anew, events of this shape can be given to
    /// [`record_known`](Self::record_known).
    pub fn record_shape<'a>(
        &mut self,
        tick: u64,
        shape: u32,
        id: &str,
        timestamp: u64,
        points: impl ExactSizeIterator<Item = (&'a str, f64)>,
    ) {
        let (age, count) = (self.table.age(), points.len());
        // Unknown while its series are being replaced: should `points` panic, half of them are those of before.
        self.shapes.noted[shape as usize] = (0, 0);
        let mut series = self.shapes.of(shape).iter_mut();
        self.table.record(tick, id, timestamp, points, |slot| {
            if let Some(noted) = series.next() {
                *noted = slot;
            }
        });
        // A later point of the event may have evicted the series of an earlier one.
        if self.table.age() == age && count <= self.shapes.points_max {
            self.shapes.noted[shape as usize] = (count, age);
        }
    }

    /// Counts an event of which it is known that its source, its sensors and their order are those that were noted under
    /// `shape`, without looking at any of them. `false`, and nothing is counted, when a series was evicted since: then
    /// [`record_shape`](Self::record_shape) is to be used again.
    #[inline]
    pub fn record_known(
        &mut self,
        tick: u64,
        shape: u32,
        timestamp: u64,
        values: impl ExactSizeIterator<Item = f64>,
    ) -> bool {
        if self.shapes.noted[shape as usize] != (values.len(), self.table.age()) {
            return false;
        }
        let tick = tick as u32;
        let start = shape as usize * self.shapes.points_max;
        for (&slot, value) in self.shapes.series[start..].iter().zip(values) {
            self.table.add(slot, tick, timestamp, value);
        }
        true
    }

    /// Live series.
    pub fn series(&self) -> usize {
        self.table.series.len()
    }

    /// Series that made room for others since the start.
    pub fn evicted(&self) -> u64 {
        self.table.evicted
    }

    /// Copies the slots that `page` covers into it, over what it held.
    pub fn fill(&self, page: &mut SeriesPage) {
        // Its requester may not have emptied it; a filled page has no room for more.
        page.reset(page.index(), page.round());
        let Table { series, texts, .. } = &self.table;
        let slots = page.slots();
        for series in series.iter().take(slots.end).skip(slots.start) {
            page.push(texts.bytes(series.id), texts.bytes(series.sensor), series.aggregate);
        }
        page.finish(slots.end >= series.len());
    }
}

impl Table {
    /// Changes whenever a slot gets another series; never 0.
    fn age(&self) -> u64 {
        self.evicted + 1
    }

    /// As [`Rollup::record`]; `note` gets the slot of each point's series.
    fn record<'a>(
        &mut self,
        tick: u64,
        id: &str,
        timestamp: u64,
        points: impl Iterator<Item = (&'a str, f64)>,
        mut note: impl FnMut(u32),
    ) {
        // A series silent for exactly 2^32 ticks keeps its place in the order of silence once too often.
        let tick = tick as u32;
        // Once known, the id's symbol stays valid for the event: only `create` releases, and it first acquires anew.
        let mut source = self.texts.find(id);
        let mut before = None;
        for (sensor, value) in points {
            debug_assert!(value.is_finite(), "the decoder refuses what is not finite");
            let guess = match (before, source) {
                (Some(slot), _) => self.follower(slot),
                (None, Some(source)) => self.leads[source.number() as usize],
                (None, None) => u32::MAX,
            };
            let slot = if self.is_series(guess, source, sensor) {
                guess
            } else {
                let slot = self.find(source, sensor).unwrap_or_else(|| self.create(id, source, sensor, tick));
                source = Some(self.series[slot as usize].id);
                self.remember(before, slot);
                slot
            };
            self.add(slot, tick, timestamp, value);
            before = Some(slot);
            note(slot);
        }
    }

    /// Counts one point of the series in `slot`.
    #[inline]
    fn add(&mut self, slot: u32, tick: u32, timestamp: u64, value: f64) {
        let series = &mut self.series[slot as usize];
        series.aggregate.add(timestamp, value);
        if series.tick != tick {
            series.tick = tick;
            self.recency.touch(slot);
        }
    }

    fn follower(&self, slot: u32) -> u32 {
        self.series[slot as usize].follower
    }

    /// Whether `slot` holds the series of `sensor` from `source`; any number may be asked about.
    fn is_series(&self, slot: u32, source: Option<Symbol>, sensor: &str) -> bool {
        self.series
            .get(slot as usize)
            .is_some_and(|series| Some(series.id) == source && self.texts.is(series.sensor, sensor))
    }

    fn find(&self, source: Option<Symbol>, sensor: &str) -> Option<u32> {
        let (id, sensor) = (source?, self.texts.find(sensor)?);
        let is_it = |number: u32| {
            let series = &self.series[number as usize - 1];
            series.id == id && series.sensor == sensor
        };
        self.index.find(self.index.hash_pair(id.number(), sensor.number()), is_it).map(|number| number - 1)
    }

    /// The slot of a new series without points, touched at `tick`.
    fn create(&mut self, id: &str, source: Option<Symbol>, sensor: &str, tick: u32) -> u32 {
        // Texts are acquired before an eviction releases any, or it could free the very ones that are needed.
        let id = match source {
            Some(symbol) => {
                self.texts.acquire_again(symbol);
                symbol
            }
            None => self.texts.acquire(id),
        };
        let sensor = self.texts.acquire(sensor);
        let aggregate = Aggregate::EMPTY;
        let series = Series { aggregate, id, sensor, tick, follower: u32::MAX };
        let slot = if self.series.len() < self.series_max {
            self.series.push(series);
            self.recency.push();
            (self.series.len() - 1) as u32
        } else {
            let slot = self.evict();
            self.series[slot as usize] = series;
            self.recency.touch(slot);
            slot
        };
        self.index.insert(self.index.hash_pair(id.number(), sensor.number()), slot + 1);
        slot
    }

    /// Forgets the series that has been silent longest, and tells its slot, which the caller fills.
    fn evict(&mut self) -> u32 {
        let slot = self.recency.oldest().expect("a full table has an oldest series");
        let Series { id, sensor, .. } = self.series[slot as usize];
        self.index.remove(self.index.hash_pair(id.number(), sensor.number()), slot + 1);
        self.texts.release(id);
        self.texts.release(sensor);
        self.evicted += 1;
        slot
    }

    /// Notes that `slot` came after the slot `before`, or first.
    fn remember(&mut self, before: Option<u32>, slot: u32) {
        match before {
            Some(before) => self.series[before as usize].follower = slot,
            None => self.leads[self.series[slot as usize].id.number() as usize] = slot,
        }
    }
}

impl Shapes {
    fn of(&mut self, shape: u32) -> &mut [u32] {
        let start = shape as usize * self.points_max;
        &mut self.series[start..start + self.points_max]
    }
}

impl Aggregate {
    const EMPTY: Aggregate =
        Aggregate { count: 0, last: 0.0, last_timestamp: 0, min: f64::INFINITY, max: f64::NEG_INFINITY, sum: 0.0 };

    fn add(&mut self, timestamp: u64, value: f64) {
        self.count += 1;
        self.sum += value;
        // Plain comparisons, since no value is NaN; `f64::min` would pay for that case.
        self.min = if value < self.min { value } else { self.min };
        self.max = if value > self.max { value } else { self.max };
        if timestamp >= self.last_timestamp {
            self.last_timestamp = timestamp;
            self.last = value;
        }
    }
}

/// Every series may have an id and a sensor of its own; and a new one has both before an old one gives its up.
const fn texts_max(series_max: usize) -> usize {
    2 * series_max + 2
}

/// Largest `series_max`: symbols, two classes of twice as many, are 32 bits wide. It would take 200 GB.
pub const SERIES_MAX_LIMIT: usize = 1 << 28;
const _: () = assert!(symbols_max(texts_max(SERIES_MAX_LIMIT)) <= u32::MAX as usize);
const _: () = assert!(size_of::<Series>() == 64, "a point that is guessed right touches one line of its series");

#[cfg(test)]
mod tests;
