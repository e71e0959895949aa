//! Peers that break the rules, next to one that does not.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::Duration;

use corelane_testkit::frames::{self, InvalidFrame, invalid_frames};
use corelane_testkit::{Peer, Reply, Server};
use corelane_wire::{Answer, MAX_FRAME_SIZE};

use crate::BINARY;

/// What a server says before it closes: one last frame, then nothing.
fn closing(peer: &mut Peer) -> (String, Answer) {
    let replies = peer.replies();
    let [Reply::Closing { error, code, answer }] = &replies[..] else { panic!("one last frame, not {replies:?}") };
    assert!(!error.is_empty(), "{code} is explained");
    (code.clone(), *answer)
}

/// The security events so far: kind, peer, detail.
fn security_events(server: &Server) -> Vec<(String, SocketAddr, String)> {
    let events = server.json("/api/v1/events");
    let events = events["events"].as_array().unwrap().iter();
    let text = |event: &serde_json::Value, key: &str| event[key].as_str().unwrap().to_owned();
    events
        .map(|event| {
            assert!(event["time"].is_string(), "{event}");
            (text(event, "kind"), text(event, "peer").parse().unwrap(), text(event, "detail"))
        })
        .collect()
}

/// Sends events and has each hundred confirmed until told to stop; returns how many it sent.
fn be_honest(server: &Server, stop: &AtomicBool) -> u64 {
    let mut peer = server.connect();
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..100 {
            peer.send(&frames::event("honest", sent));
            sent += 1;
        }
        assert_eq!(peer.commit(), Answer { committed: sent, rejected: 0 });
        sleep(Duration::from_millis(1));
    }
    sent
}

/// Each bad peer in turn; returns the frames that were decided of them, and the security events to be found.
fn be_bad(server: &Server) -> (u64, Vec<(String, SocketAddr)>) {
    let mut decided = 0;
    let mut events = Vec::new();
    let event = frames::event("bad", 1);

    // 64 rejected frames in a row, of every kind; the frames after them are nobody's.
    let mut peer = server.connect();
    peer.send(&event);
    assert_eq!(peer.commit().committed, 1);
    for InvalidFrame { bytes, .. } in invalid_frames().iter().cycle().take(64) {
        peer.send(bytes);
    }
    peer.send(&event);
    assert_eq!(closing(&mut peer), ("rejected_frames".into(), Answer { committed: 1, rejected: 64 }));
    events.push(("rejected_frames".to_owned(), peer.address()));
    decided += 65;

    // 63 are no reason to close, as often as an accepted one comes between.
    let mut peer = server.connect();
    for _ in 0..3 {
        for InvalidFrame { bytes, .. } in invalid_frames().iter().cycle().take(63) {
            peer.send(bytes);
        }
        peer.send(&event);
    }
    assert_eq!(peer.commit(), Answer { committed: 3, rejected: 189 });
    decided += 192;

    // A header that declares too much, before any payload byte.
    for declared in [MAX_FRAME_SIZE as u32 + 1, u32::MAX] {
        let mut peer = server.connect();
        peer.send(&event);
        assert_eq!(peer.commit().committed, 1);
        peer.send(&frames::header(declared));
        assert_eq!(closing(&mut peer), ("oversize".into(), Answer { committed: 1, rejected: 1 }));
        events.push(("oversize".to_owned(), peer.address()));
        decided += 2;
    }

    // The same with a flood behind it, which is read and thrown away.
    let mut peer = server.connect();
    assert_eq!(peer.commit().committed, 0);
    peer.send(&[&frames::header(1 << 20)[..], &[0x55; 500_000]].concat());
    assert_eq!(closing(&mut peer), ("oversize".into(), Answer { committed: 0, rejected: 1 }));
    events.push(("oversize".to_owned(), peer.address()));
    decided += 1;

    // HTTP and noise are headers that declare too much; who never asked is written nothing.
    for greeting in [
        &b"GET / HTTP/1.1\r\nHost: corelane\r\n\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"SSH-2.0-x\r\n",
    ] {
        let mut peer = server.connect();
        peer.send(greeting);
        assert_eq!(peer.reply(), None);
        events.push(("oversize".to_owned(), peer.address()));
        decided += 1;
    }

    // A reset between two frames, one inside a frame, and one before the answer.
    for rest in [0, 500] {
        let mut peer = server.connect();
        peer.send(&event);
        assert_eq!(peer.commit().committed, 1);
        peer.send(&event[..rest]);
        peer.reset();
        decided += 1;
    }

    // A frame that the peer cuts off, told of if the peer listens; it is neither accepted nor rejected.
    let mut peer = server.connect();
    peer.send(&event);
    assert_eq!(peer.commit().committed, 1);
    peer.send(&event[..700]);
    peer.half_close();
    assert_eq!(closing(&mut peer), ("truncated".into(), Answer { committed: 1, rejected: 0 }));
    let mut peer = server.connect();
    peer.send(&[&event[..], &event[..2]].concat());
    peer.half_close();
    assert_eq!(peer.reply(), None);
    decided += 2;

    // Nothing at all.
    drop(server.connect());
    (decided, events)
}

#[test]
fn one_bad_connection_costs_only_itself() {
    let server = Server::start(BINARY, &[]);
    let stop = AtomicBool::new(false);
    const ROUNDS: u64 = 5;
    let (honest, bad) = scope(|scope| {
        let honest: Vec<_> = (0..2).map(|_| scope.spawn(|| be_honest(&server, &stop))).collect();
        let bad: Vec<_> = (0..ROUNDS).map(|_| be_bad(&server)).collect();
        stop.store(true, Ordering::Relaxed);
        (honest.into_iter().map(|honest| honest.join().unwrap()).sum::<u64>(), bad)
    });
    let decided: u64 = bad.iter().map(|(decided, _)| decided).sum();
    let events: Vec<_> = bad.into_iter().flat_map(|(_, events)| events).collect();
    // One round has 13 peers, and all leave; so do the two honest ones.
    let metrics = server.wait_metrics("all left", |metrics| metrics.closed() == ROUNDS * 13 + 2);
    assert_eq!(server.assert_accounted(honest + decided).accepted(), honest + ROUNDS * 10);
    let count_of = |kind: &str| events.iter().filter(|(event, _)| event == kind).count() as u64;
    for (reason, expected) in [
        ("rejected_frames", count_of("rejected_frames")),
        ("oversize", count_of("oversize")),
        ("peer_reset", ROUNDS * 2),
        ("truncated", ROUNDS * 2),
        ("peer_closed", ROUNDS * 2 + 2),
    ] {
        assert_eq!(metrics.closed_for(reason), expected, "{reason}");
        let told = metrics.count("corelane_security_events_total", &[("kind", reason)]);
        assert_eq!(told, count_of(reason), "{reason}");
    }
    let told = security_events(&server);
    let newest_first: Vec<_> = told.iter().map(|(kind, peer, _)| (kind.clone(), *peer)).rev().collect();
    assert_eq!(newest_first, events);
    let http = told.iter().filter(|(.., detail)| detail.contains("1195725856")).count() as u64;
    assert_eq!(http, ROUNDS, "what HTTP looks like: {told:?}");
    server.wait_metrics("every buffer came home", |metrics| metrics.buffers_in_use() == 0);
    println!("{honest} honest frames next to {decided} of bad peers");
}

/// Once a reset that came before the last answers left a connection waiting for a socket that takes nothing any more:
/// its slot and buffer were gone for good, the loop never slept again, and the server never stopped.
#[test]
fn a_reset_before_the_last_answers_leaves_nothing_behind() {
    let server = Server::start(BINARY, &["--max-connections", "40"]);
    let before = server.metrics().count("process_open_fds", &[]);
    let offence = [&frames::COMMIT_REQUEST[..], &[0xff; 4], &[0; 1000]].concat();
    for round in 0..60 {
        let mut peer = server.connect();
        peer.send(&offence);
        peer.reset();
        // The offences of a whole round are decided before the next: none is refused for want of room.
        server.wait_metrics("each offence is decided", |metrics| metrics.closed() == round + 1);
    }
    let settled = server.wait_metrics("descriptors and buffers are back", |metrics| {
        metrics.count("process_open_fds", &[]) <= before + 1 && metrics.buffers_in_use() == 0
    });
    assert_eq!(settled.closed_for("refused"), 0);
    let mut honest = server.connect();
    honest.send(&frames::event("honest", 1));
    assert_eq!(honest.commit(), Answer { committed: 1, rejected: 0 });
    drop(honest);
    let sent = 1 + settled.rejected();
    server.assert_accounted(sent);
    assert!(server.terminate().status.success());
}
