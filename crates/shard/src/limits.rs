//! Every bound of a shard in one place: what it costs, and what moves with it.

use std::time::Duration;

use corelane_pool::{BUFFER_BYTES, SMALL_BYTES_MAX};
use corelane_tls::RECORD_BYTES_MAX;
use corelane_wire::{ANSWER_BYTES_MAX, HEADER_BYTES, MAX_FRAME_SIZE, SLACK_BYTES};

/// What configuration decides about one shard.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Receive buffers of this shard, [`POOL_BUFFERS_MIN`] at least.
    pub pool_buffers: usize,
    /// Connections of all shards together.
    pub connections_max: usize,
    /// Connections of one address, all shards together; 0 for no limit.
    pub connections_per_ip_max: u32,
    /// New connections of one address a second, at most [`ACCEPT_RATE_MAX`](crate::ACCEPT_RATE_MAX); 0 for no limit.
    pub accepts_per_ip_max: u32,
    /// Leading bits of an IPv6 address that the limits by address count as one address, 1 to 128.
    pub ipv6_prefix: u8,
    /// Bytes a second that are read of one connection; 0 for no limit.
    pub rate_per_connection: u64,
    /// From when on a connection is closed, between frames; zero for never. Each has up to a tenth more, so that those who
    /// came together do not come back together.
    pub connection_age_max: Duration,
    /// Live series of this shard.
    pub series_max: usize,
    /// No byte received for so long closes a connection; zero never does.
    pub idle_timeout: Duration,
    /// From a frame's first byte to its last.
    pub frame_timeout: Duration,
    /// Where connections speak TLS.
    pub tls: Option<TlsLimits>,
    /// From the wish to stop until frames that were begun before it are given up.
    pub drain_timeout: Duration,
}

/// What configuration decides about TLS.
#[derive(Clone, Copy, Debug)]
pub struct TlsLimits {
    /// How long a connection may take to agree on it.
    pub handshake_timeout: Duration,
    /// Whether clients show certificates, which are kept as long as their connections.
    pub is_mutual: bool,
}

/// Room in front of every receive. The start of a cut frame that was kept in a small slot is put there, right before the
/// bytes that continue it, so that the frame lies in one piece and what follows it stays where it was received. With TLS
/// the start of a cut record comes first, and the frame before the data in it. Whole pages.
pub const HEADROOM_BYTES: usize = (SMALL_BYTES_MAX + RECORD_BYTES_MAX).next_multiple_of(4096);

/// What one receive may bring. Larger ones save completions and lose the L2 cache. Behind it the decoder may look.
pub const RECEIVE_BYTES: usize = BUFFER_BYTES - HEADROOM_BYTES - SLACK_BYTES;

const _: () = assert!(
    BUFFER_BYTES >= MAX_FRAME_SIZE + HEADER_BYTES + SLACK_BYTES,
    "the largest frame can be kept whole in one buffer"
);

/// Fewest buffers of a shard: the kernel's share, as many again to keep cut frames in, and those kept back.
pub const POOL_BUFFERS_MIN: usize = 2 * LENT_BUFFERS_MIN + KEPT_BACK_BUFFERS;

/// Buffers that only the frame begun longest ago may take, so that one frame can always be finished and its memory freed:
/// one to keep it in, one to receive its records into.
pub const KEPT_BACK_BUFFERS: usize = 2;

/// The kernel's share: buffers it may fill before we look. Fewer end the receives of many connections with ENOBUFS: with
/// 2 000 of them, 32 buffers cost a tenth of the throughput, and 128 gave no more than 64.
pub const LENT_BUFFERS_MAX: usize = 64;
/// See [`LENT_BUFFERS_MAX`]. Less than this serves a handful of connections.
pub const LENT_BUFFERS_MIN: usize = 4;
/// The kernel's share while receives are large: what stays in the L2 cache, since the ring hands buffers out in turn.
/// Eight connections flat out gave 9.5 M frames/s with 16 buffers, 8.3 M with 32, 7.8 M with 64; with 4 half of that.
pub const LENT_BUFFERS_LARGE: usize = 16;
/// From this mean of a turn on, receives are large: then a receive that ended with ENOBUFS is armed again for less than
/// what its bytes cost.
pub const LARGE_RECEIVE_BYTES: u64 = 32 * 1024;

/// Entries of the submission queue. A fuller one is submitted early, which costs a system call.
pub const SUBMISSIONS: u32 = 512;
/// Entries of the completion queue, 16 bytes each. What does not fit waits in the kernel.
pub const COMPLETIONS: u32 = 8192;

/// Moderation: a turn starts at so many completions, or after [`TURN_WAIT`], whichever is first. One turn for several
/// frames halves the cost of a paced load; the wait bounds what it adds to a frame's latency. As many as there are lent
/// buffers: with 2 000 connections of four frames a write that gave a sixth more than 16.
pub const TURN_COMPLETIONS: usize = LENT_BUFFERS_MAX;
/// See [`TURN_COMPLETIONS`].
pub const TURN_WAIT: Duration = Duration::from_micros(500);

/// A turn with so many bytes is followed by one that waits for a single completion. One busy connection has one completion
/// at a time and would wait out [`TURN_WAIT`] in every other turn: 5 M frames/s without this bound, 8 M with 128 KiB, 11 M
/// with 32 KiB, which is less than what one write of its sender may bring. Half of it gained nothing, a quarter made
/// turns of small writes twice as dear.
pub const BULK_TURN_BYTES: u64 = 32 * 1024;

/// A turn behind one without any receive starts at the first completion, or after this. Other threads' wishes wait as long.
pub const IDLE_WAIT: Duration = Duration::from_millis(2);

/// Without a completion for so long, the loop sleeps in the executor and is woken by the ring, which costs some 12
/// allocations. So there are at most 240 of these a second, and a turn each 2 ms until then. With 1 ms, 400 frames/s
/// evenly spaced (`corelane load --rate 400`) cost 5 000 allocations/s and almost three times the CPU.
pub const QUIET_AFTER: Duration = Duration::from_millis(50);

/// How often a busy loop lets the executor look at its own I/O; also the executor's preemption timer, without which it
/// would not look while the loop is runnable. Each time costs a few allocations inside glommio. Not short: an executor
/// that loses its core for so long between two of its own steps parks although a task is runnable, until the next timer,
/// and at start there is none.
pub const EXECUTOR_TURN: Duration = Duration::from_millis(100);

/// Samples are recorded so often while the shard is awake, and before every answer and close.
pub const FLUSH_EVERY: Duration = Duration::from_millis(10);

/// The shard's own timer: one sweep over all connections for every timeout, and the slow gauges.
pub const TICK: Duration = Duration::from_millis(1_000 / TICKS_A_SECOND);
/// See [`TICK`].
pub const TICKS_A_SECOND: u64 = 10;

/// Frames and commit requests of one connection before the others have theirs; at most one receive's bytes besides. A
/// flood waits behind everybody who has sent less.
pub const TURN_STEPS: usize = 512;

/// Rejected frames with no accepted one between, after which a connection is closed.
pub const REJECTED_RUN_MAX: u32 = 64;

/// Connections that are closing, a shard, besides the open ones: each keeps its slot and descriptor for [`LINGER`]. When
/// so many linger and all others are open, new ones are refused.
pub const CLOSING_MAX: usize = 128;

/// Answers that wait because the peer does not read them.
pub const UNREAD_ANSWER_BYTES_MAX: usize = 64 * 1024;
const _: () = assert!(UNREAD_ANSWER_BYTES_MAX <= BUFFER_BYTES, "unread answers wait in one buffer");
const _: () = assert!(
    TURN_STEPS * 48 + ANSWER_BYTES_MAX <= UNREAD_ANSWER_BYTES_MAX,
    "one turn's answers, of 42 bytes at most, fit"
);

/// After our FIN, what the peer still sends is thrown away for so long, or so many bytes, before the socket is closed;
/// closing at once would reset the connection and destroy answers on their way.
pub const LINGER: Duration = Duration::from_secs(1);
/// See [`LINGER`].
pub const LINGER_BYTES_MAX: u64 = 1024 * 1024;

/// When the pool is short, a begun frame that has been silent so long may be evicted.
pub const EVICT_AFTER: Duration = Duration::from_secs(1);

/// TLS handshakes under way at once. Who connects meanwhile waits unread, and costs no memory; a handshake takes up to
/// 33 KiB for its bytes and some for its keys. More of them would finish no sooner.
pub const HANDSHAKES_MAX: usize = 512;

/// Steps of handshakes in one turn, behind the frames of everybody else. A handshake has two, of which the first signs:
/// together some 1 ms of CPU with a key of P-256, 2 ms with RSA of 2 048 bits, 5 ms with 4 096.
pub const HANDSHAKE_STEPS: usize = 4;

/// Handshakes that wait for a turn with a buffer each, or half the kernel's share of the pool if that is less. More are
/// worked off at once, so that they do not take all buffers.
pub const HANDSHAKES_WAITING_MAX: usize = 32;

/// Silent handshakes that are ended in one tick because others wait.
pub const HANDSHAKES_EVICTED: usize = 64;

/// Wait before accepting again after the host had no descriptor or memory left. One log line a second at most.
pub const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Sockets whose unread bytes are asked for in one tick; the gauge scales their sum up to all connections.
pub const BACKLOG_SAMPLE: usize = 16;

/// Connections that one shard has been given by others and has not looked at. More stay where they were accepted.
pub const HANDED_MAX: usize = 1024;

/// Security events of one kind that a shard tells in a second. The others are only counted.
pub const SECURITY_EVENTS_A_SECOND: u32 = 64;

/// Security events that wait for the control plane; a burst overwrites the oldest, the counter counts them all.
pub const SECURITY_EVENTS_MAX: usize = 256;

/// Keepalive of every connection: the first probe, the distance of further ones, and how many may stay unanswered.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// See [`KEEPALIVE_IDLE`].
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// See [`KEEPALIVE_IDLE`].
pub const KEEPALIVE_PROBES: u32 = 3;

impl Limits {
    /// The kernel's share of this pool.
    pub(crate) fn lent_buffers(&self) -> usize {
        (self.pool_buffers / 2).clamp(LENT_BUFFERS_MIN, LENT_BUFFERS_MAX)
    }
}
