//! TLS handshakes under way: so many at once, a few steps of them a turn, so that a fleet that comes back all at once
//! holds up nobody's frames.

use std::collections::VecDeque;

use crate::limits::{HANDSHAKE_STEPS, HANDSHAKES_MAX, HANDSHAKES_WAITING_MAX};
use crate::peer::{Peer, Receiving};
use crate::shard::Shard;

#[derive(Debug, Default)]
pub(crate) struct Handshakes {
    /// How many are under way.
    count: usize,
    /// Slots that are not read until one ends.
    pub(crate) queue: VecDeque<usize>,
    /// Slots with bytes for their handshake, each once.
    pub(crate) to_serve: VecDeque<usize>,
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
        let mut steps = 0;
        while steps < HANDSHAKE_STEPS || self.handshakes.to_serve.len() > HANDSHAKES_WAITING_MAX {
            let Some(slot) = self.handshakes.to_serve.pop_front() else { return };
            self.serve(slot);
            steps += 1;
        }
    }

    /// Gives the place of a handshake that has ended, well or not, to who waits longest.
    pub(crate) fn leave_handshake(&mut self, slot: usize) {
        let Some(tls) = self.peers.get_mut(slot).and_then(|peer| peer.tls.as_mut()) else { return };
        if std::mem::take(&mut tls.has_place) {
            self.handshakes.count -= 1;
            if let Some(next) = self.handshakes.queue.pop_front() {
                self.begin(next);
            }
        }
    }

    /// Takes a connection out of the line for a place.
    pub(crate) fn leave_queue(&mut self, slot: usize) {
        self.handshakes.queue.retain(|&queued| queued != slot);
    }
}

impl Peer {
    /// Whether its handshake is under way.
    pub(crate) fn has_place(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.has_place)
    }
}
