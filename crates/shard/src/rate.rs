//! The rate limit of a connection: a token bucket in bytes, spent by receiving and enforced by not receiving.

use std::time::Duration;

use corelane_wire::{HEADER_BYTES, MAX_FRAME_SIZE};

use crate::clock::Instant;

/// What a connection may receive now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowance {
    bytes: u64,
    at: Instant,
}

/// Bytes that a bucket holds: a second's worth, and the largest frame at least, so that each can be received in one go.
fn bucket(rate: u64) -> u64 {
    rate.max((HEADER_BYTES + MAX_FRAME_SIZE) as u64)
}

impl Allowance {
    /// A full bucket.
    pub(crate) fn new(rate: u64, now: Instant) -> Self {
        Self { bytes: bucket(rate), at: now }
    }

    /// Bytes that may be received now, at so many a second.
    pub(crate) fn available(&mut self, rate: u64, now: Instant) -> u64 {
        let earned = (u128::from(rate) * now.since(self.at).as_nanos() / 1_000_000_000) as u64;
        // What is too short for a byte is not forgotten.
        if earned > 0 {
            self.at = self.at + Duration::from_nanos((u128::from(earned) * 1_000_000_000 / u128::from(rate)) as u64);
            self.bytes = self.bytes.saturating_add(earned).min(bucket(rate));
        }
        self.bytes
    }

    pub(crate) fn spend(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes all that is allowed, so often, for so long; gives the bytes taken.
    fn taken(rate: u64, step: Duration, time: Duration) -> u64 {
        let (mut now, mut taken) = (Instant::default(), 0);
        let mut allowance = Allowance::new(rate, now);
        while now.since(Instant::default()) < time {
            let bytes = allowance.available(rate, now);
            allowance.spend(bytes);
            taken += bytes;
            now = now + step;
        }
        taken
    }

    #[test]
    fn over_time_the_rate_is_what_was_asked_for() {
        for rate in [1, 1_000, 1_000_000, 10_000_000_000] {
            for step in [1, 100, 999] {
                let expected = bucket(rate) + 10 * rate;
                let taken = taken(rate, Duration::from_millis(step), Duration::from_secs(10));
                assert!(taken <= expected && taken >= expected - rate - 1, "{rate} B/s each {step} ms: {taken}");
            }
        }
    }

    #[test]
    fn a_silent_connection_saves_no_more_than_a_bucket() {
        let mut allowance = Allowance::new(1_000_000, Instant::default());
        allowance.spend(1_000_000);
        let later = Instant::default() + Duration::from_secs(3600);
        assert_eq!(allowance.available(1_000_000, later), 1_000_000);
    }
}
