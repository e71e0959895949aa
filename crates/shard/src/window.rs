//! The receive window of a socket, made large enough for the largest frame.
#![allow(unsafe_code, reason = "no safe wrapper of setsockopt(2) knows SO_RCVLOWAT")]

use std::os::fd::{AsRawFd, BorrowedFd};

use corelane_wire::MAX_FRAME_SIZE;

/// Has the kernel make the receive buffer of a TCP socket large enough for two of the largest frames.
///
/// A connection begins with a window of 64 KiB, and a segment that is read in part still takes all of its memory, so the
/// rest of a frame may not fit although it is all that is unread. Unlike SO_RCVBUF, a low-water mark (SO_RCVLOWAT,
/// socket(7)) enlarges the buffer without ending the kernel's own tuning of it. Half of the maximum of `net.ipv4.tcp_rmem`
/// bounds it.
pub(crate) fn make_room_for_frame(socket: BorrowedFd<'_>) {
    set_receive_low_water(socket, 2 * MAX_FRAME_SIZE as libc::c_int);
    set_receive_low_water(socket, 1);
}

fn set_receive_low_water(socket: BorrowedFd<'_>, bytes: libc::c_int) {
    // SAFETY: the descriptor is open as long as it is borrowed, and the value is an int of the length given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const bytes).cast(),
            size_of_val(&bytes) as libc::socklen_t,
        )
    };
    debug_assert_eq!(result, 0, "a TCP socket has a low-water mark");
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::thread::sleep;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn the_largest_frame_fits_the_window_of_a_socket_that_is_not_read() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (receiver, _) = listener.accept().unwrap();
        make_room_for_frame(receiver.as_fd());
        sender.write_all(&vec![0; MAX_FRAME_SIZE + 4]).unwrap();
        let until = Instant::now() + Duration::from_secs(5);
        while rustix::io::ioctl_fionread(&receiver).unwrap() < MAX_FRAME_SIZE as u64 + 4 {
            assert!(Instant::now() < until, "{:?}", rustix::io::ioctl_fionread(&receiver));
            #[allow(clippy::disallowed_methods, reason = "a test may wait")]
            sleep(Duration::from_millis(1));
        }
    }
}
