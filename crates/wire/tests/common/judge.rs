//! A naive decoder to judge the real one by: the pseudocode of RFC 8949 Appendix C, recursive as it stands there but
//! building a tree, and the schema as questions about that tree. Shares no code with the crate.

use corelane_wire::{DEPTH_MAX, MAX_FRAME_SIZE, NAME_BYTES_MAX, POINTS_MAX, RejectReason};

use super::{OwnedEvent, OwnedPoint};

#[derive(Debug, Clone, PartialEq)]
enum Item {
    Integer(i128),
    Bytes,
    /// `None` if a chunk is not UTF-8.
    Text(Option<String>),
    Array(Vec<Item>),
    Map(Vec<(Item, Item)>),
    Tag(Box<Item>),
    Float(f64),
    Simple,
    Break,
}

/// What the protocol says of `payload`.
pub(crate) fn verdict(payload: &[u8]) -> Result<OwnedEvent, RejectReason> {
    if payload.len() > MAX_FRAME_SIZE {
        return Err(RejectReason::Oversize);
    }
    let mut rest = payload;
    let item = well_formed(&mut rest, false, 0)?;
    if !rest.is_empty() {
        return Err(RejectReason::TrailingBytes);
    }
    if !is_valid_utf8(&item) {
        return Err(RejectReason::InvalidUtf8);
    }
    let Item::Map(pairs) = item else { return Err(RejectReason::NotAnEvent) };
    let is_too_long = |(key, value): &(Item, Item)| {
        *key == word("telemetry") && matches!(value, Item::Array(items) if items.len() > POINTS_MAX)
    };
    if pairs.iter().any(is_too_long) {
        return Err(RejectReason::TooManyPoints);
    }
    event(&pairs).ok_or(RejectReason::NotAnEvent)
}

/// `well_formed` of the RFC, with the depth of what is around the item.
fn well_formed(rest: &mut &[u8], breakable: bool, depth: usize) -> Result<Item, RejectReason> {
    let initial = take(rest, 1)?[0];
    let (major, info) = (initial >> 5, initial & 0x1f);
    let argument = match info {
        24..=27 => take(rest, 1 << (info - 24))?.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
        28..=30 => return Err(RejectReason::Malformed),
        31 => return well_formed_indefinite(rest, major, breakable, depth),
        _ => u64::from(info),
    };
    if matches!(major, 4..=6) && depth == DEPTH_MAX {
        return Err(RejectReason::TooDeep);
    }
    Ok(match major {
        0 => Item::Integer(i128::from(argument)),
        1 => Item::Integer(-1 - i128::from(argument)),
        2 => {
            take(rest, argument)?;
            Item::Bytes
        }
        3 => Item::Text(String::from_utf8(take(rest, argument)?.to_vec()).ok()),
        4 => {
            let mut items = Vec::new();
            for _ in 0..argument {
                items.push(well_formed(rest, false, depth + 1)?);
            }
            Item::Array(items)
        }
        5 => {
            let mut pairs = Vec::new();
            for _ in 0..argument {
                pairs.push((well_formed(rest, false, depth + 1)?, well_formed(rest, false, depth + 1)?));
            }
            Item::Map(pairs)
        }
        6 => Item::Tag(Box::new(well_formed(rest, false, depth + 1)?)),
        _ => match info {
            24 if argument < 32 => return Err(RejectReason::Malformed),
            25 => Item::Float(half(argument as u16)),
            26 => Item::Float(f64::from(f32::from_bits(argument as u32))),
            27 => Item::Float(f64::from_bits(argument)),
            _ => Item::Simple,
        },
    })
}

fn well_formed_indefinite(rest: &mut &[u8], major: u8, breakable: bool, depth: usize) -> Result<Item, RejectReason> {
    if matches!(major, 4 | 5) && depth == DEPTH_MAX {
        return Err(RejectReason::TooDeep);
    }
    match major {
        2 | 3 => {
            let mut joined = Some(String::new());
            loop {
                // "need definite-length chunk of same type"
                let initial = *rest.first().ok_or(RejectReason::Malformed)?;
                if initial != 0xff && (initial >> 5 != major || initial & 0x1f == 31) {
                    return Err(RejectReason::Malformed);
                }
                match well_formed(rest, true, depth)? {
                    Item::Break if major == 2 => return Ok(Item::Bytes),
                    Item::Break => return Ok(Item::Text(joined)),
                    Item::Text(chunk) => joined = joined.zip(chunk).map(|(joined, chunk)| joined + &chunk),
                    _ => (),
                }
            }
        }
        4 => {
            let mut items = Vec::new();
            loop {
                match well_formed(rest, true, depth + 1)? {
                    Item::Break => return Ok(Item::Array(items)),
                    item => items.push(item),
                }
            }
        }
        5 => {
            let mut pairs = Vec::new();
            loop {
                match well_formed(rest, true, depth + 1)? {
                    Item::Break => return Ok(Item::Map(pairs)),
                    key => pairs.push((key, well_formed(rest, false, depth + 1)?)),
                }
            }
        }
        7 if breakable => Ok(Item::Break),
        _ => Err(RejectReason::Malformed),
    }
}

fn take<'a>(rest: &mut &'a [u8], bytes: u64) -> Result<&'a [u8], RejectReason> {
    if bytes > rest.len() as u64 {
        return Err(RejectReason::Malformed);
    }
    let (taken, left) = rest.split_at(bytes as usize);
    *rest = left;
    Ok(taken)
}

/// `decode_half` of RFC 8949 Appendix D.
fn half(half: u16) -> f64 {
    let (exponent, mantissa) = (i32::from(half >> 10 & 0x1f), f64::from(half & 0x3ff));
    let value = match exponent {
        0 => mantissa * 2f64.powi(-24),
        31 if mantissa == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (mantissa + 1024.0) * 2f64.powi(exponent - 25),
    };
    if half & 0x8000 == 0 { value } else { -value }
}

fn is_valid_utf8(item: &Item) -> bool {
    match item {
        Item::Text(text) => text.is_some(),
        Item::Array(items) => items.iter().all(is_valid_utf8),
        Item::Map(pairs) => pairs.iter().all(|(key, value)| is_valid_utf8(key) && is_valid_utf8(value)),
        Item::Tag(item) => is_valid_utf8(item),
        _ => true,
    }
}

fn event(pairs: &[(Item, Item)]) -> Option<OwnedEvent> {
    let timestamp = match required(pairs, "timestamp")? {
        Item::Integer(n) => u64::try_from(*n).ok()?,
        _ => return None,
    };
    let Item::Array(items) = required(pairs, "telemetry")? else { return None };
    let points = items.iter().map(point).collect::<Option<_>>()?;
    let metadata = optional_text(pairs, "metadata")?;
    Some(OwnedEvent { id: name(required(pairs, "id")?)?, timestamp, metadata, points })
}

fn point(item: &Item) -> Option<OwnedPoint> {
    let Item::Map(pairs) = item else { return None };
    let value = match required(pairs, "value")? {
        Item::Integer(n) => *n as f64,
        Item::Float(value) if value.is_finite() => *value,
        _ => return None,
    };
    Some(OwnedPoint { sensor: name(required(pairs, "sensor")?)?, value, tags: optional_text(pairs, "tags")? })
}

/// The only value under `key`; also `None` if some key is no text.
fn required<'a>(pairs: &'a [(Item, Item)], key: &str) -> Option<&'a Item> {
    values(pairs, key)?.try_into().ok().map(|[value]: [&Item; 1]| value)
}

fn optional_text(pairs: &[(Item, Item)], key: &str) -> Option<Option<String>> {
    match values(pairs, key)?[..] {
        [] => Some(None),
        [Item::Text(text)] => Some(text.clone()),
        _ => None,
    }
}

fn values<'a>(pairs: &'a [(Item, Item)], key: &str) -> Option<Vec<&'a Item>> {
    let is_text = |(key, _): &(Item, Item)| matches!(key, Item::Text(_));
    let key = word(key);
    pairs.iter().all(is_text).then(|| pairs.iter().filter(|(other, _)| *other == key).map(|(_, value)| value).collect())
}

fn name(item: &Item) -> Option<String> {
    match item {
        Item::Text(Some(text)) if (1..=NAME_BYTES_MAX).contains(&text.len()) => Some(text.clone()),
        _ => None,
    }
}

fn word(text: &str) -> Item {
    Item::Text(Some(text.to_owned()))
}
