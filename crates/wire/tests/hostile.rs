//! Payloads made to exhaust a decoder: the right reason, on a small stack.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::ways::{Ways, ZEROS};
use common::*;
use corelane_wire::RejectReason::{Malformed, TooDeep};
use corelane_wire::{DEPTH_MAX, RejectReason};

/// The reason for `payload`, found on a stack that a recursion of a few hundred levels would overflow.
fn reason_on_a_small_stack(payload: Vec<u8>) -> Option<RejectReason> {
    const STACK_BYTES: usize = 64 * 1024;
    let decode = move || Ways::new(1).answer(0, &payload, &ZEROS).err();
    std::thread::Builder::new().stack_size(STACK_BYTES).spawn(decode).unwrap().join().unwrap()
}

#[test]
fn declared_counts_are_not_believed() {
    for payload in [
        &b"\x9a\xff\xff\xff\xff"[..],
        b"\xa2\x9b\x80\0\0\0\0\0\0\0",
        b"\xbb\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\xbb\x80\0\0\0\0\0\0\0\x61x\x01",
        b"\x7b\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\xa1\x69telemetry\x9b\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\xa1\x62id\x7b\xff\xff\xff\xff\xff\xff\xff\xffx",
        b"\xa1\x61x\x5b\x80\0\0\0\0\0\0\0",
    ] {
        assert_eq!(reason_on_a_small_stack(payload.to_vec()), Some(Malformed), "{payload:02x?}");
    }
    // Twice this many items are none, to whoever multiplies in 64 bits.
    let pairs = b"\xbb\x80\0\0\0\0\0\0\0".to_vec();
    assert_eq!(reason_on_a_small_stack(event_with("unknown", pairs)), Some(Malformed));
}

#[test]
fn endless_nesting_is_too_deep() {
    const LEVELS: usize = 65_000;
    for level in
        [&b"\x81"[..], b"\xc0", b"\x9f", b"\xd8\x20", b"\xd9\xd9\xf7", b"\xa1", b"\xa1\x01", b"\xbf", b"\xbf\x01"]
    {
        let nested = level.repeat(LEVELS / level.len());
        assert_eq!(reason_on_a_small_stack(nested.clone()), Some(TooDeep), "bare {level:02x?}");
        for key in ["id", "telemetry", "unknown"] {
            let wrapped = event_with(key, nested.clone());
            assert_eq!(reason_on_a_small_stack(wrapped), Some(TooDeep), "{level:02x?} as {key}");
        }
    }
}

#[test]
fn nested_counts_of_all_bytes_left_are_too_deep() {
    let nested = |levels: usize| -> Vec<u8> {
        let left = |level: usize| (5 * (levels - level - 1)) as u64;
        (0..levels).flat_map(|level| head_of_width(4, left(level), Some(2))).collect()
    };
    assert_eq!(reason_on_a_small_stack(nested(4_000)), Some(TooDeep));
    assert_eq!(reason_on_a_small_stack(nested(DEPTH_MAX)), Some(Malformed));
}

#[test]
fn chunks_without_end_are_malformed() {
    for (start, chunk) in [(b"\x7f", b"\x60"), (b"\x5f", b"\x40")] {
        let endless = [&start[..], &chunk.repeat(65_000)].concat();
        for key in ["id", "unknown"] {
            assert_eq!(reason_on_a_small_stack(event_with(key, endless.clone())), Some(Malformed));
        }
    }
}
