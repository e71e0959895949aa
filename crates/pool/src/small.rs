//! Small slots: one buffer cut into equal pieces, for bytes that must be kept while the rest of their frame is on its way.
//!
//! A peer that stops in mid-frame should cost what it sent, not a whole buffer. So a kept piece takes the smallest class
//! it fits in, and a buffer whose last slot comes home is a whole buffer again.

use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use crate::pool::{BUFFER_BYTES, BufferPool, Shared};
use crate::region::{CutSpan, Span};

/// Slot sizes. Up to 16 KiB, steps of four keep the number of partly used buffers low; above, a slot is at most twice as
/// long as its content, because there the waste would count. A [`CutSpan`] has one bit per slot, so the smallest class is
/// the one that 128 bits can tell apart.
const CLASS_BYTES: [usize; 5] = [1024, 4 * 1024, 16 * 1024, 32 * 1024, 64 * 1024];
const _: () = assert!(BUFFER_BYTES / CLASS_BYTES[0] <= u128::BITS as usize, "one bit a slot");

/// Largest small slot.
pub const SMALL_BYTES_MAX: usize = CLASS_BYTES[CLASS_BYTES.len() - 1];

/// A slot of one of a few small sizes, exclusive to its holder, at least as long as was asked for. Goes home when dropped.
#[derive(Debug)]
pub struct SmallBuffer {
    /// Empty only while `drop` runs.
    span: Option<Span>,
    slab: u16,
    home: Rc<Shared>,
}

/// The buffers that are cut into slots at the moment.
#[derive(Debug)]
pub(crate) struct Slabs {
    /// By buffer index; `None` for a buffer that is not cut.
    slabs: Vec<Option<Slab>>,
    /// For each class the slabs that have a free slot, in no order.
    open: [Vec<u16>; CLASS_BYTES.len()],
    /// How many of `slabs` are `Some`.
    count: usize,
}

#[derive(Debug)]
struct Slab {
    /// Invariant: a slab with a free slot stands in `open[class]` at `open_at`.
    slots: CutSpan,
    class: usize,
    open_at: usize,
}

impl BufferPool {
    /// Takes a slot for `bytes`, at most [`SMALL_BYTES_MAX`]; cuts a free buffer if no slot of that class is left and more
    /// than `spare` buffers are free. `None` if it cuts none, or if `bytes` is more than a slot holds.
    pub fn acquire_small(&self, bytes: usize, spare: usize) -> Option<SmallBuffer> {
        let class = CLASS_BYTES.iter().position(|&size| bytes <= size)?;
        let mut slabs = self.shared.slabs.borrow_mut();
        if slabs.open[class].is_empty() {
            let (index, span) = if self.free() > spare { self.shared.take() } else { None }?;
            slabs.cut(index, span, class);
        }
        let (span, slab) = slabs.take_slot(class);
        Some(SmallBuffer { span: Some(span), slab, home: Rc::clone(&self.shared) })
    }
}

impl Slabs {
    /// Tables for a pool of `count` buffers; they never grow.
    pub(crate) fn new(count: usize) -> Self {
        Self {
            slabs: (0..count).map(|_| None).collect(),
            open: std::array::from_fn(|_| Vec::with_capacity(count)),
            count: 0,
        }
    }

    /// What [`new`](Self::new) allocates.
    pub(crate) const fn bytes(count: usize) -> usize {
        count * (size_of::<Option<Slab>>() + CLASS_BYTES.len() * size_of::<u16>())
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    fn cut(&mut self, index: u16, span: Span, class: usize) {
        self.count += 1;
        let open_at = self.open[class].len();
        self.open[class].push(index);
        self.slabs[index as usize] = Some(Slab { slots: CutSpan::new(span, CLASS_BYTES[class]), class, open_at });
    }

    fn take_slot(&mut self, class: usize) -> (Span, u16) {
        let index = *self.open[class].last().expect("the caller has seen to an open slab");
        let slab = self.slabs[index as usize].as_mut().expect("an open slab is a slab");
        let span = slab.slots.take().expect("an open slab has a free slot");
        if slab.slots.is_empty() {
            self.open[class].pop();
        }
        (span, index)
    }

    #[cfg(test)]
    pub(crate) fn allocated_bytes(&self) -> usize {
        self.slabs.capacity() * size_of::<Option<Slab>>()
            + self.open.iter().map(|open| open.capacity() * size_of::<u16>()).sum::<usize>()
    }

    /// Takes a slot back; returns the slab's buffer when that was the last one out.
    fn put_back(&mut self, index: u16, slot: Span) -> Option<Span> {
        let slab = self.slabs[index as usize].as_mut().expect("a slot comes home to its slab");
        let class = slab.class;
        if slab.slots.is_empty() {
            slab.open_at = self.open[class].len();
            self.open[class].push(index);
        }
        slab.slots.put_back(slot);
        if !slab.slots.is_whole() {
            return None;
        }
        let open_at = slab.open_at;
        self.open[class].swap_remove(open_at);
        if let Some(&moved) = self.open[class].get(open_at) {
            self.slabs[moved as usize].as_mut().expect("an open slab is a slab").open_at = open_at;
        }
        self.count -= 1;
        self.slabs[index as usize].take().map(|slab| slab.slots.into_whole())
    }
}

impl Deref for SmallBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.span.as_deref().expect("a live slot has its span")
    }
}

impl DerefMut for SmallBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.span.as_deref_mut().expect("a live slot has its span")
    }
}

impl Drop for SmallBuffer {
    fn drop(&mut self) {
        #[allow(unused_mut, reason = "debug builds write to it")]
        let Some(mut span) = self.span.take() else { return };
        #[cfg(debug_assertions)]
        span.fill(crate::pool::POISON);
        let whole = self.home.slabs.borrow_mut().put_back(self.slab, span);
        if let Some(span) = whole {
            self.home.put_back(self.slab, span);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_holds_what_was_asked_for_and_no_more_than_its_class() {
        let pool = BufferPool::new(5).unwrap();
        for (asked, got) in
            [(1, 1024), (1024, 1024), (1025, 4096), (16_384, 16_384), (16_385, 32_768), (65_536, 65_536)]
        {
            assert_eq!(pool.acquire_small(asked, 0).unwrap().len(), got);
        }
        assert!(pool.acquire_small(SMALL_BYTES_MAX + 1, 0).is_none());
    }

    #[test]
    fn one_buffer_serves_as_many_slots_as_fit_and_is_whole_again_afterwards() {
        let pool = BufferPool::new(1).unwrap();
        for class in CLASS_BYTES {
            let slots: Vec<_> = std::iter::from_fn(|| pool.acquire_small(class, 0)).collect();
            assert_eq!(slots.len(), BUFFER_BYTES / class);
            assert_eq!((pool.free(), pool.cut()), (0, 1));
            drop(slots);
            assert_eq!((pool.free(), pool.cut()), (1, 0));
        }
    }

    #[test]
    fn buffers_that_have_to_stay_free_are_not_cut() {
        let pool = BufferPool::new(2).unwrap();
        assert!(pool.acquire_small(1, 2).is_none());
        let _first = pool.acquire_small(1, 1).unwrap();
        assert!(pool.acquire_small(2_000, 1).is_none(), "that would need another buffer");
        assert!(pool.acquire_small(1, 1).is_some(), "a slot of a buffer that is cut already");
    }
}
