//! Certificates, read again when they change; for the data port and the control port.
//!
//! Opens no socket and has no thread, timer or runtime of its own: whoever owns a source says when to look, and only
//! handshakes touch the lock that the certificate in use is behind. Connections that are open keep what they began with.
//!
//! In reading order: `files` (reading, and noticing a change), `reloaded` (a value made of files), `certificates`
//! (the source that handshakes ask, and its expiry).

#![forbid(unsafe_code)]

mod certificates;
mod files;
mod reloaded;

pub use certificates::{CertificateSource, server_config};
pub use files::{FILE_BYTES_MAX, LoadError, read_file};
pub use reloaded::Reloaded;
