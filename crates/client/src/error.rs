//! Why there is no connection, or no longer.

use std::{error::Error, fmt, io, time::Duration};

use corelane_wire::Answer;

/// What ended a connection, or kept it from coming about. The text says what to look at.
#[derive(Debug)]
#[non_exhaustive]
pub enum ClientError {
    /// No TCP connection to `address`: a name that does not resolve, nobody listening, no route.
    Unreachable {
        /// As it was given.
        address: String,
        /// What the operating system or the resolver said.
        source: io::Error,
    },
    /// No TCP connection to `address` in time: packets to it get lost, or its accept queue is full.
    ConnectTimeout {
        /// As it was given.
        address: String,
        /// How long was waited.
        timeout: Duration,
    },
    /// Something accepted the connection that does not speak the data port's protocol.
    NotCorelane {
        /// As it was given.
        address: String,
        /// What it did instead of answering the first commit request.
        found: &'static str,
    },
    /// The server closed the connection and said why.
    Closed(Closing),
    /// The connection broke without a last frame. What was sent after the last answer may or may not be committed.
    Lost {
        /// What the operating system said; `UnexpectedEof` when the server closed without a word.
        source: io::Error,
        /// The last answer that came.
        answer: Answer,
    },
    /// The server sent bytes that are no answer, or an answer that nothing asked for.
    InvalidReply,
}

/// A server's last frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closing {
    /// What went wrong, for a person.
    pub error: String,
    /// Why it closed: a reason of `corelane_connections_closed_total`, as `oversize` or `shutdown`.
    pub code: String,
    /// The decided prefix of what was sent: resume after it. After the codes `oversize` and `rejected_frames`, the
    /// frame that ended it, or the one that follows, is the offender.
    pub answer: Answer,
}

impl ClientError {
    /// How far the server had decided, as far as the client knows.
    pub fn answer(&self) -> Option<Answer> {
        match self {
            Self::Closed(closing) => Some(closing.answer),
            Self::Lost { answer, .. } => Some(*answer),
            _ => None,
        }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { address, source } => {
                write!(f, "cannot connect to {address}: {source}; is the server running and the address its data port?")
            }
            Self::ConnectTimeout { address, timeout } => {
                write!(f, "cannot connect to {address}: no answer in {timeout:?}; check the address and the firewall")
            }
            Self::NotCorelane { address, found } => {
                write!(f, "{address} is no data port of a corelane server: it {found}; check --listen of the server")
            }
            Self::Closed(Closing { error, code, answer: Answer { committed, rejected } }) => write!(
                f,
                "the server closed the connection ({code}): {error}; {committed} events committed, {rejected} rejected"
            ),
            Self::Lost { source, answer: Answer { committed, rejected } } => write!(
                f,
                "the connection was lost: {source}; {committed} events committed and {rejected} rejected by the last \
                 answer, later ones are unknown"
            ),
            Self::InvalidReply => f.write_str("the server sent something that is no answer; are both of one version?"),
        }
    }
}

impl Error for ClientError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Unreachable { source, .. } | Self::Lost { source, .. } => Some(source),
            _ => None,
        }
    }
}
