//! The predecessor's side: sockets that a successor may ask for, until they are withdrawn or taken.
//!
//! One thread waits for successors at the path and at the abstract name. Processes of other users are refused at once;
//! several successors may be under way at a time, and the first that reports that it serves takes over, so one that is
//! silent delays nobody.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg, sockopt};

use super::place::{self, SocketFile};
use super::{PATIENCE, REFUSED, SERVES, SOCKETS_MAX, foreign, is_trusted};

/// Successors under way at a time; a further one replaces the oldest. A successor holds a descriptor and its copy of the
/// sockets. More than one means that an operator tries again, or that a process of the same user is in the way.
const SUCCESSORS_MAX: usize = 4;

/// Connections that are accepted from one listener before the others are looked at.
const ACCEPTS_A_TURN: usize = 64;

/// How long the abstract name rests after a turn with processes of other users: at most 6 400 of them a second cost CPU,
/// which may be that of a data core. A full queue of 4 096 is worked off in less than a second.
const REST: Duration = Duration::from_millis(10);

/// Wait after a failed accept: the host has no descriptor or no memory left.
const RETRY: Duration = Duration::from_secs(1);

/// A takeover that failed is logged at most this often: an operator who tries again sees each attempt.
const LOG_FAILED_EVERY: Duration = Duration::from_secs(1);
/// Refused processes of other users are logged at most this often, because they decide how many there are.
const LOG_FOREIGN_EVERY: Duration = Duration::from_secs(60);

/// Descriptors of an offer: two listeners, what wakes the thread, the successors, and a connection that is refused. The
/// offered sockets are counted elsewhere.
pub(crate) const DESCRIPTORS_MAX: u64 = 2 + 1 + SUCCESSORS_MAX as u64 + 1;

/// Sockets that a successor may ask for.
pub(crate) struct Offer {
    withdraw: Arc<OwnedFd>,
    thread: JoinHandle<()>,
}

impl Offer {
    /// Offers sockets until they are withdrawn or taken; then `on_relieved` gets the successor's process number.
    ///
    /// # Errors
    /// When neither the path nor the abstract name can be had; that only one of them can be had is logged.
    pub(crate) fn make(
        listen: SocketAddr,
        path: Option<&Path>,
        sockets: Vec<OwnedFd>,
        on_relieved: impl FnOnce(u32) + Send + 'static,
    ) -> io::Result<Self> {
        let withdraw = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let host = Host {
            doors: doors(listen, path)?,
            sockets,
            withdraw: Arc::clone(&withdraw),
            successors: VecDeque::new(),
            failed: Complaints::new(LOG_FAILED_EVERY),
            foreign: Complaints::new(LOG_FOREIGN_EVERY),
        };
        let run = move || {
            if let Some(Successor { stream, process, .. }) = host.run() {
                tracing::info!(process, "another process has taken the listening sockets over; stopping");
                // Its read ends, by which it learns that the place is free.
                drop(stream);
                on_relieved(process);
            }
        };
        Ok(Self { withdraw, thread: thread::Builder::new().name("takeover".into()).spawn(run)? })
    }

    /// Closes this side of the sockets: while it is open, the kernel lets peers connect that nobody will accept. Gives up
    /// path and name, too.
    pub(crate) fn withdraw(self) {
        let _ = rustix::io::write(&self.withdraw, &1_u64.to_ne_bytes());
        // It may have ended before. It never waits for another process.
        let _ = self.thread.join();
    }
}

/// A listener for successors.
struct Door {
    listener: UnixListener,
    /// `None` for the abstract name.
    file: Option<SocketFile>,
    rests_until: Option<Instant>,
}

/// The path first, so that a flood at the abstract name comes after it in each turn.
fn doors(listen: SocketAddr, path: Option<&Path>) -> io::Result<Vec<Door>> {
    let mut doors = Vec::new();
    let by_path = path.map(|path| (path, place::listen(path)));
    if let Some((path, made)) = by_path {
        match made {
            Ok((listener, file)) => doors.push(Door { listener, file: Some(file), rests_until: None }),
            Err(error) => tracing::warn!("no takeover over {}: {error}", path.display()),
        }
    }
    match by_name(listen) {
        Ok(listener) => doors.push(Door { listener, file: None, rests_until: None }),
        Err(error) if doors.is_empty() => return Err(error),
        Err(error) => tracing::warn!("a successor of an earlier version cannot take over: its abstract name: {error}"),
    }
    Ok(doors)
}

fn by_name(listen: SocketAddr) -> io::Result<UnixListener> {
    let name = UnixAddress::from_abstract_name(format!("corelane/{listen}"))?;
    let listener = UnixListener::bind_addr(&name)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// A process that has been sent the sockets.
struct Successor {
    stream: UnixStream,
    process: u32,
    deadline: Instant,
    /// Whether it came by the path, so that it understands [`REFUSED`].
    by_path: bool,
}

impl Successor {
    fn refuse(mut self) {
        if self.by_path {
            let _ = self.stream.write(&[REFUSED]);
        }
    }
}

/// What the thread works with.
struct Host {
    doors: Vec<Door>,
    sockets: Vec<OwnedFd>,
    withdraw: Arc<OwnedFd>,
    /// Oldest first.
    successors: VecDeque<Successor>,
    failed: Complaints,
    foreign: Complaints,
}

impl Host {
    /// Runs until somebody has taken over, who is returned, or the offer is withdrawn. Path and name are free then, and
    /// this side of the sockets is closed.
    fn run(mut self) -> Option<Successor> {
        let mut pause = None;
        while !self.wait(pause.take()) {
            if let Some(successor) = self.listen_to_successors() {
                self.successors.into_iter().for_each(Successor::refuse);
                return Some(successor);
            }
            let now = Instant::now();
            for door in 0..self.doors.len() {
                if self.doors[door].rests_until.is_some_and(|until| now < until) {
                    continue;
                }
                if let Err(error) = self.accept(door) {
                    self.failed.log(|count| tracing::warn!(count, "cannot accept a successor: {error}"));
                    pause = Some(RETRY);
                }
            }
        }
        None
    }

    /// Waits until there is something to do, or for a time without looking; whether the offer was withdrawn.
    fn wait(&self, pause: Option<Duration>) -> bool {
        let mut descriptors: Vec<BorrowedFd<'_>> = vec![self.withdraw.as_fd()];
        let mut timeout = pause;
        if pause.is_none() {
            let now = Instant::now();
            let is_awake = |door: &&Door| door.rests_until.is_none_or(|until| until <= now);
            descriptors.extend(self.doors.iter().filter(is_awake).map(|door| door.listener.as_fd()));
            descriptors.extend(self.successors.iter().map(|successor| successor.stream.as_fd()));
            let rests = self.doors.iter().filter_map(|door| door.rests_until.filter(|until| *until > now));
            let first = self.successors.iter().map(|successor| successor.deadline).chain(rests).min();
            timeout = first.map(|time| time.saturating_duration_since(now));
        }
        let mut polled: Vec<PollFd<'_>> =
            descriptors.iter().map(|descriptor| PollFd::new(descriptor, PollFlags::IN)).collect();
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        // An interrupted wait looks at everything once more.
        let _ = poll(&mut polled, timeout.as_ref());
        !polled[0].revents().is_empty()
    }

    /// The first successor that serves. Those that have ended or take too long are dropped.
    fn listen_to_successors(&mut self) -> Option<Successor> {
        let now = Instant::now();
        for _ in 0..self.successors.len() {
            let mut successor = self.successors.pop_front()?;
            let mut report = [0];
            let error = match successor.stream.read(&mut report) {
                Ok(1) if report == [SERVES] => return Some(successor),
                Ok(0) => io::Error::from(io::ErrorKind::UnexpectedEof),
                Ok(_) => io::Error::from(io::ErrorKind::InvalidData),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && now < successor.deadline => {
                    self.successors.push_back(successor);
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => io::Error::from(io::ErrorKind::TimedOut),
                Err(error) => error,
            };
            self.give_up(successor, &error);
        }
        None
    }

    fn give_up(&mut self, successor: Successor, error: &io::Error) {
        let process = successor.process;
        successor.refuse();
        self.failed.log(|count| {
            tracing::warn!(count, process, "a takeover was not completed, this process goes on: {error}");
        });
    }

    /// Accepts those that wait at a door, and sends them the sockets.
    fn accept(&mut self, door: usize) -> io::Result<()> {
        for _ in 0..ACCEPTS_A_TURN {
            let stream = match self.doors[door].listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            let by_path = self.doors[door].file.is_some();
            match self.hand_over(stream, by_path) {
                Ok(true) => {}
                Ok(false) => self.doors[door].rests_until = Some(Instant::now() + REST),
                Err(error) => {
                    self.failed.log(|count| tracing::warn!(count, "a takeover failed, this process goes on: {error}"));
                }
            }
        }
        Ok(())
    }

    /// Sends the sockets to a process that has connected; `false` for one of another user, which gets nothing.
    fn hand_over(&mut self, stream: UnixStream, by_path: bool) -> io::Result<bool> {
        let user = sockopt::socket_peercred(&stream)?;
        if !is_trusted(&user) {
            self.foreign.log(|count| tracing::warn!(count, "a takeover was refused: {}", foreign(&user)));
            return Ok(false);
        }
        stream.set_nonblocking(true)?;
        self.send(&stream)?;
        if self.successors.len() == SUCCESSORS_MAX
            && let Some(oldest) = self.successors.pop_front()
        {
            self.give_up(oldest, &io::Error::new(io::ErrorKind::ResourceBusy, "newer successors have asked"));
        }
        let process = user.pid.as_raw_nonzero().get().unsigned_abs();
        self.successors.push_back(Successor { stream, process, deadline: Instant::now() + PATIENCE, by_path });
        Ok(true)
    }

    fn send(&self, stream: &UnixStream) -> io::Result<()> {
        let sockets: Vec<_> = self.sockets.iter().map(AsFd::as_fd).collect();
        let count = u8::try_from(sockets.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&sockets)) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many sockets for one message"));
        }
        sendmsg(stream, &[IoSlice::new(&[count])], &mut control, SendFlags::NOSIGNAL).map(drop)?;
        Ok(())
    }
}

/// Log lines of one kind, at most one in each period; a line reports how many occurrences it stands for.
struct Complaints {
    period: Duration,
    quiet_until: Instant,
    count: u64,
}

impl Complaints {
    fn new(period: Duration) -> Self {
        Self { period, quiet_until: Instant::now(), count: 0 }
    }

    fn log(&mut self, write: impl FnOnce(u64)) {
        let now = Instant::now();
        self.count += 1;
        if now >= self.quiet_until {
            self.quiet_until = now + self.period;
            write(std::mem::take(&mut self.count));
        }
    }
}
