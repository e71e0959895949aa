//! What the control plane asks of its host: bytes and descriptors.

use corelane_rollup::{LANE_PAGES, PAGE_BYTES_MAX, TEXT_BYTES_MAX};

use crate::HttpLimits;
use crate::events;
use crate::peer::HEADER_BYTES_MAX;
use crate::sensors::{self, LIMIT_MAX};

/// Bytes of the control plane, by what they are for. All of it is heap, and nearly nothing of it is there while nobody
/// asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlMemory {
    /// While `/api/v1/sensors` gathers: pages of all shards on their way, with those that a round before it gave up on.
    pub pages: usize,
    /// While `/api/v1/sensors` gathers: every live series of all shards with the longest names, each known to one
    /// shard.
    pub round: usize,
    /// Request headers of all HTTP connections.
    pub headers: usize,
    /// The last security events.
    pub events: usize,
}

/// Largest answer, one of `/api/v1/sensors`: the greatest limit, and names of which JSON has to escape every byte. A
/// reader that does not take it holds it for the answer timeout at most.
pub const ANSWER_BYTES_MAX: usize = LIMIT_MAX * (2 * TEXT_BYTES_MAX * "\\u0000".len() + 256);

/// Descriptors without connections: the listener, what the runtime waits on (twice its epoll, an eventfd, a pair of
/// sockets and a duplicate of one for signals), and two to read `/proc` at a scrape.
pub const DESCRIPTORS: usize = 1 + 6 + 2;

/// What the control plane of so many shards takes.
pub fn memory(shards: usize, series_max: usize, http: &HttpLimits) -> ControlMemory {
    ControlMemory {
        // Both ways of a lane full, and a round's pages besides.
        pages: shards * 3 * LANE_PAGES * PAGE_BYTES_MAX,
        round: sensors::round_bytes_max(shards * series_max),
        headers: http.connections_max * HEADER_BYTES_MAX,
        events: events::BYTES_MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grows_with_shards_and_series_is_told_so() {
        let http = HttpLimits::default();
        let (one, two) = (memory(1, 1 << 16, &http), memory(2, 1 << 16, &http));
        assert_eq!((two.pages, two.headers, two.events), (2 * one.pages, one.headers, one.events));
        assert!(two.round > one.round && one.round > (1 << 16) * 2 * TEXT_BYTES_MAX);
    }
}
