//! What a data core does with a payload, without its sockets: decode, rollup, counters.

use corelane_metrics::{ShardMetrics, cell};
use corelane_rollup::Rollup;
use corelane_wire::{Decoder, Event, Hint, Padded, SKELETON_POINTS_MAX, SKELETONS, Shape, SkeletonTable};

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

/// An event whose shape is known needs no look at its names. As a shard does it.
#[inline]
pub fn count_into_series(event: &Event<'_>, tick: u64, rollup: &mut Rollup) {
    let (timestamp, points) = (event.timestamp(), event.points());
    if let Shape::Known(slot) = event.shape()
        && rollup.record_known(tick, slot, timestamp, points.values())
    {
        return;
    }
    let points = points.map(|point| (point.sensor, point.value));
    match event.shape() {
        Shape::Known(slot) | Shape::Learned(slot) => rollup.record_shape(tick, slot, event.id(), timestamp, points),
        Shape::Other => rollup.record(tick, event.id(), timestamp, points),
    }
}

/// Live series of a shard by default.
pub const SERIES_MAX: usize = 65_536;
