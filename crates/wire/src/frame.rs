//! A stream of bytes to payloads: the length-prefixed framing.
//!
//! [`Framer`] keeps what a header needs and no payload byte: whole payloads are handed out where they lie in the input,
//! and of a payload cut by the end of the input the caller keeps the parts. Never ends but in [`Step::Oversize`].

use crate::{HEADER_BYTES, MAX_FRAME_SIZE};

/// The framing state of one connection: where in a header or payload its bytes so far have ended.
#[derive(Debug, Default)]
pub struct Framer {
    state: State,
    /// Invariant: the first `header_filled` bytes are those of the header at hand; 4 are never kept, only looked at.
    header: [u8; HEADER_BYTES],
    header_filled: usize,
}

/// What the next byte of the stream is.
#[derive(Debug, Default)]
enum State {
    /// A byte of a header.
    #[default]
    Header,
    /// The first byte of a payload, which has been announced and is still to come.
    Announced { payload_bytes: usize },
    /// A later byte of a payload whose first bytes the caller has. Invariant: `left_bytes > 0`.
    Begun { left_bytes: usize },
    /// Of no interest: the stream cannot be followed any further.
    Oversize { declared_bytes: u32 },
}

/// What the framer found next in the input.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// A whole payload of 1 to [`MAX_FRAME_SIZE`] bytes, lying in the input.
    Frame(&'a [u8]),
    /// An empty frame: the peer asks how far its frames are decided.
    CommitRequest,
    /// The first bytes, at least one and not all, of a payload that the end of the input cuts. The caller keeps them.
    Begin {
        /// Length of the whole payload, in bytes.
        payload_bytes: usize,
        /// Its first bytes.
        part: &'a [u8],
    },
    /// More bytes of the begun payload, at least one and not yet the last.
    Part(&'a [u8]),
    /// The last bytes, at least one, of the begun payload: the caller now has it whole.
    End(&'a [u8]),
    /// The input is used up. What the framer saw of a header it keeps itself, so this asks for no buffer.
    NeedMore,
    /// A header declares more than [`MAX_FRAME_SIZE`]. The caller must close; every later call returns this again and
    /// takes nothing from its input.
    Oversize {
        /// What the header says.
        declared_bytes: u32,
    },
}

impl Framer {
    /// Takes the next step out of `input`, which is moved past the bytes that were used.
    ///
    /// Call it until it returns [`Step::NeedMore`], then again with the bytes that came next.
    pub fn next_step<'a>(&mut self, input: &mut &'a [u8]) -> Step<'a> {
        if let State::Header = self.state {
            if !self.fill_header(input) {
                return Step::NeedMore;
            }
            let declared_bytes = u32::from_be_bytes(self.header);
            self.header_filled = 0;
            match declared_bytes as usize {
                0 => return Step::CommitRequest,
                payload_bytes @ 1..=MAX_FRAME_SIZE => self.state = State::Announced { payload_bytes },
                _ => self.state = State::Oversize { declared_bytes },
            }
        }
        match self.state {
            State::Oversize { declared_bytes } => Step::Oversize { declared_bytes },
            _ if input.is_empty() => Step::NeedMore,
            State::Announced { payload_bytes } => match input.split_off(..payload_bytes) {
                Some(payload) => {
                    self.state = State::Header;
                    Step::Frame(payload)
                }
                None => {
                    let part = std::mem::take(input);
                    self.state = State::Begun { left_bytes: payload_bytes - part.len() };
                    Step::Begin { payload_bytes, part }
                }
            },
            State::Begun { left_bytes } => match input.split_off(..left_bytes) {
                Some(end) => {
                    self.state = State::Header;
                    Step::End(end)
                }
                None => {
                    let part = std::mem::take(input);
                    self.state = State::Begun { left_bytes: left_bytes - part.len() };
                    Step::Part(part)
                }
            },
            State::Header => unreachable!("a whole header has led to another state or returned"),
        }
    }

    /// Whether a byte or more of an unfinished frame has been seen, if only of its header: a peer that closes now cut
    /// it off. False after [`Step::Oversize`], since that frame is decided.
    pub fn is_mid_frame(&self) -> bool {
        match self.state {
            State::Header => self.header_filled > 0,
            State::Announced { .. } | State::Begun { .. } => true,
            State::Oversize { .. } => false,
        }
    }

    /// Moves header bytes from `input` into `header`; true once all are there.
    fn fill_header(&mut self, input: &mut &[u8]) -> bool {
        let missing = &mut self.header[self.header_filled..];
        let (taken, rest) = input.split_at(missing.len().min(input.len()));
        missing[..taken.len()].copy_from_slice(taken);
        self.header_filled += taken.len();
        *input = rest;
        self.header_filled == HEADER_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_frame_lies_in_the_input() {
        let stream = [0, 0, 0, 2, 7, 8, 0, 0, 0, 1, 9];
        let mut framer = Framer::default();
        let mut input = &stream[..];
        assert_eq!(framer.next_step(&mut input), Step::Frame(&[7, 8]));
        assert_eq!(framer.next_step(&mut input), Step::Frame(&[9]));
        assert_eq!(framer.next_step(&mut input), Step::NeedMore);
        assert!(!framer.is_mid_frame());
    }

    #[test]
    fn a_length_of_zero_is_a_commit_request() {
        let mut framer = Framer::default();
        let mut input = &[0, 0, 0, 0, 0, 0, 0, 0][..];
        assert_eq!(framer.next_step(&mut input), Step::CommitRequest);
        assert_eq!(framer.next_step(&mut input), Step::CommitRequest);
        assert_eq!(framer.next_step(&mut input), Step::NeedMore);
        assert!(!framer.is_mid_frame());
    }

    #[test]
    fn a_payload_in_three_inputs_is_begin_part_end() {
        let mut framer = Framer::default();
        assert_eq!(framer.next_step(&mut &[0, 0, 0, 4, 1][..]), Step::Begin { payload_bytes: 4, part: &[1] });
        assert_eq!(framer.next_step(&mut &[][..]), Step::NeedMore);
        assert_eq!(framer.next_step(&mut &[2, 3][..]), Step::Part(&[2, 3]));
        assert!(framer.is_mid_frame());
        let mut input = &[4, 0][..];
        assert_eq!(framer.next_step(&mut input), Step::End(&[4]));
        assert!(!framer.is_mid_frame());
        assert_eq!(framer.next_step(&mut input), Step::NeedMore);
        assert!(framer.is_mid_frame(), "one byte of the next header was seen");
    }

    #[test]
    fn a_header_without_payload_bytes_asks_for_no_buffer() {
        let mut framer = Framer::default();
        for byte in [0, 0, 0, 2] {
            assert_eq!(framer.next_step(&mut &[byte][..]), Step::NeedMore);
            assert!(framer.is_mid_frame());
        }
        assert_eq!(framer.next_step(&mut &[5, 6][..]), Step::Frame(&[5, 6]), "uncut, so nothing to carry");
    }

    #[test]
    fn the_largest_frame_passes_and_one_byte_more_is_oversize_for_ever() {
        let mut framer = Framer::default();
        let mut stream = (MAX_FRAME_SIZE as u32).to_be_bytes().to_vec();
        stream.resize(HEADER_BYTES + MAX_FRAME_SIZE, 1);
        assert_eq!(framer.next_step(&mut &stream[..]), Step::Frame(&stream[HEADER_BYTES..]));

        let declared_bytes = MAX_FRAME_SIZE as u32 + 1;
        let header = declared_bytes.to_be_bytes();
        assert_eq!(framer.next_step(&mut &header[..]), Step::Oversize { declared_bytes });
        assert!(!framer.is_mid_frame());
        let mut later = &[0, 0, 0, 0][..];
        assert_eq!(framer.next_step(&mut later), Step::Oversize { declared_bytes });
        assert_eq!(later.len(), 4, "nothing more is taken");
        assert_eq!(framer.next_step(&mut &[][..]), Step::Oversize { declared_bytes });
    }

    #[test]
    fn http_on_the_data_port_is_oversize() {
        let mut framer = Framer::default();
        let request = b"GET / HTTP/1.1\r\n";
        assert_eq!(framer.next_step(&mut &request[..]), Step::Oversize { declared_bytes: 1_195_725_856 });
    }
}
