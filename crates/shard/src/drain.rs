//! How all connections end at once: what has arrived is read, what was begun may be finished, answers go out, then FIN.

use corelane_metrics::{CloseReason, ShardState};

use crate::kernel::{Instant, Kernel, Socket};
use crate::limits::LINGER;
use crate::peer::{Phase, Receiving};
use crate::shard::{Accepting, Shard};

/// A stop under way.
#[derive(Debug)]
pub(crate) struct Drain {
    /// Frames that are not finished by then are given up.
    deadline: Instant,
    /// The accept queue is empty and every connection knows how many bytes had arrived.
    marked: bool,
}

impl<K: Kernel> Shard<K> {
    /// Called every turn while the shard is asked to stop.
    pub(crate) fn advance_drain(&mut self) {
        let now = self.now;
        let Some(drain) = &mut self.drain else { return self.begin_drain() };
        let deadline = drain.deadline;
        if now >= deadline {
            // Another shard that does not stop holds this one up no longer.
            drain.marked = true;
            for slot in 0..self.peers.slots_used() {
                self.close(slot, CloseReason::Shutdown);
            }
            if now >= deadline + LINGER {
                for slot in 0..self.peers.slots_used() {
                    self.finish(slot);
                }
            }
        }
    }

    /// Whether the stop is complete: nothing is accepted, nobody connected.
    pub fn is_drained(&self) -> bool {
        self.drain.as_ref().is_some_and(|drain| drain.marked) && self.peers.len() == 0
    }

    fn begin_drain(&mut self) {
        self.core.pipeline.metrics.set_state(ShardState::Draining);
        self.flush();
        self.drain = Some(Drain { deadline: self.now + self.config.limits.drain_timeout, marked: false });
        self.accepting = match std::mem::replace(&mut self.accepting, Accepting::Ended) {
            Accepting::Armed(listener) => {
                self.kernel.cancel_accept();
                Accepting::Ending(listener)
            }
            Accepting::Paused { listener, .. } => {
                self.accept_backlog(&listener);
                Accepting::Ended
            }
            other => other,
        };
    }

    /// Takes in who connected before the stop; dropping the listener afterwards turns away who comes later.
    pub(crate) fn accept_backlog(&mut self, listener: &K::Listener) {
        if self.config.shards.link(self.config.index).leaves_backlog() {
            return;
        }
        while let Some(socket) = self.kernel.accept_waiting(listener) {
            self.admit(socket);
        }
    }

    /// Once nobody is accepted any more, notes for each connection how many bytes of its stream have arrived: received ones
    /// and those in the kernel. Must run right after the turn's completions, before anything is started: a full submission
    /// queue is submitted on the way, and then bytes move into completions that nobody has seen.
    pub(crate) fn mark_arrived_if_due(&mut self) {
        let (shards, index) = (&self.config.shards, self.config.index);
        match &mut self.drain {
            Some(drain) if !drain.marked && matches!(self.accepting, Accepting::Ended) => {
                // Whoever another shard has accepted for this one is waited for.
                shards.end_hand_over(index);
                drain.marked = shards.is_hand_over_ended(index);
                if !drain.marked {
                    return;
                }
            }
            _ => return,
        }
        for slot in 0..self.peers.slots_used() {
            let Some(peer) = self.peers.get_mut(slot) else { continue };
            let unread = peer.socket.unread_bytes();
            peer.drain_bytes = Some(peer.received_bytes + unread);
        }
        for slot in 0..self.peers.slots_used() {
            self.close_if_drained(slot);
        }
    }

    /// Closes a connection of a stopping shard once every frame that was begun in the bytes that had arrived is decided.
    pub(crate) fn close_if_drained(&mut self, slot: usize) {
        let Some(peer) = self.peers.get_mut(slot) else { return };
        let Some(arrived) = peer.drain_bytes else { return };
        let done = peer.phase == Phase::Open && peer.inbox.is_empty() && peer.decided_bytes() >= arrived;
        // A peer that has closed by itself is counted as that.
        if done && !matches!(peer.receiving, Receiving::Ended { .. }) {
            self.close(slot, CloseReason::Shutdown);
        }
    }
}
