//! Takeovers under load, and local users who stand in the way of one.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixStream};
use std::sync::atomic::{AtomicU64, AtomicUsize};

use corelane_testkit::server::runtime_directory;
use rustix::process::{Uid, geteuid};
use rustix::thread::set_thread_res_uid;

use super::*;

fn successor(server: &Server, cores: &str) -> Server {
    let (listen, control) = (server.listen.to_string(), server.control.to_string());
    let mut command = Command::new(BINARY);
    command.args(["serve", "--takeover", "--listen", &listen, "--control", &control, "--log-format", "json"]);
    Server::spawn(command.args(["--cores", cores]))
}

/// One after the other, connections that send a frame and ask; returns the frames that were committed, and those whose fate
/// their sender was not told. Nobody is refused or reset, or this panics.
fn connect_loop(listen: SocketAddr, id: &str, over: &AtomicBool) -> (u64, u64) {
    let (mut committed, mut unanswered) = (0, 0);
    for number in 0.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let mut peer = Peer::connect(listen);
        peer.send(&frames::event(id, number + 1));
        peer.send(&frames::COMMIT_REQUEST);
        // A server that stops may not have taken the frame. Then it says so, or just closes if the request had not come.
        let Some(reply) = peer.reply() else {
            unanswered += 1;
            continue;
        };
        assert!(
            matches!(&reply, Reply::Committed(_))
                || matches!(&reply, Reply::Closing { code, .. } if code == "shutdown")
        );
        committed += reply.answer().committed;
    }
    (committed, unanswered)
}

#[test]
fn a_successor_takes_over_and_nobody_is_refused_or_lost() {
    let _turn = turn();
    let rounds = scaled(20, 5) as u64;
    let cores = host::cores_for(2).or_else(|| host::cores_for(1)).unwrap();
    let mut server = Server::start(BINARY, &["--cores", &cores]);
    let (listen, over, long_sent) = (server.listen, AtomicBool::new(false), AtomicU64::new(0));
    let ((committed, unanswered), accepted) = scope(|scope| {
        let over = &over;
        // Also when a round panics, or this would hang instead of telling.
        let _end = scopeguard::guard((), |()| over.store(true, Ordering::Relaxed));
        let connect = |id| scope.spawn(move || connect_loop(listen, &format!("loop-{id}"), over));
        let loops: Vec<_> = (0..3).map(connect).collect();
        let mut accepted = 0;
        for round in 0..rounds {
            // A connection in the middle of its work when the server changes.
            let mut busy = server.connect();
            for number in 0..50 {
                busy.send(&frames::event("busy", round * 50 + number + 1));
            }
            busy.send(&frames::COMMIT_REQUEST);
            let next = successor(&server, &cores);
            assert_eq!(busy.answer().committed, 50);
            long_sent.fetch_add(50, Ordering::Relaxed);
            let Reply::Closing { code, answer, .. } = busy.reply().expect("the last frame") else {
                panic!("an answer")
            };
            assert_eq!((code.as_str(), answer.committed), ("shutdown", 50));
            accepted += std::mem::replace(&mut server, next).wait().totals().accepted;
        }
        over.store(true, Ordering::Relaxed);
        let ended = loops.into_iter().map(|thread| thread.join().unwrap());
        (ended.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1)), accepted)
    });
    let committed = committed + long_sent.into_inner();
    let accepted = accepted + server.terminate().totals().accepted;
    assert!((committed..=committed + unanswered).contains(&accepted), "{accepted} of {committed} and {unanswered}");
    assert!(unanswered <= 3 * rounds, "{unanswered} in {rounds} stops");
    figure(
        &format!("takeover under load, {rounds} times"),
        &format!("0 refused or reset, {committed} frames, each counted once"),
    );
}

#[test]
fn local_users_do_not_delay_a_takeover() {
    let _turn = turn();
    if !geteuid().is_root() {
        return println!("SKIPPED: another user can be played by root only");
    }
    let held = scaled(2_000, 100);
    host::allow_descriptors(held as u64);
    let server = Server::start(BINARY, &[]);
    let before = honest_before(&server);
    let name = UnixAddress::from_abstract_name(format!("corelane/{}", server.listen)).unwrap();
    let path = runtime_directory().join(format!("{}.sock", server.listen));
    // Processes of the same user that connect and are silent.
    let silent: Vec<_> = (0..scaled(100, 10)).map(|_| UnixStream::connect(&path).unwrap()).collect();
    let (over, count) = (AtomicBool::new(false), AtomicUsize::new(0));
    let start = Instant::now();
    let (share, longest, lines) = scope(|scope| {
        let _end = scopeguard::guard((), |()| over.store(true, Ordering::Relaxed));
        scope.spawn(|| {
            let nobody = Uid::from_raw(65_534);
            set_thread_res_uid(nobody, nobody, nobody).unwrap();
            let connect = || {
                let stream = UnixStream::connect_addr(&name)?;
                count.fetch_add(1, Ordering::Relaxed);
                Ok::<_, std::io::Error>(stream)
            };
            let mut held: Vec<_> = (0..held).map_while(|_| connect().ok()).collect();
            while !over.load(Ordering::Relaxed) {
                let next = count.load(Ordering::Relaxed) % held.len();
                match connect() {
                    Ok(stream) => held[next] = stream,
                    // Between two servers.
                    Err(_) => sleep(Duration::from_micros(100)),
                }
            }
        });
        wait_until("they connect", || count.load(Ordering::Relaxed) > held);
        let share = honest_share(&server, 3, before);
        let (mut server, mut longest, mut lines) = (server, Duration::ZERO, 0);
        for _ in 0..scaled(20, 2) {
            let cores = host::cores_for(1).unwrap();
            let start = Instant::now();
            let next = successor(&server, &cores);
            longest = longest.max(start.elapsed());
            let ended = std::mem::replace(&mut server, next).wait();
            assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
            lines = lines.max(ended.stderr.matches("takeover was refused").count());
            assert_eq!(server.connect().commit().committed, 0);
        }
        (share, longest, lines)
    });
    drop(silent);
    let rate = count.into_inner() as f64 / start.elapsed().as_secs_f64();
    figure(
        &format!("a local user connects to the takeover socket {rate:.0} times a second, {held} at a time"),
        &format!(
            "a takeover took {longest:.2?} at most, {lines} log lines a server, an honest peer kept {share:.2} of its \
             throughput"
        ),
    );
    assert!(longest < Duration::from_secs(10) && lines <= 2);
}
