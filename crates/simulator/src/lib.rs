//! Whole shards on a simulated kernel: sockets, completions and the clock come from one seed.
//!
//! Tests only. A run starts one to three shards and lets devices connect, send, stall, reset, half-close, trickle and come
//! back, over plain TCP or TLS, while the kernel cuts the stream where it likes, completes operations in any order that
//! io_uring allows, runs out of buffers and descriptors, and lets time pass. After every step it is checked that
//!
//! - each buffer of a pool is free, lent, waiting to be served, or cut into slots;
//! - each answer is the one that a plain model of the protocol gives, in order;
//! - no honest device is closed, or waits while bytes of it can be read.
//!
//! At the end every honest device has all of its frames committed, the series are those of a naive model, the frames that
//! were sent are those that were accepted and rejected, and stopped shards hold no socket and no buffer.
//!
//! A seed that fails is printed; it fails at the same step again.
//!
//! Reading order: `simulation` (one run), `device` (what connects), `network` (sockets), `kernel` (operations), `model`.

mod device;
mod kernel;
mod model;
mod network;
mod simulation;
mod tls;

pub use simulation::{Failure, Report, run};
