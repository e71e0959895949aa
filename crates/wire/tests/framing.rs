//! Framing gives the same frames however the stream is cut.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use corelane_wire::{HEADER_BYTES, MAX_FRAME_SIZE, Step, next_step};
use proptest::prelude::*;

/// What a stream says, without the cuts.
#[derive(Debug, Clone, PartialEq)]
enum Said {
    Frame(Vec<u8>),
    CommitRequest,
    Oversize(u32),
}

/// The whole stream at once, as the protocol's text has it. Also whether it ends inside a frame.
fn naive(mut stream: &[u8]) -> (Vec<Said>, bool) {
    let mut said = Vec::new();
    while let Some((header, rest)) = stream.split_first_chunk() {
        let length = u32::from_be_bytes(*header);
        if length as usize > MAX_FRAME_SIZE {
            said.push(Said::Oversize(length));
            return (said, false);
        }
        let Some((payload, rest)) = rest.split_at_checked(length as usize) else { break };
        said.push(if payload.is_empty() { Said::CommitRequest } else { Said::Frame(payload.to_vec()) });
        stream = rest;
    }
    (said, !stream.is_empty())
}

/// The same step by step, by a caller that keeps the unread bytes of `chunks`.
fn framed<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Said>, bool) {
    let mut said = Vec::new();
    let mut kept = Vec::new();
    for chunk in chunks {
        kept.extend_from_slice(chunk);
        let mut unread = &kept[..];
        loop {
            let before = unread;
            match next_step(&mut unread) {
                Step::Frame(payload) => {
                    assert_eq!(payload.as_ptr(), before[HEADER_BYTES..].as_ptr(), "it lies in the input");
                    said.push(Said::Frame(payload.to_vec()));
                }
                Step::CommitRequest => said.push(Said::CommitRequest),
                Step::NeedMore { frame_bytes } => {
                    assert!(unread == before && unread.len() < frame_bytes);
                    break;
                }
                Step::Oversize { declared_bytes } => {
                    said.push(Said::Oversize(declared_bytes));
                    return (said, false);
                }
            }
        }
        kept = unread.to_vec();
    }
    (said, !kept.is_empty())
}

fn frame(payload: &[u8]) -> Vec<u8> {
    [&(payload.len() as u32).to_be_bytes()[..], payload].concat()
}

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

        let mut chunks = Vec::new();
        let mut rest = &stream[..];
        for bytes in chunk_bytes {
            let (chunk, behind) = rest.split_at(bytes.min(rest.len()));
            chunks.push(chunk);
            rest = behind;
        }
        chunks.push(rest);
        prop_assert_eq!(framed(chunks), naive(&stream));
    }
}
