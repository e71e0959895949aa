//! What the shards of a process share: how many connections each has, the way to hand one over, and the counts by address.
//!
//! A connection counts for a shard from the moment it is given to it, also while it is on its way, so that a burst is
//! dealt out as evenly as single connections are.
#![allow(clippy::disallowed_types, reason = "one of the two tables that shards share, and their lanes")]

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use corelane_metrics::SecurityKind;

use crate::address_table::{AcceptsByAddress, ConnectionsByAddress, Entry, counted_address};
use crate::admission::{AccessRules, Admitted};
use crate::clock::Instant;
use crate::hand_over::HandOver;
use crate::limits::{HANDED_MAX, Limits};
use crate::link::ShardLink;
use crate::tls::TlsConfig;

/// All shards of a process, seen from each of them and from outside.
pub struct Shards<S = OwnedFd> {
    inner: Arc<Inner<S>>,
}

struct Inner<S> {
    members: Box<[Member<S>]>,
    connections: Option<ConnectionsByAddress>,
    accepts: Option<AcceptsByAddress>,
    ipv6_prefix: u8,
}

/// Alone on its cache lines (two: adjacent lines are fetched in pairs), so that counting disturbs no other shard.
#[repr(align(128))]
struct Member<S> {
    connections: AtomicUsize,
    /// Whether it may still hand connections over.
    hands_over: AtomicBool,
    handed: HandOver<Admitted<S>>,
    link: ShardLink,
}

impl<S> Clone for Shards<S> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<S> Shards<S> {
    /// So many shards, with these limits.
    ///
    /// # Errors
    /// When the host has no descriptor left.
    pub fn new(count: usize, limits: &Limits) -> io::Result<Self> {
        let member = || {
            Ok(Member {
                connections: AtomicUsize::new(0),
                hands_over: AtomicBool::new(true),
                handed: HandOver::new(HANDED_MAX),
                link: ShardLink::new()?,
            })
        };
        let members = (0..count).map(|_| member()).collect::<io::Result<_>>()?;
        let connections = (limits.connections_per_ip_max > 0)
            .then(|| ConnectionsByAddress::new(limits.connections_max, limits.connections_per_ip_max));
        let accepts = (limits.accepts_per_ip_max > 0)
            .then(|| AcceptsByAddress::new(limits.connections_max, limits.accepts_per_ip_max));
        Ok(Self { inner: Arc::new(Inner { members, connections, accepts, ipv6_prefix: limits.ipv6_prefix }) })
    }

    /// The hold on one of them.
    pub fn link(&self, shard: usize) -> &ShardLink {
        &self.inner.members[shard].link
    }

    /// From their next ticks on, they take new connections by these rules.
    pub fn set_rules(&self, rules: &AccessRules) {
        self.inner.members.iter().for_each(|member| member.link.set_rules(rules.clone()));
    }

    /// From their next ticks on, they begin handshakes with this.
    pub fn set_tls(&self, tls: &TlsConfig) {
        self.inner.members.iter().for_each(|member| member.link.set_tls(Arc::clone(tls)));
    }

    /// Asks all of them to stop.
    pub fn drain(&self) {
        self.inner.members.iter().for_each(|member| member.link.drain());
    }

    /// Asks all of them to stop, and to leave who waits to be accepted to another process that has the same listeners.
    pub fn drain_leaving_backlog(&self) {
        self.inner.members.iter().for_each(|member| member.link.drain_leaving_backlog());
    }

    /// Connections of all shards. Misses what is decided at this very moment, so a limit can be passed by as many
    /// connections as there are other shards.
    pub(crate) fn connections(&self) -> usize {
        self.inner.members.iter().map(|member| member.connections.load(Ordering::Relaxed)).sum()
    }

    pub(crate) fn counts_addresses(&self) -> bool {
        self.inner.connections.is_some() || self.inner.accepts.is_some()
    }

    /// Counts a new connection of an address, or tells which limit it would pass.
    pub(crate) fn enter(&self, address: IpAddr, now: Instant) -> Result<Option<Entry>, SecurityKind> {
        let address = counted_address(address, self.inner.ipv6_prefix);
        let second = now.nanoseconds() / 1_000_000_000;
        if let Some(accepts) = &self.inner.accepts {
            accepts.enter(address, second).map_err(|_| SecurityKind::AcceptRate)?;
        }
        let Some(connections) = &self.inner.connections else { return Ok(None) };
        connections.enter(address).map_err(|_| SecurityKind::MaxConnectionsPerIp)
    }

    /// Counts a connection for the shard that has fewest, and gives it back if that is the asker.
    pub(crate) fn place(&self, asker: usize, admitted: Admitted<S>) -> Option<Admitted<S>> {
        let load = |shard: &usize| self.inner.members[*shard].connections.load(Ordering::Relaxed);
        // Of equal ones the asker, who has it already.
        let shards = std::iter::once(asker).chain(0..self.inner.members.len());
        let least = shards.min_by_key(load).unwrap_or(asker);
        let hands_over = self.inner.members[asker].hands_over.load(Ordering::Relaxed);
        if least == asker || !hands_over || self.link(least).is_draining() {
            self.inner.members[asker].connections.fetch_add(1, Ordering::Relaxed);
            return Some(admitted);
        }
        let other = &self.inner.members[least];
        other.connections.fetch_add(1, Ordering::Relaxed);
        match other.handed.push(admitted) {
            Ok(()) => {
                other.link.wake();
                None
            }
            Err(admitted) => {
                other.connections.fetch_sub(1, Ordering::Relaxed);
                self.inner.members[asker].connections.fetch_add(1, Ordering::Relaxed);
                Some(admitted)
            }
        }
    }

    /// A connection that another shard has given to this one.
    pub(crate) fn next_handed(&self, shard: usize) -> Option<Admitted<S>> {
        self.inner.members[shard].handed.pop()
    }

    /// A connection of this shard has ended.
    pub(crate) fn leave(&self, shard: usize, entry: Option<Entry>) {
        self.inner.members[shard].connections.fetch_sub(1, Ordering::Relaxed);
        if let (Some(connections), Some(entry)) = (&self.inner.connections, entry) {
            connections.leave(entry);
        }
    }

    /// A shard that stops hands nothing over any more. Must be called, or no other shard ever stops.
    pub(crate) fn end_hand_over(&self, shard: usize) {
        self.inner.members[shard].hands_over.store(false, Ordering::Release);
    }

    /// Whether nobody can hand this shard a connection any more, and none is on its way.
    pub(crate) fn is_hand_over_ended(&self, shard: usize) -> bool {
        let ended = self.inner.members.iter().all(|member| !member.hands_over.load(Ordering::Acquire));
        ended && self.inner.members[shard].handed.is_empty()
    }
}
