//! Tests only: a real server process on `127.0.0.1:0`, frames to send it, peers that send them, numbers to check.
//!
//! Never part of the product, and never judges by time: a wait has a deadline far beyond what is likely, and a test
//! compares counts. Whatever goes wrong panics and says what was awaited.
//!
//! In reading order:
//!
//! - [`server`]: starts, asks, stops and kills the process under test.
//! - [`metrics`]: a scrape as numbers by name and labels.
//! - [`frames`]: events of several sizes, and a frame for each way to be refused.
//! - [`peer`]: a blocking client that can also misbehave.
//! - [`pki`]: certificates, good and bad.
//! - [`http`]: as much HTTP as tests need.
//! - [`random`]: numbers from a seed that is printed and taken back.
//! - [`host`]: the test's own limits and cores.
//! - [`tools`]: programs of others, where the machine has them.
//! - [`allocator`]: counts what a thread allocates.

pub mod allocator;
pub mod frames;
pub mod host;
pub mod http;
pub mod metrics;
pub mod peer;
pub mod pki;
pub mod random;
pub mod server;
pub mod tools;

use std::thread::sleep;
use std::time::{Duration, Instant};

pub use metrics::Metrics;
pub use peer::{Peer, Reply};
pub use random::Random;
pub use server::{Ended, Server};

/// No wait is longer. Generous, since it only tells a hang from a slow machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Looks again and again until `look` finds something.
///
/// # Panics
/// After [`DEADLINE`], telling `what` was awaited.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        sleep(Duration::from_millis(5));
    }
}

/// Looks again and again until `holds`.
///
/// # Panics
/// After [`DEADLINE`], telling `what` was awaited.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    wait_for(what, || holds().then_some(()));
}
