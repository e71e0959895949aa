//! The control plane: one thread that drains every shard's ring, adds up, and answers HTTP.
//!
//! Every answer is made from what the shards put into their rings and lanes; no data core ever serves a request, and
//! losing this thread does not stop ingest. It never sees a data-plane socket, buffer or frame, and keeps no history
//! but the last security events.
//!
//! In reading order: `plane` (drain, totals, health), `handle` (stop and readiness for other threads), `process` (what
//! the kernel knows of us), `encode` (Prometheus and OpenMetrics text), `stats`, `events`, `sensors` (rounds of
//! snapshots), `http` (router and connections), [`needs`] (what all that takes).

#![forbid(unsafe_code)]

mod encode;
mod events;
mod handle;
mod http;
pub mod needs;
mod plane;
mod process;
mod sensors;
mod stats;

pub use handle::ControlHandle;
pub use http::HttpLimits;
pub use plane::{ControlConfig, ControlPlane, MemoryUse, ShardPort};
