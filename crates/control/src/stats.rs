//! The totals as JSON: every family, for each shard and added up, and what else the dashboard shows.

use std::collections::BTreeMap;
use std::ops::Range;

use corelane_api as api;
use corelane_metrics::{BUCKET_COUNT, FAMILIES, Histogram, HistogramTotals, bucket_bound_seconds, cell};

use crate::encode::process_rows;
use crate::{Configured, ControlPlane};

/// The answer of `/api/v1/stats`. A test sees to it that no family of the table is left out.
pub(crate) fn stats_json(plane: &ControlPlane, configuration: &[Configured]) -> String {
    // By way of a value, which sorts the keys.
    let stats = serde_json::to_value(stats(plane, configuration)).expect("numbers and texts can be written as JSON");
    stats.to_string()
}

fn stats(plane: &ControlPlane, configuration: &[Configured]) -> api::Stats {
    let count = plane.totals().shard_count();
    let setting = |Configured { key, value, source }: &Configured| api::Setting {
        key: (*key).to_owned(),
        source: (*source).to_owned(),
        value: value.clone(),
    };
    let shard = |shard| api::Shard {
        core: plane.core(shard) as u64,
        shard: shard as u64,
        state: plane.totals().state(shard).label().to_owned(),
        numbers: numbers(plane, shard..shard + 1),
    };
    api::Stats {
        build: api::Build { revision: plane.config.revision.to_owned(), version: plane.config.version.to_owned() },
        configuration: configuration.iter().map(setting).collect(),
        histogram_bounds_seconds: (0..BUCKET_COUNT - 1).map(bucket_bound_seconds).collect(),
        shards: (0..count).map(shard).collect(),
        totals: totals(plane),
        uptime_seconds: plane.started.elapsed().as_secs_f64(),
    }
}

fn totals(plane: &ControlPlane) -> api::Totals {
    let rows = process_rows(plane);
    let process = |name| rows.iter().find(|(own, ..)| *own == name).map(|(.., number)| *number);
    api::Totals {
        numbers: numbers(plane, 0..plane.totals().shard_count()),
        control_unauthorized: process("corelane_control_unauthorized_total"),
        log_lines_dropped: process("corelane_log_lines_dropped_total"),
        memory_allocated_bytes: process("corelane_memory_allocated_bytes"),
        memory_resident_bytes: process("corelane_memory_resident_bytes"),
        process_cpu_seconds: process("process_cpu_seconds_total"),
        process_max_fds: process("process_max_fds"),
        process_open_fds: process("process_open_fds"),
        process_resident_memory_bytes: process("process_resident_memory_bytes"),
        process_start_time_seconds: process("process_start_time_seconds"),
        tls_certificate_expiry_timestamp_seconds: process("corelane_tls_certificate_expiry_timestamp_seconds"),
    }
}

fn numbers(plane: &ControlPlane, shards: Range<usize>) -> api::Numbers {
    let totals = plane.totals();
    let count = |cell| shards.clone().map(|shard| totals.counter(shard, cell)).sum();
    let gauge = |cell| shards.clone().map(|shard| totals.gauge(shard, cell)).sum::<f64>() as u64;
    let samples = |of: fn((u64, u64)) -> u64| shards.clone().map(|shard| of(plane.samples(shard))).sum();
    let by_label = |name| -> BTreeMap<String, u64> {
        let family = FAMILIES.iter().find(|family| family.name == name);
        let cells = family
            .into_iter()
            .flat_map(|family| family.label.iter().flat_map(|label| label.values).zip(family.cells()));
        cells.map(|(value, cell)| ((*value).to_owned(), count(cell))).collect()
    };
    let histogram = |histogram| {
        let mut sum = HistogramTotals::default();
        shards.clone().for_each(|shard| sum.merge(&totals.histogram(shard, histogram)));
        histogram_of(&sum)
    };
    // Shares of several shards do not add up; the fullest one is what matters.
    let highest = |cell| shards.clone().map(|shard| totals.gauge(shard, cell)).fold(0.0, f64::max);
    api::Numbers {
        allocated_bytes: count(cell::ALLOCATED_BYTES),
        allocations: count(cell::ALLOCATIONS),
        connections: gauge(cell::CONNECTIONS),
        connections_accepted: count(cell::CONNECTIONS_ACCEPTED),
        connections_closed: by_label("corelane_connections_closed_total"),
        frames_accepted: count(cell::FRAMES_ACCEPTED),
        frames_rejected: by_label("corelane_frames_rejected_total"),
        ingest_backlog_bytes: gauge(cell::INGEST_BACKLOG_BYTES),
        ingest_latency_seconds: histogram(Histogram::INGEST_LATENCY),
        loop_stall_seconds: histogram(Histogram::LOOP_STALL),
        points: count(cell::POINTS),
        pool_buffers: api::PoolBuffers { free: gauge(cell::POOL_FREE), in_use: gauge(cell::POOL_IN_USE) },
        pool_short: gauge(cell::POOL_SHORT),
        pool_utilization_ratio: highest(cell::POOL_UTILIZATION),
        pool_waits: count(cell::POOL_WAITS),
        received_bytes: count(cell::RECEIVED_BYTES),
        security_events: by_label("corelane_security_events_total"),
        series: gauge(cell::SERIES),
        series_evicted: count(cell::SERIES_EVICTED),
        shard_cpu_seconds: shards.clone().map(|shard| totals.number(shard, cell::CPU_NANOSECONDS)).sum::<f64>() * 1e-9,
        telemetry_samples: samples(|(written, _)| written),
        telemetry_samples_dropped: samples(|(_, lost)| lost),
    }
}

fn histogram_of(histogram: &HistogramTotals) -> api::Histogram {
    api::Histogram {
        buckets: histogram.buckets.to_vec(),
        count: histogram.count(),
        p50: quantile_bound(histogram, 0.5),
        p99: quantile_bound(histogram, 0.99),
        p999: quantile_bound(histogram, 0.999),
        sum: histogram.sum_seconds,
    }
}

/// The bound of the bucket that the quantile falls into, in seconds: the value is at most that, and more than half of
/// it. None without observations and beyond the last bound.
fn quantile_bound(histogram: &HistogramTotals, quantile: f64) -> Option<f64> {
    let rank = (histogram.count() as f64 * quantile).ceil();
    let mut below = 0;
    (0..BUCKET_COUNT - 1)
        .find(|bucket| {
            below += histogram.buckets[*bucket];
            below > 0 && below as f64 >= rank
        })
        .map(bucket_bound_seconds)
}

#[cfg(test)]
mod tests {

    use corelane_metrics::{Kind, RING_SLOTS_MIN, SAMPLE_WORDS, ShardMetrics, Source};
    use corelane_telemetry::{Recorder, event_lane, page_lane, telemetry_ring};

    use super::*;
    use crate::{ControlConfig, HttpLimits, MemoryUse, Protection, ShardPort};

    /// Two shards, the second with ten times the numbers of the first.
    fn plane() -> (ControlPlane, Vec<Recorder<SAMPLE_WORDS>>) {
        let config = ControlConfig {
            version: "1.2.3",
            revision: "abc",
            memory: || MemoryUse { allocated_bytes: 1_000, resident_bytes: 2_000 },
            log_lines_dropped: || 3,
            http: HttpLimits::default(),
            protection: Protection::default(),
            data_tls: None,
        };
        let (mut ports, mut recorders) = (Vec::new(), Vec::new());
        for factor in [1, 10] {
            let (mut recorder, samples) = telemetry_ring(RING_SLOTS_MIN);
            let mut metrics = ShardMetrics::new();
            for (family, index) in FAMILIES.iter().zip(1..) {
                for cell in family.cells().filter(|_| family.histogram().is_none()) {
                    match family.kind {
                        Kind::Counter => metrics.add(cell, index * factor),
                        _ => metrics.set_gauge(cell, (index * factor) as f64),
                    }
                }
            }
            metrics.set_gauge(cell::POOL_UTILIZATION, 0.05 * factor as f64);
            metrics.set_total(cell::CPU_NANOSECONDS, 1_250_000_000 * factor);
            metrics.observe(Histogram::INGEST_LATENCY, 3_000, 4 * factor);
            metrics.observe(Histogram::INGEST_LATENCY, 60_000_000_000, factor);
            metrics.flush(0, |words| recorder.record(words));
            ports.push(ShardPort {
                core: 7,
                samples,
                series: page_lane().0,
                events: event_lane(1).1,
                wake: Box::new(|| ()),
            });
            recorders.push(recorder);
        }
        let mut plane = ControlPlane::new(config, ports);
        plane.collect_once();
        (plane, recorders)
    }

    #[test]
    fn every_family_is_told_by_its_name_with_its_number() {
        let (plane, _recorders) = plane();
        let text = stats_json(&plane, &[]);
        let told: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(text, told.to_string(), "keys are sorted");
        assert_eq!(told["shards"].to_string(), include_str!("stats/shards.json").trim_end(), "published as it is");
        for (family, index) in FAMILIES.iter().zip(1_u64..) {
            let key = family.name.strip_prefix("corelane_").unwrap_or(family.name);
            let key = key.strip_suffix("_total").unwrap_or(key);
            let optional = ["build_info", "tls_certificate_expiry_timestamp_seconds"];
            assert!(!told["totals"][key].is_null() || optional.contains(&key), "{key}");
            if family.source != Source::Cells
                || family.histogram().is_some()
                || family.unit == Some("ratio")
                || family.scale != 1.0
            {
                continue;
            }
            for (of, factor) in [(&told["shards"][0], 1), (&told["shards"][1], 10), (&told["totals"], 11)] {
                match family.label {
                    None => assert_eq!(of[key], index * factor, "{key}"),
                    Some(label) => {
                        label
                            .values
                            .iter()
                            .for_each(|value| assert_eq!(of[key][value], index * factor, "{key} {value}"));
                    }
                }
            }
        }
        let totals = &told["totals"];
        assert_eq!((&totals["pool_utilization_ratio"], &totals["shard_cpu_seconds"]), (&0.5.into(), &13.75.into()));
        assert_eq!(totals["ingest_latency_seconds"]["count"], 55);
        assert_eq!((&totals["memory_allocated_bytes"], &totals["log_lines_dropped"]), (&1_000.into(), &3.into()));
        let read: api::Stats = serde_json::from_str(&text).unwrap();
        assert_eq!(read.shards[1].numbers.points, 10 * read.shards[0].numbers.points);
    }

    #[test]
    fn a_quantile_is_the_bound_of_its_bucket() {
        let mut histogram = HistogramTotals::default();
        assert_eq!(quantile_bound(&histogram, 0.5), None);
        histogram.buckets[0] = 98;
        histogram.buckets[10] = 2;
        assert_eq!(quantile_bound(&histogram, 0.5), Some(1e-6));
        assert_eq!(quantile_bound(&histogram, 0.98), Some(1e-6));
        assert_eq!(quantile_bound(&histogram, 0.99), Some(0.001024));
        histogram.buckets[BUCKET_COUNT - 1] = 100;
        assert_eq!(quantile_bound(&histogram, 0.99), None);
    }
}
