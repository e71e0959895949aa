//! What the control plane asks of its host: bytes and descriptors.

use corelane_rollup::{PAGE_BYTES_MAX, TEXT_BYTES_MAX};
use corelane_telemetry::LANE_PAGES;

use crate::connection::HEADER_BYTES_MAX;
use crate::sensors::{self, LIMIT_MAX};
use crate::{HttpLimits, budget, events};

/// Bytes of the control plane, by what they are for. All of it is heap, and nearly nothing of it is there while nobody
/// asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlMemory {
    /// While `/api/v1/sensors` gathers: pages of all shards on their way, with those that a round before it gave up on.
    pub pages: usize,
    /// While `/api/v1/sensors` gathers: every live series of all shards with the longest names, each known to one
    /// shard.
    pub round: usize,
    /// Answers that are rendered or wait for their readers.
    pub answers: usize,
    /// What HTTP connections hold besides their answers: a request header, a buffer to write from, TLS, and the
    /// connection itself.
    pub connections: usize,
    /// The last security events.
    pub events: usize,
}

/// Largest answer, one of `/api/v1/sensors`: the greatest limit, and names of which JSON has to escape every byte.
pub(crate) const ANSWER_BYTES_MAX: usize = LIMIT_MAX * (2 * TEXT_BYTES_MAX * "\\u0000".len() + 256);

/// Of a connection with a place: hyper's buffers to read into and to write from, which have the same bound, and itself.
const CONNECTION_BYTES: usize = 2 * HEADER_BYTES_MAX + (8 << 10);
/// The same over TLS: rustls keeps at most 64 KiB of records to send, and a message or record that it reads.
const TLS_BYTES: usize = (64 + 32) << 10;
/// Of a connection that waits.
const WAITING_BYTES: usize = 2 << 10;

/// Descriptors without connections: the listeners of both ports, a connection at the moment in which it is accepted on
/// each, what the runtime waits on (twice its epoll, an eventfd, a pair of
/// sockets and a duplicate of one for signals), and two to read `/proc` at a scrape.
pub const DESCRIPTORS: usize = 2 + 2 + 6 + 2;

/// What the control plane of so many shards takes.
pub fn memory(shards: usize, series_max: usize, http: &HttpLimits) -> ControlMemory {
    ControlMemory {
        // Both ways of a lane full, and a round's pages besides.
        pages: shards * 3 * LANE_PAGES * PAGE_BYTES_MAX,
        round: sensors::round_bytes_max(shards * series_max),
        answers: budget::bytes_max(shards),
        connections: connection_bytes(http, CONNECTION_BYTES + TLS_BYTES)
            + connection_bytes(&HttpLimits::PROBE_PORT, CONNECTION_BYTES),
        events: events::BYTES_MAX,
    }
}

fn connection_bytes(http: &HttpLimits, each: usize) -> usize {
    (http.connections_max + http.probes_max) * each + http.waiting_max * WAITING_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grows_with_shards_and_series_is_told_so() {
        let http = HttpLimits::default();
        let (one, two) = (memory(1, 1 << 16, &http), memory(2, 1 << 16, &http));
        assert_eq!((two.pages, two.connections, two.events), (2 * one.pages, one.connections, one.events));
        assert!(two.answers > one.answers && one.answers > ANSWER_BYTES_MAX);
        assert!(two.round > one.round && one.round > (1 << 16) * 2 * TEXT_BYTES_MAX);
    }
}
