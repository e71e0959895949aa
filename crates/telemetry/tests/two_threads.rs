//! A writer and a reader on two real threads, at full speed: every sample whole, in order, and accounted for.
//!
//! Runs under ThreadSanitizer, too. Since `std` is not instrumented there, the threads meet in `spawn` and `join` (which
//! it knows) and not in `scope`, a lock or a print.
#![cfg(not(loom))]

use std::thread;

use corelane_telemetry::telemetry_ring;

const WORDS: usize = 4;
const SAMPLES: u64 = if cfg!(miri) { 300 } else { 3_000_000 };

/// Each word is a bijection of the position (the multipliers are odd), so copies mixed from two samples never match.
fn sample(position: u64) -> [u64; WORDS] {
    [position, position.wrapping_mul(0x9e37_79b9_7f4a_7c15), !position, position.wrapping_mul(0xbf58_476d_1ce4_e5b9)]
}

/// Returns how many of `samples` were delivered and how many were lost, after checking that each was one of the two.
fn race(capacity: usize, samples: u64) -> (u64, u64) {
    let (mut recorder, mut reader) = telemetry_ring::<WORDS>(capacity);
    let writer = thread::spawn(move || {
        for position in 0..samples {
            recorder.record(sample(position));
        }
        recorder.written()
    });

    let mut last = None;
    let mut delivered = 0;
    let mut read_checked = || {
        let count = reader.read(|words| {
            assert_eq!(words, sample(words[0]), "torn");
            assert!(last < Some(words[0]), "{} after {last:?}", words[0]);
            last = Some(words[0]);
        });
        assert!(count <= capacity.next_power_of_two());
        delivered += count as u64;
        assert_eq!(reader.delivered(), delivered);
        let seen = reader.delivered() + reader.lost();
        assert!(seen <= samples && last < Some(seen));
    };
    while !writer.is_finished() {
        read_checked();
    }
    let written = writer.join().expect("the writer does not panic");
    read_checked();

    assert_eq!(written, samples);
    assert_eq!(reader.delivered() + reader.lost(), written);
    assert_eq!(last, Some(samples - 1), "with the writer at rest, the newest sample is delivered");
    (reader.delivered(), reader.lost())
}

#[test]
fn a_reader_lapped_all_the_time_loses_exactly_what_it_does_not_deliver() {
    for capacity in [1, 2, 8, 100] {
        let (_, lost) = race(capacity, SAMPLES);
        // Nobody reads millions of samples through so few slots without missing one.
        assert!(cfg!(miri) || lost > 0);
    }
}

#[test]
fn a_roomy_ring_accounts_for_every_sample() {
    race(4096, SAMPLES);
}

#[test]
fn a_ring_larger_than_all_samples_loses_nothing() {
    let samples = SAMPLES / 10;
    assert_eq!(race(samples as usize, samples), (samples, 0));
}
