//! The start of a frame whose rest is still on its way.
//!
//! Holds as little as it can: the bytes of an incomplete header in place, a short start in a small slot, a long one in a
//! whole buffer. Never fails for want of memory: in the end it keeps the very buffer in which the bytes came.

use corelane_pool::{BufferPool, PooledBuffer, SmallBuffer};
use corelane_wire::HEADER_BYTES;

use crate::inbox::Received;

#[derive(Debug, Default)]
pub(crate) enum Carry {
    /// The stream stands between two frames.
    #[default]
    Empty,
    /// Less than a header: needs no buffer.
    Header { bytes: [u8; HEADER_BYTES], len: usize },
    /// Header and first payload bytes, as many as a small slot holds.
    Small { slot: SmallBuffer, len: usize, frame_bytes: usize },
    /// Header and first payload bytes at the front of a buffer that has room for the whole frame.
    Whole { buffer: PooledBuffer, len: usize, frame_bytes: usize },
    /// As `Whole`, while the kernel receives the rest straight into the buffer.
    Lent { len: usize, frame_bytes: usize },
}

/// Where the begun frame stands once more bytes have come.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Resumed {
    /// Its start was put in front of the new bytes: go on there.
    InPlace,
    /// All new bytes belong to it and were kept; it still needs more.
    NeedsMore,
    /// The carry holds it whole; what follows it is still unread.
    Whole,
}

impl Carry {
    /// Bytes kept.
    pub(crate) fn len(&self) -> usize {
        match *self {
            Self::Empty => 0,
            Self::Header { len, .. } | Self::Small { len, .. } | Self::Whole { len, .. } | Self::Lent { len, .. } => {
                len
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }

    /// The buffer that it has to itself.
    pub(crate) fn whole_buffer(&self) -> Option<&PooledBuffer> {
        match self {
            Self::Whole { buffer, .. } => Some(buffer),
            _ => None,
        }
    }

    /// Whether dropping it gives memory back to the pool.
    pub(crate) fn holds_memory(&self) -> bool {
        matches!(self, Self::Small { .. } | Self::Whole { .. })
    }

    /// Joins the begun frame with the bytes that came next.
    pub(crate) fn resume(&mut self, received: &mut Received) -> Resumed {
        let available = received.unread().len();
        match self {
            Self::Empty => Resumed::InPlace,
            Self::Header { bytes, len } => {
                prepend(received, &bytes[..*len]);
                *self = Self::Empty;
                Resumed::InPlace
            }
            Self::Small { slot, len, frame_bytes } => {
                if *len + available < *frame_bytes && *len + available <= slot.len() {
                    slot[*len..*len + available].copy_from_slice(received.unread());
                    *len += available;
                    received.start = received.end;
                    return Resumed::NeedsMore;
                }
                prepend(received, &slot[..*len]);
                *self = Self::Empty;
                Resumed::InPlace
            }
            Self::Whole { buffer, len, frame_bytes } => {
                let taken = available.min(*frame_bytes - *len);
                buffer[*len..*len + taken].copy_from_slice(&received.unread()[..taken]);
                *len += taken;
                received.start += taken;
                if len == frame_bytes { Resumed::Whole } else { Resumed::NeedsMore }
            }
            Self::Lent { .. } => unreachable!("a receive into the carry is the only one of its connection"),
        }
    }

    /// Keeps the unread rest of `received`, the start of a frame of `frame_bytes`, header included. Gives the buffer back
    /// unless the rest stays there; then everything behind the rest stays where it is, too.
    pub(crate) fn keep(
        &mut self,
        mut received: Received,
        frame_bytes: usize,
        pool: &BufferPool,
    ) -> Option<PooledBuffer> {
        debug_assert!(self.is_empty(), "one frame at a time is begun");
        let rest = received.unread();
        let len = rest.len();
        if len < HEADER_BYTES {
            let mut bytes = [0; HEADER_BYTES];
            bytes[..len].copy_from_slice(rest);
            *self = Self::Header { bytes, len };
        } else if let Some(mut slot) = pool.acquire_small(len) {
            slot[..len].copy_from_slice(rest);
            *self = Self::Small { slot, len, frame_bytes };
        } else {
            received.buffer.copy_within(received.start..received.end, 0);
            *self = Self::Whole { buffer: received.buffer, len, frame_bytes };
            return None;
        }
        Some(received.buffer)
    }

    /// The whole frame, header included, that [`Resumed::Whole`] or [`take_back`](Self::take_back) told of.
    pub(crate) fn take_whole(&mut self) -> Option<(PooledBuffer, usize)> {
        match std::mem::take(self) {
            Self::Whole { buffer, len, frame_bytes } if len == frame_bytes => Some((buffer, len)),
            other => {
                *self = other;
                None
            }
        }
    }

    /// Whether [`lend`](Self::lend) has a buffer to give, its own or one that was kept back.
    pub(crate) fn can_lend(&self, pool: &BufferPool) -> bool {
        matches!(self, Self::Whole { .. }) || (matches!(self, Self::Small { .. }) && pool.free() > 0)
    }

    /// Gives the buffer away to receive the rest of the frame into: its bytes `.1..` lack `.2`. Takes a buffer that
    /// was kept back for a start that lies in a small slot; `None` when there is none, or nothing begun that holds memory.
    pub(crate) fn lend(&mut self, pool: &BufferPool) -> Option<(PooledBuffer, usize, usize)> {
        let (buffer, len, frame_bytes) = match std::mem::take(self) {
            Self::Whole { buffer, len, frame_bytes } => (buffer, len, frame_bytes),
            Self::Small { slot, len, frame_bytes } => match pool.acquire_kept_back() {
                Some(mut buffer) => {
                    buffer[..len].copy_from_slice(&slot[..len]);
                    (buffer, len, frame_bytes)
                }
                None => {
                    *self = Self::Small { slot, len, frame_bytes };
                    return None;
                }
            },
            other => {
                *self = other;
                return None;
            }
        };
        *self = Self::Lent { len, frame_bytes };
        Some((buffer, len, frame_bytes - len))
    }

    /// Takes the lent buffer back with `received` more bytes in it.
    pub(crate) fn take_back(&mut self, buffer: PooledBuffer, received: usize) {
        if let Self::Lent { len, frame_bytes } = *self {
            *self = Self::Whole { buffer, len: len + received, frame_bytes };
        }
    }
}

/// Puts `start` right in front of the unread bytes. There is room: nothing of a receive has been read yet when the frame,
/// or record, that it continues is joined, so all of its headroom is free.
pub(crate) fn prepend(received: &mut Received, start: &[u8]) {
    received.start -= start.len();
    let at = received.start;
    received.buffer[at..at + start.len()].copy_from_slice(start);
}
