//! Attacks and faults against a real server, one test a row of the table in `docs/operations.md`.
//!
//! Run by `scripts/chaos.sh` in full, with `CORELANE_CHAOS=full`, one at a time and printing a figure each; in the tests
//! small, where nothing is compared that depends on how fast this machine is. Loopback and own network namespaces only.

mod control;
mod log;
mod partial;
mod payloads;
mod peers;
mod prefix;
mod takeover;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use corelane_testkit::pki::{Authority, Identity};
use corelane_testkit::{DEADLINE, Metrics, Peer, Random, Reply, Server, frames, host, wait_until};
use corelane_wire::MAX_FRAME_SIZE;

use crate::{BINARY, turn};

fn is_full() -> bool {
    std::env::var("CORELANE_CHAOS").is_ok_and(|value| value == "full")
}

/// How many of something: `full` in `scripts/chaos.sh`, few in the tests.
fn scaled(full: usize, few: usize) -> usize {
    if is_full() { full } else { few }
}

/// A row of the table that `scripts/chaos.sh` prints.
fn figure(attack: &str, text: &str) {
    println!("CHAOS | {attack} | {text}");
}

/// A peer that sends as fast as it is let, and has every hundred frames confirmed: frames a second.
fn honest_frames_a_second(server: &Server, id: &str, time: Duration) -> f64 {
    const FRAMES: u64 = 100;
    let chunk = (0..FRAMES).flat_map(|number| frames::event(id, number)).collect::<Vec<_>>();
    let mut peer = server.connect();
    let (start, mut sent) = (Instant::now(), 0);
    while start.elapsed() < time {
        peer.send(&chunk);
        sent += FRAMES;
        assert_eq!(peer.commit().committed, sent, "nothing is lost");
    }
    sent as f64 / start.elapsed().as_secs_f64()
}

/// What an honest peer keeps of its throughput at least. Two rounds flat out differ by a third where others use the machine, so
/// this only tells a server that goes on from one that does not.
const SHARE_MIN: f64 = 0.3;

/// An honest peer's throughput during an attack over that before it: the best of some rounds each.
fn honest_share(server: &Server, rounds: usize, before: f64) -> f64 {
    let time = Duration::from_millis(scaled(500, 50) as u64);
    let during = (0..rounds).map(|_| honest_frames_a_second(server, "honest", time)).fold(0.0, f64::max);
    during / before
}

fn honest_before(server: &Server) -> f64 {
    let time = Duration::from_millis(scaled(500, 50) as u64);
    (0..3).map(|_| honest_frames_a_second(server, "honest", time)).fold(0.0, f64::max)
}

fn open_descriptors(metrics: &Metrics) -> u64 {
    metrics.count("process_open_fds", &[])
}

fn all_gone(server: &Server) -> Metrics {
    server.wait_metrics("nobody is left and every buffer is home", |metrics| {
        metrics.connections() == 0 && metrics.buffers_in_use() == 0
    })
}

#[test]
fn fast_producers_do_not_grow_a_small_pool() {
    let _turn = turn();
    let server = Server::start(BINARY, &["--pool-bytes", "4MiB"]);
    let frame = frames::event_of("fast", 1, 1_000);
    let chunk = frame.repeat(100);
    let rounds = scaled(3_000, 100);
    let idle = server.metrics().resident_bytes();
    let largest = scope(|scope| {
        let senders: Vec<_> = (0..64)
            .map(|_| {
                scope.spawn(|| {
                    let mut peer = server.connect();
                    (0..rounds).for_each(|_| peer.send(&chunk));
                    assert_eq!(peer.commit().committed, 100 * rounds as u64);
                })
            })
            .collect();
        let mut largest = 0;
        while senders.iter().any(|sender| !sender.is_finished()) {
            largest = largest.max(server.metrics().resident_bytes());
            sleep(Duration::from_millis(20));
        }
        largest
    });
    let metrics = server.assert_accounted(64 * 100 * rounds as u64);
    assert_eq!(metrics.rejected(), 0);
    // The pool, one series, and what scrapes take.
    assert!(largest < idle + (4 << 20) + (12 << 20), "{idle} bytes grew to {largest}");
    figure(
        "64 fast producers, a pool of 4 MiB",
        &format!("{} frames, 0 lost, {:.1} MB resident at most", metrics.accepted(), largest as f64 / 1e6),
    );
}

/// Sends and asks until the server stops; gives what its last word says was committed.
fn load_until_stopped(mut peer: Peer, id: &str) -> u64 {
    let chunk = (0..20).flat_map(|time| frames::event(id, time)).collect::<Vec<_>>();
    loop {
        let sent = peer.try_send(&chunk).and_then(|()| peer.try_send(&frames::COMMIT_REQUEST));
        let reply = if sent.is_ok() { peer.reply() } else { peer.replies().pop() };
        match reply.expect("whoever asked is told how it ended") {
            Reply::Committed(_) => {}
            Reply::Closing { code, answer, .. } => {
                assert_eq!((code.as_str(), answer.rejected), ("shutdown", 0), "no frame was taken for a broken one");
                return answer.committed;
            }
        }
    }
}

#[test]
fn stops_under_load_lose_no_whole_frame() {
    let _turn = turn();
    let rounds = scaled(100, 4);
    let (mut frames, mut longest) = (0, Duration::ZERO);
    for round in 0..rounds {
        let server = Server::start(BINARY, &[]);
        let (told, accepted) = scope(|scope| {
            let load = |number| {
                let peer = server.connect();
                scope.spawn(move || load_until_stopped(peer, &format!("load-{number}")))
            };
            let senders: Vec<_> = (0..8).map(load).collect();
            sleep(Duration::from_millis(20 + 7 * (round as u64 % 5)));
            let start = Instant::now();
            server.signal(rustix::process::Signal::TERM);
            let told: u64 = senders.into_iter().map(|sender| sender.join().unwrap()).sum();
            let accepted = server.wait().totals().accepted;
            longest = longest.max(start.elapsed());
            (told, accepted)
        });
        assert_eq!(told, accepted, "each frame is counted once, and its peer knows");
        frames += accepted;
    }
    figure(
        &format!("SIGTERM under load, {rounds} times"),
        &format!("exit 0 each time, after {longest:.1?} at most; {frames} frames, each counted once"),
    );
}

/// One scrape over a connection that is kept; `None` when the server has closed it meanwhile.
fn scrape(reader: &mut BufReader<TcpStream>) -> Option<()> {
    reader.get_mut().write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").ok()?;
    let mut length = None;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|&bytes| bytes > 0)?;
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = Some(value.trim().parse().unwrap());
        }
        if line == "\r\n" {
            break;
        }
    }
    let length = length.expect("an answer tells its length");
    assert_eq!(std::io::copy(&mut reader.take(length), &mut std::io::sink()).unwrap(), length, "a whole answer");
    Some(())
}

/// Scrapes as an HTTP client does until told to stop, at most so often; how many it got. A kept connection that had to
/// make room is made anew.
fn scrape_again_and_again(control: SocketAddr, pause: Duration, over: &AtomicBool) -> u64 {
    let connect = || {
        let stream = TcpStream::connect(control).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        BufReader::new(stream)
    };
    let (mut reader, start, mut count) = (connect(), Instant::now(), 0);
    while !over.load(Ordering::Relaxed) {
        match scrape(&mut reader) {
            Some(()) => count += 1,
            None => reader = connect(),
        }
        sleep((start + pause * count as u32).saturating_duration_since(Instant::now()));
    }
    count
}

#[test]
fn scrapes_and_slow_http_clients_cost_the_data_core_nothing() {
    let _turn = turn();
    let server = Server::start(BINARY, &[]);
    let before = honest_before(&server);
    let (scrapers, slow) = (20, scaled(200, 30));
    // 1 000 a second together.
    let pause = Duration::from_millis(scrapers as u64);
    let over = AtomicBool::new(false);
    let start = Instant::now();
    let (share, scrapes) = scope(|scope| {
        let scrapers: Vec<_> =
            (0..scrapers).map(|_| scope.spawn(|| scrape_again_and_again(server.control, pause, &over))).collect();
        scope.spawn(|| {
            let mut clients: Vec<_> = (0..slow).map(|_| TcpStream::connect(server.control).unwrap()).collect();
            while !over.load(Ordering::Relaxed) {
                for client in &mut clients {
                    if client.write_all(b"G").is_err() {
                        *client = TcpStream::connect(server.control).unwrap();
                    }
                }
                sleep(Duration::from_millis(500));
            }
        });
        let share = honest_share(&server, scaled(8, 2), before);
        over.store(true, Ordering::Relaxed);
        (share, scrapers.into_iter().map(|scraper| scraper.join().unwrap()).sum::<u64>())
    });
    let rate = scrapes as f64 / start.elapsed().as_secs_f64();
    figure(
        &format!("{rate:.0} scrapes a second and {slow} slow HTTP clients"),
        &format!("an honest peer keeps {share:.2} of its throughput, metrics are served"),
    );
    assert!(scrapes > 0);
    assert!(share >= SHARE_MIN, "{share}");
}
