//! What a server cannot start without: kernel, locked memory, io_uring, memory, descriptors.

use std::io;

use corelane_command::Failure;
use corelane_shard::needs::LOCKED_LIMIT_MIN;
use rustix::process::{Resource, getrlimit};

use super::files::Files;
use super::{Check, Verdict, cgroup};
use crate::plan::{Plan, mib};

/// Oldest kernel that has what the receive ring uses.
const KERNEL_MIN: (u32, u32) = (6, 1);

/// Everything that `serve` asks for before it listens, but for descriptors, into which it fits its connections first.
pub(super) fn all(files: &Files, plan: &Plan) -> Vec<Check> {
    vec![
        kernel(files),
        locked_memory(getrlimit(Resource::Memlock).current, plan),
        io_uring(files, corelane_shard::probe()),
        memory(files, plan),
    ]
}

fn kernel(files: &Files) -> Check {
    const NAME: &str = "kernel";
    const PATH: &str = "/proc/sys/kernel/osrelease";
    let Some(release) = files.text(PATH) else { return Check::unseen(NAME, PATH) };
    match version(&release) {
        Some(version) if version < KERNEL_MIN => {
            Check::fail(NAME, format!("the kernel is Linux {release}"), "run Linux 6.1 or newer")
        }
        _ => Check::ok(NAME, format!("Linux {release}")),
    }
}

/// The first two numbers of `6.1.0-13-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// `limit` in bytes, `None` for none.
fn locked_memory(limit: Option<u64>, plan: &Plan) -> Check {
    const NAME: &str = "locked memory";
    let needed_kib = plan.locked_limit_min.div_ceil(1024);
    let Some(limit) = limit else { return Check::ok(NAME, "no limit") };
    let found = format!("the limit of locked memory is {} KiB", limit / 1024);
    let mend = format!(
        "raise it to {needed_kib} KiB (`ulimit -l {needed_kib}`, LimitMEMLOCK={needed_kib}K in a unit, \
         `--ulimit memlock={}` for a container)",
        needed_kib * 1024
    );
    if limit < LOCKED_LIMIT_MIN as u64 {
        Check::fail(NAME, format!("{found}, under the {} KiB that every shard asks for", LOCKED_LIMIT_MIN / 1024), mend)
    } else if limit < plan.locked_limit_min {
        Check::warn(NAME, format!("{found}, and {} shards lock {needed_kib} KiB", plan.shards.len()), mend)
    } else {
        Check::ok(NAME, format!("{found}, {} KiB will be locked", plan.locked_bytes / 1024))
    }
}

/// Whether io_uring can be used as the shards use it; `probe` tried.
fn io_uring(files: &Files, probe: io::Result<()>) -> Check {
    const NAME: &str = "io_uring";
    let disabled = files.number("/proc/sys/kernel/io_uring_disabled");
    let status = files.text("/proc/self/status").unwrap_or_default();
    let seccomp = status.lines().find_map(|line| line.strip_prefix("Seccomp:")).map(str::trim);
    let shown = |number: Option<String>| number.unwrap_or_else(|| "unknown".to_owned());
    let facts = format!(
        "kernel.io_uring_disabled is {}, the seccomp mode {}",
        shown(disabled.map(|number| number.to_string())),
        shown(seccomp.map(str::to_owned))
    );
    let error = match probe {
        Ok(()) => return Check::ok(NAME, format!("a ring like the shards' works ({facts})")),
        Err(error) => error,
    };
    let sysctl = "sysctl kernel.io_uring_disabled=0";
    let profile = "use a seccomp profile that permits io_uring_setup, io_uring_enter and io_uring_register (container \
                   runtimes block them by default)";
    let mend = match (error.kind(), disabled) {
        (io::ErrorKind::PermissionDenied, Some(1..)) => sysctl.to_owned(),
        (io::ErrorKind::PermissionDenied, Some(0)) => profile.to_owned(),
        (io::ErrorKind::PermissionDenied, None) => format!("allow it: {sysctl}, and {profile}"),
        // Some profiles deny as if the kernel did not have it.
        (io::ErrorKind::Unsupported, _) if seccomp == Some("2") => profile.to_owned(),
        (io::ErrorKind::OutOfMemory, _) => "raise the limit of locked memory (`ulimit -l 8192`)".to_owned(),
        _ => "run Linux 6.1 or newer with io_uring".to_owned(),
    };
    Check::fail(NAME, format!("io_uring is not available: {error} ({facts})"), mend)
}

/// Whether what the plan adds up to may become resident.
fn memory(files: &Files, plan: &Plan) -> Check {
    const NAME: &str = "memory";
    let needed = plan.memory_bytes_max;
    let use_less = "or lower --pool-bytes, --max-series or --max-connections (`corelane plan` shows each term)";
    if let Some((limit, file)) = cgroup::memory_limit(files)
        && limit < needed
    {
        return Check::fail(
            NAME,
            format!("the memory limit of the control group is {limit} bytes ({file}), and {needed} bytes can be used"),
            format!(
                "raise it to {needed} (MemoryMax={needed} in a unit, `--memory={needed}` or resources.limits.memory \
                 for a container), {use_less}"
            ),
        );
    }
    match host_memory(files) {
        Some(host) if host < needed => Check::warn(
            NAME,
            format!("the host has {host} bytes, and {needed} bytes can be used"),
            format!("use a host with {} {use_less}", mib(needed)),
        ),
        _ => Check::ok(NAME, format!("{needed} bytes ({}) can be used, and no limit is lower", mib(needed))),
    }
}

fn host_memory(files: &Files) -> Option<u64> {
    let text = files.text("/proc/meminfo")?;
    let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.trim().strip_suffix(" kB")?;
    Some(kib.parse::<u64>().ok()? * 1024)
}

/// What fitting the connections into the descriptor limit came to.
pub(super) fn descriptors(fit: &Result<(usize, Option<String>), Failure>) -> Check {
    const NAME: &str = "descriptors";
    // What would mend it stands in the same sentence, as `serve` says it.
    let told = |verdict, found: &dyn ToString| Check { name: NAME, verdict, found: found.to_string(), mend: None };
    match fit {
        Ok((connections, None)) => Check::ok(NAME, format!("enough for {connections} connections")),
        Ok((_, Some(lowered))) => told(Verdict::Warn, lowered),
        Err(refused) => told(Verdict::Fail, refused),
    }
}

#[cfg(test)]
mod tests;
