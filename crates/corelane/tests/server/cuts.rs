//! Where a stream is cut says nothing about what is in it.

use std::thread::{scope, sleep};
use std::time::Duration;

use corelane_testkit::frames::{COMMIT_REQUEST, event, event_of, invalid_frames, small_event};
use corelane_testkit::{Peer, Server};
use corelane_wire::Answer;
use serde_json::{Value, json};

use crate::BINARY;

/// A short stream with everything in it.
struct Stream {
    bytes: Vec<u8>,
    answers: Vec<Answer>,
    frames: u64,
}

impl Stream {
    fn new() -> Self {
        let mut stream = Self { bytes: Vec::new(), answers: Vec::new(), frames: 0 };
        let mut answer = Answer { committed: 0, rejected: 0 };
        let mut invalid = invalid_frames();
        invalid.retain(|frame| frame.bytes.len() < 400);
        for (number, refused) in (0..).zip(invalid) {
            let accepted = match number {
                4 | 9 => event("cuts-device", 1_000 + number),
                _ => small_event("cuts", "s", 1_000 + number, number as f64 / 4.0),
            };
            stream.bytes.extend([accepted, refused.bytes].concat());
            answer = Answer { committed: answer.committed + 1, rejected: answer.rejected + 1 };
            stream.frames += 2;
            if number % 3 == 0 {
                stream.bytes.extend(COMMIT_REQUEST);
                stream.answers.push(answer);
            }
        }
        stream.bytes.extend(COMMIT_REQUEST);
        stream.answers.push(answer);
        stream
    }

    fn expect_answers(&self, peer: &mut Peer) {
        let answers: Vec<Answer> = self.answers.iter().map(|_| peer.answer()).collect();
        assert_eq!(answers, self.answers);
    }
}

/// Every series, but with the count divided by the number of times that the stream was sent.
fn series(server: &Server, times: u64) -> Vec<Value> {
    let sensors = server.json("/api/v1/sensors?sort=id&limit=10000");
    let sensors = sensors["sensors"].as_array().unwrap().iter();
    sensors
        .map(|sensor| {
            let count = sensor["count"].as_u64().unwrap();
            assert_eq!(count % times, 0, "{sensor}");
            let mut sensor = sensor.clone();
            sensor["count"] = json!(count / times);
            sensor
        })
        .collect()
}

/// What the server makes of the stream when it comes in one piece: the series, and the counts of reasons.
fn uncut(stream: &Stream) -> (Vec<Value>, Vec<u64>) {
    let server = Server::start(BINARY, &[]);
    let mut peer = server.connect();
    peer.send(&stream.bytes);
    stream.expect_answers(&mut peer);
    server.assert_accounted(stream.frames);
    (series(&server, 1), reasons(&server, 1))
}

fn reasons(server: &Server, times: u64) -> Vec<u64> {
    let metrics = server.metrics();
    let labels = metrics.label_values("corelane_frames_rejected_total", "reason");
    labels
        .into_iter()
        .map(|reason| metrics.rejected_for(reason))
        .inspect(|count| assert_eq!(count % times, 0))
        .map(|count| count / times)
        .collect()
}

#[test]
fn a_stream_cut_at_every_byte_counts_the_same() {
    let stream = Stream::new();
    let server = Server::start(BINARY, &[]);
    let cuts: Vec<usize> = (1..stream.bytes.len()).collect();
    scope(|scope| {
        for cuts in cuts.chunks(cuts.len().div_ceil(16)) {
            let (stream, server) = (&stream, &server);
            scope.spawn(move || {
                for cut in cuts {
                    let (first, second) = stream.bytes.split_at(*cut);
                    let mut peer = server.connect();
                    peer.send(first);
                    // Long enough for the server to work the first part off.
                    sleep(Duration::from_millis(4));
                    peer.send(second);
                    stream.expect_answers(&mut peer);
                }
            });
        }
    });
    let times = cuts.len() as u64;
    let metrics = server.assert_accounted(stream.frames * times);
    assert_eq!(metrics.count("corelane_received_bytes_total", &[]), stream.bytes.len() as u64 * times);
    assert_eq!((series(&server, times), reasons(&server, times)), uncut(&stream));
    println!("{times} cuts");
}

#[test]
fn a_stream_sent_one_byte_at_a_time_counts_the_same() {
    const PEERS: u64 = 8;
    let stream = Stream::new();
    let server = Server::start(BINARY, &[]);
    let mut peers: Vec<Peer> = (0..PEERS).map(|_| server.connect()).collect();
    for byte in &stream.bytes {
        for peer in &mut peers {
            peer.send(&[*byte]);
        }
        // A turn of the shard's loop, and then some.
        sleep(Duration::from_micros(700));
    }
    peers.iter_mut().for_each(|peer| stream.expect_answers(peer));
    let metrics = server.assert_accounted(stream.frames * PEERS);
    assert_eq!(metrics.count("corelane_received_bytes_total", &[]), stream.bytes.len() as u64 * PEERS);
    assert_eq!((series(&server, PEERS), reasons(&server, PEERS)), uncut(&stream));
}

#[test]
fn a_large_frame_cut_anywhere_is_one_frame() {
    // Around every size at which the place changes in which the start of a frame is kept.
    let around = |at: usize| at - 6..at + 6;
    let frame = event_of("large", 1, 60_000);
    let mut cuts: Vec<usize> = [1_024, 4_096, 16_384, 32_768, 50_000].into_iter().flat_map(around).collect();
    cuts.extend((1..12).chain(frame.len() - 6..frame.len()));
    let server = Server::start(BINARY, &[]);
    let mut peer = server.connect();
    let follower = small_event("large", "level", 2, 0.5);
    let stream = [&frame[..], &follower].concat();
    for (number, cut) in (1..).zip(&cuts) {
        let (first, second) = stream.split_at(*cut);
        peer.send(first);
        sleep(Duration::from_millis(4));
        // And what is left in two parts, too: the second joins a start that has grown.
        let (second, third) = second.split_at(second.len() * (number as usize % 7) / 7);
        peer.send(second);
        sleep(Duration::from_millis(4));
        peer.send(third);
        assert_eq!(peer.commit(), Answer { committed: 2 * number, rejected: 0 }, "cut at {cut}");
    }
    let sent = 2 * cuts.len() as u64;
    server.assert_accounted(sent);
    assert_eq!(server.sensors_of("large")[0]["count"], sent);
}
