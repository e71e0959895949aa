//! Events of which none is like the other: 0 to 400 points, 60 bytes to 60 KB, keys in any order, and nested values under
//! keys that the server does not know.

use ciborium::Value;
use rand::{RngExt, rngs::SmallRng, seq::SliceRandom};

/// Appends a frame.
pub(super) fn append(out: &mut Vec<u8>, id: &str, timestamp: u64, random: &mut SmallRng) {
    // Each order of magnitude as often as the other.
    let payload_bytes =
        random.random_range(f64::from(PAYLOAD_BYTES_MIN).ln()..f64::from(PAYLOAD_BYTES_MAX).ln()).exp() as usize;
    let points_max = payload_bytes.saturating_sub(HEAD_BYTES_MAX) / POINT_BYTES_MAX;
    let points = random.random_range(0..=POINTS_MAX).min(points_max);
    let mut pairs = vec![
        (Value::from("id"), Value::from(id)),
        (Value::from("timestamp"), Value::from(timestamp)),
        (Value::from("telemetry"), Value::Array((0..points).map(|number| point(number, random)).collect())),
    ];
    let room = payload_bytes.saturating_sub(encoded(&Value::Map(pairs.clone())).len());
    // Keys and heads around the text that fills what is left.
    if room > NEST_BYTES_MAX {
        let text = "irregular ".repeat(room / 10);
        pairs.push((Value::from("vendor"), nested(&text[..room - NEST_BYTES_MAX], random)));
    } else if room > 16 {
        pairs.push((Value::from("metadata"), Value::from("m".repeat(room - 13))));
    }
    pairs.shuffle(random);
    let payload = encoded(&Value::Map(pairs));
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    debug_assert!(payload.len() <= PAYLOAD_BYTES_MAX as usize);
    out.extend_from_slice(&payload);
}

fn point(number: usize, random: &mut SmallRng) -> Value {
    let value = match random.random_range(0..4) {
        0 => Value::from(random.random_range(-100_000i64..100_000)),
        // The encoder shortens what loses nothing by it.
        1 => Value::from(f64::from(random.random_range(0..1_000u16)) / 4.0),
        2 => Value::from(f64::from(random.random_range(-1e3f32..1e3))),
        _ => Value::from(random.random_range(-1e6..1e6)),
    };
    let mut pairs =
        vec![(Value::from("sensor"), Value::from(format!("channel_{number:03}"))), (Value::from("value"), value)];
    match random.random_range(0..4) {
        0 => pairs.push((Value::from("tags"), Value::from("unit=°C"))),
        1 => pairs.push((Value::from("quality"), Value::Array(vec![Value::from(192), Value::Bool(true)]))),
        _ => (),
    }
    pairs.shuffle(random);
    Value::Map(pairs)
}

/// `text`, inside one to eight levels of maps and arrays that hold something else besides.
fn nested(text: &str, random: &mut SmallRng) -> Value {
    let mut value = Value::from(text);
    for level in 0..random.random_range(1..=8) {
        let other = match level % 4 {
            0 => Value::Null,
            1 => Value::Bytes(vec![level; 8]),
            2 => Value::from(1.5),
            _ => Value::Tag(0, Box::new(Value::from("2026-01-01"))),
        };
        value = if random.random() {
            Value::Array(vec![other, value])
        } else {
            Value::Map(vec![(Value::from(level), value), (Value::from("other"), other)])
        };
    }
    value
}

fn encoded(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).expect("a vector takes every write");
    bytes
}

const POINTS_MAX: usize = 400;

const PAYLOAD_BYTES_MIN: u32 = 60;
const PAYLOAD_BYTES_MAX: u32 = 60_000;

/// All of an event but its points, and of a point, at their longest.
const HEAD_BYTES_MAX: usize = 60;
const POINT_BYTES_MAX: usize = 54;

/// What eight levels of [`nested`] take besides their text, with the key, at most.
const NEST_BYTES_MAX: usize = 160;
