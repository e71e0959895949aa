//! Small files that may change while the process runs: read whole, and read again once a change rests.
//!
//! Has no thread or timer: its callers decide when to look. Never waits for a writer, and never runs on a data core.
//!
//! In reading order: `file` (reading, and what tells a file from another), `watch` (a change that rests), `reloaded` (a
//! value made of files).

#![forbid(unsafe_code)]

mod file;
mod reloaded;
mod watch;

pub use file::{FILE_BYTES_MAX, LoadError, read_file};
pub use reloaded::Reloaded;
pub use watch::FileWatch;
