//! From a shard's numbers over words to the control plane's totals.

use std::collections::VecDeque;

use corelane_metrics::{
    CELLS, CloseReason, FAMILIES, Histogram, RING_SLOTS_MIN, Sample, SecurityKind, ShardMetrics, ShardState, Totals,
    bucket_index, cell,
};
use corelane_wire::RejectReason;

fn apply_all(totals: &mut Totals, shard: usize, words: impl IntoIterator<Item = [u64; 3]>) {
    for sample in words {
        totals.apply(shard, Sample::from_words(sample).expect("a shard records whole samples"));
    }
}

fn flushed(metrics: &mut ShardMetrics, now: u64) -> Vec<[u64; 3]> {
    let mut words = Vec::new();
    metrics.flush(now, |sample| words.push(sample));
    words
}

#[test]
fn what_a_shard_counts_is_what_the_control_plane_reads() {
    let mut metrics = ShardMetrics::new();
    metrics.add(cell::FRAMES_ACCEPTED, 3);
    metrics.add(cell::FRAMES_ACCEPTED, 4);
    metrics.add(cell::frames_rejected(RejectReason::NotAnEvent), 5);
    metrics.add(cell::connections_closed(CloseReason::Error), 6);
    metrics.add(cell::security_events(SecurityKind::RejectedFrames), 7);
    metrics.set_total(cell::CPU_NANOSECONDS, 1_500_000_000);
    metrics.set_gauge(cell::POOL_UTILIZATION, 0.25);
    metrics.set_state(ShardState::Accepting);
    metrics.observe(Histogram::INGEST_LATENCY, 1_500, 2);
    metrics.observe(Histogram::INGEST_LATENCY, 9_000_000_000, 1);

    let mut totals = Totals::new(2);
    apply_all(&mut totals, 1, flushed(&mut metrics, 10));

    assert_eq!(totals.counter(1, cell::FRAMES_ACCEPTED), 7);
    assert_eq!(totals.counter(1, cell::frames_rejected(RejectReason::NotAnEvent)), 5);
    assert_eq!(totals.counter(1, cell::connections_closed(CloseReason::Error)), 6);
    assert_eq!(totals.counter(1, cell::security_events(SecurityKind::RejectedFrames)), 7);
    assert_eq!(totals.number(1, cell::CPU_NANOSECONDS), 1.5e9);
    assert_eq!(totals.gauge(1, cell::POOL_UTILIZATION), 0.25);
    assert_eq!((totals.state(0), totals.state(1)), (ShardState::Starting, ShardState::Accepting));
    let latency = totals.histogram(1, Histogram::INGEST_LATENCY);
    assert_eq!(latency.buckets[bucket_index(1_500)], 2);
    assert_eq!((latency.buckets[24], latency.count()), (1, 3));
    assert_eq!(latency.sum_seconds, 9.000003);
    assert_eq!(totals.histogram(1, Histogram::LOOP_STALL).count(), 0);

    apply_all(&mut totals, 0, flushed(&mut metrics, 20));
    assert_eq!(totals.counter(0, cell::FRAMES_ACCEPTED), 0, "an unchanged counter is not told again");
    assert_eq!(totals.counter_sum(cell::FRAMES_ACCEPTED), 7);
}

#[test]
fn a_flush_tells_what_changed_and_the_state() {
    let mut metrics = ShardMetrics::new();
    assert_eq!(flushed(&mut metrics, 1).len(), CELLS, "the first flush tells everything");
    assert_eq!(flushed(&mut metrics, 2), [[1 << 32 | u64::from(cell::STATE.id()), 2, 0]]);
    metrics.set_gauge(cell::SERIES, 0.0);
    metrics.set_total(cell::ALLOCATIONS, 0);
    metrics.add(cell::POINTS, 14);
    let told: Vec<_> = flushed(&mut metrics, 3).into_iter().map(|words| words[0] as u32).collect();
    assert_eq!(told, [cell::POINTS.id(), cell::STATE.id()], "a number set to what it was is no change");
}

/// Whatever a ring overwrites, its newest slots tell the shard's numbers exactly.
#[test]
fn dropped_samples_lose_no_count() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let counters = [
        cell::FRAMES_ACCEPTED,
        cell::POOL_WAITS,
        cell::SERIES_EVICTED,
        cell::frames_rejected(RejectReason::Malformed),
        cell::connections_closed(CloseReason::Shutdown),
    ];
    let mut metrics = ShardMetrics::new();
    let mut ring = VecDeque::new();
    let (mut written, mut read) = (0, 0);
    let mut totals = Totals::new(1);
    for round in 0..20_000 {
        // Long times of little change, in which an early change would be overwritten if it were told only once.
        if random(50) == 0 {
            metrics.add(counters[random(5) as usize], random(1_000));
            metrics.observe(Histogram::LOOP_STALL, random(1 << 34), 1);
        }
        if random(900) == 0 {
            FAMILIES.iter().filter_map(|family| family.histogram()).for_each(|histogram| {
                (0..34).for_each(|bits| metrics.observe(histogram, 1 << bits, 1));
            });
        }
        metrics.flush(round, |words| {
            written += 1;
            if ring.len() == RING_SLOTS_MIN {
                ring.pop_front();
            }
            ring.push_back(words);
        });
        if random(2_000) == 0 || round == 19_999 {
            read += ring.len();
            apply_all(&mut totals, 0, ring.drain(..));
            for counter in counters {
                assert_eq!(totals.counter(0, counter), metrics.get(counter), "round {round}");
            }
        }
    }
    assert!(read < written / 2, "most samples were dropped: {read} of {written} were read");
    let mut whole = Totals::new(1);
    apply_all(&mut whole, 0, {
        // As many empty flushes as it takes until one tells everything.
        (0..2 * RING_SLOTS_MIN as u64).flat_map(|now| flushed(&mut metrics, now)).collect::<Vec<_>>()
    });
    assert_eq!(totals.histogram(0, Histogram::LOOP_STALL), whole.histogram(0, Histogram::LOOP_STALL));
}
