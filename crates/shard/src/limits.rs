//! Every bound of a shard in one place: what it costs, and what moves with it.

use std::time::Duration;

use corelane_pool::{BUFFER_BYTES, SMALL_BYTES_MAX};
use corelane_tls::RECORD_BYTES_MAX;
use corelane_wire::{ANSWER_BYTES_MAX, COMMITTED_BYTES_MAX, MAX_FRAME_SIZE, SLACK_BYTES, UNANSWERED_REQUESTS_MAX};

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

/// Longest start of a frame that is copied in front of the bytes that continue it. A longer one is put together elsewhere.
pub const PREPEND_BYTES_MAX: usize = 16 * 1024;

/// Room in front of every receive. The kept start of a frame is put there, right before the bytes that continue it, so that
/// the frame lies in one piece and what follows it stays where it was received. With TLS the start of a record comes first,
/// and the frame before the data in it. Whole pages.
pub const HEADROOM_BYTES: usize = (PREPEND_BYTES_MAX + RECORD_BYTES_MAX).next_multiple_of(4096);

/// What one receive may bring. Larger ones save completions and lose the L2 cache. Behind it the decoder may look.
pub const RECEIVE_BYTES: usize = BUFFER_BYTES - HEADROOM_BYTES - SLACK_BYTES;

const _: () = assert!(SMALL_BYTES_MAX >= MAX_FRAME_SIZE, "a slot holds any partial payload");
const _: () = assert!(SMALL_BYTES_MAX >= RECORD_BYTES_MAX, "a slot holds any partial record");

/// Fewest buffers of a shard: the kernel's share, as many to keep what comes in them, and two that keep things moving.
pub const POOL_BUFFERS_MIN: usize = 2 * LENT_BUFFERS_MIN + 2;

/// Receives are this short at least while the pool is short: one that ends inside a frame then costs the smallest slot.
pub const SHORT_RECEIVE_BYTES_MIN: usize = 1024;
/// And this long at most: what a pool with much room left gives each connection.
pub const SHORT_RECEIVE_BYTES_MAX: usize = 16 * 1024;

/// While the pool is short, a frame older than [`EVICT_AFTER`] has to have arrived at this average rate, in bytes a second,
/// or it may be evicted: the largest frame in 4 s. Slow links manage that (128 kbit/s); a peer that sends a byte now and then
/// does not, however often it does so.
pub const FRAME_RATE_MIN: u64 = 16 * 1024;

/// What a parked connection may hold without being evicted. Most hold one short receive.
pub const PARKED_CHEAP_BYTES: usize = 4 * 1024;
/// Parked connections that are looked at in one turn while the pool is short: one ioctl(2) each, some 20 us together.
pub const PARKED_A_TURN: usize = 64;
/// How often it is looked whether the stream of a parked connection has ended: a poll(2), some 0.3 us.
pub const END_CHECK_EVERY: Duration = Duration::from_millis(100);

/// Fewest frames that are received at a time, while the pool is short, although the kernel does not have all of them. Two, so
/// that one that stalls does not stop the others.
pub const FINISHING_MIN: usize = 2;
/// And most of them, where memory allows more. They are looked through for each of [`PARKED_A_TURN`].
pub const FINISHING_MAX: usize = 64;

/// A connection that is read although its frame does not become whole by that has to bring [`FRAME_RATE_MIN`] from this time
/// on, or its place goes to the next. Longer, and a few silent peers would keep the others of a small pool waiting; shorter
/// than the way to a distant peer and back, and its place would be lost between two windows.
pub const FINISHING_GRACE: Duration = Duration::from_millis(200);

/// With no buffer left to lend, connections are evicted after this time at once: until then frames that are being finished may
/// free some.
pub const EVICT_DRY_AFTER: Duration = EVICT_AFTER;

/// Connections evicted in one tick at most. Each costs some 10 us, so a tick is late by 5 ms at most, and 10 000 connections
/// are evicted in 2 s.
pub const EVICTED_A_TICK: usize = 512;

/// `/readyz` reports a pool that has been short for longer than this.
pub const POOL_SHORT_AFTER: Duration = Duration::from_secs(1);

/// Armed sockets that are looked at in one tick because they have been silent for [`SILENT_CHECK_AFTER`]. About one reset in
/// 100 000 that follows data leaves its multishot receive without a wake-up. With 10 000 connections each is looked at
/// every 8 s; each look is a poll(2), some 0.3 us.
pub const SILENT_CHECKED: usize = 128;
/// See [`SILENT_CHECKED`].
pub const SILENT_CHECK_AFTER: Duration = Duration::from_secs(1);

/// The kernel's share: buffers it may fill before we look. Fewer end the receives of many connections with ENOBUFS: with
/// 2 000 of them, 32 buffers cost a tenth of the throughput, and 128 gave no more than 64.
pub const LENT_BUFFERS_MAX: usize = 64;
/// See [`LENT_BUFFERS_MAX`]. Less than this serves a handful of connections.
pub const LENT_BUFFERS_MIN: usize = 4;
/// The kernel's share while receives are large: what stays in the L2 cache, since the ring hands buffers out in turn.
/// Eight connections flat out gave 9.5 M frames/s with 16 buffers, 8.3 M with 32, 7.8 M with 64; with 4 half of that.
pub const LENT_BUFFERS_LARGE: usize = 16;
/// A connection that has received less than this since the last tick is served before those that have received more: some
/// 20 Mbit/s.
pub const LIGHT_BYTES: u64 = 256 * 1024;
/// What a connection with a backlog receives before it is another's turn. What is read right behind its arrival is still in a
/// cache, so turns of a few buffers cost up to twice as much CPU a frame; longer ones keep the others waiting.
pub const TURN_BYTES: u64 = 4 * 1024 * 1024;

/// From this mean of a turn on, receives are large: then a receive that ended with ENOBUFS is armed again for less than
/// what its bytes cost.
pub const LARGE_RECEIVE_BYTES: u64 = 32 * 1024;

/// Entries of the submission queue. A fuller one is submitted early, which costs a system call.
pub const SUBMISSIONS: u32 = 512;

/// Attempts to submit a full queue before the shard gives up: a kernel that is short of memory for a moment takes nothing.
/// Each is a system call, so all together take 1 ms or more.
pub const SUBMIT_ATTEMPTS: usize = 4096;

/// Entries of the completion queue, 16 bytes each. What does not fit waits in the kernel.
pub const COMPLETIONS: u32 = 8192;

/// Coalescing: a turn starts at so many completions, or after [`TURN_WAIT`], whichever is first. One turn for several
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
const _: () = assert!(UNREAD_ANSWER_BYTES_MAX <= SMALL_BYTES_MAX, "unread answers wait in one slot");
const _: () =
    assert!(TURN_STEPS * COMMITTED_BYTES_MAX + ANSWER_BYTES_MAX <= UNREAD_ANSWER_BYTES_MAX, "one turn's answers fit");
/// What a record of TLS 1.3 takes besides its content. One of TLS 1.2 takes up to 29 bytes: then all answers fit while the
/// counts in them are below 2^32.
const RECORD_BYTES: usize = 22;
const _: () = assert!(
    UNANSWERED_REQUESTS_MAX * (COMMITTED_BYTES_MAX + RECORD_BYTES) <= UNREAD_ANSWER_BYTES_MAX,
    "answers to all requests that a client may have unanswered fit, even if each is a record"
);

/// Send buffer of each connection; the kernel doubles it for its own use. By default it grows to 4 MiB, so 512 peers that ask
/// without an end and read nothing kept a core busy with 45 million answers, and honest ones waited for 5 s.
pub const SEND_BUFFER_BYTES: usize = 128 * 1024;

/// After our FIN, what the peer still sends is thrown away for so long, or so many bytes, before the socket is closed;
/// closing at once would reset the connection and destroy answers on their way.
pub const LINGER: Duration = Duration::from_secs(1);
/// See [`LINGER`].
pub const LINGER_BYTES_MAX: u64 = 1024 * 1024;

/// While the pool is short, a partial frame of this age, or answers unread for this long, may be evicted. A TLS client that
/// has not sent its hello gives its place up after this time if others wait.
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

/// Handshakes that are ended in one tick because others wait.
pub const HANDSHAKES_EVICTED: usize = 64;

/// Handshakes of one address under way at once while others wait.
pub const HANDSHAKES_PER_ADDRESS_MAX: usize = HANDSHAKES_MAX / 4;

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
    pub fn lent_buffers(&self) -> usize {
        (self.pool_buffers / 2).clamp(LENT_BUFFERS_MIN, LENT_BUFFERS_MAX)
    }

    /// The kernel's share while the pool is short.
    pub(crate) fn lent_buffers_short(&self) -> usize {
        (self.lent_buffers() / 8).max(1)
    }

    /// Buffers that may be cut for partial frames, partial records and unread answers before the pool counts as short. What
    /// is left takes one more turn's receives and then, in short receives, a little of every connection.
    pub fn kept_buffers_max(&self) -> usize {
        (self.pool_buffers - self.lent_buffers()) / 3
    }
}
