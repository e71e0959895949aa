use corelane_wire::{HEADER_BYTES, MAX_FRAME_SIZE};
pub(crate) enum Step<'a> {
    Frame(&'a [u8]),
    CommitRequest,
    NeedMore { frame_bytes: usize },
    Oversize { declared_bytes: u32 },
}
pub(crate) fn next_step<'a>(input: &mut &'a [u8]) -> Step<'a> {
    let Some((header, rest)) = input.split_first_chunk::<HEADER_BYTES>() else {
        return Step::NeedMore { frame_bytes: HEADER_BYTES };
    };
    let declared_bytes = u32::from_be_bytes(*header);
    match declared_bytes as usize {
        0 => {
            *input = rest;
            Step::CommitRequest
        }
        payload_bytes @ 1..=MAX_FRAME_SIZE => match rest.split_at_checked(payload_bytes) {
            Some((payload, rest)) => {
                *input = rest;
                Step::Frame(payload)
            }
            None => Step::NeedMore { frame_bytes: HEADER_BYTES + payload_bytes },
        },
        _ => Step::Oversize { declared_bytes },
    }
}
