//! Who has to go while the pool is short.
//!
//! Frames that come too slowly, whether or not they are being read, and answers that stay unread. Ends connections through
//! `close`; reads nothing.

use std::time::Duration;

use corelane_metrics::{CloseReason, cell};

use crate::clock::Instant;
use crate::limits::{EVICT_AFTER, EVICTED_A_TICK, FRAME_RATE_MIN, PARKED_CHEAP_BYTES};
use crate::peer::{Peer, Phase, Receiving};
use crate::shard::Shard;

impl Shard {
    /// The tick's part: evicts what came too slowly while the pool is short, and says so if it stays short.
    pub(crate) fn relieve_pool(&mut self) {
        self.supply.note_kept(self.core.pool.cut(), self.now);
        let is_short_for_long = self.supply.is_short_for_long(self.now);
        self.core.pipeline.metrics.set_gauge(cell::POOL_SHORT, f64::from(u8::from(is_short_for_long)));
        if self.supply.is_short() {
            let now = self.now;
            // Further than the end of the shortage, or the next frames would bring it back at once.
            self.evict(|peer| lateness(peer, now), |shard| shard.core.pool.cut() <= shard.supply.kept_max / 2);
        }
    }

    /// Makes room for receives at once.
    pub(crate) fn evict_largest(&mut self) {
        let (now, wanted) = (self.now, 2 * self.config.limits.lent_buffers_short() + 1);
        self.evict(|peer| burden(peer, now), |shard| shard.can_lend() && shard.core.pool.free() >= wanted);
    }

    /// Closes connections in the order of their rank, lowest first, until there is enough memory.
    fn evict(&mut self, rank: impl Fn(&Peer) -> Option<u64>, is_enough: impl Fn(&Self) -> bool) {
        let mut candidates = std::mem::take(&mut self.supply.candidates);
        for slot in 0..self.peers.slots_used() {
            if let Some(rank) = self.peers.get_mut(slot).and_then(|peer| rank(peer)) {
                candidates.push((rank, slot));
            }
        }
        candidates.sort_unstable();
        for &(_, slot) in candidates.iter().take(EVICTED_A_TICK) {
            let Some(peer) = self.peers.get_mut(slot) else { continue };
            if peer.output.is_some() {
                self.give_up_output(slot);
                self.close(slot, CloseReason::UnreadAnswers);
            } else {
                self.close(slot, CloseReason::FrameTimeout);
            }
            self.supply.note_kept(self.core.pool.cut(), self.now);
            if is_enough(self) {
                break;
            }
        }
        candidates.clear();
        self.supply.candidates = candidates;
    }
}

/// The bytes a second at which the partial frame has come so far, unread ones in the kernel included, if that is too slow;
/// 0 for a peer that has fallen silent, and for answers that stay unread. `None` for a connection that may stay: it holds
/// nothing, is young, or we are the ones who have not read what is there.
fn lateness(peer: &Peer, now: Instant) -> Option<u64> {
    if peer.phase != Phase::Open || !peer.inbox.is_empty() {
        return None;
    }
    if let Some(output) = &peer.output {
        return (now.since(output.since()) >= EVICT_AFTER).then_some(0);
    }
    let age = now.since(peer.started_at);
    // A parked connection with a short start costs little, and may be kept from sending by its window.
    let is_cheap = matches!(peer.receiving, Receiving::Parked { .. }) && peer.partial_bytes() <= PARKED_CHEAP_BYTES;
    if !peer.holds_memory() || is_cheap || age < EVICT_AFTER {
        return None;
    }
    let unread = rustix::io::ioctl_fionread(&peer.socket).unwrap_or(0);
    if peer.missing_bytes().is_some_and(|missing| unread >= missing as u64) {
        return None;
    }
    if unread == 0 && now.since(peer.last_byte_at) >= EVICT_AFTER {
        return Some(0);
    }
    let rate = bytes_a_second(peer.partial_bytes() as u64 + unread, age);
    (rate < FRAME_RATE_MIN).then_some(rate)
}

fn bytes_a_second(bytes: u64, age: Duration) -> u64 {
    (u128::from(bytes) * 1_000_000_000 / age.as_nanos().max(1)) as u64
}

/// What a connection has cost: kept bytes times the time that they were kept, the largest first.
fn burden(peer: &Peer, now: Instant) -> Option<u64> {
    if peer.phase != Phase::Open {
        return None;
    }
    let (bytes, since) = match &peer.output {
        Some(output) => (output.slot_bytes(), output.since()),
        None if peer.holds_memory() => (peer.partial_bytes(), peer.started_at),
        None => return None,
    };
    let microseconds = u64::try_from(now.since(since).as_micros()).unwrap_or(u64::MAX);
    Some(u64::MAX - microseconds.saturating_mul(bytes as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_bytes_for_their_age() {
        assert_eq!(bytes_a_second(17_000, Duration::from_secs(2)), 8_500);
        assert_eq!(bytes_a_second(65_536, Duration::from_secs(4)), FRAME_RATE_MIN);
        assert_eq!(bytes_a_second(1, Duration::ZERO), 1_000_000_000);
    }
}
