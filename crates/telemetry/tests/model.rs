//! The ring on one thread against a `VecDeque` that drops its oldest: the same samples, the same counts, step by step.
#![cfg(not(loom))]

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

use corelane_telemetry::telemetry_ring;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

#[derive(Debug, Clone)]
enum Step {
    Record(u8),
    Read,
    /// A read whose closure panics at the sample of this index, if there are as many.
    ReadPanicking(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..40_u8).prop_map(Step::Record),
        3 => Just(Step::Read),
        1 => (0..6_usize).prop_map(Step::ReadPanicking),
    ]
}

fn sample(position: u64) -> [u64; 3] {
    [position, position ^ 0xaaaa, !position]
}

/// A failing case prints its seed into this file, and runs first from then on.
const REGRESSIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/model.proptest-regressions");

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(REGRESSIONS))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn ring_is_a_queue_that_drops_its_oldest(capacity in 0..20_usize, steps in prop::collection::vec(step(), 0..40)) {
        let (mut recorder, mut reader) = telemetry_ring::<3>(capacity);
        let slots = capacity.next_power_of_two();
        let mut queue = VecDeque::new();
        let (mut written, mut delivered, mut lost) = (0, 0, 0);
        for step in steps {
            match step {
                Step::Record(count) => {
                    for _ in 0..count {
                        recorder.record(sample(written));
                        if queue.len() == slots {
                            queue.pop_front();
                            lost += 1;
                        }
                        queue.push_back(sample(written));
                        written += 1;
                    }
                    prop_assert_eq!(recorder.written(), written);
                    // Loss is learnt by reading, not before.
                    prop_assert!(reader.delivered() + reader.lost() <= written);
                    continue;
                }
                Step::ReadPanicking(index) if index < queue.len() => {
                    let mut seen = Vec::new();
                    let outcome = catch_unwind(AssertUnwindSafe(|| {
                        reader.read(|words| {
                            seen.push(words);
                            if seen.len() > index {
                                // Unlike `panic!`, prints nothing.
                                std::panic::resume_unwind(Box::new("the closure's own"));
                            }
                        })
                    }));
                    prop_assert!(outcome.is_err());
                    prop_assert_eq!(seen, queue.drain(..=index).collect::<Vec<_>>());
                    delivered += index as u64 + 1;
                    prop_assert_eq!(reader.delivered() + reader.lost() + queue.len() as u64, written);
                }
                Step::Read | Step::ReadPanicking(_) => {
                    let mut seen = Vec::new();
                    let count = reader.read(|words| seen.push(words));
                    prop_assert_eq!(count, queue.len());
                    prop_assert_eq!(seen, queue.drain(..).collect::<Vec<_>>());
                    delivered += count as u64;
                    prop_assert_eq!(reader.delivered() + reader.lost(), written);
                }
            }
            prop_assert_eq!(reader.delivered(), delivered);
            prop_assert_eq!(reader.lost(), lost);
        }
    }
}

#[test]
fn capacity_is_rounded_up_to_a_power_of_two() {
    for (capacity, slots) in [(0, 1), (1, 1), (2, 2), (3, 4), (5, 8), (1000, 1024), (1024, 1024)] {
        let (mut recorder, mut reader) = telemetry_ring::<1>(capacity);
        for position in 0..5000 {
            recorder.record([position]);
        }
        assert_eq!(reader.read(|_| ()), slots, "capacity {capacity}");
        assert_eq!(reader.lost(), 5000 - slots as u64);
    }
}

#[test]
fn a_sample_recorded_while_reading_waits_for_the_next_read() {
    let (mut recorder, mut reader) = telemetry_ring::<1>(4);
    recorder.record([0]);
    recorder.record([1]);
    let mut seen = Vec::new();
    assert_eq!(
        reader.read(|[word]| {
            seen.push(word);
            recorder.record([word + 2]);
        }),
        2
    );
    assert_eq!(reader.read(|[word]| seen.push(word)), 2);
    assert_eq!(seen, [0, 1, 2, 3]);
    assert_eq!(reader.lost(), 0);
}

/// The closure writes more than a lap for each sample it is handed, so the reader is overtaken in the middle of a read,
/// by any number of laps, without a second thread.
#[test]
fn a_reader_overtaken_inside_a_read_ends_and_counts_what_it_missed() {
    for burst in 1..40 {
        let (mut recorder, mut reader) = telemetry_ring::<1>(8);
        let mut next = 0;
        let mut record = |count| {
            for _ in 0..count {
                recorder.record([next]);
                next += 1;
            }
            next
        };
        let mut seen = Vec::new();
        let mut oldest = 0;
        for _ in 0..5 {
            let begun_with = record(8);
            oldest = oldest.max(begun_with - 8);
            let expected: Vec<u64> = {
                // The sample handed out is lost to no one; what follows survives while it is less than a lap old.
                let (mut at, mut written, mut expected) = (oldest, begun_with, Vec::new());
                while at < begun_with {
                    expected.push(at);
                    written += burst;
                    at = (at + 1).max(written.saturating_sub(8));
                }
                expected
            };
            seen.clear();
            let count = reader.read(|[word]| {
                seen.push(word);
                record(burst);
            });
            assert_eq!(seen, expected, "burst {burst}");
            assert_eq!(count, expected.len());
            assert_eq!(reader.delivered() + reader.lost(), begun_with);
            oldest = begun_with;
        }
    }
}

#[test]
fn both_ends_move_between_threads_and_outlive_each_other() {
    fn assert_send<T: Send + 'static>(_: &T) {}
    let (mut recorder, mut reader) = telemetry_ring::<2>(4);
    assert_send(&recorder);
    assert_send(&reader);
    recorder.record([1, 2]);
    drop(recorder);
    assert_eq!(reader.read(|words| assert_eq!(words, [1, 2])), 1);

    let (mut recorder, reader) = telemetry_ring::<2>(4);
    drop(reader);
    (0..10).for_each(|word| recorder.record([word, word]));
    assert_eq!(recorder.written(), 10);
}
