//! The receive low-water mark of a socket: how many bytes have to be there before the kernel calls it readable.
#![allow(unsafe_code, reason = "no safe wrapper of setsockopt(2) knows SO_RCVLOWAT")]

use std::os::fd::{AsRawFd, BorrowedFd};

use corelane_wire::MAX_FRAME_SIZE;

/// Has the socket reported as readable once `bytes` are there, its stream has ended, or an error came.
pub(crate) fn await_bytes(socket: BorrowedFd<'_>, bytes: usize) {
    // For TCP the kernel makes the receive buffer large enough for the mark. Segments that are read in part still fill it, so
    // it is asked for twice as much first; it stays large.
    set_receive_low_water(socket, 2 * bytes.max(MAX_FRAME_SIZE));
    set_receive_low_water(socket, bytes);
}

/// Has the socket reported as readable as soon as anything is there.
pub(crate) fn await_anything(socket: BorrowedFd<'_>) {
    set_receive_low_water(socket, 1);
}

/// Sets SO_RCVLOWAT (socket(7)). The kernel lowers it to half of the maximum of `net.ipv4.tcp_rmem`.
fn set_receive_low_water(socket: BorrowedFd<'_>, bytes: usize) {
    let value = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    // SAFETY: the descriptor is open as long as it is borrowed, and the value is an int of the length given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    debug_assert_eq!(result, 0, "a TCP socket has a low-water mark");
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    #[test]
    fn a_socket_is_readable_once_all_that_is_missing_has_come_or_nothing_more_will() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (receiver, _) = listener.accept().unwrap();
        let is_readable = |milliseconds: i64| {
            let timeout = Timespec { tv_sec: milliseconds / 1_000, tv_nsec: milliseconds % 1_000 * 1_000_000 };
            poll(&mut [PollFd::new(&receiver, PollFlags::IN)], Some(&timeout)).unwrap() == 1
        };
        await_bytes(receiver.as_fd(), 65_000);
        sender.write_all(&[0; 64_999]).unwrap();
        assert!(!is_readable(20));
        sender.write_all(&[0]).unwrap();
        assert!(is_readable(1_000));
        await_bytes(receiver.as_fd(), 65_001);
        assert!(!is_readable(20));
        await_anything(receiver.as_fd());
        assert!(is_readable(1_000));
        await_bytes(receiver.as_fd(), 65_001);
        drop(sender);
        assert!(is_readable(1_000), "the end of the stream");
    }
}
