//! The calls on a TCP socket that need no ring: each returns at once.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown};

use crate::kernel::Socket;
use crate::window::make_room_for_frame;

impl Socket for OwnedFd {
    fn send(&self, bytes: &[u8]) -> Option<usize> {
        match rustix::net::send(self, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(sent) => Some(sent),
            Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS | Errno::NOMEM) => Some(0),
            Err(_) => None,
        }
    }

    fn receive(&self, into: &mut [u8]) -> Result<usize, Errno> {
        rustix::net::recv(self, into, RecvFlags::DONTWAIT).map(|(bytes, _)| bytes)
    }

    fn unread_bytes(&self) -> u64 {
        rustix::io::ioctl_fionread(self).unwrap_or(0)
    }

    fn has_ended(&self) -> bool {
        has_event(self, PollFlags::RDHUP)
    }

    fn is_readable(&self) -> bool {
        has_event(self, PollFlags::IN | PollFlags::RDHUP)
    }

    fn end_writing(&self) {
        let _ = rustix::net::shutdown(self, Shutdown::Write);
    }

    fn shut_down(&self) {
        let _ = rustix::net::shutdown(self, Shutdown::Both);
    }

    fn peer_address(&self) -> SocketAddr {
        let address =
            rustix::net::getpeername(self).ok().flatten().and_then(|address| SocketAddr::try_from(address).ok());
        address.unwrap_or(SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)))
    }

    fn make_room_for_frame(&self) {
        make_room_for_frame(self.as_fd());
    }
}

/// Whether one of these events, an error or a hang-up is there already.
fn has_event(socket: &OwnedFd, events: PollFlags) -> bool {
    poll(&mut [PollFd::new(socket, events)], Some(&Timespec::default())) == Ok(1)
}
