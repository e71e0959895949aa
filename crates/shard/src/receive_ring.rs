//! The shard's io_uring: multishot accept, multishot receive into provided buffers, readiness to write.
//!
//! Owns what the kernel may write to for as long as it may. Knows tokens, not connections: whoever starts an operation
//! names it by a slot number and gets completions that carry the same number.
#![allow(
    unsafe_code,
    reason = "submission entries carry raw descriptors and addresses; their owners are held in this module"
)]

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use corelane_pool::PooledBuffer;
use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

use crate::buffer_ring::{BUFFER_GROUP, BufferRing};
use crate::clock::{Instant, thread_cpu_nanoseconds};
use crate::kernel::{Completion, Kernel};
use crate::limits::{COMPLETIONS, SUBMISSIONS};

/// What an operation is, in the upper half of its user data; its slot is the lower half.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
enum Kind {
    Accept = 1,
    Receive,
    Writable,
    Cancel,
}

pub(crate) struct ReceiveRing {
    /// Declared first, dropped first: closing it is what ends the kernel's use of the fields below.
    io: IoUring,
    buffers: BufferRing,
    /// Operations whose last completion has not been seen.
    in_flight: usize,
}

/// Whether this host lets a program use io_uring as a shard does; the error says what it lacks.
///
/// # Errors
/// The kernel's answer to setting up a ring or to entering it, or `Unsupported` when it is older than 6.1.
pub fn probe() -> io::Result<()> {
    let io = builder().build(8)?;
    BufferRing::register(&io.submitter(), 1, 1)?;
    // With nothing to submit: whether the call is permitted at all.
    io.submitter().submit().map(drop)
}

fn builder() -> io_uring::Builder {
    let mut builder = IoUring::builder();
    // Completions are worked off on this thread, inside our own calls: no interrupt of the loop, no lock in the kernel.
    builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag().setup_cqsize(COMPLETIONS);
    builder
}

impl ReceiveRing {
    /// A ring of the calling thread, and of no other, that may be lent up to `lent_max` buffers of a pool of
    /// `pool_buffers`, and that signals `wake` while [`sleeping`](Kernel::sleep) is allowed.
    pub(crate) fn new(lent_max: usize, pool_buffers: usize, wake: BorrowedFd<'_>) -> io::Result<Self> {
        let mut io = builder().build(SUBMISSIONS)?;
        let buffers = BufferRing::register(&io.submitter(), lent_max, pool_buffers)?;
        io.submitter().register_eventfd(wake.as_raw_fd())?;
        io.completion().disable_eventfd();
        Ok(Self { io, buffers, in_flight: 0 })
    }

    fn understand(&mut self, entry: &cqueue::Entry) -> Option<Completion<OwnedFd>> {
        let (kind, slot) = (entry.user_data() >> 32, (entry.user_data() & u64::from(u32::MAX)) as usize);
        let (result, more) = (entry.result(), cqueue::more(entry.flags()));
        if !more {
            self.in_flight -= 1;
        }
        if kind == Kind::Accept as u64 {
            return Some(match result {
                // SAFETY: the kernel has just made this descriptor for us.
                0.. => Completion::Accepted { socket: unsafe { OwnedFd::from_raw_fd(result) }, more },
                _ => Completion::AcceptEnded { errno: -result },
            });
        }
        if kind == Kind::Receive as u64 {
            let buffer = cqueue::buffer_select(entry.flags()).map(|index| self.buffers.take(index));
            return Some(match buffer {
                Some(buffer) if result > 0 => Completion::Received { slot, buffer, bytes: result as usize, more },
                _ => Completion::ReceiveEnded { slot, errno: -result },
            });
        }
        (kind == Kind::Writable as u64).then_some(Completion::Writable { slot })
    }

    fn start(&mut self, entry: squeue::Entry, kind: Kind, slot: usize) {
        let entry = entry.user_data(user_data(kind, slot));
        self.in_flight += 1;
        // SAFETY: the entry's descriptor stays open while the operation runs (a peer's slot is freed, and a listener
        // closed, only after its last completion), and its memory is owned by `buffers` until then.
        while unsafe { self.io.submission().push(&entry) }.is_err() {
            // Full: let the kernel take what is there. An error here shows again, and is handled, at the next turn.
            let _ = self.io.submit();
        }
    }
}

impl Kernel for ReceiveRing {
    type Socket = OwnedFd;
    type Listener = TcpListener;

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn cpu_nanoseconds(&self) -> u64 {
        thread_cpu_nanoseconds()
    }

    fn accept(&mut self, listener: &TcpListener) {
        let entry = opcode::AcceptMulti::new(fd(listener)).flags(libc::SOCK_CLOEXEC).build();
        self.start(entry, Kind::Accept, 0);
    }

    fn cancel_accept(&mut self) {
        let entry = opcode::AsyncCancel::new(user_data(Kind::Accept, 0)).build();
        self.start(entry, Kind::Cancel, 0);
    }

    fn accept_waiting(&mut self, listener: &TcpListener) -> Option<OwnedFd> {
        // Accepted sockets do not inherit O_NONBLOCK.
        listener.set_nonblocking(true).ok()?;
        listener.accept().ok().map(|(stream, _)| OwnedFd::from(stream))
    }

    fn receive(&mut self, socket: &OwnedFd, slot: usize) {
        let entry = opcode::RecvMulti::new(fd(socket), BUFFER_GROUP).build();
        self.start(entry, Kind::Receive, slot);
    }

    fn receive_once(&mut self, socket: &OwnedFd, slot: usize, bytes: u32) {
        let entry = opcode::Recv::new(fd(socket), std::ptr::null_mut(), bytes).buf_group(BUFFER_GROUP).build();
        self.start(entry.flags(squeue::Flags::BUFFER_SELECT), Kind::Receive, slot);
    }

    fn cancel_receive(&mut self, slot: usize) {
        let entry = opcode::AsyncCancel::new(user_data(Kind::Receive, slot)).build();
        self.start(entry, Kind::Cancel, 0);
    }

    fn wait_writable(&mut self, socket: &OwnedFd, slot: usize) {
        let entry = opcode::PollAdd::new(fd(socket), libc::POLLOUT as u32).build();
        self.start(entry, Kind::Writable, slot);
    }

    fn lent(&self) -> usize {
        self.buffers.len()
    }

    fn lend(&mut self, buffer: PooledBuffer, bytes: usize) {
        self.buffers.lend(buffer, bytes);
    }

    fn wait(&mut self, completions: usize, timeout: Duration) -> io::Result<()> {
        let timeout = Timespec::from(timeout);
        let entered = self.io.submitter().submit_with_args(completions, &SubmitArgs::new().timespec(&timeout));
        ignore_wake_ups(entered)
    }

    fn poll(&mut self) -> io::Result<()> {
        ignore_wake_ups(self.io.submitter().submit())
    }

    fn has_unsubmitted(&mut self) -> bool {
        !self.io.submission().is_empty()
    }

    fn sleep(&mut self) -> io::Result<bool> {
        self.poll()?;
        self.io.completion().enable_eventfd();
        // What came before the line above has not signalled; what comes after it will.
        let idle = !self.io.submission().taskrun() && self.io.completion().is_empty();
        if !idle {
            self.wake_up();
        }
        Ok(idle)
    }

    fn wake_up(&mut self) {
        // A signal per completion would cost.
        self.io.completion().disable_eventfd();
    }

    fn next(&mut self) -> Option<Completion<OwnedFd>> {
        loop {
            let entry = self.io.completion().next()?;
            if let Some(completion) = self.understand(&entry) {
                return Some(completion);
            }
        }
    }
}

impl Drop for ReceiveRing {
    fn drop(&mut self) {
        if self.in_flight > 0 {
            // Closing the ring cancels what runs, but later: memory that might still be written to must not be reused.
            self.buffers.forget_lent();
        }
    }
}

fn fd(socket: &impl AsRawFd) -> Fd {
    Fd(socket.as_raw_fd())
}

fn user_data(kind: Kind, slot: usize) -> u64 {
    debug_assert!(u32::try_from(slot).is_ok());
    (kind as u64) << 32 | slot as u64
}

/// Time ran out, a signal came, or the completion queue is full: all mean "look at the completions".
fn ignore_wake_ups(entered: io::Result<usize>) -> io::Result<()> {
    match entered {
        Ok(_) => Ok(()),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN)) => {
            Ok(())
        }
        Err(error) => Err(error),
    }
}
