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
    /// What else is known of it.
    pub detail: SecurityDetail,
}

/// What a security event says besides its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecurityDetail {
    /// Nothing.
    None,
    /// Payload bytes that a frame header declared.
    DeclaredBytes(u32),
    /// Rejected frames in a row.
    RejectedInARow(u32),
    /// Bytes that had come of a frame.
    PartialFrameBytes(u32),
    /// The bytes were not TLS.
    NotTls,
    /// Number of the TLS alert that the peer was refused with (RFC 8446 section 6).
    AlertSent(u8),
    /// Number of the TLS alert that the peer sent.
    AlertReceived(u8),
}
