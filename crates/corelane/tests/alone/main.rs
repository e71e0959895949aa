//! Tests that measure the server, or take all that the machine has: one at a time, and none of the others beside them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod allocations;
mod chaos;
mod memory;

use std::sync::{Mutex, MutexGuard, PoisonError};

const BINARY: &str = env!("CARGO_BIN_EXE_corelane");

/// Every test here holds this while it runs.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}
