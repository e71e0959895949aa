//! Text to nanoseconds since the Unix epoch: an exact integer, or an error that says what was wrong.
//!
//! Knows nothing of files and lines; whoever reads a row adds those.

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};

/// How the cells of a time column are written; what `--time-format` takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum TimeFormat {
    /// Found from the first rows.
    #[default]
    Auto,
    /// With a zone: `2024-05-01T12:00:00Z`, `2024-05-01T14:00:00.5+02:00`.
    Rfc3339,
    /// Without a zone, taken as UTC: `2024-05-01 12:00:00.5`, `2024-05-01T12:00`, `2024-05-01`.
    Datetime,
    /// Seconds since the Unix epoch.
    S,
    /// Milliseconds since the Unix epoch.
    Ms,
    /// Microseconds since the Unix epoch.
    Us,
    /// Nanoseconds since the Unix epoch.
    Ns,
}

/// A decided way to read times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimeReader {
    /// Date and time with a zone.
    Zoned,
    /// Date and time without a zone, taken as UTC.
    Plain,
    /// Each text may have a zone or not.
    Either,
    /// A decimal number of units since the epoch.
    Epoch {
        /// Nanoseconds of one unit.
        unit_ns: u64,
    },
}

impl TimeReader {
    /// The reader for `format`, found from `samples` (trimmed, not empty) when it is `Auto`.
    ///
    /// The first sample decides between text and number, the longest number between s, ms, us and ns: today's
    /// epoch has 10, 13, 16 or 19 digits, and a number below 10^10 is seconds until the year 2286.
    pub(super) fn new<'a>(format: TimeFormat, samples: impl Iterator<Item = &'a str>) -> Result<Self, String> {
        let unit_ns = match format {
            TimeFormat::Rfc3339 => return Ok(Self::Zoned),
            TimeFormat::Datetime => return Ok(Self::Plain),
            TimeFormat::S => 1_000_000_000,
            TimeFormat::Ms => 1_000_000,
            TimeFormat::Us => 1_000,
            TimeFormat::Ns => 1,
            TimeFormat::Auto => return Self::find(samples),
        };
        Ok(Self::Epoch { unit_ns })
    }

    fn find<'a>(samples: impl Iterator<Item = &'a str>) -> Result<Self, String> {
        let mut digits_max = 0;
        for text in samples {
            match whole_digits(text) {
                // `20240501` is far more often the first of May than a day in August 1970.
                Some(8) if text.parse::<DateTime>().is_ok() => {
                    return Err(format!("{text:?} may be a date or a number: state --time-format datetime or s"));
                }
                Some(digits) => digits_max = digits_max.max(digits),
                None if digits_max == 0 => return Ok(Self::Either),
                // A stray text among numbers: its own row will say so.
                None => (),
            }
        }
        let unit_ns = match digits_max {
            0 => return Ok(Self::Either),
            1..=10 => 1_000_000_000,
            11..=13 => 1_000_000,
            14..=16 => 1_000,
            _ => 1,
        };
        Ok(Self::Epoch { unit_ns })
    }

    /// Nanoseconds since the Unix epoch of `text`, which is trimmed.
    pub(super) fn read(self, text: &str) -> Result<u64, String> {
        match self {
            Self::Zoned => read_zoned(text).ok_or_else(|| not_a_time(text, "a time with a zone (RFC 3339)"))?,
            Self::Plain => read_plain(text).ok_or_else(|| not_a_time(text, "YYYY-MM-DD HH:MM:SS[.fraction]"))?,
            Self::Either => read_plain(text)
                .or_else(|| read_zoned(text))
                .ok_or_else(|| not_a_time(text, "RFC 3339 or YYYY-MM-DD HH:MM:SS[.fraction]"))?,
            Self::Epoch { unit_ns } => read_epoch(text, unit_ns),
        }
    }
}

/// Whether `text` reads as a date and time, with or without a zone.
pub(super) fn is_datetime(text: &str) -> bool {
    whole_digits(text).is_none() && TimeReader::Either.read(text).is_ok()
}

/// Digits before the point when `text` is a decimal number.
fn whole_digits(text: &str) -> Option<usize> {
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_number = !whole.is_empty() && whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit());
    is_number.then_some(whole.len())
}

fn not_a_time(text: &str, expected: &str) -> String {
    format!("{text:?} is not a time: expected {expected}, at most 9 digits of a second (see --time-format)")
}

fn before_epoch(text: &str) -> String {
    format!("time {text:?} is before 1970, which an event's timestamp cannot be")
}

fn after_range(text: &str) -> String {
    format!("time {text:?} is after the year 2554, the last that 64 bits of nanoseconds hold")
}

fn read_zoned(text: &str) -> Option<Result<u64, String>> {
    let timestamp: Timestamp = text.parse().ok()?;
    Some(nanoseconds(timestamp, text))
}

fn read_plain(text: &str) -> Option<Result<u64, String>> {
    // The parser would skip an offset or an annotation, and take the wall clock of another zone for UTC.
    let clock = text.get(10..).unwrap_or_default();
    if text.starts_with(['-', '+']) || clock.contains(['-', '+', '[', 'Z', 'z']) {
        return None;
    }
    let datetime: DateTime = text.parse().ok()?;
    let zoned = datetime.to_zoned(TimeZone::UTC).ok()?;
    Some(nanoseconds(zoned.timestamp(), text))
}

fn nanoseconds(timestamp: Timestamp, text: &str) -> Result<u64, String> {
    let nanoseconds = timestamp.as_nanosecond();
    if nanoseconds < 0 {
        return Err(before_epoch(text));
    }
    u64::try_from(nanoseconds).map_err(|_| after_range(text))
}

fn read_epoch(text: &str, unit_ns: u64) -> Result<u64, String> {
    if whole_digits(text).is_none() {
        return Err(format!("{text:?} is not a time: the first rows hold numbers since 1970 (see --time-format)"));
    }
    if text.starts_with('-') {
        return Err(before_epoch(text));
    }
    let text_unsigned = text.strip_prefix('+').unwrap_or(text);
    let (whole, fraction) = text_unsigned.split_once('.').unwrap_or((text_unsigned, ""));
    let whole: u64 = whole.parse().map_err(|_| after_range(text))?;
    let mut total = whole.checked_mul(unit_ns).ok_or_else(|| after_range(text))?;
    let mut place_ns = unit_ns;
    for digit in fraction.bytes().map(|byte| u64::from(byte - b'0')) {
        place_ns /= 10;
        if place_ns == 0 && digit != 0 {
            return Err(format!("time {text:?} is finer than a nanosecond"));
        }
        total = total.checked_add(digit * place_ns).ok_or_else(|| after_range(text))?;
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auto(samples: &[&str]) -> TimeReader {
        TimeReader::new(TimeFormat::Auto, samples.iter().copied()).unwrap()
    }

    #[test]
    fn text_with_and_without_a_zone_is_the_same_instant() {
        const NOON_NS: u64 = 1_714_564_800_000_000_000;
        for text in [
            "2024-05-01T12:00:00Z",
            "2024-05-01T14:00:00+02:00",
            "2024-05-01 14:00:00+0200",
            "2024-05-01 12:00:00",
            "2024-05-01T12:00:00",
            "2024-05-01T12:00",
            "2024-05-01 12:00:00.000000000",
        ] {
            assert_eq!(TimeReader::Either.read(text), Ok(NOON_NS), "{text}");
        }
        assert_eq!(TimeReader::Either.read("2024-05-01"), Ok(NOON_NS - 12 * 3_600_000_000_000));
    }

    #[test]
    fn every_digit_of_a_second_counts() {
        assert_eq!(TimeReader::Plain.read("1970-01-01 00:00:01.123456789"), Ok(1_123_456_789));
        assert_eq!(TimeReader::Zoned.read("1970-01-01T00:00:00.000000001Z"), Ok(1));
        assert!(TimeReader::Either.read("1970-01-01 00:00:01.1234567891").is_err());
    }

    #[test]
    fn a_stated_kind_refuses_the_other() {
        assert!(TimeReader::Zoned.read("2024-05-01 12:00:00").is_err());
        assert!(TimeReader::Plain.read("2024-05-01T12:00:00Z").is_err());
        assert!(TimeReader::Plain.read("2024-05-01T12:00:00-04:00").is_err());
        assert!(TimeReader::Plain.read("2024-05-01T12:00:00[Europe/Berlin]").is_err());
    }

    #[test]
    fn digits_decide_the_unit_of_an_epoch() {
        for (samples, unit_ns) in [
            (&["0", "1", "2"][..], 1_000_000_000),
            (&["1714564800"], 1_000_000_000),
            (&["1714564800.5"], 1_000_000_000),
            (&["1714564800000"], 1_000_000),
            (&["1714564800000000"], 1_000),
            (&["1714564800000000000"], 1),
            (&["999999999999", "1000000000000"], 1_000_000),
        ] {
            assert_eq!(auto(samples), TimeReader::Epoch { unit_ns }, "{samples:?}");
        }
        assert_eq!(auto(&["2024-05-01 12:00:00"]), TimeReader::Either);
        assert_eq!(auto(&[]), TimeReader::Either);
    }

    #[test]
    fn eight_digits_that_are_a_date_are_not_guessed() {
        assert!(TimeReader::new(TimeFormat::Auto, ["20240501"].into_iter()).unwrap_err().contains("--time-format"));
        assert_eq!(TimeReader::Plain.read("20240501"), Ok(1_714_521_600_000_000_000));
    }

    #[test]
    fn epoch_fractions_are_exact() {
        let seconds = TimeReader::Epoch { unit_ns: 1_000_000_000 };
        assert_eq!(seconds.read("1714564800.123456789"), Ok(1_714_564_800_123_456_789));
        assert_eq!(seconds.read("1714564800.1234567890"), Ok(1_714_564_800_123_456_789));
        assert_eq!(seconds.read("+3."), Ok(3_000_000_000));
        assert!(seconds.read("1.0000000001").unwrap_err().contains("finer"));
        let nanoseconds = TimeReader::Epoch { unit_ns: 1 };
        assert_eq!(nanoseconds.read("18446744073709551615"), Ok(u64::MAX));
        assert!(nanoseconds.read("18446744073709551616").unwrap_err().contains("2554"));
        assert!(nanoseconds.read("0.5").unwrap_err().contains("finer"));
        assert!(seconds.read("18446744074").unwrap_err().contains("2554"));
    }

    #[test]
    fn times_outside_the_range_say_which_end() {
        assert!(TimeReader::Either.read("1969-12-31 23:59:59").unwrap_err().contains("before 1970"));
        assert!(TimeReader::Epoch { unit_ns: 1 }.read("-1").unwrap_err().contains("before 1970"));
        assert!(TimeReader::Either.read("2600-01-01").unwrap_err().contains("2554"));
    }

    #[test]
    fn other_text_is_refused_by_its_words() {
        let seconds = TimeReader::Epoch { unit_ns: 1_000_000_000 };
        for text in ["yesterday", "", "1e9", "0x10", "1 2", ".5", "٣", "2024-13-01 00:00:00", "01/02/2024"] {
            assert!(TimeReader::Either.read(text).unwrap_err().contains("not a time"), "{text}");
            assert!(seconds.read(text).unwrap_err().contains("not a time"), "{text}");
        }
    }

    #[test]
    fn a_number_is_no_datetime() {
        assert!(is_datetime("2013-12-02 21:15:00"));
        assert!(is_datetime("2013-12-02T21:15:00Z"));
        assert!(!is_datetime("20131202"));
        assert!(!is_datetime("timestamp"));
    }
}
