//! What has been received and not yet worked off: for each connection a queue of buffers, in the order of arrival.
//!
//! All queues are threaded through one table with an entry for every buffer of the pool, so they never allocate.

use std::ops::Range;

use corelane_pool::PooledBuffer;

use crate::kernel::{Instant, RECEIVED_AT};

/// A filled buffer: its unread bytes are `start..end`.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) buffer: PooledBuffer,
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// When the read that brought it returned.
    pub(crate) at: Instant,
    /// Where connections are encrypted, once the unread bytes are data: the start of a record, behind them.
    pub(crate) cut: Option<Range<usize>>,
}

impl Received {
    /// What the kernel has put behind the headroom.
    pub(crate) fn new(buffer: PooledBuffer, bytes: usize, at: Instant) -> Self {
        Self { buffer, start: RECEIVED_AT, end: RECEIVED_AT + bytes, at, cut: None }
    }

    pub(crate) fn unread(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Puts `bytes` right in front of the unread ones. There is room in the headroom: nothing of a receive has been read yet
    /// when the frame, or record, that it continues is joined.
    pub(crate) fn prepend(&mut self, bytes: &[u8]) {
        let end = self.start;
        self.start -= bytes.len();
        self.buffer[self.start..end].copy_from_slice(bytes);
    }
}

/// One connection's queue: buffer indices, meaningful only together with the table.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Inbox {
    first_last: Option<(u16, u16)>,
}

impl Inbox {
    pub(crate) fn is_empty(self) -> bool {
        self.first_last.is_none()
    }
}

/// The buffers of all inboxes, by index.
#[derive(Debug)]
pub(crate) struct InboxTable {
    entries: Vec<Option<(Received, Option<u16>)>>,
    /// Entries that are filled.
    len: usize,
}

impl InboxTable {
    pub(crate) fn new(pool_buffers: usize) -> Self {
        Self { entries: (0..pool_buffers).map(|_| None).collect(), len: 0 }
    }

    /// What [`new`](Self::new) allocates.
    pub(crate) const fn bytes(pool_buffers: usize) -> usize {
        pool_buffers * size_of::<Option<(Received, Option<u16>)>>()
    }

    /// Buffers in all inboxes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn push_back(&mut self, inbox: &mut Inbox, received: Received) {
        self.len += 1;
        let index = received.buffer.index();
        self.entries[usize::from(index)] = Some((received, None));
        inbox.first_last = Some(match inbox.first_last {
            None => (index, index),
            Some((first, last)) => {
                self.entry(last).1 = Some(index);
                (first, index)
            }
        });
    }

    /// Puts back what [`pop_front`](Self::pop_front) gave and was not worked off whole.
    pub(crate) fn push_front(&mut self, inbox: &mut Inbox, received: Received) {
        self.len += 1;
        let index = received.buffer.index();
        let (next, last) = match inbox.first_last {
            None => (None, index),
            Some((first, last)) => (Some(first), last),
        };
        self.entries[usize::from(index)] = Some((received, next));
        inbox.first_last = Some((index, last));
    }

    pub(crate) fn pop_front(&mut self, inbox: &mut Inbox) -> Option<Received> {
        let (first, last) = inbox.first_last?;
        let (received, next) = self.entries[usize::from(first)].take().expect("an inbox names buffers of the table");
        inbox.first_last = next.map(|next| (next, last));
        self.len -= 1;
        Some(received)
    }

    fn entry(&mut self, index: u16) -> &mut (Received, Option<u16>) {
        self.entries[usize::from(index)].as_mut().expect("an inbox names buffers of the table")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use corelane_pool::BufferPool;

    #[test]
    fn buffers_leave_an_inbox_in_the_order_in_which_they_came() {
        let pool = BufferPool::new(6).unwrap();
        let mut table = InboxTable::new(6);
        let mut inboxes = [Inbox::default(), Inbox::default()];
        let received = || {
            let buffer = pool.acquire().unwrap();
            Received { buffer, start: 0, end: 1, at: Instant::default(), cut: None }
        };
        for step in 0..6 {
            table.push_back(&mut inboxes[step % 2], received());
        }
        let mut front = table.pop_front(&mut inboxes[0]).unwrap();
        assert_eq!(front.buffer.index(), 0);
        front.start = 1;
        table.push_front(&mut inboxes[0], front);
        let mut order = |inbox: usize| -> Vec<u16> {
            std::iter::from_fn(|| table.pop_front(&mut inboxes[inbox]))
                .map(|received| received.buffer.index())
                .collect()
        };
        assert_eq!(order(0), [0, 2, 4]);
        assert_eq!(order(1), [1, 3, 5]);
        assert!(inboxes.iter().all(|inbox| inbox.is_empty()) && table.len() == 0);
    }
}
