//! The machine under a benchmark: cores, clocks, memory.

use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use core_affinity::CoreId;
use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

/// Time that the calling thread has run, for criterion: what others do on the same core meanwhile is not counted. For
/// contenders that never wait.
pub struct CpuTime(WallTime);

impl CpuTime {
    /// The measurement.
    #[allow(clippy::new_without_default, reason = "there is nothing default about it")]
    pub fn new() -> Self {
        Self(WallTime)
    }
}

impl Measurement for CpuTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        thread_time()
    }

    fn end(&self, start: Duration) -> Duration {
        thread_time() - start
    }

    fn add(&self, one: &Duration, other: &Duration) -> Duration {
        *one + *other
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        self.0.formatter()
    }
}

/// CPU time of the calling thread.
pub fn thread_time() -> Duration {
    clock(ClockId::ThreadCPUTime)
}

/// CPU time of the process.
pub fn process_time() -> Duration {
    clock(ClockId::ProcessCPUTime)
}

fn clock(id: ClockId) -> Duration {
    let time = clock_gettime(id);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The first and the last core that this process may use: one for what is measured, one for what feeds it. On a machine
/// with one core both are the same, and throughput says nothing. To be asked for the first time before any thread that
/// others are started from is pinned.
pub fn cores() -> (usize, usize) {
    static CORES: OnceLock<(usize, usize)> = OnceLock::new();
    *CORES.get_or_init(|| {
        let cores = corelane_testkit::host::allowed_cores();
        (cores[0], cores[cores.len() - 1])
    })
}

/// Runs `work` on a thread of its own that stays on the last core.
pub fn on_last_core<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let (_, core) = cores();
    let run = || {
        pin(core);
        work()
    };
    thread::scope(|scope| scope.spawn(run).join().expect("the work is done"))
}

/// Keeps the calling thread on one core.
pub fn pin(core: usize) {
    assert!(core_affinity::set_for_current(CoreId { id: core }), "cannot run on core {core}");
}

/// Lets this process open as many descriptors as the hard limit allows.
pub fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    raised.expect("the soft limit may be as high as the hard one");
}

/// Bytes of this process's memory that are resident now, and that were at most.
pub fn resident_bytes() -> (u64, u64) {
    let status = procfs::process::Process::myself().and_then(|process| process.status()).expect("procfs is mounted");
    let kilobytes = |value: Option<u64>| value.expect("a process with memory") * 1024;
    (kilobytes(status.vmrss), kilobytes(status.vmhwm))
}
