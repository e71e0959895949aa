//! What `plan` tells, against what a real server takes: the same configuration, side by side.

use std::fs;
use std::net::TcpListener;
use std::process::Output;

use corelane_testkit::server::{command, smallest_pool};
use corelane_testkit::{Server, frames, host};
use serde_json::Value;

use crate::BINARY;

/// The plan of a configuration on the cores that [`Server::start`] would choose.
fn plan(flags: &[&str]) -> Value {
    let cores = host::cores_for(1).unwrap();
    let Output { status, stdout, stderr } =
        command(BINARY).args(["plan", "--json", "--cores", &cores]).args(flags).output().unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    serde_json::from_slice(&stdout).unwrap()
}

/// The sum of one key over the terms of a list.
fn sum(terms: &Value, key: &str, counts: impl Fn(&Value) -> bool) -> u64 {
    let terms = terms.as_array().unwrap().iter();
    terms.filter(|term| counts(term)).map(|term| term[key].as_u64().unwrap()).sum()
}

/// A number of `/proc/PID/status`; those of memory are in KiB there.
fn status_of(server: &Server, key: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn a_server_that_is_ready_takes_no_more_than_the_plan_says() {
    let flags = ["--pool-bytes", &smallest_pool(BINARY)];
    let plan = plan(&flags);
    let server = Server::start(BINARY, &flags);

    let (resident, at_start) = (status_of(&server, "VmRSS") * 1024, plan["memory_bytes_at_start"].as_u64().unwrap());
    println!("{resident} bytes resident, {at_start} planned");
    assert!(resident <= at_start, "{resident} bytes are resident: {plan:#}");
    assert!(at_start <= plan["memory_bytes_max"].as_u64().unwrap());
    assert!(status_of(&server, "VmPin") * 1024 <= plan["locked_bytes"].as_u64().unwrap());

    // What nobody uses yet is no excuse for the rest.
    let open = fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count() as u64;
    let idle = sum(&plan["descriptors"], "count", |term| !term["what"].as_str().unwrap().contains("connections"));
    println!("{open} descriptors open, {idle} planned without connections");
    assert!(open <= idle, "{open} descriptors are open: {plan:#}");

    let stacks = sum(&plan["memory"], "count", |term| term["what"].as_str().unwrap().ends_with("stacks"));
    assert_eq!(status_of(&server, "Threads"), stacks + 1, "each thread but the main one has a stack in the plan");
}

#[test]
fn a_shard_asks_its_allocator_for_what_the_plan_says() {
    // Large and small, so that no term can hide behind another.
    let pool = smallest_pool(BINARY);
    for flags in [
        ["--pool-bytes", &pool, "--max-connections", "1", "--max-series", "1"],
        ["--pool-bytes", "512MiB", "--max-connections", "5000", "--max-series", "1"],
        ["--pool-bytes", &pool, "--max-connections", "1", "--max-series", "200000"],
    ] {
        host::allow_descriptors(5_000);
        let plan = plan(&flags);
        let heap = |term: &Value| {
            let what = term["what"].as_str().unwrap();
            term["of"] == "shard" && what != "receive buffers" && !what.ends_with("(kernel)")
        };
        let planned = sum(&plan["memory"], "bytes", heap);
        let server = Server::start(BINARY, &flags);
        let asked = server.wait_metrics("the shard tells its allocations", |metrics| {
            metrics.count("corelane_allocated_bytes_total", &[]) > 0
        });
        let asked = asked.count("corelane_allocated_bytes_total", &[]);
        println!("{flags:?}: {planned} bytes planned, {asked} asked for");
        // The executor's own memory, and what is given back when the tables are made.
        assert!((planned..planned + 1_000_000).contains(&asked), "{planned} planned, {asked} asked for: {plan:#}");
    }
}

#[test]
fn a_full_table_with_the_longest_names_and_a_reader_stays_within_the_plan() {
    const SERIES: u64 = 20_000;
    let (pool, series) = (smallest_pool(BINARY), SERIES.to_string());
    let flags = ["--pool-bytes", &pool[..], "--max-series", &series];
    let plan = plan(&flags);
    let server = Server::start(BINARY, &flags);
    let mut peer = server.connect();
    let mut sent = 0;
    // Events have several sensors each; twice as many sources as fit make the table full for certain.
    while sent < 2 * SERIES {
        let chunk: Vec<u8> =
            (sent..sent + 500).flat_map(|source| frames::event(&format!("{source:0>256}"), 1)).collect();
        peer.send(&chunk);
        sent += 500;
        assert_eq!(peer.commit().committed, sent);
    }
    let metrics = server.assert_accounted(sent);
    assert_eq!(metrics.count("corelane_series", &[]), SERIES);
    let answer = server.json("/api/v1/sensors?limit=10000");
    assert_eq!(answer["sensors"].as_array().unwrap().len(), 10_000);
    let (peak, max) = (status_of(&server, "VmHWM") * 1024, plan["memory_bytes_max"].as_u64().unwrap());
    println!("{peak} bytes resident at most, {max} planned");
    assert!(peak <= max, "{peak} bytes were resident: {plan:#}");
}

#[test]
fn a_wrong_configuration_is_refused_as_by_serve() {
    for flags in [
        ["--pool-bytes", "4KiB"],
        ["--pool-bytes", "lots"],
        ["--cores", "4095"],
        ["--control-core", "4095"],
        ["--max-series", "0"],
        ["--config", "/no/such/file.toml"],
    ] {
        let refusal = |name: &str| command(BINARY).arg(name).args(flags).output().unwrap();
        let serve = refusal("serve");
        assert_eq!(serve.status.code(), Some(2));
        for Output { status, stdout, stderr } in [refusal("plan"), refusal("doctor")] {
            assert_eq!(status.code(), Some(2), "{flags:?}");
            assert!(stdout.is_empty(), "{}", String::from_utf8_lossy(&stdout));
            assert_eq!(String::from_utf8_lossy(&stderr), String::from_utf8_lossy(&serve.stderr));
        }
    }
}

#[test]
fn a_plan_starts_nothing_and_tells_what_the_host_does_not_grant() {
    // The port is taken, which only a server would mind.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let wanted = ["--listen", &address, "--max-connections", "1000000"];
    let plan = plan(&wanted);
    assert!(plan["descriptors_max"].as_u64().unwrap() > 1_000_000);
    let notes = plan["notes"].to_string();
    let limited = command("sh")
        .args(["-c", &format!("ulimit -n 400 && exec \"$0\" plan --listen {address}"), BINARY])
        .output()
        .unwrap();
    let text = String::from_utf8(limited.stdout).unwrap();
    assert!(limited.status.success() && text.starts_with("cores: "), "{text}");
    assert!(text.contains("may open 400") && text.contains("going on with --max-connections"), "{text}");
    assert!(notes.contains("at start"), "{notes}");
}
