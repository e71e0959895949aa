//! A lane for events that are too rare and too wide for samples: one writer, one reader, the oldest event is overwritten.
//!
//! Each event is a box, and a place of the lane is one atomic cell. Each call is a fixed number of steps, whatever the other
//! end does or where it was preempted. (A general queue that overwrites spins while its reader is held up inside `pop`.)

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_utils::atomic::AtomicCell;

/// A lane for up to `places` events, empty. The number of places is a power of two.
pub fn event_lane<T: Send>(places: usize) -> (EventWriter<T>, EventReader<T>) {
    const { assert!(AtomicCell::<Option<Box<T>>>::is_lock_free(), "neither end waits") };
    assert!(places.is_power_of_two(), "event numbers may wrap around");
    let lane =
        Arc::new(Lane { places: (0..places).map(|_| AtomicCell::new(None)).collect(), pushed: AtomicUsize::new(0) });
    let writer = EventWriter { lane: Arc::clone(&lane) };
    (writer, EventReader { lane, popped: 0 })
}

struct Lane<T> {
    /// Event number `n` is in place `n % places`, until it is taken or overwritten.
    places: Box<[AtomicCell<Option<Box<T>>>]>,
    /// Written by the writer alone, after the place.
    pushed: AtomicUsize,
}

/// The writing end.
pub struct EventWriter<T> {
    lane: Arc<Lane<T>>,
}

impl<T: Send> EventWriter<T> {
    /// Puts an event in; overwrites the oldest when the lane is full.
    pub fn push(&mut self, event: T) {
        let Lane { places, pushed } = &*self.lane;
        let number = pushed.load(Ordering::Relaxed);
        places[number % places.len()].store(Some(Box::new(event)));
        pushed.store(number.wrapping_add(1), Ordering::Release);
    }
}

/// The reading end.
pub struct EventReader<T> {
    lane: Arc<Lane<T>>,
    /// The number of the next event.
    popped: usize,
}

impl<T: Send> EventReader<T> {
    /// The events that are here at the moment of the call, oldest first: at most as many as the lane has places.
    pub fn drain(&mut self) -> impl Iterator<Item = T> {
        let places = &self.lane.places;
        let pushed = self.lane.pushed.load(Ordering::Acquire);
        let count = pushed.wrapping_sub(self.popped).min(places.len());
        self.popped = pushed;
        // A place is empty if the lane was overwritten just now, and its newer event was taken in place of the older one.
        let first = pushed.wrapping_sub(count);
        (0..count).filter_map(move |n| places[first.wrapping_add(n) % places.len()].take().map(|event| *event))
    }
}

// Not under Miri: the cells turn pointers into integers.
#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;

    #[test]
    fn events_come_out_in_order_and_the_oldest_are_overwritten() {
        let (mut writer, mut reader) = event_lane(4);
        assert_eq!(reader.drain().count(), 0);
        for last in [3, 4, 7, 8, 11, 12] {
            (0..=last).for_each(|n| writer.push(n));
            let expected: Vec<_> = (0..=last).rev().take(4).collect();
            assert_eq!(reader.drain().collect::<Vec<_>>(), expected.into_iter().rev().collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_overwritten_event_and_one_that_nobody_took_are_dropped() {
        let event = Arc::new(());
        let (mut writer, reader) = event_lane(2);
        (0..5).for_each(|_| writer.push(Arc::clone(&event)));
        assert_eq!(Arc::strong_count(&event), 3);
        drop((writer, reader));
        assert_eq!(Arc::strong_count(&event), 1);
    }

    #[test]
    fn between_two_threads_no_event_comes_twice_and_the_last_one_always_comes() {
        let events = 200_000;
        let (mut writer, mut reader) = event_lane(8);
        std::thread::scope(|scope| {
            scope.spawn(move || (0..events).for_each(|n| writer.push(n)));
            let mut seen = vec![false; events];
            while !seen[events - 1] {
                let before: Vec<_> = reader.drain().collect();
                assert!(before.len() <= 8);
                for event in before {
                    assert!(!std::mem::replace(&mut seen[event], true), "{event} came twice");
                }
            }
        });
    }
}
