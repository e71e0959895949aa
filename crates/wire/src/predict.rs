//! The predicted way through a payload: events look alike, so compare what is expected and give up at the first surprise.
//!
//! Keys are compared as whole words, texts are checked for ASCII 16 bytes at a time, and everything has the definite,
//! known shape that encoders write: known keys in any order, any width of number. What is not of that shape, be it valid
//! or not, ends this walk with `None`, and the general walk begins again at the first byte. So this way never decides
//! that a payload is refused, and it gives an event only after the same checks as the general one.
//!
//! # Why it is sound
//!
//! Loads are unchecked. Each is of at most [`SLACK_BYTES`] bytes from `at`, and `at` never passes `len` unnoticed:
//! `Cursor::advance` is the only thing that moves it and gives up when it would. So every load lies within the padded
//! payload. A range that is pushed as a text has been found to be ASCII, or valid UTF-8 by the standard library.
#![allow(unsafe_code, reason = "bounds are checked once an item, not once a byte; the argument is in the head comment")]

use crate::padded::{Padded, SLACK_BYTES};
use crate::points::Draft;
use crate::reader::f64_from_half;
use crate::{NAME_BYTES_MAX, POINTS_MAX};

/// A position in a padded payload. Invariant: `at <= len`, and `bytes` is `SLACK_BYTES` longer than `len`.
struct Cursor<'a> {
    bytes: &'a [u8],
    len: usize,
    at: usize,
}

/// Takes what the walk finds, in its order. Ranges are of the payload, and valid UTF-8.
pub(crate) trait Sink {
    /// The timestamp stands here.
    fn timestamp(&mut self, place: Place);
    /// A point; `None` ends the walk.
    fn point(&mut self, sensor: (usize, usize), value: f64, place: Place, tags: Option<(usize, usize)>) -> Option<()>;
}

impl Sink for Draft<'_> {
    #[inline(always)]
    fn timestamp(&mut self, _: Place) {}

    #[inline(always)]
    fn point(&mut self, sensor: (usize, usize), value: f64, _: Place, tags: Option<(usize, usize)>) -> Option<()> {
        // SAFETY: the ranges are checked texts of the payload of this draft.
        unsafe { self.push_in_place(sensor, value, tags) };
        Some(())
    }
}

/// Where the argument of a number stands, and of what head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    at: u16,
    head: u8,
}

/// The fields of the event's map.
pub(crate) struct Fields {
    pub(crate) id: Range,
    pub(crate) timestamp: u64,
    pub(crate) metadata: Option<Range>,
}

/// A text of the payload: `start..end`, checked.
#[derive(Clone, Copy)]
pub(crate) struct Range {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// Walks the whole payload; `None` at the first surprise, and then the sink holds points of no meaning.
#[inline]
pub(crate) fn event(payload: Padded<'_>, sink: &mut impl Sink) -> Option<Fields> {
    let bytes = payload.with_slack();
    let mut cursor = Cursor { bytes, len: bytes.len() - SLACK_BYTES, at: 0 };
    let mut pairs = cursor.small_map()?;
    let (mut id, mut timestamp, mut metadata, mut telemetry) = (None, None, None, false);
    while pairs > 0 {
        pairs -= 1;
        let word = cursor.word();
        if word & ID_MASK == ID {
            cursor.advance(3)?;
            first(&mut id, cursor.name()?)?;
        } else if word == TIMESTAMP.0 && cursor.two(8) == TIMESTAMP.1 {
            cursor.advance(10)?;
            sink.timestamp(cursor.place());
            first(&mut timestamp, cursor.unsigned()?)?;
        } else if word == TELEMETRY.0 && cursor.two(8) == TELEMETRY.1 {
            cursor.advance(10)?;
            if std::mem::replace(&mut telemetry, true) {
                return None;
            }
            points(&mut cursor, sink)?;
        } else if word == METADATA.0 && cursor.byte(8) == METADATA.1 {
            cursor.advance(9)?;
            first(&mut metadata, cursor.text()?)?;
        } else {
            return None;
        }
    }
    (cursor.at == cursor.len && telemetry).then_some(())?;
    Some(Fields { id: id?, timestamp: timestamp?, metadata })
}

#[inline(always)]
fn points(cursor: &mut Cursor<'_>, sink: &mut impl Sink) -> Option<()> {
    let mut left = cursor.array()?;
    while left > 0 {
        left -= 1;
        let mut pairs = cursor.small_map()?;
        let (mut sensor, mut value, mut tags) = (None, None, None);
        while pairs > 0 {
            pairs -= 1;
            let word = cursor.word();
            if word & SENSOR_MASK == SENSOR {
                cursor.advance(7)?;
                first(&mut sensor, cursor.name()?)?;
            } else if word & VALUE_MASK == VALUE {
                cursor.advance(6)?;
                let place = cursor.place();
                first(&mut value, (cursor.number()?, place))?;
            } else if word & TAGS_MASK == TAGS {
                cursor.advance(5)?;
                first(&mut tags, cursor.text()?)?;
            } else {
                return None;
            }
        }
        let (sensor, (value, place)): (Range, _) = (sensor?, value?);
        sink.point((sensor.start, sensor.end), value, place, tags.map(|tags: Range| (tags.start, tags.end)))?;
    }
    Some(())
}

/// Fills a field that must not be filled yet.
#[inline(always)]
fn first<T>(field: &mut Option<T>, value: T) -> Option<()> {
    if field.is_some() {
        return None;
    }
    *field = Some(value);
    Some(())
}

impl<'a> Cursor<'a> {
    /// `N` bytes from `at + offset` on.
    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> [u8; N] {
        debug_assert!(self.at <= self.len && offset + N <= SLACK_BYTES);
        // SAFETY: `at <= len`, and the bytes asked for end within the slack (see the head comment).
        unsafe { self.bytes.as_ptr().add(self.at + offset).cast::<[u8; N]>().read() }
    }

    #[inline(always)]
    fn byte(&self, offset: usize) -> u8 {
        u8::from_le_bytes(self.load(offset))
    }

    #[inline(always)]
    fn two(&self, offset: usize) -> u16 {
        u16::from_le_bytes(self.load(offset))
    }

    #[inline(always)]
    fn word(&self) -> u64 {
        u64::from_le_bytes(self.load(0))
    }

    /// Moves on; `None` when that leads out of the payload.
    #[inline(always)]
    fn advance(&mut self, bytes: usize) -> Option<()> {
        if bytes > self.len - self.at {
            return None;
        }
        self.at += bytes;
        Some(())
    }

    /// The pairs of a map of up to 23.
    #[inline(always)]
    fn small_map(&mut self) -> Option<u8> {
        let pairs = self.byte(0) ^ 0xa0;
        self.advance(1)?;
        (pairs < 24).then_some(pairs)
    }

    /// The items of an array of up to `POINTS_MAX`.
    #[inline(always)]
    fn array(&mut self) -> Option<usize> {
        let (count, head_bytes) = match self.byte(0) {
            head @ 0x80..=0x97 => (usize::from(head & 0x1f), 1),
            0x98 => (usize::from(self.byte(1)), 2),
            0x99 => (usize::from(u16::from_be_bytes(self.load(1))), 3),
            _ => return None,
        };
        self.advance(head_bytes)?;
        (count <= POINTS_MAX).then_some(count)
    }

    /// A name of 1 to `NAME_BYTES_MAX` bytes.
    #[inline(always)]
    fn name(&mut self) -> Option<Range> {
        let name = self.text()?;
        (1..=NAME_BYTES_MAX).contains(&(name.end - name.start)).then_some(name)
    }

    /// The bytes of a text in one piece, and of its head.
    #[inline(always)]
    fn text_head(&self) -> Option<(usize, usize)> {
        Some(match self.byte(0) {
            head @ 0x60..=0x77 => (usize::from(head & 0x1f), 1),
            0x78 => (usize::from(self.byte(1)), 2),
            0x79 => (usize::from(u16::from_be_bytes(self.load(1))), 3),
            _ => return None,
        })
    }

    /// A text in one piece, valid UTF-8.
    #[inline(always)]
    fn text(&mut self) -> Option<Range> {
        let (text_bytes, head_bytes) = self.text_head()?;
        self.advance(head_bytes)?;
        let start = self.at;
        let short_ascii = text_bytes <= 32 && high_bits(self.load(0)) & mask(text_bytes) == 0;
        self.advance(text_bytes)?;
        if !short_ascii && str::from_utf8(&self.bytes[start..self.at]).is_err() {
            return None;
        }
        Some(Range { start, end: self.at })
    }

    #[inline(always)]
    fn unsigned(&mut self) -> Option<u64> {
        match self.byte(0) {
            0x1b => {
                let number = u64::from_be_bytes(self.load(1));
                self.advance(9)?;
                Some(number)
            }
            head @ 0x00..=0x1a => self.argument(head),
            _ => None,
        }
    }

    /// The argument of a head whose lower bits are up to 26, and moves past it.
    fn argument(&mut self, head: u8) -> Option<u64> {
        let (number, head_bytes) = match head & 0x1f {
            small @ 0..=23 => (u64::from(small), 1),
            24 => (u64::from(self.byte(1)), 2),
            25 => (u64::from(u16::from_be_bytes(self.load(1))), 3),
            26 => (u64::from(u32::from_be_bytes(self.load(1))), 5),
            27 => (u64::from_be_bytes(self.load(1)), 9),
            _ => return None,
        };
        self.advance(head_bytes)?;
        Some(number)
    }

    /// An integer or a float of any width, finite.
    #[inline(always)]
    fn number(&mut self) -> Option<f64> {
        let head = self.byte(0);
        if head == 0xfb {
            let value = f64::from_bits(u64::from_be_bytes(self.load(1)));
            self.advance(9)?;
            return value.is_finite().then_some(value);
        }
        self.other_number(head)
    }

    fn other_number(&mut self, head: u8) -> Option<f64> {
        let value = match head {
            0xfa => {
                let value = f64::from(f32::from_be_bytes(self.load(1)));
                self.advance(5)?;
                value
            }
            0xf9 => {
                let value = f64_from_half(u16::from_be_bytes(self.load(1)));
                self.advance(3)?;
                value
            }
            0x00..=0x1b => self.argument(head)? as f64,
            0x20..=0x3b => (-1 - i128::from(self.argument(head)?)) as f64,
            _ => return None,
        };
        value.is_finite().then_some(value)
    }

    /// The number at hand, to be read again.
    #[inline(always)]
    fn place(&self) -> Place {
        Place { at: self.at as u16, head: self.byte(0) }
    }
}

impl Place {
    pub(crate) const NONE: Self = Self { at: 0, head: 0 };

    /// The bytes of the argument.
    pub(crate) fn range(self) -> std::ops::Range<usize> {
        let start = usize::from(self.at) + 1;
        let bytes = match self.head & 0x1f {
            24 => 1,
            25 => 2,
            26 => 4,
            27 => 8,
            _ => 0,
        };
        start..start + bytes
    }

    pub(crate) fn is_double(self) -> bool {
        self.head == 0xfb
    }

    /// The eight bytes behind the head.
    ///
    /// # Safety
    /// `bytes` is a padded payload with its slack, in which the walk has found a number of this head here.
    #[inline(always)]
    pub(crate) unsafe fn word(self, bytes: &[u8]) -> u64 {
        debug_assert!(bytes.get(usize::from(self.at)) == Some(&self.head));
        // SAFETY: the head lies within the payload, so eight bytes behind it lie within the slack.
        u64::from_be_bytes(unsafe { bytes.as_ptr().add(usize::from(self.at) + 1).cast::<[u8; 8]>().read() })
    }

    /// The argument, or what a small head says itself.
    ///
    /// # Safety
    /// `bytes` is a padded payload with its slack, in which the walk has found a number of this head here.
    #[inline(always)]
    pub(crate) unsafe fn read(self, bytes: &[u8]) -> u64 {
        // SAFETY: passed on.
        let word = unsafe { self.word(bytes) };
        match self.head & 0x1f {
            27 => word,
            26 => word >> 32,
            25 => word >> 48,
            24 => word >> 56,
            small => u64::from(small),
        }
    }

    /// The value of a head of this kind with this argument.
    pub(crate) fn number(self, argument: u64) -> f64 {
        match self.head {
            0xfb => f64::from_bits(argument),
            0xfa => f64::from(f32::from_bits(argument as u32)),
            0xf9 => f64_from_half(argument as u16),
            0x00..=0x1b => argument as f64,
            _ => (-1 - i128::from(argument)) as f64,
        }
    }
}

impl Fields {
    /// Where id and metadata stand.
    pub(crate) fn ranges(&self) -> ((usize, usize), Option<(usize, usize)>) {
        let range = |range: Range| (range.start, range.end);
        (range(self.id), self.metadata.map(range))
    }
}

/// The id of a payload whose first key it is, not checked at all: only good for looking something up.
#[inline(always)]
pub(crate) fn leading_id(payload: Padded<'_>) -> Option<&[u8]> {
    let bytes = payload.with_slack();
    let mut cursor = Cursor { bytes, len: bytes.len() - SLACK_BYTES, at: 0 };
    cursor.advance(1)?;
    if cursor.word() & ID_MASK != ID {
        return None;
    }
    cursor.advance(3)?;
    let (id_bytes, head_bytes) = cursor.text_head()?;
    cursor.advance(head_bytes)?;
    let start = cursor.at;
    cursor.advance(id_bytes)?;
    Some(&bytes[start..cursor.at])
}

/// One bit for each byte that is not ASCII.
#[cfg(all(target_arch = "x86_64", not(corelane_portable)))]
#[inline(always)]
fn high_bits(bytes: [u8; 32]) -> u32 {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_movemask_epi8};
    let start = bytes.as_ptr().cast::<__m128i>();
    // SAFETY: SSE2 is part of x86_64; both loads are unaligned ones of 16 of the 32 bytes.
    let (low, high) =
        unsafe { (_mm_movemask_epi8(_mm_loadu_si128(start)), _mm_movemask_epi8(_mm_loadu_si128(start.add(1)))) };
    low as u32 | (high as u32) << 16
}

/// The same for every other machine.
#[cfg(not(all(target_arch = "x86_64", not(corelane_portable))))]
#[inline(always)]
fn high_bits(bytes: [u8; 32]) -> u32 {
    bytes.iter().enumerate().fold(0, |bits, (at, byte)| bits | u32::from(byte >> 7) << at)
}

/// The bits of the first `bytes`, at most 32.
#[inline(always)]
fn mask(bytes: usize) -> u32 {
    ((1u64 << bytes) - 1) as u32
}

const fn word(text: &[u8; 8]) -> u64 {
    u64::from_le_bytes(*text)
}

/// Keys as they are encoded, head and text, in the order of memory.
const ID: u64 = word(b"\x62id\0\0\0\0\0");
const ID_MASK: u64 = 0xff_ffff;
const TIMESTAMP: (u64, u16) = (word(b"\x69timesta"), u16::from_le_bytes(*b"mp"));
const TELEMETRY: (u64, u16) = (word(b"\x69telemet"), u16::from_le_bytes(*b"ry"));
const METADATA: (u64, u8) = (word(b"\x68metadat"), b'a');
const SENSOR: u64 = word(b"\x66sensor\0");
const SENSOR_MASK: u64 = 0xff_ffff_ffff_ffff;
const VALUE: u64 = word(b"\x65value\0\0");
const VALUE_MASK: u64 = 0xffff_ffff_ffff;
const TAGS: u64 = word(b"\x64tags\0\0\0");
const TAGS_MASK: u64 = 0xff_ffff_ffff;
