//! The three ways to one answer: a match with a skeleton, the predicted walk, the general walk.
//!
//! Each way but the last gives up rather than decide that a payload is refused, so which one decided shows in nothing
//! but the time it took and the event's [`Shape`].
#![allow(unsafe_code, reason = "texts that a walk or a match has vouched for are not checked again")]

use crate::event::Shape;
use crate::points::event_in_place;
use crate::skeleton::Match;
use crate::{Decoder, Event, Hint, MAX_FRAME_SIZE, Padded, RejectReason, SkeletonTable, decode, predict};

impl Decoder {
    /// As [`decode`](Self::decode), with the same answer, but fast where the payload looks as the last one of its source
    /// did, or as most do.
    #[inline]
    pub fn decode_padded<'a>(
        &'a mut self,
        payload: Padded<'a>,
        skeletons: &'a mut SkeletonTable,
        hint: &mut Hint,
    ) -> Result<Event<'a>, RejectReason> {
        let bytes = payload.payload();
        if let Some(Match { slot, timestamp, id, metadata }) = skeletons.find(payload, hint) {
            let points = skeletons.points(slot);
            // SAFETY: the payload equals one in which these ranges were found to be valid UTF-8.
            return Ok(unsafe { event_in_place(bytes, "", points, (id, metadata), timestamp, Shape::Known(slot)) });
        }
        if bytes.len() > MAX_FRAME_SIZE {
            return Err(RejectReason::Oversize);
        }
        let mut draft = self.scratch.begin(bytes);
        if let Some(fields) = predict::event(payload, &mut draft) {
            let id = &bytes[fields.id.start..fields.id.end];
            let shape = skeletons.learn(payload, id, draft.points_len(), hint).map_or(Shape::Other, Shape::Learned);
            // SAFETY: the walk has checked the ranges of its fields.
            return Ok(unsafe { draft.finish_in_place(&fields, shape) });
        }
        decode::walk(bytes, draft)
    }
}
