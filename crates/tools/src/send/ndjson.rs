//! NDJSON: one event a line, with the keys of the event.

use std::{
    borrow::Cow,
    io::{BufRead, BufReader},
};

use serde::Deserialize;

use super::{
    feed::{Feed, RowError, check_name},
    time::TimeReader,
};

/// One line. Unknown keys are skipped, as the protocol has it.
#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    timestamp: Timestamp<'a>,
    metadata: Option<String>,
    #[serde(borrow)]
    telemetry: Vec<Point<'a>>,
}

#[derive(Deserialize)]
struct Point<'a> {
    #[serde(borrow)]
    sensor: Cow<'a, str>,
    value: f64,
    tags: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "timestamp: an integer of nanoseconds since 1970, or RFC 3339 text, is wanted")]
enum Timestamp<'a> {
    Nanoseconds(u64),
    Negative(i64),
    #[serde(borrow)]
    Text(Cow<'a, str>),
}

impl Timestamp<'_> {
    fn read(&self) -> Result<u64, String> {
        match self {
            Self::Nanoseconds(nanoseconds) => Ok(*nanoseconds),
            Self::Negative(negative) => Err(format!("timestamp {negative} is before 1970, which an event's cannot be")),
            Self::Text(text) => TimeReader::Either.read(text).map_err(|text| format!("timestamp: {text}")),
        }
    }
}

/// Reads all lines into `feed`; `id` is that of lines without one, if the user gave it.
///
/// # Errors
/// The first line that cannot be read; the events before it are in the feed.
pub(super) fn read_lines(id: Option<&str>, feed: Feed) -> Result<(), RowError> {
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, feed);
    let result = read_all(id, &mut reader);
    reader.into_inner().finish();
    result
}

fn read_all(id: Option<&str>, reader: &mut BufReader<Feed>) -> Result<(), RowError> {
    let mut bytes = Vec::new();
    for line in 1.. {
        bytes.clear();
        let at_line = |text: String| RowError { line, text };
        if reader.read_until(b'\n', &mut bytes).map_err(|error| at_line(error.to_string()))? == 0 {
            break;
        }
        let text = str::from_utf8(&bytes).map_err(|error| at_line(format!("not UTF-8 text: {error}")))?;
        let text = text.strip_prefix('\u{feff}').filter(|_| line == 1).unwrap_or(text).trim_ascii();
        if !text.is_empty() {
            read_line(id, text, reader.get_mut()).map_err(at_line)?;
        }
    }
    Ok(())
}

fn read_line(id: Option<&str>, text: &str, feed: &mut Feed) -> Result<(), String> {
    let event: Event<'_> = serde_json::from_str(text).map_err(|error| explain(&error))?;
    let id = event.id.as_deref().or(id).ok_or("key \"id\" is missing: add it, or give one to all with --id")?;
    check_name("the id", id)?;
    for point in &event.telemetry {
        check_name("a sensor's name", &point.sensor)?;
    }
    let points = event.telemetry.iter().map(|point| (&*point.sensor, point.value, point.tags.as_deref()));
    feed.event(id, event.timestamp.read()?, event.metadata.as_deref(), points)
}

/// The parser counts lines within what it was given, which is always one.
fn explain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or(&text);
    format!("not an event, at column {}: {text}", error.column())
}

/// Bytes read at once. What they hold is handed over before the next are read, so a pipe's lines are not held back.
const BUFFER_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::send::feed::tests::{events_of, with_feed};

    fn read(id: Option<&str>, text: &[u8]) -> (Vec<String>, Option<RowError>) {
        let (result, batch) = with_feed(text, |feed| read_lines(id, feed));
        (events_of(&batch.frames), result.err())
    }

    fn line_error(text: &[u8]) -> String {
        let RowError { line, text } = read(None, text).1.unwrap();
        format!("{line}: {text}")
    }

    #[test]
    fn a_line_is_an_event() {
        let text = br#"{"id":"a","timestamp":1,"telemetry":[{"sensor":"s","value":1.5}]}
            {"telemetry":[{"value":-3,"unit":"K","tags":"x=\"1\"","sensor":"\u00fc"},{"sensor":"t","value":1e3}],
        "#;
        let one_line = String::from_utf8_lossy(text).replace(",\n", ", ")
            + r#""metadata":"m","timestamp":"1970-01-01T00:00:01.5Z","id":"b"}"#;
        let (events, error) = read(None, one_line.as_bytes());
        assert_eq!(events, ["a@1 s=1.5", "b@1500000000 m ü=-3{x=\"1\"} t=1000"]);
        assert_eq!(error, None);
    }

    #[test]
    fn lines_in_every_dress_are_the_same_events() {
        let expected = ["a@1", "a@2"];
        for text in [
            "{\"id\":\"a\",\"timestamp\":1,\"telemetry\":[]}\n{\"id\":\"a\",\"timestamp\":2,\"telemetry\":[]}\n",
            "\u{feff}{\"id\":\"a\",\"timestamp\":1,\"telemetry\":[]}\r\n\r\n  {\"id\":\"a\",\"timestamp\":2,\"telemetry\":[]}",
        ] {
            assert_eq!(read(None, text.as_bytes()).0, expected, "{text:?}");
        }
    }

    #[test]
    fn every_double_arrives_as_it_was_written() {
        for text in
            ["73.96732207", "0.1", "9007199254740993", "1.7976931348623157e308", "5e-324", "122.416294033786585"]
        {
            let line =
                format!("{{\"id\":\"a\",\"timestamp\":1,\"telemetry\":[{{\"sensor\":\"s\",\"value\":{text}}}]}}");
            let value: f64 = text.parse().unwrap();
            assert_eq!(read(None, line.as_bytes()).0, [format!("a@1 s={value}")]);
        }
    }

    #[test]
    fn the_greatest_timestamp_is_exact() {
        let (events, _) = read(None, br#"{"id":"a","timestamp":18446744073709551615,"telemetry":[]}"#);
        assert_eq!(events, ["a@18446744073709551615"]);
    }

    #[test]
    fn a_given_id_is_for_lines_without_one() {
        let text = b"{\"timestamp\":1,\"telemetry\":[]}\n{\"id\":\"own\",\"timestamp\":1,\"telemetry\":[]}";
        assert_eq!(read(Some("given"), text).0, ["given@1", "own@1"]);
        assert!(line_error(text).starts_with("1: key \"id\" is missing"));
    }

    #[test]
    fn a_bad_line_is_named_and_those_before_it_are_sent() {
        let (events, error) = read(None, b"{\"id\":\"a\",\"timestamp\":1,\"telemetry\":[]}\n\n{\"id\":\n");
        assert_eq!(events, ["a@1"]);
        assert_eq!(error.unwrap().line, 3);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (line, expected) in [
            (&br#"{"id":"a","timestamp":-1,"telemetry":[]}"#[..], "before 1970"),
            (br#"{"id":"a","timestamp":1.5,"telemetry":[]}"#, "integer of nanoseconds"),
            (br#"{"id":"a","timestamp":"soon","telemetry":[]}"#, "\"soon\" is not a time"),
            (br#"{"id":"a","telemetry":[]}"#, "timestamp"),
            (br#"{"id":"a","timestamp":1}"#, "telemetry"),
            (br#"{"id":"","timestamp":1,"telemetry":[]}"#, "the id is empty"),
            (br#"{"id":"a","timestamp":1,"telemetry":[{"sensor":"","value":1}]}"#, "sensor's name is empty"),
            (br#"{"id":"a","timestamp":1,"telemetry":[{"sensor":"s","value":"1"}]}"#, "expected f64"),
            (br#"{"id":"a","timestamp":1,"telemetry":[{"sensor":"s","value":1e999}]}"#, "out of range"),
            (br#"{"id":"a","timestamp":1,"telemetry":[]} x"#, "trailing characters"),
            (b"{\"id\":\"\xff\",\"timestamp\":1,\"telemetry\":[]}", "not UTF-8"),
            (b"time,a", "not an event"),
        ] {
            let error = line_error(line);
            assert!(error.starts_with("1: ") && error.contains(expected), "{error}");
        }
    }
}
