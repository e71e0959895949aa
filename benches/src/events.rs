//! The events that are decoded and sent: all from a fixed seed, so every run and every contender has the same bytes.
//!
//! No frame holds the byte 0x0a. That is what makes the server that splits at newlines comparable at all: it would
//! otherwise find "lines" in the middle of numbers.

use std::ops::Range;

use corelane_testkit::Random;
use corelane_testkit::frames::{EVENT_POINTS, SENSORS};
use corelane_wire::{HEADER_BYTES, Padded, SLACK_BYTES};
use minicbor::Encoder;

/// Payload of [`device`], in bytes.
pub const DEVICE_EVENT_BYTES: usize = 997;
/// Points of [`device`].
pub const DEVICE_POINTS: usize = EVENT_POINTS as usize;

/// Frames, one behind the other as they come over a connection, with slack behind the last.
#[derive(Debug)]
pub struct Stream {
    bytes: Vec<u8>,
    payloads: Vec<Range<usize>>,
}

/// What stays the same in the events of a source.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its id.
    pub id: String,
    /// Sensor and tags of each point.
    pub points: Vec<(String, Option<String>)>,
}

impl Stream {
    /// No frame yet.
    pub fn new() -> Self {
        Self { bytes: vec![0; SLACK_BYTES], payloads: Vec::new() }
    }

    /// Appends a frame.
    pub fn push(&mut self, payload: &[u8]) {
        let header = u32::try_from(payload.len()).expect("a payload fits a frame").to_be_bytes();
        self.bytes.truncate(self.bytes.len() - SLACK_BYTES);
        self.bytes.extend_from_slice(&header);
        let start = self.bytes.len();
        self.bytes.extend_from_slice(payload);
        self.payloads.push(start..start + payload.len());
        self.bytes.extend_from_slice(&[0; SLACK_BYTES]);
    }

    /// Appends frames until there are `bytes`, headers included, and two frames at least.
    pub fn fill(mut self, bytes: usize, mut payload: impl FnMut(usize) -> Vec<u8>) -> Self {
        while self.frames() < 2 || self.as_bytes().len() < bytes {
            let payload = payload(self.frames());
            self.push(&payload);
        }
        self
    }

    /// How many frames.
    pub fn frames(&self) -> usize {
        self.payloads.len()
    }

    /// Header and payload of every frame.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.bytes.len() - SLACK_BYTES]
    }

    /// Bytes of all payloads together.
    pub fn payload_bytes(&self) -> usize {
        self.as_bytes().len() - self.frames() * HEADER_BYTES
    }

    /// Where frame `index` ends in [`as_bytes`](Self::as_bytes).
    pub fn frame_end(&self, index: usize) -> usize {
        self.payloads[index].end
    }

    /// The payloads.
    pub fn payloads(&self) -> impl Iterator<Item = &[u8]> {
        self.payloads.iter().map(|payload| &self.bytes[payload.clone()])
    }

    /// The payloads, each with what follows it.
    pub fn padded(&self) -> impl Iterator<Item = Padded<'_>> {
        let padded = |payload: &Range<usize>| Padded::new(&self.bytes, payload.start, payload.end);
        self.payloads.iter().map(move |payload| padded(payload).expect("a stream ends in slack"))
    }
}

impl Default for Stream {
    fn default() -> Self {
        Self::new()
    }
}

/// The device that everything of "1 KB" is about: 14 points of three keys, 997 bytes an event. Devices differ in their
/// number alone.
pub fn device(number: usize) -> Source {
    let points = SENSORS.iter().map(|sensor| ((*sensor).to_owned(), Some("unit=C;row=7".to_owned())));
    Source { id: format!("plant-07-pu-{number:04}"), points: points.collect() }
}

/// As [`device`], of the same sizes, with a letter or two in every text that is not ASCII.
pub fn device_not_ascii(number: usize) -> Source {
    let Source { id, points } = device(number);
    // One letter of two bytes for two of one.
    let replaced = |text: &str| text.replacen("er", "é", 1).replacen("ar", "ä", 1).replacen("ow", "ö", 1);
    let not_ascii = |text: &str| match replaced(text) {
        same if same.is_ascii() => format!("ü{}", &text[2..]),
        other => other,
    };
    let points = points.iter().map(|(sensor, tags)| (not_ascii(sensor), tags.as_deref().map(not_ascii))).collect();
    Source { id, points }
}

/// A source with so many points, all of the sizes of [`device`]'s on average, named as no other source names them.
pub fn other_device(number: usize, points: usize, random: &mut Random) -> Source {
    const QUANTITIES: [&str; 8] =
        ["temperature", "pressure", "flow_rate", "vibration", "current", "voltage", "speed", "humidity"];
    const PLACES: [&str; 8] = ["intake", "outlet", "bearing", "motor", "cabinet", "line", "tank", "nozzle"];
    let name = |index: usize, random: &mut Random| {
        let (quantity, place) = (QUANTITIES[random.below(8)], PLACES[random.below(8)]);
        (format!("{quantity}_{place}_{:03}_{index:02}", number % 1000), Some("unit=C;row=7".to_owned()))
    };
    let points = (0..points).map(|index| name(index, random)).collect();
    Source { id: format!("plant-08-gw-{number:04}"), points }
}

/// A source whose events are as near to so many bytes as points of [`device`]'s sizes allow, from below.
pub fn device_of(payload_bytes: usize) -> Source {
    let with = |points: usize| Source {
        id: "plant-07-pu-0001".to_owned(),
        points: (0..points)
            .map(|index| (format!("temperature_of_cell_{index:04}"), Some("unit=C;row=7".to_owned())))
            .collect(),
    };
    let bytes = |points| plain(&with(points), 0, &mut Random::from_seed(0)).len();
    // The head of a long array has two bytes more.
    let (empty, point_bytes) = (bytes(0) + 2, bytes(1) - bytes(0));
    with((payload_bytes - empty) / point_bytes)
}

/// A device of one point, 100 bytes an event.
pub fn small_device() -> Source {
    let point = ("temperature_intake".to_owned(), Some("unit=C".to_owned()));
    Source { id: "plant-07-01".to_owned(), points: vec![point] }
}

/// An event as encoders write it by default: id, timestamp, telemetry; every value a double.
pub fn plain(source: &Source, number: usize, random: &mut Random) -> Vec<u8> {
    let points = source.points.iter().map(|(sensor, tags)| (sensor.as_str(), tags.as_deref()));
    encode(&source.id, timestamp(number), points, random)
}

/// As [`plain`], but the tags of the first point are others in each event: no event equals one before it in all but
/// numbers, so that a skeleton is never of use.
pub fn with_changing_text(source: &Source, number: usize, random: &mut Random) -> Vec<u8> {
    let bytes = source.points[0].1.as_ref().map_or(0, String::len);
    let text = format!("{number:0bytes$}");
    let points = source.points.iter().enumerate().map(|(index, (sensor, tags))| {
        let tags = if index == 0 { Some(text.as_str()) } else { tags.as_deref() };
        (sensor.as_str(), tags)
    });
    encode(&source.id, timestamp(number), points, random)
}

/// As [`plain`], with the keys of the event and of each point in an order of their own.
pub fn shuffled(source: &Source, number: usize, random: &mut Random) -> Vec<u8> {
    let mut out = Encoder::new(Vec::new());
    write(out.map(3));
    for key in order(3, random) {
        match key {
            0 => write(out.str("id").and_then(|out| out.str(&source.id))),
            1 => write(out.str("timestamp").and_then(|out| out.u64(timestamp(number)))),
            _ => {
                write(out.str("telemetry").and_then(|out| out.array(source.points.len() as u64)));
                for (sensor, tags) in &source.points {
                    write(out.map(2 + u64::from(tags.is_some())));
                    for key in order(2 + usize::from(tags.is_some()), random) {
                        match key {
                            0 => write(out.str("sensor").and_then(|out| out.str(sensor))),
                            1 => write(out.str("value").and_then(|out| out.f64(value(random)))),
                            _ => write(out.str("tags").and_then(|out| out.str(tags.as_deref().unwrap_or_default()))),
                        };
                    }
                }
            }
        }
    }
    out.into_writer()
}

/// An event of a shape of its own: 3 to 25 points, each value as wide as the encoder of another language makes it; some
/// with metadata, some with a key that the schema does not know, some of indefinite length.
pub fn mixed(number: usize, random: &mut Random) -> Vec<u8> {
    let points = 3 + random.below(23);
    let source = other_device(random.below(64), points, random);
    let (metadata, unknown, indefinite) = (random.below(2) == 0, random.below(8) == 0, random.below(8) == 0);
    let mut out = Encoder::new(Vec::new());
    match indefinite {
        true => write(out.begin_map()),
        false => write(out.map(3 + u64::from(metadata) + u64::from(unknown))),
    }
    write(out.str("id").and_then(|out| out.str(&source.id)));
    write(out.str("timestamp").and_then(|out| out.u64(timestamp(number))));
    if metadata {
        write(out.str("metadata").and_then(|out| out.str("firmware=2.7.1;battery=91;rssi=-67")));
    }
    if unknown {
        write(out.str("sequence").and_then(|out| out.u64(number as u64 + 1_000)));
    }
    write(out.str("telemetry"));
    match indefinite {
        true => write(out.begin_array()),
        false => write(out.array(source.points.len() as u64)),
    }
    for (sensor, tags) in &source.points {
        let tags = tags.as_ref().filter(|_| random.below(4) > 0);
        write(out.map(2 + u64::from(tags.is_some())));
        write(out.str("sensor").and_then(|out| out.str(sensor)).and_then(|out| out.str("value")));
        match random.below(8) {
            0 => write(out.u32(1_000 + random.below(50_000) as u32)),
            1 => write(out.i32(-1_000 - random.below(50_000) as i32)),
            2 => write(out.f16(random.below(512) as f32 / 4.0)),
            3 | 4 => write(out.f32(value(random) as f32)),
            _ => write(out.f64(value(random))),
        }
        if let Some(tags) = tags {
            write(out.str("tags").and_then(|out| out.str(tags)));
        }
    }
    if indefinite {
        write(out.end().and_then(Encoder::end));
    }
    out.into_writer()
}

fn encode<'p>(
    id: &str,
    timestamp: u64,
    points: impl ExactSizeIterator<Item = (&'p str, Option<&'p str>)>,
    random: &mut Random,
) -> Vec<u8> {
    let mut frame = Vec::new();
    let points = points.map(|(sensor, tags)| (sensor, value(random), tags));
    corelane_wire::encode_event(&mut frame, id, timestamp, None, points).expect("the event fits a frame");
    frame.split_off(HEADER_BYTES)
}

/// A measured value with all the bits of a double, finite.
fn value(random: &mut Random) -> f64 {
    loop {
        let value = (random.next_number() >> 11) as f64 / (1u64 << 43) as f64;
        if !value.to_be_bytes().contains(&NEWLINE) && !(value as f32).to_be_bytes().contains(&NEWLINE) {
            return value;
        }
    }
}

/// A time in 2026, in nanoseconds, 100 us after that of the event before.
fn timestamp(number: usize) -> u64 {
    let mut time = 1_767_225_600_000_000_000 + number as u64 * 100_000;
    while let Some(at) = time.to_be_bytes().iter().position(|&byte| byte == NEWLINE) {
        time += 1 << (56 - 8 * at);
    }
    time
}

/// The numbers below `count` in any order.
fn order(count: usize, random: &mut Random) -> Vec<usize> {
    let mut order: Vec<_> = (0..count).collect();
    for at in (1..count).rev() {
        order.swap(at, random.below(at + 1));
    }
    order
}

/// A vector takes every write.
fn write<T>(written: Result<T, minicbor::encode::Error<std::convert::Infallible>>) {
    if written.is_err() {
        unreachable!("a vector grows");
    }
}

const NEWLINE: u8 = b'\n';

#[cfg(test)]
mod tests {
    use corelane_wire::Decoder;

    use super::*;

    #[test]
    fn events_are_valid_of_the_size_they_promise_and_without_newline() {
        let mut random = Random::from_seed(1);
        let mut decoder = Decoder::new();
        let mut check = |payload: Vec<u8>| {
            assert!(!payload.contains(&NEWLINE) && !(payload.len() as u32).to_be_bytes().contains(&NEWLINE));
            let points = decoder.decode(&payload).map(|event| event.points().len());
            (payload.len(), points.expect("valid"))
        };
        for number in 0..2_000 {
            for source in [device(number), device_not_ascii(number)] {
                assert_eq!(check(plain(&source, number, &mut random)), (DEVICE_EVENT_BYTES, DEVICE_POINTS));
                assert_eq!(check(shuffled(&source, number, &mut random)), (DEVICE_EVENT_BYTES, DEVICE_POINTS));
                assert_eq!(check(with_changing_text(&source, number, &mut random)).0, DEVICE_EVENT_BYTES);
            }
        }
        assert_eq!(check(plain(&small_device(), 1, &mut random)), (100, 1));
        for bytes in [16 * 1024, 64 * 1024] {
            let (long, _) = check(plain(&device_of(bytes), 1, &mut random));
            assert!((bytes - 80..=bytes).contains(&long), "{long}");
        }
    }

    #[test]
    fn no_text_of_the_other_alphabet_is_ascii() {
        let Source { points, .. } = device_not_ascii(0);
        assert!(points.iter().all(|(sensor, tags)| !sensor.is_ascii() && !tags.as_deref().unwrap_or("").is_ascii()));
    }

    #[test]
    fn mixed_events_are_valid() {
        let mut random = Random::from_seed(2);
        let mut decoder = Decoder::new();
        for number in 0..2_000 {
            let payload = mixed(number, &mut random);
            assert!(decoder.decode(&payload).is_ok(), "{number}");
        }
    }
}
