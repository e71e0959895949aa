//! A connection with its socket, and the table of all of them.

use std::time::Duration;

use corelane_metrics::CloseReason;

use crate::address_table::Entry;
use crate::admission::Admitted;
use crate::clock::Instant;
use crate::connection::Connection;
use crate::inbox::Inbox;
use crate::output::Output;
use crate::rate::Allowance;
use crate::tls::Tls;

pub(crate) struct Peer<S> {
    pub(crate) socket: S,
    /// What its bytes go through first, where connections are encrypted.
    pub(crate) tls: Option<Box<Tls>>,
    pub(crate) connection: Connection,
    pub(crate) inbox: Inbox,
    pub(crate) receiving: Receiving,
    pub(crate) output: Option<Output>,
    /// Invariant: an operation that ends in `Completion::Writable` is under way.
    pub(crate) waits_writable: bool,
    pub(crate) phase: Phase,
    /// Invariant: the slot stands in the run queue.
    pub(crate) runnable: bool,
    pub(crate) received_bytes: u64,
    /// How many that were when it was last armed, when its turn to receive began, and at the last tick.
    pub(crate) armed_at: u64,
    pub(crate) turn_from: u64,
    pub(crate) tick_from: u64,
    pub(crate) last_byte_at: Instant,
    /// When the first byte of the partial frame or record came; of a handshake, when it could begin.
    pub(crate) started_at: Instant,
    /// Whether its receive window is known to take the largest frame.
    pub(crate) has_large_window: bool,
    /// Whether it was read while the pool was short, ahead of others, and sent too little.
    pub(crate) wasted_place: bool,
    /// While parked: when it was last looked whether the stream has ended.
    pub(crate) end_checked_at: Instant,
    pub(crate) accepted_at: Instant,
    /// What it may receive, where there is a rate limit.
    pub(crate) allowance: Allowance,
    pub(crate) address_entry: Option<Entry>,
    /// While draining: bytes of the stream that had arrived when it began.
    pub(crate) drain_bytes: Option<u64>,
}

/// What the kernel does about this peer's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Receiving {
    /// Receives into the kernel's share of the pool.
    Armed,
    /// Nothing, until what was received is served: the receive has ended, the stream has not.
    Paused { since: Instant },
    /// Nothing, until a buffer comes home: the slot stands in the wait queue.
    Waiting { since: Instant },
    /// Nothing, until the handshake of another is over: the slot stands in the handshake queue.
    Queued { since: Instant },
    /// Nothing, until the rate limit allows more: the sweep looks.
    Throttled { since: Instant },
    /// Nothing, while the pool is short and the rest of a partial frame, or record, is not in the kernel, see `supply`.
    Parked { since: Instant },
    /// Nothing more: 0 for the peer's FIN, else the error.
    Ended { errno: i32 },
}

/// Where a connection is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Open,
    /// Decided to close; the last answers are not all in the socket yet.
    Answering {
        until: Instant,
    },
    /// Our FIN is out; what comes is thrown away.
    Lingering {
        until: Instant,
        discarded: u64,
    },
    /// Nothing is left but to see the last operations end.
    Closed,
}

impl<S> Peer<S> {
    pub(crate) fn new(admitted: Admitted<S>, allowance: Allowance, now: Instant) -> Self {
        let Admitted { socket, address_entry } = admitted;
        Self {
            socket,
            tls: None,
            connection: Connection::default(),
            inbox: Inbox::default(),
            receiving: Receiving::Armed,
            output: None,
            waits_writable: false,
            phase: Phase::Open,
            runnable: false,
            received_bytes: 0,
            armed_at: 0,
            turn_from: 0,
            tick_from: 0,
            last_byte_at: now,
            started_at: now,
            has_large_window: false,
            wasted_place: false,
            end_checked_at: Instant::default(),
            accepted_at: now,
            allowance,
            address_entry,
            drain_bytes: None,
        }
    }

    /// Whether the kernel still works on something of this peer.
    pub(crate) fn is_in_flight(&self) -> bool {
        self.waits_writable || self.receiving == Receiving::Armed
    }

    /// The clocks stand still while it is us who do not read. A pause that is forgiven twice does not put them ahead.
    pub(crate) fn forgive(&mut self, pause: Duration, now: Instant) {
        self.last_byte_at = (self.last_byte_at + pause).min(now);
        self.started_at = (self.started_at + pause).min(now);
    }

    /// Why the connection ended, when its bytes did.
    pub(crate) fn end_reason(&self, errno: i32) -> CloseReason {
        match errno {
            0 if self.partial_number().is_some() => CloseReason::Truncated,
            0 => CloseReason::PeerClosed,
            libc::ECONNRESET | libc::EPIPE => CloseReason::PeerReset,
            libc::ETIMEDOUT | libc::EHOSTUNREACH | libc::ENETUNREACH => CloseReason::HalfOpen,
            _ => CloseReason::Error,
        }
    }
}

/// All peers of a shard. A slot is reused only when nothing that names it is under way.
pub(crate) struct PeerTable<S> {
    slots: Vec<Option<Peer<S>>>,
    free: Vec<usize>,
    slots_max: usize,
}

impl<S> PeerTable<S> {
    /// A table for up to `slots_max` peers: memory is reserved here and never grows.
    pub(crate) fn new(slots_max: usize) -> Self {
        Self { slots: Vec::with_capacity(slots_max), free: Vec::with_capacity(slots_max), slots_max }
    }

    /// What [`new`](Self::new) allocates.
    pub(crate) const fn bytes(slots_max: usize) -> usize {
        slots_max * (size_of::<Option<Peer<S>>>() + size_of::<usize>())
    }

    /// The peer's slot; the peer itself when all are taken.
    #[allow(clippy::result_large_err, reason = "it comes back only to be refused")]
    pub(crate) fn insert(&mut self, peer: Peer<S>) -> Result<usize, Peer<S>> {
        if let Some(slot) = self.free.pop() {
            self.slots[slot] = Some(peer);
            return Ok(slot);
        }
        if self.slots.len() == self.slots_max {
            return Err(peer);
        }
        self.slots.push(Some(peer));
        Ok(self.slots.len() - 1)
    }

    pub(crate) fn remove(&mut self, slot: usize) {
        self.slots[slot] = None;
        self.free.push(slot);
    }

    pub(crate) fn get_mut(&mut self, slot: usize) -> Option<&mut Peer<S>> {
        self.slots.get_mut(slot)?.as_mut()
    }

    /// Peers, closing ones included.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Every slot that was ever used is below this.
    pub(crate) fn slots_used(&self) -> usize {
        self.slots.len()
    }
}
