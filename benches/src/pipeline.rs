//! What a data core does with a payload, without its sockets: decode, rollup, counters.

use corelane_metrics::{ShardMetrics, cell};
use corelane_rollup::Rollup;
use corelane_shard::count_into_series;
use corelane_wire::{Decoder, Hint, Padded, SKELETON_POINTS_MAX, SKELETONS, SkeletonTable};

/// The part of a shard that all its connections use in turn.
pub struct Pipeline {
    /// Scratch for the event at hand.
    pub decoder: Decoder,
    /// What sources' last events looked like.
    pub skeletons: SkeletonTable,
    /// Live series.
    pub rollup: Rollup,
    /// Counters.
    pub metrics: ShardMetrics,
    /// The coarse clock in milliseconds.
    pub tick: u64,
}

impl Pipeline {
    /// Tables as a server has them by default.
    #[allow(clippy::new_without_default, reason = "it reserves some 70 MB, which a default should not do unseen")]
    pub fn new() -> Self {
        Self {
            decoder: Decoder::new(),
            skeletons: SkeletonTable::new(),
            rollup: Rollup::with_shapes(SERIES_MAX, SKELETONS, SKELETON_POINTS_MAX),
            metrics: ShardMetrics::new(),
            tick: 1,
        }
    }

    /// Counts the event in `payload`, or its rejection; tells which.
    #[inline]
    pub fn decide(&mut self, payload: Padded<'_>, hint: &mut Hint) -> bool {
        match self.decoder.decode_padded(payload, &mut self.skeletons, hint) {
            Ok(event) => {
                self.metrics.add(cell::FRAMES_ACCEPTED, 1);
                self.metrics.add(cell::POINTS, event.points().len() as u64);
                count_into_series(&event, self.tick, &mut self.rollup);
                true
            }
            Err(reason) => {
                self.metrics.add(cell::frames_rejected(reason), 1);
                false
            }
        }
    }
}

/// Live series of a shard by default.
pub const SERIES_MAX: usize = 65_536;
