//! Live series per sensor: a bounded table of one shard, and the pages that it is copied into.
//!
//! Never allocates after its construction, never locks, never reads a clock, and keeps no text that no live series uses.
//! What a peer sends decides which series are live, never how much memory they take.
//!
//! In reading order:
//!
//! - [`Rollup`] (`series`): count, last, min, max and sum by (id, sensor), and which series makes room for a new one.
//! - `text`: the ids and sensor names, each distinct one stored once, counted by its users.
//! - `index`: from a hash to a number; the table under both of the above.
//! - `recency`: the order in which series fell silent.
//! - [`SeriesPage`] (`page`): a copy of one fixed range of the table, in memory of whoever asks.
#![forbid(unsafe_code)]

mod index;
mod page;
mod recency;
mod series;
mod text;

pub use page::{PAGE_BYTES_MAX, PAGE_SLOTS, SeriesPage, SeriesView};
pub use series::{Rollup, SERIES_MAX_LIMIT};

/// Longest id or sensor in bytes, as the schema has it. A series costs up to twice as much text.
pub const TEXT_BYTES_MAX: usize = 256;
