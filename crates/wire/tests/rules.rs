//! Every rule of the schema and every reason, by name.

mod common;

use common::*;
use corelane_wire::RejectReason::{
    InvalidUtf8, Malformed, NotAnEvent, Oversize, TooDeep, TooManyPoints, TrailingBytes,
};
use corelane_wire::{DEPTH_MAX, MAX_FRAME_SIZE, NAME_BYTES_MAX, POINTS_MAX};

const INVALID: &[u8] = b"ab\xff";

#[test]
fn a_plain_event_is_read() {
    let pairs = with(event_pairs(), "metadata", text("site=nord"));
    let point = map(&with(point_pairs(), "tags", text("floor=2")));
    let event = decode(&map(&with(pairs, "telemetry", array(&[point, map(&point_pairs())])))).unwrap();
    assert_eq!(event.id, "boiler-7");
    assert_eq!(event.timestamp, 1_700_000_000_000_000_000);
    assert_eq!(event.metadata.as_deref(), Some("site=nord"));
    let temperature = |tags: Option<&str>| OwnedPoint {
        sensor: "temperature".to_owned(),
        value: 71.5,
        tags: tags.map(str::to_owned),
    };
    assert_eq!(event.points, [temperature(Some("floor=2")), temperature(None)]);
}

#[test]
fn varied_events_are_all_accepted() {
    for payload in varied_events() {
        assert_eq!(reason(&payload), None, "{payload:02x?}");
    }
}

#[test]
fn keys_come_in_any_order() {
    let pairs = with(event_pairs(), "metadata", text("m"));
    let expected = decode(&map(&pairs));
    for turn in 0..pairs.len() {
        let mut turned = pairs.clone();
        turned.rotate_left(turn);
        assert_eq!(decode(&map(&turned)), expected);
        turned.reverse();
        assert_eq!(decode(&map(&turned)), expected);
    }
    let mut point = point_pairs();
    point.reverse();
    assert_eq!(decode(&event_with("telemetry", array(&[map(&point)]))), decode(&map(&event_pairs())));
}

#[test]
fn maps_and_arrays_may_be_indefinite() {
    let point = indefinite_map(&point_pairs());
    let event = indefinite_map(&with(event_pairs(), "telemetry", indefinite_array(&[point])));
    assert_eq!(decode(&event), decode(&map(&event_pairs())));
}

#[test]
fn lengths_and_integers_need_not_be_the_shortest() {
    for width in [0, 1, 2, 3].map(Some) {
        let id = [head_of_width(3, 8, width), b"boiler-7".to_vec()].concat();
        let key = [head_of_width(3, 2, width), b"id".to_vec()].concat();
        let mut pairs = event_pairs();
        pairs[0] = (key, id);
        let expected = decode(&map(&pairs)).unwrap();
        assert_eq!(expected.id, "boiler-7");
        assert_eq!(decode(&event_with("timestamp", head_of_width(0, 5, width))).unwrap().timestamp, 5);
        assert_eq!(value_of(head_of_width(0, 5, width)), Some(5.0));
        assert_eq!(value_of(head_of_width(1, 5, width)), Some(-6.0));
    }
}

/// The value that `item` gives a point, or `None` if the event is rejected as none.
fn value_of(item: Vec<u8>) -> Option<f64> {
    match decode(&event_with_in_point("value", item)) {
        Ok(event) => Some(event.points[0].value),
        Err(reason) => {
            assert_eq!(reason, NotAnEvent);
            None
        }
    }
}

#[test]
fn a_value_is_any_integer_or_finite_float() {
    let halves: [(&[u8], f64); 3] =
        [(b"\xf9\x3e\x00", 1.5), (b"\xf9\x00\x01", 2f64.powi(-24)), (b"\xf9\xfb\xff", -65504.0)];
    let singles: [(&[u8], f64); 2] =
        [(b"\xfa\x47\xc3\x50\x00", 100_000.0), (b"\xfa\x7f\x7f\xff\xff", f64::from(f32::MAX))];
    for (item, value) in halves.into_iter().chain(singles) {
        assert_eq!(value_of(item.to_vec()), Some(value));
    }
    for value in [0.1, -0.0, f64::MAX, f64::MIN_POSITIVE / 2.0] {
        assert_eq!(value_of(float(value)).map(f64::to_bits), Some(value.to_bits()));
    }
    assert_eq!(value_of(uint(u64::MAX)), Some(2f64.powi(64)));
    assert_eq!(value_of(head(1, u64::MAX)), Some(-(2f64.powi(64))), "-2^64");
    assert_eq!(value_of(head(1, 0)), Some(-1.0));
    // -2^53 - 1 lies half-way between two doubles: rounded once, to the even one.
    assert_eq!(value_of(head(1, 1 << 53)), Some(-(2f64.powi(53))));
}

#[test]
fn a_value_that_is_not_finite_is_refused_in_every_width() {
    let items: [&[u8]; 6] = [
        b"\xf9\x7c\x00",
        b"\xf9\xfc\x00",
        b"\xf9\x7e\x00",
        b"\xfa\x7f\x80\0\0",
        b"\xfa\x7f\xc0\0\0",
        b"\xfa\xff\x80\0\0",
    ];
    for item in items {
        assert_eq!(value_of(item.to_vec()), None, "{item:02x?}");
    }
    for value in [f64::INFINITY, f64::NEG_INFINITY, f64::NAN] {
        assert_eq!(value_of(float(value)), None);
    }
}

#[test]
fn text_may_be_chunked_in_every_key_and_field() {
    let pieces = |whole: &str| {
        let chunks: Vec<&[u8]> = whole.as_bytes().chunks(3).collect();
        chunked(&chunks)
    };
    let point = vec![
        (pieces("sensor"), pieces("temperature")),
        (pieces("value"), float(71.5)),
        (pieces("tags"), pieces("floor=2")),
        (pieces("unknown"), pieces("anything")),
    ];
    let event = vec![
        (pieces("id"), pieces("boiler-7")),
        (pieces("timestamp"), uint(1)),
        (pieces("metadata"), chunked(&[])),
        (pieces("unknown"), pieces("anything")),
        (pieces("telemetry"), array(&[map(&point), map(&point)])),
    ];
    let event = decode(&map(&event)).unwrap();
    assert_eq!((&*event.id, event.metadata.as_deref()), ("boiler-7", Some("")));
    let point = OwnedPoint { sensor: "temperature".to_owned(), value: 71.5, tags: Some("floor=2".to_owned()) };
    assert_eq!(event.points, [point.clone(), point]);
}

#[test]
fn unknown_keys_are_skipped_even_twice() {
    let mut pairs = event_pairs();
    for value in [&b"\x01"[..], b"\xa1\x62id\x01", b"\xc0\x61x", b"\x82\x80\xa0", b"\x61x"] {
        pairs.insert(0, (text("unknown"), value.to_vec()));
        pairs.push((text(""), value.to_vec()));
    }
    assert_eq!(decode(&map(&pairs)), decode(&map(&event_pairs())));
    let point = [point_pairs(), vec![(text("x"), uint(1)), (text("x"), uint(2))]].concat();
    assert_eq!(decode(&event_with("telemetry", array(&[map(&point)]))), decode(&map(&event_pairs())));
}

#[test]
fn keys_of_a_point_mean_nothing_in_the_event_and_the_other_way_round() {
    for key in ["sensor", "value", "tags"] {
        assert_eq!(reason(&event_with(key, vec![0xf6])), None);
    }
    for key in ["id", "timestamp", "metadata", "telemetry"] {
        assert_eq!(reason(&event_with_in_point(key, vec![0xf6])), None);
    }
}

#[test]
fn known_keys_are_told_apart_to_the_last_byte() {
    for key in ["Id", "i", "idx", "timestamps", "Metadata", "telemetr", "telemetry "] {
        assert_eq!(reason(&event_with(key, vec![0xf6])), None, "{key:?} is unknown");
    }
}

#[test]
fn names_have_1_to_256_bytes() {
    for (bytes, expected) in
        [(0, Some(NotAnEvent)), (1, None), (NAME_BYTES_MAX, None), (NAME_BYTES_MAX + 1, Some(NotAnEvent))]
    {
        let name = "n".repeat(bytes);
        assert_eq!(reason(&event_with("id", text(&name))), expected, "id of {bytes}");
        assert_eq!(reason(&event_with_in_point("sensor", text(&name))), expected, "sensor of {bytes}");
        let halves = chunked(&[&name.as_bytes()[..bytes / 2], &name.as_bytes()[bytes / 2..]]);
        assert_eq!(reason(&event_with("id", halves.clone())), expected, "chunked id of {bytes}");
        assert_eq!(reason(&event_with_in_point("sensor", halves)), expected, "chunked sensor of {bytes}");
    }
    assert_eq!(reason(&event_with("id", text(&"ü".repeat(129)))), Some(NotAnEvent), "bytes, not characters");
}

#[test]
fn metadata_and_tags_may_be_empty_or_long() {
    for long in ["", &"x".repeat(60_000)] {
        assert_eq!(decode(&event_with("metadata", text(long))).unwrap().metadata.as_deref(), Some(long));
        assert_eq!(decode(&event_with_in_point("tags", text(long))).unwrap().points[0].tags.as_deref(), Some(long));
    }
}

#[test]
fn a_known_key_twice_is_refused() {
    for pair in with(event_pairs(), "metadata", text("m")) {
        let twice = [with(event_pairs(), "metadata", text("m")), vec![pair.clone()]].concat();
        assert_eq!(reason(&map(&twice)), Some(NotAnEvent), "{pair:02x?}");
    }
    for pair in with(point_pairs(), "tags", text("t")) {
        let twice = [with(point_pairs(), "tags", text("t")), vec![pair.clone()]].concat();
        assert_eq!(reason(&event_with("telemetry", array(&[map(&twice)]))), Some(NotAnEvent), "{pair:02x?}");
    }
    let mut chunked_again = event_pairs();
    chunked_again.push((chunked(&[b"i", b"d"]), text("x")));
    assert_eq!(reason(&map(&chunked_again)), Some(NotAnEvent));
}

#[test]
fn a_missing_required_key_is_refused() {
    for missing in 0..3 {
        let mut pairs = event_pairs();
        pairs.remove(missing);
        assert_eq!(reason(&map(&pairs)), Some(NotAnEvent));
    }
    for missing in 0..2 {
        let mut pairs = point_pairs();
        pairs.remove(missing);
        assert_eq!(reason(&event_with("telemetry", array(&[map(&pairs)]))), Some(NotAnEvent));
        let behind = array(&[map(&point_pairs()), map(&pairs)]);
        assert_eq!(reason(&event_with("telemetry", behind)), Some(NotAnEvent));
    }
    assert_eq!(reason(b"\xa0"), Some(NotAnEvent));
}

#[test]
fn a_tag_on_a_known_value_or_on_the_event_is_refused() {
    for (key, value) in with(event_pairs(), "metadata", text("m")) {
        let key = str::from_utf8(&key[1..]).unwrap();
        assert_eq!(reason(&event_with(key, tag(0, &value))), Some(NotAnEvent), "{key}");
    }
    for (key, value) in with(point_pairs(), "tags", text("t")) {
        let key = str::from_utf8(&key[1..]).unwrap();
        assert_eq!(reason(&event_with_in_point(key, tag(55_799, &value))), Some(NotAnEvent), "{key}");
    }
    assert_eq!(reason(&tag(55_799, &map(&event_pairs()))), Some(NotAnEvent));
    let tagged_point = array(&[tag(0, &map(&point_pairs()))]);
    assert_eq!(reason(&event_with("telemetry", tagged_point)), Some(NotAnEvent));
}

#[test]
fn a_key_that_is_no_text_is_refused() {
    let keys: [&[u8]; 7] = [b"\x01", b"\x20", b"\x42id", b"\x80", b"\xa0", b"\xf6", b"\xc0\x62id"];
    for key in keys {
        let pairs = [event_pairs(), vec![(key.to_vec(), uint(0))]].concat();
        assert_eq!(reason(&map(&pairs)), Some(NotAnEvent), "{key:02x?}");
        let pairs = [point_pairs(), vec![(key.to_vec(), uint(0))]].concat();
        assert_eq!(reason(&event_with("telemetry", array(&[map(&pairs)]))), Some(NotAnEvent), "{key:02x?}");
    }
}

#[test]
fn every_field_refuses_every_other_type() {
    let items: [(&str, &[u8]); 10] = [
        ("uint", b"\x01"),
        ("nint", b"\x20"),
        ("bytes", b"\x41x"),
        ("bytes", b"\x5f\x41x\xff"),
        ("text", b"\x61x"),
        ("array", b"\x81\x01"),
        ("map", b"\xa1\x61x\x01"),
        ("tag", b"\xc2\x41\x01"),
        ("float", b"\xf9\x3c\x00"),
        ("simple", b"\xf6"),
    ];
    for (kind, item) in items {
        for (key, allowed) in
            [("id", &["text"][..]), ("timestamp", &["uint"]), ("metadata", &["text"]), ("telemetry", &[])]
        {
            let expected = (!allowed.contains(&kind)).then_some(NotAnEvent);
            assert_eq!(reason(&event_with(key, item.to_vec())), expected, "{key}: {kind}");
        }
        for (key, allowed) in [("sensor", &["text"][..]), ("value", &["uint", "nint", "float"]), ("tags", &["text"])] {
            let expected = (!allowed.contains(&kind)).then_some(NotAnEvent);
            assert_eq!(reason(&event_with_in_point(key, item.to_vec())), expected, "{key}: {kind}");
        }
        let point = if kind == "map" { b"\xa0" } else { item };
        assert_eq!(reason(&event_with("telemetry", array(&[point.to_vec()]))), Some(NotAnEvent), "a point: {kind}");
    }
}

#[test]
fn sixteen_levels_are_accepted_and_seventeen_are_too_deep() {
    type Wrap = fn(Vec<u8>) -> Vec<u8>;
    let wraps: [(&str, Wrap); 7] = [
        ("array", |item| [vec![0x81], item].concat()),
        ("indefinite array", |item| [vec![0x9f], item, vec![0xff]].concat()),
        ("map value", |item| [b"\xa1\x01".to_vec(), item].concat()),
        ("map key", |item| [vec![0xa1], item, vec![0x01]].concat()),
        ("indefinite map value", |item| [b"\xbf\x01".to_vec(), item, vec![0xff]].concat()),
        ("tag", |item| tag(1, &item)),
        ("wide tag", |item| tag(55_799, &item)),
    ];
    for (what, wrap) in wraps {
        let nested = |levels: usize| (0..levels).fold(vec![0x00], |item, _| wrap(item));
        assert_eq!(reason(&event_with("unknown", nested(DEPTH_MAX - 1))), None, "{what}");
        assert_eq!(reason(&event_with("unknown", nested(DEPTH_MAX))), Some(TooDeep), "{what}");
        // Around a value of a point there are the event, the telemetry and the point.
        assert_eq!(reason(&event_with_in_point("unknown", nested(DEPTH_MAX - 3))), None, "{what}");
        assert_eq!(reason(&event_with_in_point("unknown", nested(DEPTH_MAX - 2))), Some(TooDeep), "{what}");
        assert_eq!(reason(&event_with("telemetry", array(&[nested(DEPTH_MAX - 2)]))), Some(NotAnEvent), "{what}");
        assert_eq!(reason(&event_with("telemetry", array(&[nested(DEPTH_MAX - 1)]))), Some(TooDeep), "{what}");
        // Where the schema wants something else, the depth is told all the same.
        assert_eq!(reason(&nested(DEPTH_MAX)), Some(NotAnEvent), "{what}");
        assert_eq!(reason(&nested(DEPTH_MAX + 1)), Some(TooDeep), "{what}");
        assert_eq!(reason(&event_with("timestamp", nested(DEPTH_MAX))), Some(TooDeep), "{what}");
        assert_eq!(reason(&event_with("telemetry", array(&[tag(1, &nested(DEPTH_MAX - 2))]))), Some(TooDeep), "{what}");
    }
    let empty = (1..DEPTH_MAX).fold(vec![0x80], |item, _| array(&[item]));
    assert_eq!(reason(&event_with("unknown", empty)), Some(TooDeep), "an empty array is a level, too");
    let siblings = array(&vec![array(&[array(&[])]); 1_000]);
    assert_eq!(reason(&event_with("unknown", siblings)), None, "what was closed does not count");
}

#[test]
fn points_are_counted_alike_in_definite_and_indefinite_arrays() {
    let point = b"\xa2\x66sensor\x61s\x65value\x00".to_vec();
    for (points, expected) in [(POINTS_MAX, None), (POINTS_MAX + 1, Some(TooManyPoints))] {
        let points = vec![point.clone(); points];
        let definite = event_with("telemetry", array(&points));
        assert!(definite.len() <= MAX_FRAME_SIZE);
        assert_eq!(reason(&definite), expected);
        assert_eq!(reason(&event_with("telemetry", indefinite_array(&points))), expected);
    }
    assert_eq!(decode(&event_with("telemetry", array(&vec![point; POINTS_MAX]))).unwrap().points.len(), POINTS_MAX);
}

#[test]
fn what_counts_as_a_point_is_an_item_of_the_events_telemetry() {
    let many = array(&vec![vec![0x00]; POINTS_MAX + 1]);
    assert_eq!(reason(&event_with("telemetry", many.clone())), Some(TooManyPoints), "whatever the items are");
    assert_eq!(reason(&event_with("unknown", many.clone())), None);
    assert_eq!(reason(&event_with("telemetry", tag(0, &many))), Some(NotAnEvent), "a tagged array is no telemetry");
    assert_eq!(reason(&event_with_in_point("telemetry", many.clone())), None);
    assert_eq!(reason(&tag(0, &event_with("telemetry", many.clone()))), Some(NotAnEvent), "a tagged event is none");
    let half = array(&vec![map(&vec![(text("sensor"), text("s")), (text("value"), uint(0))]); POINTS_MAX / 2 + 1]);
    let twice = |telemetry: &Vec<u8>| [event_pairs(), vec![(text("telemetry"), telemetry.clone())]].concat();
    assert_eq!(reason(&map(&twice(&half))), Some(NotAnEvent), "each array is counted by itself");
    assert_eq!(reason(&map(&twice(&many))), Some(TooManyPoints));
}

#[test]
fn bad_utf8_is_found_in_every_text() {
    let bad = || text_of(INVALID);
    let key_first = |pairs: Pairs| [vec![(bad(), uint(0))], pairs].concat();
    let payloads = [
        ("id", event_with("id", bad())),
        ("metadata", event_with("metadata", bad())),
        ("sensor", event_with_in_point("sensor", bad())),
        ("tags", event_with_in_point("tags", bad())),
        ("unknown value", event_with("unknown", bad())),
        ("unknown value of a point", event_with_in_point("unknown", bad())),
        ("deep inside an unknown value", event_with("unknown", tag(1, &array(&[map(&vec![(uint(1), bad())])])))),
        ("key", map(&key_first(event_pairs()))),
        ("key of a point", event_with("telemetry", array(&[map(&key_first(point_pairs()))]))),
        ("key of an unknown map", event_with("unknown", map(&vec![(bad(), uint(1))]))),
        ("chunk of a key", map(&[event_pairs(), vec![(chunked(&[b"i", b"d\xff"]), uint(1))]].concat())),
        ("chunk of an unknown value", event_with("unknown", chunked(&[b"ok", INVALID]))),
        ("text where a number belongs", event_with_in_point("value", bad())),
        ("no event at all", bad()),
    ];
    for (what, payload) in payloads {
        assert_eq!(reason(&payload), Some(InvalidUtf8), "{what}");
    }
    for sequence in [&b"\xc0\x80"[..], b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc3", b"\x80"] {
        assert_eq!(reason(&event_with("metadata", text_of(sequence))), Some(InvalidUtf8), "{sequence:02x?}");
    }
}

#[test]
fn a_chunk_may_not_end_inside_a_character() {
    let whole = "ü".as_bytes();
    for key in ["id", "metadata", "unknown"] {
        assert_eq!(reason(&event_with(key, chunked(&[&whole[..1], &whole[1..]]))), Some(InvalidUtf8), "{key}");
        assert_eq!(reason(&event_with(key, chunked(&[whole, whole]))), None, "{key}");
    }
}

#[test]
fn byte_strings_are_not_checked_for_utf8() {
    assert_eq!(reason(&event_with("unknown", b"\x43ab\xff".to_vec())), None);
    assert_eq!(reason(&event_with("unknown", b"\x5f\x41\xff\x41\xfe\xff".to_vec())), None);
}

#[test]
fn bytes_after_the_event_are_refused() {
    for trailing in [&b"\x00"[..], b"\xff", b"\xa0", b"\x1c"] {
        assert_eq!(reason(&[&map(&event_pairs()), trailing].concat()), Some(TrailingBytes), "{trailing:02x?}");
        assert_eq!(reason(&[&indefinite_map(&event_pairs()), trailing].concat()), Some(TrailingBytes));
    }
    let twice = [map(&event_pairs()), map(&event_pairs())].concat();
    assert_eq!(reason(&twice), Some(TrailingBytes));
}

#[test]
fn an_empty_payload_is_malformed_and_an_overlong_one_oversize() {
    assert_eq!(reason(b""), Some(Malformed));
    let mut payload = event_with("metadata", text(&"x".repeat(MAX_FRAME_SIZE)));
    assert_eq!(reason(&payload), Some(Oversize));
    payload.truncate(MAX_FRAME_SIZE);
    assert_eq!(reason(&payload), Some(Malformed));
}

#[test]
fn every_truncation_is_malformed() {
    for payload in varied_events() {
        for cut in 0..payload.len() {
            assert_eq!(reason(&payload[..cut]), Some(Malformed), "{payload:02x?} cut at {cut}");
        }
    }
}

#[test]
fn the_highest_reason_wins_wherever_it_stands() {
    let too_many = || array(&vec![vec![0x00]; POINTS_MAX + 1]);
    let too_deep = || [vec![0x81; DEPTH_MAX], vec![0x00]].concat();
    // Each in an event that also has every lower fault, before and behind.
    let not_an_event = vec![(text("timestamp"), text("no number"))];
    let too_many = vec![(text("telemetry"), too_many())];
    let invalid = vec![(text("unknown"), text_of(INVALID))];
    let around = |parts: &[&Pairs]| {
        let forwards: Pairs = parts.iter().flat_map(|part| part.to_vec()).collect();
        let backwards: Pairs = parts.iter().rev().flat_map(|part| part.to_vec()).collect();
        [map(&forwards), map(&backwards)]
    };
    for event in around(&[&not_an_event, &event_pairs()]) {
        assert_eq!(reason(&event), Some(NotAnEvent));
    }
    for event in around(&[&not_an_event, &too_many]) {
        assert_eq!(reason(&event), Some(TooManyPoints));
    }
    for event in around(&[&not_an_event, &too_many, &invalid]) {
        assert_eq!(reason(&event), Some(InvalidUtf8));
        assert_eq!(reason(&[&event[..], b"\x00"].concat()), Some(TrailingBytes));
        assert_eq!(reason(&event[..event.len() - 1]), Some(Malformed));
    }
    for event in around(&[&not_an_event, &too_many, &invalid, &vec![(text("deep"), too_deep())]]) {
        assert_eq!(reason(&[&event[..], b"\x00"].concat()), Some(TooDeep));
    }
}

#[test]
fn malformed_and_too_deep_are_told_by_whichever_comes_first() {
    let deep = [vec![0x81; DEPTH_MAX], vec![0x00]].concat();
    let malformed = vec![0x1c];
    let both = |first: &[u8], second: &[u8]| map(&vec![(text("a"), first.to_vec()), (text("b"), second.to_vec())]);
    assert_eq!(reason(&both(&deep, &malformed)), Some(TooDeep));
    assert_eq!(reason(&both(&malformed, &deep)), Some(Malformed));
    assert_eq!(reason(&[0x81; DEPTH_MAX]), Some(Malformed), "sixteen open arrays, cut off");
    assert_eq!(reason(&[0x81; DEPTH_MAX + 1]), Some(TooDeep));
    // A level counts once its head is whole.
    assert_eq!(reason(&[&[0x81; DEPTH_MAX][..], b"\x98"].concat()), Some(Malformed));
    assert_eq!(reason(&[&[0x81; DEPTH_MAX][..], b"\x98\x00"].concat()), Some(TooDeep));
    assert_eq!(reason(&[&[0x81; DEPTH_MAX][..], b"\x9c"].concat()), Some(Malformed));
}

#[test]
fn a_break_counts_only_where_one_may_stand() {
    let pairs = event_pairs();
    let open_map = |tail: &[u8]| {
        let mut payload = indefinite_map(&pairs);
        payload.pop();
        [&payload[..], tail].concat()
    };
    assert_eq!(reason(&open_map(b"\xff")), None);
    assert_eq!(reason(&open_map(b"\x61x\xff")), Some(Malformed), "for a value");
    assert_eq!(reason(&open_map(b"\x61x\xc0\xff\xff")), Some(Malformed), "under a tag");
    assert_eq!(reason(&open_map(b"\x61x\xbf\x01\xff\xff")), Some(Malformed), "for a value of an unknown map");
    assert_eq!(reason(&open_map(b"\x61x\x81\xff\xff")), Some(Malformed), "in a definite array");
    for key in ["id", "timestamp", "metadata", "telemetry", "unknown"] {
        assert_eq!(reason(&event_with(key, vec![0xff])), Some(Malformed), "for {key}");
    }
    for key in ["sensor", "value", "tags", "unknown"] {
        assert_eq!(reason(&event_with_in_point(key, vec![0xff])), Some(Malformed), "for {key}");
    }
    assert_eq!(reason(&event_with("telemetry", b"\x81\xff".to_vec())), Some(Malformed), "for a point");
    assert_eq!(reason(b"\xff"), Some(Malformed), "for the event");
}

#[test]
fn chunks_are_definite_and_of_the_same_type() {
    for key in ["id", "metadata", "unknown"] {
        for chunks in
            [&b"\x7f\x41x\xff"[..], b"\x7f\x7f\x61x\xff\xff", b"\x7f\x01\xff", b"\x7f\xc0\x61x\xff", b"\x7f\xf6\xff"]
        {
            assert_eq!(reason(&event_with(key, chunks.to_vec())), Some(Malformed), "{key}: {chunks:02x?}");
        }
    }
}
