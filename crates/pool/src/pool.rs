//! Whole buffers: a stack of them, so that the one used last, still warm in the caches, is the one used next.

use std::cell::{Cell, RefCell};
use std::io;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use crate::region::{Region, Span};
use crate::small::Slabs;

/// Size of one buffer. Twice the largest frame, so that one buffer holds any frame whole behind whatever headroom its
/// user keeps in front, and so that one receive of a busy connection takes many frames. A buffer costs memory only where
/// it has been touched: a receive of 1 KB touches one page of it.
pub const BUFFER_BYTES: usize = 128 * 1024;

/// Most buffers in one pool: an index has 16 bits, as io_uring's buffer ids have.
pub const BUFFERS_MAX: usize = 1 << 15;

/// What a released buffer is filled with in debug builds, so that a stale slice shows itself.
#[cfg(debug_assertions)]
pub(crate) const POISON: u8 = 0xa5;

/// The buffers of one core. Clones are handles to the same pool; none of them can leave the thread.
///
/// ```compile_fail
/// fn must_be_send<T: Send>() {}
/// must_be_send::<corelane_pool::BufferPool>();
/// ```
#[derive(Clone, Debug)]
pub struct BufferPool {
    pub(crate) shared: Rc<Shared>,
}

/// What every buffer of a pool points home to.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Invariant: free + handed out + cut into small slots == capacity.
    free: RefCell<Vec<(u16, Span)>>,
    pub(crate) slabs: RefCell<Slabs>,
    capacity: usize,
    /// Buffers that are not free now: whole ones handed out and ones cut into slots.
    used: Cell<usize>,
    /// Declared last, dropped last: spans in `free` and `slabs` point into it.
    region: Region,
}

/// One buffer, [`BUFFER_BYTES`] long, exclusive to its holder. Goes home when dropped.
///
/// ```compile_fail
/// fn must_be_send<T: Send>() {}
/// must_be_send::<corelane_pool::PooledBuffer>();
/// ```
#[derive(Debug)]
pub struct PooledBuffer {
    index: u16,
    /// Empty only while `drop` runs.
    span: Option<Span>,
    home: Rc<Shared>,
}

impl BufferPool {
    /// Reserves `count` buffers, 1 to [`BUFFERS_MAX`].
    ///
    /// # Errors
    /// The kernel's error if it does not grant the mapping.
    pub fn new(count: usize) -> io::Result<Self> {
        assert!((1..=BUFFERS_MAX).contains(&count), "a pool has 1 to {BUFFERS_MAX} buffers, not {count}");
        let (region, spans) = Region::map(count, BUFFER_BYTES)?;
        // `map` hands the spans out last first: the lowest index ends on top of the stack.
        let free = spans.into_iter().enumerate().map(|(at, span)| ((count - 1 - at) as u16, span)).collect();
        let shared = Shared {
            free: RefCell::new(free),
            slabs: RefCell::new(Slabs::new(count)),
            capacity: count,
            used: Cell::new(0),
            region,
        };
        Ok(Self { shared: Rc::new(shared) })
    }

    /// Heap bytes of the tables that [`new`](Self::new) makes for `count` buffers; the buffers are mapped, besides.
    pub const fn table_bytes(count: usize) -> usize {
        count * size_of::<(u16, Span)>() + Slabs::bytes(count)
    }

    /// Takes the buffer that came home last; `None` if no buffer is free.
    pub fn acquire(&self) -> Option<PooledBuffer> {
        let (index, span) = self.shared.take()?;
        Some(PooledBuffer { index, span: Some(span), home: Rc::clone(&self.shared) })
    }

    /// Buffers of this pool, free or not.
    pub fn capacity(&self) -> usize {
        self.shared.capacity
    }

    /// Buffers at home.
    pub fn free(&self) -> usize {
        self.shared.capacity - self.shared.used.get()
    }

    /// Buffers that are cut into small slots.
    pub fn cut(&self) -> usize {
        self.shared.slabs.borrow().count()
    }

    /// Bytes reserved for the whole pool.
    pub fn reserved_bytes(&self) -> usize {
        self.shared.region.bytes()
    }
}

impl Shared {
    pub(crate) fn take(&self) -> Option<(u16, Span)> {
        let taken = self.free.borrow_mut().pop()?;
        self.used.set(self.used.get() + 1);
        Some(taken)
    }

    pub(crate) fn put_back(
        &self,
        index: u16,
        #[allow(unused_mut, reason = "debug builds write to it")] mut span: Span,
    ) {
        #[cfg(debug_assertions)]
        span.fill(POISON);
        let mut free = self.free.borrow_mut();
        debug_assert!(free.len() < self.capacity, "more buffers come home than there are");
        free.push((index, span));
        self.used.set(self.used.get() - 1);
    }
}

impl PooledBuffer {
    /// Which buffer of its pool this is, `0..capacity`: unique among the live ones.
    pub fn index(&self) -> u16 {
        self.index
    }
}

impl Deref for PooledBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.span.as_deref().expect("a live buffer has its span")
    }
}

impl DerefMut for PooledBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.span.as_deref_mut().expect("a live buffer has its span")
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        if let Some(span) = self.span.take() {
            self.home.put_back(self.index, span);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_warmest_buffer_is_handed_out_first() {
        let pool = BufferPool::new(3).unwrap();
        let (first, second) = (pool.acquire().unwrap(), pool.acquire().unwrap());
        assert_eq!((first.index(), second.index()), (0, 1));
        drop(first);
        drop(second);
        assert_eq!(pool.acquire().unwrap().index(), 1);
    }

    #[test]
    fn the_tables_take_the_bytes_that_are_told() {
        let pool = BufferPool::new(7).unwrap();
        let free = pool.shared.free.borrow().capacity() * size_of::<(u16, Span)>();
        assert_eq!(free + pool.shared.slabs.borrow().allocated_bytes(), BufferPool::table_bytes(7));
    }

    #[test]
    fn an_empty_pool_answers_none_until_a_buffer_comes_home() {
        let pool = BufferPool::new(2).unwrap();
        let held = [pool.acquire().unwrap(), pool.acquire().unwrap()];
        assert!(pool.acquire().is_none());
        drop(held);
        assert_eq!(pool.free(), 2);
    }

    #[test]
    fn buffers_do_not_overlap() {
        let pool = BufferPool::new(4).unwrap();
        let mut held: Vec<_> = (0..4).map(|_| pool.acquire().unwrap()).collect();
        for buffer in &mut held {
            let mark = buffer.index() as u8 + 1;
            buffer.fill(mark);
        }
        for buffer in &held {
            assert!(buffer.iter().all(|&byte| byte == buffer.index() as u8 + 1));
        }
    }

    #[cfg(debug_assertions)]
    #[test]
    fn a_released_buffer_is_poisoned() {
        let pool = BufferPool::new(1).unwrap();
        pool.acquire().unwrap().fill(1);
        assert!(pool.acquire().unwrap().iter().all(|&byte| byte == POISON));
    }

    #[test]
    fn a_buffer_outlives_the_last_handle_of_its_pool() {
        let pool = BufferPool::new(1).unwrap();
        let mut buffer = pool.acquire().unwrap();
        drop(pool);
        buffer.fill(7);
        assert_eq!(buffer.len(), BUFFER_BYTES);
    }

    #[test]
    fn a_buffer_comes_home_when_its_holder_panics() {
        let pool = BufferPool::new(1).unwrap();
        let handle = pool.clone();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _held = handle.acquire().unwrap();
            panic!("on purpose");
        }));
        assert!(result.is_err());
        assert_eq!(pool.free(), 1);
    }
}
