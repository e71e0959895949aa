//! The last security events: kept for JSON, and told in the log, one line a second and kind.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use corelane_api as api;
use corelane_metrics::{SecurityDetail, SecurityEvent, SecurityKind};
use jiff::Timestamp;

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
            tracing::warn!(kind, %peer, left_out, "security event: {}", detail_text(&event));
        }
        // Shards are read one after the other, so a late one may tell of something earlier.
        let place = self.events.iter().rposition(|other| other.unix_nanos <= event.unix_nanos).map_or(0, |at| at + 1);
        self.events.insert(place, event);
        if self.events.len() > EVENTS_MAX {
            self.events.pop_front();
        }
    }

    /// The answer of `/api/v1/events`, newest first.
    pub(crate) fn to_json(&self) -> String {
        let events = api::Events { events: self.events.iter().rev().map(told).collect() };
        serde_json::to_string(&events).expect("numbers and texts can be written as JSON")
    }
}

fn told(event: &SecurityEvent) -> api::SecurityEvent {
    api::SecurityEvent {
        detail: detail_text(event),
        kind: event.kind.label().to_owned(),
        peer: event.peer.to_string(),
        // A clock set beyond the year 9999 leaves the text out; the number stays.
        time: Timestamp::from_nanosecond(event.unix_nanos.into()).ok().map(|time| time.to_string()),
        time_unix_nanos: event.unix_nanos,
    }
}

/// The detail as a sentence for people.
fn detail_text(event: &SecurityEvent) -> String {
    match (event.detail, event.kind) {
        (SecurityDetail::DeclaredBytes(bytes), _) => format!("a frame header declared {bytes} payload bytes"),
        (SecurityDetail::RejectedInARow(frames), _) => {
            format!("{frames} rejected frames with no accepted one between")
        }
        (SecurityDetail::PartialFrameBytes(bytes), _) => {
            format!("a frame did not come whole in time; {bytes} bytes had come")
        }
        (SecurityDetail::NotTls, _) => "the peer does not speak TLS".to_owned(),
        (SecurityDetail::AlertSent(alert), _) => format!("the peer was refused: {}", alert_name(alert)),
        (SecurityDetail::AlertReceived(alert), _) => format!("the peer refused us: {}", alert_name(alert)),
        (SecurityDetail::None, kind) => match kind {
            SecurityKind::UnreadAnswers => "answers were asked for and not read",
            SecurityKind::NotAllowed => "refused: no allowed range has this address",
            SecurityKind::MaxConnections => "refused: there are max_connections already",
            SecurityKind::MaxConnectionsPerIp => "refused: this address has max_connections_per_ip already",
            SecurityKind::AcceptRate => "refused: this address connects more often than max_accept_rate_per_ip",
            SecurityKind::HandshakeTimeout => "no TLS handshake was completed in time",
            SecurityKind::WrongToken => "a request to the control port had a wrong token",
            // Of these a detail is known.
            SecurityKind::Oversize | SecurityKind::RejectedFrames | SecurityKind::FrameTimeout | SecurityKind::Tls => {
                kind.label()
            }
        }
        .to_owned(),
    }
}

/// The name of a TLS alert, as RFC 8446 section 6 and RFC 5246 section 7.2 have it.
fn alert_name(number: u8) -> String {
    let name = match number {
        10 => "unexpected_message",
        20 => "bad_record_mac",
        22 => "record_overflow",
        40 => "handshake_failure",
        42 => "bad_certificate",
        43 => "unsupported_certificate",
        44 => "certificate_revoked",
        45 => "certificate_expired",
        46 => "certificate_unknown",
        47 => "illegal_parameter",
        48 => "unknown_ca",
        49 => "access_denied",
        50 => "decode_error",
        51 => "decrypt_error",
        70 => "protocol_version",
        71 => "insufficient_security",
        80 => "internal_error",
        90 => "user_canceled",
        109 => "missing_extension",
        110 => "unsupported_extension",
        112 => "unrecognized_name",
        116 => "certificate_required",
        120 => "no_application_protocol",
        other => return format!("alert {other}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use corelane_metrics::SecurityKind;

    use super::*;

    fn event(unix_nanos: u64) -> SecurityEvent {
        let peer = "[2001:db8::1]:7000".parse().unwrap();
        SecurityEvent {
            unix_nanos,
            kind: SecurityKind::Oversize,
            peer,
            detail: SecurityDetail::DeclaredBytes(1_195_725_856),
        }
    }

    #[test]
    fn the_newest_256_events_are_told_newest_first() {
        let mut log = EventLog::default();
        for nanos in 0..300 {
            log.push(event(nanos));
        }
        log.push(event(250));
        let told: api::Events = serde_json::from_str(&log.to_json()).unwrap();
        let told: Vec<_> = told.events.iter().map(|event| event.time_unix_nanos).collect();
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
    fn every_detail_is_a_sentence_of_its_own() {
        use SecurityDetail::*;
        let text = |kind, detail| detail_text(&SecurityEvent { kind, detail, ..event(0) });
        assert_eq!(
            text(SecurityKind::RejectedFrames, RejectedInARow(64)),
            "64 rejected frames with no accepted one between"
        );
        assert_eq!(
            text(SecurityKind::FrameTimeout, PartialFrameBytes(7)),
            "a frame did not come whole in time; 7 bytes had come"
        );
        assert_eq!(text(SecurityKind::Tls, NotTls), "the peer does not speak TLS");
        assert_eq!(text(SecurityKind::Tls, AlertSent(48)), "the peer was refused: unknown_ca");
        assert_eq!(text(SecurityKind::Tls, AlertReceived(42)), "the peer refused us: bad_certificate");
        assert_eq!(text(SecurityKind::Tls, AlertReceived(0)), "the peer refused us: alert 0");
        assert_eq!(text(SecurityKind::NotAllowed, None), "refused: no allowed range has this address");
    }

    #[test]
    fn an_event_is_told_for_people_and_for_programs() {
        let mut log = EventLog::default();
        log.push(event(1_760_000_000_123_456_789));
        assert_eq!(
            log.to_json(),
            r#"{"events":[{"detail":"a frame header declared 1195725856 payload bytes","kind":"oversize","peer":"[2001:db8::1]:7000","time":"2025-10-09T08:53:20.123456789Z","time_unix_nanos":1760000000123456789}]}"#
        );
    }
}
