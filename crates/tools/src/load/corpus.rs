//! The frames that are sent, made before the first is due: sending one copies it and sets its timestamp.
//!
//! They are sent in order, over and over, and dealt out to the connections in turn.

use corelane_wire::{HEADER_BYTES, MAX_FRAME_SIZE, POINTS_MAX, Step, encode_event, next_step};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::{distribution::Distribution, irregular};

/// What the frames are like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Mix {
    /// Events as a device sends them: `points` of one shape; padded, or points left out, to be of `size`.
    Device { points: Option<Distribution>, size: Option<Distribution> },
    /// Nothing like the other.
    Irregular,
}

/// Frames, one behind the other.
#[derive(Debug, Default)]
pub(super) struct Corpus {
    bytes: Vec<u8>,
    frames: Vec<Frame>,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    start: usize,
    bytes: usize,
    /// Where the eight bytes of its timestamp are, from its start; none where the original time is to be sent.
    timestamp_at: Option<usize>,
}

impl Corpus {
    /// Frames of `mix`, so that each connection is a source of its own.
    pub(super) fn generate(mix: Mix, connections: usize) -> Self {
        let mut random = SmallRng::seed_from_u64(SEED);
        let mut corpus = Self::default();
        let rounds = FRAMES_WANTED.div_ceil(connections);
        let mut frame = Vec::new();
        for number in 0..rounds * connections {
            let id = format!("load-{:05}", number % connections);
            frame.clear();
            match mix {
                Mix::Irregular => irregular::append(&mut frame, &id, TIMESTAMP_MARK, &mut random),
                Mix::Device { points, size } => {
                    let points = points.map(|points| points.draw(&mut random));
                    let size = size.map(|size| size.draw(&mut random));
                    append_device(&mut frame, &id, points, size, &mut random);
                }
            }
            corpus.push(&frame);
            // Rounds are whole, or a source would wander from one connection to another.
            if number % connections == connections - 1 && corpus.bytes.len() >= BYTES_WANTED {
                break;
            }
        }
        corpus
    }

    /// Whole frames that were made elsewhere, which keep their times.
    pub(super) fn of(bytes: Vec<u8>) -> Self {
        let mut frames = Vec::new();
        let mut rest = &bytes[..];
        while let Step::Frame(payload) = next_step(&mut rest) {
            let frame_bytes = HEADER_BYTES + payload.len();
            frames.push(Frame {
                start: bytes.len() - rest.len() - frame_bytes,
                bytes: frame_bytes,
                timestamp_at: None,
            });
        }
        Self { bytes, frames }
    }

    fn push(&mut self, frame: &[u8]) {
        let mark = TIMESTAMP_MARK.to_be_bytes();
        let timestamp_at = frame.windows(mark.len()).position(|bytes| bytes == mark);
        debug_assert!(timestamp_at.is_some(), "every frame that is made here has the mark");
        self.frames.push(Frame { start: self.bytes.len(), bytes: frame.len(), timestamp_at });
        self.bytes.extend_from_slice(frame);
    }

    /// How many different frames there are.
    pub(super) fn frame_count(&self) -> usize {
        self.frames.len()
    }

    /// Bytes of a frame on average, header included.
    pub(super) fn frame_bytes_mean(&self) -> f64 {
        self.bytes.len() as f64 / self.frames.len() as f64
    }

    /// Appends frame `number` as of now, in nanoseconds since the Unix epoch. Beyond the last it goes on with the first.
    pub(super) fn append(&self, number: u64, now_ns: u64, out: &mut Vec<u8>) {
        let frame = self.frame(number);
        let start = out.len();
        out.extend_from_slice(&self.bytes[frame.start..][..frame.bytes]);
        if let Some(at) = frame.timestamp_at {
            out[start + at..][..8].copy_from_slice(&now_ns.to_be_bytes());
        }
    }

    fn frame(&self, number: u64) -> Frame {
        self.frames[(number % self.frames.len() as u64) as usize]
    }
}

/// An event of `points`, as many as `size` has room for; padded to it, where it was given, by its metadata.
fn append_device(out: &mut Vec<u8>, id: &str, points: Option<usize>, size: Option<usize>, random: &mut SmallRng) {
    let payload_max = size.map_or(MAX_FRAME_SIZE, |size| size.saturating_sub(HEADER_BYTES).min(MAX_FRAME_SIZE));
    let empty = payload_bytes(id, None, &[]);
    let point_bytes = payload_bytes(id, None, &[point(0, random)]) - empty;
    // The head of a long array has two bytes more.
    let fit = payload_max.saturating_sub(empty + 2) / point_bytes;
    let points: Vec<_> = (0..points.unwrap_or(POINTS_MAX).min(fit).min(POINTS_MAX)).map(|n| point(n, random)).collect();
    let bare = payload_bytes(id, None, &points);
    let room = payload_max.saturating_sub(bare);
    let padding = "firmware=2.7.1;battery=91;rssi=-67;".repeat(room / 16 + 1);
    // Key and head of a text of this length.
    let head = METADATA_KEY_BYTES
        + if room < METADATA_KEY_BYTES + 25 {
            1
        } else if room < 267 {
            2
        } else {
            3
        };
    let metadata = size.and_then(|_| padding.get(..room.checked_sub(head)?));
    encode(out, id, metadata, &points);
}

type Point = (String, f64);

fn point(number: usize, random: &mut SmallRng) -> Point {
    let quantity = QUANTITIES[number % QUANTITIES.len()];
    (format!("{quantity}_of_line_{number:04}"), random.random_range(-1e3..1e3))
}

fn payload_bytes(id: &str, metadata: Option<&str>, points: &[Point]) -> usize {
    let mut out = Vec::new();
    encode(&mut out, id, metadata, points);
    out.len() - HEADER_BYTES
}

fn encode(out: &mut Vec<u8>, id: &str, metadata: Option<&str>, points: &[Point]) {
    let points = points.iter().map(|(sensor, value)| (sensor.as_str(), *value, Some("unit=C;row=7")));
    encode_event(out, id, TIMESTAMP_MARK, metadata, points).expect("it was made to fit");
}

/// Of one length, so that a point is as long as the other.
const QUANTITIES: [&str; 8] = [
    "temperature",
    "pressure_in",
    "pressure_up",
    "vibration_x",
    "vibration_y",
    "current_rms",
    "voltage_rms",
    "humidity_in",
];

/// Text head and text of the key.
const METADATA_KEY_BYTES: usize = 9;

/// A timestamp that is found again in the bytes of a frame, and has eight bytes as those of this century do.
const TIMESTAMP_MARK: u64 = 0x17f3_a95c_e1d7_4b26;

/// Every run sends the same frames.
const SEED: u64 = 7600;

/// Enough that frames differ, in one round for each of many connections at least; so many bytes do, too.
const FRAMES_WANTED: usize = 4096;
const BYTES_WANTED: usize = 32 << 20;

#[cfg(test)]
mod tests {
    use corelane_wire::Decoder;

    use super::*;

    /// Bytes, points and timestamp of every frame as sent, each of which is valid.
    fn sent(corpus: &Corpus) -> Vec<(usize, usize, u64)> {
        let mut decoder = Decoder::new();
        let frames = 0..corpus.frame_count() as u64;
        frames
            .map(|number| {
                let mut frame = Vec::new();
                corpus.append(number, 1_800_000_000_000_000_000, &mut frame);
                let mut rest = &frame[..];
                let Step::Frame(payload) = next_step(&mut rest) else { panic!("{number}: one frame") };
                assert!(rest.is_empty());
                let event = decoder.decode(payload).unwrap_or_else(|reason| panic!("{number}: {reason}"));
                (frame.len(), event.points().len(), event.timestamp())
            })
            .collect()
    }

    fn device(points: Option<&str>, size: Option<&str>) -> Corpus {
        let parse = |text| Distribution::parse(text).unwrap();
        Corpus::generate(Mix::Device { points: points.map(parse), size: size.map(parse) }, 64)
    }

    #[test]
    fn frames_of_a_device_have_the_points_and_the_size_that_were_asked_for() {
        let frames = sent(&device(Some("14"), Some("1000")));
        assert!(frames.len() >= FRAMES_WANTED && frames.len().is_multiple_of(64));
        assert!(frames.iter().all(|frame| *frame == (1_000, 14, 1_800_000_000_000_000_000)), "{:?}", frames[0]);

        let drawn = sent(&device(Some("0..400"), None));
        assert!(drawn.iter().any(|frame| frame.1 == 0) && drawn.iter().any(|frame| frame.1 > 390));
        for size in ["60", "100", "125", "150", "350", "5000", "65540", "1000000"] {
            let (bytes, ..) = sent(&device(Some("1"), Some(size)))[0];
            let wanted = size.parse::<usize>().unwrap().min(HEADER_BYTES + MAX_FRAME_SIZE);
            assert!((wanted.saturating_sub(12)..=wanted.max(60)).contains(&bytes), "{size}: {bytes}");
        }
        // Without a number of points, as many as fit.
        let full = sent(&device(None, Some("10000")))[0];
        assert!((9_900..=10_000).contains(&full.0) && full.1 > 100, "{full:?}");
        // Most points of an event.
        assert!(sent(&device(Some("5000"), None))[0].0 > 60_000);
    }

    #[test]
    fn irregular_frames_are_valid_and_of_every_size() {
        let corpus = Corpus::generate(Mix::Irregular, 64);
        let frames = sent(&corpus);
        let bytes = || frames.iter().map(|frame| frame.0);
        assert!(
            bytes().min() < Some(80) && bytes().max() > Some(55_000) && bytes().max() <= Some(60_000 + HEADER_BYTES)
        );
        let points = || frames.iter().map(|frame| frame.1);
        assert!(points().min() == Some(0) && (380..=400).contains(&points().max().unwrap()));
        assert!(corpus.frame_bytes_mean() > 2_000.0);
    }

    #[test]
    fn every_connection_of_many_has_a_frame() {
        let corpus = Corpus::generate(Mix::Irregular, 10_000);
        assert_eq!(corpus.frame_count(), 10_000);
    }

    #[test]
    fn frames_of_a_file_keep_their_times_and_begin_anew() {
        let mut bytes = Vec::new();
        for timestamp in [5, 6] {
            encode_event(&mut bytes, "a", timestamp, None, [("s", 1.0, None)].into_iter()).unwrap();
        }
        let corpus = Corpus::of(bytes);
        let times: Vec<_> = sent(&corpus).iter().map(|frame| frame.2).collect();
        assert_eq!(times, [5, 6]);
        let (mut first, mut third) = (Vec::new(), Vec::new());
        corpus.append(0, 7, &mut first);
        corpus.append(2, 8, &mut third);
        assert_eq!(first, third);
    }
}
