//! TLS for the data port and the control port: certificates, read again when they change, and the data port's records.
//!
//! Opens no socket and has no thread, timer or runtime of its own: the owner of a source decides when to look, and only
//! handshakes touch the lock that the certificate in use is behind. Connections that are open keep what they began with.
//!
//! In reading order: `certificates` (the source that handshakes ask, and its expiry), `data_port` (the same with clients'
//! certificates); then what the data port does without a socket: `handshake`, `record`, and `fault` (why either came to
//! nothing).

#![forbid(unsafe_code)]

mod certificates;
mod data_port;
mod fault;
mod handshake;
mod record;
#[cfg(test)]
mod testing;

pub use certificates::{CertificateSource, server_config};
pub use data_port::{CLIENT_CHAIN_BYTES_MAX, DataPortFiles, DataPortTls};
pub use fault::TlsFault;
pub use handshake::{HANDSHAKE_BYTES_MAX, Handshake};
pub use record::{Opened, RECORD_BYTES_MAX, RECORD_HEADER_BYTES, Records, record_bytes};
pub use rustls::ServerConfig;
