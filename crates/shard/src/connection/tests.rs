#![allow(clippy::disallowed_types, reason = "proptest shares its strategies between them")]

use corelane_metrics::cell;
use corelane_pool::BUFFER_BYTES;
use corelane_wire::{HEADER_BYTES, Reply, decode_answer, encode_event};
use proptest::prelude::*;

use super::*;
use crate::clock::Instant;
use crate::limits::{HEADROOM_BYTES, RECEIVE_BYTES};

/// A device or a sensor of this name makes the connection that serves it panic, so that tests can see what a bug would cost:
/// a device before its event is counted, a sensor in the middle of that.
const PANICS: &str = "panics";

pub(crate) fn panic_if_asked(name: &str) {
    assert!(name != PANICS, "on purpose, in a test");
}

fn core(pool: &BufferPool) -> Core {
    let scratch = vec![0; SCRATCH_BYTES].into_boxed_slice();
    Core {
        pipeline: Pipeline::new(64),
        pool: pool.clone(),
        scratch,
        answers: Vec::new(),
        sealed: Vec::new(),
        tls: None,
    }
}

/// A frame of a valid event with a payload of `bytes`, or the next size there is.
fn frame(bytes: usize) -> Vec<u8> {
    let encode = |text: usize| {
        let mut out = Vec::new();
        let encoded = encode_event(&mut out, "d", 1, Some(&"m".repeat(text)), [("s", 1.0, None)].into_iter());
        encoded.map(|()| out).ok()
    };
    let smallest = encode(0).unwrap().len();
    let frame_bytes = smallest.max(HEADER_BYTES + bytes);
    // The head of a text grows by up to four bytes with its length.
    (0..=4)
        .find_map(|head| {
            encode((frame_bytes - smallest).saturating_sub(head)).filter(|frame| frame.len() <= frame_bytes)
        })
        .unwrap()
}

/// Feeds `stream` in chunks of these sizes, the last one over and over; gives the connection and what it did.
fn feed(stream: &[u8], chunks: &[usize], pool: &BufferPool) -> (Connection, Core) {
    let (mut connection, mut core) = (Connection::default(), core(pool));
    let mut rest = stream;
    let mut chunks = chunks.iter().copied().cycle();
    while !rest.is_empty() {
        let bytes = chunks.next().unwrap().clamp(1, RECEIVE_BYTES.min(rest.len()));
        let mut buffer = pool.acquire().expect("a connection keeps one slot at most, and moves it with two");
        buffer[HEADROOM_BYTES..HEADROOM_BYTES + bytes].copy_from_slice(&rest[..bytes]);
        rest = &rest[bytes..];
        let mut received = Received::new(buffer, bytes, Instant::now());
        loop {
            match connection.serve(received, &mut core) {
                Outcome::Emptied(_) => break,
                Outcome::Paused(left) => received = left,
                Outcome::Broken(broken) => panic!("{broken:?}"),
            }
        }
    }
    (connection, core)
}

#[test]
fn frame_split_at_every_byte_decodes_the_same() {
    let pool = BufferPool::new(3).unwrap();
    let stream = [frame(60), frame(300), vec![0; 4], frame(1_100)].concat();
    for cut in 1..stream.len() {
        let (connection, core) = feed(&stream, &[cut, stream.len()], &pool);
        assert_eq!(connection.decided(), Answer { committed: 3, rejected: 0 }, "cut at {cut}");
        assert!(!connection.is_mid_frame() && !core.answers.is_empty());
    }
    let (connection, _) = feed(&stream, &[1], &pool);
    assert_eq!(connection.decided(), Answer { committed: 3, rejected: 0 }, "byte by byte");
    assert_eq!(pool.free(), 3);
}

#[test]
fn a_partial_frame_keeps_what_came_and_no_whole_buffer() {
    let pool = BufferPool::new(3).unwrap();
    let stream = frame(MAX_FRAME_SIZE);
    // Bytes that came, and how many such starts one buffer keeps.
    for (came, per_buffer) in [(3, None), (4, None), (5, Some(128)), (17_000, Some(4)), (stream.len() - 1, Some(2))] {
        let (connection, core) = feed(&stream[..came], &[came], &pool);
        assert_eq!(connection.partial().len(), came);
        assert_eq!(connection.partial().missing_bytes(), (came >= 4).then_some(stream.len() - came));
        assert_eq!(connection.partial().holds_memory(), per_buffer.is_some());
        let others: Vec<_> = (1..per_buffer.unwrap_or(1)).map(|_| feed(&stream[..came], &[came], &pool)).collect();
        assert_eq!(pool.cut(), usize::from(per_buffer.is_some()), "{came} bytes");
        drop((connection, core, others));
        assert_eq!(pool.free(), 3);
    }
}

#[test]
fn an_answer_covers_the_frames_before_its_request() {
    let pool = BufferPool::new(2).unwrap();
    let bad = [0, 0, 0, 1, 0xff];
    let stream = [frame(60), vec![0; 4], bad.to_vec(), vec![0; 4], frame(60), frame(60), vec![0; 4]].concat();
    let (_, core) = feed(&stream, &[7], &pool);
    let mut unread = &core.answers[..];
    let mut answers = Vec::new();
    while let Step::Frame(payload) = next_step(&mut unread) {
        let Ok(Reply::Committed(answer)) = decode_answer(payload) else { panic!("an answer") };
        answers.push((answer.committed, answer.rejected));
    }
    assert_eq!(answers, [(1, 0), (1, 1), (3, 1)]);
}

#[test]
fn a_turn_has_a_budget() {
    let pool = BufferPool::new(1).unwrap();
    let (mut connection, mut core) = (Connection::default(), core(&pool));
    let mut buffer = pool.acquire().unwrap();
    let requests = 2 * TURN_STEPS;
    buffer[HEADROOM_BYTES..HEADROOM_BYTES + 4 * requests].fill(0);
    let received = Received::new(buffer, 4 * requests, Instant::now());
    let Outcome::Paused(left) = connection.serve(received, &mut core) else { panic!("more than one turn's worth") };
    assert_eq!(left.unread().len(), 4 * TURN_STEPS);
}

#[test]
fn sixty_four_rejected_frames_in_a_row_cost_the_connection_and_an_accepted_one_forgives() {
    let pool = BufferPool::new(8).unwrap();
    let serve = |stream: &[u8]| {
        let (mut connection, mut core) = (Connection::default(), core(&pool));
        let mut buffer = pool.acquire().unwrap();
        let end = HEADROOM_BYTES + stream.len();
        buffer[HEADROOM_BYTES..end].copy_from_slice(stream);
        let outcome = connection.serve(Received::new(buffer, end - HEADROOM_BYTES, Instant::now()), &mut core);
        (outcome, connection.decided())
    };
    let bad = [0, 0, 0, 1, 0xff];
    let (outcome, decided) = serve(&[bad.repeat(63), frame(60), bad.repeat(63)].concat());
    assert!(matches!(outcome, Outcome::Emptied(_)) && decided == Answer { committed: 1, rejected: 126 });
    let (outcome, decided) = serve(&bad.repeat(70));
    let Outcome::Broken(broken) = outcome else { panic!("too many") };
    let detail = SecurityDetail::RejectedInARow(64);
    assert_eq!((broken.reason, broken.detail, decided.rejected), (CloseReason::RejectedFrames, detail, 64));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_stream_in_any_cuts_is_decided_whole_and_every_buffer_comes_home(
        sizes in prop::collection::vec(
            prop_oneof![4 => 40usize..1_500, 1 => 3_000usize..40_000, 1 => Just(MAX_FRAME_SIZE)], 1..12),
        chunks in prop::collection::vec(
            prop_oneof![1 => 1usize..8, 2 => 1usize..3_000, 2 => 3_000usize..BUFFER_BYTES], 1..8),
    ) {
        let pool = BufferPool::new(3).unwrap();
        let stream: Vec<u8> = sizes.iter().flat_map(|&bytes| frame(bytes)).collect();
        let (connection, core) = feed(&stream, &chunks, &pool);
        prop_assert_eq!(connection.decided(), Answer { committed: sizes.len() as u64, rejected: 0 });
        prop_assert_eq!(core.pipeline.metrics.get(cell::POINTS), sizes.len() as u64);
        prop_assert!(!connection.is_mid_frame());
        prop_assert_eq!(pool.free(), 3);
    }
}
