//! A stream of bytes to payloads: the length-prefixed framing.
//!
//! The state of a stream is its unread bytes, and the caller keeps them: [`next_step`] takes whole frames off their front
//! and never half of one. Whole payloads are handed out where they lie; nothing is copied or kept.

use crate::{HEADER_BYTES, MAX_FRAME_SIZE};

/// What the unread bytes of a stream begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    /// A whole payload of 1 to [`MAX_FRAME_SIZE`] bytes.
    Frame(&'a [u8]),
    /// An empty frame: the peer asks how far its frames are decided.
    CommitRequest,
    /// Part of a frame, or nothing. The caller keeps the bytes and calls again once more follow them.
    NeedMore {
        /// Bytes that the frame has in all, header included; those of a header while that is incomplete.
        frame_bytes: usize,
    },
    /// A header declares more than [`MAX_FRAME_SIZE`]: where the next frame begins cannot be told. The caller must close.
    Oversize {
        /// What the header says.
        declared_bytes: u32,
    },
}

/// Takes one frame or commit request off the front of `unread`; leaves it alone when it returns any other step.
#[inline]
pub fn next_step<'a>(unread: &mut &'a [u8]) -> Step<'a> {
    let Some((header, rest)) = unread.split_first_chunk() else {
        return Step::NeedMore { frame_bytes: HEADER_BYTES };
    };
    let declared_bytes = u32::from_be_bytes(*header);
    match declared_bytes as usize {
        0 => {
            *unread = rest;
            Step::CommitRequest
        }
        payload_bytes @ 1..=MAX_FRAME_SIZE => match rest.split_at_checked(payload_bytes) {
            Some((payload, rest)) => {
                *unread = rest;
                Step::Frame(payload)
            }
            None => Step::NeedMore { frame_bytes: HEADER_BYTES + payload_bytes },
        },
        _ => Step::Oversize { declared_bytes },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_frame_is_handed_out_where_it_lies() {
        let stream = [0, 0, 0, 2, 7, 8, 0, 0, 0, 1, 9];
        let mut unread = &stream[..];
        assert_eq!(next_step(&mut unread), Step::Frame(&stream[4..6]));
        assert_eq!(next_step(&mut unread), Step::Frame(&[9]));
        assert_eq!(next_step(&mut unread), Step::NeedMore { frame_bytes: 4 });
        assert!(unread.is_empty());
    }

    #[test]
    fn a_length_of_zero_is_a_commit_request() {
        let mut unread = &[0; 8][..];
        assert_eq!(next_step(&mut unread), Step::CommitRequest);
        assert_eq!(next_step(&mut unread), Step::CommitRequest);
        assert!(unread.is_empty());
    }

    #[test]
    fn a_cut_frame_stays_unread_and_tells_its_length() {
        for (stream, frame_bytes) in [(&[0, 0, 0][..], 4), (&[0, 0, 1, 0], 260), (&[0, 0, 0, 2, 7], 6)] {
            let mut unread = stream;
            assert_eq!(next_step(&mut unread), Step::NeedMore { frame_bytes });
            assert_eq!(unread, stream);
        }
    }

    #[test]
    fn the_largest_frame_passes_and_one_byte_more_is_oversize() {
        let mut stream = (MAX_FRAME_SIZE as u32).to_be_bytes().to_vec();
        stream.resize(HEADER_BYTES + MAX_FRAME_SIZE, 1);
        assert_eq!(next_step(&mut &stream[..]), Step::Frame(&stream[HEADER_BYTES..]));

        let declared_bytes = MAX_FRAME_SIZE as u32 + 1;
        let header = declared_bytes.to_be_bytes();
        let mut unread = &header[..];
        assert_eq!(next_step(&mut unread), Step::Oversize { declared_bytes });
        assert_eq!(next_step(&mut unread), Step::Oversize { declared_bytes }, "and so for ever");
    }

    #[test]
    fn http_on_the_data_port_is_oversize() {
        let mut request = &b"GET / HTTP/1.1\r\n"[..];
        assert_eq!(next_step(&mut request), Step::Oversize { declared_bytes: 1_195_725_856 });
    }
}
