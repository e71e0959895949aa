//! The last security events: kept for JSON, and told in the log, one line a second and kind.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use corelane_metrics::{SecurityEvent, SecurityKind};
use jiff::Timestamp;
use serde_json::{Value, json};

/// Events kept. Older ones are only in the counters; each costs about 60 bytes.
const EVENTS_MAX: usize = 256;

/// What the events kept may take, with the one by which they pass their number and the room that a list grows by.
pub(crate) const BYTES_MAX: usize = (EVENTS_MAX + 1).next_power_of_two() * size_of::<SecurityEvent>();

/// The last security events of all shards.
#[derive(Default)]
pub(crate) struct EventLog {
    /// Oldest first, by the time at which the shards told them.
    events: VecDeque<SecurityEvent>,
    lines: [LogLine; SecurityKind::ALL.len()],
}

/// The log lines of one kind.
#[derive(Clone, Copy, Default)]
struct LogLine {
    written_at: Option<Instant>,
    /// Events since then.
    unwritten: u64,
}

impl LogLine {
    /// How many events were left out before this one, when it may be written.
    fn take_turn(&mut self, now: Instant) -> Option<u64> {
        if self.written_at.is_some_and(|written_at| now.duration_since(written_at) < LOG_EVERY) {
            self.unwritten += 1;
            return None;
        }
        self.written_at = Some(now);
        Some(std::mem::take(&mut self.unwritten))
    }
}

/// A flood of one kind writes a line so often.
const LOG_EVERY: Duration = Duration::from_secs(1);

impl EventLog {
    pub(crate) fn push(&mut self, event: SecurityEvent) {
        if let Some(left_out) = self.lines[event.kind.index()].take_turn(Instant::now()) {
            let (kind, peer) = (event.kind.label(), event.peer);
            tracing::warn!(kind, %peer, left_out, "security event: {}", event.detail_text());
        }
        // Shards are read one after the other, so a late one may tell of something earlier.
        let place = self.events.iter().rposition(|other| other.unix_nanos <= event.unix_nanos).map_or(0, |at| at + 1);
        self.events.insert(place, event);
        if self.events.len() > EVENTS_MAX {
            self.events.pop_front();
        }
    }

    /// The answer of `/api/v1/events`, newest first.
    pub(crate) fn to_json(&self) -> Value {
        json!({ "events": self.events.iter().rev().map(event_json).collect::<Vec<_>>() })
    }
}

fn event_json(event: &SecurityEvent) -> Value {
    json!({
        // A clock set beyond the year 9999 leaves the text out; the number stays.
        "time": Timestamp::from_nanosecond(event.unix_nanos.into()).ok().map(|time| time.to_string()),
        "time_unix_nanos": event.unix_nanos,
        "kind": event.kind.label(),
        "peer": event.peer.to_string(),
        "detail": event.detail_text(),
    })
}

#[cfg(test)]
mod tests {
    use corelane_metrics::SecurityKind;

    use super::*;

    fn event(unix_nanos: u64) -> SecurityEvent {
        let peer = "[2001:db8::1]:7000".parse().unwrap();
        SecurityEvent { unix_nanos, kind: SecurityKind::Oversize, peer, detail: 1_195_725_856 }
    }

    #[test]
    fn the_newest_256_events_are_told_newest_first() {
        let mut log = EventLog::default();
        for nanos in 0..300 {
            log.push(event(nanos));
        }
        log.push(event(250));
        let told = log.to_json();
        let told: Vec<_> =
            told["events"].as_array().unwrap().iter().map(|event| event["time_unix_nanos"].as_u64().unwrap()).collect();
        assert_eq!(told.len(), EVENTS_MAX);
        assert!(told.is_sorted_by(|left, right| left >= right));
        assert_eq!((told[0], told[EVENTS_MAX - 1]), (299, 45));
    }

    #[test]
    fn a_flood_of_one_kind_is_one_line_a_second() {
        let (mut line, start) = (LogLine::default(), Instant::now());
        assert_eq!(line.take_turn(start), Some(0));
        assert!((1..1_000).all(|millisecond| line.take_turn(start + Duration::from_millis(millisecond)).is_none()));
        assert_eq!(line.take_turn(start + LOG_EVERY), Some(999));
        assert_eq!(line.take_turn(start + 3 * LOG_EVERY), Some(0));
    }

    #[test]
    fn an_event_is_told_for_people_and_for_programs() {
        let mut log = EventLog::default();
        log.push(event(1_760_000_000_123_456_789));
        assert_eq!(
            log.to_json()["events"][0],
            json!({
                "time": "2025-10-09T08:53:20.123456789Z",
                "time_unix_nanos": 1_760_000_000_123_456_789_u64,
                "kind": "oversize",
                "peer": "[2001:db8::1]:7000",
                "detail": "a frame header declared 1195725856 payload bytes",
            })
        );
    }
}
