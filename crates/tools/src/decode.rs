//! `corelane decode`: frames to JSON, one line each, for people who look at what is on the wire.
//!
//! Reads as the server does, with the same framer and decoder, so what it refuses the server refuses for the same
//! reason. Holds one chunk of its input.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use corelane_command::{Failure, write_json};
use corelane_wire::{Decoder, Event, HEADER_BYTES, MAX_FRAME_SIZE, RejectReason, Step, next_step};
use serde::Serialize;

/// Print the events of a file of frames, or of hex, as JSON, one line each.
#[derive(clap::Args, Debug)]
pub struct DecodeArgs {
    /// Frames as they are on the wire, each with its length; `-` is stdin.
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,

    /// Hex digits, blanks allowed, instead of a file: frames if they begin with 00, as every frame does, else one
    /// payload without its length.
    #[arg(long, value_name = "TEXT", conflicts_with = "file", value_parser = parse_hex)]
    hex: Option<Hex>,
}

/// The bytes of `--hex`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hex(Vec<u8>);

/// Decodes and prints; fails at the end when a frame was refused.
pub fn run(args: DecodeArgs) -> Result<(), Failure> {
    let mut printer = Printer::new(io::BufWriter::new(io::stdout().lock()));
    let (name, result) = match args.hex {
        Some(Hex(bytes)) if is_frames(&bytes) => ("--hex".to_owned(), printer.print_frames(&bytes[..])),
        Some(Hex(bytes)) => ("--hex".to_owned(), printer.print_payload(&bytes, 0)),
        None if args.file == Path::new("-") => ("<stdin>".to_owned(), printer.print_frames(io::stdin().lock())),
        None => {
            let name = args.file.display().to_string();
            let file = File::open(&args.file)
                .map_err(|error| Failure::usage(format!("cannot read {name}: {error}; check the path")))?;
            (name, printer.print_frames(file))
        }
    };
    match result.and_then(|()| printer.out.flush().map_err(Stop::Write)) {
        Ok(()) => (),
        // Whoever reads has seen enough, as `head` does.
        Err(Stop::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
        Err(Stop::Write(error)) => return Err(Failure::failed(format!("cannot write to stdout: {error}"))),
        Err(Stop::Read(error)) => return Err(Failure::failed(format!("cannot read {name}: {error}"))),
    }
    match printer.refused {
        0 => Ok(()),
        refused => {
            let frames = printer.frames;
            let remedy = "the lines with \"error\" say why and at which byte";
            Err(Failure::failed(format!("{name}: {refused} of {frames} frames are no events: {remedy}")))
        }
    }
}

/// A length of at most 65 536 begins with a zero byte; an event, which is a map, never does.
fn is_frames(bytes: &[u8]) -> bool {
    bytes.first() == Some(&0)
}

fn parse_hex(text: &str) -> Result<Hex, String> {
    let text = text.trim_start();
    let digits: Vec<u8> = text
        .strip_prefix("0x")
        .unwrap_or(text)
        .chars()
        .filter(|character| !character.is_whitespace())
        .map(|character| {
            let digit = character.to_digit(16).ok_or_else(|| format!("{character:?} is no hex digit"))?;
            Ok(digit as u8)
        })
        .collect::<Result<_, String>>()?;
    match digits.as_chunks() {
        ([], []) => Err("no hex digits".to_owned()),
        (pairs, []) => Ok(Hex(pairs.iter().map(|[high, low]| high << 4 | low).collect())),
        _ => Err(format!("{} hex digits are not whole bytes: one is missing", digits.len())),
    }
}

/// Why decoding ended before the input did.
enum Stop {
    Read(io::Error),
    Write(io::Error),
}

/// Writes one line a frame, and counts.
struct Printer<W> {
    out: W,
    decoder: Decoder,
    frames: u64,
    refused: u64,
}

/// An event in JSON, with the keys that it has on the wire.
#[derive(Serialize)]
struct EventLine<'a> {
    id: &'a str,
    timestamp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a str>,
    telemetry: Vec<PointLine<'a>>,
}

#[derive(Serialize)]
struct PointLine<'a> {
    sensor: &'a str,
    value: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<&'a str>,
}

/// A frame that is no event. `offset` is that of its length in the input, in bytes.
#[derive(Serialize)]
struct ErrorLine {
    error: &'static str,
    offset: u64,
}

#[derive(Serialize)]
struct CommitRequestLine {
    commit_request: bool,
}

impl<'a> From<Event<'a>> for EventLine<'a> {
    fn from(event: Event<'a>) -> Self {
        let points = event.points();
        Self {
            id: event.id(),
            timestamp: event.timestamp(),
            metadata: event.metadata(),
            telemetry: points
                .into_iter()
                .map(|point| PointLine { sensor: point.sensor, value: point.value, tags: point.tags })
                .collect(),
        }
    }
}

impl<W: Write> Printer<W> {
    fn new(out: W) -> Self {
        Self { out, decoder: Decoder::new(), frames: 0, refused: 0 }
    }

    fn print_frames(&mut self, mut input: impl Read) -> Result<(), Stop> {
        let mut chunk = vec![0; CHUNK_BYTES];
        // The bytes `start..end` of the chunk are unread; they begin at `offset` of the input.
        let (mut start, mut end, mut offset) = (0, 0, 0);
        loop {
            chunk.copy_within(start..end, 0);
            (start, end) = (0, end - start);
            match input.read(&mut chunk[end..]) {
                Ok(0) => break,
                Ok(count) => end += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Stop::Read(error)),
            }
            let mut unread = &chunk[..end];
            loop {
                match next_step(&mut unread) {
                    Step::NeedMore { .. } => break,
                    Step::Frame(payload) => self.print_payload(payload, offset)?,
                    Step::CommitRequest => self.print_line(&CommitRequestLine { commit_request: true })?,
                    // The server closes here, too: where the next frame begins cannot be told.
                    Step::Oversize { .. } => {
                        self.frames += 1;
                        return self.refuse(RejectReason::Oversize.label(), offset);
                    }
                }
                offset += (end - start - unread.len()) as u64;
                start = end - unread.len();
            }
        }
        if end > 0 {
            self.frames += 1;
            self.refuse("truncated", offset)?;
        }
        Ok(())
    }

    fn print_payload(&mut self, payload: &[u8], offset: u64) -> Result<(), Stop> {
        self.frames += 1;
        match self.decoder.decode(payload) {
            Ok(event) => {
                let line = EventLine::from(event);
                print_line(&mut self.out, &line)
            }
            Err(reason) => self.refuse(reason.label(), offset),
        }
    }

    fn refuse(&mut self, error: &'static str, offset: u64) -> Result<(), Stop> {
        self.refused += 1;
        self.print_line(&ErrorLine { error, offset })
    }

    fn print_line(&mut self, line: &impl Serialize) -> Result<(), Stop> {
        print_line(&mut self.out, line)
    }
}

/// Apart from the printer, whose decoder an event borrows.
fn print_line(out: &mut impl Write, line: &impl Serialize) -> Result<(), Stop> {
    write_json(out, line).map_err(|error| Stop::Write(error.into()))?;
    out.write_all(b"\n").map_err(Stop::Write)
}

/// Bytes read at once, and room for the largest frame that a read has cut.
const CHUNK_BYTES: usize = 2 * (HEADER_BYTES + MAX_FRAME_SIZE);

#[cfg(test)]
mod tests {
    use corelane_wire::encode_event;

    use super::*;

    /// Gives its bytes `step` at a time.
    struct Slowly<'a> {
        bytes: &'a [u8],
        step: usize,
    }

    impl Read for Slowly<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.step.min(buffer.len());
            self.bytes.read(&mut buffer[..count])
        }
    }

    /// What is printed, and how many frames of how many were refused.
    fn print(bytes: &[u8], step: usize) -> (String, u64, u64) {
        let mut printer = Printer::new(Vec::new());
        assert!(printer.print_frames(Slowly { bytes, step }).is_ok());
        (String::from_utf8(printer.out).unwrap(), printer.refused, printer.frames)
    }

    fn event_frame() -> Vec<u8> {
        let mut frame = Vec::new();
        let points = [("t", 73.96732207, None), ("ü\"", -0.0, Some("unit=K"))];
        encode_event(&mut frame, "a", u64::MAX, Some("m"), points.into_iter()).unwrap();
        frame
    }

    const EVENT_LINE: &str = "{\"id\":\"a\",\"timestamp\":18446744073709551615,\"metadata\":\"m\",\"telemetry\":[\
        {\"sensor\":\"t\",\"value\":73.96732207},{\"sensor\":\"ü\\\"\",\"value\":-0.0,\"tags\":\"unit=K\"}]}\n";

    #[test]
    fn frames_cut_anywhere_print_the_same() {
        let event = event_frame();
        let bad_bytes = event.len() + 4;
        let stream = [&event[..], &[0, 0, 0, 0], &[0, 0, 0, 1, 0xf6], &event].concat();
        let commit = "{\"commit_request\":true}\n";
        let error = format!("{{\"error\":\"not_an_event\",\"offset\":{bad_bytes}}}\n");
        let expected = format!("{EVENT_LINE}{commit}{error}{EVENT_LINE}");
        for step in 1..=stream.len() {
            assert_eq!(print(&stream, step), (expected.clone(), 1, 3), "{step} bytes at a time");
        }
    }

    #[test]
    fn a_cut_last_frame_is_truncated() {
        let event = event_frame();
        let stream = event.repeat(2);
        for end in event.len() + 1..stream.len() {
            let expected = format!("{EVENT_LINE}{{\"error\":\"truncated\",\"offset\":{}}}\n", event.len());
            assert_eq!(print(&stream[..end], 7), (expected, 1, 2), "cut at {end}");
        }
    }

    #[test]
    fn an_oversize_frame_ends_it() {
        let stream = [&event_frame()[..], b"GET / HTTP/1.1\r\n\r\n", &event_frame()].concat();
        let expected = format!("{EVENT_LINE}{{\"error\":\"oversize\",\"offset\":{}}}\n", event_frame().len());
        assert_eq!(print(&stream, 1000), (expected, 1, 2));
    }

    #[test]
    fn every_double_can_be_read_back() {
        for value in [0.1, 1.0, 5e-324, f64::MAX, f64::MIN_POSITIVE, 1e300, -1e-7, 73.96732207] {
            let mut frame = Vec::new();
            encode_event(&mut frame, "a", 1, None, [("s", value, None)].into_iter()).unwrap();
            let line: serde_json::Value = serde_json::from_str(&print(&frame, 1000).0).unwrap();
            assert_eq!(line["telemetry"][0]["value"].as_f64().map(f64::to_bits), Some(value.to_bits()), "{value}");
        }
    }

    #[test]
    fn what_acts_on_a_terminal_is_escaped_in_every_text() {
        let text = "\u{1b}]0;x\u{7}\u{9b}2J\u{7f}\u{202e}\u{2066}\u{200f}\u{2028}ü";
        let mut frame = Vec::new();
        encode_event(&mut frame, text, 1, Some(text), [(text, 1.0, Some(text))].into_iter()).unwrap();
        let (printed, ..) = print(&frame, 1000);
        assert!(!printed.trim_end().contains(corelane_command::is_unsafe), "{printed:?}");
        assert!(printed.contains(r"\u001b]0;x\u0007\u009b2J\u007f\u202e\u2066\u200f\u2028ü"), "{printed}");
        let line: serde_json::Value = serde_json::from_str(&printed).unwrap();
        for value in [&line["id"], &line["metadata"], &line["telemetry"][0]["sensor"], &line["telemetry"][0]["tags"]] {
            assert_eq!(value, text);
        }
    }

    #[test]
    fn nothing_prints_nothing() {
        assert_eq!(print(b"", 1), (String::new(), 0, 0));
    }

    #[test]
    fn hex_is_bytes_and_nothing_else() {
        assert_eq!(parse_hex(" 00 0aFf\n"), Ok(Hex(vec![0, 10, 255])));
        assert_eq!(parse_hex("0xa0"), Ok(Hex(vec![0xa0])));
        assert!(parse_hex("a").unwrap_err().contains("one is missing"));
        assert!(parse_hex("zz").unwrap_err().contains("'z'"));
        assert!(parse_hex("  ").unwrap_err().contains("no hex digits"));
    }

    #[test]
    fn hex_is_frames_or_a_payload_by_its_first_byte() {
        let frame = event_frame();
        assert!(is_frames(&frame) && !is_frames(&frame[4..]) && !is_frames(&[]));
        let mut printer = Printer::new(Vec::new());
        assert!(printer.print_payload(&frame[4..], 0).is_ok());
        assert_eq!(String::from_utf8(printer.out).unwrap(), EVENT_LINE);
    }

    #[test]
    fn a_refused_frame_is_a_failure_and_a_missing_file_is_wrong_usage() {
        let hex = |bytes: &[u8]| DecodeArgs { file: "-".into(), hex: Some(Hex(bytes.to_vec())) };
        assert!(run(hex(&event_frame())).is_ok());
        let failure = run(hex(&[0xa0])).unwrap_err();
        assert_eq!(failure.exit_code(), 1);
        assert!(failure.to_string().contains("1 of 1 frames"), "{failure}");
        let failure = run(DecodeArgs { file: "/nowhere/frames".into(), hex: None }).unwrap_err();
        assert_eq!(failure.exit_code(), 2);
        assert!(failure.to_string().contains("/nowhere/frames"), "{failure}");
    }
}
