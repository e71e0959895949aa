//! The list of metrics, the samples that cross a ring, and the sums that the control plane keeps.
//!
//! A metric family is listed once, in [`table::FAMILIES`]. What a shard counts of it is laid out as *cells*: numbers
//! with fixed ids, so that counting is one addition into an array and a sample is three words. This crate never takes a
//! lock, never allocates after start, never renders text for a scrape, and knows no ring: words go in, words come out.
//!
//! In reading order: `reason` (label values), `table` (families and their cells), `cell` (the names of the cells),
//! `histogram` (buckets), `sample` (what crosses a ring), `shard` (the writer's numbers), `totals` (the reader's),
//! `security` (events too rare and too wide for a sample).

#![forbid(unsafe_code)]

pub mod cell;
mod histogram;
mod reason;
mod sample;
mod security;
mod shard;
pub mod table;
mod totals;

pub use cell::{CELLS, Cell};
pub use histogram::{BUCKET_COUNT, Histogram, HistogramTotals, bucket_bound_seconds, bucket_index};
pub use reason::{CloseReason, SecurityKind, ShardState};
pub use sample::{SAMPLE_WORDS, Sample, SampleValue};
pub use security::{SecurityDetail, SecurityEvent};
pub use shard::{RING_SLOTS_MIN, ShardMetrics};
pub use table::{FAMILIES, Family, Kind, Source};
pub use totals::Totals;
