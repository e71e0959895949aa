//! Commit requests: answered in order, each for all that came before it, as long as somebody reads.

use std::thread::sleep;
use std::time::Duration;

use corelane_testkit::frames::{COMMIT_REQUEST, invalid_frames, small_event};
use corelane_testkit::{Metrics, Peer, Reply, Server};
use corelane_wire::Answer;

use crate::BINARY;

fn event(number: u64) -> Vec<u8> {
    small_event("commits", "s", number, number as f64)
}

#[test]
fn an_answer_covers_every_frame_before_its_request() {
    let server = Server::start(BINARY, &[]);
    let mut peer = server.connect();
    let refused = &invalid_frames()[0].bytes;
    assert_eq!(peer.commit(), Answer { committed: 0, rejected: 0 });
    peer.send(&event(1));
    assert_eq!(peer.commit(), Answer { committed: 1, rejected: 0 });
    peer.send(&[refused.clone(), event(2), refused.clone()].concat());
    assert_eq!(peer.commit(), Answer { committed: 2, rejected: 2 });
    // Another peer's frames are none of this one's business.
    let mut other = server.connect();
    other.send(&event(3));
    assert_eq!(other.commit(), Answer { committed: 1, rejected: 0 });
    assert_eq!(peer.commit(), Answer { committed: 2, rejected: 2 });
    let metrics = server.assert_accounted(5);
    assert_eq!((metrics.accepted(), metrics.rejected()), (3, 2));
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Server::start(BINARY, &[]);
    let mut peer = server.connect();
    let mut stream = Vec::new();
    let mut expected = Vec::new();
    let mut events = 0;
    for round in 0..100 {
        for _ in 0..round % 4 {
            events += 1;
            stream.extend(event(events));
        }
        stream.extend(COMMIT_REQUEST);
        expected.push(Answer { committed: events, rejected: 0 });
    }
    peer.send(&stream);
    let answers: Vec<Answer> = expected.iter().map(|_| peer.answer()).collect();
    assert_eq!(answers, expected);
    assert!(!peer.has_reply(), "one answer for each request");
    server.assert_accounted(events);
}

#[test]
fn a_thousand_requests_in_one_write_get_a_thousand_answers() {
    let server = Server::start(BINARY, &[]);
    let mut peer = server.connect();
    peer.send(&event(1));
    peer.send(&COMMIT_REQUEST.repeat(1_000));
    for _ in 0..1_000 {
        assert_eq!(peer.answer(), Answer { committed: 1, rejected: 0 });
    }
    peer.send(&event(2));
    assert_eq!(peer.commit().committed, 2);
    server.assert_accounted(2);
}

#[test]
fn a_half_closed_peer_gets_every_answer() {
    let server = Server::start(BINARY, &[]);
    let mut peer = server.connect();
    let stream: Vec<u8> = (1..=1_000).flat_map(|number| [event(number), COMMIT_REQUEST.to_vec()].concat()).collect();
    peer.send(&stream);
    peer.half_close();
    let replies = peer.replies();
    assert_eq!(replies.len(), 1_000);
    for (number, reply) in (1..).zip(replies) {
        assert_eq!(reply, Reply::Committed(Answer { committed: number, rejected: 0 }));
    }
    let metrics = server.assert_accounted(1_000);
    assert_eq!(metrics.accepted(), 1_000);
    server.wait_metrics("the peer left by itself", |metrics| metrics.closed_for("peer_closed") == 1);
}

/// A peer that asks and does not read. Its kernel takes as little as possible.
fn careless_peer(server: &Server) -> Peer {
    let mut peer = server.connect();
    peer.shrink_receive_buffer();
    peer.send(&event(1));
    peer
}

/// Requests that are sent at once: their answers are far less than the server keeps.
const AT_ONCE: usize = 1_000;

/// Asks a few times more and waits until the server has answered, or has closed a connection.
fn ask(server: &Server, peer: &mut Peer) {
    let received = |metrics: &Metrics| metrics.count("corelane_received_bytes_total", &[]);
    let (before, requests) = (server.metrics(), COMMIT_REQUEST.repeat(AT_ONCE));
    let whole = received(&before) + requests.len() as u64;
    if peer.try_send(&requests).is_ok() {
        server.wait_metrics("they are answered", |metrics| {
            received(metrics) >= whole || metrics.closed() > before.closed()
        });
    }
}

/// Asks until the server has had enough; returns how often that was, but for the last few times.
fn ask_until_closed(server: &Server, peer: &mut Peer) -> usize {
    const ENOUGH: usize = 16 << 20;
    let before = server.metrics().closed();
    for asked in (0..ENOUGH).step_by(AT_ONCE) {
        ask(server, peer);
        if server.metrics().closed() > before {
            return asked;
        }
    }
    panic!("{ENOUGH} requests, and still open");
}

#[test]
fn too_many_unread_answers_end_the_connection() {
    // The frame timeout alone would not end it in time.
    let server = Server::start(BINARY, &["--frame-timeout", "10m"]);
    let mut careless = careless_peer(&server);
    let asked = ask_until_closed(&server, &mut careless);
    println!("closed after {asked} unread answers");
    let metrics = server.wait_metrics("it is closed", |metrics| metrics.closed() == 1);
    assert_eq!(metrics.closed_for("unread_answers"), 1);
    let mut honest = server.connect();
    honest.send(&event(2));
    assert_eq!(honest.commit().committed, 1);
    server.assert_accounted(2);
    server.wait_metrics("every buffer came home", |metrics| metrics.buffers_in_use() == 0);
}

#[test]
fn answers_that_stay_unread_end_the_connection_after_the_frame_timeout() {
    let server = Server::start(BINARY, &["--frame-timeout", "1s"]);
    let asked_by_scout = ask_until_closed(&server, &mut careless_peer(&server));
    server.wait_metrics("the scout is closed", |metrics| metrics.closed() == 1 && metrics.buffers_in_use() == 0);
    // Nearly as many, then few at a time with a look at the gauge, which changes every 100 ms: some answers shall wait
    // with the server, but not 64 KiB of them.
    let mut careless = careless_peer(&server);
    (0..asked_by_scout.saturating_sub(12_000) / AT_ONCE).for_each(|_| ask(&server, &mut careless));
    let waits_or_is_closed = |metrics: &Metrics| metrics.buffers_in_use() > 0 || metrics.closed() == 2;
    while !waits_or_is_closed(&server.metrics()) {
        ask(&server, &mut careless);
        sleep(Duration::from_millis(150));
    }
    let metrics = server.wait_metrics("it is closed", |metrics| metrics.closed() == 2);
    assert_eq!(metrics.closed_for("unread_answers"), 2);
    server.assert_accounted(2);
    server.wait_metrics("every buffer came home", |metrics| metrics.buffers_in_use() == 0);
}
