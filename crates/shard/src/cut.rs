//! The start of a TLS record whose rest is still on its way.
//!
//! What `carry` is for a frame, one layer below. Holds a small slot, or the very buffer in which the bytes came; only when
//! a frame has that buffer already, heap.

use std::ops::Range;

use corelane_pool::{BufferPool, PooledBuffer, SmallBuffer};
use corelane_tls::{TlsFault, record_bytes};

use crate::carry::prepend;
use crate::connection::Connection;
use crate::inbox::Received;

/// The start of a record.
#[derive(Default)]
pub(crate) enum Cut {
    #[default]
    Nothing,
    Slot {
        slot: SmallBuffer,
        len: usize,
    },
    /// At the front of the buffer that it came in: no slot was left.
    Whole {
        buffer: PooledBuffer,
        len: usize,
    },
    /// That buffer is the connection's, for the start of a frame in front of this. So there are at most as many of these as
    /// buffers.
    Heap(Vec<u8>),
}

impl Cut {
    /// What has come of it.
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Nothing => &[],
            Self::Slot { slot, len } => &slot[..*len],
            Self::Whole { buffer, len } => &buffer[..*len],
            Self::Heap(bytes) => bytes,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    /// Whether dropping it gives memory back to the pool.
    pub(crate) fn holds_memory(&self) -> bool {
        matches!(self, Self::Slot { .. } | Self::Whole { .. })
    }

    /// Whether it has a buffer to itself.
    pub(crate) fn has_whole_buffer(&self) -> bool {
        matches!(self, Self::Whole { .. })
    }

    /// Keeps the bytes at `place` once everything in front of them is served; `buffer` is the one that they came in, unless
    /// the connection has kept that.
    pub(crate) fn keep(
        &mut self,
        place: Range<usize>,
        buffer: Option<PooledBuffer>,
        connection: &Connection,
        pool: &BufferPool,
    ) {
        let len = place.len();
        let Some(source) = buffer.as_ref().or(connection.whole_buffer()).filter(|_| len > 0) else { return };
        if let Some(mut slot) = pool.acquire_small(len) {
            slot[..len].copy_from_slice(&source[place]);
            *self = Self::Slot { slot, len };
            return;
        }
        *self = match buffer {
            Some(mut buffer) if connection.whole_buffer().is_none() => {
                buffer.copy_within(place, 0);
                Self::Whole { buffer, len }
            }
            _ => Self::Heap(source[place].to_vec()),
        };
    }

    /// Puts the start in front of the bytes that came next; `false` when all of them were added to it instead.
    pub(crate) fn join(&mut self, received: &mut Received) -> Result<bool, TlsFault> {
        let more = received.unread().len();
        if record_bytes(self.bytes())?.is_some_and(|whole| self.bytes().len() + more < whole) && self.add(received) {
            return Ok(false);
        }
        prepend(received, self.bytes());
        *self = Self::Nothing;
        Ok(true)
    }

    fn add(&mut self, received: &Received) -> bool {
        let more = received.unread();
        match self {
            Self::Slot { slot, len } if *len + more.len() <= slot.len() => {
                slot[*len..*len + more.len()].copy_from_slice(more);
                *len += more.len();
                true
            }
            // A buffer has room for any record.
            Self::Whole { buffer, len } => {
                buffer[*len..*len + more.len()].copy_from_slice(more);
                *len += more.len();
                true
            }
            Self::Heap(bytes) => {
                bytes.reserve_exact(more.len());
                bytes.extend_from_slice(more);
                true
            }
            _ => false,
        }
    }
}
