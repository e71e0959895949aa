//! `docs/protocol.md` is true: its examples are what the crate reads and writes, its tables have every reason and limit.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::*;
use corelane_wire::*;

const PAGE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/protocol.md"));
const SCHEMA: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/event.cddl"));

const ANSWER: Answer = Answer { committed: 3, rejected: 1 };

/// The bytes of the page's hex blocks, in order.
fn examples() -> [Vec<u8>; 4] {
    let blocks = PAGE.split("```hex\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let bytes = |block: &str| -> Vec<u8> {
        let codes = block.lines().flat_map(|line| line.split(';').next().unwrap().split_whitespace());
        codes.map(|code| u8::from_str_radix(code, 16).unwrap()).collect()
    };
    blocks.map(bytes).collect::<Vec<_>>().try_into().unwrap()
}

fn payload(frame: &[u8]) -> &[u8] {
    let mut input = frame;
    let Step::Frame(payload) = next_step(&mut input) else { panic!("one whole frame") };
    assert!(input.is_empty());
    payload
}

#[test]
fn the_example_frame_is_the_stated_event_both_ways() {
    let [frame, ..] = examples();
    let point = OwnedPoint { sensor: "temperature".to_owned(), value: 71.5, tags: Some("floor=2".to_owned()) };
    let event = OwnedEvent {
        id: "boiler-7".to_owned(),
        timestamp: 1_700_000_000_000_000_000,
        metadata: None,
        points: vec![point],
    };
    assert_eq!(decode(payload(&frame)), Ok(event));
    let mut written = Vec::new();
    let points = [("temperature", 71.5, Some("floor=2"))];
    encode_event(&mut written, "boiler-7", 1_700_000_000_000_000_000, None, points.into_iter()).unwrap();
    assert_eq!(written, frame);
}

#[test]
fn the_example_request_and_replies_are_the_stated_ones_both_ways() {
    let [_, request, answer, closing] = examples();
    assert_eq!(next_step(&mut &request[..]), Step::CommitRequest);
    assert_eq!(decode_answer(payload(&answer)), Ok(Reply::Committed(ANSWER)));
    assert_eq!(encode_answer(ANSWER).as_slice(), answer);
    let (error, code) = ("no byte for 300 s", "idle_timeout");
    assert_eq!(decode_answer(payload(&closing)), Ok(Reply::Closing { error, code, answer: ANSWER }));
    assert_eq!(encode_closing(error, code, ANSWER).as_slice(), closing);
}

#[test]
fn every_reason_has_its_row_in_the_order_of_priority() {
    let rows: Vec<_> = RejectReason::ALL
        .iter()
        .map(|reason| PAGE.find(&format!("\n| `{reason}` |", reason = reason.label())))
        .collect();
    assert!(rows.iter().all(Option::is_some), "{rows:?}");
    assert!(rows.is_sorted(), "{rows:?}");
}

#[test]
fn the_stated_limits_are_those_in_force() {
    for row in [
        format!("| payload | {MAX_FRAME_SIZE} bytes |"),
        format!("| points in an event | {POINTS_MAX} |"),
        format!("| `id`, `sensor` | {NAME_BYTES_MAX} bytes |"),
        format!("| nesting | {DEPTH_MAX} |"),
        format!("| commit requests without an answer | {UNANSWERED_REQUESTS_MAX} |"),
        format!("A client has at most {UNANSWERED_REQUESTS_MAX} commit requests without an answer at a time."),
        format!("| largest frame that a server writes, length included | {ANSWER_BYTES_MAX} bytes |"),
        format!("`error` is for a person, at most {ERROR_BYTES_MAX} bytes."),
    ] {
        assert!(PAGE.contains(&row), "{row}");
    }
    assert!(SCHEMA.contains(&format!("at most {POINTS_MAX}")));
    assert!(SCHEMA.contains(&format!("1..{NAME_BYTES_MAX} bytes")));
}
