//! Framing gives the same frames however the stream is cut.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::stream::{Said, cut, frame, framed, naive};
use corelane_wire::MAX_FRAME_SIZE;
use proptest::prelude::*;

fn sample() -> Vec<u8> {
    [frame(b"first"), frame(b""), frame(b"x"), frame(&[7; 300]), frame(b""), frame(b""), frame(b"last")].concat()
}

#[test]
fn a_stream_cut_at_any_byte_gives_the_same_frames() {
    let stream = sample();
    let expected = naive(&stream);
    assert_eq!(expected.0.len(), 7);
    for cut in 0..=stream.len() {
        assert_eq!(framed([&stream[..cut], &stream[cut..]]), expected, "cut at {cut}");
        assert_eq!(framed([&stream[..cut], &[], &stream[cut..]]), expected, "cut at {cut}, with nothing between");
    }
}

#[test]
fn a_stream_byte_by_byte_gives_the_same_frames() {
    let stream = sample();
    assert_eq!(framed(stream.chunks(1)), naive(&stream));
}

#[test]
fn a_stream_that_ends_inside_a_frame_says_so() {
    let stream = sample();
    for end in 0..=stream.len() {
        let expected = naive(&stream[..end]);
        assert_eq!(framed([&stream[..end]]), expected, "whole, ended at {end}");
        assert_eq!(framed(stream[..end].chunks(1)), expected, "byte by byte, ended at {end}");
    }
}

#[test]
fn oversize_is_told_by_the_header_alone() {
    let stream = [frame(b"good"), (MAX_FRAME_SIZE as u32 + 1).to_be_bytes().to_vec()].concat();
    let expected = (vec![Said::Frame(b"good".to_vec()), Said::Oversize(MAX_FRAME_SIZE as u32 + 1)], false);
    for cut in 0..=stream.len() {
        assert_eq!(framed([&stream[..cut], &stream[cut..]]), expected);
    }
    assert_eq!(framed([&stream[..stream.len() - 1]]).0.len(), 1, "not before the header is whole");
}

/// Payload lengths: mostly small, some at the edges.
fn length() -> impl Strategy<Value = usize> {
    prop_oneof![8 => 0..40usize, 2 => Just(0), 1 => Just(MAX_FRAME_SIZE), 1 => 1..=MAX_FRAME_SIZE]
}

proptest! {
    #[test]
    fn random_streams_in_random_chunks_give_the_frames_of_the_naive_framer(
        lengths in prop::collection::vec(length(), 0..12),
        declared in prop::option::weighted(0.2, any::<u32>()),
        cut_off in 0..70usize,
        chunk_bytes in prop::collection::vec(prop_oneof![4 => 0..9usize, 2 => 0..600usize, 1 => 0..100_000usize], 1..50),
    ) {
        let payload: Vec<u8> = (0..MAX_FRAME_SIZE).map(|at| (at * 31 % 251) as u8).collect();
        let mut stream: Vec<u8> = lengths.iter().flat_map(|length| frame(&payload[..*length])).collect();
        stream.extend(declared.map(u32::to_be_bytes).iter().flatten());
        stream.truncate(stream.len().saturating_sub(cut_off));

        prop_assert_eq!(framed(cut(&stream, chunk_bytes)), naive(&stream));
    }
}
