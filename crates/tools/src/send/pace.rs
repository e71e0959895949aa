//! `--rate`: how long the next event has to wait, for all connections together.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Hands out the moments at which events may go.
#[derive(Debug)]
pub(super) struct Pacer {
    interval: Duration,
    /// When the next event is due.
    next: Mutex<Instant>,
}

impl Pacer {
    /// `rate` is events a second, in `0.001..=1e9`.
    pub(super) fn new(rate: f64) -> Self {
        Self { interval: Duration::from_secs_f64(rate.recip()), next: Mutex::new(Instant::now()) }
    }

    /// Takes the next moment, and tells how long it is until then.
    pub(super) fn reserve(&self) -> Duration {
        self.reserve_at(Instant::now())
    }

    fn reserve_at(&self, now: Instant) -> Duration {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        // A sleep that took too long is made up for, a minute in which the server did not read is not: that would
        // end in a burst of everything that was due meanwhile.
        let due = now.checked_sub(CATCH_UP).map_or(*next, |earliest| earliest.max(*next));
        *next = due + self.interval;
        due.saturating_duration_since(now)
    }
}

/// How much lateness is made up for.
const CATCH_UP: Duration = Duration::from_millis(100);

/// The text of `--rate`.
pub(super) fn parse_rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "a number of events a second is wanted, as 100 or 0.5".to_owned())?;
    if (0.001..=1e9).contains(&rate) { Ok(rate) } else { Err("the range is 0.001 to 1000000000".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_an_interval_apart() {
        let pacer = Pacer::new(10.0);
        let start = *pacer.next.lock().unwrap();
        let waits: Vec<_> = (0..3).map(|_| pacer.reserve_at(start).as_millis()).collect();
        assert_eq!(waits, [0, 100, 200]);
    }

    #[test]
    fn a_stall_is_not_made_up_for_by_a_burst() {
        let pacer = Pacer::new(100.0);
        let later = *pacer.next.lock().unwrap() + Duration::from_secs(60);
        let at_once = (0..100).take_while(|_| pacer.reserve_at(later).is_zero()).count();
        assert_eq!(at_once, 11, "100 ms of lateness, and the one that is due");
    }

    #[test]
    fn a_rate_is_a_number_in_its_range() {
        assert_eq!(parse_rate("0.5"), Ok(0.5));
        for text in ["0", "-1", "nan", "inf", "1e10", "fast"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }
}
