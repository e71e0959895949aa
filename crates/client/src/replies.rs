//! The server's direction of the stream, cut into replies.
//!
//! Holds the bytes of at most one unfinished reply and a few finished ones. Does no I/O.

use corelane_wire::{ANSWER_BYTES_MAX, Answer, HEADER_BYTES, InvalidReply, decode_answer};

use crate::Closing;

/// One reply, owned.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// The answer to the oldest commit request that has none yet.
    Committed(Answer),
    /// The last frame of the server.
    Closing(Closing),
}

/// Bytes that came and are not yet a whole reply.
#[derive(Debug, Default)]
pub struct Replies {
    bytes: Vec<u8>,
}

impl Replies {
    /// Appends what was read; take the replies out before more is read.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Whether the bytes begin as an HTTP answer does.
    pub(crate) fn is_http(&self) -> bool {
        self.bytes.starts_with(b"HTTP")
    }

    /// The next whole reply.
    ///
    /// # Errors
    /// A length or a payload that no server writes. The bytes stay, and every later call fails, too.
    pub fn next_reply(&mut self) -> Result<Option<Reply>, InvalidReply> {
        let Some((header, rest)) = self.bytes.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let payload_bytes = u32::from_be_bytes(*header) as usize;
        if payload_bytes > REPLY_BYTES_MAX {
            return Err(InvalidReply);
        }
        let Some(payload) = rest.get(..payload_bytes) else { return Ok(None) };
        let reply = match decode_answer(payload)? {
            corelane_wire::Reply::Committed(answer) => Reply::Committed(answer),
            corelane_wire::Reply::Closing { error, code, answer } => {
                Reply::Closing(Closing { error: error.to_owned(), code: code.to_owned(), answer })
            }
        };
        self.bytes.drain(..HEADER_BYTES + payload_bytes);
        Ok(Some(reply))
    }
}

/// Largest reply taken, in bytes: what a server of today writes, and as much again for keys that a later one adds.
const REPLY_BYTES_MAX: usize = 2 * ANSWER_BYTES_MAX;

#[cfg(test)]
mod tests {
    use corelane_wire::{encode_answer, encode_closing};

    use super::*;

    #[test]
    fn replies_split_at_every_byte_come_out_the_same() {
        let answer = Answer { committed: 70_000, rejected: 3 };
        let mut stream = encode_answer(answer).as_slice().to_vec();
        stream.extend_from_slice(encode_closing("too long", "oversize", answer).as_slice());
        for cut in 0..=stream.len() {
            let mut replies = Replies::default();
            let mut found = Vec::new();
            for part in [&stream[..cut], &stream[cut..]] {
                replies.extend(part);
                while let Some(reply) = replies.next_reply().unwrap() {
                    found.push(reply);
                }
            }
            let closing = Closing { error: "too long".into(), code: "oversize".into(), answer };
            assert_eq!(found, [Reply::Committed(answer), Reply::Closing(closing)], "cut at {cut}");
        }
    }

    #[test]
    fn what_no_server_writes_is_refused_before_its_payload_comes() {
        for bytes in [&b"HTTP/1.1 400"[..], b"\xff\xff\xff\xff", b"\0\0\0\x01\x00", b"\0\0\0\0"] {
            let mut replies = Replies::default();
            replies.extend(bytes);
            assert_eq!(replies.next_reply(), Err(InvalidReply), "{bytes:?}");
            assert_eq!(replies.is_http(), bytes.starts_with(b"HTTP"));
        }
    }
}
