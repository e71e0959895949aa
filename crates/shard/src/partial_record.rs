//! The start of a TLS record whose rest has not come yet: the twin of a partial frame, one layer below.

use corelane_pool::BufferPool;
use corelane_tls::{RECORD_HEADER_BYTES, TlsFault, record_bytes};

use crate::inbox::Received;
use crate::kept::Kept;

#[derive(Debug, Default)]
pub(crate) struct PartialRecord {
    kept: Option<Kept>,
}

impl PartialRecord {
    /// The bytes that have come.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.kept.as_ref().map_or(&[], Kept::bytes)
    }

    pub(crate) fn is_none(&self) -> bool {
        self.kept.is_none()
    }

    /// Bytes still to come; at least those of the header as long as that is incomplete.
    pub(crate) fn missing_bytes(&self) -> Option<usize> {
        let len = self.kept.as_ref()?.bytes().len();
        let whole = record_bytes(self.bytes()).ok().flatten().unwrap_or(RECORD_HEADER_BYTES);
        Some(whole.saturating_sub(len).max(1))
    }

    /// Keeps `start`, if there is any.
    pub(crate) fn keep(&mut self, start: &[u8], pool: &BufferPool) {
        if !start.is_empty() {
            self.kept = Some(Kept::new(start, pool));
        }
    }

    /// Puts the start in front of the bytes that came next; `false` if all of these were added to it because more are
    /// missing.
    pub(crate) fn join(&mut self, received: &mut Received, pool: &BufferPool) -> Result<bool, TlsFault> {
        let more = received.unread();
        let whole = record_bytes(self.bytes())?;
        match &mut self.kept {
            Some(kept) if whole.is_some_and(|whole| kept.bytes().len() + more.len() < whole) => {
                kept.push(more, pool);
                Ok(false)
            }
            kept => {
                if let Some(kept) = kept.take() {
                    received.prepend(kept.bytes());
                }
                Ok(true)
            }
        }
    }
}
