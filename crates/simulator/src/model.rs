//! What a server has to make of a device's stream, computed the plain way.

use std::collections::BTreeMap;

use corelane_testkit::Random;
use corelane_wire::{Answer, encode_event};

/// A stream of frames and commit requests, and the fate of each.
#[derive(Default)]
pub(crate) struct Script {
    pub(crate) bytes: Vec<u8>,
    frames: Vec<Frame>,
    /// Frames in front of each commit request.
    requests: Vec<usize>,
}

struct Frame {
    /// First byte, and the first behind it.
    start: usize,
    end: usize,
    /// Points by sensor; `None` for a frame that has to be rejected.
    points: Option<Vec<(String, f64)>>,
}

/// The naive aggregate of one series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Series {
    pub(crate) count: u64,
    pub(crate) last: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) sum: f64,
}

/// The sensor that every event of a device has.
pub(crate) const FIRST_SENSOR: &str = "s0";

impl Script {
    /// So many frames of a device of this name, with commit requests between them.
    pub(crate) fn new(random: &mut Random, id: &str, frames: usize) -> Self {
        let mut script = Self::default();
        let sensors = 1 + random.below(6);
        let sizes = random.pick::<&[usize]>(&[&[0, 0, 0, 100], &[0, 1_000, 20_000], &[60_000], &[0, 0, 30_000]]);
        let sizes = if frames > 100 { &[0] } else { *sizes };
        let request_every = 1 + random.below(8);
        let bad_every = if random.below(3) == 0 { 2 + random.below(4) } else { usize::MAX };
        for number in 1..=frames {
            let start = script.bytes.len();
            let points = if number % bad_every == 0 {
                script.push_bad(random);
                None
            } else {
                Some(script.push_event(random, id, number, sensors, sizes))
            };
            script.frames.push(Frame { start, end: script.bytes.len(), points });
            for _ in 0..if random.below(request_every) == 0 { 1 + random.below(2) } else { 0 } {
                script.requests.push(number);
                script.bytes.extend([0; 4]);
            }
        }
        script
    }

    fn push_event(
        &mut self,
        random: &mut Random,
        id: &str,
        number: usize,
        sensors: usize,
        sizes: &[usize],
    ) -> Vec<(String, f64)> {
        // Mostly all of them, as sources do.
        let count = if random.below(5) == 0 { 1 + random.below(sensors) } else { sensors };
        // Whole numbers: their sums are the same in any order.
        let points: Vec<_> =
            (0..count).map(|sensor| (format!("s{sensor}"), random.below(2_000) as f64 - 1_000.0)).collect();
        let most = *random.pick(sizes);
        let text = "m".repeat(random.below(most + 1));
        let metadata = (!text.is_empty()).then_some(text.as_str());
        let all = points.iter().map(|(sensor, value)| (sensor.as_str(), *value, None));
        encode_event(&mut self.bytes, id, number as u64, metadata, all).expect("the texts leave room in a frame");
        points
    }

    fn push_bad(&mut self, random: &mut Random) {
        let payload = random.pick::<&[u8]>(&[&[0xff], &[0xa0], b"no event at all", &[0x9f; 700]]);
        self.bytes.extend((payload.len() as u32).to_be_bytes());
        self.bytes.extend(*payload);
    }

    /// Adds a header that no server accepts.
    pub(crate) fn push_oversize(&mut self) {
        let start = self.bytes.len();
        self.bytes.extend([0xff; 4]);
        self.frames.push(Frame { start, end: start + 4, points: None });
    }

    /// The answer to a commit request, by its number.
    pub(crate) fn answer(&self, request: usize) -> Option<Answer> {
        self.requests.get(request).map(|&frames| self.decided(frames))
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.len()
    }

    pub(crate) fn frames(&self) -> usize {
        self.frames.len()
    }

    /// What is told of the first `frames` frames.
    pub(crate) fn decided(&self, frames: usize) -> Answer {
        let committed = self.frames[..frames].iter().filter(|frame| frame.points.is_some()).count() as u64;
        Answer { committed, rejected: frames as u64 - committed }
    }

    /// Whole frames in the first `bytes` of the stream.
    pub(crate) fn frames_in(&self, bytes: usize) -> usize {
        self.frames.partition_point(|frame| frame.end <= bytes)
    }

    /// Where the frame begins that byte number `at` belongs to, and whether it is inside one.
    pub(crate) fn frame_at(&self, at: usize) -> Option<usize> {
        let frame = self.frames.get(self.frames_in(at))?;
        (frame.start < at).then_some(frame.start)
    }

    /// The series that the first `accepted` accepted frames make, by sensor.
    pub(crate) fn series(&self, accepted: u64) -> BTreeMap<&str, Series> {
        let mut series: BTreeMap<&str, Series> = BTreeMap::new();
        let frames = self.frames.iter().filter_map(|frame| frame.points.as_ref()).take(accepted as usize);
        for (sensor, value) in frames.flatten() {
            let value = *value;
            let fresh = Series { count: 0, last: value, min: value, max: value, sum: 0.0 };
            let series = series.entry(sensor).or_insert(fresh);
            *series = Series {
                count: series.count + 1,
                last: value,
                min: series.min.min(value),
                max: series.max.max(value),
                sum: series.sum + value,
            };
        }
        series
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_knows_its_frames_and_what_they_come_to() {
        let script = Script::new(&mut Random::from_seed(5), "d", 40);
        assert_eq!(script.frames_in(script.bytes.len()), 40);
        assert_eq!(script.frames_in(script.frames[7].end), 8);
        assert_eq!(script.frames_in(script.frames[7].end - 1), 7);
        assert_eq!(script.frame_at(script.frames[7].start), None);
        assert_eq!(script.frame_at(script.frames[7].start + 1), Some(script.frames[7].start));
        let all = script.decided(40);
        assert_eq!(all.committed + all.rejected, 40);
        assert_eq!(script.series(all.committed)[FIRST_SENSOR].count, all.committed);
    }
}
