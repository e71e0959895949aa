//! The frames that a server writes: the answer to a commit request, and the last frame before it closes.
//!
//! Written into a fixed array, so that an answer costs a data core no allocation; read by clients.

use std::fmt;

use crate::encode::{self, HEAD_BYTES_MAX, MAJOR_MAP, MAJOR_TEXT, MAJOR_UNSIGNED};
use crate::reader::{Head, Length, Reader};
use crate::{HEADER_BYTES, RejectReason};

/// How far a connection's frames are decided: the first `committed + rejected` of them, in the order they were sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Answer {
    /// Accepted frames of that prefix.
    pub committed: u64,
    /// Frames of that prefix that were refused.
    pub rejected: u64,
}

/// A frame read from a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply<'a> {
    /// The answer to the oldest commit request that has none yet.
    Committed(Answer),
    /// The last frame: the server sends no more and reads no more frames.
    Closing {
        /// What went wrong, for a person.
        error: &'a str,
        /// Why it closes: a reason of `corelane_connections_closed_total`.
        code: &'a str,
        /// Where to resume: after the decided prefix.
        answer: Answer,
    },
}

/// The payload of a server's frame is neither an answer nor a last frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidReply;

impl fmt::Display for InvalidReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the peer's frame is no answer of a corelane server")
    }
}

impl std::error::Error for InvalidReply {}

impl From<RejectReason> for InvalidReply {
    fn from(_: RejectReason) -> Self {
        Self
    }
}

/// Longest error text written, in bytes; more is cut off.
pub const ERROR_BYTES_MAX: usize = 256;

/// Longest code written, in bytes; more is cut off.
pub const CODE_BYTES_MAX: usize = 64;

/// Commit requests without an answer that a client may have at a time. A server keeps the answers to that many, whether or
/// not the client reads.
pub const UNANSWERED_REQUESTS_MAX: usize = 1024;

/// Largest answer to a commit request, header included.
pub const COMMITTED_BYTES_MAX: usize =
    HEADER_BYTES + 1 + text_bytes("committed".len()) + text_bytes("rejected".len()) + 2 * HEAD_BYTES_MAX;

/// Largest frame that a server writes, header included: the last one, every text and number at its longest.
pub const ANSWER_BYTES_MAX: usize = HEADER_BYTES
    + 1
    + text_bytes("error".len())
    + text_bytes(ERROR_BYTES_MAX)
    + text_bytes("code".len())
    + text_bytes(CODE_BYTES_MAX)
    + text_bytes("committed".len())
    + text_bytes("rejected".len())
    + 2 * HEAD_BYTES_MAX;

/// A text and its head.
const fn text_bytes(bytes: usize) -> usize {
    bytes
        + if bytes < 24 {
            1
        } else if bytes < 256 {
            2
        } else {
            3
        }
}

/// One frame to be written, header included.
#[derive(Debug, Clone, Copy)]
pub struct AnswerFrame {
    bytes: [u8; ANSWER_BYTES_MAX],
    len: usize,
}

impl AnswerFrame {
    /// The bytes to write.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn new() -> Self {
        Self { bytes: [0; ANSWER_BYTES_MAX], len: HEADER_BYTES }
    }

    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.len..][..bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    fn put_head(&mut self, major: u8, argument: u64) {
        let (bytes, len) = encode::head(major, argument);
        self.put(&bytes[..len]);
    }

    fn put_text(&mut self, text: &str) {
        self.put_head(MAJOR_TEXT, text.len() as u64);
        self.put(text.as_bytes());
    }

    fn put_answer(&mut self, answer: Answer) {
        self.put_text("committed");
        self.put_head(MAJOR_UNSIGNED, answer.committed);
        self.put_text("rejected");
        self.put_head(MAJOR_UNSIGNED, answer.rejected);
    }

    fn with_header(mut self) -> Self {
        let payload_bytes = (self.len - HEADER_BYTES) as u32;
        self.bytes[..HEADER_BYTES].copy_from_slice(&payload_bytes.to_be_bytes());
        self
    }
}

/// The answer to a commit request: `{"committed": uint, "rejected": uint}`.
pub fn encode_answer(answer: Answer) -> AnswerFrame {
    let mut frame = AnswerFrame::new();
    frame.put_head(MAJOR_MAP, 2);
    frame.put_answer(answer);
    frame.with_header()
}

/// The last frame before a close: `{"error": tstr, "code": tstr, "committed": uint, "rejected": uint}`.
///
/// `error` and `code` are cut, between characters, to [`ERROR_BYTES_MAX`] and [`CODE_BYTES_MAX`].
pub fn encode_closing(error: &str, code: &str, answer: Answer) -> AnswerFrame {
    let mut frame = AnswerFrame::new();
    frame.put_head(MAJOR_MAP, 4);
    frame.put_text("error");
    frame.put_text(cut(error, ERROR_BYTES_MAX));
    frame.put_text("code");
    frame.put_text(cut(code, CODE_BYTES_MAX));
    frame.put_answer(answer);
    frame.with_header()
}

/// Reads the payload of a server's frame. Keys come in any order and unknown ones are skipped, so that a later server
/// can say more; a known key that comes twice is refused.
///
/// # Errors
///
/// [`InvalidReply`] for anything else, chunked (indefinite-length) keys and texts included: no server writes them.
pub fn decode_answer(payload: &[u8]) -> Result<Reply<'_>, InvalidReply> {
    let mut reader = Reader::new(payload);
    let (mut error, mut code, mut committed, mut rejected) = (None, None, None, None);
    let Head::Map(mut pairs) = reader.head()? else { return Err(InvalidReply) };
    while reader.has_next(&mut pairs) {
        let is_first = match definite_text(&mut reader)? {
            "error" => error.replace(definite_text(&mut reader)?).is_none(),
            "code" => code.replace(definite_text(&mut reader)?).is_none(),
            "committed" => committed.replace(unsigned(&mut reader)?).is_none(),
            "rejected" => rejected.replace(unsigned(&mut reader)?).is_none(),
            _ => {
                let head = reader.head()?;
                reader.skip_rest(head, 1)?;
                true
            }
        };
        if !is_first {
            return Err(InvalidReply);
        }
    }
    if !reader.is_at_end() {
        return Err(InvalidReply);
    }
    let (Some(committed), Some(rejected)) = (committed, rejected) else { return Err(InvalidReply) };
    let answer = Answer { committed, rejected };
    match (error, code) {
        (None, None) => Ok(Reply::Committed(answer)),
        (Some(error), Some(code)) => Ok(Reply::Closing { error, code, answer }),
        _ => Err(InvalidReply),
    }
}

fn definite_text<'a>(reader: &mut Reader<'a>) -> Result<&'a str, InvalidReply> {
    match reader.head()? {
        Head::Text(Length::Known(bytes)) => reader.text(bytes)?.ok_or(InvalidReply),
        _ => Err(InvalidReply),
    }
}

fn unsigned(reader: &mut Reader<'_>) -> Result<u64, InvalidReply> {
    match reader.head()? {
        Head::Unsigned(n) => Ok(n),
        _ => Err(InvalidReply),
    }
}

fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = bytes_max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Step, next_step};

    fn payload(frame: &AnswerFrame) -> &[u8] {
        let mut input = frame.as_slice();
        let Step::Frame(payload) = next_step(&mut input) else { panic!("one whole frame") };
        assert!(input.is_empty());
        payload
    }

    #[test]
    fn answers_come_back_as_they_were() {
        for (committed, rejected) in [(0, 0), (23, 24), (1_000_000, 70_000), (u64::MAX, u64::MAX)] {
            let answer = Answer { committed, rejected };
            assert_eq!(decode_answer(payload(&encode_answer(answer))), Ok(Reply::Committed(answer)));
            let frame = encode_closing("ein Grund", "shutdown", answer);
            let expected = Reply::Closing { error: "ein Grund", code: "shutdown", answer };
            assert_eq!(decode_answer(payload(&frame)), Ok(expected));
        }
    }

    #[test]
    fn the_longest_last_frame_fits_and_longer_texts_are_cut_between_characters() {
        let answer = Answer { committed: u64::MAX, rejected: u64::MAX };
        let frame = encode_closing(&"ü".repeat(1_000), &format!("x{}", "ü".repeat(1_000)), answer);
        let expected = Reply::Closing { error: &"ü".repeat(128), code: &format!("x{}", "ü".repeat(31)), answer };
        assert_eq!(decode_answer(payload(&frame)), Ok(expected));
        let longest = encode_closing(&"e".repeat(1_000), &"c".repeat(1_000), answer);
        assert_eq!(longest.as_slice().len(), ANSWER_BYTES_MAX);
        assert_eq!(encode_answer(answer).as_slice().len(), COMMITTED_BYTES_MAX);
    }

    #[test]
    fn a_later_server_may_say_more() {
        let reply = b"\xbf\x63new\x82\x01\xa0\x68rejected\x02\x69committed\x18\x64\xff";
        assert_eq!(decode_answer(reply), Ok(Reply::Committed(Answer { committed: 100, rejected: 2 })));
    }

    #[test]
    fn anything_else_is_no_reply() {
        let replies: [(&str, &[u8]); 10] = [
            ("nothing", b""),
            ("no map", b"\x82\x01\x02"),
            ("no counts", b"\xa0"),
            ("one count", b"\xa1\x69committed\x01"),
            ("negative count", b"\xa2\x69committed\x20\x68rejected\x00"),
            ("count twice", b"\xa3\x69committed\x01\x69committed\x01\x68rejected\x00"),
            ("error without code", b"\xa3\x65error\x61x\x69committed\x01\x68rejected\x00"),
            ("trailing byte", b"\xa2\x69committed\x01\x68rejected\x00\x00"),
            ("bad UTF-8", b"\xa4\x65error\x61\xff\x64code\x61x\x69committed\x01\x68rejected\x00"),
            ("chunked key", b"\xa2\x7f\x69committed\xff\x01\x68rejected\x00"),
        ];
        for (what, reply) in replies {
            assert_eq!(decode_answer(reply), Err(InvalidReply), "{what}");
        }
        let whole = encode_closing("e", "c", Answer { committed: 300, rejected: 1 });
        for cut in 0..payload(&whole).len() {
            assert_eq!(decode_answer(&payload(&whole)[..cut]), Err(InvalidReply), "cut at {cut}");
        }
    }
}
