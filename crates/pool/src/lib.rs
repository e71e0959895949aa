//! One core's receive buffers: allocated once, handed out warmest first, home again on drop.
//!
//! Owns one anonymous mapping and nothing else. Never grows, never locks, never waits: an empty pool returns `None`,
//! and the one who asked decides what waiting means. Nothing of it can leave its thread.
//!
//! Reading order: [`pool`](BufferPool) for whole buffers, `small` for the slots that one buffer is cut into when only
//! a few bytes must be kept, `region` for the memory itself and the crate's only unsafe code.

mod pool;
mod region;
mod small;

pub use pool::{BUFFER_BYTES, BUFFERS_MAX, BufferPool, PooledBuffer};
pub use small::{SMALL_BYTES_MAX, SmallBuffer};
