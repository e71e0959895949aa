//! Time as the shard sees it: nanoseconds of CLOCK_MONOTONIC, read once a turn where that is exact enough.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A point of CLOCK_MONOTONIC in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(u64);

impl Instant {
    pub(crate) fn now() -> Self {
        Self(nanoseconds(ClockId::Monotonic))
    }

    /// Nanoseconds since the clock's beginning.
    pub fn nanoseconds(self) -> u64 {
        self.0
    }

    /// Zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl std::ops::Add<Duration> for Instant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// CPU time of the calling thread.
pub(crate) fn thread_cpu_nanoseconds() -> u64 {
    nanoseconds(ClockId::ThreadCPUTime)
}

/// Nanoseconds since the Unix epoch.
pub(crate) fn unix_nanoseconds() -> u64 {
    nanoseconds(ClockId::Realtime)
}

fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
