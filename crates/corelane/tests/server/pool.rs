//! A pool that is too small for what is begun at once: everybody waits, nobody loses.

use std::sync::Barrier;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use corelane_testkit::server::smallest_pool;
use corelane_testkit::{Metrics, Peer, Random, Reply, Server, frames, wait_until};

use crate::BINARY;

/// Payload of a frame of which a start takes half a buffer.
const LARGE_BYTES: usize = 60 * 1024;

fn start_with_smallest_pool(flags: &[&str]) -> Server {
    Server::start(BINARY, &[&["--pool-bytes", &smallest_pool(BINARY)], flags].concat())
}

fn pool_waits(metrics: &Metrics) -> u64 {
    metrics.count("corelane_pool_waits_total", &[])
}

/// Sends each of `streams` over a connection of its own in pieces, pausing between two, all beginning at once; returns
/// the longest time that one took until its last frame was answered for.
fn send_at_once(server: &Server, streams: &[Vec<Vec<u8>>], pause: Duration) -> Duration {
    let begin = Barrier::new(streams.len());
    let send = |pieces: &Vec<Vec<u8>>| {
        let mut peer = server.connect();
        begin.wait();
        let start = Instant::now();
        for (number, piece) in pieces.iter().enumerate() {
            peer.send(piece);
            sleep(pause);
            if number == 0 {
                // By now every stream stands inside a frame.
                begin.wait();
            }
        }
        peer.commit();
        start.elapsed()
    };
    scope(|scope| {
        let senders: Vec<_> = streams.iter().map(|pieces| scope.spawn(|| send(pieces))).collect();
        senders.into_iter().map(|sender| sender.join().unwrap()).max().unwrap()
    })
}

/// Cuts a stream into pieces of about `piece_bytes`.
fn cut(stream: &[u8], piece_bytes: usize) -> Vec<Vec<u8>> {
    stream.chunks(piece_bytes).map(<[u8]>::to_vec).collect()
}

fn assert_nothing_lost(server: &Server, sent: u64, what: &str, longest: Duration) {
    let metrics = server.assert_accounted(sent);
    println!("{what}: {sent} frames, {} pool waits, the slowest peer took {longest:.1?}", pool_waits(&metrics));
    assert_eq!(metrics.accepted(), sent, "{what}");
    assert!(pool_waits(&metrics) > 0, "{what}: the pool was never short");
    let closed = server.wait_metrics("all peers left", |metrics| metrics.connections() == 0);
    assert_eq!(closed.closed(), closed.closed_for("peer_closed"), "{what}: everybody left by themselves");
    server.wait_metrics("every buffer came home", |metrics| metrics.buffers_in_use() == 0);
}

#[test]
fn pool_exhaustion_waits_and_loses_nothing() {
    // Large frames only: a partial one may take half a buffer.
    let server = start_with_smallest_pool(&[]);
    let large = |peer: usize, count: u64| -> Vec<u8> {
        (0..count).flat_map(|frame| frames::event_of(&format!("large-{peer}"), frame, LARGE_BYTES)).collect()
    };
    let streams: Vec<_> = (0..64).map(|peer| cut(&large(peer, 3), 20_000)).collect();
    let longest = send_at_once(&server, &streams, Duration::from_millis(2));
    assert_nothing_lost(&server, 64 * 3, "large frames", longest);

    // All sizes, so that slots of all sizes compete for the same memory.
    let mut random = Random::from_environment();
    let server = start_with_smallest_pool(&[]);
    let mut sent = 0;
    let streams: Vec<_> = (0..64)
        .map(|peer| {
            let mut stream = Vec::new();
            while stream.len() < 150_000 {
                let payload_bytes = *random.pick(&[400, 1_000, 3_000, 5_000, 15_000, 17_000, 40_000, 65_536]);
                stream.extend(frames::event_of(&format!("mixed-{peer}"), sent, payload_bytes));
                sent += 1;
            }
            cut(&stream, 500 + random.below(30_000))
        })
        .collect();
    let longest = send_at_once(&server, &streams, Duration::from_millis(2));
    assert_nothing_lost(&server, sent, "frames of all sizes", longest);
}

#[test]
fn pool_exhaustion_does_not_count_against_slow_peers() {
    // A frame takes its peer 1 s, and the clocks allow 2 s: whoever waits for the pool takes longer, and may.
    const PEERS: u64 = 200;
    let server = start_with_smallest_pool(&["--frame-timeout", "2s", "--idle-timeout", "2s"]);
    let stream = |peer: u64| -> Vec<u8> {
        (0..3).flat_map(|frame| frames::event_of(&format!("slow-{peer}"), frame, LARGE_BYTES)).collect()
    };
    let streams: Vec<_> = (0..PEERS).map(|peer| cut(&stream(peer), LARGE_BYTES / 5)).collect();
    let longest = send_at_once(&server, &streams, Duration::from_millis(200));
    assert_nothing_lost(&server, 3 * PEERS, "slow pieces", longest);
}

#[test]
fn stalled_frame_is_evicted() {
    const STALLED: usize = 30;
    // The frame timeout alone would keep everybody waiting for minutes.
    let server = start_with_smallest_pool(&["--frame-timeout", "10m"]);
    let mut stalled: Vec<Peer> = (0..STALLED)
        .map(|index| {
            let mut peer = server.connect();
            // Half of them ask, so that they are told.
            if index % 2 == 0 {
                assert_eq!(peer.commit().committed, 0);
            }
            peer.send(&frames::event_of("stalled", 1, LARGE_BYTES)[..40_000]);
            peer
        })
        .collect();
    server.wait_metrics("the pool is short", |metrics| pool_waits(metrics) > 0);

    let mut honest = server.connect();
    let start = Instant::now();
    let stream: Vec<u8> = (0..50).flat_map(|frame| frames::event_of("honest", frame, LARGE_BYTES)).collect();
    for piece in stream.chunks(20_000) {
        honest.send(piece);
    }
    assert_eq!(honest.commit().committed, 50);
    println!("50 large frames of an honest peer took {:.1?}", start.elapsed());

    // The honest peer needs none of them to go, but the pool stays short until some do.
    let metrics = server.wait_metrics("stalled frames are evicted and the pool is not short any more", |metrics| {
        metrics.closed_for("frame_timeout") > 0 && metrics.sum("corelane_pool_short", &[]) == 0.0
    });
    assert_eq!(metrics.accepted(), 50);
    let evicted = metrics.closed_for("frame_timeout");
    assert_eq!(metrics.closed(), evicted, "nobody else was closed");
    assert_eq!(metrics.connections(), STALLED as u64 + 1 - evicted);

    // Those that were closed know it, and those that asked know why.
    drop(honest);
    wait_until("everybody that was closed knows it", || {
        let closed = stalled.iter().filter(|peer| peer.has_reply()).count() as u64;
        closed == server.metrics().closed_for("frame_timeout")
    });
    for (index, peer) in stalled.iter_mut().enumerate().filter(|(_, peer)| peer.has_reply()) {
        match peer.reply() {
            None => assert_eq!(index % 2, 1, "who never asked is written nothing"),
            Some(Reply::Closing { code, answer, .. }) => {
                assert_eq!((index % 2, code.as_str()), (0, "frame_timeout"));
                assert_eq!((answer.committed, answer.rejected), (0, 0));
            }
            other => panic!("a last frame, not {other:?}"),
        }
    }
    server.assert_accounted(50);
}
