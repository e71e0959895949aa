//! HTTP peers that stall, break off, or come in numbers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use corelane_control::HttpLimits;
use socket2::{Domain, SockRef, Socket, Type};
use support::{Server, wait_until};

/// Many places, held for short times.
fn impatient() -> HttpLimits {
    HttpLimits {
        header_timeout: Duration::from_millis(400),
        idle_timeout: Duration::from_millis(800),
        answer_timeout: Duration::from_millis(600),
        ..HttpLimits::default()
    }
}

/// Few places, and nobody's time is ever up.
fn crowded() -> HttpLimits {
    let times =
        HttpLimits { header_timeout: NEVER, idle_timeout: NEVER, answer_timeout: NEVER, ..HttpLimits::default() };
    HttpLimits { connections_max: 4, waiting_max: 16, probes_max: 2, ..times }
}

/// Longer than anything here takes on a busy machine, and far shorter than [`NEVER`].
const DEADLINE: Duration = Duration::from_secs(20);

/// A time that no test waits for.
const NEVER: Duration = Duration::from_secs(600);

/// Reads to the end of a connection, be it a reset, and returns how many bytes came.
fn read_to_end(stream: &mut TcpStream) -> usize {
    let (mut count, mut bytes) = (0, [0; 4096]);
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) => panic!("the connection is still open: {error}"),
        }
    }
    count
}

/// Asks over a kept connection, and reads an answer that ends so.
fn ask(stream: &mut TcpStream, request: &str, end: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(end.as_bytes()) {
        let mut bytes = [0; 512];
        let count = stream.read(&mut bytes).unwrap();
        assert!(count > 0, "the connection stays open");
        answer.extend_from_slice(&bytes[..count]);
    }
    String::from_utf8(answer).unwrap()
}

const ASK_READY: &str = "GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Other than a probe, this needs a place like everybody else's.
const ASK_EVENTS: &str = "GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[test]
fn a_peer_that_stalls_in_its_header_is_closed() {
    let server = Server::start(1, impatient());
    for sent in ["", "GET /metr", "GET /metrics HTTP/1.1\r\nHost: localhost\r\nX-Slow: "] {
        let started = Instant::now();
        let mut stalled = TcpStream::connect(server.address).unwrap();
        stalled.write_all(sent.as_bytes()).unwrap();
        assert_eq!(read_to_end(&mut stalled), 0, "after {sent:?}");
        assert!(started.elapsed() >= Duration::from_millis(400), "{:?} after {sent:?}", started.elapsed());
    }
}

#[test]
fn bytes_that_trickle_in_do_not_prolong_a_header() {
    let server = Server::start(1, impatient());
    // Also of a later request: the shorter time begins with its first byte.
    for before in [false, true] {
        let mut slow = TcpStream::connect(server.address).unwrap();
        if before {
            ask(&mut slow, ASK_READY, "ready\n");
        }
        let started = Instant::now();
        while slow.write_all(b"G").is_ok() {
            assert!(started.elapsed() < DEADLINE, "still open");
            sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn an_idle_peer_is_closed_later_than_one_in_its_header() {
    let server = Server::start(1, impatient());
    let mut idle = TcpStream::connect(server.address).unwrap();
    let asked = Instant::now();
    ask(&mut idle, ASK_READY, "ready\n");
    read_to_end(&mut idle);
    assert!(asked.elapsed() >= Duration::from_millis(800), "{:?}", asked.elapsed());
}

#[test]
fn a_header_beyond_its_bound_is_refused() {
    let server = Server::start(1, HttpLimits::default());
    let mut stream = TcpStream::connect(server.address).unwrap();
    let _ = stream.write_all(format!("GET /healthz HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(100_000)).as_bytes());
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 431");
    assert_eq!(server.get("/healthz").status, 200);
}

/// Asks for an answer of a few megabytes with a small window, and reads the beginning of it.
fn half_read(server: &Server) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    socket.connect(&server.address.into()).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.write_all(b"GET /api/v1/sensors?limit=10000 HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut start = [0; 15];
    stream.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.1 200 OK");
    stream
}

/// Whether the server has closed its side of a connection. What it has written before may stand in front of its FIN, so only
/// the kernel's list shows it.
fn is_closed_by_server(stream: &TcpStream) -> bool {
    let hex_port = |address: SocketAddr| format!(":{:04X}", address.port());
    let (own, server) = (hex_port(stream.local_addr().unwrap()), hex_port(stream.peer_addr().unwrap()));
    let sockets = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let state = sockets.lines().find_map(|line| {
        let mut columns = line.split_whitespace().skip(1);
        let is_it = columns.next()?.ends_with(&server) && columns.next()?.ends_with(&own);
        is_it.then(|| columns.next()).flatten()
    });
    state != Some(ESTABLISHED)
}

const ESTABLISHED: &str = "01";

/// What an answer has at least.
const LONG_ANSWER_BYTES_MIN: usize = 10_000 * 2 * 256;

/// With more to tell in one answer than the kernel's buffers of a connection hold.
fn with_long_answers(limits: HttpLimits) -> Server {
    let server = Server::start(1, limits);
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
    let server = with_long_answers(impatient());
    let mut stalled = half_read(&server);
    wait_until("the server has closed its side", || is_closed_by_server(&stalled));
    let count = read_to_end(&mut stalled);
    assert!(count < LONG_ANSWER_BYTES_MIN, "{count} bytes are the whole answer");
}

#[test]
fn a_peer_killed_in_its_answer_frees_its_place() {
    let server = with_long_answers(crowded());
    for _ in 0..5 {
        let killed = half_read(&server);
        // As when a process dies with unread bytes: a reset.
        SockRef::from(&killed).set_linger(Some(Duration::ZERO)).unwrap();
        drop(killed);
        assert_eq!(server.get("/healthz").status, 200);
    }
}

#[test]
fn idle_peers_make_room_the_oldest_first() {
    let server = with_long_answers(crowded());
    let mut reading = half_read(&server);
    let idle = (0..32).map(|_| {
        let mut idle = TcpStream::connect(server.address).unwrap();
        ask(&mut idle, ASK_EVENTS, "[]}");
        idle
    });
    let mut idle: Vec<_> = idle.collect();
    let asked = Instant::now();
    let mut newest = TcpStream::connect(server.address).unwrap();
    ask(&mut newest, ASK_EVENTS, "[]}");
    assert!(asked.elapsed() < DEADLINE, "{:?}", asked.elapsed());
    // Of four places one is at an answer and one is new.
    let mut kept = idle.split_off(30);
    idle.iter_mut().for_each(|stream| assert_eq!(read_to_end(stream), 0));
    kept.iter_mut().for_each(|stream| drop(ask(stream, ASK_EVENTS, "[]}")));
    // Whoever is at an answer is not disturbed.
    reading.read_exact(&mut vec![0; LONG_ANSWER_BYTES_MIN]).unwrap();
}

#[test]
fn a_burst_of_silent_peers_does_not_push_out_who_has_just_come() {
    let server = Server::start(1, crowded());
    let mut early = TcpStream::connect(server.address).unwrap();
    let burst: Vec<_> = (0..8).map(|_| TcpStream::connect(server.address).unwrap()).collect();
    sleep(Duration::from_millis(100));
    ask(&mut early, ASK_READY, "ready\n");
    assert_eq!(server.get("/healthz").status, 200);
    drop(burst);
}

#[test]
fn peers_that_do_not_take_their_answers_make_room_after_a_second() {
    let server = with_long_answers(crowded());
    let stalled: Vec<_> = (0..8).map(|_| half_read(&server)).collect();
    let asked = Instant::now();
    assert_eq!(server.get("/healthz").status, 200);
    assert!(asked.elapsed() < DEADLINE, "{:?}", asked.elapsed());
    drop(stalled);
}

#[test]
fn a_connection_carries_several_requests() {
    // Together longer than a connection may be idle.
    let server = Server::start(1, HttpLimits { idle_timeout: Duration::from_secs(3), ..crowded() });
    let mut stream = TcpStream::connect(server.address).unwrap();
    for _ in 0..5 {
        ask(&mut stream, ASK_READY, "ready\n");
        sleep(Duration::from_millis(800));
    }
}

#[test]
fn a_long_body_is_refused_unread_and_a_short_one_skipped() {
    let server = Server::start(1, HttpLimits::default());
    let mut stream = TcpStream::connect(server.address).unwrap();
    let short = format!("GET /readyz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4096\r\n\r\n{}", "x".repeat(4096));
    ask(&mut stream, &short, "ready\n");

    let body = vec![b'x'; 600_000];
    for (header, status) in [("Content-Length: 600000", "413"), ("Transfer-Encoding: chunked", "411")] {
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.write_all(format!("GET /readyz HTTP/1.1\r\nHost: localhost\r\n{header}\r\n\r\n").as_bytes()).unwrap();
        // The whole body, although the answer is there long before.
        stream.write_all(&body).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains("takes a body"), "{answer}");
    }
}

#[test]
fn a_stop_does_not_wait_for_a_stalled_peer() {
    let server = with_long_answers(crowded());
    let stalled = half_read(&server);
    let asked = Instant::now();
    server.stop();
    assert!(asked.elapsed() < DEADLINE, "{:?}", asked.elapsed());
    drop(stalled);
}
