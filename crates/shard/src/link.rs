//! Another thread's hold on a shard: a wake-up, a wish to stop, new address rules, a new certificate.
#![allow(clippy::disallowed_types, reason = "threads meet here")]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_utils::atomic::AtomicCell;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::admission::AccessRules;
use crate::tls::TlsConfig;

/// Another thread's hold on a shard: wake it, or ask it to stop.
#[derive(Clone)]
pub struct ShardLink {
    inner: Arc<Inner>,
}

struct Inner {
    draining: AtomicBool,
    leaves_backlog: AtomicBool,
    /// The newest, until the shard takes it.
    rules: AtomicCell<Option<Box<AccessRules>>>,
    /// The newest, until the shard takes it.
    tls: AtomicCell<Option<TlsConfig>>,
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
                rules: AtomicCell::new(None),
                tls: AtomicCell::new(None),
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
        self.inner.rules.store(Some(Box::new(rules)));
    }

    /// From its next tick on, the shard begins handshakes with this.
    pub fn set_tls(&self, tls: TlsConfig) {
        self.inner.tls.store(Some(tls));
    }

    pub(crate) fn new_tls(&self) -> Option<TlsConfig> {
        self.inner.tls.take()
    }

    pub(crate) fn new_rules(&self) -> Option<AccessRules> {
        self.inner.rules.take().map(|rules| *rules)
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

const _: () = assert!(AtomicCell::<Option<Box<AccessRules>>>::is_lock_free(), "the shard waits for nobody");
const _: () = assert!(AtomicCell::<Option<TlsConfig>>::is_lock_free(), "the shard waits for nobody");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_rules_are_taken_once() {
        let link = ShardLink::new().unwrap();
        assert!(link.new_rules().is_none());
        for range in ["10.0.0.0/8", "192.0.2.0/24"] {
            link.set_rules(AccessRules { allow: vec![range.parse().unwrap()] });
        }
        let rules = link.new_rules().unwrap();
        assert_eq!(rules.allow, ["192.0.2.0/24".parse().unwrap()]);
        assert!(link.new_rules().is_none());
    }
}
