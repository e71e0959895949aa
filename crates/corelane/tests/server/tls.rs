//! TLS on the data port: frames, answers and ends as without it, and who is let in.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use corelane_testkit::pki::{Authority, Identity};
use corelane_testkit::{Peer, Random, Reply, Server, frames, server, wait_for, wait_until};
use rustix::process::Signal;
use rustls::version::{TLS12, TLS13};
use rustls::{ALL_VERSIONS, ClientConfig};
use tempfile::TempDir;

use crate::BINARY;

/// A server of an authority's fleet, and its files.
struct Fleet {
    authority: Authority,
    directory: TempDir,
    server: Server,
}

impl Fleet {
    /// Clients need a certificate of the authority if `mutual`.
    fn start(mutual: bool, flags: &[&str]) -> Self {
        let authority = Authority::new("fleet");
        let directory = tempfile::tempdir().unwrap();
        let (certificate, key) = authority.issue("localhost").write(directory.path(), "server");
        let ca = directory.path().join("ca.pem");
        std::fs::write(&ca, authority.certificate()).unwrap();
        let text = |path: &PathBuf| path.to_str().unwrap().to_owned();
        let mut arguments = vec!["--tls-cert".to_owned(), text(&certificate), "--tls-key".to_owned(), text(&key)];
        if mutual {
            arguments.extend(["--tls-client-ca".to_owned(), text(&ca)]);
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(flags.iter().copied()).collect();
        let server = Server::start(BINARY, &arguments);
        Self { authority, directory, server }
    }

    fn client(&self) -> Arc<ClientConfig> {
        self.authority.client(None, ALL_VERSIONS)
    }

    fn connect(&self, client: &Arc<ClientConfig>) -> Peer {
        Peer::connect_tls(self.server.listen, client)
    }

    /// Whether a client with this certificate is taken in.
    fn takes(&self, shown: Option<&Identity>) -> bool {
        let mut peer = self.connect(&self.authority.client(shown, ALL_VERSIONS));
        // With TLS 1.3 the client is done before the server has seen its certificate.
        peer.shake_hands().is_ok() && peer.try_send(&frames::COMMIT_REQUEST).is_ok() && peer.is_answered()
    }

    fn detail_of(&self, address: std::net::SocketAddr) -> String {
        wait_for("the security event", || {
            let events = self.server.json("/api/v1/events");
            let mut events = events["events"].as_array().unwrap().iter();
            let event = events.find(|event| event["peer"] == address.to_string())?;
            Some(format!("{}: {}", event["kind"].as_str().unwrap(), event["detail"].as_str().unwrap()))
        })
    }
}

#[test]
fn frames_of_every_size_are_counted_and_answered_in_both_versions() {
    let fleet = Fleet::start(true, &[]);
    let device = fleet.authority.issue("device");
    let mut sent = 0;
    for version in [&TLS12, &TLS13] {
        let mut peer = fleet.connect(&fleet.authority.client(Some(&device), &[version]));
        let mut frames_of_peer = 0;
        for bytes in [350, 1_000, 16_300, 16_384, 20_000, 65_536] {
            for count in [1, 7, 40] {
                peer.send(&frames::event_of("device", 1, bytes).repeat(count));
                frames_of_peer += count as u64;
                assert_eq!(peer.commit().committed, frames_of_peer, "{count} of {bytes} bytes");
            }
        }
        peer.send(&frames::invalid_frames()[0].bytes);
        assert_eq!(peer.commit().rejected, 1);
        sent += frames_of_peer + 1;
        peer.half_close();
        assert!(peer.replies().is_empty(), "a close_notify, then the end");
    }
    let metrics = fleet.server.assert_accounted(sent);
    assert_eq!((metrics.closed(), metrics.closed_for("peer_closed")), (2, 2));
    assert_eq!(metrics.security_events("tls"), 0);
    fleet.server.wait_metrics("every buffer came home", |metrics| metrics.buffers_in_use() == 0);
}

#[test]
fn records_cut_anywhere_are_the_same_stream() {
    let fleet = Fleet::start(false, &[]);
    let client = fleet.client();
    let mut random = Random::from_seed(7);
    let mut sent = 0;
    for largest in [3, 40, 700, 17_000, 100_000] {
        let mut peer = fleet.connect(&client);
        peer.shake_hands().unwrap();
        let mut stream = Vec::new();
        for number in 0..if largest < 100 { 8 } else { 200 } {
            let bytes = 350 + random.below(if largest < 100 { 900 } else { 30_000 });
            stream.extend(frames::event_of("cut", number, bytes));
            sent += 1;
        }
        stream.extend(frames::COMMIT_REQUEST);
        let sealed = peer.seal(&stream);
        let mut rest = &sealed[..];
        while !rest.is_empty() {
            let (piece, more) = rest.split_at(rest.len().min(1 + random.below(largest)));
            peer.send_raw(piece).unwrap();
            rest = more;
            if random.below(4) == 0 {
                sleep(Duration::from_micros(200));
            }
        }
        assert_eq!(peer.answer().rejected, 0);
    }
    assert_eq!(fleet.server.assert_accounted(sent).accepted(), sent);
}

#[test]
fn a_certificate_has_to_be_good_and_those_that_are_here_stay() {
    let fleet = Fleet::start(true, &[]);
    let (authority, other) = (&fleet.authority, Authority::new("elsewhere"));
    let (good, lost) = (authority.issue("good"), authority.issue("lost"));
    let mut live = fleet.connect(&authority.client(Some(&lost), ALL_VERSIONS));
    live.send(&frames::event("lost", 1));
    assert_eq!(live.commit().committed, 1);
    assert!(fleet.takes(Some(&good)) && fleet.takes(Some(&lost)));

    let bad = [
        ("certificate_required", None),
        ("certificate_expired", Some(authority.issue_until("old", 2010))),
        ("unknown_ca", Some(Identity::self_signed("self"))),
        ("unknown_ca", Some(other.issue("stranger"))),
    ];
    for (alert, shown) in &bad {
        for version in [&TLS12, &TLS13] {
            let mut peer = fleet.connect(&authority.client(shown.as_ref(), &[version]));
            let address = peer.address();
            let refused = peer.shake_hands().is_err() || !peer.is_answered();
            assert!(refused, "{alert}");
            assert_eq!(fleet.detail_of(address), format!("tls: the peer was refused: {alert}"));
        }
    }
    let metrics = fleet.server.metrics();
    assert_eq!((metrics.closed_for("tls"), metrics.security_events("tls")), (8, 8));

    // Revoked: read because it changed, and without touching who is here.
    let ca = fleet.directory.path().join("ca.pem");
    std::fs::write(&ca, authority.certificate() + &authority.revocation_list(&[&lost])).unwrap();
    wait_until("the list is read", || !fleet.takes(Some(&lost)));
    assert!(fleet.takes(Some(&good)));
    // A bad file keeps the old one, and is told.
    std::fs::write(&ca, "nonsense").unwrap();
    fleet.server.signal(Signal::HUP);
    wait_until("a complaint", || fleet.server.stderr().contains("ca.pem: has neither"));
    assert!(!fleet.takes(Some(&lost)) && fleet.takes(Some(&good)));
    live.send(&frames::event("lost", 2));
    assert_eq!(live.commit().committed, 2);
    fleet.server.assert_accounted(2);
}

#[test]
fn a_new_certificate_is_shown_and_the_first_to_expire_is_told() {
    let fleet = Fleet::start(false, &[]);
    let expiry = |name: &str| fleet.server.metrics().count(name, &[]);
    let name = "corelane_tls_certificate_expiry_timestamp_seconds";
    assert_eq!(expiry(name), 3_786_912_000, "2090");
    fleet.authority.issue_until("localhost", 2080).write(fleet.directory.path(), "server");
    fleet.server.signal(Signal::HUP);
    wait_until("the new certificate", || expiry(name) == 3_471_292_800);
    assert!(fleet.takes(None));
}

#[test]
fn a_handshake_has_its_time() {
    let fleet = Fleet::start(false, &["--handshake-timeout", "600ms"]);
    let mut begun = Vec::new();
    for bytes in [&b""[..], &[22], &[22, 3, 1, 1, 0, 1], &[22, 3, 1, 0, 4, 1, 0, 0xff, 0xff]] {
        let mut peer = fleet.server.connect();
        peer.send(bytes);
        begun.push(peer);
    }
    let mut honest = fleet.connect(&fleet.client());
    assert_eq!(honest.commit().committed, 0);
    let metrics = fleet.server.wait_metrics("their end", |metrics| metrics.closed_for("handshake_timeout") == 4);
    assert_eq!(metrics.security_events("handshake_timeout"), 4);
    assert_eq!(honest.commit().committed, 0);
}

#[test]
fn other_protocols_are_shown_out() {
    let fleet = Fleet::start(false, &[]);
    for bytes in [&frames::event("plain", 1)[..], b"GET / HTTP/1.1\r\n\r\n", &[0xff; 100]] {
        let mut peer = fleet.server.connect();
        peer.send(bytes);
        let address = peer.address();
        assert_eq!(peer.try_reply(), None);
        assert_eq!(fleet.detail_of(address), "tls: the peer does not speak TLS");
    }
    // What is not encrypted behind a handshake is no record either.
    let mut peer = fleet.connect(&fleet.client());
    peer.shake_hands().unwrap();
    peer.send_raw(&frames::event("plain", 1)).unwrap();
    assert!(!peer.is_answered());
    let metrics = fleet.server.assert_accounted(0);
    assert_eq!(metrics.closed_for("tls"), 4);
}

#[test]
fn what_came_before_a_bad_record_is_decided() {
    let fleet = Fleet::start(false, &[]);
    let mut peer = fleet.connect(&fleet.client());
    assert_eq!(peer.commit().committed, 0);
    let mut sealed = peer.seal(&frames::event("good", 1));
    let mut bad = peer.seal(&frames::event("good", 2));
    *bad.last_mut().unwrap() ^= 1;
    sealed.extend(bad);
    peer.send_raw(&sealed).unwrap();
    match peer.reply() {
        Some(Reply::Closing { code, answer, .. }) => assert_eq!((&code[..], answer.committed), ("tls", 1)),
        other => panic!("{other:?}"),
    }
    assert_eq!(fleet.server.assert_accounted(1).accepted(), 1);
}

#[test]
fn a_stop_finishes_what_was_begun_and_tells() {
    let fleet = Fleet::start(false, &[]);
    let client = fleet.client();
    let frame = frames::event_of("stop", 1, 40_000);
    let mut peers: Vec<Peer> = (0..8).map(|_| fleet.connect(&client)).collect();
    let mut rests = Vec::new();
    for (number, peer) in peers.iter_mut().enumerate() {
        assert_eq!(peer.commit().committed, 0);
        peer.send(&frame);
        // Cut inside a record, or between two.
        let sealed = peer.seal(&frame);
        let (start, rest) = sealed.split_at(if number % 2 == 0 { 10_000 } else { 5 + 16_401 });
        peer.send_raw(start).unwrap();
        rests.push(rest.to_vec());
    }
    let Fleet { server, authority: _authority, directory: _directory } = fleet;
    server.wait_metrics("the first frames", |metrics| metrics.accepted() == 8);
    server.signal(Signal::TERM);
    wait_until("the drain", || server.get("/readyz").status == 503);
    for (peer, rest) in peers.iter_mut().zip(&rests) {
        peer.send_raw(rest).unwrap();
    }
    for peer in &mut peers {
        match &peer.replies()[..] {
            [Reply::Closing { code, answer, .. }] => assert_eq!((&code[..], answer.committed), ("shutdown", 2)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(server.wait().totals().accepted, 16);
}

#[test]
fn frames_larger_than_the_pool_together_are_all_finished() {
    let pool = server::smallest_pool(BINARY);
    let fleet = Fleet::start(false, &["--pool-bytes", &pool, "--frame-timeout", "60s"]);
    let client = fleet.client();
    let mut peers: Vec<Peer> = (0..48).map(|_| fleet.connect(&client)).collect();
    // 48 of 60 kB in 1.3 MB: every one is begun before any is finished.
    let mut rests: Vec<Vec<u8>> = peers
        .iter_mut()
        .enumerate()
        .map(|(number, peer)| {
            peer.shake_hands().unwrap();
            let small = frames::event_of("large", 1, 700 + number);
            let stream = [frames::event_of("large", 1, 60_000), small, frames::event_of("large", 2, 30_000)].concat();
            peer.seal(&[&stream[..], &frames::COMMIT_REQUEST].concat())
        })
        .collect();
    let mut random = Random::from_seed(11);
    while rests.iter().any(|rest| !rest.is_empty()) {
        for (peer, rest) in peers.iter_mut().zip(&mut rests) {
            let piece = rest.len().min(1_000 + random.below(9_000));
            peer.send_raw(&rest[..piece]).unwrap();
            rest.drain(..piece);
        }
    }
    for peer in &mut peers {
        assert_eq!(peer.answer().committed, 3);
    }
    let metrics = fleet.server.assert_accounted(3 * 48);
    assert_eq!(metrics.closed(), 0, "backpressure ends nobody");
    assert!(metrics.count("corelane_pool_waits_total", &[]) > 0, "the pool was short");
    fleet.server.wait_metrics("every buffer came home", |metrics| metrics.buffers_in_use() == 0);
}

#[test]
fn silent_handshakes_leave_room_for_others() {
    let fleet = Fleet::start(false, &["--handshake-timeout", "60s"]);
    let silent: Vec<Peer> = (0..700).map(|_| fleet.server.connect()).collect();
    let mut honest = fleet.connect(&fleet.client());
    assert_eq!(honest.commit().committed, 0);
    let metrics = fleet.server.metrics();
    assert!(metrics.closed_for("handshake_timeout") >= 188, "those who waited for them made them go");
    drop(silent);
    fleet.server.wait_metrics("only one is left", |metrics| metrics.connections() == 1);
}

#[test]
fn a_steady_stream_allocates_nothing() {
    let fleet = Fleet::start(false, &[]);
    let client = fleet.client();
    let mut peers: Vec<Peer> = (0..16).map(|_| fleet.connect(&client)).collect();
    let frame = frames::event("steady", 1);
    let round = |peers: &mut Vec<Peer>| {
        for peer in peers.iter_mut() {
            peer.send(&frame.repeat(20));
        }
    };
    let allocations = || fleet.server.metrics().count("corelane_allocations_total", &[]);
    (0..20).for_each(|_| round(&mut peers));
    fleet.server.assert_accounted(20 * 16 * 20);
    let before = allocations();
    let (rounds, start) = (500, Instant::now());
    (0..rounds).for_each(|_| round(&mut peers));
    fleet.server.assert_accounted((20 + rounds) * 16 * 20);
    let allocated = allocations() - before;
    println!("{allocated} allocations for {} writes of 20 frames", rounds * 16);
    // The executor's turns cost some with time, as without TLS.
    let turns = 1_000 * (1 + start.elapsed().as_secs());
    assert!(allocated < rounds * 16 / 10 + turns, "{allocated} in {:?}", start.elapsed());
}

#[test]
fn slow_handshakes_are_waited_for() {
    const PEERS: usize = 560;
    let fleet = Fleet::start(false, &["--handshake-timeout", "60s"]);
    let client = fleet.client();
    let mut peers: Vec<Peer> = (0..PEERS).map(|_| fleet.connect(&client)).collect();
    peers.iter_mut().for_each(|peer| peer.send_hello());
    // 48 of them wait for a place, and the others are silent for longer than a silent frame may be.
    sleep(Duration::from_millis(1_500));
    peers.iter_mut().for_each(|peer| assert_eq!(peer.commit().committed, 0));
    let metrics = fleet.server.metrics();
    assert_eq!((metrics.connections(), metrics.closed()), (PEERS as u64, 0));
}

#[test]
fn an_old_connection_is_not_closed_inside_a_record() {
    let fleet = Fleet::start(false, &["--max-connection-age", "500ms"]);
    let mut peer = fleet.connect(&fleet.client());
    peer.shake_hands().unwrap();
    let sealed = peer.seal(&frames::event("old", 1));
    let (start, rest) = sealed.split_at(sealed.len() / 2);
    peer.send_raw(start).unwrap();
    sleep(Duration::from_millis(1_500));
    peer.send_raw(rest).unwrap();
    assert_eq!(fleet.server.assert_accounted(1).accepted(), 1);
    fleet.server.wait_metrics("its end", |metrics| metrics.closed_for("max_age") == 1);
}

#[test]
fn starts_of_records_are_bounded_by_the_pool() {
    const PEERS: u64 = 400;
    let pool = server::smallest_pool(BINARY);
    let fleet = Fleet::start(false, &["--pool-bytes", &pool, "--frame-timeout", "60s"]);
    let client = fleet.client();
    let mut peers: Vec<Peer> = (0..PEERS).map(|_| fleet.connect(&client)).collect();
    let frame = frames::event_of("cut", 1, 16_000);
    peers.iter_mut().for_each(|peer| assert_eq!(peer.commit().committed, 0));
    let allocated = || fleet.server.metrics().count("corelane_memory_allocated_bytes", &[]);
    let (before, mut largest) = (allocated(), 0);
    for peer in &mut peers {
        // A whole frame, so that data comes in front of the start.
        let mut sealed = peer.seal(&frame);
        sealed.extend_from_slice(&peer.seal(&frame)[..15_000]);
        peer.send_raw(&sealed).unwrap();
    }
    let metrics = fleet.server.wait_metrics("every first frame", |metrics| {
        largest = largest.max(allocated().saturating_sub(before));
        metrics.accepted() == PEERS || metrics.closed_for("frame_timeout") > 0
    });
    assert!(metrics.count("corelane_pool_waits_total", &[]) > 0, "the pool was short");
    assert!(largest < 500_000, "{largest} bytes for starts of records");
}

/// What `corelane plan` counts with: `SESSION_BYTES` and `HANDSHAKE_STATE_BYTES` in the shard's `needs`.
#[test]
fn connections_take_no_more_memory_than_planned() {
    const PEERS: u64 = 300;
    let fleet = Fleet::start(true, &[]);
    let device = fleet.authority.issue("device");
    let allocated = || fleet.server.metrics().count("corelane_memory_allocated_bytes", &[]);
    for version in [&TLS12, &TLS13] {
        let client = fleet.authority.client(Some(&device), &[version]);
        assert_eq!(fleet.connect(&client).commit().committed, 0);
        let before = allocated();
        let mut peers: Vec<Peer> = (0..PEERS).map(|_| fleet.connect(&client)).collect();
        peers.iter_mut().for_each(|peer| assert_eq!(peer.commit().committed, 0));
        let open = (allocated() - before) / PEERS;
        drop(peers);
        fleet.server.wait_metrics("they have left", |metrics| metrics.connections() == 0);

        let before = allocated();
        let mut peers: Vec<Peer> = (0..PEERS).map(|_| fleet.connect(&client)).collect();
        peers.iter_mut().for_each(|peer| peer.send_hello());
        fleet.server.wait_metrics("all have begun", |metrics| {
            metrics.count("corelane_received_bytes_total", &[]) > 0 && peers.iter().all(|peer| peer.has_reply())
        });
        let begun = (allocated() - before) / PEERS;
        println!("{version:?}: {open} bytes an open connection, {begun} a handshake");
        assert!(open <= 4 * 1024 && begun <= 8 * 1024, "{open} {begun}");
        drop(peers);
        fleet.server.wait_metrics("they have left", |metrics| metrics.connections() == 0);
    }
}

#[test]
fn wrong_files_are_refused_at_start() {
    let authority = Authority::new("fleet");
    let directory = tempfile::tempdir().unwrap();
    let (certificate, key) = authority.issue("localhost").write(directory.path(), "server");
    let run = |flags: &[&str]| {
        let output = server::command(BINARY).args(["serve", "--listen", "127.0.0.1:0"]).args(flags).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).unwrap()
    };
    let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
    assert!(run(&["--tls-cert", certificate]).contains("means nothing without --tls-key"));
    assert!(run(&["--tls-cert", certificate, "--tls-key", "/nowhere"]).contains("/nowhere: No such file"));
    let error = run(&["--tls-cert", certificate, "--tls-key", key, "--tls-client-ca", key]);
    assert!(error.contains("server.key: has neither a certificate"), "{error}");
    assert!(run(&["--tls-client-ca", certificate]).contains("means nothing without --tls-cert"));
}
