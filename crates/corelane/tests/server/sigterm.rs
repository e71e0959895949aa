//! The stop: what has arrived is decided, what is begun may be finished, everybody is told, and the exit code is 0.

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use corelane_testkit::frames::{self, COMMIT_REQUEST};
use corelane_testkit::server::smallest_pool;
use corelane_testkit::{Peer, Random, Reply, Server, host, wait_until};
use corelane_wire::Answer;
use rustix::process::Signal;

use crate::BINARY;

/// The last frame of a server that stops, and what it says is decided.
fn told_of_shutdown(reply: Option<&Reply>) -> Answer {
    match reply {
        Some(Reply::Closing { code, answer, .. }) if code == "shutdown" => *answer,
        other => panic!("a last frame with the code shutdown, not {other:?}"),
    }
}

fn committed(committed: u64) -> Answer {
    Answer { committed, rejected: 0 }
}

/// A peer that writes one frame after the other until the server closes.
struct Stream {
    asks: bool,
    /// Frames that are written whole.
    written: AtomicU64,
    closed: AtomicBool,
}

impl Stream {
    fn new(asks: bool) -> Self {
        Self { asks, written: AtomicU64::new(0), closed: AtomicBool::new(false) }
    }

    fn write(&self, mut peer: Peer) {
        for number in 1.. {
            if self.closed.load(Ordering::Relaxed) || peer.try_send(&frames::event("stream", number)).is_err() {
                return;
            }
            self.written.store(number, Ordering::SeqCst);
            if self.asks && number % 10 == 0 && peer.try_send(&COMMIT_REQUEST).is_err() {
                return;
            }
            sleep(Duration::from_micros(300));
        }
    }

    /// Returns what the last frame says is decided. For a stream that asks.
    fn read(&self, mut peer: Peer) -> Option<Answer> {
        let replies = peer.replies();
        self.closed.store(true, Ordering::Relaxed);
        if !self.asks {
            assert_eq!(replies, [], "who never asked is written nothing");
            return None;
        }
        let answers: Vec<u64> = replies.iter().map(|reply| reply.answer().committed).collect();
        assert!(answers.is_sorted(), "{answers:?}");
        Some(told_of_shutdown(replies.last()))
    }
}

/// One server with peers of every kind, stopped in the middle of it. `queued` peers wait to be accepted when the signal
/// comes.
fn stop_under_load(flags: &[&str], signal: Signal, queued: usize, random: &mut Random) {
    const QUEUED_FRAMES: u64 = 3;
    let server = Server::start(BINARY, flags);
    let event = frames::event("device", 1);

    // Each has begun a frame when the signal comes, and finishes it later.
    let cuts: Vec<usize> = [2, 4, 700, event.len() - 1].into_iter().flat_map(|cut| [cut; 2]).collect();
    let mut begun: Vec<Peer> = cuts
        .iter()
        .enumerate()
        .map(|(index, cut)| {
            let mut peer = server.connect();
            if index % 2 == 0 {
                peer.send(&event);
                assert_eq!(peer.commit(), committed(1));
            }
            peer.send(&event[..*cut]);
            peer
        })
        .collect();

    let streams: Vec<Stream> = (0..6).map(|index| Stream::new(index % 3 != 0)).collect();
    let (last, mut waiting) = scope(|scope| {
        let reading: Vec<_> = streams
            .iter()
            .map(|stream| {
                let peer = server.connect();
                let writer = peer.share();
                scope.spawn(move || stream.write(writer));
                scope.spawn(move || stream.read(peer))
            })
            .collect();
        wait_until("all streams flow", || streams.iter().all(|stream| stream.written.load(Ordering::SeqCst) > 20));
        sleep(Duration::from_millis(random.below(30) as u64));

        // What streams write to a process that stands still soon fills the window, and then waits with the writer.
        let written: Vec<u64> = streams.iter().map(|stream| stream.written.load(Ordering::SeqCst)).collect();
        let mut waiting = Vec::new();
        if queued > 0 {
            server.signal(Signal::STOP);
            for index in 0..queued {
                let mut peer = server.connect();
                peer.send(&event.repeat(QUEUED_FRAMES as usize));
                if index % 2 == 0 {
                    peer.send(&COMMIT_REQUEST);
                }
                waiting.push(peer);
            }
        }
        server.signal(signal);
        if queued > 0 {
            server.signal(Signal::CONT);
        }

        wait_until("it says that it is not ready", || server.get("/readyz").status == 503);
        wait_until("nobody is accepted any more", || TcpStream::connect(server.listen).is_err());
        for (peer, cut) in begun.iter_mut().zip(&cuts) {
            peer.send(&event[*cut..]);
        }
        let last: Vec<Option<Answer>> = reading.into_iter().map(|reading| reading.join().unwrap()).collect();
        for (answer, written) in last.iter().zip(written) {
            if let Some(answer) = answer {
                assert!(answer.committed >= written, "{written} were written before the signal, but {answer:?}");
            }
        }
        (last, waiting)
    });

    // What is known to be decided: each kind of peer was told, or has finished its frames before the signal.
    let mut accepted = 0;
    for (index, peer) in begun.iter_mut().enumerate() {
        let replies = peer.replies();
        if index % 2 == 0 {
            assert_eq!(replies.iter().map(|reply| told_of_shutdown(Some(reply))).collect::<Vec<_>>(), [committed(2)]);
            accepted += 2;
        } else {
            assert_eq!(replies, []);
            accepted += 1;
        }
    }
    for (index, peer) in waiting.iter_mut().enumerate() {
        let replies = peer.replies();
        if index % 2 == 0 {
            assert_eq!(replies.len(), 2, "{replies:?}");
            assert_eq!(replies[0], Reply::Committed(committed(QUEUED_FRAMES)));
            assert_eq!(told_of_shutdown(replies.last()), committed(QUEUED_FRAMES));
        } else {
            assert_eq!(replies, []);
        }
        accepted += QUEUED_FRAMES;
    }
    accepted += last.iter().flatten().map(|answer| answer.committed).sum::<u64>();
    drop((begun, waiting));
    let totals = server.wait().totals();
    // The silent streams are known from both sides only.
    let silent = streams.iter().filter(|stream| !stream.asks);
    let written: u64 = silent.map(|stream| stream.written.load(Ordering::SeqCst)).sum();
    assert_eq!(totals.rejected, 0);
    assert!(
        (accepted..=accepted + written).contains(&totals.accepted),
        "{totals:?}, {accepted} by peers that were told, {written} written by silent ones"
    );
}

fn stop_again_and_again(flags: &[&str]) {
    let mut random = Random::from_environment();
    for round in 0..10 {
        let signal = if round % 4 == 3 { Signal::INT } else { Signal::TERM };
        stop_under_load(flags, signal, [0, 100][round % 2], &mut random);
    }
}

#[test]
fn sigterm_loses_no_whole_frame() {
    stop_again_and_again(&[]);
}

#[test]
fn sigterm_loses_no_whole_frame_on_two_shards() {
    match host::cores_for(2) {
        Some(cores) => stop_again_and_again(&["--cores", &cores]),
        None => println!("SKIPPED: this machine has one core"),
    }
}

#[test]
fn silent_peers_frames_before_the_signal_are_all_counted() {
    // Nobody asks, and everybody has written before the signal: the totals alone tell.
    for round in 0..10 {
        let server = Server::start(BINARY, &[]);
        let mut peers: Vec<Peer> = (0..50).map(|_| server.connect()).collect();
        for number in 0..20 {
            for peer in &mut peers {
                peer.send(&frames::event("silent", number));
            }
        }
        let ended = server.terminate();
        assert_eq!(ended.totals().accepted, 50 * 20, "round {round}: {}", ended.stderr);
        peers.iter_mut().for_each(|peer| assert_eq!(peer.reply(), None));
    }
}

#[test]
fn a_long_accept_queue_is_served_before_the_stop() {
    const QUEUED: usize = 1_500;
    host::allow_descriptors(QUEUED as u64);
    let mut random = Random::from_environment();
    for flags in [&[][..], &["--pool-bytes", &smallest_pool(BINARY)]] {
        for _ in 0..2 {
            stop_under_load(flags, Signal::TERM, QUEUED, &mut random);
        }
    }
}

#[test]
fn a_frame_that_is_never_finished_is_given_up_after_the_drain_timeout() {
    let server = Server::start(BINARY, &["--drain-timeout", "1s"]);
    let event = frames::event("device", 1);
    let mut told = server.connect();
    told.send(&event);
    assert_eq!(told.commit(), committed(1));
    told.send(&event[..500]);
    let mut silent = server.connect();
    silent.send(&[&event[..], &event[..3]].concat());
    // One that goes on, byte by byte, and never gets there.
    let mut dripping = server.connect();
    assert_eq!(dripping.commit(), committed(0));
    dripping.send(&event[..4]);
    server.assert_accounted(2);

    let start = Instant::now();
    server.signal(Signal::TERM);
    for byte in &event[4..] {
        if dripping.has_reply() {
            break;
        }
        dripping.send(&[*byte]);
        sleep(Duration::from_millis(50));
    }
    assert_eq!(told_of_shutdown(dripping.reply().as_ref()), committed(0));
    assert_eq!(told_of_shutdown(told.reply().as_ref()), committed(1));
    assert_eq!(silent.reply(), None);
    // None of them closes, and yet it ends.
    let ended = server.wait();
    println!("ended after {:.1?}", start.elapsed());
    assert_eq!(ended.totals().accepted, 2, "a frame that is cut by the stop is no frame");
    drop((told, silent, dripping));
}

#[test]
fn a_server_without_peers_stops_with_exit_code_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let server = Server::start(BINARY, &[]);
        server.signal(signal);
        let totals = server.wait().totals();
        assert_eq!((totals.accepted, totals.rejected), (0, 0));
    }
}

#[test]
fn a_second_signal_ends_at_once_with_exit_code_1() {
    let server = Server::start(BINARY, &["--drain-timeout", "10m", "--frame-timeout", "10m"]);
    let mut peer = server.connect();
    peer.send(&frames::event("device", 1)[..500]);
    server.wait_metrics("the start of the frame came", |metrics| {
        metrics.count("corelane_received_bytes_total", &[]) == 500
    });
    server.signal(Signal::TERM);
    wait_until("it drains", || server.get("/readyz").status == 503);
    server.signal(Signal::INT);
    let ended = server.wait();
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
}
