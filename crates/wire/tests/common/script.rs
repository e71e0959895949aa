//! Sequences of events over some connections, made to come close to a match with a skeleton and to miss it by little.
//!
//! A [`Script`] is made from bytes with `arbitrary`: random ones in the tests, a fuzzer's in its targets.

use arbitrary::{Arbitrary, Result, Unstructured};
use corelane_wire::SLACK_BYTES;

use super::shortest;
use super::ways::{Slack, Ways};

/// What some sources send, in turns.
#[derive(Debug)]
pub(crate) struct Script {
    sources: Vec<Source>,
    steps: Vec<Step>,
}

/// A source and what its next event holds. Texts may be of any bytes.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) id: Vec<u8>,
    pub(crate) timestamp: Number,
    pub(crate) metadata: Option<Vec<u8>>,
    pub(crate) points: Vec<Measured>,
    /// How far the keys are turned; odd: backwards.
    pub(crate) turn: u8,
    pub(crate) style: Style,
}

#[derive(Debug, Clone)]
pub(crate) struct Measured {
    pub(crate) sensor: Vec<u8>,
    pub(crate) value: Number,
    pub(crate) tags: Option<Vec<u8>>,
    pub(crate) turn: u8,
}

/// A head and its argument, of which the head takes as much as it has room for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Number {
    pub(crate) major: u8,
    pub(crate) width: Option<u8>,
    pub(crate) argument: u64,
}

/// What few encoders do.
#[derive(Debug, Clone, Copy, Default, Arbitrary)]
pub(crate) struct Style {
    pub(crate) indefinite_event: bool,
    pub(crate) indefinite_telemetry: bool,
    pub(crate) indefinite_points: bool,
    pub(crate) chunked_id: bool,
    pub(crate) extra_key: bool,
    pub(crate) extra_key_in_points: bool,
    pub(crate) wide_heads: bool,
}

#[derive(Debug)]
struct Step {
    connection: usize,
    source: usize,
    change: Change,
    /// Whether the source keeps the change, or it is of this one event.
    keeps: bool,
    slack: Behind,
}

/// How an event differs from the last one of its source. An index is taken modulo what there is.
#[derive(Debug, Arbitrary)]
enum Change {
    Nothing,
    /// New numbers everywhere, with the same heads.
    Numbers {
        seed: u64,
    },
    Argument {
        point: u8,
        argument: u64,
    },
    /// A NaN, an infinity or the largest number there is, with the same head.
    Special {
        point: u8,
        kind: u8,
    },
    Value {
        point: u8,
        value: Number,
    },
    Timestamp(Number),
    TextByte {
        text: u8,
        at: u8,
        byte: u8,
    },
    /// The last byte of a sensor goes to its tags, or back: the length stays while a head moves.
    Shift {
        point: u8,
        back: bool,
    },
    /// A byte of a name goes to the next point's.
    ShiftAcross {
        point: u8,
    },
    Swap {
        one: u8,
        other: u8,
    },
    Turn {
        point: Option<u8>,
        turn: u8,
    },
    Points(u8),
    /// Metadata to make the payload so many bytes more than 1 500 long.
    Length(u8),
    Style(Style),
    Byte {
        at: u16,
        byte: u8,
    },
    Truncate {
        at: u16,
    },
    Append {
        byte: u8,
    },
}

/// The bytes behind the payload.
#[derive(Debug, Arbitrary)]
enum Behind {
    Zeros,
    Breaks,
    Random(u64),
    /// What was cut off the payload, or its start once more.
    More,
}

impl Script {
    /// Connections that a script uses.
    pub(crate) const CONNECTIONS: usize = 3;

    /// Sends everything, each payload through [`Ways::answer`].
    pub(crate) fn play(mut self, ways: &mut Ways) {
        for step in &self.steps {
            let kept = &mut self.sources[step.source];
            let whole = if step.keeps || step.change.is_of_numbers() {
                kept.change(&step.change);
                kept.payload()
            } else {
                let mut source = kept.clone();
                source.change(&step.change);
                source.payload()
            };
            let payload = changed_bytes(whole.clone(), &step.change);
            let _ = ways.answer(step.connection, &payload, &slack(&step.slack, &whole, payload.len()));
        }
    }
}

/// The bytes of `kind` behind the first `sent` bytes of `whole`.
fn slack(kind: &Behind, whole: &[u8], sent: usize) -> Slack {
    match kind {
        Behind::Zeros => [0; SLACK_BYTES],
        Behind::Breaks => [0xff; SLACK_BYTES],
        Behind::Random(seed) => random_slack(*seed),
        Behind::More => {
            let rest = whole.get(sent..).unwrap_or_default();
            let mut more = rest.iter().chain(whole.iter().cycle());
            std::array::from_fn(|_| *more.next().unwrap_or(&0))
        }
    }
}

pub(crate) fn random_slack(seed: u64) -> Slack {
    let words: Vec<u8> = (0..4).flat_map(|at| mixed(seed ^ at).to_le_bytes()).collect();
    std::array::from_fn(|at| words[at])
}

/// A number that looks random (splitmix64).
pub(crate) fn mixed(seed: u64) -> u64 {
    let mut word = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

impl Source {
    /// One of the plainest kind: so many doubles.
    pub(crate) fn plain(id: &str, points: usize) -> Self {
        let sensor = |at: usize| Measured {
            sensor: format!("sensor-{at:02}").into_bytes(),
            value: Number::double(20.5 + at as f64),
            tags: None,
            turn: 0,
        };
        Self {
            id: id.as_bytes().to_vec(),
            timestamp: Number { major: 0, width: Some(3), argument: 1_700_000_000_000_000_000 },
            metadata: None,
            points: (0..points).map(sensor).collect(),
            turn: 0,
            style: Style::default(),
        }
    }

    // Written in one go: to encode is most of what a sequence costs.
    pub(crate) fn payload(&self) -> Vec<u8> {
        let style = self.style;
        let mut out = Vec::with_capacity(1024);
        let keys = ["id", "timestamp", "telemetry", "metadata", "firmware"];
        let has = [true, true, true, self.metadata.is_some(), style.extra_key];
        push_map(&mut out, keys, has, self.turn, style.indefinite_event, |out, key| match key {
            "id" if style.chunked_id => {
                out.extend([0x7f, 0x60]);
                style.push_text(out, &self.id);
                out.push(BREAK);
            }
            "id" => style.push_text(out, &self.id),
            "timestamp" => self.timestamp.push(out),
            "telemetry" if style.indefinite_telemetry => {
                out.push(0x9f);
                self.points.iter().for_each(|point| point.push(style, out));
                out.push(BREAK);
            }
            "telemetry" => {
                style.push_head(out, 4, self.points.len());
                self.points.iter().for_each(|point| point.push(style, out));
            }
            "metadata" => style.push_text(out, self.metadata.as_deref().unwrap_or_default()),
            _ => style.push_text(out, b"1.2"),
        });
        out
    }

    fn change(&mut self, change: &Change) {
        let points = self.points.len();
        let at = |index: u8| usize::from(index) % points.max(1);
        match *change {
            Change::Nothing | Change::Byte { .. } | Change::Truncate { .. } | Change::Append { .. } => (),
            Change::Numbers { seed } => self.renumber(seed),
            Change::Timestamp(timestamp) => self.timestamp = timestamp,
            Change::Length(more) => self.pad_to(1_500 + usize::from(more)),
            Change::Style(style) => self.style = style,
            Change::Turn { point: None, turn } => self.turn = turn,
            Change::TextByte { text, at, byte } => self.set_text_byte(text, at, byte),
            Change::Points(count) => {
                let more = Self::plain("", usize::from(count) % 28);
                self.points.truncate(more.points.len());
                self.points.extend(more.points.into_iter().skip(self.points.len()));
            }
            _ if points == 0 => (),
            Change::Argument { point, argument } => self.points[at(point)].value.argument = argument,
            Change::Special { point, kind } => self.points[at(point)].value.argument = special(kind),
            Change::Value { point, value } => self.points[at(point)].value = value,
            Change::Swap { one, other } => self.points.swap(at(one), at(other)),
            Change::Turn { point: Some(point), turn } => self.points[at(point)].turn = turn,
            Change::Shift { point, back } => {
                let Measured { sensor, tags, .. } = &mut self.points[at(point)];
                let tags = tags.get_or_insert_default();
                let (from, to) = if back { (tags, sensor) } else { (sensor, tags) };
                to.extend(from.pop());
            }
            Change::ShiftAcross { point } => {
                let byte = self.points[at(point)].sensor.pop();
                self.points[at(point.wrapping_add(1))].sensor.extend(byte);
            }
        }
    }

    /// Other arguments for the same heads, all finite.
    pub(crate) fn renumber(&mut self, seed: u64) {
        self.timestamp.argument = mixed(seed);
        for (at, point) in (1..).zip(&mut self.points) {
            // A small integer is its head.
            let argument = if point.value.width.is_none() { point.value.argument } else { mixed(seed ^ mixed(at)) };
            point.value.argument = argument;
            if !point.value.is_finite() {
                point.value.argument = argument & !special(0);
            }
        }
    }

    /// Metadata that makes the payload so long, if there is one: at some lengths a head grows by more than one byte.
    pub(crate) fn pad_to(&mut self, payload_bytes: usize) {
        self.metadata = None;
        let unpadded = self.payload().len();
        self.metadata = Some(vec![b'm'; payload_bytes.saturating_sub(unpadded)]);
        let beyond = self.payload().len().saturating_sub(payload_bytes);
        self.metadata = Some(vec![b'm'; payload_bytes.saturating_sub(unpadded + beyond)]);
    }

    fn set_text_byte(&mut self, text: u8, at: u8, byte: u8) {
        let of_points = self.points.iter_mut().flat_map(|point| [Some(&mut point.sensor), point.tags.as_mut()]);
        let mut texts: Vec<_> =
            [Some(&mut self.id), self.metadata.as_mut()].into_iter().chain(of_points).flatten().collect();
        let count = texts.len();
        let text = &mut texts[usize::from(text) % count];
        let bytes = text.len();
        if bytes > 0 {
            text[usize::from(at) % bytes] = byte;
        }
    }
}

/// What only bytes can be changed by.
fn changed_bytes(mut payload: Vec<u8>, change: &Change) -> Vec<u8> {
    let bytes = payload.len();
    match *change {
        Change::Byte { at, byte } => payload[usize::from(at) % bytes] = byte,
        Change::Truncate { at } => payload.truncate(usize::from(at) % bytes),
        Change::Append { byte } => payload.push(byte),
        _ => (),
    }
    payload
}

/// Arguments that are special to a float of one width at least.
fn special(kind: u8) -> u64 {
    match kind % 8 {
        // The exponents of all three widths: infinities.
        0 => 0x7ff0_0000_7f80_7c00,
        1 => 0xfff0_0000_ff80_fc00,
        2 => 0x7ff8_0000_7fc0_7e00,
        3 => 0x7ff0_0000_0000_0001,
        4 => 0x7fef_ffff_7f7f_7bff,
        5 => 0x8000_0000_8000_8000,
        6 => 0x7f80_0001,
        _ => u64::MAX,
    }
}

impl Change {
    /// Whether it leaves all heads as they are, so that a source may keep it without another look.
    fn is_of_numbers(&self) -> bool {
        matches!(self, Self::Nothing | Self::Numbers { .. } | Self::Byte { .. } | Self::Truncate { .. })
    }
}

impl Measured {
    fn push(&self, style: Style, out: &mut Vec<u8>) {
        let keys = ["sensor", "value", "tags", "unit"];
        let has = [true, true, self.tags.is_some(), style.extra_key_in_points];
        push_map(out, keys, has, self.turn, style.indefinite_points, |out, key| match key {
            "sensor" => style.push_text(out, &self.sensor),
            "value" => self.value.push(out),
            "tags" => style.push_text(out, self.tags.as_deref().unwrap_or_default()),
            _ => style.push_text(out, "°C".as_bytes()),
        });
    }
}

/// A map of those keys that it has, turned so far.
fn push_map<const N: usize>(
    out: &mut Vec<u8>,
    keys: [&str; N],
    has: [bool; N],
    turn: u8,
    indefinite: bool,
    mut push_value: impl FnMut(&mut Vec<u8>, &str),
) {
    let count = has.iter().filter(|has| **has).count();
    out.push(if indefinite { 0xbf } else { 0xa0 | count as u8 });
    for at in 0..N {
        let at = if turn % 2 == 1 { N - 1 - at } else { at };
        let at = (at + usize::from(turn / 2)) % N;
        if has[at] {
            Style::default().push_text(out, keys[at].as_bytes());
            push_value(out, keys[at]);
        }
    }
    if indefinite {
        out.push(BREAK);
    }
}

const BREAK: u8 = 0xff;

impl Number {
    pub(crate) fn double(value: f64) -> Self {
        Self { major: 7, width: Some(3), argument: value.to_bits() }
    }

    fn push(self, out: &mut Vec<u8>) {
        let Some(width) = self.width else { return out.push(self.major << 5 | (self.argument % 24) as u8) };
        out.push(self.major << 5 | (24 + width));
        out.extend_from_slice(&self.argument.to_be_bytes()[8 - (1 << width)..]);
    }

    fn is_finite(self) -> bool {
        match (self.major, self.width) {
            (7, Some(1)) => self.argument >> 10 & 0x1f != 0x1f,
            (7, Some(2)) => f32::from_bits(self.argument as u32).is_finite(),
            (7, Some(3)) => f64::from_bits(self.argument).is_finite(),
            _ => true,
        }
    }
}

impl Style {
    fn push_head(self, out: &mut Vec<u8>, major: u8, argument: usize) {
        let argument = argument as u64;
        let width = if self.wide_heads { Some(1) } else { shortest(argument) };
        Number { major, width, argument }.push(out);
    }

    fn push_text(self, out: &mut Vec<u8>, bytes: &[u8]) {
        self.push_head(out, 3, bytes.len());
        out.extend_from_slice(bytes);
    }
}

impl<'a> Arbitrary<'a> for Script {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let sources = (0..u.int_in_range(1..=6)?).map(|_| Source::arbitrary(u)).collect::<Result<Vec<_>>>()?;
        let mut steps = Vec::new();
        while !u.is_empty() && steps.len() < 64 {
            steps.push(Step {
                connection: u.int_in_range(0..=Self::CONNECTIONS - 1)?,
                source: u.int_in_range(0..=sources.len() - 1)?,
                // Most events are what a skeleton is for.
                change: match u.int_in_range(0..=3)? {
                    0 => Change::arbitrary(u)?,
                    1 => Change::Nothing,
                    _ => Change::Numbers { seed: u.arbitrary()? },
                },
                keeps: u.ratio(1, 4)?,
                slack: u.arbitrary()?,
            });
        }
        Ok(Self { sources, steps })
    }
}

impl<'a> Arbitrary<'a> for Source {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let points = if u.ratio(1, 8)? { u.int_in_range(20..=27)? } else { u.int_in_range(0..=6)? };
        Ok(Self {
            id: any_text(u)?,
            timestamp: Number {
                major: 0,
                width: *u.choose(&[Some(3), Some(2), Some(0), None])?,
                argument: u.arbitrary()?,
            },
            metadata: if u.ratio(1, 3)? { Some(any_text(u)?) } else { None },
            points: (0..points).map(|_| Measured::arbitrary(u)).collect::<Result<_>>()?,
            turn: u.arbitrary()?,
            style: if u.ratio(1, 8)? { u.arbitrary()? } else { Style::default() },
        })
    }
}

impl<'a> Arbitrary<'a> for Measured {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(Self {
            sensor: any_text(u)?,
            value: u.arbitrary()?,
            tags: if u.ratio(1, 4)? { Some(any_text(u)?) } else { None },
            turn: u.arbitrary()?,
        })
    }
}

impl<'a> Arbitrary<'a> for Number {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let doubles = (7, Some(3));
        let (major, width) = *u.choose(&[
            doubles,
            doubles,
            doubles,
            doubles,
            (7, Some(2)),
            (7, Some(2)),
            (7, Some(1)),
            (0, None),
            (0, Some(0)),
            (0, Some(1)),
            (0, Some(2)),
            (0, Some(3)),
            (1, None),
            (1, Some(0)),
            (1, Some(1)),
            (1, Some(2)),
            (1, Some(3)),
        ])?;
        // Not numbers at all, now and then: simple values, and texts of that length.
        let major = if u.ratio(1, 64)? { *u.choose(&[3, 6, 7])? } else { major };
        Ok(Self { major, width, argument: u.arbitrary()? })
    }
}

/// A few lengths near each limit, and short ones.
fn any_text(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let letters = *u.choose(&["a", "s", "m", "ü", "°", "x\u{1f321}"])?;
    let bytes: usize = *u.choose(&[1, 4, 8, 9, 15, 16, 17, 23, 24, 30, 31, 32, 33, 40, 64, 200, 255, 256, 257, 0])?;
    // Short ones more often, so that an event can be a skeleton.
    let bytes = if u.ratio(3, 4)? { bytes % 20 + 1 } else { bytes };
    let mut text = letters.repeat(bytes.div_ceil(letters.len())).into_bytes();
    if u.ratio(31, 32)? {
        // Else a character may be cut.
        while str::from_utf8(&text[..bytes.min(text.len())]).is_err() {
            text.insert(0, b'-');
        }
    }
    text.truncate(bytes);
    Ok(text)
}
