//! One payload through every way there is, side by side; and a model of what the skeleton table may say of it.

use std::collections::HashMap;

use corelane_wire::{
    Decoder, Event, Hint, Padded, RejectReason, SKELETON_POINTS_MAX, SKELETONS, SLACK_BYTES, Shape, SkeletonSlot,
    SkeletonTable,
};

use super::{OwnedEvent, ciborium_judge, judge};

/// What lies behind a payload and must never matter.
pub(crate) type Slack = [u8; SLACK_BYTES];

pub(crate) const ZEROS: Slack = [0; SLACK_BYTES];

/// A general decoder, and a fast one with its skeletons and the hints of some connections. Each is used for payload after
/// payload, so that nothing of one may leak into the next.
pub(crate) struct Ways {
    general: Decoder,
    fast: Decoder,
    skeletons: SkeletonTable,
    pub(crate) hints: Vec<Hint>,
    /// The id and the sensors of each slot when it was last learned.
    learned: HashMap<SkeletonSlot, Names>,
    pub(crate) tally: Tally,
}

/// How often each answer was given.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub(crate) struct Tally {
    pub(crate) other: u64,
    pub(crate) learned: u64,
    pub(crate) known: u64,
    pub(crate) rejected: [u64; RejectReason::ALL.len()],
}

#[derive(Debug, PartialEq)]
struct Names {
    id: String,
    sensors: Vec<String>,
}

impl Ways {
    pub(crate) fn new(connections: usize) -> Self {
        Self {
            general: Decoder::new(),
            fast: Decoder::new(),
            skeletons: SkeletonTable::new(),
            hints: vec![Hint::default(); connections],
            learned: HashMap::new(),
            tally: Tally::default(),
        }
    }

    /// What `decode` and `decode_padded` both say of a payload that comes over `connection` and is followed by `slack`.
    ///
    /// Panics when they differ in anything, and when the shape is not what it promises.
    pub(crate) fn answer(&mut self, connection: usize, payload: &[u8], slack: &Slack) -> Result<Shape, RejectReason> {
        // A block of its own, so that AddressSanitizer sees a load behind the slack, and not always aligned.
        let lead = payload.last().map_or(0, |byte| usize::from(byte % 61));
        let mut buffer = Vec::with_capacity(lead + payload.len() + SLACK_BYTES);
        buffer.resize(lead, 0xff);
        buffer.extend_from_slice(payload);
        buffer.extend_from_slice(slack);
        let padded = Padded::new(&buffer, lead, lead + payload.len()).expect("the slack is there");

        let general = self.general.decode(payload);
        let fast = self.fast.decode_padded(padded, &mut self.skeletons, &mut self.hints[connection]);
        match (&general, &fast) {
            (Ok(general), Ok(fast)) => {
                assert_eq!(general.shape(), Shape::Other, "the general way knows of no table");
                // Not shown: the fast way's event may hold texts that are none, which cannot be printed.
                assert!(are_same(general, fast), "{general:?}, but the fast way differs, of {payload:02x?}");
                check_shape(&mut self.learned, fast);
            }
            (Err(general), Err(fast)) => assert_eq!(general, fast, "of {payload:02x?}"),
            (Ok(_), Err(fast)) => panic!("{general:?}, but the fast way: {fast:?}, of {payload:02x?}"),
            (Err(general), Ok(_)) => panic!("{general:?}, but the fast way accepts {payload:02x?}"),
        }
        self.tally.count(fast.map(|event| event.shape()))
    }

    /// As [`answer`](Self::answer), and both judges are asked, too.
    pub(crate) fn judged(&mut self, connection: usize, payload: &[u8], slack: &Slack) -> Result<Shape, RejectReason> {
        let shape = self.answer(connection, payload, slack);
        let verdict = self.general.decode(payload).map(OwnedEvent::from);
        assert_eq!(verdict, judge::verdict(payload), "{payload:02x?}");
        assert_eq!(verdict.ok(), ciborium_judge::verdict(payload), "ciborium on {payload:02x?}");
        shape
    }

    /// Slots that were ever learned.
    pub(crate) fn slots(&self) -> usize {
        self.learned.len()
    }
}

impl Tally {
    fn count(&mut self, answer: Result<Shape, RejectReason>) -> Result<Shape, RejectReason> {
        *match answer {
            Ok(Shape::Other) => &mut self.other,
            Ok(Shape::Learned(_)) => &mut self.learned,
            Ok(Shape::Known(_)) => &mut self.known,
            Err(reason) => &mut self.rejected[reason.index()],
        } += 1;
        answer
    }

    pub(crate) fn add(&mut self, more: &Self) {
        self.other += more.other;
        self.learned += more.learned;
        self.known += more.known;
        for (sum, more) in self.rejected.iter_mut().zip(more.rejected) {
            *sum += more;
        }
    }

    pub(crate) fn accepted(&self) -> u64 {
        self.other + self.learned + self.known
    }
}

fn are_same(one: &Event<'_>, other: &Event<'_>) -> bool {
    // The fast way makes texts unchecked: look at their bytes as if nobody had vouched for them.
    let is_utf8 = |text: &str| str::from_utf8(text.as_bytes()).is_ok();
    (one.id(), one.timestamp(), one.metadata()) == (other.id(), other.timestamp(), other.metadata())
        && one.points().len() == other.points().len()
        && is_utf8(other.id())
        && other.metadata().is_none_or(is_utf8)
        && one.points().zip(other.points()).all(|(one, other)| {
            (one.sensor, one.value.to_bits(), one.tags) == (other.sensor, other.value.to_bits(), other.tags)
                && other.value.is_finite()
                && is_utf8(other.sensor)
                && other.tags.is_none_or(is_utf8)
        })
}

/// A known shape must be what was learned.
fn check_shape(learned: &mut HashMap<SkeletonSlot, Names>, event: &Event<'_>) {
    match event.shape() {
        Shape::Other => (),
        Shape::Learned(slot) => {
            assert!((slot as usize) < SKELETONS && event.points().len() <= SKELETON_POINTS_MAX, "{event:?}");
            let sensors = event.points().map(|point| point.sensor.to_owned()).collect();
            learned.insert(slot, Names { id: event.id().to_owned(), sensors });
        }
        Shape::Known(slot) => {
            let names = learned.get(&slot).expect("a known slot was learned");
            assert_eq!(names.id, event.id(), "slot {slot} is another source's");
            assert!(event.points().map(|point| point.sensor).eq(names.sensors.iter()), "{names:?}, but {event:?}");
        }
    }
}
