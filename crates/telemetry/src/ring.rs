//! Both ends of the ring and the slots between them.
//!
//! Samples are numbered by *position*, from 0, in the order in which they are recorded; position `p` lives in slot
//! `p % capacity`. A slot is a seqlock: an `owner` beside the words of the sample, all of them atomics, so a reader that
//! meets the writer in a slot gets a torn copy it throws away, but no data race.
//!
//! # Why it is sound
//!
//! | writer, position `p` | reader, position `p` |
//! | --- | --- |
//! | W1 `owner = p + 1` (Relaxed) | R1 `written` (Acquire), once a read: `p < written` |
//! | W2 `fence(Release)` | R2 words (Relaxed) |
//! | W3 words (Relaxed) | R3 `fence(Acquire)` |
//! | W4 `written = p + 1` (Release) | R4 `owner` (Relaxed): deliver if it is `p + 1` |
//!
//! A delivered copy holds the words of `p`, all of them, and no others:
//!
//! 1. *Nothing older.* R1 read `p + 1` or more, so it synchronizes with W4 of `p` or of a later position, and W1 and W3
//!    of `p` happen before R2 and R4. By coherence R2 reads every word as `p` wrote it or as a later position did,
//!    and R4 reads `p + 1` or more.
//! 2. *Nothing newer.* Suppose R2 read a word that a later position `q` wrote in W3. W2 of `q` is sequenced before that
//!    store, and R3 after that load, so the two fences synchronize: W1 of `q` happens before R4, which by
//!    coherence reads `q + 1` or more, and the copy is not delivered.
//!
//! So R4 either confirms the copy or names the position that took the slot; a second read could only name a later one,
//! and the reader never tries again. There is no separate "written" mark in the slot: W4 is that mark for every slot.
//!
//! The writer only stores, a fixed number of times, and reads nothing but its own fields: it is wait-free. On x86-64
//! relaxed and release stores are plain moves and both fences only restrain the compiler.
//!
//! Positions are `u64` and never wrap: at a billion samples a second they last 584 years.

use crate::sync::{Arc, AtomicU64, Ordering, fence};

/// Makes a ring of `capacity` slots, rounded up to a power of two (0 becomes 1), for samples of `WORDS` words each.
///
/// All memory is allocated here: `8 * (WORDS + 1)` bytes a slot, and one padded line for the position.
///
/// # Panics
///
/// When the rounded capacity does not fit a `usize`, or its slots do not fit the address space.
pub fn telemetry_ring<const WORDS: usize>(capacity: usize) -> (Recorder<WORDS>, Reader<WORDS>) {
    let capacity = capacity.checked_next_power_of_two().expect("a ring's capacity, rounded up, fits a usize");
    let slots = (0..capacity).map(|_| Slot::new()).collect();
    let shared = Arc::new(Shared { written: OwnLine(AtomicU64::new(0)), slots });
    (Recorder { shared: Arc::clone(&shared), written: 0 }, Reader { shared, next: 0, delivered: 0 })
}

/// What [`telemetry_ring`] allocates for `capacity` slots, in bytes, all of it written when the ring is made.
///
/// # Panics
///
/// As [`telemetry_ring`].
pub const fn ring_bytes<const WORDS: usize>(capacity: usize) -> usize {
    let capacity = capacity.checked_next_power_of_two().expect("a ring's capacity, rounded up, fits a usize");
    size_of::<Shared<WORDS>>() + capacity * size_of::<Slot<WORDS>>()
}

/// The writing end, held by one shard.
///
/// There is one for each ring, and recording takes it by `&mut`. That is what makes the stores of [`record`] the only
/// ones, which the soundness argument needs; the compiler holds callers to it. A second recorder cannot be made:
///
/// ```compile_fail,E0599
/// let (recorder, _reader) = corelane_telemetry::telemetry_ring::<2>(8);
/// let second = recorder.clone();
/// ```
///
/// two threads cannot both record with one:
///
/// ```compile_fail,E0499
/// let (mut recorder, _reader) = corelane_telemetry::telemetry_ring::<2>(8);
/// std::thread::scope(|scope| {
///     scope.spawn(|| recorder.record([0, 1]));
///     scope.spawn(|| recorder.record([2, 3]));
/// });
/// ```
///
/// and a shared reference, which threads may pass around, does not record:
///
/// ```compile_fail,E0596
/// let (recorder, _reader) = corelane_telemetry::telemetry_ring::<2>(8);
/// let shared = &recorder;
/// std::thread::scope(|scope| {
///     scope.spawn(move || shared.record([0, 1]));
/// });
/// ```
///
/// Moving it to the thread that records is the way:
///
/// ```
/// let (mut recorder, mut reader) = corelane_telemetry::telemetry_ring::<2>(8);
/// std::thread::spawn(move || recorder.record([7, 11])).join().unwrap();
/// assert_eq!(reader.read(|words| assert_eq!(words, [7, 11])), 1);
/// ```
///
/// [`record`]: Recorder::record
#[derive(Debug)]
pub struct Recorder<const WORDS: usize> {
    shared: Arc<Shared<WORDS>>,
    /// Invariant: equals `shared.written`, which only this end stores; kept here so that the writer reads no shared line.
    written: u64,
}

impl<const WORDS: usize> Recorder<WORDS> {
    /// Records one sample over the oldest one: `WORDS + 2` stores and no load of anything the reader touches.
    ///
    /// The order of the stores is the soundness argument's W1 to W4 (see the module): the slot is claimed before its words
    /// change (Release fence), and the position is published after they did (Release store).
    #[inline]
    pub fn record(&mut self, words: [u64; WORDS]) {
        let position = self.written;
        let slot = self.shared.slot(position);
        slot.owner.store(position + 1, Ordering::Relaxed);
        // W2. Whoever sees one of the words below, and fences, also sees the claim above.
        fence(Ordering::Release);
        for (cell, word) in slot.words.iter().zip(words) {
            cell.store(word, Ordering::Relaxed);
        }
        // W4. Whoever sees this position also sees the words of every position up to it.
        self.shared.written.0.store(position + 1, Ordering::Release);
        self.written = position + 1;
    }

    /// Samples recorded since the ring was made.
    pub fn written(&self) -> u64 {
        self.written
    }
}

/// The reading end, held by the control plane.
///
/// Like the [`Recorder`] it is one of a kind:
///
/// ```compile_fail,E0599
/// let (_recorder, reader) = corelane_telemetry::telemetry_ring::<2>(8);
/// let second = reader.clone();
/// ```
#[derive(Debug)]
pub struct Reader<const WORDS: usize> {
    shared: Arc<Shared<WORDS>>,
    /// Invariant: every position below was either delivered, once, or lost, once.
    next: u64,
    /// Invariant: `delivered <= next`.
    delivered: u64,
}

impl<const WORDS: usize> Reader<WORDS> {
    /// Hands to `each`, in the order of recording, every sample that was written before this call and is not yet overwritten
    /// or being overwritten when its turn comes; returns how many those were.
    ///
    /// Takes at most `capacity` steps, whatever the writer does meanwhile: each step delivers a sample or counts the ones
    /// it missed, and what is recorded after the call began waits for the next one. Afterwards [`delivered`] and
    /// [`lost`] add up to the samples that were written when the call began. A sample whose `each` panics counts as
    /// delivered, and the rest can still be read. The slower `each`, the more can be overwritten under it.
    ///
    /// [`delivered`]: Reader::delivered
    /// [`lost`]: Reader::lost
    pub fn read(&mut self, mut each: impl FnMut([u64; WORDS])) -> usize {
        let capacity = self.shared.slots.len() as u64;
        // R1. Acquire: the words and the owner of every position below `end` are visible from here on.
        let end = self.shared.written.0.load(Ordering::Acquire);
        // What is more than a lap old is gone for certain: no need to look, and at most `capacity` steps remain.
        self.next = self.next.max(end.saturating_sub(capacity));
        let mut count = 0;
        while self.next < end {
            let (owner, words) = self.shared.slot(self.next).read();
            if owner == self.next + 1 {
                // Counted before the call, so that the sums hold when `each` panics.
                self.next += 1;
                self.delivered += 1;
                count += 1;
                each(words);
            } else {
                assert!(owner > self.next, "the slot of a published position belongs to it or to a later one");
                // Position `owner - 1` has taken this slot, so all that is older than one lap before it is gone, too. The
                // slots meet one lap apart: this moves ahead by one position at least.
                self.next = (owner - capacity).min(end);
            }
        }
        count
    }

    /// Samples delivered since the ring was made.
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Samples that were overwritten before they could be delivered, as known after the last read.
    pub fn lost(&self) -> u64 {
        self.next - self.delivered
    }
}

#[derive(Debug)]
struct Shared<const WORDS: usize> {
    /// Positions published so far. Stored by the writer for every sample, loaded by the reader once a read.
    written: OwnLine<AtomicU64>,
    /// Invariant: the length is a power of two, and never changes. Slots are not padded: the two ends meet in a line only
    /// when the reader is almost a lap behind or has caught up.
    slots: Box<[Slot<WORDS>]>,
}

impl<const WORDS: usize> Shared<WORDS> {
    #[inline]
    fn slot(&self, position: u64) -> &Slot<WORDS> {
        // Truncating is right: the length is a power of two that fits a `usize`.
        &self.slots[position as usize & (self.slots.len() - 1)]
    }
}

#[derive(Debug)]
struct Slot<const WORDS: usize> {
    /// 1 + the position whose words are here or are being stored here; 0 before the first. Only ever grows.
    owner: AtomicU64,
    words: [AtomicU64; WORDS],
}

impl<const WORDS: usize> Slot<WORDS> {
    fn new() -> Self {
        Self { owner: AtomicU64::new(0), words: std::array::from_fn(|_| AtomicU64::new(0)) }
    }

    /// Copies the words, then loads the owner: the copy is whole, and the owner's, if the owner is the position that the
    /// caller knows to be published. Otherwise it may be torn.
    #[inline]
    fn read(&self) -> (u64, [u64; WORDS]) {
        let words = std::array::from_fn(|index| self.words[index].load(Ordering::Relaxed));
        // R3. A word that a later position stored brings that position's claim with it, and the load below sees it.
        fence(Ordering::Acquire);
        (self.owner.load(Ordering::Relaxed), words)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_ring_takes_the_bytes_that_are_told() {
        let (recorder, _reader) = telemetry_ring::<3>(100);
        let slots = size_of_val(&*recorder.shared.slots);
        assert_eq!(slots, 128 * 32);
        assert_eq!(slots + size_of_val(&*recorder.shared), ring_bytes::<3>(100));
    }
}

/// Keeps what is inside off its neighbours' cache line: without it the writer's stores would evict the slice pointer that
/// both ends load. 128 bytes, since x86 prefetches lines in pairs and some Arm cores have lines of that size.
#[derive(Debug)]
#[repr(align(128))]
struct OwnLine<T>(T);
