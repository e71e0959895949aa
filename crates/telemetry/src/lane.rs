//! The lane on which the control plane hands a shard empty pages and gets them back filled.
//!
//! Two bounded queues of boxed pages, one each way, each with one writer and one reader. Every call is a fixed number of
//! steps whatever the other side does or where it was preempted, so neither end ever waits. (A general queue would do
//! for less code, but its `pop` spins while the other side is held up inside `push`, and the shard may not.) Allocates
//! only when the lane is made. Knows nothing of what a page holds: the requester owns it, and the filler's closure fills
//! it. Ends when both ends are dropped, with the pages in it.

use std::{
    cell::Cell,
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use crossbeam_utils::{CachePadded, atomic::AtomicCell};

/// A lane for pages of one shard, empty.
pub fn page_lane<T>() -> (PageRequester<T>, PageFiller<T>) {
    let lane = Arc::new(Lane { requested: PageQueue::new(), filled: PageQueue::new() });
    (PageRequester { lane: Arc::clone(&lane), _one_thread: PhantomData }, PageFiller { lane })
}

/// The control plane's end. It may move between threads, but only one may use it at a time:
///
/// ```compile_fail,E0277
/// fn shared<T: Sync>(_: &T) {}
/// shared(&corelane_telemetry::page_lane::<u64>().0);
/// ```
pub struct PageRequester<T> {
    lane: Arc<Lane<T>>,
    _one_thread: PhantomData<Cell<()>>,
}

/// The shard's end.
pub struct PageFiller<T> {
    lane: Arc<Lane<T>>,
}

impl<T> PageRequester<T> {
    /// Sends a page to be filled; it comes back at once when `LANE_PAGES` wait for the shard already.
    pub fn request(&self, page: Box<T>) -> Result<(), Box<T>> {
        self.lane.requested.push(page)
    }

    /// The next filled page, in the order in which they were requested.
    pub fn take(&self) -> Option<Box<T>> {
        self.lane.filled.pop()
    }
}

impl<T> PageFiller<T> {
    /// Lets `fill` fill one page and sends it back, if one was requested and there is room for it; returns whether it did.
    /// Without a request it costs two loads.
    pub fn fill_next(&mut self, fill: impl FnOnce(&mut T)) -> bool {
        // Only this end fills `filled`, so room that is seen stays.
        if self.lane.requested.is_empty() || self.lane.filled.is_full() {
            return false;
        }
        let Some(mut page) = self.lane.requested.pop() else { return false };
        fill(&mut page);
        let sent = self.lane.filled.push(page);
        debug_assert!(sent.is_ok(), "there was room");
        true
    }
}

struct Lane<T> {
    requested: PageQueue<T>,
    filled: PageQueue<T>,
}

/// A bounded queue with one thread that pushes and one that pops.
struct PageQueue<T> {
    /// Page number `n` is in cell `n % LANE_PAGES`. Invariant: those of `popped .. pushed` are full, the others empty.
    cells: [AtomicCell<Option<Box<T>>>; LANE_PAGES],
    /// Written by the pushing thread alone, after the cell.
    pushed: CachePadded<AtomicUsize>,
    /// Written by the popping thread alone, after the cell.
    popped: CachePadded<AtomicUsize>,
}

impl<T> PageQueue<T> {
    fn new() -> Self {
        const { assert!(AtomicCell::<Option<Box<T>>>::is_lock_free(), "neither end waits") };
        Self { cells: Default::default(), pushed: CachePadded::default(), popped: CachePadded::default() }
    }

    /// By the pushing thread.
    fn push(&self, page: Box<T>) -> Result<(), Box<T>> {
        if self.is_full() {
            return Err(page);
        }
        let pushed = self.pushed.load(Ordering::Relaxed);
        self.cells[pushed % LANE_PAGES].store(Some(page));
        self.pushed.store(pushed.wrapping_add(1), Ordering::Release);
        Ok(())
    }

    /// By the popping thread.
    fn pop(&self) -> Option<Box<T>> {
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

/// Pages that fit each way. One is filled a turn of the shard's loop, so a few in flight keep a round going while the
/// requester is busy; a requester with this many pages is never refused.
pub const LANE_PAGES: usize = 4;
const _: () = assert!(LANE_PAGES.is_power_of_two(), "page numbers may wrap around");

// Not under Miri: `AtomicCell` moves a pointer as an integer, and Miri does not follow where it came from.
#[cfg(all(test, not(loom), not(miri)))]
mod tests {
    use super::*;

    #[test]
    fn both_directions_are_bounded_and_refuse_without_waiting() {
        let (requester, mut filler) = page_lane();
        assert!(!filler.fill_next(|_| panic!("there is no page to fill")));
        assert!(requester.take().is_none());

        for number in 0..LANE_PAGES {
            assert!(requester.request(Box::new((number, 0))).is_ok());
        }
        assert_eq!(requester.request(Box::new((7, 9))), Err(Box::new((7, 9))), "a refused page comes back as it was");

        for _ in 0..LANE_PAGES {
            assert!(filler.fill_next(|(number, square)| *square = *number * *number));
        }
        assert!(!filler.fill_next(|_| panic!("one page a call, and all are filled")));
        assert!(requester.request(Box::new((LANE_PAGES, 0))).is_ok());
        assert!(!filler.fill_next(|_| panic!("the filled pages wait to be taken")));

        for number in 0..LANE_PAGES {
            assert_eq!(requester.take(), Some(Box::new((number, number * number))));
        }
        assert!(requester.take().is_none());
        assert!(filler.fill_next(|page| page.1 = 1));
        assert_eq!(requester.take(), Some(Box::new((LANE_PAGES, 1))));
    }

    #[test]
    fn pages_in_the_lane_are_dropped_with_its_last_end() {
        let page = Arc::new(());
        let (requester, mut filler) = page_lane();
        for _ in 0..LANE_PAGES {
            assert!(requester.request(Box::new(Arc::clone(&page))).is_ok());
        }
        assert!(filler.fill_next(|_| ()));
        drop(requester);
        assert_eq!(Arc::strong_count(&page), 1 + LANE_PAGES);
        drop(filler);
        assert_eq!(Arc::strong_count(&page), 1);
    }

    #[test]
    fn every_page_comes_back_once_in_order_and_whole_between_two_threads() {
        const PAGES: u64 = 20_000;
        /// Every word holds the same number, so a torn copy shows.
        type Page = [u64; 64];
        let (requester, mut filler) = page_lane::<Page>();
        std::thread::scope(|scope| {
            // By reference, so that this thread drops the lane: ThreadSanitizer does not see the fence in the drop of an Arc.
            scope.spawn(|| {
                let mut filled = 0;
                while filled < PAGES {
                    if filler.fill_next(|page| *page = page.map(|word| 3 * word + 1)) {
                        filled += 1;
                    } else {
                        std::thread::yield_now();
                    }
                }
            });
            let mut idle: Vec<_> = (0..LANE_PAGES).map(|_| Box::new([0; 64])).collect();
            let (mut requested, mut taken) = (0, 0);
            while taken < PAGES {
                if requested < PAGES
                    && let Some(mut page) = idle.pop()
                {
                    page.fill(requested);
                    assert!(requester.request(page).is_ok(), "a requester with LANE_PAGES pages is never refused");
                    requested += 1;
                } else if let Some(page) = requester.take() {
                    assert_eq!(*page, [3 * taken + 1; 64]);
                    taken += 1;
                    idle.push(page);
                } else {
                    std::thread::yield_now();
                }
            }
        });
    }
}
