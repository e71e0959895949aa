//! A new process takes the place of the one that serves: it is given the listening sockets themselves, so that nobody who
//! connects meanwhile is refused or reset.
//!
//! Over an abstract Unix socket named after the data port (unix(7); in the network namespace, like the port), both sides
//! checked to be the same user: the successor asks, the predecessor sends its sockets (SCM_RIGHTS), the successor serves
//! them and says so, and only then does the predecessor give up the name and drain. A successor that fails on the way
//! has changed nothing.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener, UnixStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::io::retry_on_intr;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg, sockopt,
};

/// The successor's word that it serves.
const SERVES: u8 = b'+';
/// Most sockets that one message carries (`SCM_MAX_FD`).
const SOCKETS_MAX: usize = 253;
/// How long the other side may take for anything.
const PATIENCE: Duration = Duration::from_secs(60);
/// After a takeover that failed.
const RETRY: Duration = Duration::from_secs(1);

fn name(listen: SocketAddr) -> io::Result<UnixAddress> {
    UnixAddress::from_abstract_name(format!("corelane/{listen}"))
}

/// The process that serves now, its sockets in hand.
pub(crate) struct Predecessor {
    stream: UnixStream,
}

impl Predecessor {
    /// Asks the process that serves `listen` for its sockets: those of the data port, then that of the control port.
    pub(crate) fn ask(listen: SocketAddr) -> io::Result<(Self, Vec<TcpListener>)> {
        let stream = UnixStream::connect_addr(&name(listen)?)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        check_user(&stream)?;
        let mut count = [0];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        // A read with a timeout is not restarted by the kernel: an io_uring that is being closed is enough to end it.
        retry_on_intr(|| recvmsg(&stream, &mut [IoSliceMut::new(&mut count)], &mut control, RecvFlags::CMSG_CLOEXEC))?;
        let mut sockets = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                sockets.extend(descriptors.map(TcpListener::from));
            }
        }
        if sockets.len() != usize::from(count[0]) || sockets.len() < 2 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it did not give its sockets"));
        }
        Ok((Self { stream }, sockets))
    }

    /// Tells it that its sockets are served, and waits until it accepts no more.
    pub(crate) fn relieve(mut self) -> io::Result<()> {
        self.stream.write_all(&[SERVES])?;
        // It closes without a word.
        self.stream.read_to_end(&mut Vec::new()).map(drop)
    }
}

/// Sockets that a successor may ask for.
#[derive(Clone)]
pub(crate) struct Offer {
    sockets: Arc<Mutex<Vec<OwnedFd>>>,
    /// The listener again, until the offer is withdrawn: to wake who accepts.
    listener: Arc<Mutex<Option<OwnedFd>>>,
}

impl Offer {
    /// Offers sockets until they are withdrawn or taken; then `on_relieved` gets the successor's process number.
    ///
    /// # Errors
    /// When the name is taken, which means that another process offers sockets for the same address.
    pub(crate) fn make(
        listen: SocketAddr,
        sockets: Vec<OwnedFd>,
        on_relieved: impl FnOnce(u32) + Send + 'static,
    ) -> io::Result<Self> {
        let listener = UnixListener::bind_addr(&name(listen)?)?;
        let again = Arc::new(Mutex::new(Some(listener.try_clone()?.into())));
        let offer = Self { sockets: Arc::new(Mutex::new(sockets)), listener: again };
        let theirs = offer.clone();
        let run = move || {
            let successor = loop {
                match listener.accept().and_then(|(stream, _)| theirs.hand_over(stream)) {
                    Ok(successor) => break Some(successor),
                    Err(_) if theirs.is_withdrawn() => break None,
                    Err(error) => tracing::warn!("a takeover was not completed, this process goes on: {error}"),
                }
                // Whoever fails again and again, or a host without descriptors, costs a line a second.
                thread::sleep(RETRY);
            };
            // The name is the successor's from here on; it learns that by the end of the stream.
            drop(listener);
            theirs.withdraw();
            if let Some((stream, process)) = successor {
                tracing::info!(process, "another process has taken the listening sockets over; stopping");
                drop(stream);
                on_relieved(process);
            }
        };
        thread::Builder::new().name("takeover".into()).spawn(run)?;
        Ok(offer)
    }

    /// Closes this side of the sockets: while one is held, the kernel lets peers connect that nobody will accept. Gives up
    /// the name, too.
    pub(crate) fn withdraw(&self) {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner).clear();
        // Ends the accept that waits. The name is free when its listener is closed, too.
        if let Some(listener) = self.listener.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = rustix::net::shutdown(&listener, rustix::net::Shutdown::Both);
        }
    }

    fn is_withdrawn(&self) -> bool {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Gives the sockets to whoever has connected, and waits until it serves them.
    fn hand_over(&self, mut stream: UnixStream) -> io::Result<(UnixStream, u32)> {
        stream.set_read_timeout(Some(PATIENCE))?;
        let process = check_user(&stream)?;
        self.send(&stream)?;
        let mut word = [0];
        stream.read_exact(&mut word)?;
        if word == [SERVES] { Ok((stream, process)) } else { Err(io::ErrorKind::InvalidData.into()) }
    }

    fn send(&self, stream: &UnixStream) -> io::Result<()> {
        let sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        let sockets: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
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

/// An abstract name has no permissions: anybody on this host may connect to it, or have bound it first.
fn check_user(stream: &UnixStream) -> io::Result<u32> {
    let other = sockopt::socket_peercred(stream)?;
    if other.uid != rustix::process::geteuid() && !other.uid.is_root() {
        let text = format!("the process on the other side, {}, belongs to another user", other.pid.as_raw_nonzero());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    Ok(other.pid.as_raw_nonzero().get().unsigned_abs())
}
