#![allow(clippy::disallowed_types, reason = "the test stands on both sides of the border")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;

use corelane_metrics::{CloseReason, Sample, Totals, cell};
use corelane_ring::{Drain, event_lane, telemetry_ring};
use corelane_rollup::snapshot_lane;
use corelane_wire::{Answer, UNANSWERED_REQUESTS_MAX, encode_answer, encode_event};

use super::*;
use crate::limits::POOL_BUFFERS_MIN;
use crate::link::ShardLink;
use crate::listener::bind_listeners;

struct Running {
    address: SocketAddr,
    link: ShardLink,
    thread: ShardThread,
    samples: Drain<SAMPLE_WORDS>,
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
        series: snapshot_lane().1,
        events: event_lane(4).0,
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

fn frame(id: &str, sensors: &[&str]) -> Vec<u8> {
    let mut frame = Vec::new();
    encode_event(&mut frame, id, 1, None, sensors.iter().map(|&sensor| (sensor, 1.0, None))).unwrap();
    frame
}

/// Sends, asks for a commit, and gives everything the server writes until it closes or has answered.
fn exchange(stream: &mut TcpStream, frame: Vec<u8>) -> Vec<u8> {
    stream.write_all(&[frame, vec![0; 4]].concat()).unwrap();
    let mut answer = vec![0; 4096];
    let bytes = stream.read(&mut answer).unwrap();
    answer.truncate(bytes);
    answer
}

/// Two connections are served, the frame makes that of the second panic, and the first goes on as if nothing had happened.
fn costs_its_connection_only(panics: Vec<u8>) {
    let Running { address, link, thread, mut samples } = start();
    let mut honest = TcpStream::connect(address).unwrap();
    let mut unlucky = TcpStream::connect(address).unwrap();
    // From its second event on, the shape of a source is known.
    for _ in 0..3 {
        assert!(is_committed(&exchange(&mut honest, frame("honest", &["a", "b"]))));
    }
    assert!(is_committed(&exchange(&mut unlucky, frame("unlucky", &["a", "b"]))));
    let last = exchange(&mut unlucky, panics);
    assert!(String::from_utf8_lossy(&last).contains("panic"), "the last frame has the code");
    assert_eq!(unlucky.read(&mut [0; 16]).unwrap(), 0, "closed");
    for id in ["honest", "honest", "unlucky", "unlucky"] {
        assert!(is_committed(&exchange(&mut honest, frame(id, &["a", "b"]))), "{id} goes on");
    }
    drop(honest);
    link.drain();
    thread.join().unwrap();
    let mut totals = Totals::new(1);
    samples.drain(|words| totals.apply(0, Sample::from_words(words).unwrap()));
    assert_eq!(totals.counter(0, cell::connections_closed(CloseReason::Panic)), 1);
    assert_eq!(totals.counter(0, cell::FRAMES_ACCEPTED), 8);
    assert_eq!(totals.gauge(0, cell::CONNECTIONS), 0.0);
}

fn is_committed(answer: &[u8]) -> bool {
    String::from_utf8_lossy(answer).contains("committed") && !String::from_utf8_lossy(answer).contains("error")
}

#[test]
fn a_panic_in_one_connection_closes_that_connection_only() {
    costs_its_connection_only(frame("panics", &["a"]));
}

#[test]
fn a_panic_inside_the_rollup_closes_that_connection_only_and_shapes_stay_known() {
    costs_its_connection_only(frame("unlucky", &["c", "panics"]));
}

#[test]
fn a_peer_with_as_many_unanswered_requests_as_it_may_have_gets_every_answer() {
    let Running { address, link, thread, .. } = start();
    let mut peer = TcpStream::connect(address).unwrap();
    peer.set_nodelay(true).unwrap();
    let answer = encode_answer(Answer::default()).as_slice().repeat(UNANSWERED_REQUESTS_MAX);
    for _ in 0..3 {
        for _ in 0..UNANSWERED_REQUESTS_MAX {
            peer.write_all(&[0; 4]).unwrap();
        }
        let mut answers = vec![0; answer.len()];
        peer.read_exact(&mut answers).unwrap();
        assert!(answers == answer);
    }
    drop(peer);
    link.drain();
    thread.join().unwrap();
}

#[test]
fn a_shard_that_hangs_does_not_hold_the_stop_of_another_up() {
    let Running { address, link, thread, .. } = start_of(2, std::time::Duration::from_millis(300));
    let mut peer = TcpStream::connect(address).unwrap();
    // It may be on its way to the other shard, which never takes it in.
    peer.write_all(&frame("stopped", &["s"])).unwrap();
    link.drain();
    thread.join().unwrap();
}
