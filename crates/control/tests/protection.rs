//! What the ports refuse, and what they answer whatever others do: names, tokens, probes behind crowds.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use corelane_control::{HttpLimits, Protection, TokenSource};
use socket2::{Domain, Socket, Type};
use support::{Answer, Server, ask, wait_until};

fn get_as(address: SocketAddr, path: &str, host: &str) -> Answer {
    ask(address, &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))
}

#[test]
fn a_port_on_loopback_answers_no_foreign_name() {
    let hosts = vec!["metrics.example".to_owned()];
    let protection = Protection { hosts, ..Protection::default() };
    let server = Server::start_protected(1, HttpLimits::default(), protection);
    for path in ["/", "/metrics", "/healthz", "/api/v1/sensors", "/no/such/path"] {
        for host in ["localhost:9600", "127.0.0.1", "[::1]:9600", "Metrics.Example"] {
            assert_ne!(get_as(server.address, path, host).status, 421, "{path} {host}");
        }
        let refused = get_as(server.address, path, "rebound.evil.example:9600");
        assert_eq!(refused.status, 421, "{path}");
        let error = refused.json()["error"].as_str().unwrap().to_owned();
        assert!(error.contains("\"rebound.evil.example:9600\"") && error.contains("--control-host"), "{error}");
    }
    assert_eq!(get_as(server.probe, "/healthz", "evil.example").status, 421);
    assert_eq!(ask(server.address, "GET /healthz HTTP/1.0\r\n\r\n").status, 200, "no browser leaves the name out");
    let absolute = "GET http://evil.example/metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert_eq!(ask(server.address, absolute).status, 421);
    let long = format!("GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", "e".repeat(8_000));
    assert!(ask(server.address, &long).body.len() < 2_000, "a quoted name is cut off");
}

#[test]
fn the_port_for_probes_has_nothing_else() {
    let server = Server::start(2, HttpLimits::default());
    for (path, body) in [("/healthz", "healthy\n"), ("/readyz", "ready\n"), ("/readyz?verbose", "ready\n")] {
        let answer = get_as(server.probe, path, "127.0.0.1");
        assert_eq!((answer.status, answer.body.as_str()), (200, body), "{path}");
    }
    for path in ["/", "/metrics", "/api/v1/stats", "/healthz/"] {
        assert_eq!(get_as(server.probe, path, "127.0.0.1").status, 404, "{path}");
    }
    assert_eq!(ask(server.probe, "POST /healthz HTTP/1.0\r\nContent-Length: 0\r\n\r\n").status, 405);
    server.handle.set_draining();
    assert_eq!(get_as(server.probe, "/readyz", "127.0.0.1").body, "draining\n");
    server.handle.stop_accepting();
    wait_until("both ports are closed", || {
        [server.probe, server.address].iter().all(|address| TcpStream::connect(address).is_err())
    });
}

/// A server with a token.
fn with_token() -> Server {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "s3cret\n").unwrap();
    let token = TokenSource::load(file.path().to_owned()).unwrap();
    let protection = Protection { token: Some(Arc::new(token)), ..Protection::default() };
    Server::start_protected(1, HttpLimits::default(), protection)
}

const RIGHT: &str = "Authorization: Bearer s3cret\r\n";
const WRONG: &str = "Authorization: Bearer guess\r\n";

#[test]
fn wrong_tokens_are_counted_reported_and_slowed_down_and_right_ones_are_not() {
    let server = with_token();
    assert_eq!(server.get("/metrics").status, 401, "without any token");
    for _ in 0..10 {
        assert_eq!(server.request("GET", "/metrics", WRONG).status, 401);
    }
    let stats = server.request("GET", "/api/v1/stats", RIGHT).json();
    assert_eq!(stats["totals"]["control_unauthorized"], 10, "a missing token is no wrong one");
    let scrape = server.request("GET", "/metrics", RIGHT).body;
    assert!(scrape.contains("\ncorelane_control_unauthorized_total 10\n"), "{scrape}");
    let events = server.request("GET", "/api/v1/events", RIGHT).json();
    let events = events["events"].as_array().unwrap();
    assert_eq!(events.len(), 10);
    assert_eq!(events[0]["kind"], "wrong_token");
    assert!(events[0]["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{}", events[0]);

    // More guesses at once than answers are held back; right ones from the same address pass all of them.
    let started = Instant::now();
    let guess = || {
        let answer = server.request("GET", "/metrics", WRONG);
        (answer.status, started.elapsed())
    };
    scope(|scope| {
        let guesses: Vec<_> = (0..20).map(|_| scope.spawn(guess)).collect();
        let right = server.request("GET", "/metrics", RIGHT);
        let took = started.elapsed();
        assert_eq!(right.status, 200);
        let guesses: Vec<_> = guesses.into_iter().map(|guess| guess.join().unwrap()).collect();
        assert!(guesses.iter().all(|(status, _)| *status == 401), "{guesses:?}");
        let slowed = guesses.iter().filter(|(_, took)| *took >= Duration::from_secs(1)).count();
        assert_eq!(slowed, 16, "{guesses:?}");
        assert!(took < Duration::from_secs(1), "{took:?}");
    });
}

/// Connects and says nothing, again and again, until dropped.
fn silent(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| TcpStream::connect(address).unwrap()).collect()
}

/// Few places, and nobody's time is ever up.
fn crowded() -> HttpLimits {
    let long = Duration::from_secs(600);
    let times = HttpLimits { header_timeout: long, idle_timeout: long, answer_timeout: long, ..HttpLimits::default() };
    HttpLimits { connections_max: 4, waiting_max: 16, probes_max: 2, ..times }
}

#[test]
fn silent_peers_hold_no_place() {
    let server = Server::start(1, crowded());
    let mut crowd = Vec::new();
    for _ in 0..20 {
        crowd.extend(silent(server.address, 10));
        // None of these waits for somebody to leave, which takes a quarter of a second for each who has just come.
        assert_eq!(server.get("/metrics").status, 200);
    }
    // Those that were silent longest are closed, and no more than that.
    let mut oldest = crowd.remove(0);
    oldest.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(oldest.read(&mut [0]).unwrap_or(0), 0);
    let newest = crowd.last_mut().unwrap();
    newest.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = [0; 12];
    newest.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
}

#[test]
fn probes_are_answered_while_every_place_is_taken() {
    let server = Server::start(1, crowded());
    // In the middle of their headers, more of them than there are places, and they are left alone for a while.
    let begin = || {
        silent(server.address, 12).into_iter().map(|mut peer| {
            peer.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX: ").unwrap();
            peer
        })
    };
    let mut crowd = Vec::new();
    for _ in 0..5 {
        crowd.extend(begin());
        sleep(Duration::from_millis(20));
        for path in ["/healthz", "/readyz"] {
            let answer = server.get(path);
            assert_eq!((answer.status, &*answer.headers["connection"]), (200, "close"), "{path}");
        }
    }
}

/// Asks for a large answer and takes none of it.
fn unread(server: &Server, query: &str) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    socket.connect(&server.address.into()).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.write_all(format!("GET /api/v1/sensors?{query} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).unwrap();
    stream
}

fn status(stream: &mut TcpStream) -> String {
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut line = [0; 12];
    stream.read_exact(&mut line).unwrap();
    String::from_utf8(line.to_vec()).unwrap()
}

#[test]
fn answers_that_nobody_takes_use_up_no_more_than_their_budget() {
    let server = Server::start(1, HttpLimits::default());
    // Each byte of these names takes six in JSON.
    server.shards[0].with(|data| {
        for number in 0..10_000 {
            let id = format!("{number:0>5}{}", "\u{1}".repeat(251));
            data.rollup.record(0, &id, 1, [("\u{2}".repeat(256).as_str(), 1.0)].into_iter());
        }
    });
    let mut first = unread(&server, "limit=10000");
    assert_eq!(status(&mut first), "HTTP/1.1 200");
    // Another question, so another answer, for which there is no room. Small answers have theirs.
    let refused = server.get("/api/v1/sensors?limit=10000&sort=id");
    assert_eq!((refused.status, &*refused.headers["retry-after"]), (503, "1"));
    assert!(refused.json()["error"].as_str().unwrap().contains("ask again"), "{}", refused.body);
    for path in ["/metrics", "/api/v1/stats", "/api/v1/events", "/api/v1/sensors", "/healthz", "/readyz"] {
        assert_eq!(server.get(path).status, 200, "{path}");
    }
    // Somebody who asks again takes the memory of an answer that nobody has taken for a while.
    wait_until("the unread answer makes room", || {
        sleep(Duration::from_millis(100));
        server.get("/api/v1/sensors?limit=10000&sort=id").status == 200
    });
}
