//! The shard's io_uring: multishot accept, multishot receive into provided buffers, readiness to write.
//!
//! Owns what the kernel may write to for as long as it may (see `Drop` for when that is over). Knows tokens, not
//! connections: whoever starts an operation names it by a slot number and gets completions that carry the same number.
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
use crate::limits::{COMPLETIONS, SUBMISSIONS, SUBMIT_ATTEMPTS};

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
    /// Declared first, dropped first: the ring of `buffers` is registered with it.
    io: IoUring,
    buffers: BufferRing,
    /// Operations whose last completion has not been seen.
    in_flight: usize,
    /// Why an operation could not be started. The next call that enters the kernel returns it.
    failed: Option<io::Error>,
}

/// Whether this host lets a program use io_uring as a shard does; the error says what it lacks.
///
/// # Errors
/// The kernel's answer to setting up a ring or to entering it, or `Unsupported` when it is older than 6.1.
pub fn probe() -> io::Result<()> {
    // With nothing to submit: whether the call is permitted at all.
    ReceiveRing::build(&builder(), 8, 1, 1)?.poll()
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
        let mut ring = Self::build(&builder(), SUBMISSIONS, lent_max, pool_buffers)?;
        ring.io.submitter().register_eventfd(wake.as_raw_fd())?;
        ring.io.completion().disable_eventfd();
        Ok(ring)
    }

    /// The one place where both rings are made, so that whatever fails behind it drops them in the order of the fields.
    fn build(builder: &io_uring::Builder, submissions: u32, lent_max: usize, pool_buffers: usize) -> io::Result<Self> {
        let io = builder.build(submissions)?;
        let buffers = BufferRing::register(&io.submitter(), lent_max, pool_buffers)?;
        Ok(Self { io, buffers, in_flight: 0, failed: None })
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
        for _ in 0..SUBMIT_ATTEMPTS {
            if self.failed.is_some() {
                return;
            }
            // SAFETY: the entry's descriptor stays open while the operation runs (a peer's slot is freed, and a listener
            // closed, only after its last completion), and its memory is owned by `buffers` until then.
            if unsafe { self.io.submission().push(&entry) }.is_ok() {
                self.in_flight += 1;
                return;
            }
            // Full: let the kernel take what is there.
            self.failed = ignore_wake_ups(self.io.submitter().submit()).err();
        }
        self.failed =
            Some(io::Error::new(io::ErrorKind::ResourceBusy, "the kernel takes no operation of the receive ring"));
    }

    /// Reports that an operation could not be started: the shard would wait for its completion for ever.
    fn check_started(&mut self) -> io::Result<()> {
        self.failed.take().map_or(Ok(()), Err)
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
        self.check_started()?;
        let timeout = Timespec::from(timeout);
        let entered = self.io.submitter().submit_with_args(completions, &SubmitArgs::new().timespec(&timeout));
        ignore_wake_ups(entered)
    }

    fn poll(&mut self) -> io::Result<()> {
        self.check_started()?;
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
            // close(2) only begins to cancel what is in flight: a worker of the kernel does that, and nothing reports its
            // end. So buffers that are lent at this moment are never used again, and their pool stays mapped.
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

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use corelane_pool::BufferPool;
    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    #[test]
    fn an_operation_that_the_kernel_does_not_take_is_an_error_of_the_turn() {
        // A ring that was never enabled takes nothing.
        let mut ring = ReceiveRing::build(builder().setup_r_disabled(), 8, 1, 1).unwrap();
        let readable = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        for slot in 0..20 {
            ring.wait_writable(&readable, slot);
        }
        assert_eq!(ring.in_flight, 8, "what never began has no last completion");
        let error = ring.wait(1, Duration::from_secs(1)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADFD));
    }

    #[test]
    fn a_buffer_that_is_lent_is_neither_replaced_nor_sent_home() {
        let (pool, other) = (BufferPool::new(1).unwrap(), BufferPool::new(1).unwrap());
        let mut ring = ReceiveRing::build(&builder(), 8, 2, 1).unwrap();
        ring.lend(pool.acquire().unwrap(), 100);
        let same_number = other.acquire().unwrap();
        let lent = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| ring.lend(same_number, 100)));
        assert!(lent.is_err());
        assert_eq!((ring.lent(), pool.free(), other.free()), (1, 0, 1));
    }

    #[test]
    fn lent_buffers_go_home_with_the_ring_unless_an_operation_may_still_fill_them() {
        for in_flight in [false, true] {
            let pool = BufferPool::new(1).unwrap();
            let mut ring = ReceiveRing::build(&builder(), 8, 1, 1).unwrap();
            ring.lend(pool.acquire().unwrap(), 100);
            let (receiver, _sender) = UnixStream::pair().unwrap();
            let receiver = OwnedFd::from(receiver);
            if in_flight {
                ring.receive(&receiver, 0);
                ring.poll().unwrap();
            }
            drop(ring);
            assert_eq!(pool.free(), usize::from(!in_flight));
        }
    }
}
