//! Security events: what a peer did, told one by one.
//!
//! They carry a peer's address, which must never become a metric label, so they travel apart from samples, in a bounded
//! lane. Rare by construction: each one closes its connection.

use std::net::SocketAddr;

use crate::SecurityKind;

/// One security event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecurityEvent {
    /// Wall-clock time, nanoseconds since the Unix epoch.
    pub unix_nanos: u64,
    /// What happened.
    pub kind: SecurityKind,
    /// Whose connection was closed.
    pub peer: SocketAddr,
    /// `Oversize`: the declared payload bytes. `RejectedFrames`: how many came in a row.
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
        }
    }
}
