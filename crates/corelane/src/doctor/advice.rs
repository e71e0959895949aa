//! What a server only runs better with: a core to itself, a clock that is read without a call, a queue as long as asked
//! for.

use super::Check;
use super::files::Files;
use crate::host::{Placement, list};

/// Everything that makes no difference to whether the server starts.
pub(super) fn all(files: &Files, placement: &Placement, backlog: u32) -> Vec<Check> {
    vec![
        accept_queue(files, backlog),
        control_core(placement),
        isolation(files, &placement.data),
        ticks(files, &placement.data),
        interrupts(files, &placement.data),
        clock(files),
        governor(files, &placement.data),
        huge_pages(files),
    ]
}

fn accept_queue(files: &Files, backlog: u32) -> Check {
    const NAME: &str = "accept queue";
    const PATH: &str = "/proc/sys/net/core/somaxconn";
    match files.number(PATH) {
        None => Check::unseen(NAME, PATH),
        Some(cap) if cap < u64::from(backlog) => Check::warn(
            NAME,
            format!("net.core.somaxconn {cap} cuts --backlog {backlog}"),
            format!("sysctl net.core.somaxconn={backlog}"),
        ),
        Some(cap) => Check::ok(NAME, format!("net.core.somaxconn {cap} allows --backlog {backlog}")),
    }
}

fn control_core(placement: &Placement) -> Check {
    const NAME: &str = "control core";
    match placement.shared_core() {
        Some(core) => Check::warn(
            NAME,
            format!("core {core} carries a shard and the control plane"),
            "choose --cores and --control-core so that they differ, on a host with more cores if need be",
        ),
        None => Check::ok(NAME, format!("core {} carries no shard", placement.control)),
    }
}

fn isolation(files: &Files, data: &[usize]) -> Check {
    const NAME: &str = "isolation";
    const PATH: &str = "/sys/devices/system/cpu/isolated";
    let Some(isolated) = files.cores(PATH) else { return Check::unseen(NAME, PATH) };
    match missing(data, &isolated) {
        None => Check::ok(NAME, format!("data cores {} are isolated", list(data))),
        Some(others) => Check::warn(
            NAME,
            format!("other work may be put on data cores {others}"),
            format!("kernel parameter isolcpus={}, or a cpuset for everything else", list(data)),
        ),
    }
}

fn ticks(files: &Files, data: &[usize]) -> Check {
    const NAME: &str = "timer ticks";
    const PATH: &str = "/sys/devices/system/cpu/nohz_full";
    let Some(quiet) = files.cores(PATH) else { return Check::unseen(NAME, PATH) };
    match missing(data, &quiet) {
        None => Check::ok(NAME, format!("data cores {} have none while one thread runs", list(data))),
        Some(others) => Check::warn(
            NAME,
            format!("data cores {others} are interrupted by every tick"),
            format!("kernel parameter nohz_full={}", list(data)),
        ),
    }
}

fn interrupts(files: &Files, data: &[usize]) -> Check {
    const NAME: &str = "interrupts";
    const PATH: &str = "/proc/irq";
    let Some(numbers) = files.numbered(PATH) else { return Check::unseen(NAME, PATH) };
    let allowed = |number: &u32| files.cores(&format!("{PATH}/{number}/smp_affinity_list"));
    let seen: Vec<(u32, Vec<usize>)> = numbers.iter().filter_map(|number| Some((*number, allowed(number)?))).collect();
    let on_data: Vec<usize> = seen
        .iter()
        .filter(|(_, cores)| cores.iter().any(|core| data.contains(core)))
        .map(|(number, _)| *number as usize)
        .collect();
    if on_data.is_empty() {
        return Check::ok(NAME, format!("none of {} is allowed on data cores {}", seen.len(), list(data)));
    }
    Check::warn(
        NAME,
        format!("{} of {} are allowed on data cores {}: {}", on_data.len(), seen.len(), list(data), list(&on_data)),
        format!(
            "write the other cores into {PATH}/N/smp_affinity_list for each N, and IRQBALANCE_BANNED_CPULIST={} if \
             irqbalance runs",
            list(data)
        ),
    )
}

/// Clock sources that are read without a system call.
const CLOCKS_READ_IN_PLACE: [&str; 4] = ["tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter"];

fn clock(files: &Files) -> Check {
    const NAME: &str = "clock source";
    const PATH: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    match files.text(PATH) {
        None => Check::unseen(NAME, PATH),
        Some(clock) if CLOCKS_READ_IN_PLACE.contains(&clock.as_str()) => Check::ok(NAME, clock),
        Some(clock) => Check::warn(
            NAME,
            format!("{clock}: each look at the clock is a system call"),
            "kernel parameter clocksource=tsc, if the host's tsc is stable (`dmesg | grep -i tsc`)",
        ),
    }
}

fn governor(files: &Files, data: &[usize]) -> Check {
    const NAME: &str = "CPU governor";
    let path = |core: &usize| format!("/sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor");
    let governors: Vec<(usize, String)> =
        data.iter().filter_map(|core| Some((*core, files.text(&path(core))?))).collect();
    let slow: Vec<usize> =
        governors.iter().filter(|(_, governor)| governor != "performance").map(|(core, _)| *core).collect();
    match (governors.is_empty(), slow.first()) {
        (true, _) => Check::ok(NAME, "none is shown: whoever runs the host sets the clock rate"),
        (false, None) => Check::ok(NAME, format!("performance on data cores {}", list(data))),
        (false, Some(_)) => Check::warn(
            NAME,
            format!("data cores {} may be clocked down", list(&slow)),
            format!("`cpupower -c {} frequency-set -g performance`", list(&slow)),
        ),
    }
}

/// With huge pages everywhere, reserved memory becomes resident 2 MiB at a time.
fn huge_pages(files: &Files) -> Check {
    const NAME: &str = "huge pages";
    const PATH: &str = "/sys/kernel/mm/transparent_hugepage/enabled";
    match files.text(PATH) {
        None => Check::unseen(NAME, PATH),
        Some(choices) if choices.contains("[always]") => Check::warn(
            NAME,
            "transparent huge pages are always used: what is reserved becomes resident earlier than it is needed",
            format!("`echo madvise > {PATH}`"),
        ),
        Some(choices) => Check::ok(NAME, format!("transparent huge pages: {choices}")),
    }
}

/// Those of `wanted` that are not among `granted`, as a list; `None` when all are.
fn missing(wanted: &[usize], granted: &[usize]) -> Option<String> {
    let missing: Vec<usize> = wanted.iter().copied().filter(|core| !granted.contains(core)).collect();
    (!missing.is_empty()).then(|| list(&missing))
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::super::files::made_up;
    use super::*;

    /// The verdicts over made-up files, for data cores 2 and 3.
    fn verdicts(files: &[(&str, &str)]) -> Vec<(&'static str, Verdict, Option<String>)> {
        let (_directory, files) = made_up(files);
        let placement = Placement { data: vec![2, 3], control: 0 };
        let checks = all(&files, &placement, 4096);
        checks.into_iter().map(|check| (check.name, check.verdict, check.mend)).collect()
    }

    const GOOD: [(&str, &str); 9] = [
        ("/proc/sys/net/core/somaxconn", "4096\n"),
        ("/sys/devices/system/cpu/isolated", "2-3\n"),
        ("/sys/devices/system/cpu/nohz_full", "1-3\n"),
        ("/proc/irq/24/smp_affinity_list", "0-1\n"),
        ("/proc/irq/7/smp_affinity_list", "0\n"),
        ("/sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc\n"),
        ("/sys/devices/system/cpu/cpu2/cpufreq/scaling_governor", "performance\n"),
        ("/sys/devices/system/cpu/cpu3/cpufreq/scaling_governor", "performance\n"),
        ("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
    ];

    #[test]
    fn a_host_made_for_it_is_ok_throughout() {
        for (name, verdict, mend) in verdicts(&GOOD) {
            assert_eq!((verdict, mend), (Verdict::Ok, None), "{name}");
        }
    }

    #[test]
    fn each_thing_that_could_be_better_is_named_with_what_mends_it() {
        for (path, text, name, mend) in [
            ("/proc/sys/net/core/somaxconn", "128\n", "accept queue", "sysctl net.core.somaxconn=4096"),
            ("/sys/devices/system/cpu/isolated", "3\n", "isolation", "isolcpus=2-3"),
            ("/sys/devices/system/cpu/isolated", "\n", "isolation", "isolcpus=2-3"),
            ("/sys/devices/system/cpu/nohz_full", "(null)\n", "timer ticks", "nohz_full=2-3"),
            ("/proc/irq/24/smp_affinity_list", "0-3\n", "interrupts", "/proc/irq/N/smp_affinity_list"),
            (GOOD[5].0, "hpet\n", "clock source", "clocksource=tsc"),
            (GOOD[7].0, "powersave\n", "CPU governor", "cpupower -c 3 frequency-set -g performance"),
            (GOOD[8].0, "[always] madvise never\n", "huge pages", "echo madvise"),
        ] {
            let files: Vec<_> =
                GOOD.into_iter().map(|(good, is)| (good, if good == path { text } else { is })).collect();
            for (checked, verdict, mended) in verdicts(&files) {
                if checked == name {
                    assert_eq!(verdict, Verdict::Warn, "{path}");
                    assert!(mended.as_ref().is_some_and(|mended| mended.contains(mend)), "{path}: {mended:?}");
                } else {
                    assert_eq!(verdict, Verdict::Ok, "{path}: {checked}");
                }
            }
        }
    }

    #[test]
    fn what_is_not_there_is_told_and_is_no_failure() {
        let (_directory, files) = made_up(&[]);
        let placement = Placement { data: vec![0], control: 0 };
        for check in all(&files, &placement, 1) {
            assert_ne!(check.verdict, Verdict::Fail, "{}", check.name);
            let known_without = ["control core", "CPU governor"].contains(&check.name);
            assert!(known_without || check.found.contains("is not there"), "{}", check.found);
        }
        assert_eq!(control_core(&placement).verdict, Verdict::Warn);
    }
}
