//! The seeds of the fuzz targets, put through what the targets do.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::targets;

/// Gives every seed of one target to `target`.
fn replay(name: &str, target: fn(&[u8])) {
    let folder = format!("{}/fuzz/corpus/{name}", env!("CARGO_MANIFEST_DIR"));
    let seeds: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(seeds.len() > 10, "{folder} has seeds");
    for seed in seeds {
        // Said only when the test fails: which seed it was.
        println!("{}", seed.display());
        target(&std::fs::read(&seed).unwrap());
    }
}

#[test]
fn every_seed_of_framing_passes() {
    replay("framing", targets::framing);
}

#[test]
fn every_seed_of_the_judge_passes() {
    replay("judge", targets::judge);
}

#[test]
fn every_seed_of_sequences_passes() {
    replay("sequences", targets::sequences);
}
