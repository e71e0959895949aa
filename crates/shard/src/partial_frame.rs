//! The start of a frame whose rest has not come yet.
//!
//! An incomplete or lone header is kept in place, payload bytes in a slot of the pool. A whole buffer is never held.

use corelane_pool::BufferPool;
use corelane_wire::HEADER_BYTES;

use crate::inbox::Received;
use crate::kept::Kept;
use crate::limits::PREPEND_BYTES_MAX;

#[derive(Debug, Default)]
pub(crate) enum PartialFrame {
    /// The stream stands between two frames.
    #[default]
    None,
    /// The header or a part of it.
    Header { bytes: [u8; HEADER_BYTES], len: usize },
    /// The first payload bytes. The header is derived from `frame_bytes`, which counts it.
    Payload { kept: Kept, frame_bytes: usize },
}

/// Where a partial frame stands after more bytes have come.
pub(crate) enum Resumed {
    /// Its start, if any, was put in front of the new bytes, which are read in place.
    InPlace,
    /// All new bytes belong to it and were kept; more are missing.
    NeedsMore,
    /// It is whole, but its start is too long to be put in front of the rest: a payload of `payload_bytes` begins with `kept`
    /// and goes on with the new bytes.
    Whole { kept: Kept, payload_bytes: usize },
}

impl PartialFrame {
    /// Bytes that have come, header included.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Header { len, .. } => *len,
            Self::Payload { kept, .. } => HEADER_BYTES + kept.bytes().len(),
        }
    }

    pub(crate) fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    /// Bytes still to come; `None` as long as the header is incomplete.
    pub(crate) fn missing_bytes(&self) -> Option<usize> {
        match *self {
            Self::Header { bytes, len: HEADER_BYTES } => Some(u32::from_be_bytes(bytes) as usize),
            Self::Payload { frame_bytes, .. } => Some(frame_bytes - self.len()),
            _ => None,
        }
    }

    /// Whether dropping it returns memory to the pool.
    pub(crate) fn holds_memory(&self) -> bool {
        matches!(self, Self::Payload { .. })
    }

    /// Joins the partial frame with the bytes that came next.
    pub(crate) fn resume(&mut self, received: &mut Received, pool: &BufferPool) -> Resumed {
        match std::mem::take(self) {
            Self::None => Resumed::InPlace,
            Self::Header { bytes, len } => {
                received.prepend(&bytes[..len]);
                Resumed::InPlace
            }
            Self::Payload { mut kept, frame_bytes } => {
                let payload_bytes = frame_bytes - HEADER_BYTES;
                let missing = payload_bytes - kept.bytes().len();
                if received.unread().len() < missing {
                    kept.push(received.unread(), pool);
                    *self = Self::Payload { kept, frame_bytes };
                    Resumed::NeedsMore
                } else if HEADER_BYTES + kept.bytes().len() <= PREPEND_BYTES_MAX {
                    received.prepend(kept.bytes());
                    received.prepend(&(payload_bytes as u32).to_be_bytes());
                    Resumed::InPlace
                } else {
                    Resumed::Whole { kept, payload_bytes }
                }
            }
        }
    }

    /// Keeps `start`, the first bytes of a frame of `frame_bytes`, header included.
    pub(crate) fn keep(&mut self, start: &[u8], frame_bytes: usize, pool: &BufferPool) {
        debug_assert!(self.is_none(), "one frame at a time is partial");
        *self = match start.split_at_checked(HEADER_BYTES) {
            Some((_, payload)) if !payload.is_empty() => Self::Payload { kept: Kept::new(payload, pool), frame_bytes },
            _ => {
                let mut bytes = [0; HEADER_BYTES];
                bytes[..start.len()].copy_from_slice(start);
                Self::Header { bytes, len: start.len() }
            }
        };
    }
}
