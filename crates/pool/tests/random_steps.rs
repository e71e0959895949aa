//! The pool against a plain list of what is out, under random steps.

use corelane_pool::{BUFFER_BYTES, BufferPool, PooledBuffer, SmallBuffer};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Do {
    Acquire,
    AcquireSmall(usize),
    Release(usize),
}

enum Held {
    Whole(PooledBuffer),
    Small(SmallBuffer),
}

impl Held {
    fn bytes(&mut self) -> &mut [u8] {
        match self {
            Self::Whole(buffer) => buffer,
            Self::Small(buffer) => buffer,
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Do>> {
    let step = prop_oneof![
        2 => Just(Do::Acquire),
        3 => (1usize..=16_384).prop_map(Do::AcquireSmall),
        4 => (0usize..64).prop_map(Do::Release),
    ];
    prop::collection::vec(step, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_buffer_returns_to_its_pool(steps in steps()) {
        let pool = BufferPool::new(6).unwrap();
        let mut held: Vec<(u8, Held)> = Vec::new();
        for (mark, step) in steps.into_iter().enumerate() {
            let mark = mark as u8;
            let taken = match step {
                Do::Acquire => {
                    let free = pool.free();
                    let taken = pool.acquire().map(Held::Whole);
                    prop_assert_eq!(taken.is_some(), free > 0);
                    taken
                }
                Do::AcquireSmall(bytes) => {
                    let taken = pool.acquire_small(bytes, 0).map(Held::Small);
                    prop_assert!(taken.is_some() || pool.free() == 0);
                    taken
                }
                Do::Release(at) => {
                    if !held.is_empty() {
                        held.swap_remove(at % held.len());
                    }
                    None
                }
            };
            if let Some(mut taken) = taken {
                taken.bytes().fill(mark);
                held.push((mark, taken));
            }
            // Nobody else wrote to what is held: no two of them overlap.
            for (mark, held) in &mut held {
                let bytes = held.bytes();
                prop_assert_eq!((bytes[0], bytes[bytes.len() / 2], bytes[bytes.len() - 1]), (*mark, *mark, *mark));
            }
            let whole = held.iter().filter(|(_, held)| matches!(held, Held::Whole(_))).count();
            prop_assert!(pool.free() + whole <= pool.capacity());
        }
        drop(held);
        prop_assert_eq!(pool.free(), 6);
        prop_assert_eq!(pool.reserved_bytes(), 6 * BUFFER_BYTES);
        prop_assert_eq!(std::iter::from_fn(|| pool.acquire()).collect::<Vec<_>>().len(), 6);
    }
}
