//! The label values that belong to no other crate: why a connection ended, what counts as a security event, and the
//! states of a shard.

/// Why a connection ended. Each variant is one value of `corelane_connections_closed_total{reason}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// The peer closed between two frames.
    PeerClosed,
    /// The peer reset the connection.
    PeerReset,
    /// No byte came for the idle timeout.
    IdleTimeout,
    /// A started frame was not finished in time, or was evicted because the pool was short.
    FrameTimeout,
    /// TLS was not agreed on in time, or others waited for the place and the peer was silent.
    HandshakeTimeout,
    /// Keepalive or the user timeout found the peer gone.
    HalfOpen,
    /// A header declared more than the largest frame.
    Oversize,
    /// Too many rejected frames with no accepted one between.
    RejectedFrames,
    /// The peer closed inside a frame.
    Truncated,
    /// The peer did not read the answers that it asked for.
    UnreadAnswers,
    /// It was as old as a connection may become.
    MaxAge,
    /// The server stops.
    Shutdown,
    /// A limit or an address rule refused the connection.
    Refused,
    /// Either side refused the other's TLS, or the peer broke its rules.
    Tls,
    /// Serving the connection panicked.
    Panic,
    /// Any other error of the socket.
    Error,
}

impl CloseReason {
    /// Every reason, in the order of [`index`](Self::index).
    pub const ALL: [Self; 16] = [
        Self::PeerClosed,
        Self::PeerReset,
        Self::IdleTimeout,
        Self::FrameTimeout,
        Self::HandshakeTimeout,
        Self::HalfOpen,
        Self::Oversize,
        Self::RejectedFrames,
        Self::Truncated,
        Self::UnreadAnswers,
        Self::MaxAge,
        Self::Shutdown,
        Self::Refused,
        Self::Tls,
        Self::Panic,
        Self::Error,
    ];

    /// The label value; also the `code` of the last frame that the peer gets.
    pub const fn label(self) -> &'static str {
        match self {
            Self::PeerClosed => "peer_closed",
            Self::PeerReset => "peer_reset",
            Self::IdleTimeout => "idle_timeout",
            Self::FrameTimeout => "frame_timeout",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::HalfOpen => "half_open",
            Self::Oversize => "oversize",
            Self::RejectedFrames => "rejected_frames",
            Self::Truncated => "truncated",
            Self::UnreadAnswers => "unread_answers",
            Self::MaxAge => "max_age",
            Self::Shutdown => "shutdown",
            Self::Refused => "refused",
            Self::Tls => "tls",
            Self::Panic => "panic",
            Self::Error => "error",
        }
    }

    /// Position in [`ALL`](Self::ALL).
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// What a peer did that an operator should hear of. Each variant is one value of
/// `corelane_security_events_total{kind}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SecurityKind {
    /// A header declared more than the largest frame.
    Oversize,
    /// Too many rejected frames with no accepted one between.
    RejectedFrames,
    /// A frame did not come whole in time.
    FrameTimeout,
    /// The peer did not read the answers that it asked for.
    UnreadAnswers,
    /// No rule allows the address.
    NotAllowed,
    /// There were as many connections as there may be.
    MaxConnections,
    /// The address had as many connections as it may have.
    MaxConnectionsPerIp,
    /// The address connected more often in this second than it may.
    AcceptRate,
    /// TLS was not agreed on in time.
    HandshakeTimeout,
    /// Either side refused the other's TLS, or the peer broke its rules.
    Tls,
    /// A request to the control port had a wrong token. Counted by the control plane and by no shard.
    WrongToken,
}

impl SecurityKind {
    /// The kinds that a shard counts, in the order of [`index`](Self::index).
    pub const OF_SHARDS: [Self; 10] = [
        Self::Oversize,
        Self::RejectedFrames,
        Self::FrameTimeout,
        Self::UnreadAnswers,
        Self::NotAllowed,
        Self::MaxConnections,
        Self::MaxConnectionsPerIp,
        Self::AcceptRate,
        Self::HandshakeTimeout,
        Self::Tls,
    ];

    /// Every kind, in the order of [`index`](Self::index).
    pub const ALL: [Self; Self::OF_SHARDS.len() + 1] = {
        let mut all = [Self::WrongToken; Self::OF_SHARDS.len() + 1];
        let mut index = 0;
        while index < Self::OF_SHARDS.len() {
            all[index] = Self::OF_SHARDS[index];
            index += 1;
        }
        all
    };

    /// The label value.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Oversize => "oversize",
            Self::RejectedFrames => "rejected_frames",
            Self::FrameTimeout => "frame_timeout",
            Self::UnreadAnswers => "unread_answers",
            Self::NotAllowed => "not_allowed",
            Self::MaxConnections => "max_connections",
            Self::MaxConnectionsPerIp => "max_connections_per_ip",
            Self::AcceptRate => "accept_rate",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::Tls => "tls",
            Self::WrongToken => "wrong_token",
        }
    }

    /// Position in [`ALL`](Self::ALL).
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// Where a shard is in its life. It travels as a gauge in [`cell::STATE`](crate::cell::STATE) with every flush, so it
/// is the shard's heartbeat, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ShardState {
    /// Not listening yet. Also what a shard is before its first sample.
    Starting,
    /// Taking connections.
    Accepting,
    /// Finishing what has arrived.
    Draining,
    /// Every connection is closed.
    Stopped,
}

impl ShardState {
    /// Every state, in the order of [`index`](Self::index).
    pub const ALL: [Self; 4] = [Self::Starting, Self::Accepting, Self::Draining, Self::Stopped];

    /// The word for people and `/readyz`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Accepting => "accepting",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
        }
    }

    /// Position in [`ALL`](Self::ALL), and the gauge's value.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The state of that index.
    pub fn from_index(index: usize) -> Option<Self> {
        Self::ALL.get(index).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_follow_the_order_of_all() {
        assert!(CloseReason::ALL.iter().enumerate().all(|(index, reason)| reason.index() == index));
        assert!(SecurityKind::ALL.iter().enumerate().all(|(index, kind)| kind.index() == index));
        assert!(ShardState::ALL.iter().enumerate().all(|(index, state)| state.index() == index));
        assert_eq!(ShardState::from_index(4), None);
    }
}
