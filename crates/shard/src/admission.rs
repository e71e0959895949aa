//! Who may connect, and which shard takes them: decided from the socket alone, before it has a slot or a buffer.

use std::net::IpAddr;

use corelane_metrics::{CloseReason, SecurityDetail, SecurityKind, cell};
use ipnet::IpNet;

use crate::address_table::Entry;
use crate::kernel::{Kernel, Socket};
use crate::peer::Peer;
use crate::rate::Allowance;
use crate::shard::Shard;

/// Address ranges that may connect.
#[derive(Clone, Debug, Default)]
pub struct AccessRules {
    /// Anybody when empty.
    pub allow: Vec<IpNet>,
}

impl AccessRules {
    /// An IPv4 address that comes over IPv6 counts as what it is.
    pub fn allows(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.allow.is_empty() || self.allow.iter().any(|range| range.contains(&address))
    }

    fn is_any(&self) -> bool {
        self.allow.is_empty()
    }
}

/// A connection that counts in the tables of all shards, until it is closed. Of the size and alignment of one word, so that
/// one store hands it over.
#[derive(Debug)]
#[repr(align(8))]
pub(crate) struct Admitted<S> {
    pub(crate) socket: S,
    pub(crate) address_entry: Option<Entry>,
}

impl<K: Kernel> Shard<K> {
    /// Takes a fresh connection in, passes it to a shard with fewer, or refuses it, which costs it nothing but its
    /// descriptor.
    pub(crate) fn admit(&mut self, socket: K::Socket) {
        match self.check(&socket) {
            Ok(address_entry) => {
                let admitted = Admitted { socket, address_entry };
                if let Some(admitted) = self.config.shards.place(self.config.index, admitted) {
                    self.take_in(admitted);
                }
            }
            Err(kind) => {
                self.core.pipeline.metrics.add(cell::CONNECTIONS_ACCEPTED, 1);
                self.refuse(&socket, kind);
            }
        }
    }

    /// Gives a connection that counts as this shard's a slot, and begins to receive.
    pub(crate) fn take_in(&mut self, admitted: Admitted<K::Socket>) {
        self.core.pipeline.metrics.add(cell::CONNECTIONS_ACCEPTED, 1);
        let allowance = Allowance::new(self.config.limits.rate_per_connection, self.now);
        let mut peer = Peer::new(admitted, allowance, self.now);
        peer.tls = self.core.tls.is_some().then(Box::default);
        match self.peers.insert(peer) {
            Ok(slot) => {
                self.connections += 1;
                self.count_connections();
                self.begin(slot);
            }
            Err(peer) => {
                self.config.shards.leave(self.config.index, peer.address_entry);
                self.refuse(&peer.socket, SecurityKind::MaxConnections);
            }
        }
    }

    /// Connections that other shards have passed on.
    pub(crate) fn take_in_handed(&mut self) {
        while let Some(admitted) = self.config.shards.next_handed(self.config.index) {
            self.take_in(admitted);
        }
    }

    fn check(&self, socket: &K::Socket) -> Result<Option<Entry>, SecurityKind> {
        let shards = &self.config.shards;
        if shards.connections() >= self.config.limits.connections_max {
            return Err(SecurityKind::MaxConnections);
        }
        if self.rules.is_any() && !shards.counts_addresses() {
            return Ok(None);
        }
        let address = socket.peer_address().ip().to_canonical();
        if !self.rules.allows(address) {
            return Err(SecurityKind::NotAllowed);
        }
        shards.enter(address, self.now)
    }

    fn refuse(&mut self, socket: &K::Socket, kind: SecurityKind) {
        self.core.pipeline.metrics.add(cell::connections_closed(CloseReason::Refused), 1);
        self.note_security(kind, SecurityDetail::None, || socket.peer_address());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(ranges: &[&str]) -> AccessRules {
        AccessRules { allow: ranges.iter().map(|range| range.parse().unwrap()).collect() }
    }

    #[test]
    fn only_allowed_ranges_may_connect() {
        let allowed = |rules: &AccessRules, address: &str| rules.allows(address.parse().unwrap());
        let site = rules(&["10.1.0.0/16", "2001:db8::/32", "192.0.2.7/32"]);
        for address in ["10.1.0.0", "10.1.255.255", "2001:db8:1::1", "192.0.2.7", "::ffff:10.1.2.3"] {
            assert!(allowed(&site, address), "{address}");
        }
        for address in ["10.2.0.0", "127.0.0.1", "2001:db9::1", "192.0.2.8", "::ffff:10.2.2.3", "::1"] {
            assert!(!allowed(&site, address), "{address}");
        }
        assert!(allowed(&rules(&[]), "198.51.100.1"));
        assert!(allowed(&rules(&["0.0.0.0/0"]), "198.51.100.1"));
        assert!(!allowed(&rules(&["0.0.0.0/0"]), "2001:db8::1"));
    }
}
