//! How often each address is here, for all shards together: a fixed table of atomics, made at start.
//!
//! An address is known by a keyed hash: some bits choose a bucket of one cache line, 32 others are its tag. Two addresses
//! are taken for one another with a chance of one in 10^12 or so, and nobody outside can choose them to be. An entry is
//! one word, so counting is one compare-and-swap; a state that means nothing any more leaves the entry to the next
//! address, and so the table never fills up with those who left.
#![allow(clippy::disallowed_types, reason = "one of the two tables that shards share")]

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};

/// Entries of a bucket.
const WAYS: usize = 8;
/// Buckets that an address may lie in.
const PROBES: usize = 4;
/// Attempts to count one connection while other shards count theirs.
const ATTEMPTS: usize = 4;

/// Another shard took the entry first.
struct Lost;

#[derive(Debug)]
pub(crate) struct AddressTable {
    buckets: Box<[Bucket]>,
    hasher: RandomState,
}

/// Tags in the upper halves, states in the lower.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Bucket([AtomicU64; WAYS]);

/// Where an address was counted: the place in the table, plus one, so that a connection on its way to another shard, with
/// its descriptor and perhaps an entry, is one word.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry(NonZeroU32);

impl Entry {
    pub(crate) fn new(index: usize) -> Self {
        Self(NonZeroU32::MIN.saturating_add(index as u32))
    }

    pub(crate) fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

impl AddressTable {
    /// A table for so many addresses at a time; it is made four times as large, so that room is always near.
    pub(crate) fn new(addresses: usize) -> Self {
        let buckets = (0..Self::buckets(addresses)).map(|_| Bucket::default());
        Self { buckets: buckets.collect(), hasher: RandomState::new() }
    }

    /// What [`new`](Self::new) allocates.
    pub(crate) fn bytes(addresses: usize) -> usize {
        Self::buckets(addresses) * size_of::<Bucket>()
    }

    fn buckets(addresses: usize) -> usize {
        (4 * addresses).div_ceil(WAYS).max(PROBES).next_power_of_two()
    }

    /// Moves the state of `address` on: `next` gets the present one, `None` for an address that is not here, and gives the
    /// one after it, or `None` to leave it. `is_stale` tells which states mean nothing. Gives the entry if it was moved.
    fn advance(
        &self,
        address: IpAddr,
        is_stale: impl Fn(u32) -> bool,
        next: impl Fn(Option<u32>) -> Option<u32>,
    ) -> Option<Entry> {
        // If all attempts are lost to others, or all entries are taken, this one goes uncounted: a limit that is passed by one
        // does less harm than a peer refused for what others do.
        (0..ATTEMPTS).find_map(|_| self.try_advance(address, &is_stale, &next).ok()).flatten()
    }

    /// One attempt; `Err` if another shard took the free entry first. Most likely it did so for the same address, since both
    /// look for one in the same order: then the next attempt finds it.
    fn try_advance(
        &self,
        address: IpAddr,
        is_stale: impl Fn(u32) -> bool,
        next: impl Fn(Option<u32>) -> Option<u32>,
    ) -> Result<Option<Entry>, Lost> {
        let hash = self.hasher.hash_one(address);
        let tag = hash & TAG;
        let first = hash as usize & (self.buckets.len() - 1);
        let mut free = None;
        for probe in 0..PROBES {
            let bucket = (first + probe) & (self.buckets.len() - 1);
            for (way, word) in self.buckets[bucket].0.iter().enumerate() {
                let entry = Entry::new(bucket * WAYS + way);
                let mut seen = word.load(Ordering::Relaxed);
                while seen & TAG == tag && !is_stale(seen as u32) {
                    let Some(state) = next(Some(seen as u32)) else { return Ok(None) };
                    match word.compare_exchange_weak(seen, tag | u64::from(state), Ordering::Relaxed, Ordering::Relaxed)
                    {
                        Ok(_) => return Ok(Some(entry)),
                        Err(other) => seen = other,
                    }
                }
                if is_stale(seen as u32) && free.is_none() {
                    free = Some((entry, seen));
                }
            }
        }
        let (Some(state), Some((entry, seen))) = (next(None), free) else { return Ok(None) };
        let word = self.word(entry);
        let taken = word.compare_exchange(seen, tag | u64::from(state), Ordering::Relaxed, Ordering::Relaxed);
        taken.map(|_| Some(entry)).map_err(|_| Lost)
    }

    fn word(&self, entry: Entry) -> &AtomicU64 {
        &self.buckets[entry.index() / WAYS].0[entry.index() % WAYS]
    }
}

const TAG: u64 = 0xffff_ffff_0000_0000;

/// The address under which a peer is counted: IPv6 addresses with the same first `ipv6_prefix` bits (1 to 128) share one
/// count, because a host is free to use any address of its network. IPv4 addresses are counted whole, also if they are
/// mapped into IPv6.
pub(crate) fn counted_address(address: IpAddr, ipv6_prefix: u8) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let host_bits = Ipv6Addr::BITS.saturating_sub(ipv6_prefix.into());
            let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
        }
        address => address,
    }
}

/// Connections of each address. A state is their number.
#[derive(Debug)]
pub(crate) struct ConnectionsByAddress {
    table: AddressTable,
    max: u32,
}

impl ConnectionsByAddress {
    pub(crate) fn new(addresses: usize, max: u32) -> Self {
        Self { table: AddressTable::new(addresses), max }
    }

    /// Counts one more; `Err` when the address has as many as it may. The entry is to be given back with it.
    pub(crate) fn enter(&self, address: IpAddr) -> Result<Option<Entry>, TooMany> {
        let full = std::cell::Cell::new(false);
        let entry = self.table.advance(
            address,
            |count| count == 0,
            |count| {
                let count = count.unwrap_or(0);
                full.set(count >= self.max);
                (!full.get()).then_some(count + 1)
            },
        );
        if full.get() { Err(TooMany) } else { Ok(entry) }
    }

    /// One less.
    pub(crate) fn leave(&self, entry: Entry) {
        self.table.word(entry).fetch_sub(1, Ordering::Relaxed);
    }
}

/// New connections of each address in the second at hand. A state is the second's number, lower 16 bits, and the count.
#[derive(Debug)]
pub(crate) struct AcceptsByAddress {
    table: AddressTable,
    max: u32,
}

impl AcceptsByAddress {
    /// `max` is at most [`ACCEPT_RATE_MAX`].
    pub(crate) fn new(addresses: usize, max: u32) -> Self {
        Self { table: AddressTable::new(addresses), max }
    }

    /// Counts a new connection in `second`; `Err` when the address had as many as it may.
    pub(crate) fn enter(&self, address: IpAddr, second: u64) -> Result<(), TooMany> {
        let second = (second as u32 & 0xffff) << 16;
        let full = std::cell::Cell::new(false);
        self.table.advance(
            address,
            |state| state == 0 || state & 0xffff_0000 != second,
            |state| {
                let count = state.map_or(0, |state| state & 0xffff);
                full.set(count >= self.max);
                (!full.get()).then_some(second | (count + 1))
            },
        );
        if full.get() { Err(TooMany) } else { Ok(()) }
    }
}

/// Largest limit of new connections a second and address.
pub const ACCEPT_RATE_MAX: u32 = 0xfffe;

/// The address has as many as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooMany;

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::thread;

    use super::*;

    fn address(number: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from(number))
    }

    #[test]
    fn each_address_has_its_own_count_and_leaving_makes_room() {
        let connections = ConnectionsByAddress::new(1_000, 3);
        let entries: Vec<_> = (0..1_000)
            .flat_map(|number| (0..3).map(move |_| number))
            .map(|number| connections.enter(address(number)).expect("below the limit").expect("there is room"))
            .collect();
        assert!((0..1_000).all(|number| connections.enter(address(number)).is_err()));
        entries.into_iter().for_each(|entry| connections.leave(entry));
        assert!((5_000..6_000).all(|number| connections.enter(address(number)).is_ok_and(|entry| entry.is_some())));
    }

    #[test]
    fn shards_that_meet_an_address_at_the_same_moment_share_one_count() {
        let table = AddressTable::new(16);
        let one_more = |count: Option<u32>| Some(count.unwrap_or(0) + 1);
        let is_other_done = std::cell::Cell::new(false);
        let entry = table.advance(
            address(7),
            |count| count == 0,
            |count| {
                // The other shard, between this one's look and its entry.
                if !is_other_done.replace(true) {
                    assert!(table.advance(address(7), |count| count == 0, one_more).is_some());
                }
                one_more(count)
            },
        );
        let entry = entry.expect("the slower one is counted, too");
        assert_eq!(table.word(entry).load(Ordering::Relaxed) as u32, 2);
    }

    #[test]
    fn ipv6_peers_are_counted_by_their_prefix() {
        let counted = |address: &str, prefix| counted_address(address.parse().unwrap(), prefix).to_string();
        for (address, prefix, network) in [
            ("2001:db8:1:2:3:4:5:6", 64, "2001:db8:1:2::"),
            ("2001:db8:1:2::", 64, "2001:db8:1:2::"),
            ("2001:db8:1:2ff:3:4:5:6", 56, "2001:db8:1:200::"),
            ("2001:db8:1:2:3:4:5:6", 128, "2001:db8:1:2:3:4:5:6"),
            ("2001:db8:1:2:3:4:5:7", 127, "2001:db8:1:2:3:4:5:6"),
            ("2001:db8::1", 1, "::"),
            ("fe80::1", 1, "8000::"),
            ("::1", 64, "::"),
        ] {
            assert_eq!(counted(address, prefix), network, "{address}/{prefix}");
        }
    }

    #[test]
    fn ipv4_peers_are_counted_by_their_whole_address() {
        for prefix in [1, 64, 128] {
            for address in ["192.0.2.7", "::ffff:192.0.2.7"] {
                assert_eq!(counted_address(address.parse().unwrap(), prefix).to_string(), "192.0.2.7");
            }
        }
    }

    #[test]
    fn addresses_without_end_are_forgotten_when_they_leave() {
        let connections = ConnectionsByAddress::new(4, 1);
        for number in 0..100_000 {
            let entry = connections.enter(address(number)).unwrap().expect("all others have left");
            connections.leave(entry);
        }
    }

    #[test]
    fn a_second_has_its_own_count() {
        let accepts = AcceptsByAddress::new(100, 5);
        for second in [0, 1, 2, 65_535, 65_536] {
            for number in 0..100 {
                let taken = (0..8).filter(|_| accepts.enter(address(number), second).is_ok()).count();
                assert_eq!(taken, 5, "second {second}");
            }
        }
    }

    #[test]
    fn a_full_table_refuses_nobody() {
        let connections = ConnectionsByAddress::new(1, 1);
        let counted = (0..1_000).filter(|&number| connections.enter(address(number)).unwrap().is_some()).count();
        assert!((1..=PROBES * WAYS).contains(&counted), "{counted}");
    }

    #[test]
    fn the_limit_holds_for_threads_together() {
        const THREADS: usize = 4;
        let connections = ConnectionsByAddress::new(64, 1_000);
        // Each that is let in is counted: a thread that loses the race for the entry finds it in its next attempt.
        let enter = || connections.enter(address(7)).map(|entry| assert!(entry.is_some()));
        let count = || (0..1_000).filter(|_| enter().is_ok()).count();
        let total: usize = thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(count)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(total, 1_000);
    }
}
