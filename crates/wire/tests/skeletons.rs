//! Skeletons and the predicted way against the general one, over sequences of events: what a match may and may not tell.
//!
//! `Ways::answer` compares every answer with the general decoder's, and every shape with a model of the table; the tests
//! here choose what is sent, and say which of the ways it must have taken.

mod common;

use common::script::{Measured, Number, Script, Source, random_slack};
use common::targets;
use common::ways::{Tally, Ways, ZEROS};
use corelane_wire::{
    MAX_FRAME_SIZE, POINTS_MAX, Padded, RejectReason, SKELETON_POINTS_MAX, SKELETONS, SLACK_BYTES, Shape,
};
use proptest::prelude::*;

/// A table that has learned what `source` looks like, and matches it.
fn learned_from(source: &Source) -> Ways {
    let mut ways = Ways::new(2);
    let payload = source.payload();
    assert!(matches!(ways.answer(0, &payload, &ZEROS), Ok(Shape::Learned(_))));
    assert!(matches!(ways.answer(0, &payload, &ZEROS), Ok(Shape::Known(_))));
    ways
}

fn is_known(answer: Result<Shape, RejectReason>) -> bool {
    matches!(answer, Ok(Shape::Known(_)))
}

/// Numbers of every head that a value may have.
fn all_heads() -> Vec<Number> {
    let heads = [(7, 1..4), (0, 0..4), (1, 0..4)];
    let wide = heads.into_iter().flat_map(|(major, widths)| widths.map(move |width| (major, Some(width))));
    wide.chain([(0, None), (1, None)]).map(|(major, width)| Number { major, width, argument: 5 }).collect()
}

/// An event with a value of each head, and with tags and metadata.
fn all_sorts() -> Source {
    let mut source = Source::plain("kessel-ü", 0);
    source.metadata = Some(b"site=nord".to_vec());
    source.points = (0..)
        .zip(all_heads())
        .map(|(at, value)| Measured {
            sensor: format!("s{at}").into_bytes(),
            value,
            tags: (at % 2 == 0).then(|| b"floor=2".to_vec()),
            turn: at,
        })
        .collect();
    source
}

#[test]
fn new_numbers_under_old_heads_are_a_match() {
    for mut source in [Source::plain("a", 1), Source::plain("boiler-7", 14), Source::plain("empty", 0), all_sorts()] {
        let mut ways = learned_from(&source);
        for seed in 0..500 {
            source.renumber(seed);
            assert!(is_known(ways.answer(0, &source.payload(), &random_slack(seed))));
        }
    }
}

#[test]
fn the_order_of_keys_is_learned_too() {
    for turn in 0..8 {
        let mut source = all_sorts();
        source.turn = turn;
        let mut ways = learned_from(&source);
        source.renumber(u64::from(turn));
        assert!(is_known(ways.answer(0, &source.payload(), &ZEROS)));
        source.turn = turn ^ 1;
        assert!(!is_known(ways.answer(0, &source.payload(), &ZEROS)));
    }
}

#[test]
fn a_value_that_turns_nan_or_infinite_is_refused_and_the_next_one_is_not() {
    for value in all_heads().into_iter().filter(|value| value.major == 7) {
        let mut source = Source::plain("boiler-7", 3);
        source.points[1].value = value;
        let mut ways = learned_from(&source);
        // The exponent of this width all ones, with every sign, quiet bit and a bit of payload.
        let (exponent, sign, quiet) = match value.width {
            Some(1) => (0x7c00, 0x8000, 0x0200),
            Some(2) => (0x7f80_0000, 0x8000_0000, 0x0040_0000),
            _ => (0x7ff0_0000_0000_0000, 0x8000_0000_0000_0000, 0x0008_0000_0000_0000),
        };
        for more in [0, quiet, 1, sign, sign | quiet, sign | 1, sign | quiet | 1] {
            source.points[1].value.argument = exponent | more;
            assert_eq!(ways.answer(0, &source.payload(), &ZEROS), Err(RejectReason::NotAnEvent), "{value:?} {more:#x}");
            // One below is the largest number there is.
            source.points[1].value.argument = exponent - 1;
            assert!(is_known(ways.answer(0, &source.payload(), &ZEROS)), "{value:?}");
        }
    }
}

#[test]
fn a_value_or_timestamp_that_changes_its_head_is_no_match() {
    let heads = all_heads();
    for before in &heads {
        for behind in &heads {
            let mut source = Source::plain("boiler-7", 3);
            source.points[1].value = *before;
            let mut ways = learned_from(&source);
            source.points[1].value = *behind;
            let answer = ways.answer(0, &source.payload(), &ZEROS);
            assert_eq!(is_known(answer), (before.major, before.width) == (behind.major, behind.width));
            assert!(answer.is_ok());
        }
    }
    let widths = [None, Some(0), Some(1), Some(2), Some(3)];
    for before in widths {
        for behind in widths {
            let mut source = Source::plain("boiler-7", 3);
            source.timestamp = Number { major: 0, width: before, argument: 7 };
            let mut ways = learned_from(&source);
            source.timestamp = Number { major: 0, width: behind, argument: 9 };
            // A small integer is its head, so another one is another head.
            let stays = before == behind && before.is_some();
            assert_eq!(is_known(ways.answer(0, &source.payload(), &ZEROS)), stays, "{before:?} {behind:?}");
        }
        // What is no timestamp at all, of the same length.
        for major in [1, 6, 7] {
            let mut source = Source::plain("boiler-7", 3);
            source.timestamp = Number { major: 0, width: before, argument: 7 };
            let mut ways = learned_from(&source);
            source.timestamp.major = major;
            assert!(ways.answer(0, &source.payload(), &ZEROS).is_err());
        }
    }
}

#[test]
fn a_length_that_stays_while_a_head_moves_is_no_match() {
    let mut source = all_sorts();
    let mut ways = learned_from(&source);
    let payload_bytes = source.payload().len();
    for at in 0..source.points.len() {
        let before = source.clone();
        let Measured { sensor, tags: Some(tags), .. } = &mut source.points[at] else { continue };
        tags.extend(sensor.pop());
        assert_eq!(source.payload().len(), payload_bytes);
        assert!(!is_known(ways.answer(0, &source.payload(), &ZEROS)));
        source = before;
        assert!(ways.answer(0, &source.payload(), &ZEROS).is_ok());
    }
}

#[test]
fn a_text_that_changes_one_byte_is_no_match() {
    let source = all_sorts();
    let payload = source.payload();
    let mut ways = learned_from(&source);
    let mut known = 0;
    let mut changed = payload.clone();
    for at in 0..payload.len() {
        for bit in 0..8 {
            changed[at] ^= 1 << bit;
            known += usize::from(is_known(ways.answer(0, &changed, &ZEROS)));
            changed[at] = payload[at];
            // What may have been learned from the change is forgotten again.
            ways = learned_from(&source);
        }
    }
    // The arguments, and nothing else: eight bytes of the timestamp; 2 + 4 + 8 of floats, twice 1 + 2 + 4 + 8 of integers.
    // No single bit turns one of these floats into an infinity.
    assert_eq!(known, 8 * (8 + 14 + 2 * 15));
}

#[test]
fn no_byte_behind_the_payload_matters_at_any_length() {
    for length in 40..=200 {
        let mut source = Source::plain("b", 1);
        source.pad_to(length);
        if source.payload().len() != length {
            continue;
        }
        let mut ways = learned_from(&source);
        for seed in 0..8 {
            source.renumber(seed);
            assert!(is_known(ways.answer(0, &source.payload(), &random_slack(seed))), "{length} bytes");
        }
        // The last byte before the slack counts, whatever its place in a block.
        let mut other = source.payload();
        other[length - 1] ^= 1;
        assert!(!is_known(ways.answer(0, &other, &random_slack(9))), "{length} bytes");
        other.pop();
        assert!(ways.answer(0, &other, &[source.payload()[length - 1]; SLACK_BYTES]).is_err(), "{length} bytes");
    }
}

#[test]
fn a_skeleton_is_no_longer_than_its_limits() {
    let mut matched = Vec::new();
    for length in 2_250..2_350 {
        let mut source = Source::plain("boiler-7", 14);
        source.pad_to(length);
        assert_eq!(source.payload().len(), length);
        let mut ways = Ways::new(1);
        for seed in 0..3 {
            source.renumber(seed);
            let _ = ways.answer(0, &source.payload(), &random_slack(seed));
        }
        assert!(matches!(ways.tally, Tally { learned: 1, known: 2, .. } | Tally { other: 3, .. }), "{:?}", ways.tally);
        if ways.tally.known > 0 {
            matched.push(length);
        }
    }
    assert_eq!(matched, (2_250..=2_304).collect::<Vec<_>>());

    for points in 0..=SKELETON_POINTS_MAX + 3 {
        let mut ways = Ways::new(1);
        for _ in 0..3 {
            assert!(ways.answer(0, &Source::plain("b", points).payload(), &ZEROS).is_ok());
        }
        assert_eq!(ways.tally.known, if points <= SKELETON_POINTS_MAX { 2 } else { 0 }, "{points} points");
    }
}

#[test]
fn a_source_that_outgrows_its_skeleton_and_comes_back_is_judged_right() {
    let mut ways = Ways::new(1);
    for round in 0..600 {
        let mut source = Source::plain("boiler-7", SKELETON_POINTS_MAX + [0, 1, 0, 2, 0, 0][round % 6]);
        source.renumber(round as u64);
        assert!(ways.answer(0, &source.payload(), &ZEROS).is_ok());
    }
    assert!(ways.tally.known > 0, "{:?}", ways.tally);
}

#[test]
fn a_slot_that_held_a_longer_payload_matches_a_shorter_one() {
    for length in 100..164 {
        let (mut long, mut short) = (Source::plain("b", 1), Source::plain("b", 1));
        long.pad_to(300);
        short.pad_to(length);
        let mut ways = learned_from(&long);
        for seed in 0..3 {
            let answer = ways.answer(0, &short.payload(), &random_slack(seed));
            assert!(matches!(answer, Ok(Shape::Learned(_))) == (seed == 0) && is_known(answer) == (seed > 0));
        }
    }
}

#[test]
fn a_byte_that_is_not_ascii_is_seen_at_any_place_of_a_text() {
    let texts: [fn(&mut Source) -> &mut Vec<u8>; 4] = [
        |source| &mut source.id,
        |source| source.metadata.get_or_insert_default(),
        |source| &mut source.points[0].sensor,
        |source| source.points[0].tags.get_or_insert_default(),
    ];
    for text in texts {
        for bytes in 1..=50 {
            for at in 0..bytes {
                let mut source = Source::plain("b", 1);
                *text(&mut source) = vec![b'a'; bytes];
                let mut ways = learned_from(&source);
                text(&mut source)[at] = 0x80;
                let answer = ways.answer(0, &source.payload(), &[b'a'; SLACK_BYTES]);
                assert_eq!(answer, Err(RejectReason::InvalidUtf8), "byte {at} of {bytes}");
                assert_eq!(Ways::new(1).answer(0, &source.payload(), &ZEROS), answer);
                // A character of two bytes; the last one of the text is cut.
                text(&mut source)[at] = 0xc3;
                if at + 1 < bytes {
                    text(&mut source)[at + 1] = 0xbc;
                }
                let answer = ways.answer(0, &source.payload(), &[0xbc; SLACK_BYTES]);
                assert_eq!(answer.is_ok(), at + 1 < bytes, "byte {at} of {bytes}: {answer:?}");
                assert_eq!(Ways::new(1).answer(0, &source.payload(), &[0xbc; SLACK_BYTES]).is_ok(), answer.is_ok());
            }
        }
    }
}

/// One that cannot be learned costs the others nothing: it takes no slots.
#[test]
fn sources_with_too_many_points_leave_the_slots_to_others() {
    let mut ways = Ways::new(1);
    for _ in 0..3 {
        for source in 0..2 * SKELETONS {
            let payload = Source::plain(&format!("large-{source}"), SKELETON_POINTS_MAX + 1).payload();
            assert_eq!(ways.answer(0, &payload, &ZEROS), Ok(Shape::Other));
        }
    }
    let small: Vec<_> = (0..100).map(|source| Source::plain(&format!("small-{source}"), 3).payload()).collect();
    for payload in &small {
        assert!(matches!(ways.answer(0, payload, &ZEROS), Ok(Shape::Learned(_))));
    }
    for payload in &small {
        assert!(is_known(ways.answer(0, payload, &ZEROS)));
    }
}

#[test]
fn sources_that_share_a_connection_are_told_apart() {
    // The same length, and equal but for the id; one of them also with the sensors in another order.
    let mut sources = [Source::plain("boiler-1", 5), Source::plain("boiler-2", 5), Source::plain("boiler-3", 5)];
    sources[2].points.swap(0, 4);
    let mut ways = Ways::new(1);
    for round in 0..200 {
        let source = &mut sources[[0, 1, 2, 0, 0, 2, 1, 1][round % 8]];
        source.renumber(round as u64);
        assert!(ways.answer(0, &source.payload(), &ZEROS).is_ok());
    }
    assert_eq!((ways.tally.learned, ways.tally.known), (3, 197));
}

#[test]
fn connections_that_share_a_source_all_match() {
    const CONNECTIONS: usize = 500;
    let mut source = Source::plain("boiler-7", 5);
    let mut ways = Ways::new(CONNECTIONS);
    for round in 0..2_000 {
        source.renumber(round as u64);
        assert!(ways.answer(round * 7 % CONNECTIONS, &source.payload(), &ZEROS).is_ok());
    }
    assert_eq!((ways.tally.learned, ways.tally.known), (1, 1_999));
}

#[test]
fn a_source_that_alternates_between_shapes_is_never_taken_for_the_other() {
    let mut ways = Ways::new(1);
    let mut sources = [Source::plain("boiler-7", 5), Source::plain("boiler-7", 5)];
    sources[1].points.swap(1, 2);
    for round in 0..3_000 {
        // Runs of both, of different lengths.
        let source = &mut sources[usize::from(round % 97 < 31)];
        source.renumber(round);
        assert!(ways.answer(0, &source.payload(), &ZEROS).is_ok());
    }
    assert!(ways.tally.learned > 10 && ways.tally.known > 500, "{:?}", ways.tally);
}

#[test]
fn sources_beyond_the_slots_are_judged_right() {
    const SOURCES: usize = 100_000;
    let mut ways = Ways::new(8);
    let payload = |source: usize, round: u64| {
        let mut event = Source::plain(&format!("device-{source}"), 1 + source % 3);
        event.renumber(round);
        event.payload()
    };
    for source in 0..SOURCES {
        assert!(ways.answer(source % 8, &payload(source, 0), &ZEROS).is_ok());
    }
    assert!(ways.tally.learned > SKELETONS as u64, "slots are given to others: {:?}", ways.tally);
    assert!(ways.slots() <= SKELETONS);
    // Some come again and again: these get theirs, while the others pass by.
    for round in 0..40 {
        for source in 0..64 {
            assert!(ways.answer(source % 8, &payload(source, round), &ZEROS).is_ok());
            let passing = SOURCES / 2 + 64 * round as usize + source;
            assert!(ways.answer(source % 8, &payload(passing, round), &ZEROS).is_ok());
        }
    }
    assert!(ways.tally.known > 64 * 10, "{:?}", ways.tally);
    assert!(ways.slots() <= SKELETONS);
}

#[test]
fn a_hint_from_another_table_is_only_a_guess() {
    let (mut one, mut other) = (Ways::new(1), Ways::new(1));
    for source in 0..50 {
        assert!(one.answer(0, &Source::plain(&format!("a{source}"), 2).payload(), &ZEROS).is_ok());
    }
    other.hints = one.hints.clone();
    for round in 0..3 {
        for source in 0..20 {
            let answer = other.answer(0, &Source::plain(&format!("b{source}"), 2).payload(), &ZEROS);
            assert_eq!(is_known(answer), round > 0);
        }
    }
}

#[test]
fn the_largest_payloads_are_judged_right() {
    let mut ways = Ways::new(1);
    for length in MAX_FRAME_SIZE - 3..=MAX_FRAME_SIZE + 3 {
        let mut source = Source::plain("boiler-7", 3);
        // The number last, so that it stands where 16 bits end.
        (source.turn, source.points[2].turn) = (1, 0);
        for turn in 0..8 {
            source.turn = turn;
            source.pad_to(length);
            if source.payload().len() != length {
                continue;
            }
            for seed in 0..2 {
                source.renumber(seed);
                let answer = ways.judged(0, &source.payload(), &random_slack(seed));
                let expected = if length > MAX_FRAME_SIZE { Err(RejectReason::Oversize) } else { Ok(Shape::Other) };
                assert_eq!(answer, expected, "{length} bytes");
            }
        }
    }
    for count in [POINTS_MAX - 1, POINTS_MAX, POINTS_MAX + 1] {
        let mut source = Source::plain("b", 0);
        let point = Measured { sensor: b"s".to_vec(), value: Number::double(1.0), tags: None, turn: 1 };
        source.points = vec![point; count];
        let answer = ways.judged(0, &source.payload(), &ZEROS);
        assert_eq!(answer, if count > POINTS_MAX { Err(RejectReason::TooManyPoints) } else { Ok(Shape::Other) });
    }
    for length in 0..70 {
        for fill in [0x00, 0x20, 0x60, 0x78, 0x80, 0xa0, 0xa1, 0xb7, 0xff] {
            assert!(ways.judged(0, &vec![fill; length], &[fill; SLACK_BYTES]).is_err());
        }
    }
}

#[test]
fn a_payload_without_its_slack_is_not_padded() {
    let buffer = [0; 100];
    assert_eq!(Padded::new(&buffer, 10, 100 - SLACK_BYTES).map(|padded| padded.payload().len()), Some(58));
    for (start, end) in [(10, 101 - SLACK_BYTES), (0, 100), (20, 19), (101, 101), (5, usize::MAX), (usize::MAX, 0)] {
        assert!(Padded::new(&buffer, start, end).is_none(), "{start}..{end}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn any_sequence_of_events_that_look_alike_is_judged_alike(data in prop::collection::vec(any::<u8>(), 300..2_500)) {
        targets::sequences(&data);
    }
}

#[test]
fn the_generator_of_sequences_takes_every_way() {
    use arbitrary::{Arbitrary, Unstructured};
    let mut sum = Tally::default();
    for seed in 0..400 {
        let data: Vec<u8> = (0..50).flat_map(|at| random_slack(seed << 32 | at)).collect();
        let mut ways = Ways::new(Script::CONNECTIONS);
        Script::arbitrary(&mut Unstructured::new(&data)).unwrap().play(&mut ways);
        sum.add(&ways.tally);
    }
    let all = sum.accepted() + sum.rejected.iter().sum::<u64>();
    let share = |count: u64| count as f64 / all as f64;
    assert!(share(sum.known) > 0.2 && share(sum.learned) > 0.02 && share(sum.other) > 0.1, "{sum:?}");
    for reason in [RejectReason::Malformed, RejectReason::InvalidUtf8, RejectReason::NotAnEvent] {
        assert!(sum.rejected[reason.index()] > 100, "{reason:?}: {sum:?}");
    }
    assert!(share(sum.accepted()) > 0.5, "{sum:?}");
}
