//! Prometheus text 0.0.4 and OpenMetrics 1.0, both from the one table of families.
//!
//! A scrape is first gathered into rows that know no format. One encoder then writes them. The formats differ in the name
//! of a counter, in how a number looks, and in the order of a histogram's samples and labels.

use std::fmt::{self, Display, Formatter, Write};

use corelane_metrics::{Cell, FAMILIES, Family, HistogramTotals, Kind, Source, bucket_bound_seconds};

use crate::{ControlPlane, process};

/// What a scrape is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// The text format that every Prometheus reads.
    Prometheus,
    OpenMetrics,
}

impl Format {
    pub(crate) const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Every family with its rows at one moment. A family without rows is left out.
#[derive(Debug)]
pub(crate) struct Scrape {
    families: Vec<(&'static Family, Vec<Row>)>,
}

#[derive(Debug)]
struct Row {
    labels: Vec<Label>,
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

    /// The scrape as text.
    pub(crate) fn to_text(&self, format: Format) -> String {
        let mut text = String::new();
        let written = self.families.iter().try_for_each(|(family, rows)| write_family(&mut text, format, family, rows));
        written.expect("text can be written to memory");
        if format == Format::OpenMetrics {
            text.push_str("# EOF\n");
        }
        text
    }
}

type ProcessRow = (&'static str, Vec<Label>, f64);

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

fn write_family(text: &mut String, format: Format, family: &Family, rows: &[Row]) -> fmt::Result {
    let name = match format {
        Format::Prometheus => family.name,
        // There the name of a counter has no `_total`, which only its sample carries.
        Format::OpenMetrics => family.name.strip_suffix("_total").unwrap_or(family.name),
    };
    let kind = match family.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    // The help is not escaped, and a test sees to it that no help needs it.
    write!(text, "# HELP {name} {}\n# TYPE {name} {kind}\n", family.help)?;
    if let (Format::OpenMetrics, Some(unit)) = (format, family.unit) {
        writeln!(text, "# UNIT {name} {unit}")?;
    }
    let suffix = if family.kind == Kind::Counter && format == Format::OpenMetrics { "_total" } else { "" };
    for Row { labels, value } in rows {
        match value {
            Value::Number(number) => {
                writeln!(text, "{name}{suffix}{} {}", Labels(labels), Number(format, *number))?;
            }
            Value::Histogram(histogram) => write_histogram(text, format, name, labels, histogram)?,
        }
    }
    Ok(())
}

fn write_histogram(
    text: &mut String,
    format: Format,
    name: &str,
    labels: &[Label],
    histogram: &HistogramTotals,
) -> fmt::Result {
    let sum =
        |text: &mut String| writeln!(text, "{name}_sum{} {}", Labels(labels), Number(format, histogram.sum_seconds));
    let count = |text: &mut String| writeln!(text, "{name}_count{} {}", Labels(labels), histogram.count());
    if format == Format::OpenMetrics {
        sum(text)?;
        count(text)?;
    }
    let mut below = 0;
    for (bucket, count) in histogram.buckets.iter().enumerate() {
        below += count;
        let bound = match bucket_bound_seconds(bucket) {
            f64::INFINITY => "+Inf".to_owned(),
            bound => Number(format, bound).to_string(),
        };
        let mut all = labels.to_vec();
        let place = if format == Format::OpenMetrics { 0 } else { all.len() };
        all.insert(place, ("le", bound));
        writeln!(text, "{name}_bucket{} {below}", Labels(&all))?;
    }
    if format == Format::Prometheus {
        sum(text)?;
        count(text)?;
    }
    Ok(())
}

type Label = (&'static str, String);

/// The labels of a sample, in braces, or nothing.
struct Labels<'a>(&'a [Label]);

impl Display for Labels<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (index, (name, value)) in self.0.iter().enumerate() {
            write!(f, "{}{name}=\"", if index == 0 { '{' } else { ',' })?;
            for character in value.chars() {
                match character {
                    '\\' => f.write_str("\\\\"),
                    '"' => f.write_str("\\\""),
                    '\n' => f.write_str("\\n"),
                    other => f.write_char(other),
                }?;
            }
            f.write_char('"')?;
        }
        if self.0.is_empty() { Ok(()) } else { f.write_char('}') }
    }
}

/// A number as the format has it: in OpenMetrics with a decimal point or an exponent.
struct Number(Format, f64);

impl Display for Number {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Format::Prometheus => Display::fmt(&self.1, f),
            Format::OpenMetrics => f.write_str(dtoa::Buffer::new().format(self.1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn family(name: &str) -> &'static Family {
        FAMILIES.iter().find(|family| family.name == name).unwrap()
    }

    fn sample() -> Scrape {
        let shard = |shard: &str| ("shard", shard.to_owned());
        let number = |labels, number| Row { labels, value: Value::Number(number) };
        let mut histogram = HistogramTotals { sum_seconds: 60.000012, ..HistogramTotals::default() };
        histogram.buckets[2] = 4;
        *histogram.buckets.last_mut().unwrap() = 1;
        let build = vec![("version", "1.2.3".to_owned()), ("revision", "a \"b\" \\ \n".to_owned())];
        let rows = [
            ("corelane_build_info", vec![number(build, 1.0)]),
            (
                "corelane_received_bytes_total",
                vec![number(vec![shard("0")], 2_337_593.0), number(vec![shard("1")], 1e21)],
            ),
            ("corelane_pool_utilization_ratio", vec![number(vec![shard("0")], 0.05), number(vec![shard("1")], 1e-7)]),
            ("corelane_shard_cpu_seconds_total", vec![number(vec![shard("0")], 123_456_789.123_456_78)]),
            ("corelane_log_lines_dropped_total", vec![number(vec![], 0.0)]),
            (
                "corelane_ingest_latency_seconds",
                vec![Row { labels: vec![shard("0")], value: Value::Histogram(histogram) }],
            ),
        ];
        Scrape { families: rows.into_iter().map(|(name, rows)| (family(name), rows)).collect() }
    }

    /// The files were written by the crates `prometheus` 0.14 and `prometheus-client` 0.25.
    #[test]
    fn both_formats_are_byte_for_byte_what_the_usual_encoders_write() {
        assert_eq!(sample().to_text(Format::Prometheus), include_str!("encode/prometheus.txt"));
        assert_eq!(sample().to_text(Format::OpenMetrics), include_str!("encode/open_metrics.txt"));
    }
}
