//! Why a frame was refused.

use std::fmt;

/// Why a frame was refused: the first that holds of its bytes, in this order, except that whichever of `Malformed` and
/// `TooDeep` comes first in the bytes wins. Each variant is one label of `corelane_frames_rejected_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RejectReason {
    /// Not well-formed CBOR (RFC 8949 Appendix C), or cut off.
    Malformed,
    /// Arrays, maps and tags nested deeper than [`DEPTH_MAX`](crate::DEPTH_MAX).
    TooDeep,
    /// Bytes after the first data item.
    TrailingBytes,
    /// A text, or a chunk of one, that is not UTF-8: a key or an unknown value counts, too.
    InvalidUtf8,
    /// More than [`POINTS_MAX`](crate::POINTS_MAX) items in the event's `telemetry`.
    TooManyPoints,
    /// Well-formed, but not an event of this schema.
    NotAnEvent,
    /// A length above [`MAX_FRAME_SIZE`](crate::MAX_FRAME_SIZE).
    Oversize,
}

impl RejectReason {
    /// Every reason; each at its own [`index`](Self::index).
    pub const ALL: [Self; 7] = [
        Self::Malformed,
        Self::TooDeep,
        Self::TrailingBytes,
        Self::InvalidUtf8,
        Self::TooManyPoints,
        Self::NotAnEvent,
        Self::Oversize,
    ];

    /// The value of the metric's `reason` label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::TooDeep => "too_deep",
            Self::TrailingBytes => "trailing_bytes",
            Self::InvalidUtf8 => "invalid_utf8",
            Self::TooManyPoints => "too_many_points",
            Self::NotAnEvent => "not_an_event",
            Self::Oversize => "oversize",
        }
    }

    /// Position in [`ALL`](Self::ALL), for a table of counters.
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for RejectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "the payload is not well-formed CBOR",
            Self::TooDeep => "the payload nests deeper than 16 arrays, maps and tags",
            Self::TrailingBytes => "bytes follow the payload's data item",
            Self::InvalidUtf8 => "a text in the payload is not valid UTF-8",
            Self::TooManyPoints => "the event holds more than 2048 points",
            Self::NotAnEvent => "the payload is well-formed CBOR, but not an event",
            Self::Oversize => "the frame is larger than 65536 bytes",
        })
    }
}

impl std::error::Error for RejectReason {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DEPTH_MAX, MAX_FRAME_SIZE, POINTS_MAX};

    #[test]
    fn every_reason_lies_at_its_index_and_has_its_own_label() {
        for (index, reason) in RejectReason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), index);
            assert!(reason.label().bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_')), "{reason}");
            assert_eq!(RejectReason::ALL.iter().filter(|other| other.label() == reason.label()).count(), 1);
        }
    }

    #[test]
    fn messages_state_the_limits_in_force() {
        assert!(RejectReason::TooDeep.to_string().contains(&DEPTH_MAX.to_string()));
        assert!(RejectReason::TooManyPoints.to_string().contains(&POINTS_MAX.to_string()));
        assert!(RejectReason::Oversize.to_string().contains(&MAX_FRAME_SIZE.to_string()));
    }
}
