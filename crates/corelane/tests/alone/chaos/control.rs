//! Rows of the control port: readers, crowds, searches, names and tokens.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use corelane_testkit::http::{self, HttpConnection};
use corelane_testkit::server::command;
use corelane_testkit::{Server, frames, host, wait_until};
use serde_json::Value;

use super::{BINARY, figure, honest_before, honest_share, is_full, scaled, turn};

/// Asks a probe every 20 ms until told to stop, each time over a connection of its own; the slowest answer.
fn slowest_probe(address: SocketAddr, over: &AtomicBool) -> Duration {
    let mut slowest = Duration::ZERO;
    while !over.load(Ordering::Relaxed) {
        let start = Instant::now();
        assert_eq!(http::get(address, "/healthz").expect("a probe is answered").status, 200);
        slowest = slowest.max(start.elapsed());
        sleep(Duration::from_millis(20));
    }
    slowest
}

/// The slowest probe while `attack` runs.
fn probed(address: SocketAddr, attack: impl FnOnce()) -> Duration {
    let over = AtomicBool::new(false);
    scope(|scope| {
        let probe = scope.spawn(|| slowest_probe(address, &over));
        // Also when the attack panics, or this would hang instead of failing.
        let _end = scopeguard::guard((), |()| over.store(true, Ordering::Relaxed));
        attack();
        over.store(true, Ordering::Relaxed);
        probe.join().unwrap()
    })
}

/// A shipped liveness probe waits for 2 s; an idle machine answers within some milliseconds.
fn assert_quick(slowest: Duration) {
    assert!(!is_full() || slowest <= Duration::from_millis(100), "{slowest:?}");
}

/// Series with names of which JSON escapes every byte; how many frames that took.
fn fill(server: &Server, series: usize) {
    let mut peer = server.connect();
    let sensor = "\u{1}".repeat(256);
    let numbers: Vec<usize> = (0..series).collect();
    for chunk in numbers.chunks(1_000) {
        let names = chunk.iter().map(|number| format!("{number:0>5}{}", "\u{2}".repeat(251)));
        peer.send(&names.flat_map(|id| frames::small_event(&id, &sensor, 1, 1.0)).collect::<Vec<_>>());
        peer.commit();
    }
    server.wait_metrics("the series", |metrics| metrics.count("corelane_series", &[]) >= series as u64);
}

#[test]
fn readers_that_take_no_large_answer_cost_what_the_plan_says() {
    let _turn = turn();
    let plan = command(BINARY).args(["plan", "--json", "--cores", &host::cores_for(1).unwrap()]).output().unwrap();
    let plan: Value = serde_json::from_slice(&plan.stdout).unwrap();
    let planned = plan["memory_bytes_max"].as_u64().unwrap();
    let server = Server::start(BINARY, &[]);
    let before = honest_before(&server);
    fill(&server, scaled(65_000, 10_000));
    let rounds = scaled(10, 1);
    let (mut share, mut largest) = (0.0_f64, 0);
    let slowest = probed(server.control, || {
        for _ in 0..rounds {
            let readers: Vec<_> = (1..=64)
                .map(|number| {
                    let mut reader = TcpStream::connect(server.control).unwrap();
                    let search = "%01".repeat(number);
                    let line = format!("GET /api/v1/sensors?limit=10000&search={search} HTTP/1.1");
                    reader.write_all(format!("{line}\r\nHost: localhost\r\n\r\n").as_bytes()).unwrap();
                    reader
                })
                .collect();
            share = share.max(honest_share(&server, scaled(4, 1), before));
            largest = largest.max(server.metrics().resident_bytes());
            drop(readers);
        }
    });
    figure(
        "64 readers that take none of their answers of 33 MB",
        &format!(
            "{:.0} MB resident at most of {:.0} planned, an honest peer kept {share:.2} of its throughput, /healthz \
             within {slowest:.1?}",
            largest as f64 / 1e6,
            planned as f64 / 1e6
        ),
    );
    assert!(largest <= planned, "{largest} of {planned}");
    assert_quick(slowest);
}

#[test]
fn silent_connects_keep_no_probe_waiting() {
    let _turn = turn();
    let server = Server::start(BINARY, &["--probe", "127.0.0.1:0"]);
    let before = honest_before(&server);
    let (rate, seconds) = (scaled(600, 300), scaled(10, 1));
    let mut share = 0.0;
    let slowest = probed(server.control, || {
        scope(|scope| {
            scope.spawn(|| {
                let (start, mut crowd) = (Instant::now(), std::collections::VecDeque::new());
                for number in 1..=(rate * seconds) as u32 {
                    crowd.push_back(TcpStream::connect(server.control).unwrap());
                    // Longer than the server waits for them.
                    if crowd.len() > 400 {
                        crowd.pop_front();
                    }
                    let due = start + Duration::from_secs(1) * number / rate as u32;
                    sleep(due.saturating_duration_since(Instant::now()));
                }
            });
            share = honest_share(&server, scaled(8, 1), before);
        });
    });
    figure(
        &format!("{rate} silent connects a second to the control port"),
        &format!("/healthz within {slowest:.1?}, an honest peer kept {share:.2} of its throughput"),
    );
    assert_quick(slowest);
}

#[test]
fn searches_keep_no_probe_waiting() {
    let _turn = turn();
    let server = Server::start(BINARY, &[]);
    let before = honest_before(&server);
    let series = scaled(65_000, 5_000);
    fill(&server, series);
    let (over, searchers) = (AtomicBool::new(false), 20);
    let mut share = 0.0;
    let slowest = probed(server.control, || {
        scope(|scope| {
            for searcher in 0..searchers {
                let (over, server) = (&over, &server);
                scope.spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        let _ = http::get(server.control, &format!("/api/v1/sensors?search=%01%01absent{searcher}"));
                    }
                });
            }
            let _end = scopeguard::guard((), |()| over.store(true, Ordering::Relaxed));
            share = honest_share(&server, scaled(20, 2), before);
        });
    });
    figure(
        &format!("{searchers} searches at a time over {series} series"),
        &format!("/healthz within {slowest:.1?}, an honest peer kept {share:.2} of its throughput"),
    );
    assert_quick(slowest);
}

#[test]
fn a_rebound_name_is_told_nothing() {
    let _turn = turn();
    let server = Server::start(BINARY, &[]);
    let names =
        ["evil.example", "evil.example:9600", "localhost.evil.example", "127.0.0.1.evil.example:9600", "0x7f.1"];
    let paths = ["/", "/metrics", "/api/v1/stats", "/api/v1/sensors", "/api/v1/events", "/healthz", "/nothing"];
    let mut refused = 0;
    for _ in 0..scaled(100, 1) {
        for (name, path) in names.iter().flat_map(|name| paths.iter().map(move |path| (name, path))) {
            let mut stream = TcpStream::connect(server.control).unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 421 "), "{name} {path}: {answer}");
            refused += 1;
        }
    }
    assert_eq!(server.get("/metrics").status, 200);
    figure("a page with a name that points to 127.0.0.1 (DNS rebinding)", &format!("{refused} requests, 421 each"));
}

#[test]
fn wrong_tokens_are_slowed_down_and_right_ones_are_not() {
    let _turn = turn();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "s3cret\n").unwrap();
    let server = Server::start(BINARY, &["--control-token-file", file.path().to_str().unwrap()]);
    let get = |token: &str| {
        let mut connection = HttpConnection::open(server.control)?;
        connection.get_with("/metrics", &format!("Authorization: Bearer {token}\r\n"))
    };
    let (over, guessers) = (AtomicBool::new(false), scaled(16, 4));
    let seconds = scaled(10, 1) as u32;
    let mut slowest_right = Duration::ZERO;
    let slowest = probed(server.control, || {
        scope(|scope| {
            for guesser in 0..guessers {
                let (get, over) = (&get, &over);
                scope.spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        // A connection that makes room for another is no answer.
                        assert!(get(&format!("guess-{guesser}")).map_or(true, |answer| answer.status == 401));
                    }
                });
            }
            let _end = scopeguard::guard((), |()| over.store(true, Ordering::Relaxed));
            let start = Instant::now();
            while start.elapsed() < Duration::from_secs(1) * seconds {
                let asked = Instant::now();
                assert_eq!(get("s3cret").unwrap().status, 200);
                slowest_right = slowest_right.max(asked.elapsed());
                sleep(Duration::from_millis(50));
            }
        });
    });
    let lines = || server.stderr().matches("wrong_token").count();
    wait_until("a log line", || lines() > 0);
    let scrape = get("s3cret").unwrap().body;
    let count = scrape.lines().find_map(|line| line.strip_prefix("corelane_control_unauthorized_total ")).unwrap();
    let count: u32 = count.parse().unwrap();
    figure(
        &format!("{guessers} clients of one address try wrong tokens for {seconds} s"),
        &format!(
            "{count} tries, {} log lines; the right token answered within {slowest_right:.1?}, /healthz within \
             {slowest:.1?}",
            lines()
        ),
    );
    // Some at once, then one a second and client, and what was under way when the last second began.
    assert!(count <= 10 + guessers as u32 * (seconds + 2), "{count}");
    assert_quick(slowest);
}
