//! Bytes that wait for their rest, in the smallest slot of the pool that holds them.
//!
//! So a peer that stops in the middle of a frame costs at most four times what it sent, and above 16 KiB at most twice.

use corelane_pool::{BufferPool, SmallBuffer};
use corelane_wire::SLACK_BYTES;

#[derive(Debug)]
pub(crate) struct Kept {
    slot: SmallBuffer,
    len: usize,
}

impl Kept {
    /// Copies `bytes`, at most [`SMALL_BYTES_MAX`](corelane_pool::SMALL_BYTES_MAX).
    pub(crate) fn new(bytes: &[u8], pool: &BufferPool) -> Self {
        let mut slot = acquire(bytes.len(), pool);
        slot[..bytes.len()].copy_from_slice(bytes);
        Self { slot, len: bytes.len() }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.slot[..self.len]
    }

    /// Adds `bytes`; moves to a larger slot if this one is too short.
    pub(crate) fn push(&mut self, bytes: &[u8], pool: &BufferPool) {
        let len = self.len + bytes.len();
        if len > self.slot.len() {
            let mut larger = acquire(len, pool);
            larger[..self.len].copy_from_slice(self.bytes());
            self.slot = larger;
        }
        self.slot[self.len..len].copy_from_slice(bytes);
        self.len = len;
    }

    /// The kept bytes with `rest` behind them, in one piece, and [`SLACK_BYTES`] that may be read behind that: in the slot if
    /// there is room, else in `scratch`.
    pub(crate) fn complete<'a>(&'a mut self, rest: &[u8], scratch: &'a mut [u8]) -> &'a [u8] {
        let (start, end) = (self.len, self.len + rest.len());
        let target = if self.slot.len() >= end + SLACK_BYTES {
            &mut self.slot[..]
        } else {
            scratch[..start].copy_from_slice(&self.slot[..start]);
            scratch
        };
        target[start..end].copy_from_slice(rest);
        &target[..end + SLACK_BYTES]
    }
}

fn acquire(bytes: usize, pool: &BufferPool) -> SmallBuffer {
    pool.acquire_small(bytes, 0).expect("buffers are lent only while as many are free to keep what comes in them")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_move_to_larger_slots_as_they_become_more() {
        let pool = BufferPool::new(5).unwrap();
        let bytes: Vec<u8> = (0..65_536u32).map(|byte| byte as u8).collect();
        let mut kept = Kept::new(&bytes[..10], &pool);
        let mut sizes = vec![kept.slot.len()];
        for start in (10..bytes.len()).step_by(999) {
            kept.push(&bytes[start..bytes.len().min(start + 999)], &pool);
            sizes.push(kept.slot.len());
        }
        sizes.dedup();
        assert_eq!(sizes, [1024, 4096, 16_384, 32_768, 65_536]);
        assert_eq!(kept.bytes(), bytes);
        assert_eq!(pool.cut(), 1, "slots that were too short are home");
    }

    #[test]
    fn the_whole_lies_in_the_slot_if_that_has_room_for_the_slack_and_else_in_the_scratch() {
        let pool = BufferPool::new(1).unwrap();
        for (rest, in_slot) in [(1024 - 10 - SLACK_BYTES, true), (1024 - 10 - SLACK_BYTES + 1, false)] {
            let mut scratch = vec![0; 2048];
            let mut kept = Kept::new(&[1; 10], &pool);
            let whole = kept.complete(&vec![2; rest], &mut scratch);
            assert_eq!(whole[..10 + rest], [vec![1; 10], vec![2; rest]].concat());
            assert_eq!(whole.len(), 10 + rest + SLACK_BYTES);
            assert_eq!(scratch[0] == 0, in_slot);
        }
    }
}
