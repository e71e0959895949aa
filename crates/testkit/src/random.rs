//! Numbers that look random and can be had again.

use std::env;
use std::hash::{BuildHasher, RandomState};

/// SplitMix64.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// From the variable `CORELANE_TEST_SEED` if there is one, else from a new seed. Prints which, so that a failed run
    /// can be had again.
    ///
    /// # Panics
    /// When the variable holds no number.
    pub fn from_environment() -> Self {
        let seed = match env::var(SEED_VARIABLE) {
            Ok(text) => text.parse().unwrap_or_else(|_| panic!("{SEED_VARIABLE}={text}: a whole number is wanted")),
            Err(_) => RandomState::new().hash_one(0),
        };
        println!("{SEED_VARIABLE}={seed}");
        Self(seed)
    }

    /// From a seed, the same numbers each time.
    pub fn from_seed(seed: u64) -> Self {
        Self(seed)
    }

    /// Another source of numbers, for another thread.
    pub fn split(&mut self) -> Self {
        Self(self.next_number())
    }

    /// Any number.
    pub fn next_number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is not zero.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next_number() % end as u64) as usize
    }

    /// One of `items`.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

/// Names the seed of a run.
const SEED_VARIABLE: &str = "CORELANE_TEST_SEED";
