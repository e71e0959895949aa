//! The lane on which the other shards hand fresh connections to one of them.
//!
//! Bounded, with many threads that push and one that pops. Each call is a fixed number of steps, whatever another thread
//! does or where it was preempted: a place that was drawn and is not filled yet reads as empty until the next turn. (A
//! general queue would do for less code, but its `pop` spins while another thread is held up inside `push`.)
#![allow(clippy::disallowed_types, reason = "shards meet here")]

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_utils::atomic::AtomicCell;

use crate::admission::Admitted;

/// A lane for values of one word.
pub(crate) struct HandOver<T> {
    /// Value number `n` is in place `n % places`. Invariant: places `popped .. pushed` are full, or the thread that drew the
    /// number is about to fill them; all others are empty.
    places: Box<[AtomicCell<Option<T>>]>,
    /// Places that are drawn or about to be. Counted before a number is drawn and until its place is empty again, so no more
    /// numbers are in use than there are places, and each has a place of its own.
    held: AtomicUsize,
    pushed: AtomicUsize,
    /// Written by the popping thread alone.
    popped: AtomicUsize,
}

impl<T> HandOver<T> {
    /// An empty lane. The number of places is a power of two.
    pub(crate) fn new(places: usize) -> Self {
        assert!(places.is_power_of_two(), "numbers may wrap around");
        Self {
            places: (0..places).map(|_| AtomicCell::new(None)).collect(),
            held: AtomicUsize::new(0),
            pushed: AtomicUsize::new(0),
            popped: AtomicUsize::new(0),
        }
    }

    /// What [`new`](Self::new) allocates.
    pub(crate) const fn bytes(places: usize) -> usize {
        places * size_of::<AtomicCell<Option<T>>>()
    }

    /// Gives the value back when all places are taken.
    pub(crate) fn push(&self, value: T) -> Result<(), T> {
        match self.draw() {
            Some(number) => {
                self.place(number).store(Some(value));
                Ok(())
            }
            None => Err(value),
        }
    }

    /// By the one thread that pops.
    pub(crate) fn pop(&self) -> Option<T> {
        if self.is_empty() {
            return None;
        }
        let popped = self.popped.load(Ordering::Relaxed);
        let value = self.place(popped).take()?;
        self.popped.store(popped.wrapping_add(1), Ordering::Relaxed);
        // The place is empty for each thread that sees it given back.
        self.held.fetch_sub(1, Ordering::Release);
        Some(value)
    }

    /// For the popping thread: whether nothing is here or on its way.
    pub(crate) fn is_empty(&self) -> bool {
        self.pushed.load(Ordering::Acquire) == self.popped.load(Ordering::Relaxed)
    }

    /// The number of the next value, whose place is empty, if there is one.
    fn draw(&self) -> Option<usize> {
        if self.held.fetch_add(1, Ordering::Acquire) < self.places.len() {
            return Some(self.pushed.fetch_add(1, Ordering::AcqRel));
        }
        self.held.fetch_sub(1, Ordering::Relaxed);
        None
    }

    fn place(&self, number: usize) -> &AtomicCell<Option<T>> {
        &self.places[number % self.places.len()]
    }
}

const _: () = assert!(AtomicCell::<Option<Admitted<OwnedFd>>>::is_lock_free(), "no shard waits for another");

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;
    use std::thread;

    use super::*;

    /// What fits a place, as a connection does.
    fn value(number: u64) -> NonZeroU64 {
        NonZeroU64::new(number + 1).unwrap()
    }

    #[test]
    fn values_come_out_as_they_went_in_and_one_too_many_comes_back() {
        let lane = HandOver::new(4);
        for lap in 0..3 {
            assert!((0..4).all(|n| lane.push(value(n)).is_ok()));
            assert_eq!(lane.push(value(4)), Err(value(4)), "lap {lap}");
            let popped: Vec<_> = std::iter::from_fn(|| lane.pop()).collect();
            assert_eq!(popped, [0, 1, 2, 3].map(value));
            assert!(lane.is_empty());
        }
    }

    #[test]
    fn a_pop_behind_a_shard_that_was_preempted_returns_at_once() {
        let lane = HandOver::new(4);
        // What a shard has done that is preempted in the middle of `push`.
        let number = lane.draw().unwrap();
        assert_eq!(lane.push(value(2)), Ok(()));
        assert_eq!((lane.pop(), lane.pop()), (None, None));
        assert!(!lane.is_empty(), "one is on its way");
        lane.place(number).store(Some(value(1)));
        assert_eq!((lane.pop(), lane.pop(), lane.pop()), (Some(value(1)), Some(value(2)), None));
        assert!(lane.is_empty());
    }

    #[test]
    fn every_value_of_several_threads_arrives_once_and_in_order() {
        const THREADS: u64 = 3;
        let each = if cfg!(miri) { 50 } else { 20_000 };
        let lane = HandOver::new(8);
        let arrived = thread::scope(|scope| {
            for thread in 0..THREADS {
                let lane = &lane;
                scope.spawn(move || {
                    for n in 0..each {
                        while lane.push(value(n * THREADS + thread)).is_err() {
                            thread::yield_now();
                        }
                    }
                });
            }
            let mut arrived = Vec::new();
            while arrived.len() as u64 != THREADS * each {
                match lane.pop() {
                    Some(value) => arrived.push(value.get() - 1),
                    None => thread::yield_now(),
                }
            }
            arrived
        });
        for thread in 0..THREADS {
            let of_thread: Vec<_> = arrived.iter().copied().filter(|value| value % THREADS == thread).collect();
            let expected: Vec<_> = (0..each).map(|n| n * THREADS + thread).collect();
            assert_eq!(of_thread, expected);
        }
        assert!(lane.is_empty());
    }
}
