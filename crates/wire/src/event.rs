//! What a decoded payload looks like: every text borrowed, every rule of the schema holding.

pub use crate::points::Points;
use crate::skeleton::SkeletonSlot;

/// One valid event (`docs/event.cddl`), borrowed from its payload and from the scratch of the decoder that read it.
#[derive(Debug, Clone)]
pub struct Event<'a> {
    pub(crate) id: &'a str,
    pub(crate) timestamp: u64,
    pub(crate) metadata: Option<&'a str>,
    pub(crate) points: Points<'a>,
    pub(crate) shape: Shape,
}

/// How an event relates to the skeleton table, for those who keep something about its sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Not at all.
    Other,
    /// From now on this slot holds its source, its sensors and their order.
    Learned(SkeletonSlot),
    /// Its source, its sensors and their order are those that this slot was learned with.
    Known(SkeletonSlot),
}

impl<'a> Event<'a> {
    /// The source: 1 to [`NAME_BYTES_MAX`](crate::NAME_BYTES_MAX) bytes.
    pub fn id(&self) -> &'a str {
        self.id
    }

    /// Nanoseconds since the Unix epoch, as the source tells them.
    pub fn timestamp(&self) -> u64 {
        self.timestamp
    }

    /// What the source says about the event, if anything.
    pub fn metadata(&self) -> Option<&'a str> {
        self.metadata
    }

    /// What the skeleton table knows of it.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The points, 0 to [`POINTS_MAX`](crate::POINTS_MAX), in the order of the payload.
    pub fn points(&self) -> Points<'a> {
        self.points.clone()
    }
}

/// One value of one sensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point<'a> {
    /// What was measured: 1 to [`NAME_BYTES_MAX`](crate::NAME_BYTES_MAX) bytes.
    pub sensor: &'a str,
    /// Finite. An integer that no double holds was rounded to the nearest one.
    pub value: f64,
    /// What the source says about the point, if anything.
    pub tags: Option<&'a str>,
}
