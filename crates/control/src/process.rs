//! What the kernel knows of this process, read from `/proc` at a scrape.

use procfs::process::{LimitValue, Process};
use procfs::{ProcResult, boot_time_secs, page_size, ticks_per_second};

/// The standard process metrics, by name.
///
/// What `/proc` does not give is left out: a scrape without one of them is better than none.
pub(crate) fn numbers() -> Vec<(&'static str, f64)> {
    let Ok(process) = Process::myself() else { return Vec::new() };
    let mut numbers = Vec::new();
    let _ = stat_numbers(&process, &mut numbers);
    if let Ok(count) = process.fd_count() {
        numbers.push(("process_open_fds", count as f64));
    }
    if let Ok(limits) = process.limits()
        && let LimitValue::Value(files) = limits.max_open_files.soft_limit
    {
        numbers.push(("process_max_fds", files as f64));
    }
    numbers
}

fn stat_numbers(process: &Process, numbers: &mut Vec<(&'static str, f64)>) -> ProcResult<()> {
    let stat = process.stat()?;
    let ticks = ticks_per_second() as f64;
    numbers.push(("process_resident_memory_bytes", (stat.rss * page_size()) as f64));
    numbers.push(("process_cpu_seconds_total", (stat.utime + stat.stime) as f64 / ticks));
    numbers.push(("process_start_time_seconds", boot_time_secs()? as f64 + stat.starttime as f64 / ticks));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_process_family_of_the_table_is_filled() {
        let numbers = numbers();
        for family in corelane_metrics::FAMILIES.iter().filter(|family| family.name.starts_with("process_")) {
            let number = numbers.iter().find(|(name, _)| *name == family.name);
            assert!(number.is_some_and(|(_, number)| *number >= 0.0), "{}: {number:?}", family.name);
        }
        let start = numbers.iter().find(|(name, _)| *name == "process_start_time_seconds").unwrap().1;
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        assert!((now - start) < 3_600.0 && start <= now + 1.0, "started at {start}, now is {now}");
    }
}
