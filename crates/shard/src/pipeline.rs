//! What a shard does with a payload: decode it, count its points into their series, count the event.

use corelane_metrics::{ShardMetrics, cell};
use corelane_rollup::Rollup;
use corelane_wire::{Decoder, Event, Hint, Padded, RejectReason, SKELETON_POINTS_MAX, SKELETONS, Shape, SkeletonTable};

/// The part of a shard that all its connections use in turn, without sockets and buffers.
pub struct Pipeline {
    decoder: Decoder,
    skeletons: SkeletonTable,
    /// Live series.
    pub rollup: Rollup,
    /// Every number of the shard. Accepted events are in it from the next [`count`](Self::count) on.
    pub metrics: ShardMetrics,
    /// Receives so far: the time by which the rollup tells who has been silent longest. A clock is too coarse for that: one
    /// turn may bring more new names than the table holds, and would evict the series that report all the time.
    tick: u64,
    accepted: Tally,
}

/// Accepted events since the last count.
#[derive(Default)]
struct Tally {
    frames: u64,
    points: u64,
}

impl Pipeline {
    /// Tables for so many live series. Reserves all it will ever use: some 70 MB by default.
    pub fn new(series_max: usize) -> Self {
        Self {
            decoder: Decoder::new(),
            skeletons: SkeletonTable::new(),
            rollup: Rollup::with_shapes(series_max, SKELETONS, SKELETON_POINTS_MAX),
            metrics: ShardMetrics::new(),
            tick: 0,
            accepted: Tally::default(),
        }
    }

    /// Accepts the event in `payload` as a whole, or rejects the frame as a whole.
    ///
    /// # Errors
    /// Why it was rejected; counted already.
    #[inline]
    pub fn decide(&mut self, payload: Padded<'_>, hint: &mut Hint) -> Result<(), RejectReason> {
        match self.decoder.decode_padded(payload, &mut self.skeletons, hint) {
            Ok(event) => {
                #[cfg(test)]
                crate::connection::panic_if_asked(event.id());
                count_into_series(&event, self.tick, &mut self.rollup);
                self.accepted.frames += 1;
                self.accepted.points += event.points().len() as u64;
                Ok(())
            }
            Err(reason) => {
                self.reject(reason);
                Err(reason)
            }
        }
    }

    /// Counts a frame that was rejected.
    pub fn reject(&mut self, reason: RejectReason) {
        self.metrics.add(cell::frames_rejected(reason), 1);
    }

    /// Ends a receive: puts the events accepted since the last call into the metrics.
    pub fn count(&mut self) {
        self.tick += 1;
        let Tally { frames, points } = std::mem::take(&mut self.accepted);
        if frames > 0 {
            self.metrics.add(cell::FRAMES_ACCEPTED, frames);
            self.metrics.add(cell::POINTS, points);
        }
    }
}

/// Counts the points of an event into their series. An event whose shape is known needs no look at its names.
#[inline]
fn count_into_series(event: &Event<'_>, tick: u64, rollup: &mut Rollup) {
    let (timestamp, points) = (event.timestamp(), event.points());
    if let Shape::Known(slot) = event.shape()
        && rollup.record_known(tick, slot, timestamp, points.values())
    {
        return;
    }
    let points = points.map(|point| {
        // The rollup asks for the points one by one, so this panics in the middle of its work.
        #[cfg(test)]
        crate::connection::panic_if_asked(point.sensor);
        (point.sensor, point.value)
    });
    match event.shape() {
        Shape::Known(slot) | Shape::Learned(slot) => rollup.record_shape(tick, slot, event.id(), timestamp, points),
        Shape::Other => rollup.record(tick, event.id(), timestamp, points),
    }
}
