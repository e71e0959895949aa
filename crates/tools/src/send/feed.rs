//! From the bytes of one input to batches of frames: the blocking half of sending a file.
//!
//! A format's reader pulls bytes out of a `Feed` and puts events into it. Frames are handed over when a batch is full,
//! and always before the feed waits, for more bytes or for `--rate`: what was read is never held back. Waits while the
//! other side is two batches behind. Ends when the input does, or when the other side has gone.

use std::{
    io::{self, Read},
    sync::Arc,
    thread,
    time::Duration,
};

use corelane_wire::{NAME_BYTES_MAX, POINTS_MAX, encode_event};
use tokio::sync::mpsc;

use super::{pace::Pacer, progress::Progress};

/// Frames on their way to the connection.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Whole frames, headers included.
    pub(super) frames: Vec<u8>,
    /// How many.
    pub(super) events: u64,
    /// Points in them.
    pub(super) points: u64,
    /// Empty cells that were skipped on the way.
    pub(super) empty_cells: u64,
}

/// A row that ends the reading of its input.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RowError {
    /// Line of the input on which the row begins; the first is 1.
    pub(super) line: u64,
    /// What is wrong with it.
    pub(super) text: String,
}

/// The bytes of one input, and the events made of them.
pub(super) struct Feed {
    bytes: Box<dyn Read + Send>,
    is_at_end: bool,
    /// Bytes read since a row ended.
    row_bytes: usize,
    batch: Batch,
    outlet: mpsc::Sender<Batch>,
    pacer: Option<Arc<Pacer>>,
    progress: Progress,
}

impl Feed {
    pub(super) fn new(
        bytes: Box<dyn Read + Send>,
        outlet: mpsc::Sender<Batch>,
        pacer: Option<Arc<Pacer>>,
        progress: Progress,
    ) -> Self {
        Self { bytes, is_at_end: false, row_bytes: 0, batch: Batch::default(), outlet, pacer, progress }
    }

    /// Takes one event; a point is `(sensor, value, tags)`. The caller has checked the names with [`check_name`].
    ///
    /// # Errors
    /// The event is too large, or the other side has gone.
    pub(super) fn event<'p>(
        &mut self,
        id: &str,
        timestamp: u64,
        metadata: Option<&str>,
        points: impl ExactSizeIterator<Item = (&'p str, f64, Option<&'p str>)>,
    ) -> Result<(), String> {
        let points_count = points.len();
        if points_count > POINTS_MAX {
            return Err(format!("{points_count} points in one event; the most is {POINTS_MAX}: split the row"));
        }
        self.wait_for_turn().map_err(|error| error.to_string())?;
        encode_event(&mut self.batch.frames, id, timestamp, metadata, points).map_err(|error| error.to_string())?;
        self.batch.events += 1;
        self.batch.points += points_count as u64;
        self.row_bytes = 0;
        if self.batch.frames.len() >= BATCH_BYTES {
            self.hand_over().map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Counts cells that held no value.
    pub(super) fn skip_cells(&mut self, count: u64) {
        self.batch.empty_cells += count;
    }

    /// Tells the user what does not stop the reading.
    pub(super) fn warn(&self, text: &str) {
        self.progress.warn(text);
    }

    /// Hands over what is left; call it once the input is read.
    pub(super) fn finish(mut self) {
        // When nobody takes it any more, they know why.
        let _ = self.hand_over();
    }

    fn wait_for_turn(&mut self) -> io::Result<()> {
        let Some(wait) = self.pacer.as_ref().map(|pacer| pacer.reserve()) else { return Ok(()) };
        if wait > SLEEP_MIN {
            self.hand_over()?;
            thread::sleep(wait);
        }
        Ok(())
    }

    fn hand_over(&mut self) -> io::Result<()> {
        if self.batch.events == 0 && self.batch.empty_cells == 0 {
            return Ok(());
        }
        self.outlet
            .blocking_send(std::mem::take(&mut self.batch))
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the connection ended"))
    }
}

/// Gives the input's bytes without carriage returns, and a line end after the last line, so that each line ends in
/// exactly one byte and lines can be counted.
impl Read for Feed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.hand_over()?;
        if self.row_bytes > ROW_BYTES_MAX {
            let text = format!("longer than {ROW_BYTES_MAX} bytes: is a quote left open?");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        while !self.is_at_end && !buffer.is_empty() {
            let count = match self.bytes.read(buffer) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.progress.add(count);
            self.row_bytes += count;
            if count == 0 {
                self.is_at_end = true;
                buffer[0] = b'\n';
                return Ok(1);
            }
            let kept = remove_carriage_returns(&mut buffer[..count]);
            if kept > 0 {
                return Ok(kept);
            }
        }
        Ok(0)
    }
}

/// Moves the other bytes to the front and returns their number.
fn remove_carriage_returns(bytes: &mut [u8]) -> usize {
    let Some(first) = bytes.iter().position(|&byte| byte == b'\r') else { return bytes.len() };
    let mut kept = first;
    for index in first..bytes.len() {
        if bytes[index] != b'\r' {
            bytes[kept] = bytes[index];
            kept += 1;
        }
    }
    kept
}

/// Checks an id or a sensor's name against the protocol; `what` begins the message.
pub(super) fn check_name(what: &str, name: &str) -> Result<(), String> {
    match name.len() {
        0 => Err(format!("{what} is empty")),
        1..=NAME_BYTES_MAX => Ok(()),
        bytes => Err(format!("{what} has {bytes} bytes; the most is {NAME_BYTES_MAX}")),
    }
}

/// Batches that may wait for the connection: one being written, one ready.
pub(super) const BATCHES_MAX: usize = 2;

/// As much as the client writes at once.
const BATCH_BYTES: usize = 64 * 1024;

/// Bytes read without a row ending: what one open quote may cost in memory.
const ROW_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Shorter waits are left to add up: a sleep takes longer than it was asked to.
const SLEEP_MIN: Duration = Duration::from_millis(1);

#[cfg(test)]
pub(super) mod tests {
    use corelane_wire::{Decoder, Step, next_step};

    use super::*;

    /// Runs `read` on a feed of `bytes`; returns what it gave and what came out of the feed.
    pub(in crate::send) fn with_feed<T>(bytes: &[u8], read: impl FnOnce(Feed) -> T) -> (T, Batch) {
        let (outlet, mut inlet) = mpsc::channel(1024);
        let feed = Feed::new(Box::new(io::Cursor::new(bytes.to_vec())), outlet, None, Progress::new(true));
        let result = read(feed);
        let mut all = Batch::default();
        while let Ok(batch) = inlet.try_recv() {
            all.frames.extend_from_slice(&batch.frames);
            all.events += batch.events;
            all.points += batch.points;
            all.empty_cells += batch.empty_cells;
        }
        (result, all)
    }

    /// The events of whole frames, as `id@timestamp metadata sensor=value{tags} ...`.
    pub(in crate::send) fn events_of(frames: &[u8]) -> Vec<String> {
        let mut decoder = Decoder::new();
        let mut input = frames;
        let mut events = Vec::new();
        while let Step::Frame(payload) = next_step(&mut input) {
            let event = decoder.decode(payload).unwrap();
            let mut text = format!("{}@{}", event.id(), event.timestamp());
            if let Some(metadata) = event.metadata() {
                text += &format!(" {metadata}");
            }
            for point in event.points() {
                text += &format!(" {}={}", point.sensor, point.value);
                if let Some(tags) = point.tags {
                    text += &format!("{{{tags}}}");
                }
            }
            events.push(text);
        }
        assert!(input.is_empty(), "whole frames only");
        events
    }

    #[test]
    fn every_line_ends_in_one_byte() {
        for (input, expected) in [("a\r\nb\r\n", "a\nb\n\n"), ("a\nb", "a\nb\n"), ("\r", "\n"), ("", "\n")] {
            let mut text = String::new();
            with_feed(input.as_bytes(), |mut feed| feed.read_to_string(&mut text).unwrap());
            assert_eq!(text, expected, "{input:?}");
        }
    }

    #[test]
    fn bytes_of_carriage_returns_alone_are_not_the_end() {
        let (outlet, _inlet) = mpsc::channel(1);
        let bytes = io::Cursor::new("\r\r").chain(io::Cursor::new("\rx"));
        let mut feed = Feed::new(Box::new(bytes), outlet, None, Progress::new(true));
        assert_eq!(feed.read(&mut [0; 2]).unwrap(), 1);
    }

    #[test]
    fn a_row_without_end_is_refused_before_it_fills_the_memory() {
        let (outlet, _inlet) = mpsc::channel(1);
        let mut feed = Feed::new(Box::new(io::repeat(b'x')), outlet, None, Progress::new(true));
        let mut bytes = 0;
        let error = loop {
            match feed.read(&mut [0; 64 * 1024]) {
                Ok(count) => bytes += count,
                Err(error) => break error,
            }
        };
        assert!(error.to_string().contains("quote") && bytes < 2 * ROW_BYTES_MAX, "{bytes}: {error}");
    }

    #[test]
    fn what_is_ready_goes_out_before_more_is_read() {
        let (outlet, mut inlet) = mpsc::channel(1);
        let mut feed = Feed::new(Box::new(io::empty()), outlet, None, Progress::new(true));
        feed.event("a", 1, None, [("s", 1.0, None)].into_iter()).unwrap();
        assert!(inlet.try_recv().is_err());
        assert_eq!(feed.read(&mut [0]).unwrap(), 1);
        assert_eq!(events_of(&inlet.try_recv().unwrap().frames), ["a@1 s=1"]);
    }

    #[test]
    fn an_event_that_no_frame_holds_is_refused() {
        let many = vec![("s", 1.0, None); POINTS_MAX + 1];
        let (error, batch) = with_feed(b"", |mut feed| feed.event("a", 1, None, many.into_iter()).unwrap_err());
        assert!(error.contains("2048"), "{error}");
        let long = "t".repeat(65_536);
        let points = [("s", 1.0, Some(long.as_str()))].into_iter();
        let (error, _) = with_feed(b"", |mut feed| feed.event("a", 1, None, points).unwrap_err());
        assert!(error.contains("65536"), "{error}");
        assert_eq!(batch.events, 0);
    }

    #[test]
    fn the_other_side_going_away_ends_the_reading() {
        let (outlet, inlet) = mpsc::channel(1);
        let mut feed = Feed::new(Box::new(io::repeat(b'x')), outlet, None, Progress::new(true));
        drop(inlet);
        feed.event("a", 1, None, [("s", 1.0, None)].into_iter()).unwrap();
        assert_eq!(feed.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn names_have_1_to_256_bytes() {
        assert!(check_name("the id", "").unwrap_err().contains("the id is empty"));
        assert_eq!(check_name("the id", &"x".repeat(256)), Ok(()));
        assert!(check_name("the id", &"x".repeat(257)).unwrap_err().contains("256"));
    }
}
