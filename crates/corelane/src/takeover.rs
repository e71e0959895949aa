//! A new process takes the place of the one that serves: it receives the listening sockets themselves, so a peer that
//! connects meanwhile is neither refused nor reset.
//!
//! The two processes meet at a Unix socket. The successor connects, the predecessor sends its sockets (SCM_RIGHTS), the
//! successor serves them and reports it, and only then does the predecessor give up its place and drain. A successor
//! that fails earlier has changed nothing.
//!
//! In reading order: `place` decides where in the file system that socket is and who may use it, this file is the
//! successor's side, `offer` the predecessor's. Each side checks which user runs the other process. The abstract name
//! that earlier versions used is still tried last by the successor, and still offered by the predecessor.

mod offer;
mod place;

use std::io::{self, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::io::retry_on_intr;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix, SocketFlags, SocketType,
    UCred, recvmsg, socket_with,
};

pub(crate) use self::offer::{DESCRIPTORS_MAX, Offer};
pub(crate) use self::place::Place;

/// The successor's report that it serves.
const SERVES: u8 = b'+';
/// The predecessor's answer to a successor that came too late: another one was faster, or newer ones asked. Sent over
/// the socket in the file system only, because an earlier version would take it for the end of the predecessor.
const REFUSED: u8 = b'-';
/// Most sockets that one message carries (`SCM_MAX_FD`).
const SOCKETS_MAX: usize = 253;
/// How long the other side may take for its part. Starting a server takes at most half of it.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the queue of the other side may stay full. Only its own user or root can fill that of the path.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// The abstract name (unix(7)) of a server. It has no permissions: any user of the host may connect to it or bind it.
fn abstract_name(listen: SocketAddr) -> io::Result<SocketAddrUnix> {
    Ok(SocketAddrUnix::new_abstract_name(format!("corelane/{listen}").as_bytes())?)
}

/// The process that serves now and has given its sockets.
pub(crate) struct Predecessor {
    stream: UnixStream,
    reached: Reached,
}

/// How a predecessor was found.
struct Reached {
    address: SocketAddrUnix,
    user: UCred,
}

impl Predecessor {
    /// Asks the process that serves `listen` for its sockets: those of the data port, then that of the control port.
    pub(crate) fn ask(listen: SocketAddr, path: Option<&Path>) -> io::Result<(Self, Vec<TcpListener>)> {
        let (stream, reached) = reach(listen, path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut count = [0];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        // A read with a timeout is not restarted by the kernel: an io_uring that is being closed is enough to end it.
        let received = retry_on_intr(|| {
            recvmsg(&stream, &mut [IoSliceMut::new(&mut count)], &mut control, RecvFlags::CMSG_CLOEXEC)
        })?;
        if received.bytes == 0 {
            let text = "it closed without sending its sockets, as it does for users other than its own and root";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        let mut sockets = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                sockets.extend(descriptors.map(TcpListener::from));
            }
        }
        if sockets.len() != usize::from(count[0]) || sockets.len() < 2 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it did not send its sockets"));
        }
        Ok((Self { stream, reached }, sockets))
    }

    /// Reports that its sockets are served, and waits until it accepts no more.
    ///
    /// # Errors
    /// When it still serves, or another successor has taken its place.
    pub(crate) fn relieve(mut self) -> io::Result<()> {
        let reported = self.stream.write_all(&[SERVES]);
        let mut answer = Vec::new();
        // It closes without an answer.
        let ended = self.stream.read_to_end(&mut answer);
        if answer == [REFUSED] {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, "another successor was faster or asked later"));
        }
        match reported.and(ended.map(drop)) {
            Err(error) if self.reached.is_there() => Err(error),
            // A predecessor that broke off and has left its place is gone.
            _ => Ok(()),
        }
    }
}

impl Reached {
    fn is_there(&self) -> bool {
        let user = connect(&self.address).and_then(|stream| Ok(sockopt::socket_peercred(&stream)?));
        user.is_ok_and(|user| user.uid == self.user.uid)
    }
}

/// Connects to the predecessor: at its path, else at its abstract name.
fn reach(listen: SocketAddr, path: Option<&Path>) -> io::Result<(UnixStream, Reached)> {
    let by_path = path.map(|path| {
        let address = SocketAddrUnix::new(path)?;
        let stream = connect(&address)?;
        let user = sockopt::socket_peercred(&stream)?;
        // Root takes over from the user to whom root has given the directory.
        let is_trusted = is_trusted(&user) || (rustix::process::geteuid().is_root() && place::is_of(path, user.uid)?);
        if is_trusted { Ok((stream, Reached { address, user })) } else { Err(foreign(&user)) }
    });
    let by_name = || {
        let address = abstract_name(listen)?;
        let stream = connect(&address)?;
        let user = sockopt::socket_peercred(&stream)?;
        if is_trusted(&user) { Ok((stream, Reached { address, user })) } else { Err(foreign(&user)) }
    };
    match by_path {
        Some(Ok(reached)) => Ok(reached),
        // A socket that is there and cannot be used explains more than a name that is not there.
        Some(Err(error)) if !is_absent(&error) => {
            by_name().map_err(|other| if is_absent(&other) { error } else { other })
        }
        _ => by_name(),
    }
}

/// Whether nobody listens there.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// Connects; fails with `WouldBlock` if the queue of the other side stays full for [`CONNECT_PATIENCE`].
fn connect(address: &SocketAddrUnix) -> io::Result<UnixStream> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_timeout(&socket, Timeout::Send, Some(CONNECT_PATIENCE))?;
    retry_on_intr(|| rustix::net::connect(&socket, address))?;
    Ok(socket.into())
}

/// Whether a process of this user may take part: one of the own user, or of root.
fn is_trusted(user: &UCred) -> bool {
    user.uid == rustix::process::geteuid() || user.uid.is_root()
}

fn foreign(user: &UCred) -> io::Error {
    let text = format!("process {} on the other side belongs to another user", user.pid.as_raw_nonzero());
    io::Error::new(io::ErrorKind::PermissionDenied, text)
}
