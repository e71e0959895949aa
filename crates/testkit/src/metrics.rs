//! A scrape as numbers by name and labels.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Label names and values.
type Labels = BTreeMap<String, String>;

/// The samples of one scrape. Printed, it is those that tell something.
#[derive(Debug)]
pub struct Metrics {
    samples: BTreeMap<String, Vec<(Labels, f64)>>,
    types: BTreeMap<String, String>,
}

impl Metrics {
    /// Reads Prometheus text, in which no label value holds a comma, a quote or an escape: ours are all bounded words.
    ///
    /// # Panics
    /// When a line is none.
    pub fn parse(text: &str) -> Self {
        let mut metrics = Self { samples: BTreeMap::new(), types: BTreeMap::new() };
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(declared) = line.strip_prefix("# TYPE ") {
                let (name, kind) = declared.split_once(' ').expect("a type has a name");
                metrics.types.insert(name.to_owned(), kind.to_owned());
            } else if !line.starts_with('#') {
                let (name, labels, value) = sample(line).unwrap_or_else(|| panic!("no sample: {line}"));
                metrics.samples.entry(name).or_default().push((labels, value));
            }
        }
        metrics
    }

    /// The declared families and their types.
    pub fn types(&self) -> &BTreeMap<String, String> {
        &self.types
    }

    /// The names of all labels that samples of `name` have.
    pub fn label_names(&self, name: &str) -> BTreeSet<&str> {
        self.labelled(name).flat_map(|(labels, _)| labels.keys().map(String::as_str)).collect()
    }

    /// The values of one label of `name`.
    pub fn label_values(&self, name: &str, label: &str) -> BTreeSet<&str> {
        self.labelled(name).filter_map(|(labels, _)| labels.get(label).map(String::as_str)).collect()
    }

    /// The sum of all samples of `name` that carry these labels, among others. Zero without one.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let carries =
            |own: &Labels| labels.iter().all(|(label, value)| own.get(*label).is_some_and(|own| own == value));
        self.labelled(name).filter(|(own, _)| carries(own)).map(|(_, value)| value).sum()
    }

    /// [`sum`](Self::sum) of what counts things.
    ///
    /// # Panics
    /// When it is no whole number.
    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let sum = self.sum(name, labels);
        assert!(sum >= 0.0 && sum.fract() == 0.0, "{name}{labels:?} is {sum}");
        sum as u64
    }

    /// Frames accepted by all shards.
    pub fn accepted(&self) -> u64 {
        self.count("corelane_frames_accepted_total", &[])
    }

    /// Frames rejected by all shards for all reasons.
    pub fn rejected(&self) -> u64 {
        self.count("corelane_frames_rejected_total", &[])
    }

    /// Frames rejected for one reason.
    pub fn rejected_for(&self, reason: &str) -> u64 {
        self.count("corelane_frames_rejected_total", &[("reason", reason)])
    }

    /// Connections that ended for one reason.
    pub fn closed_for(&self, reason: &str) -> u64 {
        self.count("corelane_connections_closed_total", &[("reason", reason)])
    }

    /// Security events of one kind.
    pub fn security_events(&self, kind: &str) -> u64 {
        self.count("corelane_security_events_total", &[("kind", kind)])
    }

    /// Connections that ended.
    pub fn closed(&self) -> u64 {
        self.count("corelane_connections_closed_total", &[])
    }

    /// Connections that are open.
    pub fn connections(&self) -> u64 {
        self.count("corelane_connections", &[])
    }

    /// Receive buffers that hold unread or kept bytes.
    pub fn buffers_in_use(&self) -> u64 {
        self.count("corelane_pool_buffers", &[("state", "in_use")])
    }

    /// Resident memory of the process, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        self.count("process_resident_memory_bytes", &[])
    }

    fn labelled(&self, name: &str) -> impl Iterator<Item = (&Labels, f64)> {
        self.samples.get(name).into_iter().flatten().map(|(labels, value)| (labels, *value))
    }
}

impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, samples) in self.samples.iter().filter(|(name, _)| !name.ends_with("_bucket")) {
            for (labels, value) in samples.iter().filter(|(_, value)| *value != 0.0) {
                let labels: Vec<_> = labels.iter().map(|(label, value)| format!("{label}={value}")).collect();
                writeln!(f, "{name} {} {value}", labels.join(" "))?;
            }
        }
        Ok(())
    }
}

fn sample(line: &str) -> Option<(String, Labels, f64)> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}')?),
        None => (series, ""),
    };
    let label = |pair: &str| {
        let (name, value) = pair.split_once("=\"")?;
        Some((name.to_owned(), value.strip_suffix('"')?.to_owned()))
    };
    let labels = labels.split(',').filter(|pair| !pair.is_empty()).map(label).collect::<Option<_>>()?;
    Some((name.to_owned(), labels, value.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_found_by_name_and_labels_and_added_up() {
        let metrics = Metrics::parse(
            "# HELP a_total Things.\n# TYPE a_total counter\na_total{shard=\"0\",reason=\"x\"} 1\n\
             a_total{shard=\"1\",reason=\"x\"} 2\na_total{shard=\"1\",reason=\"y\"} 4\n# TYPE b gauge\nb 0.5\n",
        );
        assert_eq!(metrics.count("a_total", &[]), 7);
        assert_eq!(metrics.count("a_total", &[("reason", "x")]), 3);
        assert_eq!(metrics.count("a_total", &[("reason", "x"), ("shard", "1")]), 2);
        assert_eq!(metrics.count("a_total", &[("reason", "z")]), 0);
        assert_eq!(metrics.sum("b", &[]), 0.5);
        assert_eq!(metrics.types()["a_total"], "counter");
        assert_eq!(metrics.label_names("a_total"), BTreeSet::from(["shard", "reason"]));
        assert_eq!(metrics.label_values("a_total", "shard"), BTreeSet::from(["0", "1"]));
    }
}
