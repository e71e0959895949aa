//! `--host`: this machine's own telemetry, from /proc, as one event an interval.
//!
//! Rates are over the time since the event before, so the first event comes one interval after the start. Devices that
//! did nothing since boot, and partitions of disks, are left out.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use corelane_client::{Client, ClientError};
use corelane_wire::encode_event;
use procfs::{CpuTime, Current, CurrentSI, KernelStats, LoadAverage, Meminfo, ProcResult};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::MissedTickBehavior,
};

use super::{feed::check_name, transfer::Outcome};

/// What `--host` takes.
#[derive(Clone, Debug)]
pub(super) struct HostOptions {
    pub(super) id: Option<String>,
    pub(super) interval: Duration,
    /// Events until it ends; without it, it goes on until Ctrl-C.
    pub(super) count: Option<u64>,
}

/// The counters of this machine at one moment, and what is no counter.
#[derive(Clone, Debug)]
struct Snapshot {
    at: Instant,
    cpu: CpuTime,
    load: LoadAverage,
    memory: Meminfo,
    disks: BTreeMap<String, Disk>,
    networks: BTreeMap<String, Network>,
}

#[derive(Clone, Copy, Debug)]
struct Disk {
    read_bytes: u64,
    written_bytes: u64,
    busy_ms: u64,
}

#[derive(Clone, Copy, Debug)]
struct Network {
    received_bytes: u64,
    sent_bytes: u64,
}

/// Sends events over `client` until there were `count`, Ctrl-C or an error, and commits. A second Ctrl-C ends it
/// without the commit.
pub(super) async fn stream(mut client: Client, options: &HostOptions) -> Outcome {
    let mut outcome = Outcome::default();
    let mut interrupts = match signal(SignalKind::interrupt()) {
        Ok(interrupts) => interrupts,
        Err(error) => {
            outcome.errors.push(format!("cannot listen for Ctrl-C: {error}"));
            return outcome;
        }
    };
    match send_events(&mut client, options, &mut interrupts, &mut outcome).await {
        Ok(()) => tokio::select! {
            result = client.finish() => outcome.settle("this host", result),
            _ = interrupts.recv() => outcome.errors.push("interrupted before the server had answered".to_owned()),
        },
        Err(HostError::Client(error)) => outcome.settle("this host", Err(error)),
        Err(HostError::Host(text)) => outcome.errors.push(text),
    }
    outcome
}

enum HostError {
    Client(ClientError),
    Host(String),
}

async fn send_events(
    client: &mut Client,
    options: &HostOptions,
    interrupts: &mut Signal,
    outcome: &mut Outcome,
) -> Result<(), HostError> {
    let id = match &options.id {
        Some(id) => id.clone(),
        None => host_name().map_err(HostError::Host)?,
    };
    check_name("the id", &id).map_err(HostError::Host)?;
    let read = || Snapshot::read().map_err(|error| HostError::Host(format!("cannot read /proc: {error}")));
    let mut before = read()?;
    let mut frames = Vec::new();
    let mut ticks = tokio::time::interval(options.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks.tick().await; // The first is at once.
    while options.count.is_none_or(|count| outcome.events < count) {
        tokio::select! {
            _ = ticks.tick() => (),
            error = client.closed() => return Err(HostError::Client(error)),
            _ = interrupts.recv() => break,
        }
        let after = read()?;
        let points = points_between(&before, &after);
        before = after;
        frames.clear();
        let borrowed = points.iter().map(|(sensor, value)| (sensor.as_str(), *value, None));
        encode_event(&mut frames, &id, now_ns(), None, borrowed).map_err(|error| HostError::Host(error.to_string()))?;
        client.send(&frames).await.map_err(HostError::Client)?;
        outcome.events += 1;
        outcome.points += points.len() as u64;
        tokio::select! {
            result = client.flush() => result.map_err(HostError::Client)?,
            _ = interrupts.recv() => break,
        }
    }
    Ok(())
}

fn now_ns() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX)
}

fn host_name() -> Result<String, String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => Err("this host has no name: give one with --id".to_owned()),
        name => Ok(name.to_owned()),
    }
}

impl Snapshot {
    fn read() -> ProcResult<Self> {
        // Containers may hide these two; the rest is worth sending without them.
        let disks = procfs::diskstats().unwrap_or_default();
        let networks = procfs::net::dev_status().unwrap_or_default();
        Ok(Self {
            at: Instant::now(),
            cpu: KernelStats::current()?.total,
            load: LoadAverage::current()?,
            memory: Meminfo::current()?,
            disks: disks
                .into_iter()
                .filter(|disk| disk.reads + disk.writes > 0 && !is_partition(&disk.name))
                .take(DEVICES_MAX)
                .map(|disk| {
                    let read_bytes = disk.sectors_read * SECTOR_BYTES;
                    let written_bytes = disk.sectors_written * SECTOR_BYTES;
                    (disk.name, Disk { read_bytes, written_bytes, busy_ms: disk.time_in_progress })
                })
                .collect(),
            networks: networks
                .into_values()
                .filter(|network| network.recv_bytes + network.sent_bytes > 0)
                .map(|network| {
                    let counters = Network { received_bytes: network.recv_bytes, sent_bytes: network.sent_bytes };
                    (network.name, counters)
                })
                .collect::<BTreeMap<_, _>>()
                .into_iter()
                .take(DEVICES_MAX)
                .collect(),
        })
    }
}

fn is_partition(name: &str) -> bool {
    Path::new("/sys/class/block").join(name).join("partition").exists()
}

/// The sensors and values of one event, always in the same order.
fn points_between(before: &Snapshot, after: &Snapshot) -> Vec<(String, f64)> {
    let seconds = after.at.duration_since(before.at).as_secs_f64().max(f64::MIN_POSITIVE);
    let rate = |before: u64, after: u64| after.saturating_sub(before) as f64 / seconds;
    let mut points = Vec::new();
    let mut add = |sensor: &str, value: f64| points.push((sensor.to_owned(), value));

    let cpu = cpu_shares(&before.cpu, &after.cpu);
    add("cpu_busy_percent", cpu.busy);
    add("cpu_system_percent", cpu.system);
    add("cpu_iowait_percent", cpu.iowait);
    // The kernel tells two decimals.
    add("load_1m", (f64::from(after.load.one) * 100.0).round() / 100.0);
    let available = after.memory.mem_available.unwrap_or(after.memory.mem_free);
    add("memory_total_bytes", after.memory.mem_total as f64);
    add("memory_used_bytes", after.memory.mem_total.saturating_sub(available) as f64);
    add("swap_used_bytes", after.memory.swap_total.saturating_sub(after.memory.swap_free) as f64);
    for (name, disk) in &after.disks {
        let Some(was) = before.disks.get(name) else { continue };
        add(&format!("disk_{name}_read_bytes_per_second"), rate(was.read_bytes, disk.read_bytes));
        add(&format!("disk_{name}_written_bytes_per_second"), rate(was.written_bytes, disk.written_bytes));
        add(&format!("disk_{name}_busy_percent"), rate(was.busy_ms, disk.busy_ms) / 10.0);
    }
    for (name, network) in &after.networks {
        let Some(was) = before.networks.get(name) else { continue };
        add(&format!("network_{name}_received_bytes_per_second"), rate(was.received_bytes, network.received_bytes));
        add(&format!("network_{name}_sent_bytes_per_second"), rate(was.sent_bytes, network.sent_bytes));
    }
    points
}

/// Percent of the time of all cores together.
struct CpuShares {
    busy: f64,
    system: f64,
    iowait: f64,
}

fn cpu_shares(before: &CpuTime, after: &CpuTime) -> CpuShares {
    let system = |cpu: &CpuTime| cpu.system + cpu.irq.unwrap_or(0) + cpu.softirq.unwrap_or(0);
    let iowait = |cpu: &CpuTime| cpu.iowait.unwrap_or(0);
    let busy = |cpu: &CpuTime| cpu.user + cpu.nice + system(cpu) + cpu.steal.unwrap_or(0);
    let total = |cpu: &CpuTime| busy(cpu) + iowait(cpu) + cpu.idle;
    let ticks = total(after).saturating_sub(total(before)).max(1) as f64;
    let percent = |of: &dyn Fn(&CpuTime) -> u64| of(after).saturating_sub(of(before)) as f64 / ticks * 100.0;
    CpuShares { busy: percent(&busy), system: percent(&system), iowait: percent(&iowait) }
}

/// The unit of /proc/diskstats, whatever the disk's own.
const SECTOR_BYTES: u64 = 512;

/// Disks, and networks, that one event tells of: far below the most points of an event, whatever the host runs.
const DEVICES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn earlier(now: &Snapshot) -> Snapshot {
        let mut before = now.clone();
        before.at -= Duration::from_secs(2);
        before
    }

    #[test]
    fn rates_are_over_the_time_between() {
        let mut after = Snapshot::read().unwrap();
        after.disks =
            BTreeMap::from([("sda".to_owned(), Disk { read_bytes: 4096, written_bytes: 8192, busy_ms: 500 })]);
        after.networks = BTreeMap::from([
            ("eth0".to_owned(), Network { received_bytes: 3000, sent_bytes: 10 }),
            ("new0".to_owned(), Network { received_bytes: 1, sent_bytes: 1 }),
        ]);
        let mut before = earlier(&after);
        before.disks.insert("sda".to_owned(), Disk { read_bytes: 0, written_bytes: 0, busy_ms: 0 });
        // A counter that went backwards was reset: no rate is below 0.
        before.networks = BTreeMap::from([("eth0".to_owned(), Network { received_bytes: 1000, sent_bytes: 20 })]);
        let points = points_between(&before, &after);
        let of_devices: Vec<_> = points[7..].iter().map(|(sensor, value)| format!("{sensor} {value}")).collect();
        assert_eq!(
            of_devices,
            [
                "disk_sda_read_bytes_per_second 2048",
                "disk_sda_written_bytes_per_second 4096",
                "disk_sda_busy_percent 25",
                "network_eth0_received_bytes_per_second 1000",
                "network_eth0_sent_bytes_per_second 0",
            ]
        );
    }

    #[test]
    fn shares_of_the_cpu_add_up() {
        let mut after = Snapshot::read().unwrap().cpu;
        let before = after.clone();
        after.user += 20;
        after.system += 10;
        after.idle += 60;
        after.iowait = Some(after.iowait.unwrap_or(0) + 10);
        let shares = cpu_shares(&before, &after);
        assert_eq!((shares.busy, shares.system, shares.iowait), (30.0, 10.0, 10.0));
    }

    #[test]
    fn this_machine_gives_finite_values_and_short_names() {
        let now = Snapshot::read().unwrap();
        let points = points_between(&earlier(&now), &now);
        assert!(points.len() >= 7);
        for (sensor, value) in points {
            assert!(value.is_finite() && check_name("sensor", &sensor).is_ok(), "{sensor} {value}");
        }
    }
}
