//! The client library: connect, send, commit.
//!
//! Speaks the data port's protocol over one TCP connection, reads while it writes, and reports why a server ended the
//! connection. Never encodes or decodes events (`corelane-wire` does), never repeats what was sent, and never connects
//! again by itself: events that were not committed are the caller's to send again, and what is sent again after a lost
//! answer is taken again.
//!
//! In reading order:
//!
//! - [`client`]: one connection: its write buffer, commit requests and answers.
//! - [`error`]: why there is no connection, or no longer.
//! - [`replies`]: the server's direction of the stream, cut into replies.
#![forbid(unsafe_code)]

pub mod client;
pub mod error;
pub mod replies;

pub use client::Client;
pub use corelane_wire::Answer;
pub use error::{ClientError, Closing};
pub use replies::{Replies, Reply};
