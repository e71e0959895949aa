//! What one shard asks of its host: bytes, locked bytes, descriptors, threads.
//!
//! The other side of `Shard::new`, computed from the same limits and the sizes of the same types, so that it can be
//! told before anything is started.

use std::os::fd::OwnedFd;

use corelane_pool::{BUFFER_BYTES, BufferPool};
use corelane_rollup::Rollup;
use corelane_tls::{CLIENT_CHAIN_BYTES_MAX, HANDSHAKE_BYTES_MAX};
use corelane_wire::{Decoder, SKELETON_POINTS_MAX, SKELETONS, SkeletonTable};

use crate::address_table::AddressTable;
use crate::admission::Admitted;
use crate::buffer_ring::BufferRing;
use crate::connection::SCRATCH_BYTES;
use crate::hand_over::HandOver;
use crate::handshakes::Handshakes;
use crate::inbox::InboxTable;
use crate::limits::{
    CLOSING_MAX, COMPLETIONS, HANDED_MAX, HANDSHAKES_MAX, Limits, SUBMISSIONS, TlsLimits, UNREAD_ANSWER_BYTES_MAX,
};
use crate::peer::PeerTable;
use crate::run::{EXECUTOR_IO_MEMORY, EXECUTOR_RING_DEPTH};
use crate::supply::Supply;
use crate::tls::Tls;

/// Bytes of one shard, by what they are for. Each is made at start and never grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardMemory {
    /// One mapping; a page of it is touched when bytes are received into it.
    pub buffers: usize,
    /// Heap, written at start: what is known of each buffer, by the pool, the receive ring and the inboxes.
    pub buffer_tables: usize,
    /// Heap, touched as series come.
    pub series: usize,
    /// Heap, touched as skeletons are learned: the series of their points.
    pub shapes: usize,
    /// Heap, touched as sources come.
    pub skeletons: usize,
    /// Heap, touched as connections come: all connections there may be, since the kernel may deal all to one shard.
    pub peers: usize,
    /// Heap, touched as connections come: run queue and wait queue, and what eviction chooses from.
    pub queues: usize,
    /// Heap, touched by events with more points, or longer chunked text, than any before, and by the largest frames.
    pub decoder: usize,
    /// Heap, touched as answers are asked for.
    pub answers: usize,
    /// Heap, touched as connections come that speak TLS: handshakes under way, and keys of those that are open.
    pub tls: usize,
    /// Shared with the kernel and resident at start: the queues of the receive ring, and its ring of buffers.
    pub receive_ring: usize,
    /// Resident at start: memory that the executor registers, and the queues of its three rings.
    pub executor: usize,
}

/// Rings of the executor: for files, for polled files, for what must not wait.
const EXECUTOR_RINGS: usize = 3;

/// Memory of one shard that is locked: the executor registers the same bytes with each of its rings, and each time
/// counts.
pub const LOCKED_BYTES: usize = EXECUTOR_RINGS * EXECUTOR_IO_MEMORY;

/// Least limit of locked memory with which an executor starts, whatever it locks and whoever starts it.
pub const LOCKED_LIMIT_MIN: usize = 512 * 1024;

/// Descriptors of a shard without connections: listener, receive ring, the eventfd that wakes it and the executor's
/// duplicate of that, the executor's rings and its own eventfd.
pub const DESCRIPTORS: usize = 5 + EXECUTOR_RINGS;

/// Threads of a shard: its own, and one that the executor keeps for calls that block.
pub const THREADS: usize = 2;

/// Connections of which a shard keeps a slot at once.
const fn slots_max(limits: &Limits) -> usize {
    limits.connections_max + CLOSING_MAX
}

/// What all shards share: the lanes to hand connections over, and the counts by address that there are limits for.
pub fn shared_bytes(shards: usize, limits: &Limits) -> usize {
    let tables = usize::from(limits.connections_per_ip_max > 0) + usize::from(limits.accepts_per_ip_max > 0);
    shards * HandOver::<Admitted<OwnedFd>>::bytes(HANDED_MAX) + tables * AddressTable::bytes(limits.connections_max)
}

impl Limits {
    /// What a shard with these limits takes.
    pub fn memory(&self) -> ShardMemory {
        let buffers = self.pool_buffers;
        ShardMemory {
            buffers: buffers * BUFFER_BYTES,
            buffer_tables: BufferPool::table_bytes(buffers)
                + BufferRing::table_bytes(buffers)
                + InboxTable::bytes(buffers),
            series: Rollup::memory_bytes_max(self.series_max),
            shapes: Rollup::shapes_bytes_max(SKELETONS, SKELETON_POINTS_MAX),
            skeletons: SkeletonTable::MEMORY_BYTES,
            peers: PeerTable::<OwnedFd>::bytes(slots_max(self)),
            queues: slots_max(self) * size_of::<usize>() + Supply::bytes(slots_max(self)),
            decoder: Decoder::MEMORY_BYTES + SCRATCH_BYTES,
            answers: UNREAD_ANSWER_BYTES_MAX * if self.tls.is_some() { 2 } else { 1 },
            tls: self.tls.map_or(0, |tls| tls_bytes(self, tls)),
            receive_ring: ring_bytes(SUBMISSIONS as usize, COMPLETIONS as usize)
                + pages(BufferRing::shared_bytes(self.lent_buffers())),
            executor: EXECUTOR_IO_MEMORY + EXECUTOR_RINGS * ring_bytes(EXECUTOR_RING_DEPTH, 2 * EXECUTOR_RING_DEPTH),
        }
    }
}

/// Heap of a handshake under way, besides its bytes. `connections_take_no_more_memory_than_planned` in the tests of the
/// binary measures it, 5 KB, and the next.
const HANDSHAKE_STATE_BYTES: usize = 8 * 1024;
/// Heap of an open connection: keys of both directions, key schedule; 2.5 KB were measured, with a certificate.
const SESSION_BYTES: usize = 4 * 1024;

fn tls_bytes(limits: &Limits, tls: TlsLimits) -> usize {
    let client_chain = if tls.is_mutual { CLIENT_CHAIN_BYTES_MAX } else { 0 };
    HANDSHAKES_MAX * (HANDSHAKE_BYTES_MAX + HANDSHAKE_STATE_BYTES)
        + Handshakes::bytes(slots_max(limits))
        + slots_max(limits) * (SESSION_BYTES + client_chain + size_of::<Tls>())
}

/// Both queues of an io_uring: entries to submit, their order, and entries of completions behind a line of counters.
const fn ring_bytes(submissions: usize, completions: usize) -> usize {
    pages(submissions * size_of::<io_uring::squeue::Entry>())
        + pages(64 + submissions * size_of::<u32>() + completions * size_of::<io_uring::cqueue::Entry>())
}

/// What the kernel takes for so many bytes.
const fn pages(bytes: usize) -> usize {
    bytes.next_multiple_of(4096)
}
