use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::{PAGE_SLOTS, SeriesView};

type Key = (String, String);

/// The same table as a plain map, searched for the oldest at every eviction.
#[derive(Default)]
struct Model {
    /// By (id, sensor): what is told, and when it was last touched, as the tick and how many series were before it in it.
    series: HashMap<Key, (Aggregate, (u64, usize))>,
    evicted: u64,
}

impl Model {
    fn record(&mut self, series_max: usize, tick: u64, id: &str, timestamp: u64, points: &[(&str, f64)]) {
        for (sensor, value) in points {
            let key = (id.to_owned(), (*sensor).to_owned());
            if !self.series.contains_key(&key) && self.series.len() == series_max {
                let oldest = self.series.iter().min_by_key(|(_, (_, touched))| *touched).unwrap().0.clone();
                self.series.remove(&oldest);
                self.evicted += 1;
            }
            // The contract leaves the order within one tick open; the table goes by the first touch in it.
            let place = self.series.values().filter(|(_, (other, _))| *other == tick).map(|(_, (_, place))| place + 1);
            let place = place.max().unwrap_or(0);
            let (aggregate, touched) = self.series.entry(key).or_insert((Aggregate::EMPTY, (tick, place)));
            aggregate.count += 1;
            aggregate.sum += value;
            aggregate.min = aggregate.min.min(*value);
            aggregate.max = aggregate.max.max(*value);
            if aggregate.count == 1 || timestamp >= aggregate.last_timestamp {
                (aggregate.last, aggregate.last_timestamp) = (*value, timestamp);
            }
            if touched.0 != tick {
                *touched = (tick, place);
            }
        }
    }

    fn aggregates(&self) -> HashMap<Key, Aggregate> {
        self.series.iter().map(|(key, (aggregate, _))| (key.clone(), *aggregate)).collect()
    }
}

/// What pages tell of the whole table; a series told twice fails.
fn aggregates(rollup: &Rollup) -> HashMap<Key, Aggregate> {
    let (mut page, mut all) = (SeriesPage::new(), HashMap::new());
    for index in 0.. {
        page.reset(index, 0);
        rollup.fill(&mut page);
        for SeriesView { id, sensor, count, last, last_timestamp, min, max, sum } in page.iter() {
            let aggregate = Aggregate { count, last, last_timestamp, min, max, sum };
            assert_eq!(all.insert((id.to_owned(), sensor.to_owned()), aggregate), None, "{id} {sensor} is told once");
        }
        if page.is_last() {
            break;
        }
    }
    all
}

fn assert_texts_are_those_of_live_series(rollup: &Rollup) {
    let mut expected = HashMap::new();
    for (id, sensor) in aggregates(rollup).into_keys() {
        *expected.entry(id).or_default() += 1;
        *expected.entry(sensor).or_default() += 1;
    }
    assert_eq!(rollup.table.texts.live(), expected);
}

/// Names that are shared between ids and sensors, and of both classes.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec!["a", "b", "c", "d", "e"]).prop_map(str::to_owned),
        prop::sample::select(vec!["a", "b"]).prop_map(|letter| letter.repeat(40)),
    ]
}

proptest! {
    #[test]
    fn the_table_says_what_a_plain_map_says(
        series_max in 1usize..12,
        events in prop::collection::vec(
            (0u64..3, name(), 0u64..5, prop::collection::vec((name(), -3i32..4), 0..6)), 1..120),
    ) {
        let mut rollup = Rollup::new(series_max);
        let mut model = Model::default();
        let mut tick = u64::from(u32::MAX) - 50; // so that the lower half wraps around on the way
        for (elapsed, id, timestamp, points) in events {
            tick += elapsed;
            let points: Vec<_> = points.iter().map(|(sensor, value)| (sensor.as_str(), f64::from(*value))).collect();
            rollup.record(tick, &id, timestamp, points.iter().copied());
            model.record(series_max, tick, &id, timestamp, &points);
            prop_assert_eq!(aggregates(&rollup), model.aggregates());
            prop_assert_eq!((rollup.series(), rollup.evicted()), (model.series.len(), model.evicted));
            assert_texts_are_those_of_live_series(&rollup);
        }
    }
}

#[test]
fn last_is_of_the_greatest_timestamp_then_of_the_latest_arrival() {
    let mut rollup = Rollup::new(1);
    let mut last_after = |timestamp, value| {
        rollup.record(0, "pump", timestamp, [("rpm", value)].into_iter());
        let aggregate = aggregates(&rollup).into_values().next().unwrap();
        (aggregate.last_timestamp, aggregate.last)
    };
    assert_eq!(last_after(0, 1.0), (0, 1.0));
    assert_eq!(last_after(9, 2.0), (9, 2.0));
    assert_eq!(last_after(8, 3.0), (9, 2.0));
    assert_eq!(last_after(9, 4.0), (9, 4.0));
}

#[test]
fn an_event_of_more_new_series_than_fit_counts_each_point() {
    let mut rollup = Rollup::new(3);
    let names: Vec<String> = (0..10).map(|n| format!("sensor {n}")).collect();
    rollup.record(1, "pump", 1, names.iter().map(|name| (name.as_str(), 1.0)));
    assert_eq!((rollup.series(), rollup.evicted()), (3, 7));
    // Twice the same sensor, last in the table, and then enough others to push it out and have it come back.
    let again = ["sensor 9", "sensor 9", "x", "y", "z", "sensor 9"];
    rollup.record(2, "pump", 2, again.into_iter().map(|name| (name, 1.0)));
    let counts: HashMap<_, _> =
        aggregates(&rollup).into_iter().map(|((_, sensor), aggregate)| (sensor, aggregate.count)).collect();
    let expected = [("y", 1), ("z", 1), ("sensor 9", 1)].map(|(sensor, count)| (sensor.to_owned(), count));
    assert_eq!(counts, HashMap::from(expected));
    assert_texts_are_those_of_live_series(&rollup);
}

#[test]
fn eviction_takes_the_series_silent_longest() {
    let mut rollup = Rollup::new(3);
    let mut touch = |tick, sensor| {
        rollup.record(tick, "pump", 0, [(sensor, 0.0)].into_iter());
        let mut live: Vec<_> = aggregates(&rollup).into_keys().map(|(_, sensor)| sensor).collect();
        live.sort();
        live.concat()
    };
    ["a", "b", "c"].into_iter().zip(1..).for_each(|(sensor, tick)| drop(touch(tick, sensor)));
    assert_eq!(touch(4, "a"), "abc");
    assert_eq!(touch(5, "d"), "acd");
    assert_eq!(touch(6, "e"), "ade");
    assert_eq!(touch(7, "f"), "def");
}

#[test]
fn events_without_points_leave_no_trace() {
    let mut rollup = Rollup::new(2);
    rollup.record(0, "pump", 0, std::iter::empty());
    assert_eq!(rollup.series(), 0);
    assert!(rollup.table.texts.live().is_empty());
}

#[test]
fn evicted_texts_are_gone() {
    let mut rollup = Rollup::new(4);
    for n in 0..1_000u64 {
        let (id, sensor) = (format!("device {n}"), format!("{n:>60}"));
        rollup.record(n, &id, n, [(sensor.as_str(), 0.0), ("shared", 0.0)].into_iter());
        assert_texts_are_those_of_live_series(&rollup);
    }
    // Two series have an id and a sensor of their own each time; "shared" stays.
    assert_eq!(rollup.table.texts.live().len(), 5);
}

#[test]
fn sources_of_equal_shape_do_not_take_each_others_series() {
    let mut rollup = Rollup::new(100);
    let shape = ["temperature", "humidity", "pressure"];
    for round in 0..10u64 {
        for id in ["one", "two", "three"] {
            // Now and then a point is missing, so that what was remembered does not hold.
            let points = shape.into_iter().filter(|sensor| round % 3 != 1 || *sensor != "humidity");
            rollup.record(round, id, round, points.map(|sensor| (sensor, id.len() as f64)));
        }
    }
    let aggregates = aggregates(&rollup);
    assert_eq!(aggregates.len(), 9);
    for ((id, sensor), aggregate) in aggregates {
        assert_eq!(aggregate.count, if sensor == "humidity" { 7 } else { 10 }, "{id} {sensor}");
        assert_eq!((aggregate.min, aggregate.max), (id.len() as f64, id.len() as f64));
    }
}

#[test]
fn an_event_like_the_one_before_is_guessed_throughout() {
    let mut rollup = Rollup::new(100);
    let shape = ["temperature", "humidity", "pressure"];
    for (timestamp, id) in [(0, "one"), (0, "two"), (1, "one")] {
        rollup.record(timestamp, id, timestamp, shape.into_iter().map(|sensor| (sensor, 0.0)));
    }
    for id in ["one", "two"] {
        let source = rollup.table.texts.find(id);
        let mut guess = rollup.table.leads[source.unwrap().number() as usize];
        for sensor in shape {
            assert!(rollup.table.is_series(guess, source, sensor), "{id} {sensor}");
            guess = rollup.table.follower(guess);
        }
    }
}

#[test]
fn pages_of_a_round_tell_every_lasting_series_once_while_the_table_changes() {
    const SERIES: usize = 3 * PAGE_SLOTS + 17;
    let mut rollup = Rollup::new(SERIES + 25);
    let names: Vec<String> = (0..SERIES).map(|n| format!("lasting {n}")).collect();
    let all = || names.iter().map(|name| (name.as_str(), 1.0));
    rollup.record(0, "pump", 0, all());

    let mut told: HashMap<String, u64> = HashMap::new();
    let mut waiting: Vec<usize> = vec![3, 1, 0, 2]; // in any order
    let mut tick = 0;
    let mut last = None;
    while let Some(index) = waiting.pop() {
        let mut page = SeriesPage::new();
        page.reset(index, 42);
        // The lasting ones are touched, so strangers push out only strangers.
        tick += 1;
        rollup.record(tick, "pump", tick, all());
        for n in 0..20 {
            rollup.record(tick, "stranger", tick, [(format!("{tick} {n}").as_str(), 0.0)].into_iter());
        }
        rollup.fill(&mut page);
        assert_eq!((page.index(), page.round()), (index, 42));
        for view in page.iter().filter(|view| view.id == "pump") {
            assert_eq!(told.insert(view.sensor.to_owned(), view.count), None, "{view:?}");
            assert_eq!(view.count, tick + 1);
        }
        if page.is_last() {
            last = Some(index);
        }
    }
    assert_eq!((told.len(), last), (SERIES, Some(3)));
    assert!(rollup.evicted() > 0);
}

#[test]
fn a_page_past_the_table_is_empty_and_last() {
    let mut rollup = Rollup::new(2 * PAGE_SLOTS);
    let names: Vec<String> = (0..PAGE_SLOTS).map(|n| n.to_string()).collect();
    let page = |rollup: &Rollup, index| {
        let mut page = SeriesPage::new();
        page.reset(index, 0);
        rollup.fill(&mut page);
        (page.iter().count(), page.is_last())
    };
    assert_eq!(page(&rollup, 0), (0, true));
    rollup.record(0, "pump", 0, names.iter().map(|name| (name.as_str(), 0.0)));
    assert_eq!(page(&rollup, 0), (PAGE_SLOTS, true));
    assert_eq!(page(&rollup, 1), (0, true));
    assert_eq!(page(&rollup, usize::MAX), (0, true));
    rollup.record(1, "pump", 1, [("one more", 0.0)].into_iter());
    assert_eq!(page(&rollup, 0), (PAGE_SLOTS, false));
    assert_eq!(page(&rollup, 1), (1, true));
}

#[test]
fn a_page_that_was_not_reset_is_not_filled_twice() {
    let mut rollup = Rollup::new(4);
    rollup.record(0, "pump", 1, [("rpm", 2.0)].into_iter());
    let mut page = SeriesPage::new();
    page.reset(0, 3);
    for _ in 0..3 {
        rollup.fill(&mut page);
        assert_eq!((page.round(), page.iter().count()), (3, 1));
    }
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "the decoder refuses what is not finite")]
fn values_are_finite() {
    Rollup::new(1).record(0, "pump", 0, [("rpm", f64::NAN)].into_iter());
}

#[test]
#[should_panic(expected = "series_max is 1 to")]
fn a_table_for_nothing_is_refused() {
    drop(Rollup::new(0));
}

/// Shapes: the source and how many of its sensors an event of this shape names, some of them shared.
const SHAPES: [(&str, usize); 4] = [("pump", 3), ("valve", 1), ("valve", 4), ("fan", 5)];
const SENSORS: [&str; 5] = ["rpm", "volts", "amps", "rpm", "temperature"];

proptest! {
    /// Whatever is evicted in between: an event whose series are noted counts as one that names them.
    #[test]
    fn events_of_known_shapes_count_as_if_their_names_were_read(
        steps in prop::collection::vec((0..SHAPES.len(), any::<bool>(), -1e9..1e9f64), 1..120),
        strangers in prop::collection::vec(0..120usize, 0..12),
        series_max in 1..14usize,
    ) {
        let mut named = Rollup::new(series_max);
        let mut known = Rollup::with_shapes(series_max, SHAPES.len(), 4);
        let mut noted = [false; SHAPES.len()];
        for (tick, (shape, try_known, value)) in steps.into_iter().enumerate() {
            let (id, count) = SHAPES[shape];
            let values = (0..count).map(|n| value + n as f64).collect::<Vec<_>>();
            let points = || SENSORS.into_iter().zip(values.iter().copied()).take(count);
            let tick = tick as u64;
            named.record(tick, id, tick, points());
            let evicted = known.evicted();
            let counted = try_known && noted[shape] && known.record_known(tick, shape as u32, tick, values.iter().copied());
            prop_assert!(!counted || known.evicted() == evicted);
            if !counted {
                known.record_shape(tick, shape as u32, id, tick, points().collect::<Vec<_>>().into_iter());
                noted[shape] = true;
            }
            if strangers.contains(&(tick as usize)) {
                for rollup in [&mut named, &mut known] {
                    rollup.record(tick, "stranger", tick, [(format!("{tick}").as_str(), value)].into_iter());
                }
            }
            prop_assert_eq!(aggregates(&named), aggregates(&known));
            prop_assert_eq!(named.evicted(), known.evicted());
        }
    }
}

#[test]
fn a_shape_is_known_until_a_series_is_evicted() {
    let mut rollup = Rollup::with_shapes(2, 2, 2);
    let points = || [("rpm", 1.0), ("volts", 2.0)].into_iter();
    assert!(!rollup.record_known(0, 1, 0, [1.0, 2.0].into_iter()), "never noted");
    rollup.record_shape(0, 1, "pump", 0, points());
    assert!(rollup.record_known(1, 1, 1, [3.0, 4.0].into_iter()));
    assert!(!rollup.record_known(1, 1, 1, [3.0].into_iter()), "another number of points");
    rollup.record(2, "fan", 2, [("rpm", 5.0)].into_iter());
    assert!(!rollup.record_known(3, 1, 3, [6.0, 7.0].into_iter()), "one of its series is another's now");
    assert_eq!(
        aggregates(&rollup).values().map(|aggregate| aggregate.count).sum::<u64>(),
        3,
        "what was refused is not counted"
    );
}

#[test]
fn a_panic_in_the_middle_of_an_event_leaves_the_other_shapes_known_and_its_own_unknown() {
    let mut rollup = Rollup::with_shapes(8, 2, 2);
    rollup.record_shape(0, 0, "pump", 0, [("rpm", 1.0), ("volts", 2.0)].into_iter());
    rollup.record_shape(0, 1, "fan", 0, [("rpm", 3.0), ("volts", 4.0)].into_iter());
    let points = ["rpm", "volts"].into_iter().map(|sensor| {
        assert_ne!(sensor, "volts", "on purpose");
        (sensor, 5.0)
    });
    let recorded = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        rollup.record_shape(1, 1, "valve", 1, points);
    }));
    assert!(recorded.is_err());
    assert!(rollup.record_known(2, 0, 2, [6.0, 7.0].into_iter()), "a shape that the panic has nothing to do with");
    assert!(!rollup.record_known(2, 1, 2, [6.0, 7.0].into_iter()), "half of its series are of another source");
    rollup.record_shape(3, 1, "valve", 3, [("rpm", 8.0), ("volts", 9.0)].into_iter());
    assert!(rollup.record_known(4, 1, 4, [10.0, 11.0].into_iter()));
    let counts: HashMap<_, _> =
        aggregates(&rollup).into_iter().map(|(key, aggregate)| (key, aggregate.count)).collect();
    let count = |id: &str, sensor: &str| counts[&(id.to_owned(), sensor.to_owned())];
    assert_eq!((count("pump", "rpm"), count("pump", "volts")), (2, 2));
    assert_eq!((count("fan", "rpm"), count("fan", "volts")), (1, 1));
    assert_eq!((count("valve", "rpm"), count("valve", "volts")), (3, 2), "the first point came before the panic");
}
