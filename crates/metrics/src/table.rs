//! Every metric family that corelane exports, in one table, and how the per-shard ones are laid out as cells.
//!
//! A label value has a cell of its own, and so has each bucket and the sum of a histogram. Ids are given out in the
//! order of the table while compiling, so the table is the only place to add a family.

use corelane_wire::RejectReason;

use crate::histogram::{BUCKET_COUNT, HISTOGRAM_CELLS};
use crate::{CloseReason, SecurityKind};

/// How a family behaves, as Prometheus names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows. The name ends in `_total`, save for what Prometheus itself named otherwise.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Observations by bucket, with their sum.
    Histogram,
}

/// Where the numbers of a family come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Cells of each shard; exported with the label `shard`.
    Cells,
    /// The reading end of each shard's ring; exported with the label `shard`.
    Ring,
    /// The process as a whole.
    Process,
}

/// A label besides `shard`, and every value that it can have.
#[derive(Clone, Copy, Debug)]
pub struct Label {
    /// Label name.
    pub name: &'static str,
    /// Its values, in the order of their cells.
    pub values: &'static [&'static str],
}

/// One metric family.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// Name as exported in Prometheus text, `_total` included.
    pub name: &'static str,
    /// One sentence for people.
    pub help: &'static str,
    /// Counter, gauge or histogram.
    pub kind: Kind,
    /// Base unit that the name ends in (before `_total`), if any.
    pub unit: Option<&'static str>,
    /// What one counted unit is in the exported unit: `1e-9` for a counter kept in nanoseconds and exported in seconds.
    pub scale: f64,
    /// Who fills it.
    pub source: Source,
    /// The label besides `shard`.
    pub label: Option<Label>,
    /// Id of the first cell; only for [`Source::Cells`].
    pub(crate) first_cell: usize,
}

impl Family {
    /// How many cells of each shard the family takes: none unless its source is [`Source::Cells`].
    pub const fn cell_count(&self) -> usize {
        match (self.source, self.kind, self.label) {
            (Source::Ring | Source::Process, ..) => 0,
            (Source::Cells, Kind::Histogram, _) => HISTOGRAM_CELLS,
            (Source::Cells, _, Some(label)) => label.values.len(),
            (Source::Cells, _, None) => 1,
        }
    }

    const fn new(kind: Kind, source: Source, name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind, unit: None, scale: 1.0, source, label: None, first_cell: 0 }
    }

    const fn unit(self, unit: &'static str) -> Self {
        Self { unit: Some(unit), ..self }
    }

    const fn label(self, name: &'static str, values: &'static [&'static str]) -> Self {
        Self { label: Some(Label { name, values }), ..self }
    }

    const fn counted_in_nanoseconds(self) -> Self {
        Self { unit: Some("seconds"), scale: 1e-9, ..self }
    }
}

/// The families, in the order in which they are exported.
pub static FAMILIES: &[Family] = &NUMBERED;

use Kind::{Counter, Gauge, Histogram};
use Source::{Cells, Process, Ring};

const DECLARED: [Family; 33] = [
    Family::new(Gauge, Process, "corelane_build_info", "Always 1; version and source revision are in the labels."),
    Family::new(Counter, Cells, "corelane_frames_accepted_total", "Frames that held a valid event and were counted."),
    Family::new(
        Counter,
        Cells,
        "corelane_frames_rejected_total",
        "Frames refused, by the first reason that their bytes give.",
    )
    .label("reason", &REJECT_LABELS),
    Family::new(Counter, Cells, "corelane_points_total", "Telemetry points in accepted frames."),
    Family::new(Counter, Cells, "corelane_received_bytes_total", "Bytes read from peers, frame headers included.")
        .unit("bytes"),
    Family::new(
        Gauge,
        Cells,
        "corelane_connections",
        "Open connections, without those that are only waited for to close.",
    ),
    Family::new(Counter, Cells, "corelane_connections_accepted_total", "Connections accepted, refused ones included."),
    Family::new(Counter, Cells, "corelane_connections_closed_total", "Connections that ended, by reason.")
        .label("reason", &CLOSE_LABELS),
    Family::new(
        Counter,
        Cells,
        "corelane_security_events_total",
        "Connections closed or refused for what the peer did, by kind.",
    )
    .label("kind", &SECURITY_LABELS),
    Family::new(
        Gauge,
        Cells,
        "corelane_pool_buffers",
        "Receive buffers: free (also empty and lent to the kernel) or in use (holding unread or kept bytes).",
    )
    .label("state", &["free", "in_use"]),
    Family::new(
        Gauge,
        Cells,
        "corelane_pool_utilization_ratio",
        "Highest use since the sample before: of all receive buffers, or of the share for partial frames and unread answers.",
    )
    .unit("ratio"),
    Family::new(
        Counter,
        Cells,
        "corelane_pool_waits_total",
        "Receives put off because no buffer was free; the sender waits.",
    ),
    Family::new(
        Gauge,
        Cells,
        "corelane_pool_short",
        "1 while the receive pool has been short of buffers for more than a second, else 0.",
    ),
    Family::new(
        Gauge,
        Cells,
        "corelane_ingest_backlog_bytes",
        "Received bytes that the kernel holds unread, estimated from a few connections ten times a second.",
    )
    .unit("bytes"),
    Family::new(
        Histogram,
        Cells,
        "corelane_ingest_latency_seconds",
        "Time from the return of the read to the frame counted.",
    )
    .unit("seconds"),
    Family::new(
        Histogram,
        Cells,
        "corelane_loop_stall_seconds",
        "How late the shard's timer fires, looked at ten times a second.",
    )
    .unit("seconds"),
    Family::new(
        Counter,
        Ring,
        "corelane_telemetry_samples_total",
        "Samples that the shard wrote into its telemetry ring.",
    ),
    Family::new(
        Counter,
        Ring,
        "corelane_telemetry_samples_dropped_total",
        "Samples that were overwritten before the control plane read them; no count is lost by it.",
    ),
    Family::new(
        Gauge,
        Cells,
        "corelane_series",
        "Live series: one for each source id and sensor that the shard has seen.",
    ),
    Family::new(Counter, Cells, "corelane_series_evicted_total", "Series that made room for others in a full table."),
    Family::new(Counter, Cells, "corelane_allocations_total", "Heap allocations made by the shard's thread."),
    Family::new(
        Counter,
        Cells,
        "corelane_allocated_bytes_total",
        "Bytes asked for by the heap allocations of the shard's thread.",
    )
    .unit("bytes"),
    Family::new(Counter, Cells, "corelane_shard_cpu_seconds_total", "CPU time of the shard's thread.")
        .counted_in_nanoseconds(),
    Family::new(
        Counter,
        Process,
        "corelane_control_unauthorized_total",
        "Requests to the control port that had a wrong token.",
    ),
    Family::new(
        Gauge,
        Process,
        "corelane_tls_certificate_expiry_timestamp_seconds",
        "When the first of the TLS certificates in use expires, since the Unix epoch; absent without TLS.",
    )
    .unit("seconds"),
    Family::new(Gauge, Process, "corelane_memory_allocated_bytes", "Heap bytes in use, as the allocator counts them.")
        .unit("bytes"),
    Family::new(Gauge, Process, "corelane_memory_resident_bytes", "Resident bytes that the allocator holds.")
        .unit("bytes"),
    Family::new(
        Counter,
        Process,
        "corelane_log_lines_dropped_total",
        "Log lines that were not written: stderr failed or was stuck, or lines came too fast.",
    ),
    Family::new(Gauge, Process, "process_resident_memory_bytes", "Resident memory size in bytes.").unit("bytes"),
    Family::new(Counter, Process, "process_cpu_seconds_total", "Total user and system CPU time spent in seconds.")
        .unit("seconds"),
    Family::new(Gauge, Process, "process_open_fds", "Number of open file descriptors."),
    Family::new(Gauge, Process, "process_max_fds", "Maximum number of open file descriptors."),
    Family::new(
        Gauge,
        Process,
        "process_start_time_seconds",
        "Start time of the process since the Unix epoch in seconds.",
    )
    .unit("seconds"),
];

const NUMBERED: [Family; DECLARED.len()] = {
    let mut families = DECLARED;
    let mut next = 0;
    let mut index = 0;
    while index < families.len() {
        families[index].first_cell = next;
        next += families[index].cell_count();
        index += 1;
    }
    families
};

/// Cells of all families together.
pub(crate) const FAMILY_CELLS: usize = {
    let last = &NUMBERED[NUMBERED.len() - 1];
    last.first_cell + last.cell_count()
};

/// What a cell holds, which decides how its number travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CellKind {
    /// A running total.
    Counter,
    /// The bits of an `f64`.
    Gauge,
    /// A running sum of nanoseconds.
    Sum,
}

/// The kind of each cell that belongs to a family.
pub(crate) const FAMILY_CELL_KINDS: [CellKind; FAMILY_CELLS] = {
    let mut kinds = [CellKind::Counter; FAMILY_CELLS];
    let mut index = 0;
    while index < NUMBERED.len() {
        let family = &NUMBERED[index];
        match family.kind {
            Kind::Counter => (),
            Kind::Gauge => {
                let mut cell = 0;
                while cell < family.cell_count() {
                    kinds[family.first_cell + cell] = CellKind::Gauge;
                    cell += 1;
                }
            }
            Kind::Histogram => kinds[family.first_cell + BUCKET_COUNT] = CellKind::Sum,
        }
        index += 1;
    }
    kinds
};

/// The first cell of the family `name`, which must take `count` cells: both are checked while compiling.
pub(crate) const fn first_cell(name: &str, count: usize) -> usize {
    let mut index = 0;
    while index < NUMBERED.len() {
        let family = &NUMBERED[index];
        if same_text(family.name, name) {
            assert!(family.cell_count() == count, "the family has another number of cells");
            return family.first_cell;
        }
        index += 1;
    }
    panic!("no family has this name")
}

const fn same_text(left: &str, right: &str) -> bool {
    let (left, right) = (left.as_bytes(), right.as_bytes());
    let mut index = 0;
    while index < left.len() && index < right.len() && left[index] == right[index] {
        index += 1;
    }
    index == left.len() && index == right.len()
}

/// Label values of an array of an enum with a const `label`.
macro_rules! labels {
    ($all:expr) => {{
        let mut labels = [""; $all.len()];
        let mut index = 0;
        while index < labels.len() {
            labels[index] = $all[index].label();
            index += 1;
        }
        labels
    }};
}

const REJECT_LABELS: [&str; RejectReason::ALL.len()] = labels!(RejectReason::ALL);
const CLOSE_LABELS: [&str; CloseReason::ALL.len()] = labels!(CloseReason::ALL);
const SECURITY_LABELS: [&str; SecurityKind::OF_SHARDS.len()] = labels!(SecurityKind::OF_SHARDS);

#[cfg(test)]
mod tests {
    use super::*;

    /// Names, types and labels that dashboards and alarms of operators rely on: changing one of them breaks these.
    const PROMISED: &[(&str, Kind, &[&str])] = &[
        ("corelane_build_info", Gauge, &["version", "revision"]),
        ("corelane_frames_accepted_total", Counter, &["shard"]),
        ("corelane_frames_rejected_total", Counter, &["shard", "reason"]),
        ("corelane_points_total", Counter, &["shard"]),
        ("corelane_received_bytes_total", Counter, &["shard"]),
        ("corelane_connections", Gauge, &["shard"]),
        ("corelane_connections_accepted_total", Counter, &["shard"]),
        ("corelane_connections_closed_total", Counter, &["shard", "reason"]),
        ("corelane_security_events_total", Counter, &["shard", "kind"]),
        ("corelane_pool_buffers", Gauge, &["shard", "state"]),
        ("corelane_pool_utilization_ratio", Gauge, &["shard"]),
        ("corelane_pool_waits_total", Counter, &["shard"]),
        ("corelane_pool_short", Gauge, &["shard"]),
        ("corelane_ingest_backlog_bytes", Gauge, &["shard"]),
        ("corelane_ingest_latency_seconds", Histogram, &["shard"]),
        ("corelane_loop_stall_seconds", Histogram, &["shard"]),
        ("corelane_telemetry_samples_total", Counter, &["shard"]),
        ("corelane_telemetry_samples_dropped_total", Counter, &["shard"]),
        ("corelane_series", Gauge, &["shard"]),
        ("corelane_series_evicted_total", Counter, &["shard"]),
        ("corelane_allocations_total", Counter, &["shard"]),
        ("corelane_allocated_bytes_total", Counter, &["shard"]),
        ("corelane_shard_cpu_seconds_total", Counter, &["shard"]),
        ("corelane_control_unauthorized_total", Counter, &[]),
        ("corelane_tls_certificate_expiry_timestamp_seconds", Gauge, &[]),
        ("corelane_memory_allocated_bytes", Gauge, &[]),
        ("corelane_memory_resident_bytes", Gauge, &[]),
        ("corelane_log_lines_dropped_total", Counter, &[]),
        ("process_resident_memory_bytes", Gauge, &[]),
        ("process_cpu_seconds_total", Counter, &[]),
        ("process_open_fds", Gauge, &[]),
        ("process_max_fds", Gauge, &[]),
        ("process_start_time_seconds", Gauge, &[]),
    ];

    #[test]
    fn the_table_holds_exactly_the_promised_families() {
        let table: Vec<_> = FAMILIES
            .iter()
            .map(|family| {
                let shard = (family.source != Process).then_some("shard");
                let own = family.label.map(|label| label.name);
                (family.name, family.kind, shard.into_iter().chain(own).collect::<Vec<_>>())
            })
            .collect();
        let promised: Vec<_> = PROMISED
            .iter()
            // The labels of the build are text that only the binary knows, so they are not in the table.
            .map(|(name, kind, labels)| (*name, *kind, if *name == PROMISED[0].0 { vec![] } else { labels.to_vec() }))
            .collect();
        assert_eq!(table, promised);
    }

    #[test]
    fn names_follow_the_rules_of_prometheus() {
        for family in FAMILIES {
            let base = family.name.strip_suffix("_total").unwrap_or(family.name);
            assert_eq!(family.name.ends_with("_total"), family.kind == Counter, "{}", family.name);
            assert!(family.unit.is_none_or(|unit| base.ends_with(&format!("_{unit}"))), "{}", family.name);
            assert!(family.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{}", family.name);
            for reserved in ["_count", "_sum", "_bucket", "_created"] {
                assert!(!family.name.ends_with(reserved), "{}", family.name);
            }
            assert!(family.help.ends_with('.') && !family.help.contains(['\n', '\\', '"']), "{}", family.name);
        }
    }

    #[test]
    fn cells_are_contiguous_and_each_belongs_to_one_family() {
        let mut next = 0;
        for family in FAMILIES.iter().filter(|family| family.source == Cells) {
            assert_eq!(family.first_cell, next, "{}", family.name);
            next += family.cell_count();
        }
        assert_eq!(next, FAMILY_CELLS);
    }
}
