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
    /// frame that had come. Else 0.
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
            SecurityKind::FrameTimeout => format!("a frame was begun and not finished; {} bytes had come", self.detail),
            SecurityKind::UnreadAnswers => "answers were asked for and not read".to_owned(),
            SecurityKind::NotAllowed => "refused: no allowed range has this address".to_owned(),
            SecurityKind::MaxConnections => "refused: there are max_connections already".to_owned(),
            SecurityKind::MaxConnectionsPerIp => "refused: this address has max_connections_per_ip already".to_owned(),
            SecurityKind::AcceptRate => {
                "refused: this address connects more often than max_accept_rate_per_ip".to_owned()
            }
        }
    }
}
