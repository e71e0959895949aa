//! What a scrape says: all that was promised, and never less than an answer has told already.

use std::collections::BTreeSet;

use corelane_testkit::frames::{event, invalid_frames};
use corelane_testkit::{Server, host};

use crate::BINARY;

/// Name, type, and labels of the families that this server has something to say about.
const FAMILIES: &[(&str, &str, &[&str])] = &[
    ("corelane_build_info", "gauge", &["version", "revision"]),
    ("corelane_frames_accepted_total", "counter", &["shard"]),
    ("corelane_frames_rejected_total", "counter", &["shard", "reason"]),
    ("corelane_points_total", "counter", &["shard"]),
    ("corelane_received_bytes_total", "counter", &["shard"]),
    ("corelane_connections", "gauge", &["shard"]),
    ("corelane_connections_accepted_total", "counter", &["shard"]),
    ("corelane_connections_closed_total", "counter", &["shard", "reason"]),
    ("corelane_security_events_total", "counter", &["shard", "kind"]),
    ("corelane_pool_buffers", "gauge", &["shard", "state"]),
    ("corelane_pool_utilization_ratio", "gauge", &["shard"]),
    ("corelane_pool_waits_total", "counter", &["shard"]),
    ("corelane_pool_short", "gauge", &["shard"]),
    ("corelane_ingest_backlog_bytes", "gauge", &["shard"]),
    ("corelane_ingest_latency_seconds", "histogram", &["shard"]),
    ("corelane_loop_stall_seconds", "histogram", &["shard"]),
    ("corelane_telemetry_samples_total", "counter", &["shard"]),
    ("corelane_telemetry_samples_dropped_total", "counter", &["shard"]),
    ("corelane_series", "gauge", &["shard"]),
    ("corelane_series_evicted_total", "counter", &["shard"]),
    ("corelane_allocations_total", "counter", &["shard"]),
    ("corelane_allocated_bytes_total", "counter", &["shard"]),
    ("corelane_shard_cpu_seconds_total", "counter", &["shard"]),
    ("corelane_control_unauthorized_total", "counter", &[]),
    ("corelane_memory_allocated_bytes", "gauge", &[]),
    ("corelane_memory_resident_bytes", "gauge", &[]),
    ("corelane_log_lines_dropped_total", "counter", &[]),
    ("process_resident_memory_bytes", "gauge", &[]),
    ("process_cpu_seconds_total", "counter", &[]),
    ("process_open_fds", "gauge", &[]),
    ("process_max_fds", "gauge", &[]),
    ("process_start_time_seconds", "gauge", &[]),
];

#[test]
fn every_promised_metric_is_there_for_every_shard() {
    let shards = host::allowed_cores().len().min(2);
    let server = Server::start(BINARY, &["--cores", &host::cores_for(shards).unwrap()]);
    assert_eq!(server.shards, shards);
    let metrics = server.metrics();
    for (name, kind, labels) in FAMILIES {
        assert_eq!(metrics.types().get(*name).map(String::as_str), Some(*kind), "{name}");
        // A histogram's samples are told apart by a suffix.
        let sample = if *kind == "histogram" { format!("{name}_count") } else { (*name).to_owned() };
        assert_eq!(metrics.label_names(&sample), labels.iter().copied().collect::<BTreeSet<_>>(), "{name}");
        if labels.contains(&"shard") {
            assert_eq!(metrics.label_values(&sample, "shard").len(), shards, "{name}");
        }
    }
    let promised: BTreeSet<&str> = FAMILIES.iter().map(|(name, ..)| *name).collect();
    let told: BTreeSet<&str> = metrics.types().keys().map(String::as_str).collect();
    assert_eq!(told, promised);
    let reasons =
        ["malformed", "too_deep", "trailing_bytes", "invalid_utf8", "too_many_points", "not_an_event", "oversize"];
    assert_eq!(metrics.label_values("corelane_frames_rejected_total", "reason"), BTreeSet::from(reasons));
    assert_eq!(metrics.label_values("corelane_pool_buffers", "state"), BTreeSet::from(["free", "in_use"]));
    assert!(metrics.sum("corelane_build_info", &[("version", env!("CARGO_PKG_VERSION"))]) == 1.0);
    assert!(metrics.sum("process_open_fds", &[]) > 0.0 && metrics.resident_bytes() > 0);
}

#[test]
fn what_an_answer_told_is_in_the_next_scrape() {
    let server = Server::start(BINARY, &[]);
    let mut peer = server.connect();
    let refused = &invalid_frames()[0].bytes;
    for round in 1..=300 {
        peer.send(&event("device", round));
        if round % 3 == 0 {
            peer.send(refused);
        }
        let answer = peer.commit();
        let metrics = server.metrics();
        assert_eq!((metrics.accepted(), metrics.rejected()), (answer.committed, answer.rejected));
        assert_eq!(answer.committed, round);
    }
    server.assert_accounted(400);
}

#[test]
fn a_close_that_the_peer_saw_is_in_the_next_scrape() {
    let server = Server::start(BINARY, &[]);
    for round in 1..=100 {
        let mut peer = server.connect();
        peer.send(&event("device", round));
        peer.half_close();
        assert_eq!(peer.reply(), None);
        let metrics = server.metrics();
        assert_eq!((metrics.accepted(), metrics.closed_for("peer_closed")), (round, round));
    }
    server.assert_accounted(100);
}

#[test]
fn the_answers_of_all_paths_agree() {
    let server = Server::start(BINARY, &[]);
    let mut peer = server.connect();
    for number in 1..=50 {
        peer.send(&event("device", number));
    }
    peer.send(&invalid_frames()[0].bytes);
    assert_eq!(peer.commit().committed, 50);
    let metrics = server.assert_accounted(51);
    let stats = server.json("/api/v1/stats");
    assert_eq!(stats["totals"]["frames_accepted"], metrics.accepted());
    assert_eq!(stats["totals"]["frames_rejected"]["malformed"], 1);
    assert_eq!(stats["shards"].as_array().unwrap().len(), server.shards);
    let sensors = server.sensors_of("device");
    assert_eq!(sensors.len(), 14);
    for sensor in &sensors {
        assert_eq!((&sensor["count"], &sensor["last_timestamp"]), (&50.into(), &50.into()), "{sensor}");
        assert_eq!(sensor["max"], sensor["last"], "the values rise with the timestamps: {sensor}");
    }
    for (path, status) in [("/healthz", 200), ("/readyz", 200), ("/api/v1/events", 200), ("/nothing", 404)] {
        assert_eq!(server.get(path).status, status, "{path}");
    }
}
