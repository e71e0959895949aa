//! The shard's own timer: one sweep for every timeout, the gauges that are too slow for a turn, and a look at itself.

use std::time::Duration;

use corelane_metrics::{CloseReason, Histogram, cell};

use crate::kernel::{Instant, Kernel, Socket};
use crate::limits::{BACKLOG_SAMPLE, Limits, SILENT_CHECK_AFTER, SILENT_CHECKED, TICK};
use crate::peer::{Peer, Phase, Receiving};
use crate::shard::{Accepting, Shard};

/// What the clock says about a connection.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Stay,
    /// The rate limit may allow more by now.
    Receive,
    Close(CloseReason),
    /// It had its time to take the last answers, or to close after our FIN.
    Finish,
}

impl<K: Kernel> Shard<K> {
    /// Runs the tick when it is due. A busy loop calls this every turn, a quiet one from the executor's timer.
    pub(crate) fn tick_if_due(&mut self, now: Instant) {
        if now < self.tick_at {
            return;
        }
        self.now = now;
        self.core.pipeline.metrics.observe(Histogram::LOOP_STALL, now.since(self.tick_at).as_nanos() as u64, 1);
        // Whatever kept the tick from coming kept us from reading, too.
        let late = now.since(self.tick_at);
        if late >= TICK {
            for slot in 0..self.peers.slots_used() {
                if let Some(peer) = self.peers.get_mut(slot) {
                    peer.forgive(late, now);
                }
            }
        }
        self.tick_at = now + TICK;
        self.accept_again();
        let link = self.config.shards.link(self.config.index);
        if let Some(rules) = link.new_rules() {
            self.rules = rules;
        }
        if let Some(tls) = link.new_tls() {
            self.core.tls = Some(tls);
        }
        self.sweep();
        self.update_slow_gauges();
        self.flush();
    }

    fn accept_again(&mut self) {
        if let Accepting::Paused { until, .. } = self.accepting
            && self.now >= until
            && let Accepting::Paused { listener, .. } = std::mem::replace(&mut self.accepting, Accepting::Ended)
        {
            self.kernel.accept(&listener);
            self.accepting = Accepting::Armed(listener);
        }
    }

    fn sweep(&mut self) {
        for slot in 0..self.peers.slots_used() {
            let Some(peer) = self.peers.get_mut(slot) else { continue };
            peer.tick_from = peer.received_bytes;
            match judge(peer, slot, self.now, &self.config.limits) {
                Verdict::Stay => {}
                Verdict::Receive => self.arm(slot),
                Verdict::Close(reason) => {
                    if reason == CloseReason::UnreadAnswers {
                        self.give_up_output(slot);
                    }
                    self.close(slot, reason);
                }
                Verdict::Finish => self.finish(slot),
            }
        }
        self.relieve_pool();
        self.make_room_for_handshakes();
        self.look_at_silent();
    }

    /// Looks at sockets that have been silent for long although they are received from, a few in each tick: the kernel may
    /// have lost the wake-up of a multishot receive. Its end, ECANCELED, leads to a new one, which finds what is there.
    fn look_at_silent(&mut self) {
        let mut slots = [0; SILENT_CHECKED];
        let mut count = 0;
        for _ in 0..self.peers.slots_used() {
            if count == SILENT_CHECKED {
                break;
            }
            self.silent_next = (self.silent_next + 1) % self.peers.slots_used();
            let Some(peer) = self.peers.get_mut(self.silent_next) else { continue };
            if peer.receiving == Receiving::Armed && self.now.since(peer.last_byte_at) >= SILENT_CHECK_AFTER {
                slots[count] = self.silent_next;
                count += 1;
            }
        }
        for &slot in &slots[..count] {
            let Some(peer) = self.peers.get_mut(slot) else { continue };
            if peer.socket.is_readable() {
                self.kernel.cancel_receive(slot);
            }
        }
    }

    pub(crate) fn update_slow_gauges(&mut self) {
        let capacity = self.core.pool.capacity();
        let in_use = self.buffers_in_use();
        let peak = std::mem::replace(&mut self.pool_peak, in_use).max(in_use) as f64 / capacity as f64;
        let kept = self.core.pool.cut() as f64 / self.config.limits.kept_buffers_max() as f64;
        let backlog = self.sample_backlog();
        let allocations = (self.config.allocations)();
        let metrics = &mut self.core.pipeline.metrics;
        metrics.set_gauge(cell::POOL_FREE, (capacity - in_use) as f64);
        metrics.set_gauge(cell::POOL_IN_USE, in_use as f64);
        metrics.set_gauge(cell::POOL_UTILIZATION, peak.max(kept).min(1.0));
        metrics.set_gauge(cell::INGEST_BACKLOG_BYTES, backlog);
        metrics.set_total(cell::ALLOCATIONS, allocations.count);
        metrics.set_total(cell::ALLOCATED_BYTES, allocations.bytes);
        metrics.set_total(cell::CPU_NANOSECONDS, self.kernel.cpu_nanoseconds());
    }

    /// Unread bytes in the kernel: those of a few sockets, another few each time, scaled up to all.
    fn sample_backlog(&mut self) -> f64 {
        let (mut asked, mut unread) = (0u64, 0u64);
        for _ in 0..self.peers.slots_used().min(BACKLOG_SAMPLE) {
            self.backlog_next = (self.backlog_next + 1) % self.peers.slots_used();
            if let Some(peer) = self.peers.get_mut(self.backlog_next) {
                asked += 1;
                unread += peer.socket.unread_bytes();
            }
        }
        if asked == 0 { 0.0 } else { unread as f64 / asked as f64 * self.connections as f64 }
    }
}

fn judge<S: Socket>(peer: &Peer<S>, slot: usize, now: Instant, limits: &Limits) -> Verdict {
    let &Limits { frame_timeout, idle_timeout, .. } = limits;
    match peer.phase {
        Phase::Answering { until } | Phase::Lingering { until, .. } if now >= until => return Verdict::Finish,
        Phase::Open => {}
        _ => return Verdict::Stay,
    }
    if let Some(output) = &peer.output {
        // Owed answers stop every clock but their own.
        let late = now.since(output.since()) >= frame_timeout;
        return if late { Verdict::Close(CloseReason::UnreadAnswers) } else { Verdict::Stay };
    }
    if is_too_old(peer, slot, now, limits.connection_age_max) {
        return Verdict::Close(CloseReason::MaxAge);
    }
    if matches!(peer.receiving, Receiving::Throttled { .. }) {
        return Verdict::Receive;
    }
    let read = peer.receiving == Receiving::Armed && peer.inbox.is_empty();
    if !read {
        return Verdict::Stay;
    }
    if peer.is_handshaking() {
        let late = limits.tls.is_some_and(|tls| now.since(peer.started_at) >= tls.handshake_timeout);
        return if late { Verdict::Close(CloseReason::HandshakeTimeout) } else { Verdict::Stay };
    }
    if peer.partial_number().is_some() && now.since(peer.started_at) >= frame_timeout {
        return Verdict::Close(CloseReason::FrameTimeout);
    }
    if !idle_timeout.is_zero() && now.since(peer.last_byte_at) >= idle_timeout {
        return Verdict::Close(CloseReason::IdleTimeout);
    }
    Verdict::Stay
}

/// Whether the connection is old enough to be closed, and at a point where that loses nothing: between frames, and right
/// behind an answer. A peer that never asked for one would not know where to go on; it is closed when it is silent.
pub(crate) fn is_too_old<S: Socket>(peer: &Peer<S>, slot: usize, now: Instant, age_max: Duration) -> bool {
    if age_max.is_zero() || peer.phase != Phase::Open {
        return false;
    }
    // Up to a tenth more, by slot.
    let spread = age_max / 10_240 * ((slot as u32).wrapping_mul(0x9e37_79b9) >> 22);
    now.since(peer.accepted_at) >= age_max + spread
        && peer.connection.is_at_commit_point()
        && peer.partial_number().is_none()
        && (peer.connection.asked() || is_silent(peer, now))
        && peer.inbox.is_empty()
        && peer.output.is_none()
}

/// Whether nothing has come for a while, and nothing is here that was not read.
fn is_silent<S: Socket>(peer: &Peer<S>, now: Instant) -> bool {
    let silent = peer.receiving == Receiving::Armed && now.since(peer.last_byte_at) >= TICK;
    silent && peer.socket.unread_bytes() == 0
}
