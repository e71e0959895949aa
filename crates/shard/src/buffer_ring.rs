//! The kernel's share of the pool: a ring of provided buffers (io_uring_register_buf_ring(3)).
//!
//! The kernel takes a buffer from it at the moment bytes arrive, so a connection without bytes holds none. A lent buffer
//! stays in `lent`, owned here and touched by nobody, until the kernel says which one it has filled.
#![allow(
    unsafe_code,
    reason = "a ring in memory shared with the kernel; every entry points into a buffer held in `lent`"
)]

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use corelane_pool::PooledBuffer;
use io_uring::Submitter;
use io_uring::types::BufRingEntry;
use memmap2::MmapMut;

use crate::limits::HEADROOM_BYTES;

/// The one buffer group of a shard.
pub(crate) const BUFFER_GROUP: u16 = 0;

pub(crate) struct BufferRing {
    /// `entries` of [`BufRingEntry`], page-aligned. Unmapped only after the ring that it is registered with is closed:
    /// `ReceiveRing` drops its `IoUring` first. The kernel itself keeps the pages for as long as it reads them.
    map: MmapMut,
    entries: u16,
    tail: u16,
    /// By the buffer's index in its pool, which is its buffer id. Invariant: `Some` while the kernel may write to it.
    lent: Vec<Option<PooledBuffer>>,
    lent_count: usize,
}

impl BufferRing {
    /// A ring for up to `lent_max` buffers of a pool of `pool_buffers`, registered with the ring of `submitter`.
    pub(crate) fn register(submitter: &Submitter<'_>, lent_max: usize, pool_buffers: usize) -> io::Result<Self> {
        let entries = u16::try_from(lent_max.next_power_of_two()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let map = MmapMut::map_anon(usize::from(entries) * size_of::<BufRingEntry>())?;
        // SAFETY: the mapping has room for `entries` entries, is page-aligned as every mapping is, and outlives the
        // registration (see the field).
        unsafe { submitter.register_buf_ring_with_flags(map.as_ptr() as u64, entries, BUFFER_GROUP, 0) }?;
        let lent = (0..pool_buffers).map(|_| None).collect();
        Ok(Self { map, entries, tail: 0, lent, lent_count: 0 })
    }

    /// Bytes of the entries that are shared with the kernel.
    pub(crate) const fn shared_bytes(lent_max: usize) -> usize {
        lent_max.next_power_of_two() * size_of::<BufRingEntry>()
    }

    /// Heap bytes of the table by buffer.
    pub(crate) const fn table_bytes(pool_buffers: usize) -> usize {
        pool_buffers * size_of::<Option<PooledBuffer>>()
    }

    /// Buffers that the kernel can still fill.
    pub(crate) fn len(&self) -> usize {
        self.lent_count
    }

    /// Hands a buffer to the kernel, which may fill `bytes` from `HEADROOM_BYTES` on, at most `RECEIVE_BYTES`.
    pub(crate) fn lend(&mut self, buffer: PooledBuffer, bytes: usize) {
        assert!(self.lent_count < usize::from(self.entries), "the kernel's share has a bound");
        let index = buffer.index();
        let lent = &mut self.lent[usize::from(index)];
        // Before the kernel knows of it. All buffers come from one pool, in which no two have the same index.
        assert!(lent.is_none(), "a buffer is lent once");
        let buffer = lent.insert(buffer);
        let at = usize::from(self.tail & (self.entries - 1));
        let base: *mut BufRingEntry = self.map.as_mut_ptr().cast();
        // SAFETY: `at` is below `entries`; an all-zero entry is a valid one; the kernel does not read entries at or
        // behind the tail, which is where this one is.
        let entry = unsafe { &mut *base.add(at) };
        entry.set_addr(buffer[HEADROOM_BYTES..HEADROOM_BYTES + bytes].as_mut_ptr() as u64);
        entry.set_len(bytes as u32);
        entry.set_bid(index);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: `base` is the first entry of the ring, in which the kernel keeps the tail; it is aligned for u16 and
        // from here on accessed as an atomic by this thread and read by the kernel.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(base).cast_mut()) };
        // Publishes the entry: the kernel acquires the tail before it reads entries.
        tail.store(self.tail, Ordering::Release);
        self.lent_count += 1;
    }

    /// Takes back the buffer that a completion names.
    pub(crate) fn take(&mut self, index: u16) -> PooledBuffer {
        self.lent_count -= 1;
        self.lent[usize::from(index)].take().expect("the kernel fills only buffers that it was lent")
    }

    /// Gives up the buffers that the kernel might still write to, rather than send them home.
    pub(crate) fn forget_lent(&mut self) {
        self.lent.iter_mut().filter_map(Option::take).for_each(std::mem::forget);
    }
}
