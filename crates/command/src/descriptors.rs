//! How many files and sockets this process may open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the descriptor limit to what is needed, as far as it is allowed, and gives what it is then.
pub fn raise_descriptors(needed: u64) -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = needed.min(descriptors_allowed());
    if limit.current.is_some_and(|soft| soft < raised) {
        // A failure shows below, as a limit that is too low.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum: limit.maximum });
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// How far this process may raise its descriptor limit.
pub fn descriptors_allowed() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
}
