//! The order in which series fell silent: a doubly linked list over slot numbers.
//!
//! Owns two links a slot and knows nothing of what the slots hold. Never allocates after its construction.

/// Slots 0, 1, 2, ... from the most recently touched to the one touched longest ago.
pub(crate) struct Recency {
    /// Invariant: following `older` from `newest` meets every slot once and ends at `oldest`; `newer` is its mirror.
    links: Vec<Link>,
    newest: u32,
    oldest: u32,
}

#[derive(Clone, Copy)]
struct Link {
    newer: u32,
    older: u32,
}

impl Recency {
    pub(crate) fn new(slots_max: usize) -> Recency {
        Recency { links: Vec::with_capacity(slots_max), newest: NONE, oldest: NONE }
    }

    pub(crate) fn bytes_max(slots_max: usize) -> usize {
        slots_max * size_of::<Link>()
    }

    /// Adds the next slot, as the newest.
    pub(crate) fn push(&mut self) {
        debug_assert!(self.links.len() < self.links.capacity(), "the list is allocated at its bound");
        let slot = self.links.len() as u32;
        self.links.push(Link { newer: NONE, older: NONE });
        self.link_newest(slot);
    }

    /// Makes `slot` the newest.
    pub(crate) fn touch(&mut self, slot: u32) {
        if slot == self.newest {
            return;
        }
        // Not the newest, so there is a newer one.
        let Link { newer, older } = self.links[slot as usize];
        self.links[newer as usize].older = older;
        match self.links.get_mut(older as usize) {
            Some(link) => link.newer = newer,
            None => self.oldest = newer,
        }
        self.link_newest(slot);
    }

    /// The slot touched longest ago.
    pub(crate) fn oldest(&self) -> Option<u32> {
        (self.oldest != NONE).then_some(self.oldest)
    }

    fn link_newest(&mut self, slot: u32) {
        self.links[slot as usize] = Link { newer: NONE, older: self.newest };
        match self.links.get_mut(self.newest as usize) {
            Some(link) => link.newer = slot,
            None => self.oldest = slot,
        }
        self.newest = slot;
    }
}

/// Past every slot number, so `get` returns `None` for it.
const NONE: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn order_is_that_of_the_last_touches(steps in prop::collection::vec(prop::option::of(0usize..8), 0..200)) {
            let mut recency = Recency::new(200);
            let mut model: Vec<u32> = Vec::new(); // oldest first
            for step in steps {
                match step.filter(|slot| *slot < model.len()) {
                    Some(slot) => {
                        model.retain(|other| *other != slot as u32);
                        model.push(slot as u32);
                        recency.touch(slot as u32);
                    }
                    None => {
                        model.push(model.len() as u32);
                        recency.push();
                    }
                }
                let link = |slot: u32| recency.links.get(slot as usize).copied();
                let older = |slot: &u32| link(*slot).map(|link| link.older).filter(|slot| *slot != NONE);
                let newer = |slot: &u32| link(*slot).map(|link| link.newer).filter(|slot| *slot != NONE);
                let upwards: Vec<u32> = std::iter::successors(recency.oldest(), newer).collect();
                let mut downwards: Vec<u32> = std::iter::successors(Some(recency.newest), older).collect();
                downwards.reverse();
                prop_assert_eq!(&upwards, &model);
                prop_assert_eq!(&downwards, &model);
            }
        }
    }
}
