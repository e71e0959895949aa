//! The memory under the pool: one anonymous mapping, cut into spans that are exclusive by construction.
#![allow(unsafe_code, reason = "spans of one mapping are handed out as exclusive slices; the proof is in this module")]

use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use memmap2::MmapMut;

/// A mapping that lives as long as the pool. It is reserved at once and costs resident memory page by page, when touched.
#[derive(Debug)]
pub(crate) struct Region {
    map: MmapMut,
}

/// The exclusive right to some bytes of a [`Region`]: neither `Clone` nor `Copy`, so no two live spans overlap.
///
/// Invariant, kept by this crate alone (the type is private to it): the region outlives the span. Whoever holds a span
/// outside the pool (`PooledBuffer`, `SmallBuffer`) holds an `Rc` of the pool next to it.
#[derive(Debug)]
pub(crate) struct Span {
    start: NonNull<u8>,
    bytes: usize,
}

impl Region {
    /// Maps `count` spans of `bytes` each and hands out all of them, the first one last, so that a stack pops it first.
    pub(crate) fn map(count: usize, bytes: usize) -> io::Result<(Self, Vec<Span>)> {
        let total = count.checked_mul(bytes).ok_or(io::ErrorKind::InvalidInput)?;
        let mut map = MmapMut::map_anon(total)?;
        let base = NonNull::from(&mut map[..]).cast::<u8>();
        // SAFETY: `index * bytes` is less than `total`, the length of the mapping that `base` points to.
        let span = |index: usize| Span { start: unsafe { base.add(index * bytes) }, bytes };
        let spans = (0..count).rev().map(span).collect();
        Ok((Self { map }, spans))
    }

    /// Bytes reserved.
    pub(crate) fn bytes(&self) -> usize {
        self.map.len()
    }
}

impl Span {
    /// A part of this span, `bytes` long from `start`, as a span of its own.
    ///
    /// # Safety
    /// While the part lives, the caller neither reads nor writes these bytes through `self`, nor takes another part that
    /// overlaps them.
    pub(crate) unsafe fn part(&self, start: usize, bytes: usize) -> Self {
        assert!(start + bytes <= self.bytes, "a part lies within its span");
        // SAFETY: the assertion keeps the result within the mapping.
        Self { start: unsafe { self.start.add(start) }, bytes }
    }
}

impl Deref for Span {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the bytes are mapped (the region outlives the span), initialised (an anonymous mapping is zeroed), and
        // nobody else has the right to them.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }
}

impl DerefMut for Span {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes this borrow the only one.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }
}
