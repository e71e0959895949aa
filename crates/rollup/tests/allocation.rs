//! Memory is decided at construction: what peers send afterwards, however many names they make up, allocates nothing.

use std::alloc::System;
use std::fmt::Write;

use corelane_rollup::{PAGE_BYTES_MAX, PAGE_SLOTS, Rollup, SeriesPage, TEXT_BYTES_MAX};
use corelane_testkit::allocator::{Counting, calls_of};

#[global_allocator]
static ALLOCATOR: Counting<System> = Counting(System);

/// Allocator calls that `work` makes on this thread. A release on the hot path is as unwelcome as an allocation.
fn calls(work: impl FnOnce()) -> u64 {
    let (calls, ()) = calls_of(work);
    calls.allocations + calls.releases
}

const SERIES_MAX: usize = 3 * PAGE_SLOTS + 1;

#[test]
fn steady_state_allocates_nothing() {
    let mut rollup = Rollup::new(SERIES_MAX);
    let sensors: Vec<String> = (0..14).map(|n| format!("sensor {n}")).collect();
    let ids: Vec<String> = (0..SERIES_MAX / 14).map(|n| format!("device {n}")).collect();
    let mut round = |tick: u64| {
        for id in &ids {
            rollup.record(tick, id, tick, sensors.iter().map(|sensor| (sensor.as_str(), tick as f64)));
        }
    };
    assert_eq!(calls(|| (0..1_000).for_each(&mut round)), 0);
    assert_eq!((rollup.series(), rollup.evicted()), (ids.len() * 14, 0));
}

#[test]
fn a_million_names_allocate_nothing_and_leave_a_full_table() {
    const NAMES: u64 = 1_000_000;
    let mut rollup = Rollup::new(SERIES_MAX);
    let mut name = String::with_capacity(TEXT_BYTES_MAX);
    let mut id = String::with_capacity(TEXT_BYTES_MAX);
    let calls = calls(|| {
        for n in 0..NAMES {
            // Every length from ten bytes up, and so both classes.
            let width = 10 + (n / 5) as usize % (TEXT_BYTES_MAX - 9);
            name.clear();
            id.clear();
            write!(name, "{n:0width$}").unwrap();
            write!(id, "{:0width$}", n / 5).unwrap();
            rollup.record(n / 100, &id, n, [(name.as_str(), 1.0), ("shared by all", 1.0)].into_iter());
        }
    });
    assert_eq!(calls, 0);
    assert_eq!(rollup.series(), SERIES_MAX);
    let created = NAMES + NAMES / 5; // "shared by all" stays live through the five events of an id
    assert_eq!(rollup.evicted(), created - SERIES_MAX as u64);
}

#[test]
fn filling_pages_allocates_nothing_with_the_longest_texts() {
    let mut rollup = Rollup::new(SERIES_MAX);
    let (id, sensors) = ("i".repeat(TEXT_BYTES_MAX), (0..SERIES_MAX).map(|n| format!("{n:0>256}")).collect::<Vec<_>>());
    rollup.record(0, &id, 0, sensors.iter().map(|sensor| (sensor.as_str(), 1.0)));
    let mut pages: [_; 4] = std::array::from_fn(|_| SeriesPage::new());
    let mut told = 0;
    for round in 0..3 {
        let work = || {
            for (index, page) in pages.iter_mut().enumerate() {
                page.reset(index, round);
                rollup.fill(page);
                told += page.iter().filter(|view| view.id == id && view.sensor.len() == TEXT_BYTES_MAX).count();
            }
        };
        assert_eq!(calls(work), 0);
    }
    assert_eq!(told, 3 * SERIES_MAX);
}

#[test]
fn planned_memory_is_what_is_allocated() {
    for series_max in [1, 2, 1_000, SERIES_MAX, 65_536] {
        let (calls, _rollup) = calls_of(|| Rollup::new(series_max));
        assert_eq!(calls.bytes, Rollup::memory_bytes_max(series_max) as u64, "series_max {series_max}");
    }
    let (calls, _rollup) = calls_of(|| Rollup::with_shapes(2, 8, 3));
    assert_eq!(calls.bytes, (Rollup::memory_bytes_max(2) + Rollup::shapes_bytes_max(8, 3)) as u64);
    assert_eq!(calls_of(SeriesPage::new).0.bytes, PAGE_BYTES_MAX as u64);
}
