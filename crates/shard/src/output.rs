//! Answers that the socket of one connection did not take.
//!
//! They wait in a slot of the pool, as small as can be, for a bounded time: the peer has to take all that is unread at one
//! moment within the frame timeout. Reading a few bytes now and then does not prolong that.

use std::ops::Range;

use corelane_pool::SmallBuffer;

use crate::clock::Instant;
use crate::limits::UNREAD_ANSWER_BYTES_MAX;

#[derive(Debug)]
pub(crate) struct Output {
    slot: SmallBuffer,
    unsent: Range<usize>,
    /// When the clock of the bytes in front of `due` began.
    since: Instant,
    due: usize,
}

impl Output {
    /// Adds what the socket did not take to an output, if there is one already; `false` if the peer leaves too much unread, or
    /// `acquire` has no slot of the bytes it is asked for.
    pub(crate) fn keep(
        output: &mut Option<Self>,
        more: &[u8],
        now: Instant,
        acquire: impl FnOnce(usize) -> Option<SmallBuffer>,
    ) -> bool {
        let before = output.as_ref().map_or(0, |output| output.unsent.len());
        let bytes = before + more.len();
        if more.is_empty() || bytes > UNREAD_ANSWER_BYTES_MAX {
            return more.is_empty();
        }
        match output {
            Some(output) if bytes <= output.slot.len() => output.slot.copy_within(output.unsent.clone(), 0),
            _ => {
                let Some(mut slot) = acquire(bytes) else { return false };
                if let Some(shorter) = output {
                    slot[..before].copy_from_slice(shorter.unsent());
                    shorter.slot = slot;
                } else {
                    *output = Some(Self { slot, unsent: 0..0, since: now, due: more.len() });
                }
            }
        }
        if let Some(output) = output {
            output.due -= output.unsent.start;
            output.slot[before..bytes].copy_from_slice(more);
            output.unsent = 0..bytes;
        }
        true
    }

    pub(crate) fn unsent(&self) -> &[u8] {
        &self.slot[self.unsent.clone()]
    }

    /// Bytes of the pool that it holds.
    pub(crate) fn slot_bytes(&self) -> usize {
        self.slot.len()
    }

    /// Since when the peer has not taken what it was owed.
    pub(crate) fn since(&self) -> Instant {
        self.since
    }

    /// Notes that the socket took `bytes` more. Once everything is taken that was unread when the clock began, it begins
    /// again, for what has come since.
    pub(crate) fn sent(&mut self, bytes: usize, now: Instant) {
        self.unsent.start += bytes;
        if self.unsent.start >= self.due {
            (self.since, self.due) = (now, self.unsent.end);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use corelane_pool::BufferPool;
    use corelane_wire::{Answer, UNANSWERED_REQUESTS_MAX, encode_answer};

    use super::*;

    #[test]
    fn answers_leave_in_the_order_in_which_they_came_through_growing_slots() {
        let pool = BufferPool::new(5).unwrap();
        let (mut output, mut expected, mut sent) = (None, Vec::new(), Vec::new());
        for round in 0..500u32 {
            let more = vec![round as u8; 40 + round as usize % 7];
            expected.extend_from_slice(&more);
            let now = Instant::default();
            assert!(Output::keep(&mut output, &more, now, |bytes| pool.acquire_small(bytes, 0)));
            let output = output.as_mut().unwrap();
            let taken = output.unsent().len().min(round as usize % 50);
            sent.extend_from_slice(&output.unsent()[..taken]);
            output.sent(taken, now);
        }
        sent.extend_from_slice(output.as_ref().unwrap().unsent());
        assert_eq!(sent, expected);
        assert_eq!(output.unwrap().slot_bytes(), 16 * 1024);
        assert_eq!(pool.free(), 5);
    }

    #[test]
    fn too_much_is_refused_and_so_is_what_has_no_slot() {
        let pool = BufferPool::new(1).unwrap();
        let mut output = None;
        let keep = |output: &mut Option<Output>, bytes: usize| {
            Output::keep(output, &vec![0; bytes], Instant::default(), |bytes| pool.acquire_small(bytes, 0))
        };
        assert!(keep(&mut output, UNREAD_ANSWER_BYTES_MAX));
        assert!(!keep(&mut output, 1));
        assert!(!keep(&mut None, 1), "the only buffer is cut for another size");
        assert!(keep(&mut None, 0));
    }

    #[test]
    fn answers_to_all_requests_that_a_client_may_have_unanswered_are_kept() {
        let pool = BufferPool::new(4).unwrap();
        let answer = encode_answer(Answer { committed: u64::MAX, rejected: u64::MAX });
        let mut output = None;
        for _ in 0..UNANSWERED_REQUESTS_MAX {
            let keep = |bytes| pool.acquire_small(bytes, 0);
            assert!(Output::keep(&mut output, answer.as_slice(), Instant::default(), keep));
        }
        assert_eq!(output.unwrap().unsent(), answer.as_slice().repeat(UNANSWERED_REQUESTS_MAX));
    }

    #[test]
    fn a_trickle_does_not_prolong_the_time_of_what_was_owed_first() {
        let pool = BufferPool::new(1).unwrap();
        let second = |count: u64| Instant::default() + Duration::from_secs(count);
        let mut output = None;
        let keep = |output: &mut Option<Output>, at: u64| {
            assert!(Output::keep(output, &[0; 100], second(at), |bytes| pool.acquire_small(bytes, 0)));
        };
        keep(&mut output, 0);
        keep(&mut output, 1);
        for at in 2..10 {
            let output = output.as_mut().unwrap();
            output.sent(10, second(at));
            assert_eq!(output.since(), second(0));
        }
        keep(&mut output, 10);
        let output = output.as_mut().unwrap();
        output.sent(20, second(11));
        assert_eq!((output.since(), output.unsent().len()), (second(11), 200), "a new term for what came later");
    }
}
