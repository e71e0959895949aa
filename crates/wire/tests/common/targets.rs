//! What each fuzz target does with its bytes.

use arbitrary::{Arbitrary, Result, Unstructured};
use corelane_wire::{HEADER_BYTES, MAX_FRAME_SIZE, SLACK_BYTES};

use super::script::Script;
use super::stream;
use super::ways::{Slack, Ways, ZEROS};

/// Any cuts of a stream give the same steps.
pub(crate) fn framing(data: &[u8]) {
    let mut data = Unstructured::new(data);
    let _ = streamed(&mut data);
}

/// A stream of some frames, headers and loose bytes, and where it is cut.
fn streamed(u: &mut Unstructured<'_>) -> Result<()> {
    let chunk_bytes: Vec<u32> = (0..u.int_in_range(0..=12)?).map(|_| any_bytes(u)).collect::<Result<_>>()?;
    let mut bytes = Vec::new();
    while !u.is_empty() && bytes.len() < 4 * (HEADER_BYTES + MAX_FRAME_SIZE) {
        match u.int_in_range(0..=7)? {
            0..=2 => bytes.extend(stream::frame(&vec![u.arbitrary()?; any_bytes(u)? as usize % (MAX_FRAME_SIZE + 1)])),
            3 => bytes.extend([0; HEADER_BYTES]),
            4 => bytes.extend(any_bytes(u)?.to_be_bytes()),
            5 => bytes.extend(u32::arbitrary(u)?.to_be_bytes()),
            6 => bytes.push(u.arbitrary()?),
            _ => bytes.truncate(bytes.len().saturating_sub(u.int_in_range(0..=9)?)),
        }
    }
    let expected = stream::naive(&bytes);
    assert_eq!(stream::framed([&bytes[..]]), expected, "whole");
    let chunks = stream::cut(&bytes, chunk_bytes.iter().map(|bytes| *bytes as usize));
    assert_eq!(stream::framed(chunks), expected, "in pieces of {chunk_bytes:?}");
    if bytes.len() < 300 {
        assert_eq!(stream::framed(bytes.chunks(1)), expected, "byte by byte");
    }
    Ok(())
}

/// Lengths: small, near a limit, and any.
fn any_bytes(u: &mut Unstructured<'_>) -> Result<u32> {
    Ok(match u.int_in_range(0..=7)? {
        0..=4 => u.int_in_range(0..=40)?,
        5 => u.int_in_range(MAX_FRAME_SIZE as u32 - 5..=MAX_FRAME_SIZE as u32 + 5)?,
        6 => u.int_in_range(0..=MAX_FRAME_SIZE as u32)?,
        _ => u.int_in_range(0..=u32::MAX)?,
    })
}

/// All three ways and both judges agree on any bytes, come once, again, and cut off.
pub(crate) fn judge(data: &[u8]) {
    let mut ways = Ways::new(1);
    let first = ways.judged(0, data, &ZEROS);
    let again = ways.judged(0, data, &[0xff; SLACK_BYTES]);
    assert_eq!(first.is_ok(), again.is_ok());
    // The start of it, with what was cut off behind it.
    let end = data.len().saturating_sub(1 + data.iter().fold(0, |sum: usize, byte| sum + usize::from(*byte)) % 40);
    let mut slack: Slack = ZEROS;
    let cut_off = &data[end..data.len().min(end + SLACK_BYTES)];
    slack[..cut_off.len()].copy_from_slice(cut_off);
    let _ = ways.judged(0, &data[..end], &slack);
}

/// All three ways agree on sequences of events that look alike.
pub(crate) fn sequences(data: &[u8]) {
    if let Ok(script) = Script::arbitrary(&mut Unstructured::new(data)) {
        script.play(&mut Ways::new(Script::CONNECTIONS));
    }
}
