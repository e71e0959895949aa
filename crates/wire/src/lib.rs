//! Framing and CBOR: bytes in, frames and borrowed events out.
//!
//! Reads no socket, no clock and no configuration, starts nothing, and allocates nothing once a [`Decoder`] is made.
//! The same bytes give the same answer however the stream was cut. What to do about a refused frame is the caller's.
//!
//! In reading order:
//!
//! - [`frame`]: a stream of bytes to payloads, commit requests and the one error that ends a connection.
//! - [`reject`]: why a frame was refused; the labels of a metric.
//! - `reader`: CBOR heads, texts and whole items to be skipped. Knows RFC 8949, not the schema.
//! - `points`: the points of the event at hand, as offsets in memory made once.
//! - [`event`]: what a decoded payload looks like: borrowed, valid, immutable.
//! - [`decode`]: the schema: one walk from payload to event or reason, the general way.
//! - `padded`, `predict`, [`skeleton`], `fast`: two faster ways to the same event, and how the three go together.
//! - [`encode`]: the same event in the other direction, for clients and tests.
//! - [`answer`]: the frames that a server writes.
//!
//! `unsafe` is in `points`, `predict`, `skeleton` and `fast`, each with its reason.
//!
//! Absent on purpose: owned events, serde, buffers (a caller keeps the unread bytes of its stream), limits that can be
//! configured.

pub mod answer;
pub mod decode;
pub mod encode;
pub mod event;
mod fast;
pub mod frame;
mod padded;
mod points;
mod predict;
mod reader;
pub mod reject;
pub mod skeleton;

pub use answer::{
    ANSWER_BYTES_MAX, Answer, AnswerFrame, CODE_BYTES_MAX, COMMITTED_BYTES_MAX, ERROR_BYTES_MAX, InvalidReply, Reply,
    UNANSWERED_REQUESTS_MAX, decode_answer, encode_answer, encode_closing,
};
pub use decode::Decoder;
pub use encode::{FrameTooLarge, encode_event};
pub use event::{Event, Point, Points, Shape};
pub use frame::{Step, next_step};
pub use padded::{Padded, SLACK_BYTES};
pub use reject::RejectReason;
pub use skeleton::{Hint, SKELETON_POINTS_MAX, SKELETONS, SkeletonSlot, SkeletonTable};

/// Largest payload accepted, in bytes, header not counted. Every holder of a started frame has room for one of these,
/// and the decoder's scratch for chunked text is as large.
pub const MAX_FRAME_SIZE: usize = 65_536;

/// Bytes of the length that precedes each payload: a big-endian `u32`.
pub const HEADER_BYTES: usize = 4;

/// Deepest nesting accepted: arrays, maps and tags count one each, the event's own map is 1. It bounds the decoder's
/// stack, which is a fixed array of this many entries.
pub const DEPTH_MAX: usize = 16;

/// Most points in one event. The decoder's scratch holds this many, 32 bytes each.
pub const POINTS_MAX: usize = 2_048;

/// Longest `id` or `sensor`, in bytes of UTF-8; the shortest is 1. It bounds what a series' name can cost downstream.
pub const NAME_BYTES_MAX: usize = 256;

const _: () = assert!(MAX_FRAME_SIZE <= u32::MAX as usize, "a length and an offset into a payload fit a u32");
