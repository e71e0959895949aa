//! One record as one line of bounded length, in which no character acts on a terminal.

use std::fmt::{self, Debug, Write};

use corelane_command::{is_unsafe, write_escaped};
use jiff::Timestamp;
use tracing::field::{Field, Visit};
use tracing::{Event, Level};

use super::Style;
use crate::config::LogFormat;

/// Longest line, its end included: what a pipe takes in one piece (`PIPE_BUF`), so that lines of several processes never
/// mix. Fields that do not fit are left out.
pub(super) const LINE_BYTES_MAX: usize = 4096;

/// Longest value of a field, as it is written. Longer ones are cut, and the line has the number of bytes that were cut.
/// The message and two long fields fit a line.
const VALUE_BYTES_MAX: usize = 1024;

/// Room for the longest key, the quotes, the note behind a cut value, and the end of the line.
const BESIDES_BYTES: usize = 128;
const _: () = assert!(LINE_BYTES_MAX >= 3 * (VALUE_BYTES_MAX + BESIDES_BYTES), "a message and two long fields fit");

/// A line that is being made.
pub(super) struct Line {
    text: String,
    style: Style,
}

impl Line {
    /// The line of a record.
    pub(super) fn of(event: &Event<'_>, style: Style) -> String {
        let mut line = Self::start(*event.metadata().level(), style);
        event.record(&mut line);
        line.finish()
    }

    /// The line that reports dropped lines.
    pub(super) fn of_dropped(count: u64, style: Style) -> String {
        let mut line = Self::start(Level::WARN, style);
        line.value(
            "message",
            false,
            &format_args!("{count} log lines were dropped: stderr failed, or lines came too fast"),
        );
        line.plain("dropped", &count);
        line.finish()
    }

    fn start(level: Level, style: Style) -> Self {
        let mut line = Self { text: String::with_capacity(256), style };
        let now = Timestamp::now();
        // Writing to a `String` does not fail.
        let _ = match style.format {
            LogFormat::Json => write!(line.text, "{{\"timestamp\":\"{now:.6}\",\"level\":\"{level}\""),
            LogFormat::Text if style.colour => {
                let colour = match level {
                    Level::ERROR => 31,
                    Level::WARN => 33,
                    _ => 32,
                };
                write!(line.text, "{now:.6} \x1b[{colour}m{level:>5}\x1b[0m")
            }
            LogFormat::Text => write!(line.text, "{now:.6} {level:>5}"),
        };
        line
    }

    /// Writes a key, if the longest value still fits behind it.
    fn key(&mut self, key: &str) -> bool {
        let fits = self.text.len() + key.len() + VALUE_BYTES_MAX + BESIDES_BYTES <= LINE_BYTES_MAX;
        if fits {
            let _ = match self.style.format {
                LogFormat::Json => write!(self.text, ",\"{key}\":"),
                LogFormat::Text if key == "message" => write!(self.text, " "),
                LogFormat::Text => write!(self.text, " {key}="),
            };
        }
        fits
    }

    /// A number or a truth value.
    fn plain(&mut self, key: &str, value: &dyn fmt::Display) {
        if self.key(key) {
            let _ = write!(self.text, "{value}");
        }
    }

    /// Text: JSON always has quotes around it.
    fn value(&mut self, key: &str, quoted: bool, value: &dyn Debug) {
        if !self.key(key) {
            return;
        }
        let quoted = quoted || self.style.format == LogFormat::Json;
        if quoted {
            self.text.push('"');
        }
        let end = self.text.len() + VALUE_BYTES_MAX;
        let mut bounded = Bounded { text: &mut self.text, end, quoted, cut_bytes: 0 };
        let _ = write!(bounded, "{value:?}");
        let cut_bytes = bounded.cut_bytes;
        if cut_bytes > 0 {
            let _ = write!(self.text, "… ({cut_bytes} bytes cut)");
        }
        if quoted {
            self.text.push('"');
        }
    }

    fn finish(mut self) -> String {
        if self.style.format == LogFormat::Json {
            self.text.push('}');
        }
        self.text.push('\n');
        self.text
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.value(field.name(), false, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.value(field.name(), true, &format_args!("{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.plain(field.name(), &value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.plain(field.name(), &value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.plain(field.name(), &value);
    }
}

/// Takes text up to a bound, escaped, and counts what is beyond it. Holds one copy of what is kept and none of the rest.
struct Bounded<'a> {
    text: &'a mut String,
    /// Length of `text` that must not be passed.
    end: usize,
    quoted: bool,
    cut_bytes: usize,
}

impl Write for Bounded<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            let kept = self.text.len();
            if self.cut_bytes == 0 {
                match character {
                    '"' | '\\' if self.quoted => self.text.extend(['\\', character]),
                    _ if is_unsafe(character) => write_escaped(self.text, character)?,
                    _ => self.text.push(character),
                }
            }
            if self.cut_bytes > 0 || self.text.len() > self.end {
                self.text.truncate(kept);
                self.cut_bytes += character.len_utf8();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const JSON: Style = Style { format: LogFormat::Json, colour: false };
    const TEXT: Style = Style { format: LogFormat::Text, colour: false };

    /// A line with these fields, as `tracing` records them.
    fn line(style: Style, message: &str, fields: &[(&'static str, &str)]) -> String {
        let mut line = Line::start(Level::WARN, style);
        line.value("message", false, &format_args!("{message}"));
        for (key, value) in fields {
            line.value(key, true, &format_args!("{value}"));
        }
        line.plain("count", &7);
        line.finish()
    }

    #[test]
    fn text_and_json_have_level_message_and_fields() {
        let text = line(TEXT, "a message", &[("kind", "tls")]);
        let (time, rest) = text.split_once(' ').unwrap();
        assert!(time.parse::<Timestamp>().is_ok() && time.len() == "2026-11-20T12:00:00.000000Z".len(), "{time}");
        assert_eq!(rest, " WARN a message kind=\"tls\" count=7\n");
        let json = line(JSON, "a message", &[("kind", "tls")]);
        assert!(
            json.ends_with(",\"level\":\"WARN\",\"message\":\"a message\",\"kind\":\"tls\",\"count\":7}\n"),
            "{json}"
        );
        assert!(serde_json::from_str::<Value>(&json).is_ok());
    }

    #[test]
    fn a_long_value_is_cut_and_the_line_reports_how_much() {
        let long = "\u{9b}ü\"\n".repeat(100_000);
        for style in [TEXT, JSON] {
            let text = line(style, &long, &[("a", &long), ("b", &long), ("c", &long)]);
            assert!(text.len() <= LINE_BYTES_MAX, "{} bytes", text.len());
            assert!(text.contains(" bytes cut)") && text.ends_with('\n'));
            assert!(!text.trim_end().contains(is_unsafe), "{text:?}");
        }
        let json: Value = serde_json::from_str(&line(JSON, &long, &[])).unwrap();
        let (kept, note) = json["message"].as_str().unwrap().split_once('…').unwrap();
        assert!(long.starts_with(kept));
        assert_eq!(note, format!(" ({} bytes cut)", long.len() - kept.len()));
    }

    #[test]
    fn no_line_is_longer_than_the_bound_however_many_fields_it_has() {
        let long = "x".repeat(5_000);
        let fields = [("a", &long[..]); 20];
        assert!(line(JSON, &long, &fields).len() <= LINE_BYTES_MAX);
        assert!(serde_json::from_str::<Value>(&line(JSON, &long, &fields)).is_ok());
    }

    #[test]
    fn the_line_about_dropped_lines_has_their_number() {
        let json: Value = serde_json::from_str(&Line::of_dropped(12, JSON)).unwrap();
        assert_eq!((json["level"].as_str(), json["dropped"].as_u64()), (Some("WARN"), Some(12)));
    }
}
