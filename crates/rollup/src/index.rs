//! From a hash to a number: open addressing with linear probing, of a size fixed at construction.
//!
//! A removal shifts what follows back instead of leaving a tombstone. So churn neither fills the table nor makes it
//! rehash: there is no pause and no allocation after construction, which is why this is not a general hash map.
//! Ends when the owner drops it. Peers choose the keys, so the hash is keyed by the operating system's randomness.

use std::hash::{BuildHasher, Hasher};

use foldhash::{SharedSeed, quality::FoldHasher};

/// Numbers (never 0) by the hash of a key that the caller keeps.
pub(crate) struct Index {
    /// The hash in the upper half, the number in the lower; 0 is empty. A slot's home is its hash modulo the length, a
    /// power of two. Invariant: no empty slot lies between a slot's home and the slot.
    slots: Vec<u64>,
    key: u64,
    seed: SharedSeed,
}

impl Index {
    pub(crate) fn new(numbers_max: usize) -> Index {
        let random = || std::hash::RandomState::new().hash_one(numbers_max);
        Index { slots: vec![EMPTY; slot_count(numbers_max)], key: random(), seed: SharedSeed::from_u64(random()) }
    }

    pub(crate) fn bytes_max(numbers_max: usize) -> usize {
        slot_count(numbers_max) * size_of::<u64>()
    }

    pub(crate) fn hash_bytes(&self, bytes: &[u8]) -> u32 {
        let mut hasher = FoldHasher::with_seed(self.key, &self.seed);
        hasher.write(bytes);
        hasher.finish() as u32
    }

    pub(crate) fn hash_pair(&self, first: u32, second: u32) -> u32 {
        let mut hasher = FoldHasher::with_seed(self.key, &self.seed);
        hasher.write_u64(u64::from(first) << 32 | u64::from(second));
        hasher.finish() as u32
    }

    /// The number under `hash` for which `is_it` holds; it is asked about numbers of equal hash only.
    pub(crate) fn find(&self, hash: u32, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let mut at = self.home(hash);
        loop {
            let slot = self.slots[at];
            if slot == EMPTY {
                return None;
            }
            if hash_of(slot) == hash && is_it(slot as u32) {
                return Some(slot as u32);
            }
            at = self.after(at);
        }
    }

    /// Adds `number`, which is not 0 and not in the index under `hash`.
    pub(crate) fn insert(&mut self, hash: u32, number: u32) {
        debug_assert!(number != 0, "0 marks an empty slot");
        let mut at = self.home(hash);
        while self.slots[at] != EMPTY {
            at = self.after(at);
        }
        self.slots[at] = u64::from(hash) << 32 | u64::from(number);
    }

    /// Takes `number` out, which was inserted under `hash`.
    pub(crate) fn remove(&mut self, hash: u32, number: u32) {
        let wanted = u64::from(hash) << 32 | u64::from(number);
        let mut hole = self.home(hash);
        while self.slots[hole] != wanted {
            assert!(self.slots[hole] != EMPTY, "only what was inserted is removed");
            hole = self.after(hole);
        }
        let mut at = self.after(hole);
        while self.slots[at] != EMPTY {
            // A slot moves into the hole unless its home lies behind the hole, where a search would start too late.
            if self.distance(self.home(hash_of(self.slots[at])), at) >= self.distance(hole, at) {
                self.slots[hole] = self.slots[at];
                hole = at;
            }
            at = self.after(at);
        }
        self.slots[hole] = EMPTY;
    }

    fn home(&self, hash: u32) -> usize {
        hash as usize & (self.slots.len() - 1)
    }

    fn after(&self, at: usize) -> usize {
        (at + 1) & (self.slots.len() - 1)
    }

    fn distance(&self, from: usize, to: usize) -> usize {
        to.wrapping_sub(from) & (self.slots.len() - 1)
    }
}

fn hash_of(slot: u64) -> u32 {
    (slot >> 32) as u32
}

/// At most two thirds full, so a probe is short and always ends. Zeroed memory: untouched, it is not resident.
fn slot_count(numbers_max: usize) -> usize {
    (numbers_max + numbers_max / 2 + 1).next_power_of_two()
}

const EMPTY: u64 = 0;

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    const NUMBERS_MAX: usize = 20;

    proptest! {
        /// Hashes from a small range and from both ends, so that runs collide, merge and wrap around the end.
        #[test]
        fn removal_loses_no_other_number(steps in prop::collection::vec((1u32..=NUMBERS_MAX as u32, 0u32..12), 0..400)) {
            let mut index = Index::new(NUMBERS_MAX);
            let mut model = HashMap::new();
            for (number, hash) in steps {
                let hash = hash.wrapping_sub(6);
                match model.remove(&number) {
                    Some(hash) => index.remove(hash, number),
                    None => {
                        model.insert(number, hash);
                        index.insert(hash, number);
                    }
                }
                for number in 1..=NUMBERS_MAX as u32 {
                    for hash in (0..12u32).map(|hash| hash.wrapping_sub(6)) {
                        let expected = (model.get(&number) == Some(&hash)).then_some(number);
                        prop_assert_eq!(index.find(hash, |found| found == number), expected);
                    }
                }
            }
        }
    }

    #[test]
    fn two_indexes_hash_differently() {
        let (one, other) = (Index::new(1), Index::new(1));
        let differ = (0..8u32).any(|n| one.hash_bytes(&n.to_le_bytes()) != other.hash_bytes(&n.to_le_bytes()));
        assert!(differ && (0..8).any(|n| one.hash_pair(n, n) != other.hash_pair(n, n)), "keys are fixed");
    }
}
