#![allow(clippy::disallowed_types, reason = "proptest shares its strategies between them")]

use corelane_metrics::cell;
use corelane_pool::{BUFFER_BYTES, SMALL_BYTES_MAX};
use corelane_wire::{MAX_FRAME_SIZE, Reply, decode_answer, encode_event};
use proptest::prelude::*;

use super::*;
use crate::limits::{HEADROOM_BYTES, RECEIVE_BYTES};

/// A device of this name makes the connection that serves it panic, so that tests can see what a bug would cost.
const PANICS: &str = "panics";

pub(crate) fn panic_if_asked(id: &str) {
    assert!(id != PANICS, "on purpose, in a test");
}

fn core(pool: &BufferPool) -> Core {
    Core { pipeline: Pipeline::new(64), pool: pool.clone(), answers: Vec::new(), sealed: Vec::new(), tls: None }
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
        let mut buffer = pool.acquire().expect("one buffer is always free: a connection keeps one at most");
        buffer[HEADROOM_BYTES..HEADROOM_BYTES + bytes].copy_from_slice(&rest[..bytes]);
        rest = &rest[bytes..];
        let mut received = Received::new(buffer, bytes, Instant::now());
        loop {
            match connection.serve(received, &mut core) {
                Outcome::Drained(_) => break,
                Outcome::Paused(left) => received = left,
                Outcome::Broken(broken) => panic!("{broken:?}"),
            }
        }
    }
    (connection, core)
}

#[test]
fn frame_split_at_every_byte_decodes_the_same() {
    let pool = BufferPool::new(2, 0).unwrap();
    let stream = [frame(60), frame(300), vec![0; 4], frame(1_100)].concat();
    for cut in 1..stream.len() {
        let (connection, core) = feed(&stream, &[cut, stream.len()], &pool);
        assert_eq!(connection.decided(), Answer { committed: 3, rejected: 0 }, "cut at {cut}");
        assert!(!connection.is_mid_frame() && !core.answers.is_empty());
    }
    let (connection, _) = feed(&stream, &[1], &pool);
    assert_eq!(connection.decided(), Answer { committed: 3, rejected: 0 }, "byte by byte");
    assert_eq!(pool.free(), 2);
}

#[test]
fn a_begun_frame_keeps_what_came_and_no_more_than_one_buffer() {
    let pool = BufferPool::new(2, 0).unwrap();
    let stream = frame(MAX_FRAME_SIZE);
    for (came, small) in [(3, None), (4, Some(true)), (SMALL_BYTES_MAX, Some(true)), (SMALL_BYTES_MAX + 1, Some(false))]
    {
        let (connection, core) = feed(&stream[..came], &[came], &pool);
        assert_eq!(connection.carried_bytes(), came);
        assert_eq!(connection.carry_holds_memory(), small.is_some());
        assert_eq!(pool.free(), if small.is_some() { 1 } else { 2 }, "{came} bytes");
        // A second small frame shares the first one's buffer.
        if small == Some(true) {
            let (second, _) = feed(&stream[..came], &[came], &pool);
            assert!(second.carry_holds_memory() && pool.free() == 1);
        }
        drop((connection, core));
        assert_eq!(pool.free(), 2);
    }
}

#[test]
fn with_no_slot_left_the_receive_buffer_itself_is_kept() {
    let pool = BufferPool::new(1, 0).unwrap();
    let stream = frame(5_000);
    let (connection, mut core) = feed(&stream[..1_000], &[1_000], &pool);
    assert_eq!((connection.carried_bytes(), pool.free()), (1_000, 0));
    // The rest comes straight into it.
    let mut connection = connection;
    let (mut buffer, start, missing) = connection.lend_carry(&pool).unwrap();
    assert_eq!((start, missing), (1_000, stream.len() - 1_000));
    buffer[start..start + 10].copy_from_slice(&stream[1_000..1_010]);
    assert!(connection.take_back_carry(buffer, 10, &mut core).is_ok());
    assert!(connection.is_mid_frame());
    let (mut buffer, start, missing) = connection.lend_carry(&pool).unwrap();
    buffer[start..start + missing].copy_from_slice(&stream[1_010..]);
    assert!(connection.take_back_carry(buffer, missing, &mut core).is_ok());
    assert_eq!(connection.decided(), Answer { committed: 1, rejected: 0 });
    assert!(!connection.is_mid_frame() && pool.free() == 1);
}

#[test]
fn an_answer_covers_the_frames_before_its_request() {
    let pool = BufferPool::new(2, 0).unwrap();
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
    let pool = BufferPool::new(1, 0).unwrap();
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
    let pool = BufferPool::new(8, 0).unwrap();
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
    assert!(matches!(outcome, Outcome::Drained(_)) && decided == Answer { committed: 1, rejected: 126 });
    let (outcome, decided) = serve(&bad.repeat(70));
    let Outcome::Broken(broken) = outcome else { panic!("too many") };
    assert_eq!((broken.reason, broken.detail, decided.rejected), (CloseReason::RejectedFrames, 64, 64));
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
        let pool = BufferPool::new(3, 0).unwrap();
        let stream: Vec<u8> = sizes.iter().flat_map(|&bytes| frame(bytes)).collect();
        let (connection, core) = feed(&stream, &chunks, &pool);
        prop_assert_eq!(connection.decided(), Answer { committed: sizes.len() as u64, rejected: 0 });
        prop_assert_eq!(core.pipeline.metrics.get(cell::POINTS), sizes.len() as u64);
        prop_assert!(!connection.is_mid_frame());
        prop_assert_eq!(pool.free(), 3);
    }
}
