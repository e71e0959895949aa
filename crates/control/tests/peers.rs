//! HTTP peers that stall, break off, or come in numbers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use corelane_control::HttpLimits;
use socket2::{Domain, SockRef, Socket, Type};
use support::Server;

/// One connection at a time: an answer to anybody shows that the peer before was let go.
fn one_place() -> HttpLimits {
    HttpLimits {
        connections_max: 1,
        header_timeout: Duration::from_millis(400),
        answer_timeout: Duration::from_millis(600),
    }
}

#[test]
fn a_peer_that_stalls_in_its_header_is_closed() {
    let server = Server::start(1, one_place());
    for sent in ["", "GET /metr", "GET /metrics HTTP/1.1\r\nHost: test\r\nX-Slow: "] {
        let mut stalled = TcpStream::connect(server.address).unwrap();
        stalled.write_all(sent.as_bytes()).unwrap();
        let asked = Instant::now();
        assert_eq!(server.get("/healthz").status, 200, "after {sent:?}");
        assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    }
}

#[test]
fn a_header_beyond_its_bound_is_refused() {
    let server = Server::start(1, one_place());
    let mut stream = TcpStream::connect(server.address).unwrap();
    let _ = stream.write_all(format!("GET /healthz HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(100_000)).as_bytes());
    let mut answer = [0; 12];
    // Closing with unread bytes may reset the connection before its answer is read.
    if stream.read_exact(&mut answer).is_ok() {
        assert_eq!(&answer, b"HTTP/1.1 431");
    }
    assert_eq!(server.get("/healthz").status, 200);
}

/// Asks for an answer of a few megabytes with a small window, and reads the beginning of it.
fn half_read(server: &Server) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    socket.connect(&server.address.into()).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.write_all(b"GET /api/v1/sensors?limit=10000 HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    let mut start = [0; 15];
    stream.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.1 200 OK");
    stream
}

/// With more to tell in one answer than the kernel's buffers of a connection hold.
fn with_long_answers() -> Server {
    let server = Server::start(1, one_place());
    server.shards[0].with(|data| {
        for id in 0..10_000 {
            let id = format!("{id:>256}");
            data.rollup.record(0, &id, 1, [("s".repeat(256).as_str(), 1.0)].into_iter());
        }
    });
    server
}

#[test]
fn a_peer_that_stalls_in_its_answer_is_closed() {
    let server = with_long_answers();
    let stalled = half_read(&server);
    let asked = Instant::now();
    assert_eq!(server.get("/healthz").status, 200);
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    drop(stalled);
}

#[test]
fn a_peer_killed_in_its_answer_frees_its_place() {
    let server = with_long_answers();
    for _ in 0..5 {
        let killed = half_read(&server);
        // As when a process dies with unread bytes: a reset.
        SockRef::from(&killed).set_linger(Some(Duration::ZERO)).unwrap();
        drop(killed);
        assert_eq!(server.get("/healthz").status, 200);
    }
}

#[test]
fn more_peers_than_places_are_served_in_turn() {
    let server = Server::start(1, HttpLimits { connections_max: 4, ..one_place() });
    let idle: Vec<_> = (0..32).map(|_| TcpStream::connect(server.address).unwrap()).collect();
    let asked = Instant::now();
    assert_eq!(server.get("/healthz").status, 200);
    assert!(asked.elapsed() >= Duration::from_millis(400), "it waited for places");
    drop(idle);
}

#[test]
fn a_connection_carries_several_requests() {
    let server = Server::start(1, one_place());
    let mut stream = TcpStream::connect(server.address).unwrap();
    for _ in 0..3 {
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"ready\n") {
            let mut bytes = [0; 512];
            let count = stream.read(&mut bytes).unwrap();
            assert!(count > 0, "the connection stays open");
            answer.extend_from_slice(&bytes[..count]);
        }
        sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_stop_does_not_wait_for_a_stalled_peer() {
    let server = with_long_answers();
    let stalled = half_read(&server);
    let asked = Instant::now();
    server.stop();
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
    drop(stalled);
}
