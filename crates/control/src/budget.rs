//! The memory of answers under way: bytes are counted before they are allocated, and given back when no reader needs
//! them any more.
//!
//! An answer is a list of chunks. Each chunk carries its share of the budget, and hyper drops it once the kernel has
//! taken it, so the count is what readers really hold. Nothing here waits: an answer that does not fit is refused.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

use crate::needs::ANSWER_BYTES_MAX;

/// Bytes of all answers under way, and how many there may be.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Invariant: the sum of all living shares.
    used: AtomicUsize,
    bytes_max: usize,
}

impl Budget {
    /// The budget of a control plane over this number of shards.
    pub(crate) fn new(shards: usize) -> Self {
        Self { inner: Arc::new(Inner { used: AtomicUsize::new(0), bytes_max: bytes_max(shards) }) }
    }

    /// Counts `bytes` more, if the sum stays within `limit`.
    fn take(&self, bytes: usize, limit: usize) -> Option<Share> {
        let add = |used: usize| used.checked_add(bytes).filter(|&sum| sum <= limit);
        self.inner.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).ok()?;
        Some(Share { inner: Arc::clone(&self.inner), bytes })
    }

    #[cfg(test)]
    pub(crate) fn used(&self) -> usize {
        self.inner.used.load(Ordering::Relaxed)
    }
}

/// The budget in bytes, for `plan`.
pub(crate) fn bytes_max(shards: usize) -> usize {
    SERIES_BYTES + TOTALS_BYTES + shards * TOTALS_BYTES_A_SHARD
}

/// Bytes that are counted, until this is dropped.
#[derive(Debug)]
struct Share {
    inner: Arc<Inner>,
    bytes: usize,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.inner.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A part of an answer, with its share of the budget.
struct Chunk {
    bytes: Vec<u8>,
    _share: Share,
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Takes an answer about series as it is rendered, and counts each chunk before it is allocated. A write fails when the budget is
/// used up; what was rendered until then is given back when the writer is dropped.
pub(crate) struct SeriesWriter {
    budget: Budget,
    whole: VecDeque<Bytes>,
    last: Option<Chunk>,
    written: usize,
}

impl SeriesWriter {
    pub(crate) fn new(budget: &Budget) -> Self {
        Self { budget: budget.clone(), whole: VecDeque::new(), last: None, written: 0 }
    }

    /// The whole answer.
    pub(crate) fn finish(mut self) -> Rendered {
        self.whole.extend(self.last.take().map(Bytes::from_owner));
        Rendered { chunks: self.whole, bytes: self.written }
    }

    fn next_chunk(&mut self) -> io::Result<Chunk> {
        // Most answers are small and should not pay for a large chunk.
        let capacity = if self.written == 0 { FIRST_CHUNK_BYTES } else { CHUNK_BYTES };
        let limit = if self.written >= SMALL_BYTES_MAX { SERIES_LARGE_BYTES } else { SERIES_BYTES };
        let share = self.budget.take(capacity, limit).ok_or(io::ErrorKind::StorageFull)?;
        Ok(Chunk { bytes: Vec::with_capacity(capacity), _share: share })
    }
}

impl io::Write for SeriesWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut chunk = match self.last.take() {
            Some(chunk) => chunk,
            None => self.next_chunk()?,
        };
        let count = bytes.len().min(chunk.bytes.capacity() - chunk.bytes.len());
        chunk.bytes.extend_from_slice(&bytes[..count]);
        self.written += count;
        if chunk.bytes.len() == chunk.bytes.capacity() {
            self.whole.push_back(Bytes::from_owner(chunk));
        } else {
            self.last = Some(chunk);
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A rendered answer, which several readers may share.
#[derive(Clone, Debug)]
pub(crate) struct Rendered {
    chunks: VecDeque<Bytes>,
    bytes: usize,
}

impl Rendered {
    /// A text that is not counted, for answers of at most some hundred bytes.
    pub(crate) fn uncounted(text: String) -> Self {
        Self { bytes: text.len(), chunks: [text.into()].into() }
    }

    /// A text that is rendered already, counted from now on. None when the budget is used up.
    pub(crate) fn counted(text: String, budget: &Budget) -> Option<Self> {
        let (bytes, text) = (text.len(), text.into_bytes());
        let share = budget.take(text.capacity(), budget.inner.bytes_max)?;
        Some(Self { bytes, chunks: [Bytes::from_owner(Chunk { bytes: text, _share: share })].into() })
    }

    pub(crate) fn into_body(self) -> Body {
        Body::new(self)
    }
}

impl HttpBody for Rendered {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        let chunk = this.chunks.pop_front();
        this.bytes -= chunk.as_ref().map_or(0, Bytes::len);
        Poll::Ready(chunk.map(|chunk| Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.chunks.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes as u64)
    }
}

/// What large answers about series may use together: one of the greatest size, so that none is refused for its size
/// alone.
const SERIES_LARGE_BYTES: usize = ANSWER_BYTES_MAX + FIRST_CHUNK_BYTES + CHUNK_BYTES;
/// What all answers about series may use together: 8 MiB beyond the large ones, so that dashboards are answered while
/// somebody does not take a large answer.
const SERIES_BYTES: usize = SERIES_LARGE_BYTES + (8 << 20);
/// Up to this size an answer about series is small.
const SMALL_BYTES_MAX: usize = 1 << 20;
/// Kept back for metrics, statistics and events: 64 readers that take none of 256 events, each another answer, hold
/// 4 MiB.
const TOTALS_BYTES: usize = 4 << 20;
/// The same for each shard: metrics and statistics are some 16 KiB a shard.
const TOTALS_BYTES_A_SHARD: usize = 512 << 10;
/// Bytes of the first chunk of an answer, and of each further one. An answer wastes less than one chunk.
const FIRST_CHUNK_BYTES: usize = 4 << 10;
const CHUNK_BYTES: usize = 64 << 10;
const _: () = assert!(SMALL_BYTES_MAX < 8 << 20, "several small answers fit beside the large ones");

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn render(budget: &Budget, bytes: usize) -> io::Result<Rendered> {
        let mut writer = SeriesWriter::new(budget);
        writer.write_all(&vec![b'x'; bytes])?;
        Ok(writer.finish())
    }

    #[test]
    fn what_is_rendered_is_counted_until_its_last_reader_drops_it() {
        let budget = Budget::new(1);
        for bytes in [0, 1, FIRST_CHUNK_BYTES, FIRST_CHUNK_BYTES + 1, 1_000_000] {
            let first = render(&budget, bytes).unwrap();
            let second = first.clone();
            assert!((bytes..bytes + CHUNK_BYTES).contains(&budget.used()), "{bytes}: {}", budget.used());
            assert_eq!(first.size_hint().exact(), Some(bytes as u64));
            drop(first);
            assert!(budget.used() >= bytes);
            drop(second);
            assert_eq!(budget.used(), 0);
        }
    }

    #[test]
    fn a_reader_gives_back_what_it_has_taken() {
        let budget = Budget::new(1);
        let mut rendered = render(&budget, 1_000_000).unwrap();
        let (before, mut context) = (budget.used(), Context::from_waker(std::task::Waker::noop()));
        let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut rendered).poll_frame(&mut context) else { panic!("a chunk") };
        assert_eq!(budget.used(), before, "the reader still holds it");
        drop(frame);
        assert_eq!(budget.used(), before - FIRST_CHUNK_BYTES);
    }

    #[test]
    fn the_largest_answer_fits_and_a_second_one_is_refused_but_smaller_ones_are_not() {
        let budget = Budget::new(1);
        let largest = render(&budget, ANSWER_BYTES_MAX).unwrap();
        let before = budget.used();
        assert_eq!(render(&budget, ANSWER_BYTES_MAX).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(budget.used(), before, "a refused answer gives everything back");
        let mut small = Vec::new();
        while let Ok(answer) = render(&budget, 1_000_000) {
            small.push(answer);
        }
        assert!(small.len() >= 6, "{}", small.len());
        let mut totals = Vec::new();
        while let Some(answer) = Rendered::counted("x".repeat(100_000), &budget) {
            totals.push(answer);
        }
        assert!(totals.len() >= 40, "{}", totals.len());
        assert!(budget.used() <= bytes_max(1));
        drop((largest, small, totals));
        assert_eq!(budget.used(), 0);
    }
}
