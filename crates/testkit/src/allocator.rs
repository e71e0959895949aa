//! An allocator that counts what each thread asks of it, for tests that promise not to allocate.
#![allow(unsafe_code, reason = "GlobalAlloc is an unsafe trait; every call goes to another allocator unchanged")]

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;

/// Another allocator, counted: for a `#[global_allocator]`.
#[derive(Debug)]
pub struct Counting<A>(pub A);

/// What one thread has asked of its allocator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// Blocks made or moved.
    pub allocations: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Blocks given back.
    pub releases: u64,
}

thread_local! {
    // Constant and without a destructor: counting neither allocates nor fails while a thread ends.
    static CALLS: Cell<Calls> = const { Cell::new(Calls { allocations: 0, bytes: 0, releases: 0 }) };
}

/// What the calling thread has asked so far.
pub fn thread_calls() -> Calls {
    CALLS.get()
}

/// What `work` asks on the calling thread. Other threads of a test harness allocate meanwhile.
pub fn calls_of<T>(work: impl FnOnce() -> T) -> (Calls, T) {
    let before = thread_calls();
    let done = work();
    let after = thread_calls();
    let calls = Calls {
        allocations: after.allocations - before.allocations,
        bytes: after.bytes - before.bytes,
        releases: after.releases - before.releases,
    };
    (calls, done)
}

fn count(bytes: usize) {
    let calls = CALLS.get();
    CALLS.set(Calls { allocations: calls.allocations + 1, bytes: calls.bytes + bytes as u64, ..calls });
}

// SAFETY: as the allocator within; counting touches integers of the calling thread.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Counting<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { self.0.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size);
        // SAFETY: the caller's promise is passed on.
        unsafe { self.0.realloc(block, layout, new_size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let calls = CALLS.get();
        CALLS.set(Calls { releases: calls.releases + 1, ..calls });
        // SAFETY: the caller's promise is passed on.
        unsafe { self.0.dealloc(block, layout) }
    }
}
