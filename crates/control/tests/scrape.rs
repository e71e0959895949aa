//! `/metrics` and `/api/v1/stats`: what the shards counted, in every format.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::scope;
use std::time::{Duration, Instant};

use corelane_control::{Configured, HttpLimits};
use corelane_metrics::{BUCKET_COUNT, CloseReason, FAMILIES, Histogram, Kind, RING_SLOTS_MIN, SecurityKind, cell};
use serde_json::json;
use support::Server;

/// Samples by name and sorted labels, and types by family.
#[derive(Default)]
struct Exposition {
    samples: BTreeMap<String, f64>,
    types: BTreeMap<String, String>,
    units: BTreeMap<String, String>,
}

/// Reads what both text formats have in common; panics on anything else.
fn parse(text: &str) -> Exposition {
    let mut read = Exposition::default();
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let parts: Vec<_> = comment.splitn(3, ' ').collect();
            match parts[..] {
                ["HELP", name, help] => assert!(!name.is_empty() && help.ends_with('.'), "{line}"),
                ["TYPE", name, kind] => {
                    assert!(read.types.insert(name.into(), kind.into()).is_none(), "{name} twice");
                }
                ["UNIT", name, unit] => drop(read.units.insert(name.into(), unit.into())),
                ["EOF"] => (),
                _ => panic!("{line}"),
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels.strip_suffix('}').unwrap();
        let mut labels: Vec<_> = labels.split(',').filter(|label| !label.is_empty()).map(one_label).collect();
        labels.sort();
        let value = value.parse().unwrap();
        assert!(read.samples.insert(format!("{name} {}", labels.join(" ")), value).is_none(), "{line} twice");
    }
    read
}

/// `name=value`, with the bounds of buckets as the numbers that they are.
fn one_label(text: &str) -> String {
    let (name, value) = text.split_once('=').unwrap();
    let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap();
    if name == "le" { format!("le={}", value.parse::<f64>().unwrap()) } else { format!("{name}={value}") }
}

fn two_busy_shards() -> Server {
    let server = Server::start(2, HttpLimits::default());
    for (shard, factor) in server.shards.iter().zip([1, 10]) {
        shard.with(|data| {
            let metrics = &mut data.metrics;
            metrics.add(cell::FRAMES_ACCEPTED, 100 * factor);
            metrics.add(cell::connections_closed(CloseReason::Truncated), 3 * factor);
            metrics.add(cell::security_events(SecurityKind::Oversize), factor);
            metrics.set_gauge(cell::POOL_IN_USE, 7.0 * factor as f64);
            metrics.set_gauge(cell::POOL_UTILIZATION, 0.05 * factor as f64);
            metrics.set_total(cell::CPU_NANOSECONDS, 1_250_000_000 * factor);
            metrics.observe(Histogram::INGEST_LATENCY, 3_000, 4 * factor);
            metrics.observe(Histogram::INGEST_LATENCY, 60_000_000_000, factor);
        });
    }
    server
}

#[test]
fn both_formats_tell_every_family_alike() {
    let server = two_busy_shards();
    let text = server.get("/metrics");
    assert_eq!((text.status, text.headers["content-type"].as_str()), (200, "text/plain; version=0.0.4; charset=utf-8"));
    let open = server.request("GET", "/metrics", "Accept: application/openmetrics-text; version=1.0.0\r\n");
    assert_eq!(
        (open.status, open.headers["content-type"].as_str()),
        (200, "application/openmetrics-text; version=1.0.0; charset=utf-8")
    );
    assert!(open.body.ends_with("# EOF\n") && !text.body.contains("# EOF"));

    let (text, open) = (parse(&text.body), parse(&open.body));
    let names = |read: &Exposition| read.samples.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&text), names(&open));
    // Without TLS there is no certificate to tell of.
    let told = || FAMILIES.iter().filter(|family| !family.name.starts_with("corelane_tls_"));
    assert_eq!(text.types.len(), told().count());
    assert_eq!(open.types.len(), told().count());
    for family in told() {
        let base = family.name.strip_suffix("_total").unwrap_or(family.name);
        let kind = format!("{:?}", family.kind).to_lowercase();
        assert_eq!(text.types.get(family.name), Some(&kind), "{}", family.name);
        assert_eq!(open.types.get(base), Some(&kind), "{base}");
        assert_eq!(open.units.get(base).map(String::as_str), family.unit, "{base}");
        let sample = if family.kind == Kind::Histogram { format!("{base}_count") } else { family.name.into() };
        assert!(text.samples.keys().any(|key| key.split(' ').next() == Some(&sample)), "{sample}");
    }

    for (series, number) in [
        ("corelane_build_info revision=abc version=1.2.3", 1.0),
        ("corelane_frames_accepted_total shard=0", 100.0),
        ("corelane_frames_accepted_total shard=1", 1_000.0),
        ("corelane_frames_rejected_total reason=too_deep shard=1", 0.0),
        ("corelane_connections_closed_total reason=truncated shard=1", 30.0),
        ("corelane_security_events_total kind=oversize shard=0", 1.0),
        ("corelane_pool_buffers shard=1 state=in_use", 70.0),
        ("corelane_pool_buffers shard=1 state=free", 0.0),
        ("corelane_shard_cpu_seconds_total shard=0", 1.25),
        ("corelane_memory_allocated_bytes ", 1_000.0),
        ("corelane_memory_resident_bytes ", 2_000.0),
        ("corelane_ingest_latency_seconds_count shard=1", 50.0),
        ("corelane_ingest_latency_seconds_sum shard=0", 60.000012),
        ("corelane_ingest_latency_seconds_bucket le=0.000002 shard=0", 0.0),
        ("corelane_ingest_latency_seconds_bucket le=0.000004 shard=0", 4.0),
        ("corelane_ingest_latency_seconds_bucket le=8.388608 shard=1", 40.0),
        ("corelane_ingest_latency_seconds_bucket le=inf shard=1", 50.0),
        ("corelane_loop_stall_seconds_count shard=0", 0.0),
    ] {
        assert_eq!(text.samples.get(series), Some(&number), "{series}");
        assert_eq!(open.samples.get(series), Some(&number), "{series}");
    }
    assert!(!text.samples.keys().any(|key| key.contains("state=accepting")), "the heartbeat is not exported");
}

#[test]
fn a_scrape_tells_what_was_flushed_before_it() {
    let server = Server::start(1, HttpLimits::default());
    for count in 1..200_u64 {
        server.shards[0].with(|data| data.metrics.add(cell::POINTS, 1));
        let stats = server.get("/api/v1/stats").json();
        assert_eq!(stats["totals"]["points"], json!(count));
    }
}

/// Answers are shared while many ask, and still none is of a collection that began before it was asked for.
#[test]
fn a_flood_of_scrapes_changes_no_promise() {
    let server = Server::start(1, HttpLimits::default());
    let (done, started) = (AtomicBool::new(false), Instant::now());
    scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                // Bounded, for a test that fails before it says so.
                while !done.load(Ordering::Relaxed) && started.elapsed() < Duration::from_secs(20) {
                    assert_eq!(server.get("/metrics").status, 200);
                }
            });
        }
        for count in 1..100_u64 {
            server.shards[0].with(|data| data.metrics.add(cell::POINTS, 1));
            let read = parse(&server.get("/metrics").body);
            assert_eq!(read.samples["corelane_points_total shard=0"], count as f64);
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn overwritten_samples_are_counted_and_cost_no_count() {
    let server = Server::start(1, HttpLimits::default());
    let written = server.shards[0].with(|data| {
        for _ in 0..100_000 {
            data.metrics.add(cell::POINTS, 1);
            data.flush();
        }
        data.recorder.written()
    });
    let read = parse(&server.get("/metrics").body);
    assert_eq!(read.samples["corelane_points_total shard=0"], 100_000.0);
    let (all, lost) = (
        read.samples["corelane_telemetry_samples_total shard=0"],
        read.samples["corelane_telemetry_samples_dropped_total shard=0"],
    );
    assert!(all >= written as f64, "{all} of {written}");
    assert!(lost > 0.0 && all - lost >= RING_SLOTS_MIN as f64, "{lost} of {all} lost");
}

#[test]
fn stats_are_told_by_shard_and_added_up() {
    let server = two_busy_shards();
    let stats = server.get("/api/v1/stats").json();
    assert!(stats["uptime_seconds"].as_f64().unwrap() > 0.0);
    let totals = &stats["totals"];
    assert_eq!(totals["frames_accepted"], json!(1_100));
    assert_eq!(totals["connections_closed"]["truncated"], json!(33));
    let events = totals["security_events"].as_object().unwrap();
    assert_eq!((events.len(), &events["oversize"], &events["rejected_frames"]), (10, &json!(11), &json!(0)));
    assert_eq!(totals["pool_buffers"], json!({ "free": 0, "in_use": 77 }));
    assert_eq!(totals["pool_utilization_ratio"], json!(0.5), "of the fullest pool");
    assert_eq!(totals["shard_cpu_seconds"], json!(13.75));
    assert_eq!(totals["memory_resident_bytes"], json!(2_000));
    assert!(totals["process_resident_memory_bytes"].as_u64() > Some(0) && totals["process_cpu_seconds"].is_number());
    let mut buckets = [0; BUCKET_COUNT];
    (buckets[2], buckets[BUCKET_COUNT - 1]) = (40, 10);
    assert_eq!(
        stats["shards"][1]["ingest_latency_seconds"],
        json!({ "count": 50, "sum": 600.00012, "p50": 4e-6, "p99": null, "p999": null, "buckets": buckets })
    );
    let bounds = stats["histogram_bounds_seconds"].as_array().unwrap();
    assert_eq!((bounds.len(), &bounds[2]), (BUCKET_COUNT - 1, &json!(4e-6)), "the last bucket has no bound");
    assert_eq!(stats["shards"][0]["shard"], json!(0));
    assert_eq!(stats["shards"][0]["core"], json!(7));
    assert_eq!(stats["shards"][0]["state"], json!("accepting"));
    assert_eq!(stats["shards"][0]["frames_accepted"], json!(100));
    assert_eq!(stats["build"], json!({ "version": "1.2.3", "revision": "abc" }));
    assert!(totals["process_start_time_seconds"].as_f64().unwrap() > 0.0);
    for family in FAMILIES.iter().filter(|family| family.cells().len() > 0) {
        let key = family.name.trim_start_matches("corelane_").trim_end_matches("_total");
        assert!(totals.get(key).is_some() && stats["shards"][1].get(key).is_some(), "{key}");
    }
}

#[test]
fn the_configuration_is_told_as_it_is_now() {
    let server = Server::start(1, HttpLimits::default());
    let told = || server.get("/api/v1/stats").json()["configuration"].clone();
    assert_eq!(told(), json!([]));
    let configured = |key, value: Option<&str>, source| Configured { key, value: value.map(str::to_owned), source };
    server.handle.configure(configured("listen", Some("127.0.0.1:7600"), "default"));
    server.handle.configure(configured("allow", None, "default"));
    server.handle.configure(configured("listen", Some("[::]:7600"), "file"));
    assert_eq!(
        told(),
        json!([
            { "key": "listen", "value": "[::]:7600", "source": "file" },
            { "key": "allow", "value": null, "source": "default" },
        ])
    );
}
