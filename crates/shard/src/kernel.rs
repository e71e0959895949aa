//! What a shard asks of the world outside: operations, their completions, sockets, and the time.
//!
//! The receive ring, on io_uring, is the real one. A scripted one can take its place, so that whole shards run on simulated
//! sockets and a simulated clock, with completions in every order that a kernel may choose.
//! Everything is monomorphised: the seam costs no call through a pointer.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use corelane_pool::PooledBuffer;
use rustix::io::Errno;

pub use crate::clock::Instant;
use crate::limits::HEADROOM_BYTES;

/// Where the bytes of a [`Completion::Received`] begin.
pub const RECEIVED_AT: usize = HEADROOM_BYTES;

/// A connected stream socket. Closed when dropped, and that only after the last completion of its operations.
pub trait Socket: fmt::Debug {
    /// Sends without waiting: the bytes that were taken, `None` if none will ever be taken again.
    fn send(&self, bytes: &[u8]) -> Option<usize>;

    /// Receives without waiting: how many bytes, 0 at the end of the stream.
    ///
    /// # Errors
    /// As recv(2); `AGAIN` if nothing is there.
    fn receive(&self, into: &mut [u8]) -> Result<usize, Errno>;

    /// Bytes that have arrived and were not received.
    fn unread_bytes(&self) -> u64;

    /// Whether the peer sends no more: its FIN or a reset has come, behind whatever is unread.
    fn has_ended(&self) -> bool;

    /// Whether bytes or the end of the stream can be received.
    fn is_readable(&self) -> bool;

    /// Sends our FIN.
    fn end_writing(&self);

    /// Ends both directions: operations on the socket complete.
    fn shut_down(&self);

    /// The peer's address, or the unspecified one if it is gone already.
    fn peer_address(&self) -> SocketAddr;

    /// Lets the largest frame arrive although none of it is received.
    fn make_room_for_frame(&self);
}

/// Something the kernel has finished, or one more result of something that goes on.
#[derive(Debug)]
pub enum Completion<S> {
    /// A connection was accepted; `more` follow without asking again.
    Accepted {
        /// The new connection.
        socket: S,
        /// Whether accepting goes on.
        more: bool,
    },
    /// Accepting ended.
    AcceptEnded {
        /// Why.
        errno: i32,
    },
    /// `bytes` (at least 1) lie in `buffer` from [`RECEIVED_AT`] on.
    Received {
        /// Who received.
        slot: usize,
        /// A buffer that was lent.
        buffer: PooledBuffer,
        /// How many bytes.
        bytes: usize,
        /// Whether receiving goes on.
        more: bool,
    },
    /// Receiving ended.
    ReceiveEnded {
        /// Who received.
        slot: usize,
        /// 0 for the peer's FIN, else an error number; ENOBUFS if no lent buffer was left.
        errno: i32,
    },
    /// The socket can be written to, or has an error.
    Writable {
        /// Whose socket.
        slot: usize,
    },
}

/// Operations, their completions, and the clock, of one shard. Names connections by slot numbers.
pub trait Kernel {
    /// A connection.
    type Socket: Socket;
    /// What connections are accepted from.
    type Listener;

    /// The time now.
    fn now(&self) -> Instant;

    /// CPU time of the shard so far, in nanoseconds.
    fn cpu_nanoseconds(&self) -> u64;

    /// Accepts connections of `listener` until told otherwise.
    fn accept(&mut self, listener: &Self::Listener);

    /// Ends [`accept`](Self::accept): its last completion is `AcceptEnded`.
    fn cancel_accept(&mut self);

    /// A connection that waits to be accepted, without waiting for one.
    fn accept_waiting(&mut self, listener: &Self::Listener) -> Option<Self::Socket>;

    /// Receives from `socket` into lent buffers until it ends, fails, or no lent buffer is left.
    fn receive(&mut self, socket: &Self::Socket, slot: usize);

    /// Receives at most `bytes` from `socket`, once, into a lent buffer: a [`receive`](Self::receive) that ends after its
    /// first completion.
    fn receive_once(&mut self, socket: &Self::Socket, slot: usize, bytes: u32);

    /// Ends the receive of a slot, if one is under way: its last completion is `ReceiveEnded` with ECANCELED, unless it ends
    /// by itself first.
    fn cancel_receive(&mut self, slot: usize);

    /// Reports, once, when `socket` can be written to.
    fn wait_writable(&mut self, socket: &Self::Socket, slot: usize);

    /// Lent buffers that no completion has brought back yet.
    fn lent(&self) -> usize;

    /// Lends one more buffer, for at most `bytes` of a receive from [`RECEIVED_AT`] on.
    fn lend(&mut self, buffer: PooledBuffer, bytes: usize);

    /// Submits what was started and waits for `completions` of them, or `timeout`.
    ///
    /// # Errors
    /// What ends the shard.
    fn wait(&mut self, completions: usize, timeout: Duration) -> io::Result<()>;

    /// Submits what was started and lets finish what can without waiting.
    ///
    /// # Errors
    /// What ends the shard.
    fn poll(&mut self) -> io::Result<()>;

    /// Whether something was started that was not submitted yet.
    fn has_unsubmitted(&mut self) -> bool;

    /// Prepares for sleep: from now on a completion signals the shard's eventfd. `false` if there is something to do
    /// instead.
    ///
    /// # Errors
    /// What ends the shard.
    fn sleep(&mut self) -> io::Result<bool>;

    /// Ends what [`sleep`](Self::sleep) began: a busy loop looks for itself.
    fn wake_up(&mut self);

    /// The next completion, in the order in which they came.
    fn next(&mut self) -> Option<Completion<Self::Socket>>;
}
