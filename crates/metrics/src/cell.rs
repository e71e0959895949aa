//! The names of a shard's cells: constants, or a constant function of a label value.

use corelane_wire::RejectReason;

use crate::table::{CellKind, FAMILY_CELL_KINDS, FAMILY_CELLS, Family, Kind, first_cell};
use crate::{CloseReason, Histogram, SecurityKind};

/// One number of one shard: an index below [`CELLS`], which is also the `metric` of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cell(pub(crate) u32);

/// Cells of a shard.
pub const CELLS: usize = FAMILY_CELLS + 1;

/// Frames accepted.
pub const FRAMES_ACCEPTED: Cell = only("corelane_frames_accepted_total");
/// Points of accepted frames.
pub const POINTS: Cell = only("corelane_points_total");
/// Bytes read from peers.
pub const RECEIVED_BYTES: Cell = only("corelane_received_bytes_total");
/// Gauge: open connections.
pub const CONNECTIONS: Cell = only("corelane_connections");
/// Connections accepted.
pub const CONNECTIONS_ACCEPTED: Cell = only("corelane_connections_accepted_total");
/// Gauge: buffers that hold no bytes of a peer.
pub const POOL_FREE: Cell = first("corelane_pool_buffers", 2);
/// Gauge: buffers that hold unread or kept bytes.
pub const POOL_IN_USE: Cell = Cell(POOL_FREE.0 + 1);
/// Gauge, 0 to 1: the highest use of the pool since the flush before.
pub const POOL_UTILIZATION: Cell = only("corelane_pool_utilization_ratio");
/// Times that receiving waited for a buffer.
pub const POOL_WAITS: Cell = only("corelane_pool_waits_total");
/// Gauge: 1 while the pool has been short of buffers for more than a second, else 0.
pub const POOL_SHORT: Cell = only("corelane_pool_short");
/// Gauge: bytes that the kernel holds, unread.
pub const INGEST_BACKLOG_BYTES: Cell = only("corelane_ingest_backlog_bytes");
/// Gauge: live series.
pub const SERIES: Cell = only("corelane_series");
/// Series evicted from the full table.
pub const SERIES_EVICTED: Cell = only("corelane_series_evicted_total");
/// Heap allocations of the shard's thread.
pub const ALLOCATIONS: Cell = only("corelane_allocations_total");
/// Bytes of those allocations.
pub const ALLOCATED_BYTES: Cell = only("corelane_allocated_bytes_total");
/// CPU time of the shard's thread. Counted in **nanoseconds**, exported in seconds.
pub const CPU_NANOSECONDS: Cell = only("corelane_shard_cpu_seconds_total");
/// Gauge: index of the [`ShardState`](crate::ShardState). Not exported; every flush sends it, as the heartbeat.
pub const STATE: Cell = Cell(FAMILY_CELLS as u32);

/// Frames rejected for this reason.
pub const fn frames_rejected(reason: RejectReason) -> Cell {
    const FIRST: Cell = first("corelane_frames_rejected_total", RejectReason::ALL.len());
    Cell(FIRST.0 + reason.index() as u32)
}

/// Connections that ended for this reason.
pub const fn connections_closed(reason: CloseReason) -> Cell {
    const FIRST: Cell = first("corelane_connections_closed_total", CloseReason::ALL.len());
    Cell(FIRST.0 + reason.index() as u32)
}

/// Security events of this kind.
pub const fn security_events(kind: SecurityKind) -> Cell {
    const FIRST: Cell = first("corelane_security_events_total", SecurityKind::OF_SHARDS.len());
    assert!(kind.index() < SecurityKind::OF_SHARDS.len(), "no shard counts this kind");
    Cell(FIRST.0 + kind.index() as u32)
}

/// What each cell holds.
pub(crate) static KINDS: [CellKind; CELLS] = {
    let mut kinds = [CellKind::Gauge; CELLS];
    let mut index = 0;
    while index < FAMILY_CELLS {
        kinds[index] = FAMILY_CELL_KINDS[index];
        index += 1;
    }
    kinds
};

impl Cell {
    /// Index in the shard's array of cells, and the `metric` of its samples.
    pub const fn id(self) -> u32 {
        self.0
    }

    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }

    pub(crate) fn kind(self) -> CellKind {
        KINDS[self.index()]
    }
}

impl Family {
    /// The family's cells of a shard, in the order of its label values. Empty unless it is filled by cells.
    pub fn cells(&self) -> impl ExactSizeIterator<Item = Cell> + use<> {
        let first = self.first_cell as u32;
        (first..first + self.cell_count() as u32).map(Cell)
    }

    /// The family as a histogram of each shard, if it is one.
    pub fn histogram(&self) -> Option<Histogram> {
        (self.kind == Kind::Histogram).then(|| Histogram::at(self.first_cell))
    }
}

const fn only(family: &str) -> Cell {
    first(family, 1)
}

const fn first(family: &str, count: usize) -> Cell {
    Cell(first_cell(family, count) as u32)
}
