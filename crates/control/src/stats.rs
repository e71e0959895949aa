//! The totals as JSON: every per-shard family, for each shard and added up, and what is known of the process.

use corelane_metrics::{
    BUCKET_COUNT, Cell, FAMILIES, Family, HistogramTotals, Kind, Source, Totals, bucket_bound_seconds,
};
use serde_json::{Map, Value, json};

use crate::{ControlPlane, process};

/// The answer of `/api/v1/stats`. Keys are the metrics' names without `corelane_` and `_total`; a metric with a label
/// besides `shard` is an object by its values.
pub(crate) fn stats_json(plane: &ControlPlane) -> Value {
    let count = plane.totals().shard_count();
    let mut totals = numbers(plane, 0..count);
    let memory = (plane.config.memory)();
    totals.insert("memory_allocated_bytes".to_owned(), memory.allocated_bytes.into());
    totals.insert("memory_resident_bytes".to_owned(), memory.resident_bytes.into());
    totals.extend(process::numbers().into_iter().map(|(name, number)| (key(name), whole(number))));
    let shard = |shard| {
        let mut told = Map::new();
        told.insert("shard".to_owned(), json!(shard));
        told.insert("state".to_owned(), json!(plane.totals().state(shard).label()));
        told.extend(numbers(plane, shard..shard + 1));
        Value::Object(told)
    };
    json!({
        "uptime_seconds": plane.started.elapsed().as_secs_f64(),
        "totals": totals,
        "shards": (0..count).map(shard).collect::<Vec<_>>(),
    })
}

type Shards = std::ops::Range<usize>;

fn numbers(plane: &ControlPlane, shards: Shards) -> Map<String, Value> {
    let totals = plane.totals();
    let families = FAMILIES.iter().filter(|family| family.source != Source::Process);
    families.map(|family| (key(family.name), family_json(plane, totals, family, shards.clone()))).collect()
}

fn key(name: &str) -> String {
    let name = name.strip_prefix("corelane_").unwrap_or(name);
    name.strip_suffix("_total").unwrap_or(name).to_owned()
}

fn family_json(plane: &ControlPlane, totals: &Totals, family: &Family, shards: Shards) -> Value {
    if let Some(histogram) = family.histogram() {
        let mut sum = HistogramTotals::default();
        shards.for_each(|shard| sum.merge(&totals.histogram(shard, histogram)));
        return histogram_json(&sum);
    }
    match (family.name, family.label) {
        ("corelane_telemetry_samples_total", _) => json!(shards.map(|shard| plane.samples(shard).0).sum::<u64>()),
        ("corelane_telemetry_samples_dropped_total", _) => {
            json!(shards.map(|shard| plane.samples(shard).1).sum::<u64>())
        }
        (_, Some(label)) => {
            let cells = label.values.iter().zip(family.cells());
            cells.map(|(value, cell)| ((*value).to_owned(), cell_json(totals, family, cell, shards.clone()))).collect()
        }
        (_, None) => family.cells().next().map_or(Value::Null, |cell| cell_json(totals, family, cell, shards)),
    }
}

fn cell_json(totals: &Totals, family: &Family, cell: Cell, shards: Shards) -> Value {
    match (family.kind, family.unit) {
        (Kind::Counter, _) if family.scale == 1.0 => {
            json!(shards.map(|shard| totals.counter(shard, cell)).sum::<u64>())
        }
        // Shares of several shards do not add up; the fullest one is what matters.
        (_, Some("ratio")) => json!(shards.map(|shard| totals.number(shard, cell)).fold(0.0, f64::max)),
        (Kind::Gauge, _) => whole(shards.map(|shard| totals.number(shard, cell)).sum()),
        _ => json!(shards.map(|shard| totals.number(shard, cell)).sum::<f64>() * family.scale),
    }
}

/// A gauge that counts things, without a decimal point.
fn whole(number: f64) -> Value {
    if number.fract() == 0.0 && number.abs() < 9e15 { json!(number as i64) } else { json!(number) }
}

fn histogram_json(histogram: &HistogramTotals) -> Value {
    json!({
        "count": histogram.count(),
        "sum": histogram.sum_seconds,
        "p50": quantile_bound(histogram, 0.5),
        "p99": quantile_bound(histogram, 0.99),
    })
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
    use super::*;

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
