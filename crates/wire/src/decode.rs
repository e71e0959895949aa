//! The schema: one walk over a payload, to an event or to the reason why it is none.
//!
//! [`Decoder`] owns the scratch; `Walk` is the general way through any payload. A surprise does not end the walk,
//! since a reason further on may outrank it: only `malformed` and `too_deep` do. Allocates nothing after
//! [`Decoder::new`] and takes time linear in the payload.

use crate::points::{Draft, Scratch, Text};
use crate::reader::{Head, Length, Reader};
use crate::{Event, MAX_FRAME_SIZE, NAME_BYTES_MAX, POINTS_MAX, RejectReason};

/// Turns payloads into events, one at a time. About 128 KiB, all of it made by [`new`](Self::new).
#[derive(Debug)]
pub struct Decoder {
    pub(crate) scratch: Scratch,
}

impl Decoder {
    /// What [`new`](Self::new) allocates, in bytes.
    pub const MEMORY_BYTES: usize = Scratch::BYTES;

    /// A decoder with scratch for the largest event there can be.
    #[allow(clippy::new_without_default, reason = "it allocates 128 KiB, which a default should not do unseen")]
    pub fn new() -> Self {
        Self { scratch: Scratch::new() }
    }

    /// The event in `payload`, which is a frame without its header.
    ///
    /// # Errors
    ///
    /// The one [`RejectReason`] that the bytes give: see there for the order.
    pub fn decode<'a>(&'a mut self, payload: &'a [u8]) -> Result<Event<'a>, RejectReason> {
        if payload.len() > MAX_FRAME_SIZE {
            return Err(RejectReason::Oversize);
        }
        walk(payload, self.scratch.begin(payload))
    }
}

/// The general way, from the first byte on.
pub(crate) fn walk<'a>(payload: &'a [u8], mut draft: Draft<'a>) -> Result<Event<'a>, RejectReason> {
    draft.clear();
    Walk { reader: Reader::new(payload), draft, too_many_points: false, not_an_event: false }.event()
}

/// One payload on its way to an event. `Err` is only ever `Malformed` or `TooDeep`, until the walk is over.
struct Walk<'a> {
    reader: Reader<'a>,
    draft: Draft<'a>,
    too_many_points: bool,
    not_an_event: bool,
}

/// The required and optional fields of the event's map, as far as they have come.
#[derive(Default)]
struct Found<'a> {
    id: Option<Text<'a>>,
    timestamp: Option<u64>,
    metadata: Option<Text<'a>>,
    telemetry: Option<()>,
}

/// Arrays, maps and tags around a value of the event's map, a point, and a value of a point's map.
const EVENT_DEPTH: usize = 1;
const TELEMETRY_DEPTH: usize = 2;
const POINT_DEPTH: usize = 3;

enum EventKey {
    Id,
    Timestamp,
    Metadata,
    Telemetry,
    Unknown,
}

enum PointKey {
    Sensor,
    Value,
    Tags,
    Unknown,
}

impl<'a> Walk<'a> {
    fn event(mut self) -> Result<Event<'a>, RejectReason> {
        let fields = match self.reader.head()? {
            Head::Map(pairs) => self.event_map(pairs)?,
            head => {
                self.refuse(head, 0)?;
                Found::default()
            }
        };
        if !self.reader.is_at_end() {
            return Err(RejectReason::TrailingBytes);
        }
        if self.reader.saw_invalid_utf8() {
            return Err(RejectReason::InvalidUtf8);
        }
        if self.too_many_points {
            return Err(RejectReason::TooManyPoints);
        }
        match fields {
            Found { id: Some(id), timestamp: Some(timestamp), metadata, telemetry: Some(()) } if !self.not_an_event => {
                Ok(self.draft.finish(id, timestamp, metadata))
            }
            _ => Err(RejectReason::NotAnEvent),
        }
    }

    fn event_map(&mut self, mut pairs: Length) -> Result<Found<'a>, RejectReason> {
        let mut fields = Found::default();
        while self.reader.has_next(&mut pairs) {
            match self.event_key()? {
                EventKey::Id => {
                    let id = self.name(EVENT_DEPTH)?;
                    self.keep(&mut fields.id, id);
                }
                EventKey::Timestamp => {
                    let timestamp = self.timestamp()?;
                    self.keep(&mut fields.timestamp, timestamp);
                }
                EventKey::Metadata => {
                    let metadata = self.text(EVENT_DEPTH)?;
                    self.keep(&mut fields.metadata, metadata);
                }
                EventKey::Telemetry => {
                    let telemetry = self.telemetry()?;
                    self.keep(&mut fields.telemetry, telemetry);
                }
                EventKey::Unknown => self.skip(EVENT_DEPTH)?,
            }
        }
        Ok(fields)
    }

    /// Points beyond the limit are walked like the others, and every `telemetry` is counted by itself, so that the
    /// reason does not depend on what else is wrong.
    fn telemetry(&mut self) -> Result<Option<()>, RejectReason> {
        let mut items = match self.reader.head()? {
            Head::Array(items) => items,
            head => return self.refuse(head, EVENT_DEPTH).map(|()| None),
        };
        let mut count = 0;
        while self.reader.has_next(&mut items) {
            count += 1;
            self.point()?;
        }
        self.too_many_points |= count > POINTS_MAX;
        Ok(Some(()))
    }

    fn point(&mut self) -> Result<(), RejectReason> {
        let mut pairs = match self.reader.head()? {
            Head::Map(pairs) => pairs,
            head => return self.refuse(head, TELEMETRY_DEPTH),
        };
        let (mut sensor, mut value, mut tags) = (None, None, None);
        while self.reader.has_next(&mut pairs) {
            match self.point_key()? {
                PointKey::Sensor => {
                    let name = self.name(POINT_DEPTH)?;
                    self.keep(&mut sensor, name);
                }
                PointKey::Value => {
                    let number = self.number()?;
                    self.keep(&mut value, number);
                }
                PointKey::Tags => {
                    let text = self.text(POINT_DEPTH)?;
                    self.keep(&mut tags, text);
                }
                PointKey::Unknown => self.skip(POINT_DEPTH)?,
            }
        }
        match (sensor, value) {
            (Some(sensor), Some(value)) => self.draft.push_point(sensor, value, tags),
            _ => self.not_an_event = true,
        }
        Ok(())
    }

    fn event_key(&mut self) -> Result<EventKey, RejectReason> {
        let key = self.text(EVENT_DEPTH)?;
        Ok(match key.map(|key| self.draft.resolve(key)) {
            Some("id") => EventKey::Id,
            Some("timestamp") => EventKey::Timestamp,
            Some("metadata") => EventKey::Metadata,
            Some("telemetry") => EventKey::Telemetry,
            _ => EventKey::Unknown,
        })
    }

    fn point_key(&mut self) -> Result<PointKey, RejectReason> {
        let key = self.text(POINT_DEPTH)?;
        Ok(match key.map(|key| self.draft.resolve(key)) {
            Some("sensor") => PointKey::Sensor,
            Some("value") => PointKey::Value,
            Some("tags") => PointKey::Tags,
            _ => PointKey::Unknown,
        })
    }

    fn name(&mut self, depth: usize) -> Result<Option<Text<'a>>, RejectReason> {
        let name = self.text(depth)?;
        if let Some(name) = name {
            self.not_an_event |= !(1..=NAME_BYTES_MAX).contains(&self.draft.resolve(name).len());
        }
        Ok(name)
    }

    /// A text in one piece or in chunks; `None` if there is none. That it is something else or not UTF-8 is remembered.
    // Inlined for the same reason as `Reader::head`: most of an event is texts.
    #[inline(always)]
    fn text(&mut self, depth: usize) -> Result<Option<Text<'a>>, RejectReason> {
        match self.reader.head()? {
            Head::Text(Length::Known(bytes)) => Ok(self.reader.text(bytes)?.map(Text::InPlace)),
            Head::Text(Length::Indefinite) => {
                let start = self.draft.joined_bytes();
                while let Some(bytes) = self.reader.text_chunk()? {
                    // A chunk left out changes nothing: its frame is refused as `invalid_utf8`, which outranks what
                    // the rest of this text can lead to.
                    if let Some(chunk) = self.reader.text(bytes)? {
                        self.draft.join(chunk);
                    }
                }
                Ok(Some(Text::Joined { start, end: self.draft.joined_bytes() }))
            }
            head => self.refuse(head, depth).map(|()| None),
        }
    }

    fn timestamp(&mut self) -> Result<Option<u64>, RejectReason> {
        match self.reader.head()? {
            Head::Unsigned(nanoseconds) => Ok(Some(nanoseconds)),
            head => self.refuse(head, EVENT_DEPTH).map(|()| None),
        }
    }

    fn number(&mut self) -> Result<Option<f64>, RejectReason> {
        match self.reader.head()? {
            Head::Unsigned(n) => Ok(Some(n as f64)),
            // Rounded once, from the exact integer: down to -2^64.
            Head::Negative(n) => Ok(Some((-1 - i128::from(n)) as f64)),
            Head::Float(value) if value.is_finite() => Ok(Some(value)),
            head => self.refuse(head, POINT_DEPTH).map(|()| None),
        }
    }

    /// Keeps a known key's value; a key that comes twice spoils the event.
    fn keep<T>(&mut self, field: &mut Option<T>, value: Option<T>) {
        if let Some(value) = value {
            self.not_an_event |= field.replace(value).is_some();
        }
    }

    /// Passes over an item that the schema does not allow where it stands.
    fn refuse(&mut self, head: Head, depth: usize) -> Result<(), RejectReason> {
        self.not_an_event = true;
        self.reader.skip_rest(head, depth)
    }

    fn skip(&mut self, depth: usize) -> Result<(), RejectReason> {
        let head = self.reader.head()?;
        self.reader.skip_rest(head, depth)
    }
}
