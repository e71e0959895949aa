//! The data plane on one core: sockets in, counted events out.
//!
//! Owns a listener, a receive ring, a buffer pool and every number it counts; shares none of them. Never takes a lock,
//! never waits for whoever observes it, never serves a request of the control plane but by filling a page it was handed.
//! The only crate that knows glommio and io_uring.
//!
//! Reading order:
//! - [`limits`]: every bound, what it costs and what moves with it; [`needs`]: what they come to;
//! - `connection`: the life of a frame, without I/O; `partial_frame` keeps the start of a frame that was cut, in the memory
//!   of `kept`; `pipeline` decides and counts a whole one; `output`: answers that the socket did not take;
//! - `tls` and `partial_record`: what comes before, where connections are encrypted; `handshakes`: how many of these
//!   begin at once;
//! - `shard`: one turn of the loop, from completions to the buffers' way home; `peer` is a connection with its socket;
//!   `supply`: who receives into which memory; `eviction`: who has to go when it is short; `coalescing`: what one turn makes of
//!   the next;
//! - `close`, `sweep`, `drain`: how connections end: one by one, by a clock, all at once;
//! - [`kernel`]: what a shard asks of the world outside; `receive_ring`, `buffer_ring`, `sockets`, `window`: the real one, on
//!   io_uring; `inbox`: what it has filled;
//! - `run`, `parker`: the glommio executor around the loop, and its sleep;
//! - `listener`, `link`, `hand_over`, `clock`: sockets made at start, what crosses threads, time.

mod address_table;
mod admission;
mod buffer_ring;
mod clock;
mod close;
mod coalescing;
mod connection;
mod drain;
mod eviction;
mod hand_over;
mod handshakes;
mod inbox;
mod kept;
pub mod kernel;
pub mod limits;
mod link;
mod listener;
pub mod needs;
mod output;
mod parker;
mod partial_frame;
mod partial_record;
mod peer;
mod pipeline;
mod rate;
mod receive_ring;
mod run;
mod security;
mod shard;
mod shards;
mod sockets;
mod supply;
mod sweep;
mod tls;
mod window;

pub use address_table::ACCEPT_RATE_MAX;
pub use admission::AccessRules;
pub use limits::{Limits, TlsLimits};
pub use link::ShardLink;
pub use listener::{adopt_listeners, bind_listeners};
pub use pipeline::Pipeline;
pub use receive_ring::probe;
pub use run::{Allocations, ShardConfig, ShardThread, probe_cores, spawn};
pub use shard::Shard;
pub use shards::Shards;
pub use tls::TlsConfig;
