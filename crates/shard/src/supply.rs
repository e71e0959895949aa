//! Who receives into which memory.
//!
//! The pool has three users: the kernel, which is lent buffers to receive into; inboxes, between a receive and its service;
//! and what is kept, in slots that buffers are cut into: partial frames and records, and answers that were not taken. A
//! buffer is lent only while as many others are free to keep what may come in the lent ones, so keeping never fails.
//!
//! A multishot receive takes lent buffers for as long as there are bytes and buffers, so a connection that always has a backlog
//! would take all of them in every turn. Of those that wait, the ones that have received little lately are first
//! ([`LIGHT_BYTES`]); the others have turns of [`TURN_BYTES`].
//!
//! When what is kept takes more than its share ([`Limits::kept_buffers_max`]), the pool is *short*:
//! - Receives become short, one at a time for each connection, so a peer between two frames goes on, and one that begins a
//!   frame costs little.
//! - A peer inside a longer frame is parked ([`Receiving::Parked`]): it is read once the kernel has the rest of that frame, so
//!   that the frame is finished at once and its memory is free. Nothing is lost; the sender waits.
//! - A parked connection whose stream has ended inside its frame is ended, and what is unread of it thrown away.
//! - At each tick, the frames that arrive too slowly are evicted, those with the least progress for their age first.
//! - If nothing can be lent at all for [`EVICT_DRY_AFTER`], the connections that have held the most for the longest time are
//!   evicted.

use std::collections::VecDeque;

use corelane_metrics::cell;
use corelane_pool::BUFFER_BYTES;
use rustix::io::Errno;

use crate::inbox::Received;
use crate::kernel::{Instant, Kernel, RECEIVED_AT, Socket};
use crate::limits::{
    END_CHECK_EVERY, EVICT_DRY_AFTER, FINISHING_GRACE, FINISHING_MAX, FINISHING_MIN, FRAME_RATE_MIN, LIGHT_BYTES,
    Limits, PARKED_A_TURN, POOL_SHORT_AFTER, RECEIVE_BYTES, SHORT_RECEIVE_BYTES_MAX, SHORT_RECEIVE_BYTES_MIN,
    TICKS_A_SECOND, TURN_BYTES,
};
use crate::peer::{Peer, Phase, Receiving};
use crate::shard::Shard;

/// The wait for buffers, and whether the pool is short.
#[derive(Debug)]
pub(crate) struct Supply {
    /// Slots that receive nothing until the kernel has a buffer for them, of connections that have received little lately: first
    /// come first served, and before all others.
    light: VecDeque<usize>,
    /// The others that wait for a buffer. The one whose turn it is stands in front.
    heavy: VecDeque<usize>,
    /// Slots of connections that are read when their frame can be finished: looked at first, since that frees memory.
    parked: VecDeque<usize>,
    /// Connections, at most [`FINISHING_MAX`], that are read although their frame does not become whole by that.
    finishing: Vec<Finishing>,
    pub(crate) kept_max: usize,
    short_since: Option<Instant>,
    /// Since when connections wait and nothing can be lent.
    dry_since: Option<Instant>,
    /// What eviction chooses from: a rank and a slot each. Empty in between; here so that it is allocated once.
    pub(crate) candidates: Vec<(u64, usize)>,
}

/// The place of a connection among those that are read although their frame does not become whole by that. It is lost once
/// that frame has ended, or comes too slowly: others wait for the place.
#[derive(Clone, Copy, Debug)]
struct Finishing {
    slot: usize,
    /// Tells the connection from the next that has its slot.
    accepted_at: Instant,
    /// Boundaries in front of the frame.
    boundary: u64,
    since: Instant,
    /// Bytes of the connection that had been received before.
    received_bytes: u64,
}

impl Finishing {
    fn new<S>(slot: usize, peer: &Peer<S>, now: Instant) -> Self {
        let &Peer { accepted_at, received_bytes, .. } = peer;
        Self { slot, accepted_at, boundary: peer.connection.boundaries(), since: now, received_bytes }
    }

    fn is_of<S>(&self, peer: &Peer<S>) -> bool {
        peer.phase == Phase::Open
            && peer.accepted_at == self.accepted_at
            && peer.connection.boundaries() == self.boundary
    }

    /// Whether nothing of it can be read, and what could was too little for the time.
    fn is_too_slow<S: Socket>(&self, peer: &Peer<S>, now: Instant) -> bool {
        let held = now.since(self.since);
        let bytes = u128::from(peer.received_bytes - self.received_bytes);
        held >= FINISHING_GRACE
            && bytes * 1_000_000_000 < u128::from(FRAME_RATE_MIN) * held.as_nanos()
            && peer.socket.unread_bytes() == 0
    }
}

impl Supply {
    /// For up to `slots_max` connections. Memory is reserved here and does not grow.
    pub(crate) fn new(limits: &Limits, slots_max: usize) -> Self {
        Self {
            light: VecDeque::with_capacity(slots_max),
            heavy: VecDeque::with_capacity(slots_max),
            parked: VecDeque::with_capacity(slots_max),
            finishing: Vec::with_capacity(FINISHING_MAX),
            kept_max: limits.kept_buffers_max(),
            short_since: None,
            dry_since: None,
            candidates: Vec::with_capacity(slots_max),
        }
    }

    /// What [`new`](Self::new) allocates.
    pub(crate) const fn bytes(slots_max: usize) -> usize {
        slots_max * (3 * size_of::<usize>() + size_of::<(u64, usize)>())
    }

    /// Takes note of how many buffers are cut. The pool stops being short at three quarters of the share, so that it does not
    /// change its mind with every frame.
    pub(crate) fn note_kept(&mut self, kept: usize, now: Instant) {
        if kept > self.kept_max {
            self.short_since.get_or_insert(now);
        } else if kept <= self.kept_max * 3 / 4 {
            self.short_since = None;
        }
    }

    /// Whether a connection may be read although its frame does not become whole by that; `share` is how many may.
    fn may_finish(&mut self, place: Finishing, share: usize) -> bool {
        let is_known = self.finishing.iter().any(|other| (other.slot, other.boundary) == (place.slot, place.boundary));
        if !is_known && self.finishing.len() < share.min(FINISHING_MAX) {
            self.finishing.push(place);
            return true;
        }
        is_known
    }

    pub(crate) fn is_short(&self) -> bool {
        self.short_since.is_some()
    }

    pub(crate) fn is_short_for_long(&self, now: Instant) -> bool {
        self.short_since.is_some_and(|since| now.since(since) >= POOL_SHORT_AFTER)
    }

    /// Whether connections have been waiting for [`EVICT_DRY_AFTER`] and nothing can be received, neither now nor meanwhile.
    fn is_dry_for_long(&mut self, can_receive: bool, now: Instant) -> bool {
        if can_receive || !self.is_anybody_waiting() {
            self.dry_since = None;
            return false;
        }
        now.since(*self.dry_since.get_or_insert(now)) >= EVICT_DRY_AFTER
    }

    pub(crate) fn is_anybody_waiting(&self) -> bool {
        self.next_waiting().is_some() || !self.parked.is_empty()
    }

    /// The slot that is next to receive.
    fn next_waiting(&self) -> Option<usize> {
        self.light.front().or(self.heavy.front()).copied()
    }

    fn pop_waiting(&mut self) {
        if self.light.pop_front().is_none() {
            self.heavy.pop_front();
        }
    }

    /// Puts a connection in line that has received `tick_bytes` since the last tick and `turn_bytes` in its turn, `is_fed` if
    /// some of these since it was last in line.
    fn queue(&mut self, slot: usize, tick_bytes: u64, turn_bytes: u64, is_fed: bool) {
        if tick_bytes < LIGHT_BYTES {
            self.light.push_back(slot);
        } else if is_fed && turn_bytes < TURN_BYTES {
            self.heavy.push_front(slot);
        } else {
            self.heavy.push_back(slot);
        }
    }

    pub(crate) fn stop_waiting(&mut self, slot: usize) {
        self.light.retain(|&waiting| waiting != slot);
        self.heavy.retain(|&waiting| waiting != slot);
        self.parked.retain(|&waiting| waiting != slot);
    }
}

/// How long a receive may be while the pool is short: what `free` buffers give each of the connections, in steps of the
/// pool's slots. With few buffers, each size of slots in use would cost too many of them.
fn short_receive_bytes(free: usize, connections: usize) -> usize {
    match free * BUFFER_BYTES / connections.max(1) {
        _ if free < FEW_BUFFERS => SHORT_RECEIVE_BYTES_MIN,
        SHORT_RECEIVE_BYTES_MAX.. => SHORT_RECEIVE_BYTES_MAX,
        4096.. => 4096,
        _ => SHORT_RECEIVE_BYTES_MIN,
    }
}

/// See [`short_receive_bytes`].
const FEW_BUFFERS: usize = 16;

/// Buffers that it takes to receive the rest of a frame: one to receive into, one to keep what came if more is missing.
const REST_BUFFERS: usize = 2;

impl<K: Kernel> Shard<K> {
    /// Lends the kernel its share of free buffers, and lets as many connections receive as there are buffers for.
    pub(crate) fn refill(&mut self) {
        self.supply.note_kept(self.core.pool.cut(), self.now);
        let limits = &self.config.limits;
        let (share, bytes) = match self.supply.is_short() {
            false => (self.load.buffers_wanted(limits.lent_buffers()), RECEIVE_BYTES),
            true => (limits.lent_buffers_short(), self.short_receive_bytes()),
        };
        self.finish_frames();
        self.lend(share, bytes);
        let can_finish = self.supply.next_waiting().is_none() && self.has_spare_buffers(REST_BUFFERS);
        if self.supply.is_dry_for_long(self.kernel.lent() > 0 || self.inboxes.len() > 0 || can_finish, self.now) {
            self.evict_largest();
            self.lend(share, bytes);
        }
        let mut unclaimed = self.kernel.lent();
        while let Some(slot) = self.supply.next_waiting() {
            let may_only_finish = self.may_only_finish(slot);
            if !may_only_finish && unclaimed == 0 {
                break;
            }
            self.supply.pop_waiting();
            if may_only_finish {
                self.park(slot);
            } else {
                self.arm(slot);
                unclaimed -= 1;
            }
        }
    }

    /// Whether one more buffer may be lent: beyond it and the one to keep what comes in it, enough stay to finish frames.
    pub(crate) fn can_lend(&self) -> bool {
        let tls = if self.core.tls.is_some() { REST_BUFFERS } else { 0 };
        self.has_spare_buffers(2 + REST_BUFFERS + tls)
    }

    fn lend(&mut self, share: usize, bytes: usize) {
        while self.kernel.lent() < share
            && self.can_lend()
            && let Some(buffer) = self.core.pool.acquire()
        {
            self.kernel.lend(buffer, bytes);
        }
    }

    /// How long receives may be while the pool is short.
    fn short_receive_bytes(&self) -> usize {
        let reserve = 2 * self.config.limits.lent_buffers_short() + 1;
        short_receive_bytes(self.core.pool.free().saturating_sub(reserve), self.connections)
    }

    /// Buffers that have to stay free: one for each receive whose bytes may have to be kept. With TLS one receive may end in
    /// the start of a record behind the start of a frame.
    pub(crate) fn buffers_promised(&self) -> usize {
        self.kernel.lent() + self.inboxes.len() + usize::from(self.core.tls.is_some())
    }

    fn has_spare_buffers(&self, count: usize) -> bool {
        self.core.pool.free() >= self.buffers_promised() + count
    }

    /// Reads the rest of frames that the kernel has whole. Other parked connections, whose receive window is smaller than their
    /// frame or whose frame is behind a whole TLS record, are read a few at a time: what they have has to be kept.
    fn finish_frames(&mut self) {
        let (peers, now) = (&mut self.peers, self.now);
        self.supply.finishing.retain(|place| {
            let Some(peer) = peers.get_mut(place.slot).filter(|peer| place.is_of(peer)) else { return false };
            peer.wasted_place |= place.is_too_slow(peer, now);
            !peer.wasted_place
        });
        for _ in 0..self.supply.parked.len().min(PARKED_A_TURN) {
            let spare = self.core.pool.free().saturating_sub(self.buffers_promised());
            let can_receive = spare >= REST_BUFFERS || self.kernel.lent() > 0;
            let Some(slot) = self.supply.parked.pop_front() else { return };
            let Some(peer) = self.peers.get_mut(slot) else { continue };
            let (Phase::Open, Some(missing)) = (peer.phase, peer.missing_bytes()) else {
                self.wait_for_buffer(slot);
                continue;
            };
            let is_due = now.since(peer.end_checked_at) >= END_CHECK_EVERY;
            if is_due {
                peer.end_checked_at = now;
            }
            // In this order: behind the end nothing comes any more. This takes no memory, and gives back what is kept.
            if is_due && peer.socket.has_ended() && peer.socket.unread_bytes() < missing as u64 {
                self.end_parked(slot);
                continue;
            }
            let unread = peer.socket.unread_bytes();
            let is_whole = peer.connection.is_mid_frame() && unread >= missing as u64;
            let place = Finishing::new(slot, peer, now);
            // With little memory, one at a time: what it needs must not be taken by the next.
            let share = if spare < 2 * REST_BUFFERS { 1 } else { FINISHING_MIN.max(spare / 2) };
            let may_read = is_whole || !self.supply.is_short() || unread > 0 && self.supply.may_finish(place, share);
            if can_receive && may_read {
                if spare < REST_BUFFERS {
                    // There is no buffer but those lent.
                    return self.arm(slot);
                }
                // What TLS adds to its records is not in the missing bytes.
                let overhead = if peer.tls.is_some() { SHORT_RECEIVE_BYTES_MIN } else { 0 };
                self.receive_parked(slot, missing + overhead);
            } else {
                self.supply.parked.push_back(slot);
            }
        }
    }

    /// Puts a connection whose receive has ended, but not its bytes, in line for the next buffer. While the pool is short, what
    /// it has received is served first: that shows whether it is inside a frame. Otherwise it
    /// stands in line at once.
    pub(crate) fn wait_for_buffer(&mut self, slot: usize) {
        let now = self.now;
        let peer = self.peers.get_mut(slot).expect("a receive in flight keeps its slot");
        peer.receiving = Receiving::Paused { since: now };
        let waits_for_service = !peer.inbox.is_empty() && (self.supply.is_short() || peer.is_handshaking());
        if peer.phase == Phase::Closed {
            self.finish(slot);
        } else if !waits_for_service {
            self.line_up(slot);
        }
    }

    /// The second half of [`wait_for_buffer`](Self::wait_for_buffer).
    pub(crate) fn line_up(&mut self, slot: usize) {
        if self.may_only_finish(slot) {
            return self.park(slot);
        }
        let now = self.now;
        let Some(peer) = self.peers.get_mut(slot) else { return };
        resume_clocks(peer, now);
        peer.receiving = Receiving::Waiting { since: now };
        let turn_bytes = peer.received_bytes - peer.turn_from;
        let is_fed = peer.received_bytes > peer.armed_at;
        if turn_bytes >= TURN_BYTES {
            peer.turn_from = peer.received_bytes;
        }
        self.supply.queue(slot, peer.received_bytes - peer.tick_from, turn_bytes, is_fed);
    }

    /// Whether the pool is short and the connection inside a frame that one short receive does not finish, or cannot.
    fn may_only_finish(&mut self, slot: usize) -> bool {
        if !self.supply.is_short() {
            return false;
        }
        // With nothing to lend, a connection that waits for a lent buffer would keep what it holds for good.
        let bytes = if self.can_lend() { self.short_receive_bytes() } else { 0 };
        self.peers.get_mut(slot).is_some_and(|peer| {
            peer.phase == Phase::Open && peer.missing_bytes().is_some_and(|missing| missing > bytes)
        })
    }

    /// Begins to receive, as much as the connection may.
    pub(crate) fn arm(&mut self, slot: usize) {
        let (now, rate) = (self.now, self.config.limits.rate_per_connection);
        let short = self.supply.is_short().then(|| self.short_receive_bytes());
        let Some(peer) = self.peers.get_mut(slot) else { return };
        resume_clocks(peer, now);
        let mut bytes = short.unwrap_or(RECEIVE_BYTES);
        // A connection that is closing is read until its end.
        let is_limited = rate > 0 && self.drain.is_none() && peer.phase == Phase::Open;
        if is_limited {
            let allowed = peer.allowance.available(rate, now);
            // A tick's worth at a time: drop by drop, a slow connection would cost more than a fast one.
            if allowed < (rate / TICKS_A_SECOND).clamp(1, RECEIVE_BYTES as u64) {
                peer.receiving = Receiving::Throttled { since: now };
                return;
            }
            bytes = bytes.min(usize::try_from(allowed).unwrap_or(usize::MAX));
        }
        peer.receiving = Receiving::Armed;
        peer.armed_at = peer.received_bytes;
        if is_limited || short.is_some() {
            self.kernel.receive_once(&peer.socket, slot, bytes as u32);
        } else {
            self.kernel.receive(&peer.socket, slot);
        }
    }

    /// Stops reading a connection until its frame can be finished.
    fn park(&mut self, slot: usize) {
        let Some(peer) = self.peers.get_mut(slot) else { return };
        self.core.pipeline.metrics.add(cell::POOL_WAITS, 1);
        // Between two receives while it is parked, the pause goes on.
        let (Receiving::Waiting { since } | Receiving::Paused { since } | Receiving::Parked { since }) = peer.receiving
        else {
            return;
        };
        peer.receiving = Receiving::Parked { since };
        if !std::mem::replace(&mut peer.has_large_window, true) {
            peer.socket.make_room_for_frame();
        }
        self.supply.parked.push_back(slot);
    }

    /// Reads at most `bytes` of a parked connection without a detour through the ring.
    fn receive_parked(&mut self, slot: usize, bytes: usize) {
        let now = self.now;
        let Some(mut buffer) = self.core.pool.acquire() else { return self.supply.parked.push_front(slot) };
        let Some(peer) = self.peers.get_mut(slot) else { return };
        let target = &mut buffer[RECEIVED_AT..RECEIVED_AT + bytes.min(RECEIVE_BYTES)];
        match peer.socket.receive(target) {
            Ok(0) => self.receive_ended(slot, 0),
            Ok(bytes) => {
                if let Receiving::Parked { since } = peer.receiving {
                    peer.receiving = Receiving::Paused { since };
                }
                self.received(slot, Received::new(buffer, bytes, now));
            }
            Err(Errno::AGAIN | Errno::INTR | Errno::NOMEM | Errno::NOBUFS) => self.line_up(slot),
            Err(error) => self.receive_ended(slot, error.raw_os_error()),
        }
    }

    /// Ends a parked connection whose stream has ended before its frame could become whole. What is unread is thrown away: to
    /// keep it would take memory for nothing, and a crowd that ends at once could take all there is.
    fn end_parked(&mut self, slot: usize) {
        let Some(peer) = self.peers.get_mut(slot) else { return };
        let errno = loop {
            match peer.socket.receive(&mut self.core.scratch) {
                Ok(0) => break 0,
                Ok(bytes) => {
                    peer.received_bytes += bytes as u64;
                    self.core.pipeline.metrics.add(cell::RECEIVED_BYTES, bytes as u64);
                }
                Err(Errno::AGAIN | Errno::INTR | Errno::NOMEM | Errno::NOBUFS) => {
                    return self.supply.parked.push_back(slot);
                }
                Err(error) => break error.raw_os_error(),
            }
        };
        self.receive_ended(slot, errno);
    }

    /// While the pool is short: ends the receive of a connection that is inside a longer frame and has received at will since
    /// before. When the receive has ended, [`wait_for_buffer`](Self::wait_for_buffer) decides how the connection is read.
    pub(crate) fn stop_if_short(&mut self, slot: usize) {
        if !self.supply.is_short() {
            return;
        }
        let Some(peer) = self.peers.get_mut(slot) else { return };
        if peer.receiving == Receiving::Armed
            && peer.missing_bytes().is_some_and(|missing| missing > SHORT_RECEIVE_BYTES_MIN)
        {
            self.kernel.cancel_receive(slot);
        }
    }
}

/// Ends the pause of the clocks of a connection that was not read.
fn resume_clocks<S>(peer: &mut Peer<S>, now: Instant) {
    let (Receiving::Paused { since }
    | Receiving::Waiting { since }
    | Receiving::Queued { since }
    | Receiving::Throttled { since }
    | Receiving::Parked { since }) = peer.receiving
    else {
        return;
    };
    peer.forgive(now.since(since), now);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn supply(kept_max: usize) -> Supply {
        Supply {
            light: VecDeque::new(),
            heavy: VecDeque::new(),
            parked: VecDeque::new(),
            finishing: Vec::new(),
            kept_max,
            short_since: None,
            dry_since: None,
            candidates: Vec::new(),
        }
    }

    fn at(milliseconds: u64) -> Instant {
        Instant::default() + Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_pool_is_short_beyond_its_share_and_until_three_quarters_of_it() {
        let mut supply = supply(100);
        for (kept, now, is_short, is_short_for_long) in [
            (100, 0, false, false),
            (101, 10, true, false),
            (90, 500, true, false),
            (76, 1_009, true, false),
            (76, 1_010, true, true),
            (75, 1_020, false, false),
            (100, 1_030, false, false),
            (101, 1_040, true, false),
        ] {
            supply.note_kept(kept, at(now));
            assert_eq!(
                (supply.is_short(), supply.is_short_for_long(at(now))),
                (is_short, is_short_for_long),
                "{now} ms"
            );
        }
    }

    #[test]
    fn nothing_to_lend_counts_only_while_connections_wait() {
        let mut supply = supply(1);
        assert!(!supply.is_dry_for_long(false, at(0)) && !supply.is_dry_for_long(false, at(2_000)), "nobody waits");
        supply.light.push_back(7);
        assert!(!supply.is_dry_for_long(false, at(2_000)));
        assert!(!supply.is_dry_for_long(true, at(2_500)), "one is lent again");
        assert!(!supply.is_dry_for_long(false, at(3_000)));
        assert!(!supply.is_dry_for_long(false, at(3_999)));
        assert!(supply.is_dry_for_long(false, at(4_000)));
    }

    #[test]
    fn a_few_connections_at_a_time_are_read_although_their_frame_is_not_there() {
        let mut supply = supply(1);
        let place = |slot, boundary| Finishing { slot, accepted_at: at(0), boundary, since: at(0), received_bytes: 0 };
        let granted =
            |supply: &mut Supply, share| (0..100).filter(|&slot| supply.may_finish(place(slot, 5), share)).count();
        assert_eq!(granted(&mut supply, 1), 1);
        assert!(supply.may_finish(place(0, 5), 0), "until its frame is finished");
        assert!(!supply.may_finish(place(0, 6), 0));
        assert_eq!(granted(&mut supply, 10), 10);
        assert_eq!(granted(&mut supply, 1_000), FINISHING_MAX);
    }

    #[test]
    fn who_received_little_is_first_and_the_others_have_turns() {
        let mut supply = supply(1);
        let heavy = LIGHT_BYTES;
        supply.queue(1, heavy, 0, false);
        supply.queue(2, heavy, 0, false);
        supply.queue(3, heavy, TURN_BYTES - 1, true);
        supply.queue(4, 0, 0, false);
        supply.queue(5, heavy, TURN_BYTES, true);
        supply.queue(6, heavy - 1, TURN_BYTES, true);
        let order: Vec<_> = std::iter::from_fn(|| supply.next_waiting().inspect(|_| supply.pop_waiting())).collect();
        assert_eq!(order, [4, 6, 3, 1, 2, 5]);
    }

    #[test]
    fn short_receives_leave_something_for_every_connection() {
        for (free, connections, bytes) in
            [(400, 10, 16_384), (400, 10_000, 4_096), (400, 20_000, 1_024), (15, 1, 1_024), (16, 0, 16_384)]
        {
            assert_eq!(short_receive_bytes(free, connections), bytes, "{free} buffers, {connections} connections");
        }
    }
}
