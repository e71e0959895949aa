//! What does it cost to count an event's points into their series: known ones, new ones, and with the table full?
//!
//! Workload: events of 14 points from as many sources as make 1 024, 4 096, 16 384 or 65 536 series, source after
//! source, 998 bytes of names an event. `known`: every series exists. `new`: an empty table is filled to the brim, its
//! construction not counted. `evict`: the table is full and every event is of a source that is not in it, so that each
//! point evicts the series that has been silent longest.
//!
//! Contenders: `corelane` gives ids and names (`Rollup::record`), `corelane_shape` the number under which the series of
//! this source's points were noted, as a shard does after a skeleton match. Baselines keep the same numbers: `std` in
//! `HashMap<String, HashMap<String, Aggregate>>`, which need not build a key to look one up, and `hashbrown` in one map by
//! (`String`, `String`), looked up by borrowed pairs, with its own fast hasher. On eviction they drop the source that
//! came first, from a queue: simpler than what they are compared with.
//!
//! Read: the time of each baseline over that of `corelane` at the same number of series; criterion gives points a
//! second. Each contender's count of points, and `corelane`'s of series and evictions, are checked.

use std::collections::{HashMap, VecDeque};
use std::hint::black_box;
use std::time::Duration;

use corelane_benches::events::{self, Source};
use corelane_benches::host::{self, CpuTime};
use corelane_rollup::Rollup;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use hashbrown::Equivalent;
use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

const POINTS: usize = events::DEVICE_POINTS;

/// What is kept of a series.
#[derive(Clone, Copy)]
struct Aggregate {
    count: u64,
    last: f64,
    last_timestamp: u64,
    min: f64,
    max: f64,
    sum: f64,
}

impl Aggregate {
    const EMPTY: Self =
        Self { count: 0, last: 0.0, last_timestamp: 0, min: f64::INFINITY, max: f64::NEG_INFINITY, sum: 0.0 };

    fn add(&mut self, timestamp: u64, value: f64) {
        self.count += 1;
        self.sum += value;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        if timestamp >= self.last_timestamp {
            (self.last, self.last_timestamp) = (value, timestamp);
        }
    }
}

/// Maps of maps, of the standard library.
#[derive(Default)]
struct StdRollup {
    sources: HashMap<String, HashMap<String, Aggregate>>,
    order: VecDeque<String>,
}

impl StdRollup {
    fn record(&mut self, source: &Source, timestamp: u64, sources_max: usize) {
        if !self.sources.contains_key(&source.id) {
            if self.sources.len() == sources_max {
                let oldest = self.order.pop_front().expect("a full table has an oldest source");
                self.sources.remove(&oldest);
            }
            self.order.push_back(source.id.clone());
            self.sources.insert(source.id.clone(), HashMap::new());
        }
        let series = self.sources.get_mut(&source.id).expect("just looked");
        for (index, (sensor, _)) in source.points.iter().enumerate() {
            match series.get_mut(sensor.as_str()) {
                Some(aggregate) => aggregate.add(timestamp, index as f64),
                None => {
                    let mut aggregate = Aggregate::EMPTY;
                    aggregate.add(timestamp, index as f64);
                    series.insert(sensor.clone(), aggregate);
                }
            }
        }
    }

    fn points(&self) -> u64 {
        self.sources.values().flat_map(HashMap::values).map(|aggregate| aggregate.count).sum()
    }
}

/// One map by pairs.
#[derive(Default)]
struct HashbrownRollup {
    series: hashbrown::HashMap<(String, String), Aggregate>,
    order: VecDeque<(String, String)>,
}

/// A pair of borrowed names, to look up an owned one.
#[derive(Hash)]
struct Names<'a>(&'a str, &'a str);

impl Equivalent<(String, String)> for Names<'_> {
    fn equivalent(&self, key: &(String, String)) -> bool {
        self.0 == key.0 && self.1 == key.1
    }
}

impl HashbrownRollup {
    fn record(&mut self, source: &Source, timestamp: u64, series_max: usize) {
        for (index, (sensor, _)) in source.points.iter().enumerate() {
            if let Some(aggregate) = self.series.get_mut(&Names(&source.id, sensor)) {
                aggregate.add(timestamp, index as f64);
                continue;
            }
            if self.series.len() == series_max {
                let oldest = self.order.pop_front().expect("a full table has an oldest series");
                self.series.remove(&oldest);
            }
            let key = (source.id.clone(), sensor.clone());
            self.order.push_back(key.clone());
            let mut aggregate = Aggregate::EMPTY;
            aggregate.add(timestamp, index as f64);
            self.series.insert(key, aggregate);
        }
    }

    fn points(&self) -> u64 {
        self.series.values().map(|aggregate| aggregate.count).sum()
    }
}

fn record(rollup: &mut Rollup, tick: u64, source: &Source) {
    let points = source.points.iter().enumerate().map(|(index, (sensor, _))| (sensor.as_str(), index as f64));
    rollup.record(tick, &source.id, tick, points);
}

fn rollup(criterion: &mut Criterion<CpuTime>) {
    host::pin(host::cores().0);
    for series_max in [1_024, 4_096, 16_384, 65_536] {
        // The brim, in whole sources.
        let count = series_max / POINTS;
        let series_max = count * POINTS;
        let sources: Vec<_> = (0..count).map(events::device).collect();
        let strangers: Vec<_> = (count..2 * count).map(events::device).collect();
        let points = Throughput::Elements(series_max as u64);

        let mut group = criterion.benchmark_group(format!("rollup_known_{series_max}"));
        group.warm_up_time(WARM_UP).measurement_time(MEASUREMENT).sample_size(10).throughput(points.clone());
        let mut tick = 0;
        let mut table = Rollup::new(series_max);
        group.bench_function("corelane", |bencher| {
            bencher.iter(|| {
                tick += 1;
                sources.iter().for_each(|source| record(&mut table, tick, source));
            });
        });
        assert_eq!((table.series(), table.evicted()), (series_max, 0));
        let mut table = Rollup::with_shapes(series_max, count, POINTS);
        for (shape, source) in (0..).zip(&sources) {
            let points = source.points.iter().map(|(sensor, _)| (sensor.as_str(), 0.0));
            table.record_shape(0, shape, &source.id, 0, points);
        }
        group.bench_function("corelane_shape", |bencher| {
            bencher.iter(|| {
                tick += 1;
                for shape in 0..count as u32 {
                    assert!(table.record_known(tick, shape, tick, (0..POINTS).map(|index| index as f64)));
                }
            });
        });
        let mut std = StdRollup::default();
        let mut passes = 0;
        group.bench_function("std", |bencher| {
            bencher.iter(|| {
                passes += 1;
                sources.iter().for_each(|source| std.record(source, passes, count));
            });
        });
        assert_eq!(std.points(), passes * series_max as u64);
        let mut hashbrown = HashbrownRollup::default();
        let mut passes = 0;
        group.bench_function("hashbrown", |bencher| {
            bencher.iter(|| {
                passes += 1;
                sources.iter().for_each(|source| hashbrown.record(source, passes, series_max));
            });
        });
        assert_eq!(hashbrown.points(), passes * series_max as u64);
        group.finish();

        let mut group = criterion.benchmark_group(format!("rollup_new_{series_max}"));
        group.warm_up_time(WARM_UP).measurement_time(MEASUREMENT).sample_size(10).throughput(points.clone());
        group.bench_function("corelane", |bencher| {
            let fill = |mut table: Rollup| {
                sources.iter().for_each(|source| record(&mut table, 1, source));
                table
            };
            bencher.iter_batched(|| Rollup::new(series_max), fill, BatchSize::PerIteration);
        });
        group.bench_function("std", |bencher| {
            let fill = |mut table: StdRollup| {
                sources.iter().for_each(|source| table.record(source, 1, count));
                table
            };
            bencher.iter_batched(StdRollup::default, fill, BatchSize::PerIteration);
        });
        group.bench_function("hashbrown", |bencher| {
            let fill = |mut table: HashbrownRollup| {
                sources.iter().for_each(|source| table.record(source, 1, series_max));
                table
            };
            bencher.iter_batched(HashbrownRollup::default, fill, BatchSize::PerIteration);
        });
        group.finish();

        // By turns the ones and the others: whoever comes was evicted one pass before.
        let by_turns = [&strangers, &sources];
        let mut group = criterion.benchmark_group(format!("rollup_evict_{series_max}"));
        group.warm_up_time(WARM_UP).measurement_time(MEASUREMENT).sample_size(10).throughput(points);
        let mut table = Rollup::new(series_max);
        sources.iter().for_each(|source| record(&mut table, 0, source));
        let mut passes = 0;
        group.bench_function("corelane", |bencher| {
            bencher.iter(|| {
                passes += 1;
                by_turns[passes as usize % 2].iter().for_each(|source| record(&mut table, passes, source));
            });
        });
        // The first pass is of `sources` again: they are the ones that it finds.
        assert_eq!(table.evicted(), passes.saturating_sub(1) * series_max as u64);
        let mut std = StdRollup::default();
        let mut passes = 0;
        group.bench_function("std", |bencher| {
            bencher.iter(|| {
                passes += 1;
                by_turns[passes as usize % 2].iter().for_each(|source| std.record(source, passes, count));
            });
        });
        assert_eq!(std.points(), if passes > 0 { series_max as u64 } else { 0 });
        let mut hashbrown = HashbrownRollup::default();
        let mut passes = 0;
        group.bench_function("hashbrown", |bencher| {
            bencher.iter(|| {
                passes += 1;
                by_turns[passes as usize % 2].iter().for_each(|source| hashbrown.record(source, passes, series_max));
            });
        });
        assert_eq!(hashbrown.points(), if passes > 0 { series_max as u64 } else { 0 });
        group.finish();
        black_box((&table, &std.sources, &hashbrown.series));
        println!("rollup_{series_max}: points and series as expected");
    }
}

const WARM_UP: Duration = Duration::from_millis(100);
const MEASUREMENT: Duration = Duration::from_millis(300);

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime::new());
    targets = rollup
}
criterion_main!(benches);
