//! What crosses the border of a shard's thread, apart from the ring and the lanes: a wish to stop, a wake-up, and one
//! number per shard that the others may read.
#![allow(clippy::disallowed_types, reason = "the one place where threads meet")]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// Another thread's hold on a shard: wake it, or ask it to stop.
#[derive(Clone, Debug)]
pub struct ShardLink {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    draining: AtomicBool,
    /// The eventfd that also the receive ring signals, so that a quiet shard sleeps on one thing.
    wake: OwnedFd,
}

impl ShardLink {
    /// # Errors
    /// When the host has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC)?;
        Ok(Self { inner: Arc::new(Inner { draining: AtomicBool::new(false), wake }) })
    }

    /// Makes a quiet shard look at its lanes; a busy one looks every turn anyway.
    pub fn wake(&self) {
        // Fails only when the counter is about to overflow, and then the shard is being woken already.
        let _ = rustix::io::write(&self.inner.wake, &1u64.to_ne_bytes());
    }

    /// Asks the shard to accept what waits, finish what has arrived, answer, close, and end its thread.
    pub fn drain(&self) {
        self.inner.draining.store(true, Ordering::Release);
        self.wake();
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.inner.draining.load(Ordering::Acquire)
    }

    pub(crate) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.inner.wake.as_fd()
    }
}

/// Connections of each shard, for the limit over all of them. Each entry is written by its own shard only.
#[derive(Clone, Debug)]
pub struct LoadTable {
    connections: Arc<[Load]>,
}

/// Alone on its cache lines (two: adjacent lines are fetched in pairs), so that counting disturbs no other shard.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Load(AtomicU32);

impl LoadTable {
    /// One entry for each of `shards`.
    pub fn new(shards: usize) -> Self {
        Self { connections: (0..shards).map(|_| Load::default()).collect() }
    }

    pub(crate) fn set(&self, shard: usize, connections: usize) {
        self.connections[shard].0.store(connections as u32, Ordering::Relaxed);
    }

    /// Connections of all shards. May miss what another shard accepts at this very moment, so the limit can be passed by
    /// as many connections as there are other shards.
    pub(crate) fn total(&self) -> usize {
        self.connections.iter().map(|load| load.0.load(Ordering::Relaxed) as usize).sum()
    }
}
