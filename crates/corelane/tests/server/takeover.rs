//! Where listening sockets come from: another server that goes on meanwhile, or a service manager.

use std::os::unix::net::UnixDatagram;
use std::process::Command;

use corelane_testkit::{DEADLINE, Server, frames, host};

use crate::BINARY;

fn successor(server: &Server, flags: &[&str]) -> Server {
    let (listen, control) = (server.listen.to_string(), server.control.to_string());
    let mut command = Command::new(BINARY);
    command.args(["serve", "--takeover", "--listen", &listen, "--control", &control, "--log-format", "json"]);
    Server::spawn(command.args(flags))
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
