//! Wrong tokens: counted, reported as security events, and slowed down for each address.
//!
//! A right token is never slowed, whatever else comes from its address. So this does not stop somebody who guesses over
//! many connections, which is what the length of the token is for; it keeps a client with an old token, or one that
//! tries passwords in turn, from costing much.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use corelane_metrics::{SecurityDetail, SecurityEvent, SecurityKind};
use crossbeam_queue::ArrayQueue;
use tokio::sync::Semaphore;
use tokio::time::sleep;

/// What is known of wrong tokens.
pub(crate) struct WrongTokens {
    total: AtomicU64,
    /// For the control plane's next collection.
    events: ArrayQueue<SecurityEvent>,
    /// Locked by the one thread of the runtime, never across an `await`.
    recent: Mutex<Recent>,
    slowed: Semaphore,
}

struct Recent {
    /// Invariant: at most [`ADDRESSES_MAX`], each address once.
    addresses: Vec<Address>,
    second: Instant,
    reported: usize,
}

struct Address {
    prefix: IpAddr,
    /// Wrong tokens with at most [`FORGET_AFTER`] between two of them.
    count: u32,
    last: Instant,
}

impl WrongTokens {
    pub(crate) fn new() -> Self {
        let recent = Recent { addresses: Vec::new(), second: Instant::now(), reported: 0 };
        Self {
            total: AtomicU64::new(0),
            events: ArrayQueue::new(EVENTS_A_SECOND),
            recent: Mutex::new(recent),
            slowed: Semaphore::new(SLOWED_MAX),
        }
    }

    /// How many there were.
    pub(crate) fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// The oldest event that was not taken yet.
    pub(crate) fn next_event(&self) -> Option<SecurityEvent> {
        self.events.pop()
    }

    /// Counts and reports a wrong token. Returns whether its answer should be held back.
    pub(crate) fn note(&self, peer: SocketAddr, now: Instant) -> bool {
        self.total.fetch_add(1, Ordering::Relaxed);
        let mut recent = self.recent();
        if now.duration_since(recent.second) >= Duration::from_secs(1) {
            (recent.second, recent.reported) = (now, 0);
        }
        if recent.reported < EVENTS_A_SECOND {
            recent.reported += 1;
            let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
            let unix_nanos = u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX);
            let (kind, detail) = (SecurityKind::WrongToken, SecurityDetail::None);
            self.events.force_push(SecurityEvent { unix_nanos, kind, peer, detail });
        }
        recent.count(prefix(peer.ip()), now) > FREE
    }

    /// Waits before a wrong token is answered. Returns false at once when as many answers as may be are held back.
    pub(crate) async fn slow_down(&self) -> bool {
        let Ok(_permit) = self.slowed.try_acquire() else { return false };
        sleep(DELAY).await;
        true
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recent {
    /// One more of this address; how many that makes.
    fn count(&mut self, prefix: IpAddr, now: Instant) -> u32 {
        if let Some(known) = self.addresses.iter_mut().find(|known| known.prefix == prefix) {
            let is_old = now.duration_since(known.last) > FORGET_AFTER;
            known.count = if is_old { 1 } else { known.count.saturating_add(1) };
            known.last = now;
            return known.count;
        }
        if self.addresses.len() == ADDRESSES_MAX {
            let oldest = (0..ADDRESSES_MAX).min_by_key(|&index| self.addresses[index].last).unwrap_or(0);
            self.addresses.swap_remove(oldest);
        }
        self.addresses.push(Address { prefix, count: 1, last: now });
        1
    }
}

/// What counts as one address: an IPv4 address, or the /64 that one IPv6 host has to itself.
fn prefix(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        address => address,
    }
}

/// Addresses that are remembered, 48 bytes each; one more forgets the one that was quiet longest.
const ADDRESSES_MAX: usize = 256;
/// Wrong tokens of an address that are answered at once: enough for somebody who mistypes.
const FREE: u32 = 10;
/// After this time without a wrong token an address is as good as any other.
const FORGET_AFTER: Duration = Duration::from_secs(60);
/// How long each further answer is held back: a client that tries one token after the other gets one try a second.
const DELAY: Duration = Duration::from_secs(1);
/// Answers held back at once, each with one of the 64 places for connections. Further ones go out at once, and their
/// connections are closed.
const SLOWED_MAX: usize = 16;
/// Events a second, as many as a shard reports of one kind. The others are only counted.
const EVENTS_A_SECOND: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_is_slowed_after_some_and_forgiven_after_a_while() {
        let (wrong, now) = (WrongTokens::new(), Instant::now());
        assert!((0..FREE).all(|_| !wrong.note(peer("192.0.2.1:1"), now)));
        assert!(wrong.note(peer("192.0.2.1:2"), now));
        assert!(!wrong.note(peer("192.0.2.2:1"), now), "another address");
        assert!(wrong.note(peer("[::ffff:192.0.2.1]:3"), now + FORGET_AFTER), "the same address, mapped");
        assert!(!wrong.note(peer("192.0.2.1:4"), now + 3 * FORGET_AFTER));
        assert_eq!(wrong.total(), u64::from(FREE) + 4);
    }

    #[test]
    fn hosts_of_one_64_count_together() {
        let (wrong, now) = (WrongTokens::new(), Instant::now());
        let slowed = (0..=FREE).filter(|host| wrong.note(peer(&format!("[2001:db8::{host}]:1")), now)).count();
        assert_eq!(slowed, 1);
        assert!(!wrong.note(peer("[2001:db8:0:1::1]:1"), now));
    }

    #[test]
    fn the_table_and_the_events_are_bounded() {
        let (wrong, now) = (WrongTokens::new(), Instant::now());
        for number in 0..1_000_u64 {
            let peer = format!("10.0.{}.{}:1", number / 256, number % 256);
            wrong.note(self::peer(&peer), now + Duration::from_micros(number));
        }
        assert_eq!(wrong.recent().addresses.len(), ADDRESSES_MAX);
        assert!(wrong.recent().addresses.iter().any(|known| known.prefix == peer("10.0.3.231:1").ip()), "the newest");
        let events = std::iter::from_fn(|| wrong.next_event());
        assert_eq!(events.filter(|event| event.kind == SecurityKind::WrongToken).count(), EVENTS_A_SECOND);
        wrong.note(peer("10.1.0.0:1"), now + Duration::from_secs(2));
        assert_eq!(wrong.next_event().map(|event| event.peer), Some(peer("10.1.0.0:1")));
    }
}
