//! An event to a frame, for clients and tests.

use std::fmt;

use crate::{HEADER_BYTES, MAX_FRAME_SIZE};

/// The payload would be larger than [`MAX_FRAME_SIZE`]: send the points in several events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameTooLarge;

impl fmt::Display for FrameTooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the event does not fit a frame of {MAX_FRAME_SIZE} bytes; send its points in several events")
    }
}

impl std::error::Error for FrameTooLarge {}

/// Appends one event to `out`, as a frame with its header. A point is `(sensor, value, tags)`; `timestamp` is in
/// nanoseconds since the Unix epoch. Lengths and integers are the shortest, values always eight bytes wide, so that the
/// frames of one source differ in as little as possible.
///
/// Checks the size alone: names of 1 to 256 bytes, finite values and at most 2 048 points are the caller's to see to,
/// or the server rejects the frame.
///
/// # Errors
///
/// [`FrameTooLarge`], with `out` as it was.
pub fn encode_event<'p>(
    out: &mut Vec<u8>,
    id: &str,
    timestamp: u64,
    metadata: Option<&str>,
    points: impl ExactSizeIterator<Item = (&'p str, f64, Option<&'p str>)>,
) -> Result<(), FrameTooLarge> {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    put_head(out, MAJOR_MAP, 3 + u64::from(metadata.is_some()));
    put_text(out, "id");
    put_text(out, id);
    put_text(out, "timestamp");
    put_head(out, MAJOR_UNSIGNED, timestamp);
    if let Some(metadata) = metadata {
        put_text(out, "metadata");
        put_text(out, metadata);
    }
    put_text(out, "telemetry");
    put_head(out, MAJOR_ARRAY, points.len() as u64);
    for (sensor, value, tags) in points {
        put_head(out, MAJOR_MAP, 2 + u64::from(tags.is_some()));
        put_text(out, "sensor");
        put_text(out, sensor);
        put_text(out, "value");
        out.push(FLOAT64);
        out.extend_from_slice(&value.to_be_bytes());
        if let Some(tags) = tags {
            put_text(out, "tags");
            put_text(out, tags);
        }
    }
    let payload_bytes = out.len() - start - HEADER_BYTES;
    if payload_bytes > MAX_FRAME_SIZE {
        out.truncate(start);
        return Err(FrameTooLarge);
    }
    out[start..][..HEADER_BYTES].copy_from_slice(&(payload_bytes as u32).to_be_bytes());
    Ok(())
}

pub(crate) const MAJOR_UNSIGNED: u8 = 0;
pub(crate) const MAJOR_TEXT: u8 = 3;
pub(crate) const MAJOR_MAP: u8 = 5;
const MAJOR_ARRAY: u8 = 4;
const FLOAT64: u8 = 0xfb;

/// Longest head: the initial byte and a `u64`.
pub(crate) const HEAD_BYTES_MAX: usize = 9;

/// The shortest head for `argument`: the bytes and how many of them count.
pub(crate) fn head(major: u8, argument: u64) -> ([u8; HEAD_BYTES_MAX], usize) {
    let (info, argument_bytes) = match argument {
        0..=23 => (argument as u8, 0),
        24..=0xff => (24, 1),
        0x100..=0xffff => (25, 2),
        0x1_0000..=0xffff_ffff => (26, 4),
        _ => (27, 8),
    };
    let mut bytes = [0; HEAD_BYTES_MAX];
    bytes[0] = major << 5 | info;
    bytes[1..=argument_bytes].copy_from_slice(&argument.to_be_bytes()[8 - argument_bytes..]);
    (bytes, 1 + argument_bytes)
}

fn put_head(out: &mut Vec<u8>, major: u8, argument: u64) {
    let (bytes, len) = head(major, argument);
    out.extend_from_slice(&bytes[..len]);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_head(out, MAJOR_TEXT, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_the_shortest() {
        for (argument, expected) in [
            (0, &[0x00][..]),
            (23, &[0x17]),
            (24, &[0x18, 24]),
            (255, &[0x18, 255]),
            (256, &[0x19, 1, 0]),
            (65_535, &[0x19, 255, 255]),
            (65_536, &[0x1a, 0, 1, 0, 0]),
            (u64::from(u32::MAX), &[0x1a, 255, 255, 255, 255]),
            (1 << 32, &[0x1b, 0, 0, 0, 1, 0, 0, 0, 0]),
            (u64::MAX, &[0x1b, 255, 255, 255, 255, 255, 255, 255, 255]),
        ] {
            let (bytes, len) = head(MAJOR_UNSIGNED, argument);
            assert_eq!(&bytes[..len], expected);
        }
    }

    #[test]
    fn an_event_is_appended_behind_what_is_there() {
        let mut out = vec![0xee];
        encode_event(&mut out, "a", 1, None, [("s", 1.5, None)].into_iter()).unwrap();
        let payload = b"\xa3\x62id\x61a\x69timestamp\x01\x69telemetry\x81\xa2\x66sensor\x61s\x65value\
            \xfb\x3f\xf8\0\0\0\0\0\0";
        assert_eq!(out[..5], [0xee, 0, 0, 0, payload.len() as u8]);
        assert_eq!(&out[5..], payload);
    }

    #[test]
    fn the_largest_frame_is_written_and_one_byte_more_leaves_nothing_behind() {
        let empty = no_points("");
        // A head of three bytes for the longer text replaces one of one byte.
        let room = MAX_FRAME_SIZE - (empty.len() - HEADER_BYTES) - 2;
        let largest = no_points(&"m".repeat(room));
        assert_eq!(largest.len(), HEADER_BYTES + MAX_FRAME_SIZE);
        assert_eq!(largest[..HEADER_BYTES], (MAX_FRAME_SIZE as u32).to_be_bytes());

        let mut out = vec![1, 2, 3];
        let metadata = "m".repeat(room + 1);
        assert_eq!(encode_event(&mut out, "a", 1, Some(&metadata), [].into_iter()), Err(FrameTooLarge));
        assert_eq!(out, [1, 2, 3]);
    }

    fn no_points(metadata: &str) -> Vec<u8> {
        let mut out = Vec::new();
        encode_event(&mut out, "a", 1, Some(metadata), [].into_iter()).unwrap();
        out
    }
}
