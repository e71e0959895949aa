//! The ids and sensor names: each distinct text stored once, however many series use it, and freed with the last.
//!
//! Owns one slot a text, in one of two classes, so that the short names fleets use do not pay for the longest that the
//! schema allows. Slots of a class are alike, so nothing fragments. Never allocates after its construction.

use std::num::NonZeroU32;

use crate::{TEXT_BYTES_MAX, index::Index};

/// A stored text. Two are equal exactly when their texts are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Symbol(NonZeroU32);

impl Symbol {
    pub(crate) fn number(self) -> u32 {
        self.0.get()
    }

    fn new(number: u32) -> Symbol {
        Symbol(NonZeroU32::new(number).expect("symbols count from 1"))
    }
}

/// Texts by symbol and symbols by text.
pub(crate) struct TextTable {
    index: Index,
    /// Users by symbol. Invariant: 0 exactly for the symbols that no slot and no index entry stands for.
    users: Vec<u32>,
    /// Symbols `1 ..= texts_max`.
    short: Class<SHORT_BYTES>,
    /// Symbols `texts_max + 1 ..= 2 * texts_max`.
    long: Class<TEXT_BYTES_MAX>,
    texts_max: u32,
}

impl TextTable {
    /// Room for `texts_max` distinct texts, whatever their lengths.
    pub(crate) fn new(texts_max: usize) -> TextTable {
        TextTable {
            index: Index::new(texts_max),
            users: vec![0; symbols_max(texts_max)],
            short: Class::new(texts_max),
            long: Class::new(texts_max),
            texts_max: u32::try_from(texts_max).expect("symbols are 32 bits wide"),
        }
    }

    pub(crate) fn bytes_max(texts_max: usize) -> usize {
        let users = symbols_max(texts_max) * size_of::<u32>();
        let classes = Class::<SHORT_BYTES>::bytes_max(texts_max) + Class::<TEXT_BYTES_MAX>::bytes_max(texts_max);
        Index::bytes_max(texts_max) + users + classes
    }

    pub(crate) fn find(&self, text: &str) -> Option<Symbol> {
        self.find_hashed(self.index.hash_bytes(text.as_bytes()), text)
    }

    /// The symbol of `text`, with one more user. Panics past `texts_max` texts or `TEXT_BYTES_MAX` bytes.
    pub(crate) fn acquire(&mut self, text: &str) -> Symbol {
        let hash = self.index.hash_bytes(text.as_bytes());
        let symbol = self.find_hashed(hash, text).unwrap_or_else(|| {
            let symbol = Symbol::new(if text.len() <= SHORT_BYTES {
                1 + self.short.store(text.as_bytes())
            } else {
                1 + self.texts_max + self.long.store(text.as_bytes())
            });
            self.index.insert(hash, symbol.number());
            symbol
        });
        self.users[symbol.number() as usize] += 1;
        symbol
    }

    /// One more user of a text that has one.
    pub(crate) fn acquire_again(&mut self, symbol: Symbol) {
        debug_assert!(self.users[symbol.number() as usize] > 0, "the symbol stands for a text");
        self.users[symbol.number() as usize] += 1;
    }

    /// One user less; the last takes the text along.
    pub(crate) fn release(&mut self, symbol: Symbol) {
        let users = &mut self.users[symbol.number() as usize];
        *users = users.checked_sub(1).expect("every release follows its acquire");
        if *users > 0 {
            return;
        }
        self.index.remove(self.index.hash_bytes(self.bytes(symbol)), symbol.number());
        if symbol.number() <= self.texts_max {
            self.short.free.push(symbol.number() - 1);
        } else {
            self.long.free.push(symbol.number() - 1 - self.texts_max);
        }
    }

    /// The text; it came as a `str`, so it is UTF-8.
    pub(crate) fn bytes(&self, symbol: Symbol) -> &[u8] {
        if symbol.number() <= self.texts_max {
            self.short.bytes(symbol.number() - 1)
        } else {
            self.long.bytes(symbol.number() - 1 - self.texts_max)
        }
    }

    /// Whether `symbol` stands for `text`.
    pub(crate) fn is(&self, symbol: Symbol, text: &str) -> bool {
        self.bytes(symbol) == text.as_bytes()
    }

    fn find_hashed(&self, hash: u32, text: &str) -> Option<Symbol> {
        self.index.find(hash, |number| self.is(Symbol::new(number), text)).map(Symbol::new)
    }
}

/// Length of a table by symbol: numbers up to `texts_max` for each class, and the 0 that no symbol has.
pub(crate) const fn symbols_max(texts_max: usize) -> usize {
    2 * texts_max + 1
}

/// Slots for texts of at most `N` bytes.
struct Class<const N: usize> {
    /// Grows within its capacity: a slot is touched when it is first used.
    slots: Vec<Slot<N>>,
    /// Slots used before and free now.
    free: Vec<u32>,
}

struct Slot<const N: usize> {
    length: u16,
    bytes: [u8; N],
}

impl<const N: usize> Class<N> {
    fn new(slots_max: usize) -> Class<N> {
        Class { slots: Vec::with_capacity(slots_max), free: Vec::with_capacity(slots_max) }
    }

    fn bytes_max(slots_max: usize) -> usize {
        slots_max * (size_of::<Slot<N>>() + size_of::<u32>())
    }

    fn store(&mut self, text: &[u8]) -> u32 {
        let at = self.free.pop().unwrap_or_else(|| {
            assert!(self.slots.len() < self.slots.capacity(), "more texts than the table was made for");
            self.slots.push(Slot { length: 0, bytes: [0; N] });
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[at as usize];
        slot.bytes[..text.len()].copy_from_slice(text);
        slot.length = text.len() as u16;
        at
    }

    fn bytes(&self, at: u32) -> &[u8] {
        let slot = &self.slots[at as usize];
        &slot.bytes[..usize::from(slot.length)]
    }
}

/// Longest text of the short class: with its length it fills half a cache line.
const SHORT_BYTES: usize = 30;
const _: () = assert!(size_of::<Slot<SHORT_BYTES>>() == 32);
const _: () = assert!(TEXT_BYTES_MAX <= u16::MAX as usize, "a length fits its field");

#[cfg(test)]
mod tests;
