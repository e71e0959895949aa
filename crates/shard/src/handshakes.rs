//! TLS handshakes under way: so many at once, a few steps of them a turn, so that a fleet that comes back all at once
//! holds up nobody's frames.

use std::collections::VecDeque;

use corelane_metrics::CloseReason;

use crate::limits::{EVICT_AFTER, HANDSHAKE_STEPS, HANDSHAKES_EVICTED, HANDSHAKES_MAX, HANDSHAKES_WAITING_MAX};
use crate::peer::Receiving;
use crate::shard::Shard;

#[derive(Debug)]
pub(crate) struct Handshakes {
    /// How many are under way.
    count: usize,
    /// Slots that are not read until one ends.
    queue: VecDeque<usize>,
    /// Slots with bytes for their handshake, each once.
    pub(crate) to_serve: VecDeque<usize>,
}

impl Handshakes {
    /// For so many slots; none where there is no TLS.
    pub(crate) fn new(slots_max: usize) -> Self {
        Self {
            count: 0,
            queue: VecDeque::with_capacity(slots_max),
            to_serve: VecDeque::with_capacity(slots_max.min(HANDSHAKES_MAX)),
        }
    }
}

impl Shard {
    /// Begins to receive from a fresh connection, once there is a place for its handshake.
    pub(crate) fn begin(&mut self, slot: usize) {
        let Some(peer) = self.peers.get_mut(slot) else { return };
        if let Some(tls) = &mut peer.tls {
            if self.handshakes.count == HANDSHAKES_MAX {
                peer.receiving = Receiving::Queued { since: self.now };
                return self.handshakes.queue.push_back(slot);
            }
            tls.has_place = true;
            self.handshakes.count += 1;
        }
        self.arm(slot);
    }

    pub(crate) fn serve_handshakes(&mut self) {
        let waiting_max = HANDSHAKES_WAITING_MAX.min(self.config.limits.lent_buffers() / 2);
        let mut steps = 0;
        while steps < HANDSHAKE_STEPS || self.handshakes.to_serve.len() > waiting_max {
            let Some(slot) = self.handshakes.to_serve.pop_front() else { return };
            self.serve(slot);
            steps += 1;
        }
    }

    /// Gives the place of a handshake that has ended, well or not, to who waits longest; takes out of the line who leaves it.
    pub(crate) fn leave_handshake(&mut self, slot: usize) {
        let Some(peer) = self.peers.get_mut(slot) else { return };
        if matches!(peer.receiving, Receiving::Queued { .. }) {
            self.handshakes.queue.retain(|&queued| queued != slot);
        } else if let Some(tls) = &mut peer.tls
            && std::mem::take(&mut tls.has_place)
        {
            self.handshakes.count -= 1;
            if let Some(next) = self.handshakes.queue.pop_front() {
                self.begin(next);
            }
        }
    }

    /// Ends as many silent handshakes as others wait for, the longest silent first.
    pub(crate) fn make_room_for_handshakes(&mut self) {
        let (Some(tls_limits), wanted) = (self.config.limits.tls, self.handshakes.queue.len().min(HANDSHAKES_EVICTED))
        else {
            return;
        };
        if wanted == 0 {
            return;
        }
        let (now, peers) = (self.now, &mut self.peers);
        let silent = (0..peers.slots_used()).filter_map(|slot| {
            let peer = peers.get_mut(slot)?;
            let tls = peer.tls.as_ref().filter(|tls| tls.has_place)?;
            // Slow devices may take their time to answer our part of it.
            let patience = if tls.has_answered { tls_limits.handshake_timeout / 2 } else { EVICT_AFTER };
            let is_silent = peer.receiving == Receiving::Armed && now.since(peer.last_byte_at) >= patience;
            is_silent.then_some((peer.last_byte_at, slot))
        });
        let mut silent: Vec<_> = silent.collect();
        silent.sort_unstable();
        for (_, slot) in silent.into_iter().take(wanted) {
            self.close(slot, CloseReason::HandshakeTimeout);
        }
    }
}
