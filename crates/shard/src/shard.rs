//! One turn of the loop: what the kernel has finished, the frames in it, and the buffers' way home.
//!
//! `Shard` owns everything of its core. A turn never waits but in the receive ring, and never does more for one
//! connection than its budget before the others had theirs.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use corelane_metrics::{CloseReason, Histogram, ShardState, cell};
use corelane_pool::BufferPool;

use crate::admission::AccessRules;
use crate::clock::Instant;
use crate::coalescing::TurnLoad;
use crate::connection::{Core, Outcome, SCRATCH_BYTES};
use crate::drain::Drain;
use crate::handshakes::Handshakes;
use crate::inbox::{InboxTable, Received};
use crate::kernel::{Completion, Kernel};
use crate::limits::{ACCEPT_RETRY, CLOSING_MAX, FLUSH_EVERY, TICK, TURN_WAIT, UNREAD_ANSWER_BYTES_MAX};
use crate::peer::{PeerTable, Phase, Receiving};
use crate::pipeline::Pipeline;
use crate::run::ShardConfig;
use crate::security::SecurityLog;
use crate::supply::Supply;
use crate::sweep::is_too_old;

/// The data plane of one core, on any [`Kernel`].
pub struct Shard<K: Kernel> {
    pub(crate) config: ShardConfig<K::Socket>,
    pub(crate) core: Core,
    pub(crate) kernel: K,
    pub(crate) peers: PeerTable<K::Socket>,
    pub(crate) inboxes: InboxTable,
    /// Slots with a filled inbox, each once, served in turn.
    pub(crate) run_queue: VecDeque<usize>,
    pub(crate) supply: Supply,
    pub(crate) handshakes: Handshakes,
    pub(crate) accepting: Accepting<K::Listener>,
    /// Open connections, lingering ones not counted.
    pub(crate) connections: usize,
    pub(crate) drain: Option<Drain>,
    /// Read once a turn.
    pub(crate) now: Instant,
    /// Of the turn at hand, until the next begins.
    pub(crate) load: TurnLoad,
    pub(crate) flush_at: Instant,
    pub(crate) tick_at: Instant,
    /// Most buffers in use at once since the last tick.
    pub(crate) pool_peak: usize,
    pub(crate) backlog_next: usize,
    pub(crate) silent_next: usize,
    pub(crate) rules: AccessRules,
    pub(crate) security_log: SecurityLog,
}

pub(crate) enum Accepting<L> {
    Armed(L),
    /// The host had no descriptor or memory left; `errno` says which.
    Paused {
        listener: L,
        until: Instant,
    },
    /// Draining: the armed accept is being cancelled.
    Ending(L),
    Ended,
}

impl<K: Kernel> Shard<K> {
    /// Everything the shard will ever use, made on its own thread. It accepts connections of `listener` from now on.
    ///
    /// # Errors
    /// When the kernel refuses memory or an operation.
    pub fn new(config: ShardConfig<K::Socket>, mut kernel: K, listener: K::Listener) -> io::Result<Self> {
        let limits = &config.limits;
        let pool = BufferPool::new(limits.pool_buffers)?;
        kernel.accept(&listener);
        let now = kernel.now();
        let mut pipeline = Pipeline::new(limits.series_max);
        pipeline.metrics.set_state(ShardState::Accepting);
        let mut shard = Self {
            core: Core {
                pipeline,
                pool,
                scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
                answers: Vec::with_capacity(UNREAD_ANSWER_BYTES_MAX),
                sealed: Vec::with_capacity(if config.tls.is_some() { UNREAD_ANSWER_BYTES_MAX } else { 0 }),
                tls: config.tls.clone(),
            },
            kernel,
            peers: PeerTable::new(limits.connections_max + CLOSING_MAX),
            inboxes: InboxTable::new(limits.pool_buffers),
            run_queue: VecDeque::with_capacity(limits.connections_max + CLOSING_MAX),
            supply: Supply::new(limits, limits.connections_max + CLOSING_MAX),
            handshakes: Handshakes::new(if config.tls.is_some() { limits.connections_max + CLOSING_MAX } else { 0 }),
            accepting: Accepting::Armed(listener),
            connections: 0,
            drain: None,
            now,
            load: TurnLoad::default(),
            flush_at: now,
            tick_at: now + TICK,
            pool_peak: 0,
            backlog_next: 0,
            silent_next: 0,
            rules: config.rules.clone(),
            security_log: SecurityLog::default(),
            config,
        };
        shard.refill();
        // Armed before anybody is told that this shard accepts.
        shard.kernel.poll()?;
        shard.update_slow_gauges();
        shard.flush();
        Ok(shard)
    }

    /// Works off what the kernel has finished; `wait` for it first, or only look. Tells whether there was anything to do.
    ///
    /// # Errors
    /// What ends the shard.
    pub fn turn(&mut self, wait: bool) -> io::Result<bool> {
        if wait && !self.is_runnable() {
            // While the pool is short, few receive at a time: there is nothing to gather.
            let (completions, timeout) = if self.supply.is_short() { (1, TURN_WAIT) } else { self.load.wait() };
            self.kernel.wait(completions, timeout)?;
        } else {
            self.kernel.poll()?;
        }
        self.now = self.kernel.now();
        self.load = TurnLoad::default();
        let mut busy = false;
        self.take_in_handed();
        while let Some(completion) = self.kernel.next() {
            self.complete(completion);
            busy = true;
        }
        self.mark_arrived_if_due();
        self.pool_peak = self.pool_peak.max(self.buffers_in_use());
        self.serve_runnable();
        self.serve_handshakes();
        self.refill();
        busy |= self.is_runnable();
        busy |= self.fill_series_page();
        if self.is_asked_to_stop() {
            self.advance_drain();
        }
        self.tick_if_due(self.now);
        if self.now >= self.flush_at {
            self.flush();
        }
        Ok(busy)
    }

    fn complete(&mut self, completion: Completion<K::Socket>) {
        match completion {
            Completion::Accepted { socket, more } => {
                self.admit(socket);
                if !more {
                    self.accept_ended(0);
                }
            }
            Completion::AcceptEnded { errno } => self.accept_ended(errno),
            Completion::Received { slot, buffer, bytes, more } => {
                let received = Received::new(buffer, bytes, self.now);
                self.received(slot, received);
                if !more {
                    self.wait_for_buffer(slot);
                }
            }
            Completion::ReceiveEnded { slot, errno: libc::ENOBUFS } => {
                // Else only the kernel's share was used up, which is refilled at the end of the turn.
                self.core.pipeline.metrics.add(cell::POOL_WAITS, u64::from(self.supply.is_short()));
                self.wait_for_buffer(slot);
            }
            Completion::ReceiveEnded { slot, errno: libc::ECANCELED } => self.wait_for_buffer(slot),
            Completion::ReceiveEnded { slot, errno } => self.receive_ended(slot, errno),
            Completion::Writable { slot } => self.writable(slot),
        }
    }

    fn accept_ended(&mut self, errno: i32) {
        self.accepting = match std::mem::replace(&mut self.accepting, Accepting::Ended) {
            Accepting::Armed(listener) if errno == 0 || errno == libc::ECONNABORTED => {
                self.kernel.accept(&listener);
                Accepting::Armed(listener)
            }
            Accepting::Armed(listener) => {
                // The queue of the listener keeps who waits. The tick arms accepting again.
                (self.config.on_accept_error)(io::Error::from_raw_os_error(errno));
                Accepting::Paused { listener, until: self.now + ACCEPT_RETRY }
            }
            Accepting::Ending(listener) => {
                self.accept_backlog(&listener);
                Accepting::Ended
            }
            other => other,
        };
    }

    pub(crate) fn received(&mut self, slot: usize, received: Received) {
        let bytes = received.unread().len() as u64;
        self.core.pipeline.metrics.add(cell::RECEIVED_BYTES, bytes);
        self.load.count(bytes);
        let now = self.now;
        let peer = self.peers.get_mut(slot).expect("a receive under way keeps its slot");
        peer.received_bytes += bytes;
        peer.allowance.spend(bytes);
        peer.last_byte_at = now;
        match peer.phase {
            Phase::Open => {
                self.inboxes.push_back(&mut peer.inbox, received);
                self.make_runnable(slot);
            }
            _ => self.discard(slot, bytes),
        }
    }

    /// Works off everything that was received, each connection in turn, so that one with few bytes is done long before one
    /// with many. The kernel's share of the pool bounds how much that is.
    fn serve_runnable(&mut self) {
        while let Some(slot) = self.run_queue.pop_front() {
            self.serve(slot);
        }
    }

    /// Whether handshakes have left something for the next turn.
    fn is_runnable(&self) -> bool {
        !self.handshakes.to_serve.is_empty() || !self.run_queue.is_empty()
    }

    /// Works off one receive of one connection, or the turn's budget of it.
    pub(crate) fn serve(&mut self, slot: usize) {
        let Some(peer) = self.peers.get_mut(slot) else { return };
        peer.runnable = false;
        let Some(received) = self.inboxes.pop_front(&mut peer.inbox) else { return };
        let (partial, received_at, decided) = (peer.partial_number(), received.at, peer.connection.decided_frames());
        // A bug that one peer's bytes bring out costs that peer its connection, not everybody theirs. What `core` holds is
        // whole after a panic: counters are integers, the decoder starts over with each frame.
        let outcome = catch_unwind(AssertUnwindSafe(|| peer.serve(received, &mut self.core)));
        if !peer.is_handshaking() && peer.partial_number() != partial {
            peer.started_at = self.now;
            peer.wasted_place = false;
            if let Receiving::Paused { since } = &mut peer.receiving {
                *since = self.now;
            }
        }
        let decided = peer.connection.decided_frames() - decided;
        if decided > 0 {
            let latency = self.kernel.now().nanoseconds() - received_at.nanoseconds();
            self.core.pipeline.metrics.observe(Histogram::INGEST_LATENCY, latency, decided);
        }
        match outcome {
            Ok(Outcome::Emptied(_)) => {}
            Ok(Outcome::Paused(received)) => self.inboxes.push_front(&mut peer.inbox, received),
            Ok(Outcome::Broken(broken)) => return self.close_broken(slot, broken),
            Err(_) => return self.close(slot, CloseReason::Panic),
        }
        if !peer.is_handshaking() {
            self.leave_handshake(slot);
        }
        self.send_answers(slot);
        self.after_service(slot);
    }

    /// What comes next for a connection whose bytes have just been served.
    fn after_service(&mut self, slot: usize) {
        let Some(peer) = self.peers.get_mut(slot) else { return };
        if peer.phase != Phase::Open {
            return;
        }
        if !peer.inbox.is_empty() {
            self.make_runnable(slot);
        } else if let Some(broken) = peer.tls.as_ref().and_then(|tls| tls.fault()) {
            self.close_broken(slot, broken);
        } else if let Some(errno) = peer.ended() {
            self.bytes_ended(slot, errno);
        } else if is_too_old(peer, slot, self.now, self.config.limits.connection_age_max) {
            self.close(slot, CloseReason::MaxAge);
        } else {
            if matches!(peer.receiving, Receiving::Paused { .. }) {
                self.line_up(slot);
            }
            self.stop_if_short(slot);
            self.close_if_drained(slot);
        }
    }

    pub(crate) fn receive_ended(&mut self, slot: usize, errno: i32) {
        let peer = self.peers.get_mut(slot).expect("a receive under way keeps its slot");
        peer.receiving = Receiving::Ended { errno };
        match peer.phase {
            // What was received before the end is served first.
            Phase::Open if peer.inbox.is_empty() => self.bytes_ended(slot, errno),
            Phase::Open => {}
            Phase::Answering { .. } if errno == 0 => {}
            _ => self.finish(slot),
        }
    }

    /// All bytes of the peer are decided, and no more will come.
    pub(crate) fn bytes_ended(&mut self, slot: usize, errno: i32) {
        let Some(peer) = self.peers.get_mut(slot) else { return };
        // A peer that half-closed still gets the answers that it asked for; `writable` comes back here.
        if errno == 0 && peer.output.is_some() {
            return;
        }
        let reason = peer.end_reason(errno);
        self.close(slot, reason);
    }

    pub(crate) fn make_runnable(&mut self, slot: usize) {
        let Some(peer) = self.peers.get_mut(slot) else { return };
        if std::mem::replace(&mut peer.runnable, true) {
            return;
        }
        let queue = if peer.is_handshaking() { &mut self.handshakes.to_serve } else { &mut self.run_queue };
        queue.push_back(slot);
    }

    fn is_asked_to_stop(&self) -> bool {
        self.config.shards.link(self.config.index).is_draining()
    }

    /// Prepares for sleep; `false` when there is something to do instead.
    ///
    /// # Errors
    /// What ends the shard.
    pub fn falls_asleep(&mut self) -> io::Result<bool> {
        self.flush();
        // A stop is watched turn by turn, and so is a pool that is short.
        let is_quiet = !self.supply.is_anybody_waiting();
        Ok(is_quiet && self.drain.is_none() && !self.is_asked_to_stop() && self.kernel.sleep()?)
    }

    /// A tick of a sleeping loop: what it starts, and buffers that it frees, are the loop's to see to.
    pub fn tick_asleep(&mut self, now: Instant) {
        self.tick_if_due(now);
        if self.kernel.has_unsubmitted() || self.supply.is_anybody_waiting() {
            self.config.shards.link(self.config.index).wake();
        }
    }

    /// Ends the sleep that [`falls_asleep`](Self::falls_asleep) began.
    pub fn wakes_up(&mut self) {
        self.kernel.wake_up();
    }

    /// The last word of a shard that has drained.
    pub fn stopped(&mut self) {
        self.core.pipeline.metrics.set_state(ShardState::Stopped);
        self.update_slow_gauges();
        self.flush();
    }

    /// Fills a page of live series, if one was requested; tells whether it did.
    pub fn fill_series_page(&mut self) -> bool {
        self.config.series.fill_next(|page| self.core.pipeline.rollup.fill(page))
    }

    /// Its kernel.
    pub fn kernel(&self) -> &K {
        &self.kernel
    }

    /// Its kernel.
    pub fn kernel_mut(&mut self) -> &mut K {
        &mut self.kernel
    }

    /// Connections that have a slot, closing ones included.
    pub fn peers(&self) -> usize {
        self.peers.len()
    }

    /// Buffers that are neither free, nor lent, nor in an inbox, nor cut into slots. Between two turns there is none.
    pub fn missing_buffers(&self) -> usize {
        let pool = &self.core.pool;
        pool.capacity() - pool.free() - pool.cut() - self.kernel.lent() - self.inboxes.len()
    }

    /// Buffers with unread or kept bytes.
    pub(crate) fn buffers_in_use(&self) -> usize {
        self.core.pool.capacity() - self.core.pool.free() - self.kernel.lent()
    }

    /// Records what has changed. Before every answer and close, so that a scrape knows what the peer knows.
    pub(crate) fn flush(&mut self) {
        self.flush_at = self.now + FLUSH_EVERY;
        self.core.pipeline.metrics.set_gauge(cell::SERIES, self.core.pipeline.rollup.series() as f64);
        self.core.pipeline.metrics.set_total(cell::SERIES_EVICTED, self.core.pipeline.rollup.evicted());
        let recorder = &mut self.config.recorder;
        self.core.pipeline.metrics.flush(self.now.nanoseconds(), |words| recorder.record(words));
    }

    pub(crate) fn count_connections(&mut self) {
        self.core.pipeline.metrics.set_gauge(cell::CONNECTIONS, self.connections as f64);
    }
}
