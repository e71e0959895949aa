//! The listening sockets of all shards on one address, made before any shard starts.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use crate::limits::{KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_PROBES, SEND_BUFFER_BYTES};

/// Binds `count` sockets to `address` and listens on each; the kernel deals connections out among them.
///
/// The first socket is bound without SO_REUSEPORT: that fails when another process serves the address, which a bind with
/// the option would hide. The option is set afterwards, so the others can join; port 0 is chosen by the first.
///
/// # Errors
/// What the kernel says: in use, not available, not permitted; the text names the call.
pub fn bind_listeners(address: SocketAddr, count: usize, backlog: u32) -> io::Result<Vec<TcpListener>> {
    let first =
        Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP)).map_err(in_call("socket"))?;
    // Lets a restarted server bind while connections of its predecessor are in TIME_WAIT.
    first.set_reuse_address(true).map_err(in_call("setsockopt"))?;
    first.bind(&address.into()).map_err(in_call("bind"))?;
    adopt_listeners(vec![first.into()], count, backlog)
}

/// Makes `count` listening sockets of bound ones that came from elsewhere: a service manager or a predecessor. Binds those
/// that are missing to the address of the first. Where the kernel refuses that (another user made the first, or the port
/// is a low one), shards share what there is.
///
/// What is set on a listener is inherited by the connections it accepts, so none of this costs a call per connection.
///
/// # Errors
/// What the kernel says; `InvalidInput` when there is none to begin with, or more than `count`.
pub fn adopt_listeners(bound: Vec<TcpListener>, count: usize, backlog: u32) -> io::Result<Vec<TcpListener>> {
    let mut sockets: Vec<_> = bound.into_iter().map(Socket::from).collect();
    let first = sockets.first().filter(|_| sockets.len() <= count).ok_or(io::ErrorKind::InvalidInput)?;
    let address = first.local_addr()?;
    let domain = first.domain()?;
    sockets.iter().try_for_each(|socket| socket.set_reuse_port(true)).map_err(in_call("setsockopt"))?;
    for given in (0..sockets.len()).cycle().take(count - sockets.len()) {
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        let socket = match socket.bind(&address) {
            Err(error) if matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied) => {
                sockets[given].try_clone()?
            }
            bound => bound.map(|()| socket).map_err(in_call("bind"))?,
        };
        sockets.push(socket);
    }
    // Listening only now, in shard order, gives each shard its index in the kernel's group, and nobody half a server.
    for socket in &sockets {
        set_options(socket).map_err(in_call("setsockopt"))?;
        socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX)).map_err(in_call("listen"))?;
    }
    Ok(sockets.into_iter().map(TcpListener::from).collect())
}

/// The same error with the name of the call that returned it.
fn in_call(call: &'static str) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{call}: {error}"))
}

fn set_options(socket: &Socket) -> io::Result<()> {
    // Made by others, it may not block.
    socket.set_nonblocking(false)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    // Bounds our own unacknowledged answers; keepalive alone does not look while some are under way.
    socket.set_tcp_user_timeout(Some(KEEPALIVE_IDLE + KEEPALIVE_INTERVAL * KEEPALIVE_PROBES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_shards_share_one_port_and_a_second_server_is_refused_it() {
        let listeners = bind_listeners("127.0.0.1:0".parse().unwrap(), 3, 16).unwrap();
        let address = listeners[0].local_addr().unwrap();
        assert!(listeners.iter().all(|listener| listener.local_addr().unwrap() == address));
        assert_eq!(bind_listeners(address, 1, 16).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listeners);
        assert!(bind_listeners(address, 1, 16).is_ok());
    }

    #[test]
    fn others_join_a_socket_that_was_bound_elsewhere() {
        let bound = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = bound.local_addr().unwrap();
        let listeners = adopt_listeners(vec![bound], 3, 16).unwrap();
        assert_eq!(listeners.len(), 3);
        assert!(listeners.iter().all(|listener| listener.local_addr().unwrap() == address));
        assert_eq!(adopt_listeners(listeners, 2, 16).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(adopt_listeners(Vec::new(), 2, 16).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
