//! Another thread's hold on a shard: a wake-up, a wish to stop, new address rules, a new certificate.
#![allow(clippy::disallowed_types, reason = "threads meet here")]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_queue::ArrayQueue;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::admission::AccessRules;
use crate::tls::TlsConfig;

/// Another thread's hold on a shard: wake it, or ask it to stop.
#[derive(Clone, Debug)]
pub struct ShardLink {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    draining: AtomicBool,
    leaves_backlog: AtomicBool,
    /// At most one, the newest.
    rules: ArrayQueue<AccessRules>,
    /// At most one, the newest.
    tls: ArrayQueue<TlsConfig>,
    /// The eventfd that also the receive ring signals, so that a quiet shard sleeps on one thing.
    wake: OwnedFd,
}

impl ShardLink {
    /// # Errors
    /// When the host has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC)?;
        Ok(Self {
            inner: Arc::new(Inner {
                draining: AtomicBool::new(false),
                leaves_backlog: AtomicBool::new(false),
                rules: ArrayQueue::new(1),
                tls: ArrayQueue::new(1),
                wake,
            }),
        })
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

    /// From its next tick on, the shard takes new connections by these rules.
    pub fn set_rules(&self, rules: AccessRules) {
        self.inner.rules.force_push(rules);
    }

    /// From its next tick on, the shard begins handshakes with this.
    pub fn set_tls(&self, tls: TlsConfig) {
        self.inner.tls.force_push(tls);
    }

    pub(crate) fn new_tls(&self) -> Option<TlsConfig> {
        self.inner.tls.pop()
    }

    pub(crate) fn new_rules(&self) -> Option<AccessRules> {
        self.inner.rules.pop()
    }

    /// As [`drain`](Self::drain), but leaves who waits to be accepted to another process that has the same listeners.
    pub fn drain_leaving_backlog(&self) {
        self.inner.leaves_backlog.store(true, Ordering::Relaxed);
        self.drain();
    }

    pub(crate) fn leaves_backlog(&self) -> bool {
        self.inner.leaves_backlog.load(Ordering::Relaxed)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.inner.draining.load(Ordering::Acquire)
    }

    /// Whether somebody has called [`wake`](Self::wake) since this was asked last. For whoever drives a shard without a
    /// thread of its own.
    pub fn take_wake(&self) -> bool {
        let mut wake = [PollFd::new(&self.inner.wake, PollFlags::IN)];
        let is_woken = poll(&mut wake, Some(&Timespec::default())) == Ok(1);
        is_woken && rustix::io::read(&self.inner.wake, &mut [0; 8]).is_ok()
    }

    pub(crate) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.inner.wake.as_fd()
    }
}
