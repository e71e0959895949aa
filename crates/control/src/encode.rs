//! Prometheus text 0.0.4 and OpenMetrics 1.0, both from the one table of families.
//!
//! A scrape is first gathered into rows that know no format. Two crates then write them, since neither writes both: in
//! OpenMetrics a counter is named without its `_total`, which only its sample carries.

use corelane_metrics::{BUCKET_COUNT, Cell, FAMILIES, Family, HistogramTotals, Kind, Source, bucket_bound_seconds};
use prometheus::proto;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::{ControlPlane, process};

/// Content type of [`Scrape::to_prometheus`].
pub(crate) const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Content type of [`Scrape::into_open_metrics`].
pub(crate) const OPEN_METRICS_TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Every family with its rows at one moment. A family without rows is left out.
#[derive(Debug)]
pub(crate) struct Scrape {
    families: Vec<(&'static Family, Vec<Row>)>,
}

#[derive(Debug)]
struct Row {
    labels: Vec<(&'static str, String)>,
    value: Value,
}

#[derive(Debug)]
enum Value {
    Number(f64),
    Histogram(HistogramTotals),
}

impl Scrape {
    /// Gathers the numbers of a control plane after a collection, and of the process.
    pub(crate) fn gather(plane: &ControlPlane) -> Self {
        let process = process_rows(plane);
        let families = FAMILIES.iter().map(|family| {
            let rows = match family.source {
                Source::Process => process
                    .iter()
                    .filter(|(name, ..)| *name == family.name)
                    .map(|(_, labels, number)| Row { labels: labels.clone(), value: Value::Number(*number) })
                    .collect(),
                Source::Cells | Source::Ring => {
                    (0..plane.totals().shard_count()).flat_map(|shard| shard_rows(plane, family, shard)).collect()
                }
            };
            (family, rows)
        });
        Self { families: families.filter(|(_, rows): &(_, Vec<Row>)| !rows.is_empty()).collect() }
    }

    /// The scrape in the text format that every Prometheus reads.
    pub(crate) fn to_prometheus(&self) -> String {
        let families: Vec<_> = self.families.iter().map(|(family, rows)| proto_family(family, rows)).collect();
        prometheus::TextEncoder::new()
            .encode_to_string(&families)
            .expect("families with rows and names can be written to memory")
    }

    /// The scrape in OpenMetrics text.
    pub(crate) fn into_open_metrics(self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("text can be written to memory");
        text
    }
}

type ProcessRow = (&'static str, Vec<(&'static str, String)>, f64);

/// Every family of the process that has a number now: name, labels, number.
pub(crate) fn process_rows(plane: &ControlPlane) -> Vec<ProcessRow> {
    let config = &plane.config;
    let memory = (config.memory)();
    let build = vec![("version", config.version.to_owned()), ("revision", config.revision.to_owned())];
    let mut rows = vec![
        ("corelane_build_info", build, 1.0),
        ("corelane_memory_allocated_bytes", vec![], memory.allocated_bytes as f64),
        ("corelane_memory_resident_bytes", vec![], memory.resident_bytes as f64),
        ("corelane_log_lines_dropped_total", vec![], (config.log_lines_dropped)() as f64),
        ("corelane_control_unauthorized_total", vec![], plane.wrong_tokens.total() as f64),
    ];
    let control = config.protection.certificates.iter().map(|certificates| certificates.expires_unix_seconds());
    let data = config.data_tls.iter().map(|tls| tls.expires_unix_seconds());
    if let Some(expiry) = control.chain(data).min() {
        rows.push(("corelane_tls_certificate_expiry_timestamp_seconds", vec![], expiry as f64));
    }
    rows.extend(process::numbers().into_iter().map(|(name, number)| (name, vec![], number)));
    rows
}

fn shard_rows(plane: &ControlPlane, family: &Family, shard: usize) -> Vec<Row> {
    let labels = vec![("shard", shard.to_string())];
    if let Some(histogram) = family.histogram() {
        return vec![Row { labels, value: Value::Histogram(plane.totals().histogram(shard, histogram)) }];
    }
    let (written, lost) = plane.samples(shard);
    match family.name {
        "corelane_telemetry_samples_total" => return vec![Row { labels, value: Value::Number(written as f64) }],
        "corelane_telemetry_samples_dropped_total" => return vec![Row { labels, value: Value::Number(lost as f64) }],
        _ => (),
    }
    let row = |(index, cell): (usize, Cell)| {
        let own = family.label.map(|label| (label.name, label.values[index].to_owned()));
        let number = plane.totals().number(shard, cell) * family.scale;
        Row { labels: labels.iter().cloned().chain(own).collect(), value: Value::Number(number) }
    };
    family.cells().enumerate().map(row).collect()
}

/// The bounds and counts of a histogram's buckets, not cumulative.
fn buckets(histogram: &HistogramTotals) -> [(f64, u64); BUCKET_COUNT] {
    std::array::from_fn(|bucket| (bucket_bound_seconds(bucket), histogram.buckets[bucket]))
}

fn proto_family(family: &Family, rows: &[Row]) -> proto::MetricFamily {
    let mut written = proto::MetricFamily::default();
    written.set_name(family.name.to_owned());
    written.set_help(family.help.to_owned());
    written.set_field_type(match family.kind {
        Kind::Counter => proto::MetricType::COUNTER,
        Kind::Gauge => proto::MetricType::GAUGE,
        Kind::Histogram => proto::MetricType::HISTOGRAM,
    });
    written.set_metric(rows.iter().map(|row| proto_metric(family.kind, row)).collect());
    written
}

fn proto_metric(kind: Kind, row: &Row) -> proto::Metric {
    let label = |(name, value): &(&str, String)| {
        let mut pair = proto::LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value(value.clone());
        pair
    };
    let mut metric = proto::Metric::from_label(row.labels.iter().map(label).collect());
    match (&row.value, kind) {
        (Value::Number(number), Kind::Counter) => {
            let mut counter = proto::Counter::default();
            counter.set_value(*number);
            metric.set_counter(counter);
        }
        (Value::Number(number), _) => {
            let mut gauge = proto::Gauge::default();
            gauge.set_value(*number);
            metric.set_gauge(gauge);
        }
        (Value::Histogram(histogram), _) => metric.set_histogram(proto_histogram(histogram)),
    }
    metric
}

fn proto_histogram(histogram: &HistogramTotals) -> proto::Histogram {
    let mut below = 0;
    let mut written = proto::Histogram::default();
    // The encoder adds the bucket without bound itself.
    let bounded = buckets(histogram).into_iter().take(BUCKET_COUNT - 1);
    written.set_bucket(
        bounded
            .map(|(bound, count)| {
                below += count;
                let mut bucket = proto::Bucket::default();
                bucket.set_upper_bound(bound);
                bucket.set_cumulative_count(below);
                bucket
            })
            .collect(),
    );
    written.set_sample_sum(histogram.sum_seconds);
    written.set_sample_count(histogram.count());
    written
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (family, rows) in &self.families {
            let kind = match family.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
            };
            // The encoder puts the unit and `_total` back.
            let unit = family.unit.map(|unit| Unit::Other(unit.to_owned()));
            let mut name = family.name.strip_suffix("_total").unwrap_or(family.name);
            if let Some(unit) = family.unit {
                name = name.strip_suffix(unit).and_then(|name| name.strip_suffix('_')).unwrap_or(name);
            }
            // The encoder does not escape the help, and a test sees to it that no help needs it.
            let mut metric = encoder.encode_descriptor(name, family.help, unit.as_ref(), kind)?;
            for row in rows {
                if row.labels.is_empty() {
                    encode_row(&mut metric, family.kind, &row.value)?;
                } else {
                    encode_row(&mut metric.encode_family(&row.labels)?, family.kind, &row.value)?;
                }
            }
        }
        Ok(())
    }
}

fn encode_row(metric: &mut MetricEncoder<'_>, kind: Kind, value: &Value) -> Result<(), std::fmt::Error> {
    match (value, kind) {
        (Value::Number(number), Kind::Counter) => metric.encode_counter::<NoLabelSet, _, f64>(number, None),
        (Value::Number(number), _) => metric.encode_gauge(number),
        (Value::Histogram(histogram), _) => {
            metric.encode_histogram::<NoLabelSet>(histogram.sum_seconds, histogram.count(), &buckets(histogram), None)
        }
    }
}
