//! Other decoders of the same schema: by hand over `minicbor`, and through serde, borrowed (`cbor4ii`) or owned
//! (`ciborium`).
//!
//! None checks as much as corelane does (duplicate keys, trailing bytes, lengths of names): the difference is theirs.

use std::fmt;
use std::marker::PhantomData;

use minicbor::data::Type;
use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};

/// An event that owns its texts.
#[derive(Debug, Deserialize)]
#[serde(bound = "V: Deserialize<'de>")]
pub struct OwnedEvent<V> {
    /// Source.
    pub id: String,
    /// Nanoseconds since the epoch.
    pub timestamp: u64,
    /// What the source says about the event.
    pub metadata: Option<String>,
    /// Its points.
    pub telemetry: Vec<OwnedPoint<V>>,
}

/// A point that owns its texts.
#[derive(Debug, Deserialize)]
pub struct OwnedPoint<V> {
    /// What was measured.
    pub sensor: String,
    /// The value.
    pub value: V,
    /// What the source says about the point.
    pub tags: Option<String>,
}

/// An event that borrows its texts.
#[derive(Debug, Deserialize)]
#[serde(bound = "V: Deserialize<'de>")]
pub struct BorrowedEvent<'a, V> {
    /// Source.
    pub id: &'a str,
    /// Nanoseconds since the epoch.
    pub timestamp: u64,
    /// What the source says about the event.
    pub metadata: Option<&'a str>,
    /// Its points.
    #[serde(borrow)]
    pub telemetry: Vec<BorrowedPoint<'a, V>>,
}

/// A point that borrows its texts.
#[derive(Debug, Deserialize)]
pub struct BorrowedPoint<'a, V> {
    /// What was measured.
    pub sensor: &'a str,
    /// The value.
    pub value: V,
    /// What the source says about the point.
    pub tags: Option<&'a str>,
}

/// A value of any width. Where every value is a double, `f64` serves and is faster.
#[derive(Debug, Clone, Copy)]
pub struct Number(pub f64);

/// A value as a double.
pub trait Value: Copy {
    /// It.
    fn get(self) -> f64;
}

impl Value for f64 {
    fn get(self) -> f64 {
        self
    }
}

impl Value for Number {
    fn get(self) -> f64 {
        self.0
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any(PhantomData<()>);
        impl Visitor<'_> for Any {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number")
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<Number, E> {
                Ok(Number(value))
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Number, E> {
                Ok(Number(value as f64))
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Number, E> {
                Ok(Number(value as f64))
            }
        }
        deserializer.deserialize_any(Any(PhantomData))
    }
}

/// A point as the walk over `minicbor` keeps it.
#[derive(Debug, Clone, Copy)]
pub struct WalkedPoint<'a> {
    /// What was measured.
    pub sensor: &'a str,
    /// The value.
    pub value: f64,
    /// What the source says about the point.
    pub tags: Option<&'a str>,
}

/// An event as the walk over `minicbor` gives it; its points are in the memory that the walk was lent.
#[derive(Debug, Clone, Copy)]
pub struct WalkedEvent<'a> {
    /// Source.
    pub id: &'a str,
    /// Nanoseconds since the epoch.
    pub timestamp: u64,
    /// What the source says about the event.
    pub metadata: Option<&'a str>,
}

/// A walk by hand over `minicbor`'s decoder that borrows every text and allocates nothing.
///
/// # Errors
/// When the payload is no event.
pub fn walk<'a>(
    payload: &'a [u8],
    points: &mut Vec<WalkedPoint<'a>>,
) -> Result<WalkedEvent<'a>, minicbor::decode::Error> {
    points.clear();
    let mut decoder = minicbor::Decoder::new(payload);
    let (mut id, mut timestamp, mut metadata, mut telemetry) = (None, None, None, None);
    let mut pairs = decoder.map()?;
    while next(&mut decoder, &mut pairs)? {
        match decoder.str()? {
            "id" => id = Some(decoder.str()?),
            "timestamp" => timestamp = Some(decoder.u64()?),
            "metadata" => metadata = Some(decoder.str()?),
            "telemetry" => {
                let mut items = decoder.array()?;
                while next(&mut decoder, &mut items)? {
                    points.push(point(&mut decoder)?);
                }
                telemetry = Some(());
            }
            _ => decoder.skip()?,
        }
    }
    match (id, timestamp, telemetry) {
        (Some(id), Some(timestamp), Some(())) => Ok(WalkedEvent { id, timestamp, metadata }),
        _ => Err(minicbor::decode::Error::message("a required key is missing")),
    }
}

fn point<'a>(decoder: &mut minicbor::Decoder<'a>) -> Result<WalkedPoint<'a>, minicbor::decode::Error> {
    let (mut sensor, mut value, mut tags) = (None, None, None);
    let mut pairs = decoder.map()?;
    while next(decoder, &mut pairs)? {
        match decoder.str()? {
            "sensor" => sensor = Some(decoder.str()?),
            "value" => value = Some(number(decoder)?),
            "tags" => tags = Some(decoder.str()?),
            _ => decoder.skip()?,
        }
    }
    match (sensor, value) {
        (Some(sensor), Some(value)) => Ok(WalkedPoint { sensor, value, tags }),
        _ => Err(minicbor::decode::Error::message("a required key is missing")),
    }
}

fn number(decoder: &mut minicbor::Decoder<'_>) -> Result<f64, minicbor::decode::Error> {
    match decoder.datatype()? {
        Type::F16 | Type::F32 | Type::F64 => decoder.f64(),
        _ => Ok(i128::from(decoder.int()?) as f64),
    }
}

/// Whether another item follows, of so many that are left or up to a break.
fn next(decoder: &mut minicbor::Decoder<'_>, left: &mut Option<u64>) -> Result<bool, minicbor::decode::Error> {
    match left {
        Some(0) => Ok(false),
        Some(left) => {
            *left -= 1;
            Ok(true)
        }
        None if decoder.datatype()? == Type::Break => decoder.skip().map(|()| false),
        None => Ok(true),
    }
}
