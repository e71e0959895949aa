use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{JoinHandle, scope, sleep, spawn};
use std::time::Instant;

use super::*;
use crate::{ControlConfig, HttpLimits, MemoryUse, Protection};

struct Running {
    address: SocketAddr,
    handle: ControlHandle,
    panic_in_collection: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<Totals>>,
}

/// A control plane without shards.
fn start(memory: fn() -> MemoryUse) -> Running {
    let config = ControlConfig {
        version: "1.2.3",
        revision: "abc",
        memory,
        log_lines_dropped: || 3,
        http: HttpLimits::default(),
        protection: Protection::default(),
        data_tls: None,
    };
    let plane = ControlPlane::new(config, Vec::new());
    let panic_in_collection = Arc::clone(&plane.panic_in_collection);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, handle) = (listener.local_addr().unwrap(), ControlHandle::new());
    let thread = spawn({
        let handle = handle.clone();
        move || plane.run(listener, None, handle)
    });
    Running { address, handle, panic_in_collection, thread }
}

/// The answer, or what came of it before the connection ended.
fn get(stream: &mut TcpStream, path: &str) -> String {
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).unwrap();
    let (mut answer, mut bytes) = (String::new(), [0; 4096]);
    while !is_whole(&answer) {
        match stream.read(&mut bytes) {
            Ok(count) if count > 0 => answer.push_str(str::from_utf8(&bytes[..count]).unwrap()),
            _ => break,
        }
    }
    answer
}

fn is_whole(answer: &str) -> bool {
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    body.len() == length.parse::<usize>().unwrap()
}

#[test]
fn requests_that_wait_together_share_an_answer() {
    static WRITTEN: AtomicUsize = AtomicUsize::new(0);
    let running = start(|| {
        WRITTEN.fetch_add(1, Ordering::Relaxed);
        MemoryUse::default()
    });
    let (started, answered) = (Instant::now(), AtomicUsize::new(0));
    scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let mut stream = TcpStream::connect(running.address).unwrap();
                while started.elapsed() < Duration::from_millis(500) {
                    assert!(get(&mut stream, "/metrics").starts_with("HTTP/1.1 200 "));
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let rounds_max = started.elapsed().as_millis() as usize / 10 + 1;
    let (written, answered) = (WRITTEN.load(Ordering::Relaxed), answered.into_inner());
    assert!(written <= rounds_max, "{written} in {:?}", started.elapsed());
    assert!(answered > 2 * written, "{answered} answers of {written} written");
    running.handle.stop();
    running.thread.join().unwrap().unwrap();
}

#[test]
fn a_panic_in_a_request_costs_its_connection_alone() {
    let running = start(MemoryUse::default);
    let mut other = TcpStream::connect(running.address).unwrap();
    assert!(get(&mut other, "/healthz").starts_with("HTTP/1.1 200 "));
    for _ in 0..200 {
        assert_eq!(get(&mut TcpStream::connect(running.address).unwrap(), "/panic"), "");
    }
    assert!(get(&mut other, "/healthz").starts_with("HTTP/1.1 200 "), "and no place is lost");
    running.handle.stop();
    running.thread.join().unwrap().unwrap();
}

#[test]
fn a_panic_in_writing_an_answer_costs_that_answer_alone() {
    let running = start(|| panic!("a test breaks the scrape"));
    let mut stream = TcpStream::connect(running.address).unwrap();
    for _ in 0..3 {
        assert!(get(&mut stream, "/metrics").starts_with("HTTP/1.1 500 "));
        assert!(get(&mut stream, "/healthz").starts_with("HTTP/1.1 200 "));
    }
    running.handle.stop();
    running.thread.join().unwrap().unwrap();
}

#[test]
fn a_panic_in_a_collection_ends_the_control_plane_with_an_error() {
    let running = start(MemoryUse::default);
    let mut idle = TcpStream::connect(running.address).unwrap();
    assert!(get(&mut idle, "/healthz").starts_with("HTTP/1.1 200 "));
    running.panic_in_collection.store(true, Ordering::Relaxed);
    // Whether anybody asks or not.
    let deadline = Instant::now() + Duration::from_secs(20);
    while !running.thread.is_finished() {
        assert!(Instant::now() < deadline, "half alive");
        sleep(Duration::from_millis(5));
    }
    let error = running.thread.join().expect("the thread itself ends in order").unwrap_err().to_string();
    assert!(error.contains("reads the rings") && error.contains("panicked"), "{error}");
    assert_eq!(get(&mut idle, "/healthz"), "");
}
