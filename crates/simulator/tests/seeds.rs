//! A few hundred runs, and the seeds that once found something. `scripts/simulate.sh` runs for longer.

use corelane_simulator::{Report, run};

/// Fails with the seed, the step and what was wrong.
fn runs(seed: u64) -> Report {
    run(seed).unwrap_or_else(|failure| panic!("{failure}; scripts/simulate.sh --seed {seed}"))
}

#[test]
fn seeds_hold() {
    let sum = (1..=250).map(runs).reduce(|sum, report| sum + report).unwrap();
    println!("{sum:?}");
    assert!(sum.connections > 5_000 && sum.complete > sum.connections / 4 && sum.frames > 40_000, "{sum:?}");
}

#[test]
fn a_seed_gives_the_same_run_each_time() {
    for seed in [1, 2, 3] {
        let [first, second] = [runs(seed), runs(seed)];
        assert_eq!((first.steps, first.frames, first.time), (second.steps, second.frames, second.time), "seed {seed}");
    }
}

/// Silent connections held the places of those that are read ahead of others for as long as they liked.
#[test]
fn seed_4204_connections_that_send_nothing_lose_their_place_to_others() {
    runs(4204);
}

/// A place was counted against the connection that had the same slot afterwards.
#[test]
fn seed_30_a_place_is_not_inherited_with_a_slot() {
    runs(30);
}
