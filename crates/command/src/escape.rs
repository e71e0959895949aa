//! Characters that act on a terminal or an editor instead of being shown, and how they are printed.
//!
//! A peer chooses ids, sensor names and tags. Printed raw, a control character can move the cursor or change the
//! title of a terminal, and a bidirectional control can make a line read as another one.

use std::fmt;
use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::Formatter;

/// Whether a character must not be printed as it is: controls (C0, DEL, C1), line and paragraph separators, and the
/// characters that change the direction of text (UAX #9).
pub fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

/// Writes `\u009b`, which JSON reads as the character itself. Every unsafe character has at most 16 bits.
pub fn write_escaped(out: &mut impl fmt::Write, character: char) -> fmt::Result {
    write!(out, "\\u{:04x}", u32::from(character))
}

/// A value as JSON in one line, with every unsafe character escaped.
pub fn write_json(out: &mut impl Write, value: &impl Serialize) -> serde_json::Result<()> {
    value.serialize(&mut serde_json::Serializer::with_formatter(out, Escaping))
}

/// serde_json's compact format; it escapes C0 by itself and nothing more.
struct Escaping;

impl Formatter for Escaping {
    fn write_string_fragment<W>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()>
    where
        W: ?Sized + Write,
    {
        let mut rest = fragment;
        while let Some(at) = rest.find(is_unsafe) {
            let (safe, tail) = rest.split_at(at);
            let mut characters = tail.chars();
            let mut escaped = String::new();
            characters.next().into_iter().try_for_each(|c| write_escaped(&mut escaped, c)).map_err(io::Error::other)?;
            writer.write_all(safe.as_bytes())?;
            writer.write_all(escaped.as_bytes())?;
            rest = characters.as_str();
        }
        writer.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unsafe_character_is_escaped_and_read_back_as_itself() {
        let unsafe_ones: String = (0..=0x10_ffff).filter_map(char::from_u32).filter(|&c| is_unsafe(c)).collect();
        // C0, DEL and C1; ALM, LRM and RLM; two separators, five embeddings and overrides, four isolates.
        assert_eq!(unsafe_ones.chars().count(), 32 + 33 + 3 + 7 + 4);
        let text = format!("a{unsafe_ones}ü\"\\z");
        let mut out = Vec::new();
        write_json(&mut out, &text).unwrap();
        let json = String::from_utf8(out).unwrap();
        assert!(!json.contains(is_unsafe), "{json:?}");
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
    }

    #[test]
    fn other_text_is_printed_as_it_is() {
        let mut out = Vec::new();
        write_json(&mut out, &"Grüße, 温度 🌡").unwrap();
        assert_eq!(out, "\"Grüße, 温度 🌡\"".as_bytes());
    }
}
