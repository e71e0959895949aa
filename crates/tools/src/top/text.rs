//! Numbers as text for people, and texts of peers as something that a terminal can be shown.

use std::time::Duration;

/// `1,234,567`
pub(super) fn whole(number: f64) -> String {
    let digits = format!("{:.0}", number.abs());
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number <= -0.5 { format!("-{text}") } else { text }
}

/// To the tenth while it is small.
pub(super) fn rate(number: f64) -> String {
    if number > 0.0 && number < 9.95 { format!("{number:.1}") } else { whole(number) }
}

/// `12.3k`: three digits that count.
pub(super) fn short(number: f64) -> String {
    scaled(number, &["", "k", "M", "G", "T"], 1_000.0)
}

/// `12.3MiB`
pub(super) fn bytes(number: f64) -> String {
    scaled(number, &["B", "KiB", "MiB", "GiB", "TiB"], 1_024.0)
}

fn scaled(mut number: f64, units: &[&str], step: f64) -> String {
    let mut unit = 0;
    while number.abs() >= step * 0.9995 && unit + 1 < units.len() {
        number /= step;
        unit += 1;
    }
    let digits = match number.abs() {
        size if size >= 99.95 || number.fract() == 0.0 => 0,
        size if size >= 9.995 => 1,
        _ => 2,
    };
    format!("{number:.digits$}{}", units[unit])
}

/// `8.2%`
pub(super) fn percent(ratio: f64) -> String {
    if ratio > 0.0 && ratio < 0.0995 { format!("{:.1}%", ratio * 100.0) } else { format!("{:.0}%", ratio * 100.0) }
}

/// The bound of a bucket: `64us`, `16ms`, `8.4s`.
pub(super) fn bound(seconds: f64) -> String {
    match seconds {
        seconds if seconds.is_infinite() => ">8s".to_owned(),
        seconds if seconds < 1e-3 => format!("{:.0}us", seconds * 1e6),
        seconds if seconds < 1.0 => format!("{:.0}ms", seconds * 1e3),
        seconds => format!("{seconds:.1}s"),
    }
}

/// `3 d 04 h`, `1 h 02 min`, `4 min 10 s`, `12 s`.
pub(super) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds} s"),
        (0, 0, minutes, seconds) => format!("{minutes} min {seconds:02} s"),
        (0, hours, minutes, _) => format!("{hours} h {minutes:02} min"),
        (days, hours, ..) => format!("{days} d {hours:02} h"),
    }
}

/// A measured value, which may be of any size.
pub(super) fn measured(value: f64) -> String {
    match value.abs() {
        size if size != 0.0 && !(1e-3..1e9).contains(&size) => format!("{value:.2e}"),
        size if value.fract() == 0.0 || size >= 1e4 => whole(value),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// A text that a peer chose, without what a terminal would obey: control characters, and marks that turn the direction.
pub(super) fn harmless(text: &str) -> String {
    let turns =
        |letter: char| matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|letter| if letter.is_control() || turns(letter) { '?' } else { letter }).collect()
}

/// The last values as a line of so many letters, between the lowest and the highest of them.
pub(super) fn sparkline(
    values: impl ExactSizeIterator<Item = f64> + Clone,
    width: usize,
    lowest: Option<f64>,
) -> String {
    let values = values.clone().skip(values.len().saturating_sub(width));
    let low = lowest.unwrap_or_else(|| values.clone().fold(f64::INFINITY, f64::min));
    let high = values.clone().fold(low, f64::max);
    let level = |value: f64| if high > low { ((value - low) / (high - low) * 7.0).round() as usize } else { 0 };
    let line: String = values.map(|value| LEVELS[level(value).min(7)]).collect();
    format!("{line:>width$}")
}

const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_write_them() {
        assert_eq!(
            [whole(0.0), whole(999.6), whole(1_234_567.0), whole(-1_000.0)],
            ["0", "1,000", "1,234,567", "-1,000"]
        );
        assert_eq!([rate(0.0), rate(0.25), rate(9.96)], ["0", "0.2", "10"]);
        assert_eq!([short(7.0), short(999.9), short(1_500.0), short(12_340_000.0)], ["7", "1.00k", "1.50k", "12.3M"]);
        assert_eq!([bytes(0.0), bytes(1_536.0)], ["0B", "1.50KiB"]);
        assert_eq!([percent(0.0), percent(0.082), percent(0.999)], ["0%", "8.2%", "100%"]);
        assert_eq!(
            [bound(6.4e-5), bound(0.016384), bound(8.388608), bound(f64::INFINITY)],
            ["64us", "16ms", "8.4s", ">8s"]
        );
        let durations = [12, 250, 3_720, 273_600].map(|seconds| duration(Duration::from_secs(seconds)));
        assert_eq!(durations, ["12 s", "4 min 10 s", "1 h 02 min", "3 d 04 h"]);
        assert_eq!(
            [measured(20.5), measured(-0.25), measured(3e12), measured(0.0)],
            ["20.50", "-0.250", "3.00e12", "0"]
        );
    }

    #[test]
    fn no_text_of_a_peer_commands_a_terminal() {
        assert_eq!(harmless("pump \u{1b}[2J\u{7}\u{9b}\n7\u{202e}ß"), "pump ?[2J???7?ß");
    }

    #[test]
    fn a_sparkline_shows_the_newest_values() {
        assert_eq!(sparkline([0.0, 7.0, 3.5].into_iter(), 5, None), "  ▁█▅");
        assert_eq!(sparkline([9.0, 1.0, 2.0].into_iter(), 2, Some(0.0)), "▅█");
        assert_eq!(sparkline([4.0, 4.0].into_iter(), 3, None), " ▁▁");
        assert_eq!(sparkline([].into_iter(), 2, None), "  ");
    }
}
