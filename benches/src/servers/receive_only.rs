//! The limit: one thread that receives from whoever has sent, and looks at nothing.

use std::collections::HashMap;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::Counted;

/// What one call may bring; 128 KiB and more were slower.
const RECEIVE_BYTES: usize = 64 * 1024;
/// Calls for one connection before the others have theirs, so that asking who has sent costs nothing.
const CALLS: usize = 16;

pub(super) fn run(listener: TcpListener, counted: Arc<Counted>) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&poll, &listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
    let mut connections: HashMap<u64, OwnedFd> = HashMap::new();
    let mut buffer = vec![0; RECEIVE_BYTES];
    let mut events = Vec::with_capacity(256);
    loop {
        events.clear();
        epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), None)?;
        for event in &events {
            let key = event.data.u64();
            if key == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    let key = stream.as_raw_fd() as u64;
                    epoll::add(&poll, &stream, epoll::EventData::new_u64(key), epoll::EventFlags::IN)?;
                    connections.insert(key, stream.into());
                }
            } else if !receive(&connections[&key], &mut buffer, &counted)? {
                connections.remove(&key);
            }
        }
    }
}

/// Takes what is there; `false` when the peer has closed.
fn receive(connection: &OwnedFd, buffer: &mut [u8], counted: &Counted) -> io::Result<bool> {
    for _ in 0..CALLS {
        match recv(connection, &mut *buffer, RecvFlags::DONTWAIT) {
            Ok((_, 0)) | Err(Errno::CONNRESET) => return Ok(false),
            Ok((_, bytes)) => counted.add_bytes(bytes),
            Err(Errno::AGAIN) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

const LISTENER: u64 = u64::MAX;
