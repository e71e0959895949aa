//! The points of the event at hand: offsets into its payload, in memory made once.
//!
//! [`Scratch`] outlives events, a [`Draft`] is one payload's use of it, and [`Points`] is what a valid event shows of
//! it. Nothing here reads CBOR. A text that was validated when it went in, as a `&str` or as a range that a walk has
//! checked, is not validated again when it comes out.
#![allow(unsafe_code, reason = "validating each text a second time costs more than the rest of the decoder")]

use crate::event::Shape;
use crate::predict::Fields;
use crate::{Event, MAX_FRAME_SIZE, POINTS_MAX, Point};

/// Memory for the points and the chunked texts of one event at a time.
#[derive(Debug)]
pub(crate) struct Scratch {
    /// Invariant: capacity is never exceeded, so never grows.
    points: Vec<PointSpans>,
    /// Chunked texts, end to end. Invariant: shorter than the payload, whose bytes are each copied at most once.
    joined: String,
}

/// One payload's use of a [`Scratch`].
pub(crate) struct Draft<'a> {
    payload: &'a [u8],
    scratch: &'a mut Scratch,
}

/// A text of the payload at hand.
#[derive(Clone, Copy)]
pub(crate) enum Text<'a> {
    /// As it lies in the payload.
    InPlace(&'a str),
    /// Joined from its chunks: a range of the draft's joined text.
    Joined { start: usize, end: usize },
}

/// A [`Point`] as offsets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PointSpans {
    sensor: Span,
    tags: Option<Span>,
    value: f64,
}

/// A [`Text`] as offsets. Invariant: `start..end` is valid UTF-8 of the payload, or of the joined text, of the draft
/// that made it. [`Draft::span`] makes one of a `&str`; [`PointSpans::in_place`] of ranges that the predicted walk has checked,
/// which is what `Draft::push_in_place` and `event_in_place` ask of their callers.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: u32,
    end: u32,
    is_joined: bool,
}

const _: () = assert!(size_of::<PointSpans>() == 32, "POINTS_MAX states what a point costs");

impl Scratch {
    /// What [`new`](Self::new) allocates.
    pub(crate) const BYTES: usize = POINTS_MAX * size_of::<PointSpans>() + MAX_FRAME_SIZE;

    pub(crate) fn new() -> Self {
        Self { points: Vec::with_capacity(POINTS_MAX), joined: String::with_capacity(MAX_FRAME_SIZE) }
    }

    /// Forgets the event before and begins one. `payload` is at most [`MAX_FRAME_SIZE`] bytes.
    pub(crate) fn begin<'a>(&'a mut self, payload: &'a [u8]) -> Draft<'a> {
        debug_assert!(payload.len() <= MAX_FRAME_SIZE, "the joined text has room for every byte of the payload");
        self.points.clear();
        self.joined.clear();
        Draft { payload, scratch: self }
    }
}

impl<'a> Draft<'a> {
    /// Where a text begins whose chunks are appended next.
    pub(crate) fn joined_bytes(&self) -> usize {
        self.scratch.joined.len()
    }

    /// Appends one chunk to the text at hand.
    pub(crate) fn join(&mut self, chunk: &str) {
        debug_assert!(self.scratch.joined.len() + chunk.len() <= MAX_FRAME_SIZE, "each byte is copied at most once");
        self.scratch.joined.push_str(chunk);
    }

    /// The characters of `text`.
    #[inline]
    pub(crate) fn resolve<'s>(&'s self, text: Text<'s>) -> &'s str {
        text.resolve(&self.scratch.joined)
    }

    /// Keeps a point. One beyond [`POINTS_MAX`] is dropped: its event is refused anyway.
    pub(crate) fn push_point(&mut self, sensor: Text<'a>, value: f64, tags: Option<Text<'a>>) {
        if self.scratch.points.len() < POINTS_MAX {
            let spans = PointSpans { sensor: self.span(sensor), tags: tags.map(|tags| self.span(tags)), value };
            self.scratch.points.push(spans);
        }
    }

    /// Keeps a point of texts in place, given as offsets into the payload.
    ///
    /// # Safety
    /// Both ranges are valid UTF-8 of the payload.
    #[inline(always)]
    pub(crate) unsafe fn push_in_place(&mut self, sensor: (usize, usize), value: f64, tags: Option<(usize, usize)>) {
        debug_assert!(self.scratch.points.len() < POINTS_MAX);
        self.scratch.points.push(PointSpans::in_place(sensor, value, tags));
    }

    /// Points kept so far.
    pub(crate) fn points_len(&self) -> usize {
        self.scratch.points.len()
    }

    /// Forgets what was kept.
    pub(crate) fn clear(&mut self) {
        self.scratch.points.clear();
    }

    /// The event of texts in place, with the points kept so far.
    ///
    /// # Safety
    /// The ranges are valid UTF-8 of the payload.
    #[inline]
    pub(crate) unsafe fn finish_in_place(self, fields: &Fields, shape: Shape) -> Event<'a> {
        let Scratch { points, joined } = self.scratch;
        // SAFETY: passed on.
        unsafe { event_in_place(self.payload, joined, points, fields.ranges(), fields.timestamp, shape) }
    }

    /// The event, with the points kept so far.
    pub(crate) fn finish(self, id: Text<'a>, timestamp: u64, metadata: Option<Text<'a>>) -> Event<'a> {
        let Scratch { points, joined } = self.scratch;
        let points = Points { payload: self.payload, joined, spans: points.iter() };
        let metadata = metadata.map(|text| text.resolve(joined));
        Event { id: id.resolve(joined), timestamp, metadata, points, shape: Shape::Other }
    }

    fn span(&self, text: Text<'a>) -> Span {
        let (start, end, is_joined) = match text {
            Text::InPlace(text) => {
                let start = text.as_ptr().addr().wrapping_sub(self.payload.as_ptr().addr());
                let end = start.wrapping_add(text.len());
                // Not a debug assertion: that these bytes are `text`'s is what `Points` builds on.
                assert!(start <= end && end <= self.payload.len(), "a text in place lies in the payload");
                (start, end, false)
            }
            Text::Joined { start, end } => (start, end, true),
        };
        Span { start: start as u32, end: end as u32, is_joined }
    }
}

impl PointSpans {
    pub(crate) const NONE: Self = Self { sensor: Span { start: 0, end: 0, is_joined: false }, tags: None, value: 0.0 };

    /// A point of texts that lie in the payload.
    #[inline(always)]
    pub(crate) fn in_place(sensor: (usize, usize), value: f64, tags: Option<(usize, usize)>) -> Self {
        let span = |(start, end)| Span { start: start as u32, end: end as u32, is_joined: false };
        Self { sensor: span(sensor), tags: tags.map(span), value }
    }

    #[inline(always)]
    pub(crate) fn set_value(&mut self, value: f64) {
        self.value = value;
    }
}

impl<'a> Text<'a> {
    #[inline]
    fn resolve(self, joined: &'a str) -> &'a str {
        match self {
            Self::InPlace(text) => text,
            Self::Joined { start, end } => &joined[start..end],
        }
    }
}

/// Offsets of an id, and of metadata.
type Ranges = ((usize, usize), Option<(usize, usize)>);

/// An event whose texts lie in its payload.
///
/// # Safety
/// The ranges, and those of the spans, are valid UTF-8 of `payload`.
#[inline]
pub(crate) unsafe fn event_in_place<'a>(
    payload: &'a [u8],
    joined: &'a str,
    spans: &'a [PointSpans],
    (id, metadata): Ranges,
    timestamp: u64,
    shape: Shape,
) -> Event<'a> {
    // SAFETY: passed on.
    let text = |(start, end): (usize, usize)| unsafe { str::from_utf8_unchecked(&payload[start..end]) };
    let points = Points { payload, joined, spans: spans.iter() };
    Event { id: text(id), timestamp, metadata: metadata.map(text), points, shape }
}

/// The points of an [`Event`], in the order of its bytes.
#[derive(Debug, Clone)]
pub struct Points<'a> {
    payload: &'a [u8],
    joined: &'a str,
    /// Invariant: made by the draft that held `payload` and `joined`.
    spans: std::slice::Iter<'a, PointSpans>,
}

impl<'a> Points<'a> {
    /// Their values alone, for who knows the rest: no text is looked at.
    pub fn values(&self) -> impl ExactSizeIterator<Item = f64> + use<'a> {
        self.spans.clone().map(|point| point.value)
    }

    fn text(&self, span: Span) -> &'a str {
        let range = span.start as usize..span.end as usize;
        if span.is_joined {
            return &self.joined[range];
        }
        let bytes = &self.payload[range];
        // SAFETY: the span's invariant. Spans of a draft are of this payload, since `Scratch::begin` forgot those of every
        // other; spans of a skeleton were checked in a payload whose bytes here are the same, or there was no match.
        unsafe { str::from_utf8_unchecked(bytes) }
    }
}

impl<'a> Iterator for Points<'a> {
    type Item = Point<'a>;

    fn next(&mut self) -> Option<Point<'a>> {
        let point = *self.spans.next()?;
        let tags = point.tags.map(|tags| self.text(tags));
        Some(Point { sensor: self.text(point.sensor), value: point.value, tags })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.spans.size_hint()
    }
}

impl ExactSizeIterator for Points<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_out_as_they_went_in() {
        let mut scratch = Scratch::new();
        let payload = "drück°".to_owned().into_bytes();
        let text = str::from_utf8(&payload).unwrap();
        let mut draft = scratch.begin(&payload);
        let start = draft.joined_bytes();
        draft.join("zu");
        draft.join("lauf");
        let joined = Text::Joined { start, end: draft.joined_bytes() };
        draft.push_point(Text::InPlace(text), 1.0, Some(joined));
        draft.push_point(joined, 2.0, Some(Text::InPlace(&text[text.len()..])));
        draft.push_point(Text::InPlace(&text[2..4]), 3.0, None);
        let event = draft.finish(joined, 9, None);
        assert_eq!(event.id(), "zulauf");
        let points: Vec<_> = event.points().collect();
        assert_eq!(points[0], Point { sensor: "drück°", value: 1.0, tags: Some("zulauf") });
        assert_eq!(points[1], Point { sensor: "zulauf", value: 2.0, tags: Some("") });
        assert_eq!(points[2], Point { sensor: "ü", value: 3.0, tags: None });
    }

    #[test]
    fn a_draft_forgets_the_event_before() {
        let mut scratch = Scratch::new();
        let first = *b"first";
        let mut draft = scratch.begin(&first);
        draft.push_point(Text::InPlace(str::from_utf8(&first).unwrap()), 1.0, None);
        draft.join("first");
        let draft = scratch.begin(&[]);
        assert_eq!(draft.joined_bytes(), 0);
        assert_eq!(draft.finish(Text::InPlace("x"), 0, None).points().len(), 0);
    }

    #[test]
    #[should_panic(expected = "a text in place lies in the payload")]
    fn a_text_from_elsewhere_is_refused() {
        let mut scratch = Scratch::new();
        let payload = *b"payload";
        scratch.begin(&payload).push_point(Text::InPlace("elsewhere"), 1.0, None);
    }
}
