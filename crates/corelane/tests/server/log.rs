//! A log that cannot be written: the server serves, stops and exits as if it could.

use std::fs::OpenOptions;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use corelane_testkit::{Server, frames, wait_until};
use rustix::io::ioctl_fionbio;
use rustix::process::Signal;

use crate::BINARY;

/// A pipe without room. Writing to it waits until somebody reads.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = io::pipe().unwrap();
    ioctl_fionbio(&writer, true).unwrap();
    while writer.write(&[b'\n'; 4096]).is_ok() {}
    ioctl_fionbio(&writer, false).unwrap();
    (reader, writer)
}

/// Sends what the server logs as a security event.
fn provoke_a_line(server: &Server) {
    let before = server.metrics().security_events("oversize");
    server.connect().send(&[0xff; 4]);
    server.wait_metrics("the event", |metrics| metrics.security_events("oversize") > before);
}

fn serves(server: &Server) {
    let mut peer = server.connect();
    peer.send(&frames::event("device", 1));
    assert_eq!(peer.commit().committed, 1);
    assert_eq!(server.get("/healthz").status, 200);
}

fn dropped(server: &Server) -> u64 {
    server.metrics().count("corelane_log_lines_dropped_total", &[])
}

#[test]
fn a_closed_stderr_costs_lines_and_nothing_else() {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let server = Server::spawn_logging_to(&mut Server::command(BINARY, &[]), writer.into());
    provoke_a_line(&server);
    wait_until("the line is counted as dropped", || dropped(&server) > 0);
    serves(&server);
    assert_eq!(server.terminate().status.code(), Some(0));
}

#[test]
fn an_error_with_a_closed_stderr_has_its_exit_code() {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let stderr = || Stdio::from(writer.try_clone().unwrap());
    let wrong = Server::command(BINARY, &["--pool-bytes", "1"]).stderr(stderr()).status().unwrap();
    assert_eq!(wrong.code(), Some(2));
    // Also one that comes when the log runs.
    let used = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = used.local_addr().unwrap().to_string();
    let mut serve = corelane_testkit::server::command(BINARY);
    serve.args(["serve", "--listen", "127.0.0.1:0", "--control", &address]).stderr(stderr());
    assert_eq!(serve.status().unwrap().code(), Some(1));
}

#[test]
fn an_unread_pipe_delays_neither_the_service_nor_the_stop() {
    let (_reader, writer) = full_pipe();
    let server = Server::spawn_logging_to(&mut Server::command(BINARY, &[]), writer.into());
    provoke_a_line(&server);
    serves(&server);
    let start = Instant::now();
    assert_eq!(server.terminate().status.code(), Some(0));
    // The queued lines are waited for during one second.
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn a_second_signal_ends_at_once_although_the_log_is_stuck() {
    let (_reader, writer) = full_pipe();
    let flags = ["--drain-timeout", "10m", "--frame-timeout", "10m"];
    let server = Server::spawn_logging_to(&mut Server::command(BINARY, &flags), writer.into());
    let mut peer = server.connect();
    peer.send(&frames::event("device", 1)[..500]);
    server.wait_metrics("the start of the frame", |metrics| metrics.count("corelane_received_bytes_total", &[]) == 500);
    server.signal(Signal::TERM);
    wait_until("it drains", || server.get("/readyz").status == 503);
    let start = Instant::now();
    assert_eq!(server.terminate().status.code(), Some(1));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[test]
fn a_reader_that_comes_back_gets_the_queued_lines() {
    for non_blocking in [false, true] {
        let (mut reader, writer) = full_pipe();
        ioctl_fionbio(&writer, non_blocking).unwrap();
        let server = Server::spawn_logging_to(&mut Server::command(BINARY, &[]), writer.into());
        provoke_a_line(&server);
        server.signal(Signal::TERM);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(server.wait().status.code(), Some(0));
        assert!(text.contains("\"kind\":\"oversize\"") && text.contains("\"message\":\"stopped\""), "{text}");
    }
}

#[test]
fn a_full_file_system_costs_lines_and_nothing_else() {
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let server = Server::spawn_logging_to(&mut Server::command(BINARY, &[]), full.into());
    provoke_a_line(&server);
    wait_until("the line is counted as dropped", || dropped(&server) > 0);
    serves(&server);
    assert_eq!(server.terminate().status.code(), Some(0));
}

#[test]
fn a_log_beyond_the_file_size_limit_does_not_end_the_server() {
    let file = tempfile::NamedTempFile::new().unwrap();
    // The limit is one block, of 512 or 1 024 bytes.
    let command = Server::command(BINARY, &[]);
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -f 1; exec \"$0\" \"$@\""]).arg(command.get_program()).args(command.get_args());
    let log = OpenOptions::new().append(true).open(file.path()).unwrap();
    (&log).write_all(&[b'\n'; 1000]).unwrap();
    let server = Server::spawn_logging_to(&mut limited, log.into());
    provoke_a_line(&server);
    wait_until("the line is counted as dropped", || dropped(&server) > 0);
    serves(&server);
    assert_eq!(server.terminate().status.code(), Some(0));
}
