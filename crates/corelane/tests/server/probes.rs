//! The port for probes, and the names and memory of the control port, on a real server.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::Duration;

use corelane_testkit::server::{command, smallest_pool};
use corelane_testkit::{DEADLINE, Server, frames, host, http, wait_until};
use serde_json::Value;

use crate::BINARY;

/// A setting as the server reports it.
fn setting(server: &Server, key: &str) -> Value {
    let stats = server.json("/api/v1/stats");
    let settings = stats["configuration"].as_array().unwrap();
    settings.iter().find(|setting| setting["key"] == key).unwrap()["value"].clone()
}

fn probe_address(server: &Server) -> SocketAddr {
    setting(server, "probe").as_str().unwrap().parse().unwrap()
}

/// The status of a request for this name, which a browser would make.
fn status_as(address: SocketAddr, host: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).unwrap();
    let mut line = [0; 12];
    stream.read_exact(&mut line).unwrap();
    String::from_utf8_lossy(&line[9..]).into_owned()
}

#[test]
fn probes_have_a_port_of_their_own_if_asked_for() {
    assert_eq!(setting(&Server::start(BINARY, &[]), "probe"), Value::Null);
    let server = Server::start(BINARY, &["--probe", "127.0.0.1:0"]);
    let probe = probe_address(&server);
    for (path, status) in [("/healthz", 200), ("/readyz", 200), ("/metrics", 404), ("/api/v1/stats", 404)] {
        assert_eq!(http::get(probe, path).unwrap().status, status, "{path}");
    }
    let (cores, probe) = (host::cores_for(1).unwrap(), probe.to_string());
    let mut second = Command::new(BINARY);
    second.args(["serve", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--cores", &cores, "--probe", &probe]);
    let second = second.output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let error = String::from_utf8_lossy(&second.stderr);
    assert!(error.contains(&format!("error: --probe {probe}: Address already in use")), "{error}");
}

#[test]
fn a_takeover_refuses_no_probe() {
    let mut server = Server::start(BINARY, &["--probe", "127.0.0.1:0"]);
    let (listen, control, probe) = (server.listen, server.control, probe_address(&server));
    let over = AtomicBool::new(false);
    let count = scope(|scope| {
        let _end = scopeguard::guard((), |()| over.store(true, Ordering::Relaxed));
        let probes = scope.spawn(|| {
            let mut count = 0;
            while !over.load(Ordering::Relaxed) {
                assert_eq!(http::get(probe, "/healthz").expect("neither refused nor reset").status, 200);
                count += 1;
                sleep(Duration::from_millis(1));
            }
            count
        });
        for _ in 0..2 {
            let [listen, control, probe] = [listen, control, probe].map(|address| address.to_string());
            let mut successor = Command::new(BINARY);
            successor.args(["serve", "--takeover", "--listen", &listen, "--control", &control, "--probe", &probe]);
            let next = Server::spawn(successor.args(["--log-format", "json", "--cores", &host::cores_for(1).unwrap()]));
            std::mem::replace(&mut server, next).wait().totals();
        }
        over.store(true, Ordering::Relaxed);
        probes.join().unwrap()
    });
    assert!(count > 10, "{count}");
    assert_eq!(server.get("/healthz").status, 200, "the control port came along, too");
}

#[test]
fn names_of_the_control_port_are_what_is_configured() {
    let server = Server::start(BINARY, &["--control-host", "db1.example", "--control-host", "db2.example"]);
    for own in ["localhost", "127.0.0.1", "db1.example:9600", "DB2.example"] {
        assert_eq!(status_as(server.control, own), "200", "{own}");
    }
    assert_eq!(status_as(server.control, "evil.example"), "421");
    // An address that others can reach answers to any name unless told otherwise.
    let mut open = Command::new(BINARY);
    open.args(["serve", "--listen", "127.0.0.1:0", "--control", "0.0.0.0:0", "--log-format", "json"]);
    let open = Server::spawn(open.args(["--cores", &host::cores_for(1).unwrap()]));
    let address = SocketAddr::new([127, 0, 0, 1].into(), open.control.port());
    assert_eq!(status_as(address, "scraped.example"), "200");
}

#[test]
fn paths_of_keys_and_tokens_are_not_told() {
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("secret-token");
    fs::write(&token, "s3cret\n").unwrap();
    let server = Server::start(BINARY, &["--control-token-file", token.to_str().unwrap()]);
    let mut connection = http::HttpConnection::open(server.control).unwrap();
    let stats = connection.get_with("/api/v1/stats", "Authorization: Bearer s3cret\r\n").unwrap().body;
    let told: Value = serde_json::from_str(&stats).unwrap();
    let told = told["configuration"].as_array().unwrap().iter().find(|told| told["key"] == "control_token_file");
    assert_eq!(told.unwrap()["value"], "set");
    assert!(!stats.contains("secret-token"), "{stats}");
}

#[test]
fn readers_that_take_nothing_stay_within_the_plan() {
    const SERIES: u32 = 10_000;
    let (pool, series, cores) = (smallest_pool(BINARY), SERIES.to_string(), host::cores_for(1).unwrap());
    let flags = ["--pool-bytes", &pool[..], "--max-series", &series, "--cores", &cores];
    let plan = command(BINARY).args(["plan", "--json"]).args(flags).output().unwrap();
    let plan: Value = serde_json::from_slice(&plan.stdout).unwrap();
    let planned = plan["memory_bytes_max"].as_u64().unwrap();
    let server = Server::start(BINARY, &flags);
    let mut peer = server.connect();
    // Each byte of these names takes six in JSON.
    let sensor = "\u{1}".repeat(256);
    let names = (0..SERIES).map(|number| format!("{number:0>5}{}", "\u{2}".repeat(251)));
    let events: Vec<u8> = names.flat_map(|id| frames::small_event(&id, &sensor, 1, 1.0)).collect();
    peer.send(&events);
    assert_eq!(peer.commit().committed, u64::from(SERIES));

    // Every reader asks for something else, so that none can share an answer.
    let readers: Vec<_> = (1..=36)
        .map(|number| {
            let mut reader = TcpStream::connect(server.control).unwrap();
            let search = "%01".repeat(number);
            let request =
                format!("GET /api/v1/sensors?limit=10000&search={search} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            reader.write_all(request.as_bytes()).unwrap();
            reader
        })
        .collect();
    // Everybody has an answer, be it that there is none.
    wait_until("everybody is answered", || {
        readers.iter().all(|reader| reader.peek(&mut [0]).is_ok_and(|count| count > 0))
    });
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak = peak.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024;
    println!("{peak} bytes resident at most, {planned} planned");
    assert!(peak <= planned, "{peak} bytes were resident, {planned} are planned");
    assert_eq!(server.get("/healthz").status, 200);
    drop(readers);
}
