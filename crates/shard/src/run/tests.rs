#![allow(clippy::disallowed_types, reason = "the test stands on both sides of the border")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, mpsc};

use corelane_metrics::{CloseReason, Sample, Totals, cell};
use corelane_telemetry::{Reader, page_lane, telemetry_ring};
use corelane_wire::encode_event;

use super::*;
use crate::limits::POOL_BUFFERS_MIN;
use crate::link::ShardLink;
use crate::listener::bind_listeners;

struct Running {
    address: SocketAddr,
    link: ShardLink,
    thread: ShardThread,
    samples: Reader<SAMPLE_WORDS>,
}

fn start() -> Running {
    start_of(1, std::time::Duration::from_secs(10))
}

/// The first of so many shards, of which the others never come up.
fn start_of(shards: usize, drain_timeout: std::time::Duration) -> Running {
    let listener = bind_listeners("127.0.0.1:0".parse().unwrap(), 1, 16).unwrap().remove(0);
    let address = listener.local_addr().unwrap();
    let (recorder, samples) = telemetry_ring(4096);
    let (accepting, accepts) = mpsc::channel();
    let second = std::time::Duration::from_secs(10);
    let limits = Limits {
        pool_buffers: POOL_BUFFERS_MIN,
        connections_max: 8,
        connections_per_ip_max: 0,
        accepts_per_ip_max: 0,
        ipv6_prefix: 64,
        rate_per_connection: 0,
        connection_age_max: std::time::Duration::ZERO,
        series_max: 16,
        idle_timeout: second,
        frame_timeout: second,
        tls: None,
        drain_timeout,
    };
    let shards = Shards::new(shards, &limits).unwrap();
    let link = shards.link(0).clone();
    let config = ShardConfig {
        index: 0,
        core: 0,
        limits,
        recorder,
        series: page_lane().1,
        events: Arc::new(ArrayQueue::new(4)),
        shards,
        rules: AccessRules::default(),
        tls: None,
        allocations: Allocations::default,
        on_accept_error: Box::new(|_| ()),
        on_accepting: Box::new(move || accepting.send(()).unwrap()),
        on_end: Box::new(|| ()),
    };
    let thread = spawn(config, listener).unwrap();
    accepts.recv().unwrap();
    Running { address, link, thread, samples }
}

fn frame(id: &str) -> Vec<u8> {
    let mut frame = Vec::new();
    encode_event(&mut frame, id, 1, None, [("s", 1.0, None)].into_iter()).unwrap();
    frame
}

/// Sends, asks for a commit, and gives everything the server writes until it closes or has answered.
fn exchange(stream: &mut TcpStream, id: &str) -> Vec<u8> {
    stream.write_all(&[frame(id), vec![0; 4]].concat()).unwrap();
    let mut answer = vec![0; 4096];
    let bytes = stream.read(&mut answer).unwrap();
    answer.truncate(bytes);
    answer
}

#[test]
fn a_panic_in_one_connection_closes_that_connection_only() {
    let Running { address, link, thread, mut samples } = start();
    let mut honest = TcpStream::connect(address).unwrap();
    let mut unlucky = TcpStream::connect(address).unwrap();
    assert!(!exchange(&mut honest, "honest").is_empty());
    assert!(!exchange(&mut unlucky, "unlucky").is_empty());
    let last = exchange(&mut unlucky, "panics");
    assert!(String::from_utf8_lossy(&last).contains("panic"), "the last frame has the code");
    assert_eq!(unlucky.read(&mut [0; 16]).unwrap(), 0, "closed");
    assert!(!exchange(&mut honest, "honest").is_empty());
    drop(honest);
    link.drain();
    thread.join().unwrap();
    let mut totals = Totals::new(1);
    samples.read(|words| totals.apply(0, Sample::from_words(words).unwrap()));
    assert_eq!(totals.counter(0, cell::connections_closed(CloseReason::Panic)), 1);
    assert_eq!(totals.counter(0, cell::FRAMES_ACCEPTED), 3);
    assert_eq!(totals.gauge(0, cell::CONNECTIONS), 0.0);
}

#[test]
fn a_shard_that_hangs_does_not_hold_the_stop_of_another_up() {
    let Running { address, link, thread, .. } = start_of(2, std::time::Duration::from_millis(300));
    let mut peer = TcpStream::connect(address).unwrap();
    // It may be on its way to the other shard, which never takes it in.
    peer.write_all(&frame("stopped")).unwrap();
    link.drain();
    thread.join().unwrap();
}
