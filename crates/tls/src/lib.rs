//! TLS for the data port and the control port: certificates, read again when they change, and the data port's records.
//!
//! Opens no socket and has no thread, timer or runtime of its own: whoever owns a source says when to look, and only
//! handshakes touch the lock that the certificate in use is behind. Connections that are open keep what they began with.
//!
//! In reading order: `files` (reading, and noticing a change), `reloaded` (a value made of files), `certificates`
//! (the source that handshakes ask, and its expiry), `data_port` (the same with clients' certificates); then what the
//! data port does without a socket: `handshake`, `record`, and `fault` (why either came to nothing).

#![forbid(unsafe_code)]

mod certificates;
mod data_port;
mod fault;
mod files;
mod handshake;
mod record;
mod reloaded;
#[cfg(test)]
mod testing;

pub use certificates::{CertificateSource, server_config};
pub use data_port::{CLIENT_CHAIN_BYTES_MAX, DataPortFiles, DataPortTls};
pub use fault::TlsFault;
pub use files::{FILE_BYTES_MAX, LoadError, read_file};
pub use handshake::{HANDSHAKE_BYTES_MAX, Handshake};
pub use record::{Opened, RECORD_BYTES_MAX, RECORD_HEADER_BYTES, Records, record_bytes};
pub use reloaded::Reloaded;
pub use rustls::ServerConfig;
