//! A second judge, over `ciborium::Value`: which event a payload is, or that it is none, without a reason.
//!
//! `ciborium` is no RFC 8949 validator, so the payload is tamed first, by a flat walk over its heads (with the lexer of
//! `ciborium-ll`). All that it does otherwise than the protocol, and what is done about it here:
//!
//! - it ignores trailing bytes: they are looked for behind it;
//! - it accepts chunked strings inside of chunked strings: refused by the walk;
//! - it accepts simple values below 32 in two bytes (`f8 14` is false): refused by the walk;
//! - it refuses simple values other than false, true, null and undefined: turned into null;
//! - it gives byte strings of up to 16 bytes in tags 2 and 3 as plain integers: turned into another tag, since a number
//!   of the protocol is never tagged, and all tags are alike to it;
//! - it puts a NaN back in a wider form than it came, so that its offset drops below zero (a panic in a debug build):
//!   turned into the NaN that keeps its width;
//! - its depth is a recursion limit, and not 16: the depth is measured in the value.

use ciborium::Value;
use ciborium_ll::{Decoder, Header};
use corelane_wire::{DEPTH_MAX, MAX_FRAME_SIZE, NAME_BYTES_MAX, POINTS_MAX};

use super::{OwnedEvent, OwnedPoint};

/// The event that `payload` is, if it is one.
pub(crate) fn verdict(payload: &[u8]) -> Option<OwnedEvent> {
    if payload.len() > MAX_FRAME_SIZE {
        return None;
    }
    let tame = tamed(payload)?;
    let mut rest = &tame[..];
    // Deep enough for every accepted event, and for the stack of a test.
    let value: Value = ciborium::de::from_reader_with_recursion_limit(&mut rest, 4 * DEPTH_MAX).ok()?;
    (rest.is_empty() && depth(&value) <= DEPTH_MAX).then_some(())?;
    event(&value)
}

/// The payload without what `ciborium` is known to judge otherwise; `None` if that is for being too lenient.
fn tamed(payload: &[u8]) -> Option<Vec<u8>> {
    let mut tame = payload.to_vec();
    let mut at = 0;
    let mut in_chunks = false;
    while at < payload.len() {
        let mut decoder = Decoder::from(&payload[at..]);
        // What is not well-formed is for `ciborium` to refuse.
        let Ok(header) = decoder.pull() else { break };
        let head_bytes = decoder.offset();
        let head = &mut tame[at..at + head_bytes];
        at += head_bytes;
        match header {
            Header::Bytes(None) | Header::Text(None) if in_chunks => return None,
            Header::Bytes(None) | Header::Text(None) => in_chunks = true,
            Header::Break => in_chunks = false,
            Header::Bytes(Some(bytes)) | Header::Text(Some(bytes)) => at = at.saturating_add(bytes),
            Header::Simple(0..32) if head_bytes == 2 => return None,
            Header::Simple(20..=23) => (),
            Header::Simple(_) if head_bytes == 2 => head[1] = 22,
            Header::Simple(_) => head[0] = 0xf6,
            Header::Tag(2 | 3) => head[head_bytes - 1] = head[head_bytes - 1] & 0xe0 | 6,
            Header::Float(value) if value.is_nan() => {
                head[1..].fill(0);
                let quiet: &[u8] = match head_bytes {
                    3 => &[0x7e],
                    5 => &[0x7f, 0xc0],
                    _ => &[0x7f, 0xf8],
                };
                head[1..=quiet.len()].copy_from_slice(quiet);
            }
            _ => (),
        }
    }
    Some(tame)
}

/// Arrays, maps and tags around the innermost item.
fn depth(value: &Value) -> usize {
    let of_all = |values: &mut dyn Iterator<Item = &Value>| 1 + values.map(depth).max().unwrap_or(0);
    match value {
        Value::Array(items) => of_all(&mut items.iter()),
        Value::Map(pairs) => of_all(&mut pairs.iter().flat_map(|(key, value)| [key, value])),
        Value::Tag(_, item) => 1 + depth(item),
        _ => 0,
    }
}

fn event(value: &Value) -> Option<OwnedEvent> {
    let [id, timestamp, metadata, telemetry] = fields(value, ["id", "timestamp", "metadata", "telemetry"])?;
    let items = telemetry?.as_array().filter(|items| items.len() <= POINTS_MAX)?;
    Some(OwnedEvent {
        id: name(id?)?,
        timestamp: u64::try_from(timestamp?.as_integer()?).ok()?,
        metadata: optional_text(metadata)?,
        points: items.iter().map(point).collect::<Option<_>>()?,
    })
}

fn point(value: &Value) -> Option<OwnedPoint> {
    let [sensor, value, tags] = fields(value, ["sensor", "value", "tags"])?;
    let value = match value? {
        Value::Integer(integer) => i128::from(*integer) as f64,
        Value::Float(value) if value.is_finite() => *value,
        _ => return None,
    };
    Some(OwnedPoint { sensor: name(sensor?)?, value, tags: optional_text(tags)? })
}

/// What a map of texts has under these keys; `None` if it is no such map or has one of them twice.
fn fields<'a, const N: usize>(value: &'a Value, keys: [&str; N]) -> Option<[Option<&'a Value>; N]> {
    let mut found = [None; N];
    for (key, value) in value.as_map()? {
        let key = key.as_text()?;
        if let Some(at) = keys.iter().position(|known| *known == key)
            && found[at].replace(value).is_some()
        {
            return None;
        }
    }
    Some(found)
}

fn name(value: &Value) -> Option<String> {
    value.as_text().filter(|text| (1..=NAME_BYTES_MAX).contains(&text.len())).map(str::to_owned)
}

fn optional_text(value: Option<&Value>) -> Option<Option<String>> {
    value.map(|value| value.as_text().map(str::to_owned)).map_or(Some(None), |text| text.map(Some))
}
