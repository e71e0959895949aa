//! Attacks and faults against a real server, one test a row of the table in `docs/operations.md`.
//!
//! Run by `scripts/chaos.sh` in full, with `CORELANE_CHAOS=full`, one at a time and printing a figure each; in the tests
//! small, where nothing is compared that depends on how fast this machine is. Loopback and own network namespaces only.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use corelane_testkit::pki::{Authority, Identity};
use corelane_testkit::{DEADLINE, Metrics, Peer, Random, Reply, Server, frames, host, wait_until};
use corelane_wire::MAX_FRAME_SIZE;

const BINARY: &str = env!("CARGO_BIN_EXE_corelane");

/// Rows use up what the machine has, so they run one at a time.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

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
fn stalled_peers_cost_the_others_nothing() {
    let _turn = turn();
    let stalled = scaled(5_000, 300);
    host::allow_descriptors(2 * stalled as u64);
    let server = Server::start(BINARY, &["--frame-timeout", "8s", "--max-connections", "12000"]);
    let before = honest_before(&server);
    let frame = frames::event("stalled", 1);
    let header = frame[..3].to_vec();
    let peers: Vec<_> = (0..2 * stalled)
        .map(|number| {
            let mut peer = server.connect();
            peer.send(if number < stalled { &header } else { &frame[..700] });
            peer
        })
        .collect();
    let share = honest_share(&server, 3, before);
    let closed = server.wait_metrics("the frame timeout ends them", |metrics| {
        metrics.closed_for("frame_timeout") == 2 * stalled as u64
    });
    assert_eq!(closed.closed_for("panic"), 0);
    drop(peers);
    all_gone(&server);
    figure(
        &format!("{stalled} peers stop inside a header, {stalled} inside a frame"),
        &format!("an honest peer keeps {share:.2} of its throughput, 0 lost; the pool came back whole"),
    );
    assert!(!is_full() || share >= 0.9, "{share}");
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

#[test]
fn connects_and_resets_leave_nothing_behind() {
    let _turn = turn();
    let server = Server::start(BINARY, &[]);
    let flood = |count: usize| {
        for number in 0..count {
            // The kernel's queue may be full of resets; then it drops one.
            if let Ok(stream) = TcpStream::connect(server.listen) {
                Peer::of(stream).reset();
            }
            if number % 10_000 == 0 {
                assert_eq!(server.get("/healthz").status, 200);
                assert_eq!(server.connect().commit().committed, 0);
            }
        }
    };
    let warm_up = scaled(100_000, 2_000);
    flood(warm_up);
    let before = all_gone(&server);
    let count = scaled(1_000_000, 8_000);
    let start = Instant::now();
    flood(count);
    let after = server.wait_metrics("descriptors are as before", |metrics| {
        metrics.connections() == 0 && open_descriptors(metrics) <= open_descriptors(&before)
    });
    let grown = after.resident_bytes().saturating_sub(before.resident_bytes());
    assert!(grown < 4 << 20, "{grown} bytes more");
    assert_eq!(honest_share(&server, 1, f64::INFINITY), 0.0, "it still serves");
    figure(
        &format!("{count} connects and immediate resets"),
        &format!(
            "{:.0}/s, descriptors flat, {:.1} MB more resident, answered throughout",
            count as f64 / start.elapsed().as_secs_f64(),
            grown as f64 / 1e6
        ),
    );
}

#[test]
fn strangers_are_shown_out() {
    let _turn = turn();
    let server = Server::start(BINARY, &[]);
    let mut random = Random::from_environment();
    let noise: Vec<u8> = (0..600).map(|_| random.below(256) as u8 | 0x80).collect();
    let hello = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[7; 300]].concat();
    let greetings: [&[u8]; 5] = [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", &hello, &noise, b"GET /", &[0xff; 4]];
    let allocated = |metrics: &Metrics| metrics.count("corelane_allocated_bytes_total", &[]);
    let before = server.metrics();
    let rounds = scaled(200, 10);
    let mut longest = Duration::ZERO;
    for greeting in greetings.iter().cycle().take(rounds * greetings.len()) {
        let mut stream = TcpStream::connect(server.listen).unwrap();
        stream.write_all(greeting).unwrap();
        let start = Instant::now();
        // Its FIN, while this side stays open.
        assert_eq!(stream.read(&mut [0; 16]).unwrap(), 0);
        longest = longest.max(start.elapsed());
    }
    let count = (rounds * greetings.len()) as u64;
    let after = server.wait_metrics("all are shown out", |metrics| metrics.closed_for("oversize") == count);
    assert_eq!(after.security_events("oversize"), count);
    // No payload was made room for: closing has a few small allocations of its own at most.
    let a_connection = (allocated(&after) - allocated(&before)) / count;
    assert!(a_connection < 4_096, "{a_connection} bytes allocated a connection");
    all_gone(&server);
    let cpu = |metrics: &Metrics| metrics.sum("process_cpu_seconds_total", &[]);
    let quiet = cpu(&server.metrics());
    sleep(Duration::from_secs(2));
    let percent = (cpu(&server.metrics()) - quiet) / 2.0 * 100.0;
    figure(
        "HTTP, TLS, noise, a length of 0xffffffff on the data port",
        &format!(
            "closed after {longest:.1?} at most, {a_connection} bytes allocated each, {percent:.1} % CPU afterwards"
        ),
    );
    assert!(!is_full() || longest < Duration::from_secs(1) && percent < 5.0);
}

/// Payloads that make decoders recurse, reserve or search, each as long as a frame may be.
fn hostile_payloads() -> Vec<(&'static str, Vec<u8>)> {
    let mut nested_lies = Vec::new();
    while nested_lies.len() + 5 <= MAX_FRAME_SIZE {
        let left = (MAX_FRAME_SIZE - nested_lies.len()) as u32;
        nested_lies.push(0x9a);
        nested_lies.extend(left.to_be_bytes());
    }
    let many_keys = [&[0xb9, 0x52, 0x08][..], &[0x61, b'k', 0x00].repeat(0x5208)].concat();
    vec![
        ("too_deep", vec![0x81; 65_000]),
        ("too_deep", vec![0xc1; 65_000]),
        ("too_deep", vec![0x9f; 65_000]),
        ("malformed", vec![0x9a, 0xff, 0xff, 0xff, 0xff]),
        ("malformed", [&[0xa2, 0x9b, 0x80][..], &[0; 7]].concat()),
        ("too_deep", nested_lies),
        ("not_an_event", many_keys),
    ]
}

#[test]
fn hostile_payloads_take_time_like_their_length_and_no_memory() {
    let _turn = turn();
    let server = Server::start(BINARY, &[]);
    let valid = frames::event("honest", 1);
    let mut peer = server.connect();
    peer.send(&valid);
    assert_eq!(peer.commit().committed, 1);
    let (rounds, mut sent) = (scaled(2_000, 20), 0);
    let (mut longest, mut bytes) = (0.0f64, 0);
    let cpu = |metrics: &Metrics| metrics.sum("corelane_shard_cpu_seconds_total", &[]);
    let payloads = hostile_payloads();
    // The first pass touches the buffers that long frames need.
    let mut before = server.metrics();
    for (number, (reason, payload)) in payloads.iter().chain(&payloads).enumerate() {
        if number == payloads.len() {
            before = server.metrics();
        }
        let hostile = frames::frame(payload);
        let start = server.metrics();
        for _ in 0..rounds {
            peer.send(&hostile);
            peer.send(&valid);
        }
        sent += rounds as u64;
        let answer = peer.commit();
        assert_eq!((answer.committed, answer.rejected), (sent + 1, sent));
        let metrics = server.metrics();
        assert_eq!(metrics.rejected_for(reason) - start.rejected_for(reason), rounds as u64, "{reason}");
        let time = (cpu(&metrics) - cpu(&start)) / (rounds * payload.len()) as f64 * 1e9;
        longest = longest.max(time * payload.len() as f64);
        bytes += rounds * payload.len();
    }
    let after = server.assert_accounted(2 * sent + 1);
    let grown = after.resident_bytes().saturating_sub(before.resident_bytes());
    assert!(grown < 4 << 20, "{grown} bytes more");
    figure(
        "64 KiB of nested arrays, tags, lying counts",
        &format!(
            "{bytes} bytes rejected for the right reasons, {:.1} us CPU a frame at most, {:.1} MB more resident",
            longest / 1e3,
            grown as f64 / 1e6
        ),
    );
}

#[test]
fn names_without_end_evict_each_other_and_not_the_counters() {
    let _turn = turn();
    let server = Server::start(BINARY, &["--max-series", "10000"]);
    let count = scaled(1_000_000, 40_000) as u64;
    let mut peer = server.connect();
    let mut sent = 0;
    let mut chunk = Vec::new();
    let mut send = |range: std::ops::Range<u64>| {
        for number in range {
            chunk.extend(frames::small_event(&format!("id-{number}"), &format!("sensor-{number}"), number + 1, 1.0));
            sent += 1;
            if number % 1_000 == 0 {
                // A series that is known stays so, as long as it reports.
                chunk.extend(frames::small_event("known", "steady", number + 1, 1.0));
                sent += 1;
                peer.send(&chunk);
                chunk.clear();
            }
        }
        peer.send(&chunk);
        chunk.clear();
        assert_eq!(peer.commit().committed, sent);
    };
    send(0..count / 4);
    let before = server.metrics();
    send(count / 4..count);
    let after = server.metrics();
    assert_eq!(after.count("corelane_series", &[]), 10_000);
    let grown = after.resident_bytes().saturating_sub(before.resident_bytes());
    assert!(grown < 8 << 20, "{grown} bytes more");
    let known = server.sensors_of("known");
    assert_eq!(known[0]["count"], count.div_ceil(1_000));
    server.assert_accounted(sent);
    figure(
        &format!("{count} ids and sensors"),
        &format!("10 000 series, {:.1} MB more resident, the known series kept counting", grown as f64 / 1e6),
    );
}

#[test]
fn without_descriptors_those_who_are_here_go_on() {
    let _turn = turn();
    // Somebody else in its process holds 300 of 400 descriptors, which its own arithmetic cannot know.
    let script = "import os, sys\n\
        for i in range(300): os.dup2(0, 60 + i)\n\
        os.execv(sys.argv[1], sys.argv[1:])\n";
    let shell = "ulimit -Sn 400; ulimit -Hn 400; exec python3 -c \"$0\" \"$@\"";
    let cores = host::cores_for(1).unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", shell, script, BINARY, "serve", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"]);
    command.args(["--log-format", "json", "--cores", &cores, "--max-connections", "140"]);
    let server = Server::spawn(&mut command);
    let mut steady = server.connect();
    steady.send(&frames::event("steady", 1));
    assert_eq!(steady.commit().committed, 1);
    let lines = |server: &Server| server.stderr().matches("cannot accept connections").count();
    let crowd: Vec<_> = (0..100).map(|_| server.connect()).collect();
    wait_until("a complaint about descriptors", || lines(&server) > 0);
    let start = Instant::now();
    let mut sent = 1;
    while start.elapsed() < Duration::from_secs(scaled(10, 2) as u64) {
        steady.send(&frames::event("steady", sent));
        sent += 1;
        assert_eq!(steady.commit().committed, sent);
    }
    let said = lines(&server);
    assert!(said as u64 <= start.elapsed().as_secs() + 2, "{said} lines in {:?}", start.elapsed());
    // Who waited is taken in as soon as others leave.
    let mut late = server.connect();
    drop(crowd);
    assert_eq!(late.commit().committed, 0);
    server.assert_accounted(sent);
    figure(
        "descriptors used up",
        &format!(
            "{sent} frames of an open connection meanwhile, {said} log lines in {:.0} s, accepting recovered",
            start.elapsed().as_secs_f64()
        ),
    );
}

#[test]
fn answers_that_nobody_reads_end_their_connection() {
    let _turn = turn();
    let server = Server::start(BINARY, &["--frame-timeout", "2s"]);
    let count = scaled(100, 5);
    let mut honest = server.connect();
    let deaf: Vec<_> = (0..count)
        .map(|_| {
            let mut peer = server.connect();
            peer.shrink_receive_buffer();
            let asks = frames::COMMIT_REQUEST.repeat(1_000);
            // Until the server has closed.
            while peer.try_send(&asks).is_ok() {}
            peer
        })
        .collect();
    let metrics =
        server.wait_metrics("they are closed", |metrics| metrics.closed_for("unread_answers") == count as u64);
    assert_eq!(metrics.security_events("unread_answers"), count as u64);
    honest.send(&frames::event("honest", 1));
    assert_eq!(honest.commit().committed, 1);
    drop(deaf);
    figure(&format!("{count} peers that ask and never read"), "closed, others unaffected");
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
    reader.get_mut().write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").ok()?;
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
    assert!(!is_full() || share >= 0.9, "{share}");
}

#[test]
fn a_peer_whose_link_is_cut_is_found_gone() {
    let _turn = turn();
    if !is_full() {
        return println!("SKIPPED: it takes the user timeout, 90 s; scripts/chaos.sh plays it");
    }
    let ip = |line: &str| Command::new("ip").args(line.split(' ')).status().is_ok_and(|status| status.success());
    ip("netns del corelane-chaos");
    let made = ip("netns add corelane-chaos")
        && ip("link add corelane-v0 type veth peer name corelane-v1 netns corelane-chaos")
        && ip("addr add 10.203.7.1/30 dev corelane-v0")
        && ip("link set corelane-v0 up")
        && ip("-n corelane-chaos addr add 10.203.7.2/30 dev corelane-v1")
        && ip("-n corelane-chaos link set corelane-v1 up");
    if !made {
        ip("netns del corelane-chaos");
        return println!("SKIPPED: this machine makes no network namespaces");
    }
    let cores = host::cores_for(1).unwrap();
    let mut command = Command::new(BINARY);
    command.args(["serve", "--listen", "10.203.7.1:0", "--control", "127.0.0.1:0", "--cores", &cores]);
    let server = Server::spawn(&mut command);
    let script = "import socket, sys, time\n\
        s = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n\
        s.sendall(b'\\0\\0\\0\\0')\n\
        s.recv(100)\n\
        time.sleep(600)\n";
    let port = server.listen.port().to_string();
    let mut client = Command::new("ip")
        .args(["netns", "exec", "corelane-chaos", "python3", "-c", script, "10.203.7.1", &port])
        .spawn()
        .unwrap();
    server.wait_metrics("the peer", |metrics| metrics.connections() == 1);
    sleep(Duration::from_millis(500));
    let start = Instant::now();
    assert!(ip("link set corelane-v0 down"));
    let limit = Duration::from_secs(130);
    while server.metrics().closed_for("half_open") == 0 && start.elapsed() < limit {
        sleep(Duration::from_millis(200));
    }
    let found = start.elapsed();
    let _ = client.kill();
    let _ = client.wait();
    ip("netns del corelane-chaos");
    assert_eq!(server.metrics().closed_for("half_open"), 1, "{}", server.metrics());
    figure("the link of a peer goes down without FIN", &format!("closed after {:.0} s", found.as_secs_f64()));
    assert!(found < limit);
}

#[test]
fn bad_certificates_are_refused_and_live_connections_stay() {
    let _turn = turn();
    let (authority, stranger) = (Authority::new("fleet"), Authority::new("elsewhere"));
    let directory = tempfile::tempdir().unwrap();
    let (certificate, key) = authority.issue("localhost").write(directory.path(), "server");
    let ca = directory.path().join("ca.pem");
    std::fs::write(&ca, authority.certificate() + &authority.revocation_list(&[])).unwrap();
    let [certificate, key, ca] = [certificate, key, ca].map(|path| path.to_str().unwrap().to_owned());
    let server = Server::start(BINARY, &["--tls-cert", &certificate, "--tls-key", &key, "--tls-client-ca", &ca]);
    let lost = authority.issue("lost");
    let client = |shown: &Identity| authority.client(Some(shown), rustls::ALL_VERSIONS);
    let mut live = Peer::connect_tls(server.listen, &client(&lost));
    live.send(&frames::event("live", 1));
    assert_eq!(live.commit().committed, 1);

    // Revoked while it is connected.
    std::fs::write(&ca, authority.certificate() + &authority.revocation_list(&[&lost])).unwrap();
    server.signal(rustix::process::Signal::HUP);
    let refused = |shown: &Identity| {
        let mut peer = Peer::connect_tls(server.listen, &client(shown));
        peer.shake_hands().is_err() || peer.try_send(&frames::COMMIT_REQUEST).is_err() || !peer.is_answered()
    };
    wait_until("the list is in use", || refused(&lost));
    let before = server.wait_metrics("its refusal", |metrics| metrics.closed_for("tls") > 0).closed_for("tls");
    let bad = [lost, authority.issue_until("old", 2010), Identity::self_signed("self"), stranger.issue("stranger")];
    let each = scaled(2_000, 25);
    let (start, mut sent) = (Instant::now(), 1);
    for _ in 0..each {
        for shown in &bad {
            assert!(refused(shown));
            live.send(&frames::event("live", sent + 1));
            sent += 1;
            assert_eq!(live.commit().committed, sent, "a live connection is not touched");
        }
    }
    let total = (each * bad.len()) as u64;
    let seconds = start.elapsed().as_secs_f64();
    let metrics = server.assert_accounted(sent);
    assert_eq!(metrics.closed_for("tls"), before + total);
    assert_eq!(metrics.security_events("tls"), before + total);
    drop(live);
    all_gone(&server);
    figure(
        &format!("{total} handshakes with expired, self-signed, foreign and revoked certificates"),
        &format!(
            "all refused and counted, {:.0} a second; a live connection lost none of {sent}",
            total as f64 / seconds
        ),
    );
}

#[test]
fn a_crowd_from_one_address_leaves_room_for_others() {
    let _turn = turn();
    let server = Server::start(BINARY, &["--max-connections", "400", "--max-connections-per-ip", "50"]);
    let attacker = Ipv4Addr::new(127, 0, 0, 66);
    let count = scaled(20_000, 500);
    let mut held = Vec::new();
    for _ in 0..count {
        held.push(Peer::connect_from(attacker, server.listen));
        if held.len() > 300 {
            held.remove(0);
        }
    }
    let address: SocketAddr = server.listen;
    let mut honest = Peer::connect(address);
    honest.send(&frames::event("honest", 1));
    assert_eq!(honest.commit().committed, 1);
    let metrics = server.metrics();
    assert!(metrics.connections() <= 51, "{}", metrics.connections());
    let lines = || server.stderr().matches("max_connections_per_ip").count();
    wait_until("a log line", || lines() > 0);
    let lines = lines();
    figure(
        &format!("{count} connections of one address"),
        &format!("50 taken at a time, {} refused, {lines} log lines, others served", metrics.closed_for("refused")),
    );
}
