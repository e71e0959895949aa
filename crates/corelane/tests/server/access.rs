//! Who may connect, how often and how many, and which shard they get.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use corelane_testkit::{Peer, Reply, Server, frames, host, server, wait_until};
use rustix::process::Signal;
use serde_json::json;

use crate::BINARY;

const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
const THERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 77);

/// Whether a peer from `source` is taken in: whoever is gets an answer.
fn is_taken(server: &Server, source: Ipv4Addr) -> bool {
    let mut peer = Peer::connect_from(source, server.listen);
    // The close may come before the request or after it.
    peer.try_send(&frames::COMMIT_REQUEST).is_ok() && peer.try_reply().is_some()
}

#[test]
fn only_allowed_addresses_are_taken_and_the_rules_can_change() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().display().to_string();
    let write = |text: &str| std::fs::write(&path, text).unwrap();
    write("allow = [\"127.0.0.1/32\", \"2001:db8::/32\"]\n");
    let server = Server::start(BINARY, &["--config", &path]);
    let mut old = Peer::connect_from(HERE, server.listen);
    assert_eq!(old.commit().committed, 0);
    assert!(!is_taken(&server, THERE));
    let metrics = server.wait_metrics("the refusal", |metrics| metrics.closed_for("refused") == 1);
    assert_eq!(metrics.security_events("not_allowed"), 1);
    let events = server.json("/api/v1/events");
    let event = &events["events"][0];
    assert_eq!(event["kind"], "not_allowed");
    assert!(event["peer"].as_str().unwrap().starts_with("127.0.0.77:"), "{event}");

    // The file is read again because it changed.
    write("allow = [\"127.0.0.77\"]\n");
    wait_until("the new rules", || is_taken(&server, THERE));
    assert!(!is_taken(&server, HERE));
    // A bad one changes nothing, and says so.
    write("allow = [\"everybody\"]\n");
    server.signal(Signal::HUP);
    wait_until("a complaint about the file", || server.stderr().contains("everybody"));
    assert!(is_taken(&server, THERE) && !is_taken(&server, HERE));
    // Nor does one that was emptied, which would let everybody in.
    write("");
    server.signal(Signal::HUP);
    wait_until("a complaint about what is gone", || server.stderr().contains("`allow` is gone"));
    assert!(is_taken(&server, THERE) && !is_taken(&server, HERE));
    // On a signal, too.
    write("allow = [\"127.0.0.0/8\"]\n");
    server.signal(Signal::HUP);
    wait_until("the newest rules", || is_taken(&server, HERE));
    wait_until("the newest rules, told", || {
        let told = server.json("/api/v1/stats")["configuration"].as_array().unwrap().clone();
        let allow = told.iter().find(|setting| setting["key"] == "allow").unwrap();
        *allow == json!({ "key": "allow", "value": "127.0.0.0/8", "source": "file" })
    });
    // Who was here before the rules changed is not touched.
    old.send(&frames::event("old", 1));
    assert_eq!(old.commit().committed, 1);
    server.assert_accounted(1);
}

#[test]
fn an_address_has_only_so_many_connections() {
    let cores = host::cores_for(2).or_else(|| host::cores_for(1)).unwrap();
    let server = Server::start(BINARY, &["--cores", &cores, "--max-connections-per-ip", "3"]);
    for _ in 0..3 {
        let mut peers: Vec<_> = (0..3).map(|_| Peer::connect_from(HERE, server.listen)).collect();
        peers.iter_mut().for_each(|peer| assert_eq!(peer.commit().committed, 0));
        assert!(!is_taken(&server, HERE));
        assert!(is_taken(&server, THERE), "others have their own");
        drop(peers);
        // Whoever leaves makes room.
        server.wait_metrics("all have left", |metrics| metrics.connections() == 0);
    }
    let metrics = server.metrics();
    assert_eq!(metrics.security_events("max_connections_per_ip"), 3);
    assert_eq!(metrics.closed_for("refused"), 3);
}

#[test]
fn ipv6_peers_share_the_count_of_their_prefix_and_ipv4_peers_do_not() {
    // One bit would put all IPv4 peers of a dual-stack port, and `::1`, into one network.
    for (prefix, flags) in [(64, &[][..]), (1, &["--ipv6-prefix", "1"])] {
        let limit = ["--listen", "[::]:0", "--max-connections-per-ip", "2"];
        let cores = host::cores_for(1).unwrap();
        let mut command = server::command(BINARY);
        command.args(["serve", "--control", "127.0.0.1:0", "--log-format", "json", "--cores", &cores]);
        let server = Server::spawn(command.args(limit).args(flags));
        let port = server.listen.port();
        let ipv4 = SocketAddr::from((HERE, port));
        let mut peers: Vec<_> =
            [HERE, HERE, THERE, THERE].iter().map(|source| Peer::connect_from(*source, ipv4)).collect();
        let ipv6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
        peers.extend((0..2).map(|_| Peer::connect(ipv6)));
        peers.iter_mut().for_each(|peer| assert_eq!(peer.commit().committed, 0));
        let mut refused = [Peer::connect(ipv6), Peer::connect_from(HERE, ipv4), Peer::connect_from(THERE, ipv4)];
        refused.iter_mut().for_each(|peer| assert_eq!(peer.try_reply(), None));
        server.wait_metrics(&format!("three refusals with prefix {prefix}"), |metrics| {
            metrics.security_events("max_connections_per_ip") == 3
        });
    }
}

#[test]
fn an_address_connects_only_so_often() {
    let server = Server::start(BINARY, &["--max-accept-rate-per-ip", "5"]);
    let start = Instant::now();
    let taken = (0..20).filter(|_| is_taken(&server, HERE)).count();
    let seconds = start.elapsed().as_secs() as usize + 2;
    assert!((5..=5 * seconds).contains(&taken), "{taken} of 20 in {seconds} s");
    assert!(is_taken(&server, THERE));
    let refused = 20 - taken as u64;
    let metrics = server.wait_metrics("the refusals", |metrics| metrics.closed_for("refused") == refused);
    assert_eq!(metrics.security_events("accept_rate"), refused);
    wait_until("another second", || is_taken(&server, HERE));
}

#[test]
fn connections_are_dealt_out_evenly() {
    let Some(cores) = host::cores_for(2) else { return println!("SKIPPED: this machine has one core") };
    let server = Server::start(BINARY, &["--cores", &cores]);
    let mut peers: Vec<_> = (0..64).map(|_| server.connect()).collect();
    for (number, peer) in peers.iter_mut().enumerate() {
        peer.send(&frames::event(&format!("even-{number}"), 1));
        assert_eq!(peer.commit().committed, 1);
    }
    let metrics = server.assert_accounted(64);
    let of = |shard| metrics.count("corelane_connections", &[("shard", shard)]);
    assert_eq!(of("0") + of("1"), 64);
    assert!(of("0").abs_diff(of("1")) <= 2, "{} and {}", of("0"), of("1"));
    // What is free is given out again.
    peers.truncate(32);
    server.wait_metrics("half of them left", |metrics| metrics.connections() == 32);
    peers.extend((0..32).map(|_| server.connect()));
    peers.iter_mut().for_each(|peer| assert!(peer.commit().committed <= 1));
    let metrics = server.metrics();
    let of = |shard| metrics.count("corelane_connections", &[("shard", shard)]);
    assert!(of("0").abs_diff(of("1")) <= 2, "{} and {}", of("0"), of("1"));
}

#[test]
fn a_rate_limit_holds_a_connection_back_and_loses_nothing() {
    const RATE: usize = 1_000_000;
    // Clocks that would run out many times over, if they ran.
    let flags = ["--max-rate-per-connection", "1MB", "--frame-timeout", "300ms", "--idle-timeout", "300ms"];
    let server = Server::start(BINARY, &flags);
    let frame = frames::event_of("fast", 1, 60_000);
    let count = 4 * RATE / frame.len();
    let start = Instant::now();
    let mut peer = server.connect();
    for _ in 0..count {
        peer.send(&frame);
    }
    // Somebody beside it is served at once, whatever the limit makes the other wait.
    let mut beside = server.connect();
    beside.send(&frames::event("beside", 1));
    assert_eq!(beside.commit().committed, 1);
    assert_eq!(peer.commit().committed, count as u64);
    // The first second's worth is free.
    let least = Duration::from_secs_f64((count * frame.len() - RATE) as f64 / RATE as f64 * 0.9);
    assert!(start.elapsed() >= least, "{count} frames in {:?}", start.elapsed());
    let metrics = server.assert_accounted(count as u64 + 1);
    assert_eq!((metrics.accepted(), metrics.closed_for("frame_timeout")), (count as u64 + 1, 0));
}

#[test]
fn a_low_rate_runs_out_no_clock() {
    // A frame of 64 KiB takes two seconds at this rate, four times the frame timeout.
    let flags = ["--max-rate-per-connection", "32KiB", "--frame-timeout", "500ms"];
    let server = Server::start(BINARY, &flags);
    let frame = frames::event_of("slow", 1, 65_536);
    let mut peer = server.connect();
    (0..3).for_each(|_| peer.send(&frame));
    assert_eq!(peer.commit().committed, 3);
    // One that is shown out is told why, however little it may send.
    let mut rude = server.connect();
    assert_eq!(rude.commit().committed, 0);
    (0..2).for_each(|_| rude.send(&frame));
    rude.send(&frames::header(u32::MAX));
    rude.send(&[0; 100_000]);
    let Some(Reply::Closing { code, .. }) = rude.reply() else { panic!("no last frame") };
    assert_eq!(code, "oversize");
    server.assert_accounted(6);
}

#[test]
fn a_stop_does_not_wait_for_a_rate_limit() {
    let server = Server::start(BINARY, &["--max-rate-per-connection", "100KB"]);
    let frame = frames::event_of("fast", 1, 60_000);
    let mut peer = server.connect();
    // Arrives in the socket long before the limit lets it in.
    for _ in 0..5 {
        peer.send(&frame);
    }
    peer.send(&frames::COMMIT_REQUEST);
    server.wait_metrics("the first of them", |metrics| metrics.accepted() > 0);
    let ended = server.terminate();
    assert_eq!(ended.totals().accepted, 5);
    assert_eq!(peer.answer().committed, 5);
}

#[test]
fn an_old_connection_is_closed_behind_an_answer() {
    let server = Server::start(BINARY, &["--max-connection-age", "500ms"]);
    let (mut asks, mut silent, mut begun) = (server.connect(), server.connect(), server.connect());
    begun.send(&frames::event("begun", 1)[..100]);
    let mut sent = 0;
    let closing = loop {
        asks.send(&frames::event("asks", sent + 1));
        sent += 1;
        asks.send(&frames::COMMIT_REQUEST);
        match asks.reply().expect("an answer, or the last frame") {
            Reply::Committed(answer) => assert_eq!(answer.committed, sent),
            closing => break closing,
        }
        // The last frame may follow the answer at once.
        std::thread::sleep(Duration::from_millis(5));
        if asks.has_reply() {
            break asks.reply().expect("the last frame");
        }
    };
    let Reply::Closing { code, answer, .. } = closing else { unreachable!() };
    assert_eq!(code, "max_age");
    // What was sent after the answer was not taken, and the last frame tells that.
    assert!(answer.committed == sent || answer.committed == sent - 1);
    assert_eq!(silent.reply(), None, "who never asked is written nothing");
    begun.send(&frames::event("begun", 1)[100..]);
    assert_eq!(begun.reply(), None, "closed after its frame, not inside it");
    let metrics = server.assert_accounted(answer.committed + 1);
    assert_eq!(metrics.closed_for("max_age"), 3);
}
