//! What all commands share: how they fail, how they read values and print texts of peers.
//!
//! Used by the server and by the tools, which do not know each other. Starts no thread and opens nothing.
//!
//! In reading order: `failure` (an error for the operator, with its exit code), `values` (text to sizes and durations),
//! `descriptors` (the limit of this process), `escape` (text that must not act on a terminal).
#![forbid(unsafe_code)]

mod descriptors;
mod escape;
mod failure;
mod values;

pub use descriptors::{descriptors_allowed, raise_descriptors};
pub use escape::{is_unsafe, write_escaped, write_json};
pub use failure::Failure;
pub use values::{duration, size};
