//! CBOR heads, texts and whole items to be skipped: well-formedness exactly as RFC 8949 Appendix C has it.
//!
//! Walks one payload once, front to back, with a fixed stack instead of recursion, and believes no declared length
//! before its bytes are there. Checks the UTF-8 of every text it passes; bad UTF-8 is well-formed, so it is remembered,
//! not an error. Knows nothing of the schema.

use crate::{DEPTH_MAX, RejectReason};

/// A position in one payload.
pub(crate) struct Reader<'a> {
    payload: &'a [u8],
    at: usize,
    saw_invalid_utf8: bool,
}

/// The head of a data item; its content, if any, follows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Head {
    Unsigned(u64),
    /// The integer -1 - n.
    Negative(u64),
    /// Counted in bytes; without a length, chunks follow.
    Bytes(Length),
    /// Counted in bytes; without a length, chunks follow.
    Text(Length),
    /// Counted in items.
    Array(Length),
    /// Counted in pairs.
    Map(Length),
    Tag,
    Float(f64),
    /// False, true, null, undefined and all the others, which this program never tells apart.
    Simple,
    /// The end of an item without a length.
    Break,
}

/// How much an item holds, as its head says. Not to be believed: nothing is ever allocated by it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Length {
    Known(u64),
    /// Until a break.
    Indefinite,
}

/// An array, map or tag that [`Reader::skip_rest`] is inside of.
#[derive(Clone, Copy)]
enum Open {
    /// So many items are still to come.
    Items(u64),
    ArrayUntilBreak,
    /// A break may come where a key may.
    MapUntilBreak {
        value_next: bool,
    },
}

impl<'a> Reader<'a> {
    pub(crate) fn new(payload: &'a [u8]) -> Self {
        Self { payload, at: 0, saw_invalid_utf8: false }
    }

    pub(crate) fn is_at_end(&self) -> bool {
        self.at == self.payload.len()
    }

    /// Whether any text so far was not UTF-8.
    pub(crate) fn saw_invalid_utf8(&self) -> bool {
        self.saw_invalid_utf8
    }

    /// Reads one head. A [`Head::Break`] is the caller's to refuse where no break is allowed.
    // Inlined, since a head handed over through memory made a quarter of the decoder's time.
    #[inline(always)]
    pub(crate) fn head(&mut self) -> Result<Head, RejectReason> {
        let [initial] = self.take_array()?;
        let (major, info) = (initial >> 5, initial & 0x1f);
        let argument = match info {
            0..=23 => u64::from(info),
            24 => u64::from(u8::from_be_bytes(self.take_array()?)),
            25 => u64::from(u16::from_be_bytes(self.take_array()?)),
            26 => u64::from(u32::from_be_bytes(self.take_array()?)),
            27 => u64::from_be_bytes(self.take_array()?),
            28..=30 => return Err(RejectReason::Malformed),
            _ => {
                return match major {
                    2 => Ok(Head::Bytes(Length::Indefinite)),
                    3 => Ok(Head::Text(Length::Indefinite)),
                    4 => Ok(Head::Array(Length::Indefinite)),
                    5 => Ok(Head::Map(Length::Indefinite)),
                    7 => Ok(Head::Break),
                    _ => Err(RejectReason::Malformed),
                };
            }
        };
        Ok(match (major, info) {
            (0, _) => Head::Unsigned(argument),
            (1, _) => Head::Negative(argument),
            (2, _) => Head::Bytes(Length::Known(argument)),
            (3, _) => Head::Text(Length::Known(argument)),
            (4, _) => Head::Array(Length::Known(argument)),
            (5, _) => Head::Map(Length::Known(argument)),
            (6, _) => Head::Tag,
            // Section 3.3: a simple value below 32 has one encoding only, so this one is not well-formed.
            (_, 24) if argument < 32 => return Err(RejectReason::Malformed),
            (_, 25) => Head::Float(f64_from_half(argument as u16)),
            (_, 26) => Head::Float(f64::from(f32::from_bits(argument as u32))),
            (_, 27) => Head::Float(f64::from_bits(argument)),
            _ => Head::Simple,
        })
    }

    /// Whether another item (of an array) or pair (of a map) follows; counts it off, or takes the break.
    pub(crate) fn has_next(&mut self, left: &mut Length) -> bool {
        match left {
            Length::Known(0) => false,
            Length::Known(count) => {
                *count -= 1;
                true
            }
            Length::Indefinite => !self.take_break(),
        }
    }

    /// Reads the bytes of a definite text or of one chunk: `None` if they are not UTF-8.
    pub(crate) fn text(&mut self, bytes: u64) -> Result<Option<&'a str>, RejectReason> {
        let text = str::from_utf8(self.take(bytes)?).ok();
        self.saw_invalid_utf8 |= text.is_none();
        Ok(text)
    }

    /// Reads the head of the next chunk of an indefinite text: its bytes, or `None` at the break.
    pub(crate) fn text_chunk(&mut self) -> Result<Option<u64>, RejectReason> {
        match self.head()? {
            Head::Text(Length::Known(bytes)) => Ok(Some(bytes)),
            Head::Break => Ok(None),
            _ => Err(RejectReason::Malformed),
        }
    }

    /// Passes over what follows `head`: the rest of one item that lies inside `depth` arrays, maps and tags.
    pub(crate) fn skip_rest(&mut self, head: Head, depth: usize) -> Result<(), RejectReason> {
        // The bottom entry stands for the item itself, so that everything is inside of something.
        let mut stack = [Open::Items(0); DEPTH_MAX + 1];
        let mut opened = 0;
        let mut head = head;
        stack[0] = Open::Items(1);
        loop {
            let inside = &mut stack[opened];
            let entered = match (head, &mut *inside) {
                (Head::Break, Open::ArrayUntilBreak | Open::MapUntilBreak { value_next: false }) => {
                    *inside = Open::Items(0);
                    None
                }
                (Head::Break, _) => return Err(RejectReason::Malformed),
                (head, inside) => {
                    match inside {
                        Open::Items(left) => *left -= 1,
                        Open::ArrayUntilBreak => (),
                        Open::MapUntilBreak { value_next } => *value_next = !*value_next,
                    }
                    self.enter(head)?
                }
            };
            if let Some(open) = entered {
                if depth + opened == DEPTH_MAX {
                    return Err(RejectReason::TooDeep);
                }
                opened += 1;
                stack[opened] = open;
            }
            while let Open::Items(0) = stack[opened] {
                if opened == 0 {
                    return Ok(());
                }
                opened -= 1;
            }
            head = self.head()?;
        }
    }

    /// Passes over a scalar or string; says what an array, map or tag is waiting for.
    fn enter(&mut self, head: Head) -> Result<Option<Open>, RejectReason> {
        Ok(match head {
            Head::Unsigned(_) | Head::Negative(_) | Head::Float(_) | Head::Simple => None,
            Head::Bytes(Length::Known(bytes)) => {
                self.take(bytes)?;
                None
            }
            Head::Bytes(Length::Indefinite) => {
                loop {
                    match self.head()? {
                        Head::Bytes(Length::Known(bytes)) => self.take(bytes)?,
                        Head::Break => break,
                        _ => return Err(RejectReason::Malformed),
                    };
                }
                None
            }
            Head::Text(Length::Known(bytes)) => {
                self.text(bytes)?;
                None
            }
            Head::Text(Length::Indefinite) => {
                while let Some(bytes) = self.text_chunk()? {
                    self.text(bytes)?;
                }
                None
            }
            Head::Array(Length::Known(count)) => Some(Open::Items(count)),
            Head::Array(Length::Indefinite) => Some(Open::ArrayUntilBreak),
            // A count that saturates is beyond any payload either way.
            Head::Map(Length::Known(pairs)) => Some(Open::Items(pairs.saturating_mul(2))),
            Head::Map(Length::Indefinite) => Some(Open::MapUntilBreak { value_next: false }),
            Head::Tag => Some(Open::Items(1)),
            Head::Break => return Err(RejectReason::Malformed),
        })
    }

    fn take_break(&mut self) -> bool {
        let is_break = self.payload.get(self.at) == Some(&0xff);
        self.at += usize::from(is_break);
        is_break
    }

    fn take(&mut self, bytes: u64) -> Result<&'a [u8], RejectReason> {
        let rest = &self.payload[self.at..];
        let taken = usize::try_from(bytes).ok().and_then(|bytes| rest.get(..bytes)).ok_or(RejectReason::Malformed)?;
        self.at += taken.len();
        Ok(taken)
    }

    fn take_array<const N: usize>(&mut self) -> Result<[u8; N], RejectReason> {
        let taken = self.payload[self.at..].first_chunk().ok_or(RejectReason::Malformed)?;
        self.at += N;
        Ok(*taken)
    }
}

/// The value of an IEEE 754 binary16 (RFC 8949 Appendix D); every one of them is a double, too.
pub(crate) fn f64_from_half(half: u16) -> f64 {
    const SMALLEST_SUBNORMAL: f64 = 1.0 / 16_777_216.0;
    let exponent = u64::from(half >> 10 & 0x1f);
    let fraction = u64::from(half & 0x3ff);
    let magnitude = match exponent {
        0 => fraction as f64 * SMALLEST_SUBNORMAL,
        31 => f64::from_bits(0x7ff << 52 | fraction << 42),
        _ => f64::from_bits((exponent + 1023 - 15) << 52 | fraction << 42),
    };
    if half >> 15 == 1 { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_have_the_values_of_the_rfc() {
        // RFC 8949 Appendix A, and the ends of the normal and subnormal ranges.
        let examples: [(u16, f64); 10] = [
            (0x0000, 0.0),
            (0x3c00, 1.0),
            (0x3e00, 1.5),
            (0x7bff, 65504.0),
            (0x0001, 5.960464477539063e-8),
            (0x03ff, 6.097555160522461e-5),
            (0x0400, 6.103515625e-5),
            (0xc400, -4.0),
            (0x7c00, f64::INFINITY),
            (0xfc00, f64::NEG_INFINITY),
        ];
        for (half, value) in examples {
            assert_eq!(f64_from_half(half), value, "{half:#06x}");
        }
        assert!(f64_from_half(0x8000).is_sign_negative());
        assert!(f64_from_half(0x7e00).is_nan());
        assert!(f64_from_half(0x7c01).is_nan());
    }

    #[test]
    fn heads_of_every_width_are_read() {
        let heads: [(&[u8], Head); 13] = [
            (&[0x17], Head::Unsigned(23)),
            (&[0x18, 0x18], Head::Unsigned(24)),
            (&[0x19, 1, 0], Head::Unsigned(256)),
            (&[0x1a, 0, 1, 0, 0], Head::Unsigned(65_536)),
            (&[0x3b, 255, 255, 255, 255, 255, 255, 255, 255], Head::Negative(u64::MAX)),
            (&[0x5f], Head::Bytes(Length::Indefinite)),
            (&[0x78, 3], Head::Text(Length::Known(3))),
            (&[0x9a, 255, 255, 255, 255], Head::Array(Length::Known(u64::from(u32::MAX)))),
            (&[0xbf], Head::Map(Length::Indefinite)),
            (&[0xd8, 32], Head::Tag),
            (&[0xf8, 32], Head::Simple),
            (&[0xfa, 0x3f, 0xc0, 0, 0], Head::Float(1.5)),
            (&[0xff], Head::Break),
        ];
        for (bytes, head) in heads {
            let mut reader = Reader::new(bytes);
            assert_eq!(reader.head(), Ok(head));
            assert!(reader.is_at_end());
            for cut in 0..bytes.len() {
                assert_eq!(Reader::new(&bytes[..cut]).head(), Err(RejectReason::Malformed), "{bytes:x?} cut at {cut}");
            }
        }
    }

    #[test]
    fn a_skip_passes_over_one_item_and_no_more() {
        // Nested definite and indefinite containers, tags, chunked strings; then one more item.
        let payload = b"\x9f\x82\x01\xc1\x02\xbf\x61a\x9f\xff\xff\x5f\x41x\x40\xff\x7f\x61y\xff\xa0\xff\x07";
        let mut reader = Reader::new(payload);
        let head = reader.head().unwrap();
        reader.skip_rest(head, 0).unwrap();
        assert_eq!(reader.head(), Ok(Head::Unsigned(7)));
        assert!(reader.is_at_end());
    }
}
