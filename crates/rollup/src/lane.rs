//! The lane on which the control plane asks a shard for pages of its table and gets them back filled.
//!
//! Two bounded queues of page boxes, one each way, each with one writer and one reader. Every call is a fixed number of
//! steps whatever the other side does or where it was preempted, so neither end ever waits. (A general queue would do
//! for less code, but its `pop` spins while the other side is held up inside `push`, and the shard may not.) Allocates
//! only when the lane is made; pages are the asker's. Ends when both ends are dropped, with the pages in it.

use std::{
    cell::Cell,
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use crossbeam_utils::{CachePadded, atomic::AtomicCell};

use crate::{page::SeriesPage, series::Rollup};

/// A lane for the rollup of one shard, empty.
pub fn snapshot_lane() -> (SnapshotAsker, SnapshotAnswerer) {
    let lane = Arc::new(Lane::default());
    (SnapshotAsker { lane: Arc::clone(&lane), _one_thread: PhantomData }, SnapshotAnswerer { lane })
}

/// The control plane's end. It may move between threads, but only one may use it at a time:
///
/// ```compile_fail
/// fn shared<T: Sync>(_: &T) {}
/// shared(&corelane_rollup::snapshot_lane().0);
/// ```
pub struct SnapshotAsker {
    lane: Arc<Lane>,
    _one_thread: PhantomData<Cell<()>>,
}

/// The shard's end.
pub struct SnapshotAnswerer {
    lane: Arc<Lane>,
}

impl SnapshotAsker {
    /// Asks for the range of slots that `page` was reset to; the page comes back when `LANE_PAGES` wait to be answered.
    pub fn ask(&self, page: Box<SeriesPage>) -> Result<(), Box<SeriesPage>> {
        self.lane.asked.push(page)
    }

    /// The next answered page, in the order in which they were asked for.
    pub fn take(&self) -> Option<Box<SeriesPage>> {
        self.lane.answered.pop()
    }
}

impl SnapshotAnswerer {
    /// Fills and sends back one page, if one was asked for and there is room for an answer; tells whether it did.
    /// When nobody asks, it costs two loads.
    pub fn answer(&mut self, rollup: &Rollup) -> bool {
        // Only this end fills `answered`, so room that is seen stays.
        if self.lane.asked.is_empty() || self.lane.answered.is_full() {
            return false;
        }
        let Some(mut page) = self.lane.asked.pop() else { return false };
        // Its asker may not have emptied it; a filled page has no room for more.
        page.reset(page.index(), page.round());
        rollup.fill(&mut page);
        let sent = self.lane.answered.push(page);
        debug_assert!(sent.is_ok(), "there was room");
        true
    }
}

#[derive(Default)]
struct Lane {
    asked: PageQueue,
    answered: PageQueue,
}

/// A bounded queue with one thread that pushes and one that pops.
#[derive(Default)]
struct PageQueue {
    /// Page number `n` is in cell `n % LANE_PAGES`. Invariant: those of `popped .. pushed` are full, the others empty.
    cells: [AtomicCell<Option<Box<SeriesPage>>>; LANE_PAGES],
    /// Written by the pushing thread alone, after the cell.
    pushed: CachePadded<AtomicUsize>,
    /// Written by the popping thread alone, after the cell.
    popped: CachePadded<AtomicUsize>,
}

impl PageQueue {
    /// By the pushing thread.
    fn push(&self, page: Box<SeriesPage>) -> Result<(), Box<SeriesPage>> {
        if self.is_full() {
            return Err(page);
        }
        let pushed = self.pushed.load(Ordering::Relaxed);
        self.cells[pushed % LANE_PAGES].store(Some(page));
        self.pushed.store(pushed.wrapping_add(1), Ordering::Release);
        Ok(())
    }

    /// By the popping thread.
    fn pop(&self) -> Option<Box<SeriesPage>> {
        if self.is_empty() {
            return None;
        }
        let popped = self.popped.load(Ordering::Relaxed);
        let page = self.cells[popped % LANE_PAGES].take();
        self.popped.store(popped.wrapping_add(1), Ordering::Release);
        page
    }

    /// For the pushing thread: what it sees as free stays free until it pushes.
    fn is_full(&self) -> bool {
        self.pushed.load(Ordering::Relaxed).wrapping_sub(self.popped.load(Ordering::Acquire)) == LANE_PAGES
    }

    /// For the popping thread: what it sees as filled stays filled until it pops.
    fn is_empty(&self) -> bool {
        self.pushed.load(Ordering::Acquire) == self.popped.load(Ordering::Relaxed)
    }
}

/// Pages that fit each way. One is answered a turn of the shard's loop, so a few in flight keep a round going while the
/// asker is busy; an asker with this many pages is never refused.
pub const LANE_PAGES: usize = 4;
const _: () = assert!(LANE_PAGES.is_power_of_two(), "page numbers may wrap around");
const _: () = assert!(AtomicCell::<Option<Box<SeriesPage>>>::is_lock_free(), "neither end waits");

#[cfg(test)]
mod tests {
    use super::*;

    fn page(index: usize, round: u64) -> Box<SeriesPage> {
        let mut page = Box::new(SeriesPage::new());
        page.reset(index, round);
        page
    }

    #[test]
    fn both_directions_are_bounded_and_refuse_without_waiting() {
        let (asker, mut answerer) = snapshot_lane();
        let mut rollup = Rollup::new(4);
        rollup.record(0, "pump", 1, [("rpm", 2.0)].into_iter());
        assert!(!answerer.answer(&rollup), "nobody asked");
        assert!(asker.take().is_none());

        for round in 0..LANE_PAGES as u64 {
            assert!(asker.ask(page(0, round)).is_ok());
        }
        let refused = asker.ask(page(7, 9)).err().map(|page| (page.index(), page.round()));
        assert_eq!(refused, Some((7, 9)), "a refused page comes back as it was");

        for _ in 0..LANE_PAGES {
            assert!(answerer.answer(&rollup));
        }
        assert!(!answerer.answer(&rollup), "one page a call, and all are answered");
        assert!(asker.ask(page(0, LANE_PAGES as u64)).is_ok());
        assert!(!answerer.answer(&rollup), "the answers wait to be taken");

        for round in 0..LANE_PAGES as u64 {
            assert_eq!(asker.take().map(|page| page.round()), Some(round));
        }
        assert!(asker.take().is_none());
        assert!(answerer.answer(&rollup));
        assert_eq!(asker.take().map(|page| page.iter().count()), Some(1));
    }

    #[test]
    fn a_page_that_was_not_reset_is_not_filled_twice() {
        let (asker, mut answerer) = snapshot_lane();
        let mut rollup = Rollup::new(4);
        rollup.record(0, "pump", 1, [("rpm", 2.0)].into_iter());
        let mut page = page(0, 3);
        for _ in 0..3 {
            assert!(asker.ask(page).is_ok() && answerer.answer(&rollup));
            page = asker.take().unwrap();
            assert_eq!((page.round(), page.iter().count()), (3, 1));
        }
    }

    #[test]
    fn every_page_comes_back_once_and_in_order_between_two_threads() {
        const PAGES: u64 = 20_000;
        let (asker, mut answerer) = snapshot_lane();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut rollup = Rollup::new(2);
                let mut answered = 0;
                for n in 0.. {
                    rollup.record(n, "pump", n, [("rpm", n as f64)].into_iter());
                    if answerer.answer(&rollup) {
                        answered += 1;
                    } else {
                        std::thread::yield_now();
                    }
                    if answered == PAGES {
                        break;
                    }
                }
            });
            let mut idle: Vec<_> = (0..LANE_PAGES).map(|_| page(0, 0)).collect();
            let (mut asked, mut taken, mut count) = (0, 0, 0);
            while taken < PAGES {
                if asked < PAGES
                    && let Some(mut page) = idle.pop()
                {
                    page.reset(0, asked);
                    assert!(asker.ask(page).is_ok(), "an asker with LANE_PAGES pages is never refused");
                    asked += 1;
                } else if let Some(page) = asker.take() {
                    assert_eq!(page.round(), taken);
                    let view = page.iter().next().unwrap();
                    assert!(view.count > count, "later answers are of later states");
                    (taken, count) = (taken + 1, view.count);
                    // After n points, 0 to n - 1, there is one possible state; a torn copy would be another.
                    assert_eq!((view.last_timestamp, view.last), (count - 1, (count - 1) as f64));
                    assert_eq!(view.sum, (count * (count - 1) / 2) as f64);
                    idle.push(page);
                } else {
                    std::thread::yield_now();
                }
            }
        });
    }
}
