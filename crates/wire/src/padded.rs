//! A payload with readable bytes behind it: what the predicted way may look at without asking first.

/// Bytes that can be read behind every padded payload. Their values never matter.
pub const SLACK_BYTES: usize = 32;

/// A payload that is followed by [`SLACK_BYTES`] readable bytes, by construction.
#[derive(Clone, Copy, Debug)]
pub struct Padded<'a> {
    /// Invariant: longer than `len` by `SLACK_BYTES`.
    bytes: &'a [u8],
    len: usize,
}

impl<'a> Padded<'a> {
    /// The payload `start..end` of `buffer`; `None` when the buffer ends less than [`SLACK_BYTES`] behind it.
    #[inline]
    pub fn new(buffer: &'a [u8], start: usize, end: usize) -> Option<Self> {
        let bytes = buffer.get(start..end.checked_add(SLACK_BYTES)?)?;
        Some(Self { bytes, len: end.checked_sub(start)? })
    }

    /// The payload itself.
    #[inline]
    pub fn payload(self) -> &'a [u8] {
        &self.bytes[..self.len]
    }

    /// The payload and its slack.
    #[inline]
    pub(crate) fn with_slack(self) -> &'a [u8] {
        self.bytes
    }
}
