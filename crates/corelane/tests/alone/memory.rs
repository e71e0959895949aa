//! Memory with many connections: what an idle one costs, and what all of them cost under load.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use corelane_testkit::{Peer, Server, frames, host};

use crate::{BINARY, turn};

const CONNECTIONS: usize = 5_000;
const RESIDENT_BYTES_MAX: u64 = 140_000_000;

#[test]
fn idle_connections_hold_no_buffer() {
    let _turn = turn();
    host::allow_descriptors(CONNECTIONS as u64);
    let server = Server::start(BINARY, &[]);
    let mut peers: Vec<Peer> = (0..CONNECTIONS).map(|_| server.connect()).collect();
    let before = server.wait_metrics("all are connected", |metrics| metrics.connections() == CONNECTIONS as u64);
    assert_eq!(before.buffers_in_use(), 0);
    for (index, peer) in peers.iter_mut().enumerate() {
        peer.send(&frames::event(&format!("device-{index:04}"), 1));
    }
    let metrics = server.assert_accounted(CONNECTIONS as u64);
    assert_eq!(metrics.accepted(), CONNECTIONS as u64);
    let quiet = server.wait_metrics("every buffer came home", |metrics| metrics.buffers_in_use() == 0);
    assert_eq!(quiet.connections(), CONNECTIONS as u64, "all are connected still");

    // Neither does one that stopped inside a header.
    for peer in &mut peers {
        peer.send(&frames::header(60_000)[..3]);
    }
    let bytes = metrics.count("corelane_received_bytes_total", &[]) + 3 * CONNECTIONS as u64;
    server.wait_metrics("the headers came", |metrics| metrics.count("corelane_received_bytes_total", &[]) == bytes);
    let begun = server.wait_metrics("no header holds a buffer", |metrics| metrics.buffers_in_use() == 0);
    assert_eq!(begun.connections(), CONNECTIONS as u64, "all are connected still");
    println!(
        "{CONNECTIONS} connections, {} series: {} bytes resident, {} before the first event",
        begun.count("corelane_series", &[]),
        begun.resident_bytes(),
        before.resident_bytes()
    );
    assert!(begun.resident_bytes() < RESIDENT_BYTES_MAX, "{} bytes", begun.resident_bytes());
    server.assert_accounted(CONNECTIONS as u64);
}

#[test]
fn resident_memory_is_bounded_under_load_on_5000_connections() {
    const FRAMES_A_SECOND: u64 = 200_000;
    const FRAMES_A_WRITE: u64 = 4;
    let _turn = turn();
    host::allow_descriptors(CONNECTIONS as u64);
    let server = Server::start(BINARY, &[]);
    let mut peers: Vec<Peer> = (0..CONNECTIONS).map(|_| server.connect()).collect();
    let written = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    let start = Instant::now();
    let largest = scope(|scope| {
        for (part, peers) in peers.chunks_mut(CONNECTIONS / 2).enumerate() {
            let (written, done) = (&written, &done);
            scope.spawn(move || {
                let chunks: Vec<_> = (0..peers.len())
                    .map(|index| frames::event(&format!("device-{part}-{index:04}"), 1).repeat(FRAMES_A_WRITE as usize))
                    .collect();
                while !done.load(Ordering::Relaxed) {
                    for (peer, chunk) in peers.iter_mut().zip(&chunks) {
                        peer.send(chunk);
                        let frames = written.fetch_add(FRAMES_A_WRITE, Ordering::Relaxed);
                        let due = start + Duration::from_secs(1).mul_f64(frames as f64 / FRAMES_A_SECOND as f64);
                        sleep(due.saturating_duration_since(Instant::now()));
                    }
                }
            });
        }
        let mut largest = 0;
        while start.elapsed() < Duration::from_secs(8) {
            largest = largest.max(server.metrics().resident_bytes());
            sleep(Duration::from_millis(100));
        }
        done.store(true, Ordering::Relaxed);
        largest
    });
    let sent = written.into_inner();
    let metrics = server.assert_accounted(sent);
    assert_eq!(metrics.accepted(), sent);
    println!(
        "{CONNECTIONS} connections, {:.0} frames/s, {} series: {largest} bytes resident at most",
        sent as f64 / start.elapsed().as_secs_f64(),
        metrics.count("corelane_series", &[])
    );
    assert!(largest < RESIDENT_BYTES_MAX, "{largest} bytes");
}
