//! TLS handshakes under way: a bounded number of them, a few steps a turn, so that a fleet that comes back all at once delays
//! nobody's frames, and one address does not keep others out.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use corelane_metrics::CloseReason;

use crate::address_table::counted_address;
use crate::kernel::{Kernel, Socket};
use crate::limits::{
    EVICT_AFTER, HANDSHAKE_STEPS, HANDSHAKES_EVICTED, HANDSHAKES_MAX, HANDSHAKES_PER_ADDRESS_MAX,
    HANDSHAKES_WAITING_MAX,
};
use crate::peer::{Peer, Receiving};
use crate::shard::Shard;

#[derive(Debug)]
pub(crate) struct Handshakes {
    /// Handshakes under way, and connections in `few`, by address. Invariant: none is 0.
    of_address: HashMap<IpAddr, usize>,
    /// Handshakes under way, [`HANDSHAKES_MAX`] at most.
    count: usize,
    /// Connections that are not read until a handshake ends, of addresses that had fewer than
    /// [`HANDSHAKES_PER_ADDRESS_MAX`] in this queue and under way together when they came. They are first.
    few: VecDeque<(IpAddr, usize)>,
    /// The others.
    many: VecDeque<(IpAddr, usize)>,
    /// Slots with bytes for their handshake, each once.
    pub(crate) to_serve: VecDeque<usize>,
}

impl Handshakes {
    /// For up to `slots_max` connections; 0 without TLS.
    pub(crate) fn new(slots_max: usize) -> Self {
        Self {
            of_address: HashMap::with_capacity(slots_max),
            count: 0,
            few: VecDeque::with_capacity(slots_max),
            many: VecDeque::with_capacity(slots_max),
            to_serve: VecDeque::with_capacity(slots_max.min(HANDSHAKES_MAX)),
        }
    }

    /// About what [`new`](Self::new) allocates.
    pub(crate) const fn bytes(slots_max: usize) -> usize {
        // A hash table has up to twice as many places, and a byte besides each.
        slots_max * (4 * size_of::<(IpAddr, usize)>() + 2) + HANDSHAKES_MAX * size_of::<usize>()
    }

    fn has_too_many(&self, address: IpAddr) -> bool {
        self.of_address.get(&address).is_some_and(|&count| count >= HANDSHAKES_PER_ADDRESS_MAX)
    }

    fn count_address(&mut self, address: IpAddr) {
        *self.of_address.entry(address).or_default() += 1;
    }

    fn forget_address(&mut self, address: IpAddr) {
        if let Some(count) = self.of_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.of_address.remove(&address);
            }
        }
    }

    fn take_place(&mut self, address: IpAddr) {
        self.count += 1;
        self.count_address(address);
    }

    fn leave_place(&mut self, address: IpAddr) {
        self.count -= 1;
        self.forget_address(address);
    }

    fn enqueue(&mut self, address: IpAddr, slot: usize) {
        if self.has_too_many(address) {
            return self.many.push_back((address, slot));
        }
        self.count_address(address);
        self.few.push_back((address, slot));
    }

    /// The connection whose handshake is next.
    fn dequeue(&mut self) -> Option<(IpAddr, usize)> {
        let Some((address, slot)) = self.few.pop_front() else { return self.many.pop_front() };
        self.forget_address(address);
        Some((address, slot))
    }

    fn leave_queue(&mut self, slot: usize) {
        if let Some(at) = self.few.iter().position(|&(_, queued)| queued == slot)
            && let Some((address, _)) = self.few.remove(at)
        {
            return self.forget_address(address);
        }
        self.many.retain(|&(_, queued)| queued != slot);
    }

    fn queued(&self) -> usize {
        self.few.len() + self.many.len()
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
                return self.handshakes.enqueue(address, slot);
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
            self.handshakes.leave_queue(slot);
        } else if let Some(address) = peer.tls.as_mut().and_then(|tls| tls.place.take()) {
            self.handshakes.leave_place(address);
            if let Some((address, next)) = self.handshakes.dequeue() {
                self.begin_handshake(next, address);
            }
        }
    }

    /// While others wait, ends handshakes that take too long, the oldest first. A client that trickles bytes is as slow as a
    /// silent one: what counts is the time since it could begin.
    pub(crate) fn make_room_for_handshakes(&mut self) {
        let (Some(tls_limits), wanted) = (self.config.limits.tls, self.handshakes.queued().min(HANDSHAKES_EVICTED))
        else {
            return;
        };
        if wanted == 0 {
            return;
        }
        let (now, peers, handshakes) = (self.now, &mut self.peers, &self.handshakes);
        let is_few_waiting = !handshakes.few.is_empty();
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
    use std::net::Ipv4Addr;

    use super::*;

    fn address(number: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, number))
    }

    #[test]
    fn an_address_with_many_connections_waits_behind_all_others() {
        let mut handshakes = Handshakes::new(2_000);
        (0..HANDSHAKES_MAX).for_each(|_| handshakes.take_place(address(1)));
        (0..1_000).for_each(|slot| handshakes.enqueue(address(1), slot));
        assert!(handshakes.few.is_empty());
        handshakes.enqueue(address(2), 1_000);
        handshakes.leave_place(address(1));
        assert_eq!(handshakes.dequeue(), Some((address(2), 1_000)));
        assert_eq!(handshakes.dequeue(), Some((address(1), 0)));
    }

    #[test]
    fn connections_that_wait_count_for_their_address_until_they_leave() {
        let mut handshakes = Handshakes::new(2_000);
        (0..1_000).for_each(|slot| handshakes.enqueue(address(1), slot));
        assert_eq!((handshakes.few.len(), handshakes.queued()), (HANDSHAKES_PER_ADDRESS_MAX, 1_000));
        (0..1_000).for_each(|slot| handshakes.leave_queue(slot));
        assert!(handshakes.queued() == 0 && handshakes.of_address.is_empty());
        handshakes.enqueue(address(1), 7);
        handshakes.dequeue();
        assert!(handshakes.of_address.is_empty());
    }
}
