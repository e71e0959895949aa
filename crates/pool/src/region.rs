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

/// The exclusive right to some bytes of a [`Region`]: neither `Clone` nor `Copy`, and a span that is cut is a [`CutSpan`]
/// until all its parts are back, so no two live spans overlap.
///
/// Invariant, kept by this crate alone (the type is private to it): the region outlives the span. Whoever holds a span
/// outside the pool (`PooledBuffer`, `SmallBuffer`) holds an `Rc` of the pool next to it.
#[derive(Debug)]
pub(crate) struct Span {
    start: NonNull<u8>,
    bytes: usize,
}

/// A span cut into parts of one size. It gives no access to its bytes: they belong to the parts, which are either at home
/// here or out, each as a span of its own.
#[derive(Debug)]
pub(crate) struct CutSpan {
    start: NonNull<u8>,
    bytes: u32,
    part_bytes: u32,
    /// One bit a part that is at home. Invariant: there is no live span of these bytes.
    home: u128,
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

impl CutSpan {
    /// Cuts a span into at most 128 parts of `part_bytes` each, all of them at home.
    pub(crate) fn new(span: Span, part_bytes: usize) -> Self {
        let parts = span.bytes / part_bytes;
        assert!(span.bytes.is_multiple_of(part_bytes) && (1..=128).contains(&parts), "the parts are the whole span");
        let [bytes, part_bytes] =
            [span.bytes, part_bytes].map(|bytes| u32::try_from(bytes).expect("a span is a buffer, of 128 KiB"));
        Self { start: span.start, bytes, part_bytes, home: u128::MAX >> (128 - parts) }
    }

    /// Takes the first part that is at home.
    pub(crate) fn take(&mut self) -> Option<Span> {
        let part = self.home.trailing_zeros();
        if part == u128::BITS {
            return None;
        }
        self.home &= !(1 << part);
        // SAFETY: only parts of this span have a bit, so the result lies within the mapping.
        let start = unsafe { self.start.add((part * self.part_bytes) as usize) };
        Some(Span { start, bytes: self.part_bytes as usize })
    }

    /// Takes back a part of this span.
    pub(crate) fn put_back(&mut self, part: Span) {
        let offset = part.start.addr().get().wrapping_sub(self.start.addr().get());
        let part_bytes = self.part_bytes as usize;
        let is_part = offset < self.bytes as usize && offset.is_multiple_of(part_bytes) && part.bytes == part_bytes;
        assert!(is_part, "a part comes home to the span that it was cut from");
        self.home |= 1 << (offset / part_bytes);
    }

    /// Whether no part is at home.
    pub(crate) fn is_empty(&self) -> bool {
        self.home == 0
    }

    /// Whether all parts are at home.
    pub(crate) fn is_whole(&self) -> bool {
        self.home.count_ones() == self.bytes / self.part_bytes
    }

    /// The span that was cut.
    pub(crate) fn into_whole(self) -> Span {
        assert!(self.is_whole(), "a part that is out is a span of its own");
        Span { start: self.start, bytes: self.bytes as usize }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_the_span_and_make_it_whole_again() {
        let (_region, mut spans) = Region::map(1, 1024).unwrap();
        let whole = spans.pop().unwrap();
        let (start, bytes) = (whole.start, whole.bytes);
        let mut cut = CutSpan::new(whole, 256);
        let mut parts: Vec<_> = std::iter::from_fn(|| cut.take()).collect();
        assert_eq!((parts.len(), cut.is_empty(), cut.is_whole()), (4, true, false));
        for (number, part) in parts.iter_mut().enumerate() {
            part.fill(number as u8);
        }
        assert!(parts.iter().enumerate().all(|(number, part)| part.iter().all(|&byte| byte == number as u8)));
        // In any order.
        parts.swap(0, 2);
        parts.into_iter().for_each(|part| cut.put_back(part));
        let whole = cut.into_whole();
        assert_eq!((whole.start, whole.bytes), (start, bytes));
    }

    #[test]
    #[should_panic(expected = "a span of its own")]
    fn a_span_is_not_whole_while_a_part_is_out() {
        let (_region, mut spans) = Region::map(1, 1024).unwrap();
        let mut cut = CutSpan::new(spans.pop().unwrap(), 512);
        let _out = cut.take();
        cut.into_whole();
    }

    #[test]
    #[should_panic(expected = "comes home to the span")]
    fn a_part_of_another_span_is_refused() {
        let (_region, mut spans) = Region::map(2, 1024).unwrap();
        let mut cut = || CutSpan::new(spans.pop().unwrap(), 512);
        let (mut one, mut other) = (cut(), cut());
        one.put_back(other.take().unwrap());
    }
}
