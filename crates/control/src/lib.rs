//! The control plane: one thread that reads every shard's ring, adds up, and answers HTTP.
//!
//! Every answer is made from what the shards put into their rings and lanes; no data core ever serves a request, and
//! losing this thread does not stop ingest. It never sees a data-plane socket, buffer or frame, and keeps no history
//! but the last security events.
//!
//! In reading order: `plane` (collection, totals, health), `handle` (stop, reload and readiness for other threads), `process`
//! (what the kernel knows of us), `encode` (Prometheus and OpenMetrics text), `stats`, `events`, `budget` (memory of
//! answers under way), `sensors` (rounds of pages), `answers` (when it collects, and what is told of it), `protection`,
//! `hosts` and `wrong_tokens` (who may ask), `dashboard` (the page), `http` (paths), `connections` (places, and which
//! connection has to leave), `connection` (one of them), `server` (all of it running), [`needs`] (what all that takes).

#![forbid(unsafe_code)]

mod answers;
mod budget;
mod connection;
mod connections;
mod dashboard;
mod encode;
mod events;
mod handle;
mod hosts;
mod http;
pub mod needs;
mod plane;
mod process;
mod protection;
mod sensors;
mod server;
mod stats;
mod wrong_tokens;

pub use connections::HttpLimits;
pub use handle::{Configured, ControlHandle};
pub use plane::{ControlConfig, ControlPlane, MemoryUse, ShardPort};
pub use protection::{Protection, TokenSource};
