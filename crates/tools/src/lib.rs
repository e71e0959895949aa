//! The commands around the server: `send`, `load`, `decode`, `top`.
//!
//! Clients of a server like any other: they speak its protocol and read the JSON of its control port, and depend on no
//! crate of the server but `wire`. The command `corelane` takes them in with its feature `tools`.
//!
//! In reading order:
//!
//! - [`send`]: files of records, or this host's own numbers, as events.
//! - [`load`]: load by a schedule, measured.
//! - [`decode`]: frames as JSON.
//! - [`top`]: a running server in a terminal.
//! - `control_client`: asks a running server, for `load` and `top`.
#![forbid(unsafe_code)]

mod control_client;
pub mod decode;
pub mod load;
pub mod send;
pub mod top;
