//! Health, readiness, events, sensors, and requests that have no answer.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use corelane_control::HttpLimits;
use corelane_metrics::{SecurityDetail, SecurityEvent, SecurityKind, ShardState, cell};
use data_encoding::BASE64;
use ring::digest::{SHA256, digest};
use serde_json::json;
use support::{Server, wait_until};

#[test]
fn readiness_follows_every_shard_and_the_drain() {
    let server = Server::start(2, HttpLimits::default());
    let ready = || {
        let answer = server.get("/readyz");
        (answer.status, answer.body)
    };
    assert_eq!(ready(), (200, "ready\n".into()));
    server.shards[1].set_state(ShardState::Draining);
    assert_eq!(ready(), (503, "shard 1 is draining\n".into()));
    server.shards[1].set_state(ShardState::Accepting);
    assert_eq!(ready(), (200, "ready\n".into()));
    server.handle.set_draining();
    assert_eq!(ready(), (503, "draining\n".into()));
    assert_eq!(server.get("/healthz").status, 200, "a draining server is healthy");
}

#[test]
fn a_server_is_not_ready_while_the_pool_of_any_shard_is_short() {
    let server = Server::start(2, HttpLimits::default());
    let set_short = |short: f64| server.shards[1].with(|data| data.metrics.set_gauge(cell::POOL_SHORT, short));
    let ready = || {
        let answer = server.get("/readyz");
        (answer.status, answer.body)
    };
    set_short(1.0);
    assert_eq!(ready(), (503, "pool short\n".into()));
    assert_eq!(server.get("/healthz").status, 200, "a restart would not make the pool larger");
    server.shards[0].set_state(ShardState::Draining);
    assert_eq!(ready(), (503, "shard 0 is draining\n".into()), "the state of a shard is the more severe reason");
    server.shards[0].set_state(ShardState::Accepting);
    set_short(0.0);
    assert_eq!(ready(), (200, "ready\n".into()));
}

#[test]
fn a_silent_shard_is_told_by_its_number() {
    let server = Server::start(3, HttpLimits::default());
    let health = || server.get("/healthz");
    assert_eq!((health().status, health().body.as_str()), (200, "healthy\n"));
    // A shard that ended has nothing to say; one that is stuck should.
    server.shards[0].set_state(ShardState::Stopped);
    server.shards[0].set_stuck(true);
    server.shards[2].set_stuck(true);
    let silent = Instant::now();
    let mut sick = health();
    wait_until("the shard has been silent for too long", || {
        sick = health();
        sick.status == 503
    });
    // It was last heard at most two intervals, of a flush and of a drain, before it fell silent.
    assert!(silent.elapsed() >= Duration::from_millis(4_500), "{:?}", silent.elapsed());
    let seconds = sick.body.strip_prefix("shard 2 has not reported for ").and_then(|rest| rest.split('.').next());
    assert!(seconds.is_some_and(|seconds| seconds.parse::<u64>().unwrap() >= 5), "{}", sick.body);
    server.shards[2].set_stuck(false);
    wait_until("the shard is heard again", || health().status == 200);
}

#[test]
fn events_of_all_shards_are_told_newest_first() {
    let server = Server::start(2, HttpLimits::default());
    assert_eq!(server.get("/api/v1/events").json(), json!({ "events": [] }));
    for (shard, unix_nanos, kind, detail) in [
        (0, 3_000_000_000, SecurityKind::Oversize, SecurityDetail::DeclaredBytes(70_000)),
        (1, 2_000_000_001, SecurityKind::RejectedFrames, SecurityDetail::RejectedInARow(64)),
    ] {
        let peer = "192.0.2.1:5000".parse().unwrap();
        server.shards[shard].events.lock().unwrap().push(SecurityEvent { unix_nanos, kind, peer, detail });
    }
    let told = server.get("/api/v1/events").json();
    assert_eq!(
        told,
        json!({ "events": [
            { "time": "1970-01-01T00:00:03Z", "time_unix_nanos": 3_000_000_000_u64, "kind": "oversize",
              "peer": "192.0.2.1:5000", "detail": "a frame header declared 70000 payload bytes" },
            { "time": "1970-01-01T00:00:02.000000001Z", "time_unix_nanos": 2_000_000_001_u64,
              "kind": "rejected_frames", "peer": "192.0.2.1:5000",
              "detail": "64 rejected frames with no accepted one between" },
        ] })
    );
}

#[test]
fn sensors_of_several_shards_are_added_up() {
    let server = Server::start(2, HttpLimits::default());
    server.shards[0].with(|data| data.rollup.record(0, "pump \"1\"", 40, [("rpm", 8.0), ("temp", 20.5)].into_iter()));
    server.shards[1].with(|data| data.rollup.record(0, "pump \"1\"", 30, [("rpm", 1.0)].into_iter()));
    server.shards[1].with(|data| data.rollup.record(0, "pump \"2\"", 50, [("rpm", 3.0)].into_iter()));
    let rpm = json!({ "id": "pump \"1\"", "sensor": "rpm", "count": 2, "last": 8.0, "last_timestamp": 40,
        "min": 1.0, "max": 8.0, "mean": 4.5 });
    let temp = json!({ "id": "pump \"1\"", "sensor": "temp", "count": 1, "last": 20.5, "last_timestamp": 40,
        "min": 20.5, "max": 20.5, "mean": 20.5 });
    let other = json!({ "id": "pump \"2\"", "sensor": "rpm", "count": 1, "last": 3.0, "last_timestamp": 50,
        "min": 3.0, "max": 3.0, "mean": 3.0 });
    let sensors = |query: &str| server.get(&format!("/api/v1/sensors{query}")).json();
    assert_eq!(sensors(""), json!({ "sensors": [rpm, temp, other], "truncated": false }));
    assert_eq!(sensors("?sort=last_timestamp&limit=1"), json!({ "sensors": [other], "truncated": true }));
    assert_eq!(sensors("?id=pump%20%221%22&prefix=te"), json!({ "sensors": [temp], "truncated": false }));

    let refused = server.get("/api/v1/sensors?limit=many");
    assert_eq!(refused.status, 400);
    let error = "limit=\"many\" is not allowed: it has to be a whole number from 1 to 10000";
    assert_eq!(refused.json(), json!({ "error": error }));
}

/// Whatever rounds are under way for others, an answer holds what the shard knew when it was asked.
#[test]
fn an_answer_is_of_a_round_that_began_after_the_question() {
    let server = Server::start(1, HttpLimits::default());
    // Enough pages for rounds to overlap with questions.
    server.shards[0].with(|data| {
        (0..20_000).for_each(|id| data.rollup.record(0, &format!("filler {id}"), 1, [("x", 1.0)].into_iter()));
    });
    let done = AtomicBool::new(false);
    scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    assert_eq!(server.get("/api/v1/sensors?id=pump").status, 200);
                }
            });
        }
        for count in 1..40_u64 {
            server.shards[0].with(|data| data.rollup.record(0, "pump", count, [("rpm", 1.0)].into_iter()));
            let told = server.get("/api/v1/sensors?id=pump").json();
            assert_eq!(told["sensors"][0]["count"], json!(count));
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_shard_that_does_not_answer_costs_a_second_and_no_more() {
    let server = Server::start(2, HttpLimits::default());
    server.shards[1].with(|data| data.rollup.record(0, "pump", 1, [("rpm", 1.0)].into_iter()));
    server.shards[1].set_stuck(true);
    for _ in 0..2 {
        let asked = Instant::now();
        let answer = server.get("/api/v1/sensors");
        assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
        assert_eq!(answer.status, 503);
        assert!(answer.json()["error"].as_str().unwrap().contains("within 1 s"), "{}", answer.body);
    }
    assert_eq!(server.get("/metrics").status, 200, "other answers do not wait for it");
    server.shards[1].set_stuck(false);
    wait_until("the shard's late pages are out of the way", || server.get("/api/v1/sensors").status == 200);
    let told = server.get("/api/v1/sensors").json();
    assert_eq!(told["sensors"][0]["count"], json!(1), "late pages are not added to a later round");
}

#[test]
fn nobody_asking_never_wakes_a_shard() {
    let server = Server::start(1, HttpLimits::default());
    let wakes = || server.shards[0].wakes.load(Ordering::Relaxed);
    for path in ["/metrics", "/healthz", "/readyz", "/api/v1/stats", "/api/v1/events", "/api/v1/sensors?sort=no"] {
        server.get(path);
    }
    assert_eq!(wakes(), 0);
    server.get("/api/v1/sensors");
    let after = wakes();
    assert!(after > 0);
    sleep(Duration::from_millis(300));
    assert_eq!(wakes(), after);
}

#[test]
fn the_page_comes_with_a_policy_that_lets_nothing_else_run() {
    let page = Server::start(1, HttpLimits::default()).get("/");
    assert_eq!((page.status, page.headers["content-type"].as_str()), (200, "text/html; charset=utf-8"));
    assert_eq!(page.headers["cache-control"], "no-cache");
    let policy = &page.headers["content-security-policy"];
    assert!(policy.starts_with("default-src 'none'; ") && !policy.contains("unsafe"), "{policy}");
    for (tag, directive) in [("style", "style-src"), ("script type=\"module\"", "script-src")] {
        let (_, text) = page.body.split_once(&format!("<{tag}>")).unwrap();
        let (text, _) = text.split_once(&format!("</{}>", &directive[..directive.len() - 4])).unwrap();
        let hash = BASE64.encode(digest(&SHA256, text.as_bytes()).as_ref());
        assert!(policy.contains(&format!("{directive} 'sha256-{hash}'")), "{policy}");
    }
}

#[test]
fn what_has_no_answer_is_told_why() {
    let server = Server::start(1, HttpLimits::default());
    let missing = server.get("/api/v2/stats");
    assert_eq!(missing.status, 404);
    let error = missing.json()["error"].as_str().unwrap().to_owned();
    assert!(error.contains("/api/v2/stats") && error.contains("/api/v1/stats"), "{error}");
    assert_eq!(server.get("/index.html").status, 404);

    let posted = server.request("POST", "/metrics", "Content-Length: 0\r\n");
    assert_eq!((posted.status, posted.headers["allow"].as_str()), (405, "GET,HEAD"));
    assert_eq!(posted.json(), json!({ "error": "POST is not allowed here; use GET or HEAD" }));

    for path in ["/", "/metrics", "/healthz", "/readyz", "/api/v1/stats", "/api/v1/sensors", "/api/v1/events"] {
        let (head, get) = (server.request("HEAD", path, ""), server.get(path));
        assert_eq!((head.status, head.body.as_str()), (get.status, ""), "{path}");
        assert_eq!(head.headers["content-type"], get.headers["content-type"], "{path}");
    }
}

#[test]
fn the_last_drain_is_after_the_stop() {
    let server = Server::start(1, HttpLimits::default());
    server.shards[0].set_stuck(true);
    for count in 0..1_000 {
        server.shards[0].with(|data| data.metrics.add(cell::FRAMES_ACCEPTED, count));
    }
    let totals = server.stop();
    assert_eq!(totals.counter(0, cell::FRAMES_ACCEPTED), 499_500);
}
