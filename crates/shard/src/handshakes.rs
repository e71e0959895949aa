//! TLS handshakes under way: a bounded number of them, a few steps a turn, so that a fleet that comes back all at once delays
//! nobody's frames, and one address does not keep others out.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use corelane_metrics::CloseReason;

use crate::address_table::counted_address;
use crate::kernel::{Kernel, Socket};
use crate::limits::{
    EVICT_AFTER, HANDSHAKE_STEPS, HANDSHAKES_CHOSEN_FROM, HANDSHAKES_EVICTED, HANDSHAKES_MAX,
    HANDSHAKES_PER_ADDRESS_MAX, HANDSHAKES_WAITING_MAX,
};
use crate::peer::{Peer, Receiving};
use crate::shard::Shard;

#[derive(Debug)]
pub(crate) struct Handshakes {
    /// Handshakes under way by address. Invariant: their sum is at most [`HANDSHAKES_MAX`], and none is 0.
    places: HashMap<IpAddr, usize>,
    count: usize,
    /// Connections that are not read until a handshake ends.
    queue: VecDeque<(IpAddr, usize)>,
    /// Slots with bytes for their handshake, each once.
    pub(crate) to_serve: VecDeque<usize>,
}

impl Handshakes {
    /// For up to `slots_max` connections; 0 without TLS.
    pub(crate) fn new(slots_max: usize) -> Self {
        Self {
            places: HashMap::with_capacity(slots_max.min(HANDSHAKES_MAX)),
            count: 0,
            queue: VecDeque::with_capacity(slots_max),
            to_serve: VecDeque::with_capacity(slots_max.min(HANDSHAKES_MAX)),
        }
    }

    /// About what [`new`](Self::new) allocates.
    pub(crate) const fn bytes(slots_max: usize) -> usize {
        slots_max * size_of::<(IpAddr, usize)>()
            + HANDSHAKES_MAX * (size_of::<usize>() + 3 * size_of::<(IpAddr, usize)>())
    }

    fn has_too_many(&self, address: IpAddr) -> bool {
        self.places.get(&address).is_some_and(|&count| count >= HANDSHAKES_PER_ADDRESS_MAX)
    }

    fn take_place(&mut self, address: IpAddr) {
        self.count += 1;
        *self.places.entry(address).or_default() += 1;
    }

    fn leave_place(&mut self, address: IpAddr) {
        self.count -= 1;
        if let Some(count) = self.places.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.places.remove(&address);
            }
        }
    }

    /// The place in the queue of the connection that is next: the first one of an address that has few handshakes under way,
    /// or simply the first one.
    fn next(&self) -> Option<usize> {
        let few = self.queue.iter().take(HANDSHAKES_CHOSEN_FROM).position(|&(address, _)| !self.has_too_many(address));
        few.or((!self.queue.is_empty()).then_some(0))
    }

    /// Whether a connection waits whose address has few handshakes under way.
    fn is_few_waiting(&self) -> bool {
        self.next().is_some_and(|at| !self.has_too_many(self.queue[at].0))
    }
}

impl<K: Kernel> Shard<K> {
    /// Begins to receive from a fresh connection, once there is a place for its handshake.
    pub(crate) fn begin(&mut self, slot: usize) {
        let Some(peer) = self.peers.get_mut(slot) else { return };
        if peer.tls.is_some() {
            let address = counted_address(peer.socket.peer_address().ip(), self.config.limits.ipv6_prefix);
            if self.handshakes.count == HANDSHAKES_MAX {
                peer.receiving = Receiving::Queued { since: self.now };
                return self.handshakes.queue.push_back((address, slot));
            }
            return self.begin_handshake(slot, address);
        }
        self.arm(slot);
    }

    fn begin_handshake(&mut self, slot: usize, address: IpAddr) {
        let Some(tls) = self.peers.get_mut(slot).and_then(|peer| peer.tls.as_mut()) else { return };
        tls.place = Some(address);
        self.handshakes.take_place(address);
        self.arm(slot);
    }

    pub(crate) fn serve_handshakes(&mut self) {
        let waiting_max = HANDSHAKES_WAITING_MAX.min(self.config.limits.lent_buffers() / 2);
        let mut steps = 0;
        while steps < HANDSHAKE_STEPS || self.handshakes.to_serve.len() > waiting_max {
            let Some(slot) = self.handshakes.to_serve.pop_front() else { return };
            // A signature for a client that has left already would cost 1 ms; this look costs 0.3 us.
            let has_left = |peer: &mut Peer<K::Socket>| {
                let is_fresh = peer.tls.as_ref().is_some_and(|tls| !tls.has_answered);
                is_fresh && peer.socket.has_ended()
            };
            if self.peers.get_mut(slot).is_some_and(has_left) {
                self.close(slot, CloseReason::PeerClosed);
                continue;
            }
            self.serve(slot);
            steps += 1;
        }
    }

    /// Gives the place of a handshake that has ended, successfully or not, to the next connection in the queue; removes a
    /// connection from the queue that ends there.
    pub(crate) fn leave_handshake(&mut self, slot: usize) {
        let Some(peer) = self.peers.get_mut(slot) else { return };
        if matches!(peer.receiving, Receiving::Queued { .. }) {
            self.handshakes.queue.retain(|&(_, queued)| queued != slot);
        } else if let Some(address) = peer.tls.as_mut().and_then(|tls| tls.place.take()) {
            self.handshakes.leave_place(address);
            if let Some((address, next)) = self.handshakes.next().and_then(|at| self.handshakes.queue.remove(at)) {
                self.begin_handshake(next, address);
            }
        }
    }

    /// While others wait, ends handshakes that take too long, the oldest first. A client that trickles bytes is as slow as a
    /// silent one: what counts is the time since it could begin.
    pub(crate) fn make_room_for_handshakes(&mut self) {
        let (Some(tls_limits), wanted) = (self.config.limits.tls, self.handshakes.queue.len().min(HANDSHAKES_EVICTED))
        else {
            return;
        };
        if wanted == 0 {
            return;
        }
        let (now, peers, handshakes) = (self.now, &mut self.peers, &self.handshakes);
        let is_few_waiting = handshakes.is_few_waiting();
        let slow = (0..peers.slots_used()).filter_map(|slot| {
            let peer = peers.get_mut(slot)?;
            let tls = peer.tls.as_ref()?;
            let address = tls.place?;
            // A slow device may take its time for its part, unless its address keeps others out.
            let is_patient = tls.has_answered && !(is_few_waiting && handshakes.has_too_many(address));
            let patience = if is_patient { tls_limits.handshake_timeout / 2 } else { EVICT_AFTER };
            let is_read = peer.receiving == Receiving::Armed && peer.inbox.is_empty();
            (is_read && now.since(peer.started_at) >= patience).then_some((peer.started_at, slot))
        });
        let mut slow: Vec<_> = slow.collect();
        slow.sort_unstable();
        for (_, slot) in slow.into_iter().take(wanted) {
            self.close(slot, CloseReason::HandshakeTimeout);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_does_not_keep_others_out() {
        let address = |last: u8| IpAddr::from([10, 0, 0, last]);
        let mut handshakes = Handshakes::new(600);
        (0..HANDSHAKES_MAX).for_each(|_| handshakes.take_place(address(1)));
        handshakes.queue.extend([(address(1), 1), (address(1), 2)]);
        assert!(!handshakes.is_few_waiting());
        assert_eq!(handshakes.next(), Some(0), "nobody else waits");
        handshakes.queue.push_back((address(2), 3));
        assert!(handshakes.is_few_waiting());
        assert_eq!(handshakes.next(), Some(2));
        (0..HANDSHAKES_MAX).for_each(|_| handshakes.leave_place(address(1)));
        assert!(handshakes.places.is_empty() && handshakes.count == 0);
        assert_eq!(handshakes.next(), Some(0), "first come, first served");
    }
}
