//! `corelane load` against a real server: both sides count the same, limits hold or are named, and every way to tell the
//! result can be read.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use corelane_testkit::server::command;
use corelane_testkit::{Server, frames, wait_until};
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::BINARY;

fn load(server: &Server, flags: &[&str]) -> Command {
    let mut load = command(BINARY);
    load.args(["load", "--target", &server.listen.to_string(), "--control", &server.control.to_string()]).args(flags);
    load
}

/// Runs it; gives the exit code, stdout and stderr.
fn run(command: &mut Command) -> (Option<i32>, String, String) {
    told(command.output().unwrap())
}

fn told(Output { status, stdout, stderr }: Output) -> (Option<i32>, String, String) {
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// Runs it with the result as JSON.
fn result(command: &mut Command) -> Value {
    let (code, stdout, stderr) = run(command.args(["--json", "-"]));
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}"))
}

fn begin(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn path(directory: &Path, name: &str) -> String {
    directory.join(name).to_str().unwrap().to_owned()
}

#[test]
fn both_sides_count_the_same_and_every_result_can_be_read() {
    let server = Server::start(BINARY, &[]);
    let directory = tempfile::tempdir().unwrap();
    let [json, html, hdr] = ["load.json", "load.html", "load.hlog"].map(|name| path(directory.path(), name));
    let flags = "--rate 2000 --duration 2s --connections 8 --commit-every 10 --max-loss 0 --max-rejected 0 \
                 --max-p99 10s --max-rss 1GB --max-allocs-per-second 1000000 --max-cpu-spread 100";
    let mut load = load(&server, &flags.split_whitespace().collect::<Vec<_>>());
    load.args(["--json", &json, "--html", &html, "--hdr", &hdr]);
    let (code, stdout, stderr) = run(&mut load);
    assert_eq!((code, &stderr[..]), (Some(0), ""), "{stdout}");

    // 4 000 frames of 1 000 bytes, on both sides.
    let metrics = server.assert_accounted(4_000);
    assert_eq!(metrics.accepted(), 4_000);
    let result: Value = serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap();
    let frames = &result["frames"];
    assert_eq!(
        (&frames["scheduled"], &frames["sent"], &frames["accepted"]),
        (&4_000.into(), &4_000.into(), &4_000.into())
    );
    assert_eq!((&frames["rejected"], &frames["lost"], &frames["unsent"]), (&0.into(), &0.into(), &0.into()));
    assert_eq!(result["bytes_sent"], 4_000_000);
    assert_eq!(result["server"]["frames_accepted"], 4_000);
    assert_eq!(result["server"]["connections_accepted"], 8);
    assert_eq!(result["latency_ms"]["count"], 400, "every tenth frame is followed by a request");
    for latency in ["latency_ms", "latency_uncorrected_ms", "sender_late_ms"] {
        let at = |quantile: &str| result[latency][quantile].as_f64().unwrap();
        assert!(at("p50") <= at("p99") && at("p99") <= at("p999") && at("p999") <= at("max"), "{result}");
    }
    assert!(result["server"]["resident"]["peak"].as_f64() > Some(1e6), "{result}");
    assert_eq!(result["server"]["data_cores"].as_array().unwrap().len(), server.shards);
    assert_eq!(result["series"].as_array().unwrap().len(), 2);
    let limits = result["limits"].as_array().unwrap();
    assert!(limits.len() == 6 && limits.iter().all(|limit| limit["is_held"] == true), "{result}");

    // The table has the same.
    for part in
        ["4000 frames", "lost", "due to answer", "(400 measured)", "resident memory", "data core of shard 0", "held"]
    {
        assert!(stdout.contains(part), "{part:?} is not in {stdout}");
    }
    let report = fs::read_to_string(html).unwrap();
    assert!(report.matches("<svg").count() >= 6 && report.contains("4000 frames"), "{report}");
    for part in ["<script", "<link", "src=", "@import"] {
        assert!(!report.contains(part), "the report stands alone, without {part}");
    }

    // The log has the same measurements, by the second.
    let log = fs::read(hdr).unwrap();
    let mut deserializer = Deserializer::new();
    let mut answers = 0;
    for entry in IntervalLogIterator::new(&log) {
        if let LogEntry::Interval(interval) = entry.unwrap()
            && interval.tag().is_none()
        {
            let bytes = base64_decoded(interval.encoded_histogram());
            let histogram: Histogram<u64> = deserializer.deserialize(&mut &bytes[..]).unwrap();
            answers += histogram.len();
        }
    }
    assert_eq!(answers, 400);
}

fn base64_decoded(text: &str) -> Vec<u8> {
    data_encoding::BASE64.decode(text.as_bytes()).unwrap()
}

#[test]
fn a_broken_limit_is_named_and_the_others_are_not() {
    let server = Server::start(BINARY, &[]);
    let flags = "--rate 1000 --duration 1s --connections 2 --commit-every 10 --max-p99 1ns --max-rss 1kB \
                 --max-allocs-per-second 0 --max-loss 0";
    let (code, stdout, stderr) = run(&mut load(&server, &flags.split_whitespace().collect::<Vec<_>>()));
    assert_eq!(code, Some(1), "{stdout}{stderr}");
    assert!(stderr.starts_with("error: limit broken: --max-p99 1ns: "), "{stderr}");
    for flag in ["--max-p99 1ns", "--max-rss 1.0 kB", "--max-allocs-per-second 0"] {
        assert!(stderr.contains(flag), "{flag} is not in {stderr}");
    }
    assert!(!stderr.contains("--max-loss"), "{stderr}");
    assert_eq!(stdout.matches("BROKEN").count(), 3, "{stdout}");
    assert!(stdout.contains("held: 0 frames"), "{stdout}");
}

#[test]
fn irregular_frames_in_bursts_are_all_taken() {
    let server = Server::start(BINARY, &[]);
    let flags = ["--mix", "irregular", "--rate", "40Mbit/s", "--burst", "10x200ms/1s", "--ramp", "500ms"];
    let mut load = load(&server, &flags);
    let result =
        result(load.args(["--duration", "2500ms", "--commit-every", "5", "--max-loss", "0", "--max-rejected", "0"]));
    // 0.25 s and 2 s of 5 MB, and two bursts of 0.2 s nine times more, as the frames happen to be.
    let bytes = result["bytes_sent"].as_u64().unwrap();
    assert!((26_000_000..33_000_000).contains(&bytes), "{bytes}");
    let sent = result["frames"]["sent"].as_u64().unwrap();
    assert_eq!(server.assert_accounted(sent).accepted(), sent);
}

#[test]
fn rows_of_a_file_are_sent_over_and_over() {
    let server = Server::start(BINARY, &[]);
    let directory = tempfile::tempdir().unwrap();
    let file = path(directory.path(), "boiler.csv");
    fs::write(&file, "timestamp,inlet,outlet\n2024-01-01 00:00:00,1,2\n2024-01-01 00:00:01,3,4\n").unwrap();
    let flags = ["--replay", &file, "--rate", "100", "--duration", "1s", "--connections", "3"];
    let result = result(&mut load(&server, &flags));
    assert_eq!(result["frames"]["accepted"], 100);
    let sensors = server.sensors_of("boiler");
    assert_eq!(sensors.len(), 2);
    for sensor in sensors {
        assert_eq!((&sensor["count"], &sensor["last_timestamp"]), (&100.into(), &1_704_067_201_000_000_000u64.into()));
    }
}

#[test]
fn drawn_sizes_and_points_are_sent() {
    let server = Server::start(BINARY, &[]);
    let flags = ["--points", "3", "--size", "500..1500", "--rate", "1000", "--duration", "1s", "--connections", "4"];
    let result = result(&mut load(&server, &flags));
    let bytes = result["bytes_sent"].as_f64().unwrap();
    assert!((950_000.0..1_050_000.0).contains(&bytes), "{bytes}");
    assert_eq!(server.metrics().count("corelane_points_total", &[]), 3_000);
}

/// A server that stands still is charged for all that would have waited, not only for the few that were under way.
#[test]
fn latency_counts_the_waiting() {
    let server = Server::start(BINARY, &[]);
    let flags = ["--rate", "1000", "--duration", "3s", "--connections", "4", "--commit-every", "4", "--no-control"];
    let started = Instant::now();
    // The control port stands still, too.
    let mut load = command(BINARY);
    let load = load.args(["load", "--target", &server.listen.to_string(), "--json", "-"]).args(flags);
    let load = begin(load);
    wait_until("the load runs", || server.metrics().accepted() > 100);
    server.signal(Signal::STOP);
    let still = Duration::from_millis(1_000);
    sleep(still);
    server.signal(Signal::CONT);
    let (code, stdout, stderr) = told(load.wait_with_output().unwrap());
    assert_eq!(code, Some(0), "{stderr}");
    let result: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&result["frames"]["accepted"], &result["latency_ms"]["count"]), (&3_000.into(), &750.into()));
    // A third of the frames were due while it stood still, and wait half of that time on average.
    let at = |quantile: &str| result["latency_ms"][quantile].as_f64().unwrap();
    assert!(at("max") >= 900.0 && at("max") < started.elapsed().as_secs_f64() * 1e3, "{result}");
    assert!(at("p90") >= 500.0, "a tenth of all waited longer than half of it: {result}");
}

#[test]
fn ctrl_c_ends_the_load_early_with_the_result_so_far() {
    let server = Server::start(BINARY, &[]);
    let load = begin(load(&server, &["--rate", "1000", "--duration", "10m", "--json", "-"]).arg("--quiet"));
    wait_until("the load runs", || server.metrics().accepted() > 500);
    kill_process(Pid::from_child(&load), Signal::INT).unwrap();
    let (code, stdout, stderr) = told(load.wait_with_output().unwrap());
    assert_eq!(code, Some(0), "{stderr}");
    let result: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(result["is_interrupted"], true);
    let sent = result["frames"]["sent"].as_u64().unwrap();
    assert!(sent > 500 && result["frames"]["accepted"] == sent, "{result}");
    server.assert_accounted(sent);
}

#[test]
fn a_server_that_ends_is_told_and_every_frame_is_accounted_for() {
    let server = Server::start(BINARY, &[]);
    let load = begin(
        load(&server, &["--rate", "1000", "--duration", "10m", "--json", "-", "--connections", "5"]).arg("--quiet"),
    );
    wait_until("the load runs", || server.metrics().accepted() > 500);
    let totals = server.terminate().totals();
    let (code, stdout, stderr) = told(load.wait_with_output().unwrap());
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("5 of 5 connections ended early") && stderr.contains("(shutdown)"), "{stderr}");
    let result: Value = serde_json::from_str(&stdout).unwrap();
    let of = |key: &str| result["frames"][key].as_u64().unwrap();
    assert_eq!(of("accepted"), totals.accepted, "the last frames tell all that was taken");
    assert_eq!(of("sent"), of("accepted") + of("rejected") + of("lost"));
    assert_eq!(of("scheduled"), of("sent") + of("unsent"));
}

#[test]
fn somebody_else_on_the_server_is_noticed() {
    let server = Server::start(BINARY, &[]);
    let load = begin(&mut load(&server, &["--rate", "100", "--duration", "3s", "--connections", "2", "--quiet"]));
    wait_until("the load runs", || server.metrics().accepted() > 10);
    let mut other = server.connect();
    other.send(&frames::event("other", 1));
    assert_eq!(other.commit().committed, 1);
    let (code, stdout, stderr) = told(load.wait_with_output().unwrap());
    assert_eq!(code, Some(1), "{stdout}");
    assert!(stderr.contains("the server accepted 301 and rejected 0, it answered for 300 and 0"), "{stderr}");
    assert!(stderr.contains("1 connections of others"), "{stderr}");
}

#[test]
fn a_control_port_with_certificate_and_token_is_asked() {
    let directory = tempfile::tempdir().unwrap();
    let [certificate, key, token] = ["tls.crt", "tls.key", "token"].map(|name| path(directory.path(), name));
    let pair = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    fs::write(&certificate, pair.cert.pem()).unwrap();
    fs::write(&key, pair.signing_key.serialize_pem()).unwrap();
    fs::write(&token, "open-sesame-0123456789\n").unwrap();
    let protected = ["--control-tls-cert", &certificate, "--control-tls-key", &key, "--control-token-file", &token];
    let server = Server::start(BINARY, &protected);
    let short = ["--rate", "100", "--duration", "500ms"];
    let told = result(load(&server, &short).args(["--control-ca", &certificate, "--control-token-file", &token]));
    assert_eq!(told["server"]["frames_accepted"], 50);

    let with_token = ["--control-token-file", &token[..]];
    assert_refused(load(&server, &short).args(with_token), 1, &["answered 400", "this port speaks HTTPS", "--control"]);
    assert_refused(load(&server, &short).args(["--control-ca", &certificate]), 1, &["--control-token-file"]);
    let other = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    fs::write(&certificate, other.cert.pem()).unwrap();
    assert_refused(load(&server, &short).args(["--control-ca", &certificate]), 1, &["certificate"]);
}

/// A refusal: exit code and the parts that its first line has.
fn assert_refused(load: &mut Command, code: i32, parts: &[&str]) {
    let (found, stdout, stderr) = run(load);
    assert_eq!((found, &stdout[..]), (Some(code), ""), "{stderr}");
    assert!(stderr.starts_with("error: "), "{stderr}");
    for part in parts {
        assert!(stderr.contains(part), "{part:?} is not in {stderr}");
    }
}

#[test]
fn a_wrong_port_is_told_with_what_is_there() {
    let server = Server::start(BINARY, &[]);
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let (data, control) = (server.listen.to_string(), server.control.to_string());
    let load = |target: &str, control: &str| {
        let mut load = command(BINARY);
        load.args(["load", "--duration", "1s", "--target", target, "--control", control]);
        load
    };
    assert_refused(&mut load(&free, &control), 1, &["cannot connect to", &free]);
    assert_refused(&mut load(&control, &control), 1, &["no data port", "answered HTTP"]);
    assert_refused(&mut load(&data, &free), 1, &[&free, "--control", "--no-control"]);
    assert_refused(&mut load(&data, &data), 1, &[&data, "--no-control"]);
    assert_eq!(server.metrics().accepted(), 0);
}

#[test]
fn wrong_usage_is_refused_before_anything_is_sent() {
    for (flags, parts) in [
        ("--rate fast", &["--rate", "80Mbit/s"][..]),
        ("--rate 0", &["--rate", "out of range"]),
        ("--duration 10", &["--duration", "10s"]),
        ("--burst 10x1s", &["--burst", "10x1s/30s"]),
        ("--size huge", &["--size", "normal:"]),
        ("--connections 0", &["--connections"]),
        ("--target nowhere", &["--target", "host:port"]),
        ("--ramp 2m --duration 1m", &["--ramp", "--duration"]),
        ("--mix irregular --size 5", &["--mix", "--size"]),
        ("--no-control --max-rss 1MB", &["--max-rss", "--no-control"]),
        ("--commit-every 0 --max-p99 1ms", &["--max-p99", "--commit-every"]),
        ("--replay /nowhere/a.csv", &["/nowhere/a.csv", "check the path"]),
        ("--control-token-file /nowhere/token", &["--control-token-file", "/nowhere/token"]),
        ("--html /nowhere/a.html", &["--html", "/nowhere/a.html"]),
    ] {
        assert_refused(command(BINARY).arg("load").args(flags.split_whitespace()), 2, parts);
    }
    let mut limited = command("sh");
    limited.args(["-c", "ulimit -n 100 && exec \"$0\" load --connections 90", BINARY]);
    assert_refused(&mut limited, 2, &["--connections 90", "may open 100", "ulimit -n 122"]);
}
