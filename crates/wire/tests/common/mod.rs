//! CBOR by hand, and events as values that own their texts.
//!
//! The fuzz targets (`crates/wire/fuzz`) take this module in, too: what they do with their bytes is in `targets`, and the
//! tests put the seeds through the same.
#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod ciborium_judge;
pub(crate) mod judge;
pub(crate) mod script;
pub(crate) mod stream;
pub(crate) mod targets;
pub(crate) mod ways;

use corelane_wire::{Decoder, Event, RejectReason};

use ways::{Ways, ZEROS};

/// Pairs of encoded keys and values.
pub(crate) type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct OwnedEvent {
    pub(crate) id: String,
    pub(crate) timestamp: u64,
    pub(crate) metadata: Option<String>,
    pub(crate) points: Vec<OwnedPoint>,
}

#[derive(Debug, Clone)]
pub(crate) struct OwnedPoint {
    pub(crate) sensor: String,
    pub(crate) value: f64,
    pub(crate) tags: Option<String>,
}

/// Values are compared by their bits: 0.0 is not -0.0.
impl PartialEq for OwnedPoint {
    fn eq(&self, other: &Self) -> bool {
        (&self.sensor, self.value.to_bits(), &self.tags) == (&other.sensor, other.value.to_bits(), &other.tags)
    }
}

impl From<Event<'_>> for OwnedEvent {
    fn from(event: Event<'_>) -> Self {
        let points: Vec<_> = event
            .points()
            .map(|point| OwnedPoint {
                sensor: point.sensor.to_owned(),
                value: point.value,
                tags: point.tags.map(str::to_owned),
            })
            .collect();
        assert_eq!(event.points().len(), points.len());
        let metadata = event.metadata().map(str::to_owned);
        Self { id: event.id().to_owned(), timestamp: event.timestamp(), metadata, points }
    }
}

/// What the general way says, and the others with it: without a skeleton, and with one where there can be.
pub(crate) fn decode(payload: &[u8]) -> Result<OwnedEvent, RejectReason> {
    let mut ways = Ways::new(1);
    let _ = ways.answer(0, payload, &ZEROS);
    let _ = ways.answer(0, payload, &ZEROS);
    Decoder::new().decode(payload).map(OwnedEvent::from)
}

pub(crate) fn reason(payload: &[u8]) -> Option<RejectReason> {
    decode(payload).err()
}

/// A head whose argument takes `1 << width` bytes, or one with the argument in the initial byte if `width` is `None`.
pub(crate) fn head_of_width(major: u8, argument: u64, width: Option<u8>) -> Vec<u8> {
    let Some(width) = width else {
        assert!(argument < 24);
        return vec![major << 5 | argument as u8];
    };
    let bytes = 1 << width;
    let mut head = vec![major << 5 | (24 + width)];
    head.extend_from_slice(&argument.to_be_bytes()[8 - bytes..]);
    head
}

/// The narrowest width for `argument`.
pub(crate) fn shortest(argument: u64) -> Option<u8> {
    match argument {
        0..=23 => None,
        24..=0xff => Some(0),
        0x100..=0xffff => Some(1),
        0x1_0000..=0xffff_ffff => Some(2),
        _ => Some(3),
    }
}

pub(crate) fn head(major: u8, argument: u64) -> Vec<u8> {
    head_of_width(major, argument, shortest(argument))
}

pub(crate) fn uint(n: u64) -> Vec<u8> {
    head(0, n)
}

pub(crate) fn text(text: &str) -> Vec<u8> {
    text_of(text.as_bytes())
}

/// A text of any bytes, UTF-8 or not.
pub(crate) fn text_of(bytes: &[u8]) -> Vec<u8> {
    [&head(3, bytes.len() as u64)[..], bytes].concat()
}

pub(crate) fn chunked(chunks: &[&[u8]]) -> Vec<u8> {
    let chunks: Vec<_> = chunks.iter().flat_map(|chunk| text_of(chunk)).collect();
    [&[0x7f], &chunks[..], &[0xff]].concat()
}

pub(crate) fn float(value: f64) -> Vec<u8> {
    [&[0xfb][..], &value.to_be_bytes()].concat()
}

pub(crate) fn array(items: &[Vec<u8>]) -> Vec<u8> {
    [head(4, items.len() as u64), items.concat()].concat()
}

pub(crate) fn indefinite_array(items: &[Vec<u8>]) -> Vec<u8> {
    [vec![0x9f], items.concat(), vec![0xff]].concat()
}

pub(crate) fn map(pairs: &Pairs) -> Vec<u8> {
    [head(5, pairs.len() as u64), flat(pairs)].concat()
}

pub(crate) fn indefinite_map(pairs: &Pairs) -> Vec<u8> {
    [vec![0xbf], flat(pairs), vec![0xff]].concat()
}

fn flat(pairs: &Pairs) -> Vec<u8> {
    pairs.iter().flat_map(|(key, value)| [&key[..], value].concat()).collect()
}

pub(crate) fn tag(number: u64, item: &[u8]) -> Vec<u8> {
    [&head(6, number)[..], item].concat()
}

/// The three required fields of an event with one point.
pub(crate) fn event_pairs() -> Pairs {
    vec![
        (text("id"), text("boiler-7")),
        (text("timestamp"), uint(1_700_000_000_000_000_000)),
        (text("telemetry"), array(&[map(&point_pairs())])),
    ]
}

/// The two required fields of a point.
pub(crate) fn point_pairs() -> Pairs {
    vec![(text("sensor"), text("temperature")), (text("value"), float(71.5))]
}

/// `pairs` with `value` under `key`: in place of what was there, or at the end.
pub(crate) fn with(mut pairs: Pairs, key: &str, value: Vec<u8>) -> Pairs {
    let key = text(key);
    match pairs.iter_mut().find(|(other, _)| *other == key) {
        Some((_, old)) => *old = value,
        None => pairs.push((key, value)),
    }
    pairs
}

/// An event with `value` under `key`.
pub(crate) fn event_with(key: &str, value: Vec<u8>) -> Vec<u8> {
    map(&with(event_pairs(), key, value))
}

/// An event whose one point has `value` under `key`.
pub(crate) fn event_with_in_point(key: &str, value: Vec<u8>) -> Vec<u8> {
    event_with("telemetry", array(&[map(&with(point_pairs(), key, value))]))
}

/// Events that differ in every way in which valid events may.
pub(crate) fn varied_events() -> Vec<Vec<u8>> {
    let mut backwards = with(event_pairs(), "metadata", text("site=nord; größe=3"));
    backwards.reverse();
    let point = indefinite_map(&vec![
        (chunked(&[b"va", b"lue"]), vec![0xf9, 0x3e, 0x00]),
        (text("unit"), text("°C")),
        (chunked(&[b"", b"sensor"]), chunked(&["druck".as_bytes(), b"-1"])),
        (chunked(&[b"tags"]), chunked(&[])),
    ]);
    let chunks = indefinite_map(&vec![
        (chunked(&[b"tele", b"metry"]), indefinite_array(&[point.clone(), map(&point_pairs()), point])),
        (chunked(&[b"id"]), chunked(&[b"a", b"b"])),
        (chunked(&[b"time", b"stamp"]), head_of_width(0, 7, Some(3))),
        (chunked(&[b"metadata"]), chunked(&["ü".as_bytes()])),
    ]);
    let mut unknown = event_pairs();
    unknown.insert(1, (text("extra"), b"\xc1\x82\xbf\x01\x9f\xff\x41x\x5f\x41y\xff\xff\xf6".to_vec()));
    unknown.push((text("extra"), b"\xd9\xd9\xf7\xa1\x80\xf8\x20".to_vec()));
    let wide = [
        head_of_width(5, 3, Some(3)),
        [head_of_width(3, 2, Some(2)), b"id".to_vec(), head_of_width(3, 1, Some(1)), b"w".to_vec()].concat(),
        [text("timestamp"), uint(u64::MAX)].concat(),
        [text("telemetry"), head_of_width(4, 2, Some(0))].concat(),
        map(&with(point_pairs(), "value", b"\x3b\xff\xff\xff\xff\xff\xff\xff\xff".to_vec())),
        map(&with(point_pairs(), "value", b"\xfa\x42\x8f\x00\x00".to_vec())),
    ];
    // Every width of a number, as encoders shorten them, and texts around the sizes that are looked at in one go.
    let numbers: [&[u8]; 12] = [
        b"\xfb\x40\x51\xe0\0\0\0\0\0",
        b"\xfa\x3f\xc0\0\0",
        b"\xf9\xbe\0",
        b"\xf9\0\x01",
        b"\x17",
        b"\x18\xff",
        b"\x19\x01\0",
        b"\x1b\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x37",
        b"\x39\x01\0",
        b"\x3a\x01\0\0\0",
        b"\xfb\x80\0\0\0\0\0\0\0",
    ];
    let measured = |(at, number): (usize, &&[u8])| {
        let sensor = format!("{}{at}", "s".repeat([1, 14, 30, 31, 32, 40][at % 6]));
        let pairs = vec![(text("value"), number.to_vec()), (text("sensor"), text(&sensor))];
        map(&if at % 3 == 0 { with(pairs, "tags", text(&"ö".repeat(at))) } else { pairs })
    };
    let measured: Vec<_> = numbers.iter().enumerate().map(measured).collect();
    let shortened = vec![
        (text("metadata"), [head_of_width(3, 40, Some(1)), b"more".repeat(10)].concat()),
        (text("telemetry"), array(&measured)),
        (text("timestamp"), uint(1_700_000_000)),
        (text("id"), text("größter-kessel-an-bord-der-nordstern-7")),
    ];
    let same = |sensor: String| map(&vec![(text("sensor"), text(&sensor)), (text("value"), float(-0.25))]);
    let many: Vec<_> = (0..10).map(|at| same(format!("t{at}"))).collect();
    vec![
        map(&event_pairs()),
        map(&backwards),
        chunks,
        map(&unknown),
        wide.concat(),
        event_with("telemetry", array(&[])),
        map(&shortened),
        map(&with(with(event_pairs(), "telemetry", array(&many)), "id", text("k"))),
    ]
}
