//! Skeletons, the predicted way and the general one agree on sequences of events.
#![no_main]

#[path = "../../tests/common/mod.rs"]
mod common;

libfuzzer_sys::fuzz_target!(|data: &[u8]| common::targets::sequences(data));
