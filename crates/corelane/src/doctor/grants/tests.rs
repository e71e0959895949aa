use std::time::Duration;

use corelane_shard::Limits;

use super::super::files::made_up;
use super::*;
use crate::config::{Said, Source};
use crate::descriptors::fit_connections;
use crate::host::{Placement, Setup};

fn plan(shards: usize) -> Plan {
    let second = Duration::from_secs(1);
    Plan::of(&Setup {
        placement: Placement { data: (0..shards).collect(), control: 0 },
        limits: Limits {
            pool_buffers: 64,
            connections_max: 1_000,
            connections_per_ip_max: 0,
            accepts_per_ip_max: 0,
            ipv6_prefix: 64,
            rate_per_connection: 0,
            connection_age_max: Duration::ZERO,
            series_max: 1_000,
            idle_timeout: second,
            frame_timeout: second,
            tls: None,
            drain_timeout: second,
        },
    })
}

/// Verdict, and all of its text.
fn told(check: Check) -> (Verdict, String) {
    (check.verdict, format!("{}; {}", check.found, check.mend.unwrap_or_default()))
}

#[test]
fn a_kernel_before_6_1_is_refused() {
    for (release, verdict) in [
        ("6.1.0-13-amd64", Verdict::Ok),
        ("6.18.44", Verdict::Ok),
        ("10.0-rc1", Verdict::Ok),
        ("6.0.19", Verdict::Fail),
        ("5.15.0-1051-aws", Verdict::Fail),
        // What cannot be told is left to the probe.
        ("special", Verdict::Ok),
    ] {
        let (_directory, files) = made_up(&[("/proc/sys/kernel/osrelease", release)]);
        assert_eq!(kernel(&files).verdict, verdict, "{release}");
    }
    let (_directory, files) = made_up(&[]);
    assert_eq!(kernel(&files).verdict, Verdict::Warn);
}

#[test]
fn locked_memory_has_to_be_what_a_shard_asks_for_and_should_be_what_all_lock() {
    assert_eq!(locked_memory(None, &plan(9)).verdict, Verdict::Ok);
    assert_eq!(locked_memory(Some(512 << 10), &plan(1)).verdict, Verdict::Ok);
    let (verdict, text) = told(locked_memory(Some(64 << 10), &plan(1)));
    assert!(verdict == Verdict::Fail && text.contains("is 64 KiB") && text.contains("`ulimit -l 512`"), "{text}");
    let (verdict, text) = told(locked_memory(Some(512 << 10), &plan(4)));
    assert!(verdict == Verdict::Warn && text.contains("`ulimit -l 768`"), "{text}");
}

#[test]
fn a_refused_ring_is_explained_by_what_refuses_it() {
    let refused = |errno, disabled: &str| {
        let (_directory, files) = made_up(&[
            ("/proc/sys/kernel/io_uring_disabled", disabled),
            ("/proc/self/status", "Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n"),
        ]);
        told(io_uring(&files, Err(io::Error::from_raw_os_error(errno))))
    };
    let (eperm, einval, enosys) = (1, 22, 38);
    let (verdict, text) = refused(eperm, "2\n");
    assert_eq!(verdict, Verdict::Fail);
    assert!(text.contains("io_uring_disabled is 2") && text.ends_with("sysctl kernel.io_uring_disabled=0"), "{text}");
    let (_, text) = refused(eperm, "0\n");
    assert!(text.contains("the seccomp mode 2") && text.contains("permits io_uring_setup"), "{text}");
    assert!(!text.contains("sysctl"), "{text}");
    let (_, text) = refused(enosys, "0\n");
    assert!(text.contains("not implemented") && text.contains("permits io_uring_setup"), "{text}");
    let (_, text) = refused(einval, "0\n");
    assert!(text.ends_with("run Linux 6.1 or newer with io_uring"), "{text}");
    let (_directory, files) = made_up(&[]);
    assert_eq!(io_uring(&files, Ok(())).verdict, Verdict::Ok);
    let (_, text) = told(io_uring(&files, Err(io::Error::from_raw_os_error(eperm))));
    assert!(text.contains("unknown") && text.contains("sysctl") && text.contains("seccomp profile"), "{text}");
}

#[test]
fn a_control_group_too_small_for_the_plan_is_refused_with_the_number() {
    let plan = plan(1);
    let needed = plan.memory_bytes_max;
    let with_limit = |limit: u64, host_kib: u64| {
        let (_directory, files) = made_up(&[
            ("/proc/self/cgroup", "0::/a\n"),
            ("/proc/self/mountinfo", "29 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"),
            ("/sys/fs/cgroup/a/memory.max", &limit.to_string()),
            ("/proc/meminfo", &format!("MemTotal:       {host_kib} kB\nMemFree: 1 kB\n")),
        ]);
        told(memory(&files, &plan))
    };
    let (verdict, text) = with_limit(needed - 1, u64::MAX >> 20);
    assert_eq!(verdict, Verdict::Fail);
    assert!(text.contains(&format!("MemoryMax={needed}")) && text.contains("/sys/fs/cgroup/a/memory.max"), "{text}");
    assert_eq!(with_limit(needed, u64::MAX >> 20).0, Verdict::Ok);
    assert_eq!(with_limit(needed, needed / 1024 - 1).0, Verdict::Warn);
}

#[test]
fn descriptors_that_do_not_fit_fail_when_stated_and_warn_when_not() {
    let default = Said { value: 10_000, source: Source::Default("max-connections".into()) };
    let stated = Said { value: 10_000, source: Source::Flag("max-connections".into()) };
    let check = |wanted: &Said<usize>, granted| told(descriptors(&fit_connections(wanted, 1, granted)));
    assert_eq!(check(&stated, 20_000).0, Verdict::Ok);
    let (verdict, text) = check(&default, 1_024);
    assert!(verdict == Verdict::Warn && text.contains("ulimit -n 10360"), "{text}");
    let (verdict, text) = check(&stated, 1_024);
    assert!(verdict == Verdict::Fail && text.contains("set it to 664 at most"), "{text}");
}
