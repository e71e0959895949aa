//! Where listening sockets come from: another server that goes on meanwhile, or a service manager.

use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use corelane_testkit::{DEADLINE, Peer, Reply, Server, frames, host};

const BINARY: &str = env!("CARGO_BIN_EXE_corelane");

fn successor(server: &Server, flags: &[&str]) -> Server {
    let (listen, control) = (server.listen.to_string(), server.control.to_string());
    let mut command = Command::new(BINARY);
    command.args(["serve", "--takeover", "--listen", &listen, "--control", &control, "--log-format", "json"]);
    Server::spawn(command.args(flags))
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
    let rounds = if std::env::var("CORELANE_CHAOS").is_ok_and(|value| value == "full") { 20 } else { 5 };
    let cores = host::cores_for(2).or_else(|| host::cores_for(1)).unwrap();
    let flags = ["--cores", cores.as_str()];
    let mut server = Server::start(BINARY, &flags);
    let (listen, over, long_sent) = (server.listen, AtomicBool::new(false), AtomicU64::new(0));
    let ((committed, unanswered), accepted) = thread::scope(|scope| {
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
            let next = successor(&server, &flags);
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
    println!("CHAOS | takeover under load, {rounds} times | 0 refused or reset, {committed} frames, each counted once");
}

#[test]
fn a_successor_that_fails_changes_nothing() {
    let server = Server::start(BINARY, &[]);
    let mut peer = server.connect();
    let (listen, control) = (server.listen.to_string(), server.control.to_string());
    let failed = Command::new(BINARY)
        .args(["serve", "--takeover", "--listen", &listen, "--control", &control, "--pool-bytes", "1"])
        .output()
        .unwrap();
    assert_eq!(failed.status.code(), Some(2), "{}", String::from_utf8_lossy(&failed.stderr));
    // Dies with the sockets in hand.
    for _ in 0..3 {
        let script = "import socket, sys\n\
            s = socket.socket(socket.AF_UNIX)\n\
            s.connect('\\0corelane/' + sys.argv[1])\n\
            data, descriptors, _, _ = socket.recv_fds(s, 1, 16)\n\
            assert data[0] == len(descriptors) == 2, (data, descriptors)\n";
        let asked = Command::new("python3").args(["-c", script, &listen]).output().unwrap();
        assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    }
    peer.send(&frames::event("steady", 1));
    assert_eq!(peer.commit().committed, 1);
    let next = successor(&server, &[]);
    assert_eq!(server.wait().totals().accepted, 1);
    assert_eq!(next.connect().commit().committed, 0);
}

#[test]
fn a_successor_may_leave_the_control_port_open() {
    let server = Server::start(BINARY, &[]);
    let listen = server.listen.to_string();
    let mut command = Command::new(BINARY);
    let cores = host::cores_for(1).unwrap();
    command.args(["serve", "--takeover", "--listen", &listen, "--control", "127.0.0.1:0", "--cores", &cores]);
    let next = Server::spawn(&mut command);
    assert_eq!(server.control, next.control, "what was given is used");
    server.wait().totals();
    assert_eq!(next.connect().commit().committed, 0);
}

#[test]
fn without_a_server_there_is_nothing_to_take_over() {
    let server = Server::start(BINARY, &[]);
    let (listen, control) = (server.listen.to_string(), server.control.to_string());
    server.terminate();
    let refused = Command::new(BINARY)
        .args(["serve", "--takeover", "--listen", &listen, "--control", &control])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text.contains("start without --takeover"), "{text}");
}

/// Starts the server as systemd does: sockets from descriptor 3 on, and a socket to tell about itself.
#[test]
fn a_service_manager_passes_sockets_in_and_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let notify = UnixDatagram::bind(&path).unwrap();
    notify.set_read_timeout(Some(DEADLINE)).unwrap();
    let script = "import os, socket, sys\n\
        data, control = socket.create_server(('127.0.0.1', 0)), socket.create_server(('127.0.0.1', 0))\n\
        addresses = ['127.0.0.1:%d' % s.getsockname()[1] for s in (data, control)]\n\
        fds = [os.dup(s.fileno()) for s in (data, control)]\n\
        held = [os.dup2(os.dup(fd), 20 + i) for i, fd in enumerate(fds)]\n\
        for i, fd in enumerate(held): os.dup2(fd, 3 + i)\n\
        os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='2')\n\
        os.execv(sys.argv[1], sys.argv[1:2] + ['serve', '--listen', addresses[0], '--control', addresses[1]] + sys.argv[2:])\n";
    let cores = host::cores_for(2).or_else(|| host::cores_for(1)).unwrap();
    let mut command = Command::new("python3");
    command
        .args(["-c", script, BINARY, "--cores", &cores, "--log-format", "json"])
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "600000");
    let server = Server::spawn(&mut command);
    let told = || {
        let mut text = [0; 256];
        let bytes = notify.recv(&mut text).expect("the service manager is told");
        String::from_utf8_lossy(&text[..bytes]).into_owned()
    };
    assert!(told().contains("READY=1"));
    for _ in 0..8 {
        let mut peer = server.connect();
        peer.send(&frames::event("inherited", 1));
        assert_eq!(peer.commit().committed, 1);
    }
    server.assert_accounted(8);
    assert!((0..3).all(|_| told().contains("WATCHDOG=1")));
    assert_eq!(server.terminate().totals().accepted, 8);
    let mut last = told();
    while last.contains("WATCHDOG=1") {
        last = told();
    }
    assert!(last.contains("STOPPING=1"), "{last}");
}
