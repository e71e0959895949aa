//! The lane on which the other shards hand fresh connections to one of them.
//!
//! Bounded, with many threads that push and one that pops. Each call is a fixed number of steps, whatever another thread does
//! or where it was preempted: `pop` passes over nothing and waits for nothing, and a place that was taken but not filled yet
//! reads as empty until the next turn. (A general queue would do for less code, but its `pop` spins while another thread is
//! held up inside `push`.)
#![allow(clippy::disallowed_types, reason = "shards meet here")]

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_utils::atomic::AtomicCell;

use crate::admission::Admitted;
use crate::limits::HANDED_MAX;

pub(crate) struct HandOver<T> {
    /// Connection number `n` is in place `n % HANDED_MAX`. Invariant: those of `popped .. pushed` are full, or their shard is
    /// about to fill them; all others are empty.
    places: Box<[AtomicCell<Option<T>>]>,
    /// Places that are promised or taken. Counted before a number is drawn and until its place is empty again, so at most
    /// `HANDED_MAX` numbers are in use, and each has a place of its own.
    held: AtomicUsize,
    pushed: AtomicUsize,
    /// Written by the popping thread alone.
    popped: AtomicUsize,
}

impl<T> HandOver<T> {
    pub(crate) fn new() -> Self {
        Self {
            places: (0..HANDED_MAX).map(|_| AtomicCell::new(None)).collect(),
            held: AtomicUsize::new(0),
            pushed: AtomicUsize::new(0),
            popped: AtomicUsize::new(0),
        }
    }

    /// What [`new`](Self::new) allocates.
    pub(crate) const BYTES: usize = HANDED_MAX * size_of::<AtomicCell<Option<T>>>();

    /// Gives the connection back when [`HANDED_MAX`] of them have not been looked at.
    pub(crate) fn push(&self, admitted: T) -> Result<(), T> {
        match self.draw() {
            Some(number) => {
                self.places[number % HANDED_MAX].store(Some(admitted));
                Ok(())
            }
            None => Err(admitted),
        }
    }

    /// By the one thread that pops.
    pub(crate) fn pop(&self) -> Option<T> {
        if self.is_empty() {
            return None;
        }
        let popped = self.popped.load(Ordering::Relaxed);
        let admitted = self.places[popped % HANDED_MAX].take()?;
        self.popped.store(popped.wrapping_add(1), Ordering::Relaxed);
        // The place is empty for whoever sees it given back.
        self.held.fetch_sub(1, Ordering::Release);
        Some(admitted)
    }

    /// For the popping thread: whether nothing is here or on its way.
    pub(crate) fn is_empty(&self) -> bool {
        self.pushed.load(Ordering::Acquire) == self.popped.load(Ordering::Relaxed)
    }

    /// The number of the next connection, whose place is empty, if there is one.
    fn draw(&self) -> Option<usize> {
        if self.held.fetch_add(1, Ordering::Acquire) < HANDED_MAX {
            return Some(self.pushed.fetch_add(1, Ordering::AcqRel));
        }
        self.held.fetch_sub(1, Ordering::Relaxed);
        None
    }
}

const _: () = assert!(HANDED_MAX.is_power_of_two(), "numbers may wrap around");
const _: () = assert!(AtomicCell::<Option<Admitted<OwnedFd>>>::is_lock_free(), "no shard waits for another");

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::thread;

    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    fn admitted() -> Admitted<OwnedFd> {
        let socket: OwnedFd = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        Admitted { socket, address_entry: None }
    }

    #[test]
    fn connections_come_out_as_they_went_in_and_one_too_many_comes_back() {
        let lane = HandOver::new();
        for lap in 0..3 {
            let sockets: Vec<_> = (0..HANDED_MAX)
                .map(|_| {
                    let admitted = admitted();
                    let socket = admitted.socket.as_raw_fd();
                    assert!(lane.push(admitted).is_ok());
                    socket
                })
                .collect();
            let refused = admitted();
            let socket = refused.socket.as_raw_fd();
            let returned = lane.push(refused).map_err(|admitted| admitted.socket.as_raw_fd());
            assert_eq!(returned, Err(socket), "lap {lap}");
            let popped: Vec<_> =
                std::iter::from_fn(|| lane.pop()).map(|admitted| admitted.socket.as_raw_fd()).collect();
            assert_eq!(popped, sockets);
            assert!(lane.is_empty());
        }
    }

    #[test]
    fn a_pop_behind_a_shard_that_was_preempted_returns_at_once() {
        let lane = HandOver::new();
        // What a shard has done that is preempted in the middle of `push`.
        let number = lane.draw().unwrap();
        assert!(lane.push(admitted()).is_ok());
        assert!(lane.pop().is_none() && lane.pop().is_none());
        assert!(!lane.is_empty(), "one is on its way");
        lane.places[number].store(Some(admitted()));
        assert!(lane.pop().is_some() && lane.pop().is_some() && lane.pop().is_none());
        assert!(lane.is_empty());
    }

    #[test]
    fn every_connection_of_several_shards_arrives_once() {
        const SHARDS: usize = 3;
        let each = if cfg!(miri) { 50 } else { 20_000 };
        let lane = HandOver::new();
        // Descriptors are scarce, so each shard sends numbers, in the entry of the address table.
        let socket = admitted().socket;
        let numbered = |number: usize| Admitted {
            socket: socket.try_clone().unwrap(),
            address_entry: Some(crate::address_table::Entry::new(number)),
        };
        let arrived = thread::scope(|scope| {
            for shard in 0..SHARDS {
                let (lane, numbered) = (&lane, &numbered);
                scope.spawn(move || {
                    for n in 0..each {
                        let mut admitted = numbered(n * SHARDS + shard);
                        while let Err(refused) = lane.push(admitted) {
                            admitted = refused;
                            thread::yield_now();
                        }
                    }
                });
            }
            let mut arrived = Vec::new();
            while arrived.len() < SHARDS * each {
                match lane.pop() {
                    Some(admitted) => arrived.push(admitted.address_entry.unwrap().index()),
                    None => thread::yield_now(),
                }
            }
            arrived
        });
        for shard in 0..SHARDS {
            let of_shard: Vec<_> = arrived.iter().copied().filter(|number| number % SHARDS == shard).collect();
            let expected: Vec<_> = (0..each).map(|n| n * SHARDS + shard).collect();
            assert_eq!(of_shard, expected, "in order, each once");
        }
        assert!(lane.is_empty());
    }
}
