//! Coalescing: what the last turn brought decides how long the next one waits, and how much memory the kernel gets.
//!
//! Small receives are coalesced into one turn, because a turn has its cost whatever it brings. Where bytes come in bulk there is nothing to
//! gain: the wait would only let the sockets fill until their senders stop. `limits` has the figures.

use std::time::Duration;

use crate::limits::{BULK_TURN_BYTES, IDLE_WAIT, LARGE_RECEIVE_BYTES, LENT_BUFFERS_LARGE, TURN_COMPLETIONS, TURN_WAIT};

/// What one turn has received.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TurnLoad {
    bytes: u64,
    receives: u64,
}

impl TurnLoad {
    pub(crate) fn count(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.receives += 1;
    }

    /// Completions that the turn after this one waits for, and how long at most.
    pub(crate) fn wait(self) -> (usize, Duration) {
        match self {
            Self { receives: 0, .. } => (1, IDLE_WAIT),
            Self { bytes: BULK_TURN_BYTES.., .. } => (1, TURN_WAIT),
            _ => (TURN_COMPLETIONS, TURN_WAIT),
        }
    }

    /// Buffers that the kernel gets after this turn, of at most `share`.
    pub(crate) fn buffers_wanted(self, share: usize) -> usize {
        let large = self.bytes > 0 && self.bytes >= self.receives * LARGE_RECEIVE_BYTES;
        if large { share.min(LENT_BUFFERS_LARGE) } else { share }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(receives: u64, bytes: u64) -> TurnLoad {
        let mut load = TurnLoad::default();
        (0..receives).for_each(|_| load.count(bytes));
        load
    }

    #[test]
    fn small_receives_are_coalesced_into_turns_and_bulk_is_not() {
        let coalesced = |load: TurnLoad| load.wait() == (TURN_COMPLETIONS, TURN_WAIT);
        assert!(coalesced(load(1, 1_001)));
        assert!(coalesced(load(16, 1_001)));
        assert!(!coalesced(load(2_000, 1_001)));
        assert_eq!(load(1, BULK_TURN_BYTES).wait(), (1, TURN_WAIT));
        assert_eq!(TurnLoad::default().wait(), (1, IDLE_WAIT));
    }

    #[test]
    fn large_receives_need_few_buffers() {
        assert_eq!(TurnLoad::default().buffers_wanted(64), 64);
        assert_eq!(load(500, 4_004).buffers_wanted(64), 64);
        assert_eq!(load(3, LARGE_RECEIVE_BYTES).buffers_wanted(64), LENT_BUFFERS_LARGE);
        assert_eq!(load(3, LARGE_RECEIVE_BYTES).buffers_wanted(4), 4);
    }
}
