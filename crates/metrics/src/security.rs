//! Security events: what a peer did, told one by one.
//!
//! They carry a peer's address, which must never become a metric label, so they travel apart from samples, in a bounded
//! lane. A shard tells some of each kind a second and counts them all.

use std::net::SocketAddr;

use crate::SecurityKind;

/// One security event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecurityEvent {
    /// Wall-clock time, nanoseconds since the Unix epoch.
    pub unix_nanos: u64,
    /// What happened.
    pub kind: SecurityKind,
    /// Whose connection was closed or refused.
    pub peer: SocketAddr,
    /// `Oversize`: the declared payload bytes. `RejectedFrames`: how many came in a row. `FrameTimeout`: bytes of the
    /// frame that had come. `Tls`: the number of the alert (RFC 8446 section 6), plus 256 when the peer sent it; 0 when
    /// the bytes were none of TLS. Else 0.
    pub detail: u64,
}

impl SecurityEvent {
    /// The detail as a sentence for people.
    pub fn detail_text(&self) -> String {
        match self.kind {
            SecurityKind::Oversize => format!("a frame header declared {} payload bytes", self.detail),
            SecurityKind::RejectedFrames => {
                format!("{} rejected frames with no accepted one between", self.detail)
            }
            SecurityKind::FrameTimeout => format!("a frame did not come whole in time; {} bytes had come", self.detail),
            SecurityKind::UnreadAnswers => "answers were asked for and not read".to_owned(),
            SecurityKind::NotAllowed => "refused: no allowed range has this address".to_owned(),
            SecurityKind::MaxConnections => "refused: there are max_connections already".to_owned(),
            SecurityKind::MaxConnectionsPerIp => "refused: this address has max_connections_per_ip already".to_owned(),
            SecurityKind::AcceptRate => {
                "refused: this address connects more often than max_accept_rate_per_ip".to_owned()
            }
            SecurityKind::HandshakeTimeout => "no TLS handshake was completed in time".to_owned(),
            SecurityKind::WrongToken => "a request to the control port had a wrong token".to_owned(),
            SecurityKind::Tls => match (self.detail / 256, alert_name((self.detail % 256) as u8)) {
                (0, _) if self.detail == 0 => "the peer does not speak TLS".to_owned(),
                (0, alert) => format!("the peer was refused: {alert}"),
                (_, alert) => format!("the peer refused us: {alert}"),
            },
        }
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
