//! A kernel that completes operations when and in the order that chance has it, within what io_uring allows: the results of
//! one operation come in order, bytes are never lost or doubled, and what can complete does so at some time.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use corelane_pool::PooledBuffer;
use corelane_shard::kernel::{Completion, Instant, Kernel, RECEIVED_AT};
use rustix::io::Errno;

use crate::network::{SharedNetwork, SimSocket};

/// The kernel of one shard.
pub(crate) struct SimKernel {
    network: SharedNetwork,
    shard: usize,
    /// Started, and not submitted.
    unsubmitted: Vec<Operation>,
    under_way: Vec<Operation>,
    lent: VecDeque<(PooledBuffer, usize)>,
    /// Completions that the shard has not seen, and how many of them bring a buffer.
    ready: VecDeque<Completion<SimSocket>>,
    filled: usize,
    /// Whether a completion signals the eventfd.
    signals: bool,
    /// How long the last wait may have taken.
    waited: Duration,
}

/// The listener of one shard.
pub(crate) struct SimListener;

#[derive(Debug, PartialEq, Eq)]
enum Operation {
    Accept,
    CancelAccept,
    Receive { slot: usize, socket: usize, once: Option<usize> },
    CancelReceive { slot: usize },
    Writable { slot: usize, socket: usize },
}

impl fmt::Debug for SimKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { under_way, unsubmitted, lent, .. } = self;
        write!(f, "under way {under_way:?}, not submitted {unsubmitted:?}, {} buffers lent", lent.len())
    }
}

impl SimKernel {
    pub(crate) fn new(network: &SharedNetwork, shard: usize) -> Self {
        Self {
            network: Rc::clone(network),
            shard,
            unsubmitted: Vec::new(),
            under_way: Vec::new(),
            lent: VecDeque::new(),
            ready: VecDeque::new(),
            filled: 0,
            signals: false,
            waited: Duration::ZERO,
        }
    }

    /// Whether a sleeping shard would be woken.
    pub(crate) fn is_signalled(&self) -> bool {
        self.signals && (!self.ready.is_empty() || self.under_way.iter().any(|operation| self.can_complete(operation)))
    }

    /// How long the shard has waited since this was asked last: no longer than it wanted to.
    pub(crate) fn take_waited(&mut self) -> Duration {
        std::mem::take(&mut self.waited)
    }

    /// What is wrong with the operations under way, if anything is.
    pub(crate) fn fault(&self) -> Option<String> {
        let network = self.network.borrow();
        let all = || self.unsubmitted.iter().chain(&self.under_way);
        all().enumerate().find_map(|(at, operation)| {
            let (slot, socket, is_receive) = match *operation {
                Operation::Receive { slot, socket, .. } => (slot, socket, true),
                Operation::Writable { slot, socket } => (slot, socket, false),
                _ => return None,
            };
            let is_same = |other: &Operation| match *other {
                Operation::Receive { slot: other, .. } => is_receive && slot == other,
                Operation::Writable { slot: other, .. } => !is_receive && slot == other,
                _ => false,
            };
            if network.links[socket].is_closed {
                Some(format!("socket {socket} was closed during {operation:?}"))
            } else if all().skip(at + 1).any(is_same) {
                Some(format!("{operation:?} is under way twice"))
            } else {
                None
            }
        })
    }

    fn below(&self, end: usize) -> usize {
        self.network.borrow_mut().random.below(end)
    }

    fn can_complete(&self, operation: &Operation) -> bool {
        let network = self.network.borrow();
        match *operation {
            Operation::Accept => !network.backlogs[self.shard].is_empty(),
            Operation::Receive { socket, .. } => network.links[socket].is_readable(),
            Operation::Writable { socket, .. } => network.links[socket].is_writable(),
            Operation::CancelAccept | Operation::CancelReceive { .. } => true,
        }
    }

    /// Lets some of the operations complete that can; `all` of them, each once, or as many as chance has it.
    fn work(&mut self, all: bool) {
        for mut operation in std::mem::take(&mut self.unsubmitted) {
            // A cancellation is carried out at once.
            match operation {
                Operation::CancelAccept => self.cancel(|other| *other == Operation::Accept),
                Operation::CancelReceive { slot: cancelled } => {
                    self.cancel(|other| matches!(other, Operation::Receive { slot, .. } if *slot == cancelled));
                }
                _ => {
                    let is_done = self.below(2) == 0 && self.can_complete(&operation) && self.complete(&mut operation);
                    if !is_done {
                        self.under_way.push(operation);
                    }
                }
            }
        }
        let mut at = if all || self.under_way.is_empty() { 0 } else { self.below(self.under_way.len()) };
        let mut left = self.under_way.len();
        while left > 0 && !self.under_way.is_empty() {
            left -= 1;
            at %= self.under_way.len();
            let works = all || self.below(3) > 0;
            if works && self.can_complete(&self.under_way[at]) {
                let mut operation = self.under_way.swap_remove(at);
                if !self.complete(&mut operation) {
                    self.under_way.push(operation);
                    at += 1;
                }
            } else {
                at += 1;
            }
        }
    }

    fn cancel(&mut self, is_meant: impl Fn(&Operation) -> bool) {
        let Some(at) = self.under_way.iter().position(is_meant) else { return };
        self.ready.push_back(match self.under_way.swap_remove(at) {
            Operation::Receive { slot, .. } => Completion::ReceiveEnded { slot, errno: libc::ECANCELED },
            _ => Completion::AcceptEnded { errno: libc::ECANCELED },
        });
    }

    /// One or more results of an operation that can complete; whether it has ended.
    fn complete(&mut self, operation: &mut Operation) -> bool {
        match *operation {
            Operation::Accept => self.complete_accept(),
            Operation::Receive { slot, socket, once } => loop {
                let has_ended = self.complete_receive(slot, socket, once);
                let goes_on = !has_ended && self.network.borrow().links[socket].is_readable() && self.below(2) == 0;
                if !goes_on {
                    return has_ended;
                }
            },
            Operation::Writable { slot, .. } => {
                self.ready.push_back(Completion::Writable { slot });
                true
            }
            Operation::CancelAccept | Operation::CancelReceive { .. } => true,
        }
    }

    fn complete_accept(&mut self) -> bool {
        if self.below(50) == 0 {
            let errno = if self.below(2) == 0 { libc::EMFILE } else { libc::ECONNABORTED };
            self.ready.push_back(Completion::AcceptEnded { errno });
            return true;
        }
        let Some(id) = self.network.borrow_mut().backlogs[self.shard].pop_front() else { return false };
        let more = self.below(20) > 0;
        self.ready.push_back(Completion::Accepted { socket: SimSocket::new(id, &self.network), more });
        !more
    }

    fn complete_receive(&mut self, slot: usize, socket: usize, once: Option<usize>) -> bool {
        let is_empty = self.network.borrow().links[socket].to_server.is_empty();
        if !is_empty && self.lent.is_empty() {
            self.ready.push_back(Completion::ReceiveEnded { slot, errno: libc::ENOBUFS });
            return true;
        }
        let mut network = self.network.borrow_mut();
        let network = &mut *network;
        if is_empty {
            let errno = match network.links[socket].receive(&mut [], network.now) {
                Ok(_) => 0,
                Err(Errno::AGAIN) => return false,
                Err(error) => error.raw_os_error(),
            };
            self.ready.push_back(Completion::ReceiveEnded { slot, errno });
            return true;
        }
        let Some((mut buffer, room)) = self.lent.pop_front() else { return false };
        let most = once.map_or(room, |once| once.min(room));
        let most = match network.random.below(6) {
            0 => 1,
            1 => 1 + network.random.below(most),
            _ => most,
        };
        let into = &mut buffer[RECEIVED_AT..RECEIVED_AT + most];
        let bytes = network.links[socket].receive(into, network.now).unwrap_or(0);
        // A multishot operation may end at any time, as it does when the completion queue has been full.
        let more = once.is_none() && network.random.below(30) > 0;
        self.filled += 1;
        self.ready.push_back(Completion::Received { slot, buffer, bytes, more });
        !more
    }
}

impl Kernel for SimKernel {
    type Socket = SimSocket;
    type Listener = SimListener;

    fn now(&self) -> Instant {
        let mut network = self.network.borrow_mut();
        network.pass(Duration::from_nanos(200));
        network.now
    }

    fn cpu_nanoseconds(&self) -> u64 {
        0
    }

    fn accept(&mut self, _: &SimListener) {
        self.unsubmitted.push(Operation::Accept);
    }

    fn cancel_accept(&mut self) {
        self.unsubmitted.push(Operation::CancelAccept);
    }

    fn accept_waiting(&mut self, _: &SimListener) -> Option<SimSocket> {
        let id = self.network.borrow_mut().backlogs[self.shard].pop_front()?;
        Some(SimSocket::new(id, &self.network))
    }

    fn receive(&mut self, socket: &SimSocket, slot: usize) {
        self.unsubmitted.push(Operation::Receive { slot, socket: socket.id, once: None });
    }

    fn receive_once(&mut self, socket: &SimSocket, slot: usize, bytes: u32) {
        self.unsubmitted.push(Operation::Receive { slot, socket: socket.id, once: Some(bytes as usize) });
    }

    fn cancel_receive(&mut self, slot: usize) {
        self.unsubmitted.push(Operation::CancelReceive { slot });
    }

    fn wait_writable(&mut self, socket: &SimSocket, slot: usize) {
        self.unsubmitted.push(Operation::Writable { slot, socket: socket.id });
    }

    fn lent(&self) -> usize {
        self.lent.len() + self.filled
    }

    fn lend(&mut self, buffer: PooledBuffer, bytes: usize) {
        self.lent.push_back((buffer, bytes));
    }

    fn wait(&mut self, completions: usize, timeout: Duration) -> io::Result<()> {
        self.work(false);
        if self.ready.len() < completions {
            self.waited = timeout;
        }
        Ok(())
    }

    fn poll(&mut self) -> io::Result<()> {
        self.work(false);
        Ok(())
    }

    fn has_unsubmitted(&mut self) -> bool {
        !self.unsubmitted.is_empty()
    }

    fn sleep(&mut self) -> io::Result<bool> {
        self.work(true);
        self.signals = self.ready.is_empty();
        Ok(self.signals)
    }

    fn wake_up(&mut self) {
        self.signals = false;
    }

    fn next(&mut self) -> Option<Completion<SimSocket>> {
        let completion = self.ready.pop_front();
        self.filled -= usize::from(matches!(completion, Some(Completion::Received { .. })));
        completion
    }
}
