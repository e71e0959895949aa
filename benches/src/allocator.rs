//! jemalloc behind a counter per thread: the server's allocator, so that baselines do not win or lose by theirs.
#![allow(unsafe_code, reason = "GlobalAlloc is an unsafe trait; every call goes to jemalloc unchanged")]

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;

use corelane_shard::Allocations;
use tikv_jemallocator::Jemalloc;

/// For a benchmark's `#[global_allocator]`.
#[derive(Debug)]
pub struct Counting;

thread_local! {
    // Constant and without a destructor: counting neither allocates nor fails while a thread ends.
    static COUNT: Cell<u64> = const { Cell::new(0) };
    static BYTES: Cell<u64> = const { Cell::new(0) };
}

/// What the calling thread has asked the allocator for so far.
pub fn thread_allocations() -> Allocations {
    Allocations { count: COUNT.get(), bytes: BYTES.get() }
}

fn count(bytes: usize) {
    COUNT.set(COUNT.get() + 1);
    BYTES.set(BYTES.get() + bytes as u64);
}

// SAFETY: as jemalloc's own; counting touches two integers of the calling thread.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { Jemalloc.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { Jemalloc.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size);
        // SAFETY: the caller's promise is passed on.
        unsafe { Jemalloc.realloc(block, layout, new_size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { Jemalloc.dealloc(block, layout) }
    }
}
