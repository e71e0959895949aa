//! Skeletons: what the last valid event of a source looked like, so that the next one need only be compared with it.
//!
//! Events of a source differ, mostly, in nothing but their timestamp and values. A skeleton is a valid payload and a mask
//! that is zero over the bytes of those numbers (not over their heads). The table is memory made at start: a cache of
//! sets by source, which never grows and forgets what does not pay.
//!
//! # Why a match gives the general answer
//!
//! The walk over a payload, here and in `decode`, is steered by heads and texts alone: the argument bytes of a timestamp
//! and of a value are read as a number and looked at no further, but for one question, whether the value is finite. A
//! skeleton was a payload on which the predicted walk succeeded, and its mask is zero over exactly those argument bytes.
//! A payload of the same length that equals it under the mask therefore takes the walk to the same places, with the same
//! texts, and ends in the same event but for the numbers, which are read anew from the same places. What is left to check
//! is that they are finite; if one is not, there is no match, and the general walk says what that means.
//!
//! A match reads no byte before the comparison and no byte outside the payload and its slack: the last block of the
//! comparison may reach `SLACK_BYTES - 1` bytes beyond the payload, where the mask is zero.
#![allow(unsafe_code, reason = "loads of whole vectors, within the padded payload and the slot; see the head comment")]

use std::hash::BuildHasher;
use std::ops::Range;

use foldhash::fast::RandomState;

use crate::padded::{Padded, SLACK_BYTES};
use crate::points::PointSpans;
use crate::predict::{self, Place, Sink};

/// Longest payload that is kept as a skeleton. With the mask and the points it makes a slot of one page.
const BYTES_MAX: usize = 2304;
/// Most points of a skeleton.
pub const SKELETON_POINTS_MAX: usize = 36;
/// Slots: sources whose events can match at the same time. 4 KiB each, resident once used. A fuzzer gets one set of them,
/// so that a few sources push each other out, and the same ones each time.
pub const SKELETONS: usize = if cfg!(fuzzing) { WAYS } else { 4096 };
/// Slots that a source may lie in.
const WAYS: usize = 4;
const SETS: usize = SKELETONS / WAYS;
/// Bytes compared at once.
const BLOCK: usize = 32;
const _: () = assert!(BYTES_MAX.is_multiple_of(BLOCK) && BLOCK <= SLACK_BYTES);
const _: () = assert!(size_of::<Slot>() <= 4096);

/// A place in the skeleton table, `0..SKELETONS`, for those who keep something about it.
pub type SkeletonSlot = u32;

/// What a connection remembers between its events: where the next one is looked for first.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hint(SkeletonSlot);

/// The skeletons of one shard. Reserves 16 MiB, resident as sources come.
pub struct SkeletonTable {
    /// Grows within its capacity; a slot once used is only ever replaced.
    slots: Vec<Slot>,
    /// Slot + 1 of each way of each set, 0 for none.
    sets: Vec<[SkeletonSlot; WAYS]>,
    hasher: RandomState,
    /// Replacements still to be passed over: it grows while sources that are learned do not come again.
    pause: u32,
    pause_next: u32,
}

/// One valid payload and what its walk found.
#[repr(align(64))]
struct Slot {
    bytes: [u8; BYTES_MAX],
    /// A bit for each byte, the lowest for the first: whether it has to be equal. Zero over the arguments of timestamp
    /// and values, and behind `len`.
    mask: [u32; BYTES_MAX / BLOCK],
    /// The values are those of the last match.
    points: [PointSpans; SKELETON_POINTS_MAX],
    places: [Place; SKELETON_POINTS_MAX],
    points_len: usize,
    len: usize,
    timestamp: Place,
    id: (usize, usize),
    metadata: Option<(usize, usize)>,
    /// Whether every value is a double, which is read without looking at its head again.
    doubles: bool,
    /// The slot that matched next on the same connection, last time.
    next: SkeletonSlot,
    /// Matches since it was learned, up to a limit; what it takes to be replaced.
    credit: u8,
    /// Events of this source that did not match, since one did; and how many more are not worth learning.
    misses: u8,
    patience: u8,
}

/// What a match tells: everything of the event but the points' texts, which are the slot's.
pub(crate) struct Match {
    pub(crate) slot: SkeletonSlot,
    pub(crate) timestamp: u64,
    pub(crate) id: (usize, usize),
    pub(crate) metadata: Option<(usize, usize)>,
}

impl SkeletonTable {
    /// What [`new`](Self::new) allocates, in bytes; a slot is touched when its source comes.
    pub const MEMORY_BYTES: usize = SKELETONS * size_of::<Slot>() + size_of::<[[SkeletonSlot; WAYS]; SETS]>();

    /// An empty table.
    #[allow(clippy::new_without_default, reason = "it reserves 16 MiB, which a default should not do unseen")]
    pub fn new() -> Self {
        Self {
            slots: Vec::with_capacity(SKELETONS),
            sets: vec![[0; WAYS]; SETS],
            hasher: RandomState::default(),
            pause: 0,
            pause_next: 0,
        }
    }

    /// The points of a slot, with the values of its last match.
    pub(crate) fn points(&self, slot: SkeletonSlot) -> &[PointSpans] {
        let slot = &self.slots[slot as usize];
        &slot.points[..slot.points_len]
    }

    /// Compares the payload with what is expected after `hint`, and with what its source last sent.
    #[inline]
    pub(crate) fn find(&mut self, payload: Padded<'_>, hint: &mut Hint) -> Option<Match> {
        let last = hint.0;
        let expected = self.slots.get(last as usize)?.next;
        let slot = if self.slots[expected as usize].equals(payload) {
            expected
        } else {
            let found = self.find_by_source(payload)?;
            self.slots[last as usize].next = found;
            found
        };
        hint.0 = slot;
        let known = &mut self.slots[slot as usize];
        if known.credit == 0 {
            self.pause_next /= 2;
        }
        known.take_numbers(payload, slot)
    }

    fn find_by_source(&self, payload: Padded<'_>) -> Option<SkeletonSlot> {
        let id = predict::leading_id(payload)?;
        let ways = self.sets[self.set_of(id)];
        ways.into_iter().filter_map(|slot| slot.checked_sub(1)).find(|&slot| self.slots[slot as usize].equals(payload))
    }

    /// Keeps a payload on which the predicted walk succeeded as its source's skeleton, if that is worth it.
    pub(crate) fn learn(
        &mut self,
        payload: Padded<'_>,
        id: &[u8],
        points: usize,
        hint: &mut Hint,
    ) -> Option<SkeletonSlot> {
        // Before a slot is looked for: what cannot be kept must not push out what can.
        if payload.payload().len() > BYTES_MAX || points > SKELETON_POINTS_MAX {
            return None;
        }
        let set = self.set_of(id);
        let slot = self.slot_for(set, id)?;
        if !self.slots[slot as usize].learn(payload) {
            return None;
        }
        if let Some(last) = self.slots.get_mut(hint.0 as usize) {
            last.next = slot;
        }
        hint.0 = slot;
        Some(slot)
    }

    /// The slot of a source, or one that it may have.
    fn slot_for(&mut self, set: usize, id: &[u8]) -> Option<SkeletonSlot> {
        let ways = self.sets[set];
        for slot in ways.into_iter().filter_map(|slot| slot.checked_sub(1)) {
            let known = &mut self.slots[slot as usize];
            if known.bytes.get(known.id.0..known.id.1) == Some(id) {
                return known.is_worth_learning().then_some(slot);
            }
        }
        if let Some(way) = ways.iter().position(|&slot| slot == 0) {
            let slot = self.slots.len() as SkeletonSlot;
            self.slots.push(Slot::EMPTY);
            self.slots[slot as usize].next = slot;
            self.sets[set][way] = slot + 1;
            return Some(slot);
        }
        if self.pause > 0 {
            self.pause -= 1;
            return None;
        }
        let oldest = ways.into_iter().map(|slot| slot - 1).min_by_key(|&slot| self.slots[slot as usize].credit)?;
        let victim = &mut self.slots[oldest as usize];
        if victim.credit > 0 {
            victim.credit -= 1;
            return None;
        }
        // More sources come than there are slots, and none twice before it is replaced: learning is in vain.
        self.pause_next = (2 * self.pause_next + 1).min(PAUSE_MAX);
        self.pause = self.pause_next;
        Some(oldest)
    }

    fn set_of(&self, id: &[u8]) -> usize {
        self.hasher.hash_one(id) as usize % SETS
    }
}

/// Most replacements that are passed over for one that is made.
const PAUSE_MAX: u32 = 63;

impl Slot {
    const EMPTY: Self = Self {
        bytes: [0; BYTES_MAX],
        mask: [0; BYTES_MAX / BLOCK],
        points: [PointSpans::NONE; SKELETON_POINTS_MAX],
        places: [Place::NONE; SKELETON_POINTS_MAX],
        points_len: 0,
        len: usize::MAX,
        timestamp: Place::NONE,
        id: (0, 0),
        metadata: None,
        doubles: false,
        next: 0,
        credit: 0,
        misses: 0,
        patience: 0,
    };

    /// Whether the payload is this one but for the numbers.
    #[inline]
    fn equals(&self, payload: Padded<'_>) -> bool {
        let bytes = payload.with_slack();
        if bytes.len() - SLACK_BYTES != self.len {
            return false;
        }
        let mask = &self.mask[..self.len.div_ceil(BLOCK)];
        // SAFETY: the blocks reach less than one beyond `len`, so into the slack behind the payload, and within `self.bytes`.
        unsafe { equal_under_mask(bytes.as_ptr(), self.bytes.as_ptr(), mask) }
    }

    /// Reads the numbers of a payload that equals this one; `None` when a value is not finite.
    #[inline]
    fn take_numbers(&mut self, payload: Padded<'_>, slot: SkeletonSlot) -> Option<Match> {
        let bytes = payload.with_slack();
        let mut finite = true;
        let places = self.points.iter_mut().zip(&self.places).take(self.points_len);
        if self.doubles {
            for (point, place) in places {
                // SAFETY: the place was found by a walk over a payload of this length.
                let value = f64::from_bits(unsafe { place.word(bytes) });
                finite &= value.is_finite();
                point.set_value(value);
            }
        } else {
            for (point, place) in places {
                // SAFETY: as above.
                let value = place.number(unsafe { place.read(bytes) });
                finite &= value.is_finite();
                point.set_value(value);
            }
        }
        if !finite {
            return None;
        }
        self.credit = self.credit.saturating_add(1).min(CREDIT_MAX);
        self.misses = 0;
        self.patience = 0;
        // SAFETY: as above.
        let timestamp = unsafe { self.timestamp.read(bytes) };
        Some(Match { slot, timestamp, id: self.id, metadata: self.metadata })
    }

    /// Takes over a payload on which the predicted walk succeeded; `false` when it has too many points.
    fn learn(&mut self, payload: Padded<'_>) -> bool {
        let bytes = payload.payload();
        self.bytes[..bytes.len()].copy_from_slice(bytes);
        self.mask.fill(u32::MAX);
        self.leave_out(bytes.len()..bytes.len().next_multiple_of(BLOCK));
        self.points_len = 0;
        self.doubles = true;
        self.credit = 0;
        // No length is that of the slot until it is whole.
        self.len = usize::MAX;
        let Some(fields) = predict::event(payload, self) else { return false };
        let (id, metadata) = fields.ranges();
        (self.id, self.metadata) = (id, metadata);
        self.len = bytes.len();
        true
    }

    /// Counts a miss; sources whose shape keeps changing are learned ever more seldom.
    fn is_worth_learning(&mut self) -> bool {
        if self.patience > 0 {
            self.patience -= 1;
            return false;
        }
        self.misses = (2 * self.misses + 1).min(MISSES_MAX);
        self.patience = self.misses - 1;
        true
    }

    /// Leaves bytes out of the comparison.
    fn leave_out(&mut self, range: Range<usize>) {
        for at in range {
            self.mask[at / BLOCK] &= !(1 << (at % BLOCK));
        }
    }
}

impl Sink for Slot {
    fn timestamp(&mut self, place: Place) {
        self.leave_out(place.range());
        self.timestamp = place;
    }

    fn point(&mut self, sensor: (usize, usize), value: f64, place: Place, tags: Option<(usize, usize)>) -> Option<()> {
        let at = self.points_len;
        *self.points.get_mut(at)? = PointSpans::in_place(sensor, value, tags);
        self.places[at] = place;
        self.points_len = at + 1;
        self.doubles &= place.is_double();
        self.leave_out(place.range());
        Some(())
    }
}

const CREDIT_MAX: u8 = 16;
const MISSES_MAX: u8 = 63;

/// Whether payload and bytes are equal where the mask has a bit; a block for each of its words.
///
/// # Safety
/// `mask.len() * BLOCK` bytes can be read from each pointer.
#[inline(always)]
unsafe fn equal_under_mask(payload: *const u8, bytes: *const u8, mask: &[u32]) -> bool {
    #[cfg(all(target_arch = "x86_64", not(corelane_portable)))]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the feature is there; the rest is the caller's promise.
        return unsafe { equal_under_mask_avx2(payload, bytes, mask) };
    }
    // SAFETY: the caller's promise.
    unsafe { equal_under_mask_portable(payload, bytes, mask) }
}

/// # Safety
/// As `equal_under_mask`, and the machine has AVX2.
#[cfg(all(target_arch = "x86_64", not(corelane_portable)))]
#[target_feature(enable = "avx2")]
unsafe fn equal_under_mask_avx2(payload: *const u8, bytes: *const u8, mask: &[u32]) -> bool {
    use std::arch::x86_64::{__m256i, _mm256_cmpeq_epi8, _mm256_loadu_si256, _mm256_movemask_epi8};
    let unequal = |at: usize| {
        // SAFETY: `at` is a place in the mask, and a block is one vector.
        let load = |start: *const u8| unsafe { _mm256_loadu_si256(start.add(at * BLOCK).cast::<__m256i>()) };
        !(_mm256_movemask_epi8(_mm256_cmpeq_epi8(load(payload), load(bytes))) as u32)
    };
    // Two at a time: as many as a general register holds. More, and the compiler takes them back to vectors.
    let (pairs, rest) = mask.as_chunks::<2>();
    let pair = |at: usize| u64::from(unequal(at)) | u64::from(unequal(at + 1)) << 32;
    pairs.iter().enumerate().all(|(at, &[low, high])| pair(2 * at) & (u64::from(low) | u64::from(high) << 32) == 0)
        && rest.iter().all(|mask| unequal(2 * pairs.len()) & mask == 0)
}

/// # Safety
/// As `equal_under_mask`.
unsafe fn equal_under_mask_portable(payload: *const u8, bytes: *const u8, mask: &[u32]) -> bool {
    mask.iter().enumerate().all(|(block, mask)| {
        let difference = mask.to_le_bytes().into_iter().enumerate().fold(0, |all, (at, mask)| {
            // SAFETY: the word lies within a block of the mask.
            let load = |start: *const u8| unsafe { start.add(block * BLOCK + 8 * at).cast::<[u8; 8]>().read() };
            let unequal = u64::from_le_bytes(load(payload)) ^ u64::from_le_bytes(load(bytes));
            // A bit of its own in each byte that the mask has a bit for.
            let wanted = (u64::from(mask) * EACH_BYTE) & 0x8040_2010_0804_0201;
            all | highest_bits(unequal) & highest_bits(wanted)
        });
        difference == 0
    })
}

/// The highest bit of each byte that is not zero.
fn highest_bits(word: u64) -> u64 {
    let low = 0x7f * EACH_BYTE;
    (((word & low) + low) | word) & !low
}

const EACH_BYTE: u64 = 0x0101_0101_0101_0101;
