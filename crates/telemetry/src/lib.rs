//! TelemetryRing: one writer that never waits, one reader, fixed slots, the oldest sample is overwritten.
//!
//! Carries samples from a shard to the control plane. Never blocks, never retries a write, never lets the writer look at
//! what the reader does, never allocates after [`telemetry_ring`], and knows nothing of what the words mean.
//!
//! Modules, in reading order:
//! - `ring`: [`Recorder`], [`Drain`], the slots between them, and why that is sound.
//! - `sync`: the atomics, from `std` or, under `--cfg loom`, from the model checker.
//!
//! Deliberately absent: a capacity check for the writer, a wake-up for the reader, `Clone` of either end.
#![forbid(unsafe_code)]

mod ring;
mod sync;

pub use ring::{Drain, Recorder, ring_bytes, telemetry_ring};
