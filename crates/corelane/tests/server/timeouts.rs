//! The clocks of a connection: what they end, and what they leave alone.

use std::thread::sleep;
use std::time::Duration;

use corelane_testkit::{Peer, Reply, Server, frames};

use crate::BINARY;

/// The one reply that is still to come: why the server closes.
fn closing_code(peer: &mut Peer) -> String {
    let replies = peer.replies();
    let [Reply::Closing { code, .. }] = &replies[..] else { panic!("one last frame, not {replies:?}") };
    code.clone()
}

#[test]
fn a_frame_that_is_not_finished_in_time_ends_its_connection() {
    let server = Server::start(BINARY, &["--frame-timeout", "600ms"]);
    let frame = frames::event_of("slow", 1, 30_000);
    // A part of a header, of a small frame, and of one that takes a whole buffer.
    for begun in [2, 4, 500, 20_000] {
        let mut peer = server.connect();
        assert_eq!(peer.commit().committed, 0);
        peer.send(&frame);
        peer.send(&frame[..begun]);
        assert_eq!(closing_code(&mut peer), "frame_timeout", "{begun} bytes");
    }
    // Bytes that keep coming are no excuse.
    let mut peer = server.connect();
    assert_eq!(peer.commit().committed, 0);
    let mut bytes = frame[..300].iter();
    while !peer.has_reply() {
        peer.send(&[*bytes.next().expect("closed before 30 s")]);
        sleep(Duration::from_millis(100));
    }
    assert_eq!(closing_code(&mut peer), "frame_timeout");
    // A peer between two frames has all the time in the world.
    let mut peer = server.connect();
    for _ in 0..4 {
        peer.send(&frame);
        sleep(Duration::from_millis(400));
    }
    assert_eq!(peer.commit().committed, 4);

    let metrics = server.assert_accounted(8);
    assert_eq!(metrics.accepted(), 8);
    assert_eq!((metrics.closed(), metrics.closed_for("frame_timeout")), (5, 5));
    server.wait_metrics("every buffer came home", |metrics| metrics.buffers_in_use() == 0);
}

#[test]
fn a_peer_that_sends_nothing_is_closed_after_the_idle_timeout() {
    // Far longer than a busy machine keeps the steady peer from sending.
    let server = Server::start(BINARY, &["--idle-timeout", "2s"]);
    let mut silent = server.connect();
    let mut once = server.connect();
    assert_eq!(once.commit().committed, 0);
    once.send(&frames::small_event("once", "s", 1, 1.0));
    let mut steady = server.connect();
    let mut sent = 0;
    server.wait_metrics("the silent peers are closed", |metrics| {
        steady.send(&frames::small_event("steady", "s", sent, 1.0));
        sent += 1;
        sleep(Duration::from_millis(50));
        metrics.closed() == 2
    });
    assert_eq!(steady.commit().committed, sent);
    assert_eq!(silent.reply(), None, "who never asked is written nothing");
    assert_eq!(closing_code(&mut once), "idle_timeout");
    let metrics = server.assert_accounted(sent + 1);
    assert_eq!(metrics.accepted(), sent + 1);
    let closed = server.wait_metrics("the steady peer falls silent", |metrics| metrics.closed() == 3);
    assert_eq!(closed.closed_for("idle_timeout"), 3);
}

#[test]
fn no_clock_runs_while_the_server_is_stopped_by_its_host() {
    // A process that is frozen and thawed (a debugger, a cgroup, a virtual machine) finds what came meanwhile unread.
    // The clocks do run between the stops: they are set to far more than a busy machine takes there.
    let server = Server::start(BINARY, &["--frame-timeout", "2s", "--idle-timeout", "2s"]);
    let mut peers: Vec<Peer> = (0..20).map(|_| server.connect()).collect();
    let frame = frames::event("frozen", 1);
    for round in 1..=2 {
        for peer in &mut peers {
            peer.send(&frame[..500]);
        }
        sleep(Duration::from_millis(50));
        server.signal(rustix::process::Signal::STOP);
        for peer in &mut peers {
            peer.send(&frame[500..]);
        }
        sleep(Duration::from_millis(3_500));
        server.signal(rustix::process::Signal::CONT);
        for peer in &mut peers {
            assert_eq!(peer.commit().committed, round);
        }
    }
    let metrics = server.assert_accounted(40);
    assert_eq!((metrics.accepted(), metrics.closed()), (40, 0));
}
