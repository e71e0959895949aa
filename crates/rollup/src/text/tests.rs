use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

impl TextTable {
    /// Every live text and its users, once all views of the table agree on them.
    pub(crate) fn live(&self) -> HashMap<String, u32> {
        let mut live = HashMap::new();
        for number in (1u32..).take(2 * self.texts_max as usize).filter(|number| self.users[*number as usize] > 0) {
            let symbol = Symbol::new(number);
            let text = str::from_utf8(self.bytes(symbol)).unwrap().to_owned();
            assert_eq!(self.find(&text), Some(symbol));
            assert_eq!(live.insert(text, self.users[number as usize]), None, "a text is stored once");
        }
        let stored = self.short.slots.len() + self.long.slots.len();
        assert_eq!(stored - self.short.free.len() - self.long.free.len(), live.len(), "a slot is live or free");
        live
    }
}

/// Texts of both classes, at their edges too.
fn text() -> impl Strategy<Value = String> {
    (prop::sample::select(vec![0, 1, 2, SHORT_BYTES, SHORT_BYTES + 1, TEXT_BYTES_MAX]), "[a-c]")
        .prop_map(|(length, letter)| letter.repeat(length))
}

proptest! {
    #[test]
    fn a_text_lives_as_long_as_its_users(steps in prop::collection::vec((text(), any::<bool>(), 0usize..8), 0..200)) {
        const TEXTS_MAX: usize = 6;
        let mut table = TextTable::new(TEXTS_MAX);
        let mut held: Vec<(String, Symbol)> = Vec::new();
        for (text, acquire, at) in steps {
            let mut expected: HashMap<String, u32> = HashMap::new();
            held.iter().for_each(|(text, _)| *expected.entry(text.clone()).or_default() += 1);
            let fits = expected.contains_key(&text) || expected.len() < TEXTS_MAX;
            if acquire && fits {
                let symbol = match held.iter().find(|(other, _)| *other == text) {
                    Some((_, symbol)) if at % 2 == 0 => {
                        table.acquire_again(*symbol);
                        *symbol
                    }
                    _ => table.acquire(&text),
                };
                *expected.entry(text.clone()).or_default() += 1;
                held.push((text, symbol));
            } else if at < held.len() {
                let (text, symbol) = held.swap_remove(at);
                *expected.get_mut(&text).unwrap() -= 1;
                table.release(symbol);
            }
            expected.retain(|_, users| *users > 0);
            prop_assert_eq!(table.live(), expected);
            for (text, symbol) in &held {
                prop_assert_eq!(table.bytes(*symbol), text.as_bytes());
            }
        }
        held.into_iter().for_each(|(_, symbol)| table.release(symbol));
        prop_assert!(table.live().is_empty());
    }
}

#[test]
fn freed_slots_are_used_again_before_fresh_ones() {
    let mut table = TextTable::new(2);
    for n in 0..1_000 {
        for text in [format!("short {n}"), format!("long {n:>40}")] {
            let symbol = table.acquire(&text);
            table.release(symbol);
        }
    }
    assert_eq!((table.short.slots.len(), table.long.slots.len()), (1, 1));
}

#[test]
#[should_panic(expected = "more texts than the table was made for")]
fn the_bound_holds() {
    let mut table = TextTable::new(2);
    for text in ["a", "b", "c"] {
        table.acquire(text);
    }
}
