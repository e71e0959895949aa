//! The examples of RFC 8949: Appendix A (well-formed) and Appendix F.1 (not well-formed).
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::ways::{Ways, ZEROS};
use common::*;
use corelane_wire::RejectReason::{Malformed, NotAnEvent, TrailingBytes};
use corelane_wire::SLACK_BYTES;

/// The byte strings of one file, or none, with a word of it, where the data is absent.
fn examples(file: &str) -> Vec<Vec<u8>> {
    let data = std::env::var("CORELANE_TEST_DATA")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data").to_owned());
    let path = format!("{data}/cbor/{file}");
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
fn every_way_and_every_judge_agree_on_every_example() {
    let mut ways = Ways::new(1);
    for example in [examples("appendix_a.json"), examples("appendix_f.json")].concat() {
        let mut first = event_pairs();
        first.insert(0, (text("unknown"), example.clone()));
        for payload in [
            event_with("unknown", example.clone()),
            event_with_in_point("unknown", example.clone()),
            map(&first),
            event_with("timestamp", example.clone()),
            event_with("metadata", example.clone()),
            event_with("telemetry", example.clone()),
            event_with("telemetry", array(std::slice::from_ref(&example))),
            event_with_in_point("value", example.clone()),
            example,
        ] {
            // Between events that a skeleton is learned from.
            assert!(ways.judged(0, &map(&event_pairs()), &ZEROS).is_ok());
            let _ = ways.judged(0, &payload, &ZEROS);
            let _ = ways.judged(0, &payload, &[0xff; SLACK_BYTES]);
        }
    }
}
