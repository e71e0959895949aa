//! Framing, naively and step by step.

use corelane_wire::{HEADER_BYTES, MAX_FRAME_SIZE, Step, next_step};

/// What a stream says, without the cuts.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Said {
    Frame(Vec<u8>),
    CommitRequest,
    Oversize(u32),
}

/// The whole stream at once, as the protocol's text has it. Also whether it ends inside a frame.
pub(crate) fn naive(mut stream: &[u8]) -> (Vec<Said>, bool) {
    let mut said = Vec::new();
    while let Some((header, rest)) = stream.split_first_chunk() {
        let length = u32::from_be_bytes(*header);
        if length as usize > MAX_FRAME_SIZE {
            said.push(Said::Oversize(length));
            return (said, false);
        }
        let Some((payload, rest)) = rest.split_at_checked(length as usize) else { break };
        said.push(if payload.is_empty() { Said::CommitRequest } else { Said::Frame(payload.to_vec()) });
        stream = rest;
    }
    (said, !stream.is_empty())
}

/// The same step by step, by a caller that keeps the unread bytes of `chunks`.
pub(crate) fn framed<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Said>, bool) {
    let mut said = Vec::new();
    let mut kept = Vec::new();
    for chunk in chunks {
        kept.extend_from_slice(chunk);
        let mut unread = &kept[..];
        loop {
            let before = unread;
            match next_step(&mut unread) {
                Step::Frame(payload) => {
                    assert_eq!(payload.as_ptr(), before[HEADER_BYTES..].as_ptr(), "it lies in the input");
                    said.push(Said::Frame(payload.to_vec()));
                }
                Step::CommitRequest => said.push(Said::CommitRequest),
                Step::NeedMore { frame_bytes } => {
                    assert!(unread == before && unread.len() < frame_bytes);
                    break;
                }
                Step::Oversize { declared_bytes } => {
                    said.push(Said::Oversize(declared_bytes));
                    return (said, false);
                }
            }
        }
        let read = kept.len() - unread.len();
        kept.drain(..read);
    }
    (said, !kept.is_empty())
}

/// `stream` in pieces of so many bytes, and the rest.
pub(crate) fn cut(mut stream: &[u8], chunk_bytes: impl IntoIterator<Item = usize>) -> Vec<&[u8]> {
    let mut chunks = Vec::new();
    for bytes in chunk_bytes {
        let (chunk, rest) = stream.split_at(bytes.min(stream.len()));
        chunks.push(chunk);
        stream = rest;
    }
    chunks.push(stream);
    chunks
}

pub(crate) fn frame(payload: &[u8]) -> Vec<u8> {
    [&(payload.len() as u32).to_be_bytes()[..], payload].concat()
}
