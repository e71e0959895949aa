//! The examples of RFC 8949: Appendix A (well-formed) and Appendix F.1 (not well-formed).
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::*;
use corelane_wire::RejectReason::{Malformed, NotAnEvent, TrailingBytes};

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/cbor");

/// The byte strings of one file, or none, with a word of it, where the data is absent.
fn examples(file: &str) -> Vec<Vec<u8>> {
    let path = format!("{DATA}/{file}");
    let Ok(json) = std::fs::read_to_string(&path) else {
        eprintln!("skipped: {path} is absent");
        return Vec::new();
    };
    let examples: Vec<serde_json::Value> = serde_json::from_str(&json).unwrap();
    assert!(examples.len() > 80, "{file} is whole");
    examples.iter().map(|example| bytes(example["hex"].as_str().unwrap())).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// Legal in RFC 7049, from which the list of Appendix A is; not well-formed in RFC 8949.
const SIMPLE_24: [u8; 2] = [0xf8, 0x18];

#[test]
fn every_well_formed_example_is_skipped_as_an_unknown_value() {
    for example in examples("appendix_a.json") {
        let expected = (example == SIMPLE_24).then_some(Malformed);
        assert_eq!(reason(&event_with("unknown", example.clone())), expected, "in the event: {example:02x?}");
        assert_eq!(reason(&event_with_in_point("unknown", example.clone())), expected, "in a point: {example:02x?}");
        let mut first = event_pairs();
        first.insert(0, (text("unknown"), example.clone()));
        assert_eq!(reason(&map(&first)), expected, "first in the event: {example:02x?}");
    }
}

#[test]
fn no_well_formed_example_is_an_event() {
    for example in examples("appendix_a.json") {
        let expected = if example == SIMPLE_24 { Malformed } else { NotAnEvent };
        assert_eq!(reason(&example), Some(expected), "{example:02x?}");
    }
}

#[test]
fn every_example_that_is_not_well_formed_is_rejected() {
    for example in examples("appendix_f.json") {
        let bare = reason(&example);
        assert!(matches!(bare, Some(Malformed | TrailingBytes)), "{example:02x?}: {bare:?}");
        assert_eq!(reason(&event_with("unknown", example.clone())), Some(Malformed), "at the end: {example:02x?}");
        let mut first = event_pairs();
        first.insert(0, (text("unknown"), example.clone()));
        // What follows may complete the item, but then it is missing where it belongs.
        assert!(decode(&map(&first)).is_err(), "first in the event: {example:02x?}");
    }
}

#[test]
fn the_naive_judge_agrees_on_every_example() {
    for example in [examples("appendix_a.json"), examples("appendix_f.json")].concat() {
        for payload in
            [event_with("unknown", example.clone()), event_with_in_point("unknown", example.clone()), example]
        {
            let verdict = decode(&payload);
            assert_eq!(verdict, judge::verdict(&payload), "{payload:02x?}");
        }
    }
}
