//! What the machine gives the test itself.

use std::sync::{Mutex, PoisonError};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity};

/// The cores that this process, and so the server that it starts, may use.
///
/// # Panics
/// When the kernel does not tell.
pub fn allowed_cores() -> Vec<usize> {
    let set = sched_getaffinity(None).expect("the kernel tells its cores");
    (0..CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect()
}

/// The value of `--cores` for so many shards; `None` on a machine with fewer cores.
pub fn cores_for(shards: usize) -> Option<String> {
    let cores = allowed_cores();
    let chosen = cores.get(..shards)?;
    Some(chosen.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
}

/// Lets this process open `count` descriptors more than its tests need anyway. Never lowers the limit, which all tests of
/// the process share.
///
/// # Panics
/// When the hard limit is lower.
pub fn allow_descriptors(count: u64) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let wanted = count + 1024;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum });
        assert!(raised.is_ok(), "the test needs {wanted} descriptors: raise the hard limit (`ulimit -Hn {wanted}`)");
    }
}
