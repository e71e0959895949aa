//! What the benchmarks share: events, baselines, servers to compare with, senders, and the table that comes out.
//!
//! Never part of the product and never quoted without the baseline of the same run. Nothing here is measured that the
//! server does not run: contenders for a baseline are written as somebody who knows their library would write them.
//!
//! In reading order:
//!
//! - [`events`]: the events that are decoded and sent, from a fixed seed.
//! - [`baseline`]: other decoders of the same schema: `minicbor`, `cbor4ii`, `ciborium`.
//! - [`host`]: cores, clocks, memory.
//! - [`servers`]: what `stream_throughput` compares, each in a process of its own.
//! - [`senders`]: what fills their sockets.
//! - [`results`]: the numbers of a run, and the table with what is required of them.

pub mod baseline;
pub mod events;
pub mod host;
pub mod results;
pub mod senders;
pub mod servers;
