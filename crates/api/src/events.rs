//! `/api/v1/events`: the last security events.

use serde::{Deserialize, Serialize};

/// The answer of `/api/v1/events`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Events {
    /// Newest first.
    pub events: Vec<SecurityEvent>,
}

/// What a peer did, told once.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct SecurityEvent {
    /// A sentence for people.
    pub detail: String,
    /// The label value of `corelane_security_events_total`.
    pub kind: String,
    /// Address and port.
    pub peer: String,
    /// RFC 3339; `None` where the year has more than four digits.
    pub time: Option<String>,
    /// Nanoseconds since the Unix epoch.
    pub time_unix_nanos: u64,
}
