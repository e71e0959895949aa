//! Frames that mean harm: their bytes, and the names in them.

use super::*;

/// Payloads that make decoders recurse, reserve or search, each as long as a frame may be.
fn hostile_payloads() -> Vec<(&'static str, Vec<u8>)> {
    let mut nested_lies = Vec::new();
    while nested_lies.len() + 5 <= MAX_FRAME_SIZE {
        let left = (MAX_FRAME_SIZE - nested_lies.len()) as u32;
        nested_lies.push(0x9a);
        nested_lies.extend(left.to_be_bytes());
    }
    let many_keys = [&[0xb9, 0x52, 0x08][..], &[0x61, b'k', 0x00].repeat(0x5208)].concat();
    vec![
        ("too_deep", vec![0x81; 65_000]),
        ("too_deep", vec![0xc1; 65_000]),
        ("too_deep", vec![0x9f; 65_000]),
        ("malformed", vec![0x9a, 0xff, 0xff, 0xff, 0xff]),
        ("malformed", [&[0xa2, 0x9b, 0x80][..], &[0; 7]].concat()),
        ("too_deep", nested_lies),
        ("not_an_event", many_keys),
    ]
}

#[test]
fn hostile_payloads_take_time_like_their_length_and_no_memory() {
    let _turn = turn();
    let server = Server::start(BINARY, &[]);
    let valid = frames::event("honest", 1);
    let mut peer = server.connect();
    peer.send(&valid);
    assert_eq!(peer.commit().committed, 1);
    let (rounds, mut sent) = (scaled(2_000, 20), 0);
    let (mut longest, mut bytes) = (0.0f64, 0);
    let cpu = |metrics: &Metrics| metrics.sum("corelane_shard_cpu_seconds_total", &[]);
    let payloads = hostile_payloads();
    // The first pass touches the buffers that long frames need.
    let mut before = server.metrics();
    for (number, (reason, payload)) in payloads.iter().chain(&payloads).enumerate() {
        if number == payloads.len() {
            before = server.metrics();
        }
        let hostile = frames::frame(payload);
        let start = server.metrics();
        for _ in 0..rounds {
            peer.send(&hostile);
            peer.send(&valid);
        }
        sent += rounds as u64;
        let answer = peer.commit();
        assert_eq!((answer.committed, answer.rejected), (sent + 1, sent));
        let metrics = server.metrics();
        assert_eq!(metrics.rejected_for(reason) - start.rejected_for(reason), rounds as u64, "{reason}");
        let time = (cpu(&metrics) - cpu(&start)) / (rounds * payload.len()) as f64 * 1e9;
        longest = longest.max(time * payload.len() as f64);
        bytes += rounds * payload.len();
    }
    let after = server.assert_accounted(2 * sent + 1);
    let grown = after.resident_bytes().saturating_sub(before.resident_bytes());
    assert!(grown < 4 << 20, "{grown} bytes more");
    figure(
        "64 KiB of nested arrays, tags, lying counts",
        &format!(
            "{bytes} bytes rejected for the right reasons, {:.1} us CPU a frame at most, {:.1} MB more resident",
            longest / 1e3,
            grown as f64 / 1e6
        ),
    );
}

#[test]
fn names_without_end_evict_each_other_and_not_the_counters() {
    let _turn = turn();
    let server = Server::start(BINARY, &["--max-series", "10000"]);
    let count = scaled(1_000_000, 40_000) as u64;
    let mut peer = server.connect();
    let mut sent = 0;
    let mut chunk = Vec::new();
    let mut send = |range: std::ops::Range<u64>| {
        for number in range {
            chunk.extend(frames::small_event(&format!("id-{number}"), &format!("sensor-{number}"), number + 1, 1.0));
            sent += 1;
            if number % 1_000 == 0 {
                // A series that is known stays so, as long as it reports.
                chunk.extend(frames::small_event("known", "steady", number + 1, 1.0));
                sent += 1;
                peer.send(&chunk);
                chunk.clear();
            }
        }
        peer.send(&chunk);
        chunk.clear();
        assert_eq!(peer.commit().committed, sent);
    };
    send(0..count / 4);
    let before = server.metrics();
    send(count / 4..count);
    let after = server.metrics();
    assert_eq!(after.count("corelane_series", &[]), 10_000);
    let grown = after.resident_bytes().saturating_sub(before.resident_bytes());
    assert!(grown < 8 << 20, "{grown} bytes more");
    let known = server.sensors_of("known");
    assert_eq!(known[0]["count"], count.div_ceil(1_000));
    server.assert_accounted(sent);
    figure(
        &format!("{count} ids and sensors"),
        &format!("10 000 series, {:.1} MB more resident, the known series kept counting", grown as f64 / 1e6),
    );
}
