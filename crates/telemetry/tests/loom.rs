//! The ring under every interleaving, and every value a relaxed load may return, that loom can think of.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p corelane-telemetry --release --test loom`, or `scripts/sanitize.sh`. Without
//! the flag this file is empty. The counts are small because the models grow exponentially; one lap is enough for every rule.
//! Weakening any one of the ring's four orderings (either fence, the Release store, the Acquire load) makes a model fail.

#![cfg(loom)]

use corelane_telemetry::{Reader, telemetry_ring};
use loom::thread;

/// No word of one position equals a word of another, or the 0 that a slot starts with.
fn sample<const WORDS: usize>(position: u64) -> [u64; WORDS] {
    std::array::from_fn(|index| (position + 1) * 16 + index as u64)
}

/// Reads once and checks whatever came: whole samples, strictly increasing, below `written_max`, each position counted.
fn read_checked<const WORDS: usize>(reader: &mut Reader<WORDS>, last: &mut Option<u64>, written_max: u64) {
    let before = reader.delivered();
    let count = reader.read(|words| {
        let position = words[0] / 16 - 1;
        assert_eq!(words, sample(position), "torn or mixed");
        assert!(last.is_none_or(|last| last < position), "{position} after {last:?}");
        assert!(position < written_max);
        *last = Some(position);
    });
    assert_eq!(reader.delivered(), before + count as u64);
    let seen = reader.delivered() + reader.lost();
    assert!(seen <= written_max);
    assert!(last.is_none_or(|last| last < seen));
}

/// One writer thread, `reads` reads beside it, one more read after it ended.
fn model<const WORDS: usize>(capacity: usize, written: u64, reads: usize) {
    loom::model(move || {
        let (mut recorder, mut reader) = telemetry_ring::<WORDS>(capacity);
        let writer = thread::spawn(move || {
            for position in 0..written {
                recorder.record(sample(position));
            }
            assert_eq!(recorder.written(), written);
        });
        let mut last = None;
        for _ in 0..reads {
            read_checked(&mut reader, &mut last, written);
        }
        writer.join().expect("the writer does not panic");
        read_checked(&mut reader, &mut last, written);
        assert_eq!(reader.delivered() + reader.lost(), written);
        assert_eq!(last, Some(written - 1), "with the writer at rest, the newest sample is delivered");
        if written <= capacity as u64 {
            assert_eq!(reader.lost(), 0, "nothing was overwritten");
        }
    });
}

#[test]
fn within_one_lap_every_published_sample_arrives_whole() {
    model::<2>(2, 2, 2);
}

#[test]
fn an_overwritten_slot_is_lost_and_never_torn() {
    model::<2>(1, 2, 1);
    model::<2>(1, 3, 1);
}

#[test]
fn a_lapped_reader_counts_each_position_once() {
    model::<1>(2, 4, 2);
}

#[test]
fn a_reader_overtaken_by_laps_accounts_for_every_position() {
    model::<1>(2, 6, 1);
}

#[test]
fn a_writer_in_the_slot_next_door_disturbs_nothing() {
    model::<2>(2, 3, 2);
}
