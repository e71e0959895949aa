//! The allocator: jemalloc behind a counter per thread, so that "allocations on data cores" is a metric, not a claim.
#![allow(unsafe_code, reason = "GlobalAlloc is an unsafe trait; every call goes to jemalloc unchanged")]

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::io::{self, Write};

use corelane_control::MemoryUse;
use corelane_shard::Allocations;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tikv_jemalloc_ctl::{epoch, stats};
use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    // Constant and without a destructor: counting neither allocates nor fails while a thread ends.
    static COUNT: Cell<u64> = const { Cell::new(0) };
    static BYTES: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

fn count(bytes: usize) {
    COUNT.set(COUNT.get() + 1);
    BYTES.set(BYTES.get() + bytes as u64);
}

/// Passes a block on, or ends the process where there is none: the standard library would abort it, with a core dump and
/// without a word on what to do.
fn granted(block: *mut u8, bytes: usize) -> *mut u8 {
    if block.is_null() {
        out_of_memory(bytes);
    }
    block
}

/// Prints one line and exits with 1. Allocates nothing, and does not wait for a stderr that is stuck.
#[cold]
fn out_of_memory(bytes: usize) -> ! {
    let mut line = [0; 256];
    let mut rest = &mut line[..];
    let _ = writeln!(
        rest,
        "error: out of memory: an allocation of {bytes} bytes failed; raise the limit (`ulimit -v`, `ulimit -d`), or lower \
         --pool-bytes or --max-series"
    );
    let unused = rest.len();
    let (stderr, at_once) = (io::stderr(), Timespec { tv_sec: 0, tv_nsec: 0 });
    if poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], Some(&at_once)).is_ok_and(|ready| ready > 0) {
        let _ = rustix::io::write(&stderr, &line[..line.len() - unused]);
    }
    signal_hook::low_level::exit(1)
}

// SAFETY: as jemalloc's own; counting touches two integers of the calling thread.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise is passed on.
        granted(unsafe { Jemalloc.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise is passed on.
        granted(unsafe { Jemalloc.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size);
        // SAFETY: the caller's promise is passed on.
        granted(unsafe { Jemalloc.realloc(block, layout, new_size) }, new_size)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { Jemalloc.dealloc(block, layout) }
    }
}

/// What the calling thread has asked the allocator for so far.
pub(crate) fn thread_allocations() -> Allocations {
    Allocations { count: COUNT.get(), bytes: BYTES.get() }
}

/// What the allocator holds for the whole process; zero if it does not say.
pub(crate) fn memory_use() -> MemoryUse {
    // The numbers stand still between epochs.
    let _ = epoch::advance();
    MemoryUse {
        allocated_bytes: stats::allocated::read().unwrap_or(0) as u64,
        resident_bytes: stats::resident::read().unwrap_or(0) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocations_of_this_thread_are_counted_and_those_of_others_are_not() {
        let before = thread_allocations();
        std::thread::spawn(|| drop(std::hint::black_box(vec![0u8; 1 << 20]))).join().unwrap();
        let middle = thread_allocations();
        assert!(middle.bytes - before.bytes < 1 << 20);
        drop(std::hint::black_box(vec![0u8; 1 << 20]));
        let after = thread_allocations();
        assert!(after.count > middle.count && after.bytes - middle.bytes >= 1 << 20);
        assert!(memory_use().allocated_bytes > 0);
    }
}
