//! Nothing allocates once a decoder is made: not for the largest event, the most chunks, nor any refusal.

mod common;

use std::alloc::System;

use common::ways::ZEROS;
use common::*;
use corelane_testkit::allocator::{Counting, calls_of};
use corelane_wire::{
    Answer, Decoder, Hint, MAX_FRAME_SIZE, POINTS_MAX, Padded, RejectReason, SKELETONS, SLACK_BYTES, Shape,
    SkeletonTable, Step, encode_answer, next_step,
};

#[global_allocator]
static ALLOCATOR: Counting<System> = Counting(System);

fn allocations(work: impl FnOnce()) -> u64 {
    calls_of(work).0.allocations
}

/// Events at each limit of the scratch, and a payload for every reason that the decoder gives.
fn payloads() -> Vec<Vec<u8>> {
    let point = b"\xa2\x66sensor\x61s\x65value\x00".to_vec();
    let chunked_point = b"\xa2\x66sensor\x7f\x61s\x60\xff\x65value\x00".to_vec();
    let one_chunk = event_with("metadata", chunked(&[&vec![b'm'; MAX_FRAME_SIZE - 200]]));
    let one_byte_chunks = event_with("metadata", chunked(&vec![&b"m"[..]; (MAX_FRAME_SIZE - 200) / 2]));
    let mut unknown_chunked_keys = event_pairs();
    unknown_chunked_keys.push((chunked(&[&vec![b'k'; MAX_FRAME_SIZE - 200]]), uint(0)));
    let mut payloads = varied_events();
    payloads.extend([
        event_with("telemetry", array(&vec![point.clone(); POINTS_MAX])),
        event_with("telemetry", array(&vec![chunked_point; POINTS_MAX])),
        one_chunk,
        one_byte_chunks,
        map(&unknown_chunked_keys),
        event_with("telemetry", array(&vec![point.clone(); POINTS_MAX + 200])),
        map(&[event_pairs(), vec![(text("telemetry"), array(&vec![point; POINTS_MAX]))]].concat()),
        map(&event_pairs())[..20].to_vec(),
        vec![0x81; 65_000],
        [map(&event_pairs()), vec![0]].concat(),
        event_with("id", text_of(b"\xff")),
        event_with("id", uint(1)),
        vec![0; MAX_FRAME_SIZE + 1],
    ]);
    payloads
}

#[test]
fn decoding_allocates_nothing() {
    let payloads = payloads();
    for reason in RejectReason::ALL {
        assert!(payloads.iter().any(|payload| common::reason(payload) == Some(reason)), "one payload is {reason:?}");
    }
    let mut decoder = Decoder::new();
    for payload in &payloads {
        let mut sum = 0.0;
        let count = allocations(|| {
            if let Ok(event) = decoder.decode(payload) {
                sum += event.points().map(|point| point.value + point.sensor.len() as f64).sum::<f64>();
                sum += event.metadata().map_or(0, str::len) as f64;
            }
        });
        assert_eq!(count, 0, "{} bytes, checksum {sum}", payload.len());
    }
}

#[test]
fn decoding_with_skeletons_allocates_nothing_however_many_sources_come() {
    let mut payloads = payloads();
    payloads.extend((0..2 * SKELETONS).map(|source| event_with("id", text(&format!("device-{source}")))));
    for payload in &mut payloads {
        payload.extend_from_slice(&ZEROS);
    }
    let (mut decoder, mut skeletons, mut hint) = (Decoder::new(), SkeletonTable::new(), Hint::default());
    let (mut learned, mut known) = (0, 0);
    let count = allocations(|| {
        for payload in payloads.iter().flat_map(|payload| [payload, payload]) {
            let padded = Padded::new(payload, 0, payload.len() - SLACK_BYTES).expect("it is padded");
            match decoder.decode_padded(padded, &mut skeletons, &mut hint).map(|event| event.shape()) {
                Ok(Shape::Learned(_)) => learned += 1,
                Ok(Shape::Known(_)) => known += 1,
                _ => (),
            }
        }
    });
    assert!(learned > SKELETONS && known > SKELETONS, "{learned} learned, {known} known");
    assert_eq!(count, 0);
}

#[test]
fn framing_and_answering_allocate_nothing() {
    let stream = [&[0, 0, 0, 3, 1, 2, 3][..], &[0; 4], &[0, 0, 1, 0, 9]].concat();
    let mut steps = 0;
    let count = allocations(|| {
        let mut unread = &stream[..];
        while !matches!(next_step(&mut unread), Step::NeedMore { .. }) {
            steps += 1;
        }
        steps += encode_answer(Answer { committed: u64::MAX, rejected: 1 }).as_slice().len();
    });
    assert!(steps > 4);
    assert_eq!(count, 0);
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Vec::<u8>::with_capacity(100)))), 1);
    assert_eq!(allocations(|| drop(std::hint::black_box(Decoder::new()))), 2, "a decoder is its two scratch blocks");
    assert_eq!(
        allocations(|| drop(std::hint::black_box(SkeletonTable::new()))),
        2,
        "a table is its slots and its sets"
    );
}

#[test]
fn what_is_made_at_start_takes_the_bytes_that_are_told() {
    assert_eq!(calls_of(Decoder::new).0.bytes, Decoder::MEMORY_BYTES as u64);
    assert_eq!(calls_of(SkeletonTable::new).0.bytes, SkeletonTable::MEMORY_BYTES as u64);
}
