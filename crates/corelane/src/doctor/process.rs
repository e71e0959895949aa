//! What a process must be granted before it may start threads: address space, the threads themselves, and cores to pin
//! them to. Without one of these a thread would fail later, in code that can only panic.

use std::io;
use std::sync::RwLock;
use std::thread::{Builder, scope};

use corelane_command::Failure;
use rustix::process::{Resource, getrlimit};
use rustix::thread::{sched_getaffinity, sched_setaffinity};

use super::Check;
use crate::plan::Plan;

/// Address space that glibc reserves for the C code of each thread besides the plan's memory, and once more for a moment
/// while it aligns one. Hardly any of it becomes memory.
const ARENA_BYTES: u64 = 64 << 20;

/// All of it, in the order in which it is needed.
pub(super) fn all(plan: &Plan) -> Vec<Check> {
    let limits = [
        ("address space", "-v", Resource::As, plan.memory_bytes_max + (plan.threads + 1) * ARENA_BYTES),
        ("data segment", "-d", Resource::Data, plan.memory_bytes_max),
    ];
    let mut checks = Vec::new();
    for (name, flag, resource, needed) in limits {
        let check = memory_limit(name, flag, getrlimit(resource).current, needed);
        let fails = check.is_fail();
        checks.push(check);
        // With too little memory even an attempt to start a thread can end the process.
        if fails {
            return checks;
        }
    }
    checks.push(threads(plan.threads, start_threads(plan.threads)));
    let cores: Vec<usize> = plan.shards.iter().map(|shard| shard.core).collect();
    checks.push(topology(corelane_shard::probe_cores(&cores)));
    checks.push(pinning(pin_somewhere()));
    checks
}

/// `limit` in bytes, `None` for none; `flag` is that of the shell's `ulimit`.
fn memory_limit(name: &'static str, flag: &str, limit: Option<u64>, needed: u64) -> Check {
    match limit {
        None => Check::ok(name, "no limit"),
        Some(limit) if limit < needed => {
            let kib = needed.div_ceil(1024);
            Check::fail(
                name,
                format!("the limit of the {name} is {} KiB, and {kib} KiB can be used", limit / 1024),
                format!(
                    "raise it (`ulimit {flag} {kib}`) or remove it (`ulimit {flag} unlimited`); to limit memory, use a \
                     control group"
                ),
            )
        }
        Some(limit) => Check::ok(name, format!("the limit is {} KiB", limit / 1024)),
    }
}

fn threads(needed: u64, started: io::Result<()>) -> Check {
    const NAME: &str = "threads";
    match started {
        Ok(()) => Check::ok(NAME, format!("{needed} can be started")),
        Err(error) => {
            let remedy = match error.kind() {
                io::ErrorKind::PermissionDenied => "use a seccomp profile that permits clone and clone3",
                _ => Failure::MORE_THREADS,
            };
            Check::fail(NAME, format!("{needed} threads cannot be started: {error}"), remedy)
        }
    }
}

/// Starts as many threads as a server has, all at once, and ends them.
fn start_threads(count: u64) -> io::Result<()> {
    let gate = RwLock::new(());
    scope(|scope| {
        // Goes first at the end of this closure, whether all were started or not.
        let _closed = gate.write();
        for _ in 0..count {
            Builder::new().spawn_scoped(scope, || drop(gate.read()))?;
        }
        Ok(())
    })
}

fn topology(probe: io::Result<()>) -> Check {
    const NAME: &str = "topology";
    match probe {
        Ok(()) => Check::ok(NAME, "/sys has every data core"),
        Err(error) => Check::fail(
            NAME,
            format!("the cores of this host cannot be read from /sys/devices/system: {error}"),
            "mount sysfs on /sys, read-only is enough, and do not hide /sys/devices/system",
        ),
    }
}

fn pinning(pinned: io::Result<()>) -> Check {
    const NAME: &str = "pinning";
    match pinned {
        Ok(()) => Check::ok(NAME, "a thread may be pinned to its core"),
        Err(error) => Check::fail(
            NAME,
            format!("a thread cannot be pinned to a core: {error}"),
            "use a seccomp profile that permits sched_setaffinity",
        ),
    }
}

/// Pins a thread that ends at once to the cores that it has anyway.
fn pin_somewhere() -> io::Result<()> {
    let pin = || Ok(sched_setaffinity(None, &sched_getaffinity(None)?)?);
    scope(|scope| Builder::new().spawn_scoped(scope, pin)?.join().unwrap_or_else(|_| Err(io::Error::other("panic"))))
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn a_limit_of_memory_has_to_be_what_can_be_used() {
        let check = |limit| memory_limit("address space", "-v", limit, 2048 << 10);
        assert_eq!((check(None).verdict, check(Some(2 << 20)).verdict), (Verdict::Ok, Verdict::Ok));
        let refused = check(Some((2 << 20) - 1));
        assert_eq!(refused.verdict, Verdict::Fail);
        assert_eq!(refused.found, "the limit of the address space is 2047 KiB, and 2048 KiB can be used");
        assert!(refused.mend.unwrap().contains("`ulimit -v 2048`"));
    }

    #[test]
    fn what_is_refused_is_named_with_a_remedy() {
        let denied = || Err(io::Error::from_raw_os_error(1));
        for (check, remedy) in [
            (threads(6, denied()), "permits clone"),
            (topology(denied()), "mount sysfs"),
            (pinning(denied()), "permits sched_setaffinity"),
        ] {
            assert_eq!(check.verdict, Verdict::Fail, "{}", check.name);
            assert!(check.found.contains("Operation not permitted"), "{}", check.found);
            assert!(check.mend.as_ref().is_some_and(|mend| mend.contains(remedy)), "{:?}", check.mend);
        }
        let short = threads(6, Err(io::Error::from_raw_os_error(11)));
        assert!(short.mend.unwrap().contains("ulimit -u"));
        assert_eq!(threads(2, start_threads(2)).verdict, Verdict::Ok);
        assert_eq!(pinning(pin_somewhere()).verdict, Verdict::Ok);
    }
}
