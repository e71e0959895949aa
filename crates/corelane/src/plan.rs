//! `corelane plan`: what a configuration will use, term by term; starts nothing.
//!
//! Every number comes from the crate that owns what it counts; here they are named, multiplied and added up. `serve`
//! compares the sums with what the host grants.

use std::fmt::Write;

use corelane_command::{Failure, descriptors_allowed};
use corelane_control::HttpLimits;
use corelane_metrics::{SAMPLE_WORDS, SecurityEvent};
use corelane_shard::limits::SECURITY_EVENTS_MAX;
use corelane_shard::needs::{LOCKED_BYTES, LOCKED_LIMIT_MIN, ShardMemory};
use corelane_telemetry::ring_bytes;
use procfs::process::{MMapPath, Process};
use rustix::process::{Resource, getrlimit};
use serde::Serialize;

use crate::config::{Config, SettingArgs};
use crate::descriptors::{self, DescriptorTerm};
use crate::host::{self, RING_SLOTS, Setup};
use crate::log;

/// Print what a configuration will use: memory, descriptors, locked memory, cores; start nothing.
#[derive(clap::Args, Debug)]
pub(crate) struct PlanArgs {
    /// Print JSON, for programs.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: SettingArgs,
}

/// Prints the plan of a configuration.
pub(crate) fn run(args: PlanArgs) -> Result<(), Failure> {
    let config = Config::resolve(&args.settings)?;
    let mut plan = Plan::of(&Setup::of(&config)?);
    match descriptors::fit_connections(&config.max_connections, plan.shards.len(), descriptors_allowed()) {
        Ok((_, None)) => {}
        Ok((_, Some(lowered))) => plan.notes.push(lowered),
        Err(refused) => plan.notes.push(format!("serve would refuse this here: {refused}")),
    }
    print!("{}", if args.json { to_json(&plan) } else { plan.to_text() });
    Ok(())
}

/// A value as indented JSON and a line's end.
pub(crate) fn to_json(value: &impl Serialize) -> String {
    let text = serde_json::to_string_pretty(value).expect("plain numbers and texts are always JSON");
    text + "\n"
}

/// What a configuration will use.
#[derive(Debug, Serialize)]
pub(crate) struct Plan {
    pub(crate) shards: Vec<ShardCore>,
    pub(crate) control_core: usize,
    pub(crate) memory: Vec<MemoryTerm>,
    /// Sum of the terms: what can become resident.
    pub(crate) memory_bytes_max: u64,
    /// Sum of what is resident as soon as the server is ready.
    pub(crate) memory_bytes_at_start: u64,
    pub(crate) pool: PoolShares,
    /// Threads besides the main one.
    pub(crate) threads: u64,
    pub(crate) locked_bytes: u64,
    /// The limit of locked memory that has to be granted for it.
    pub(crate) locked_limit_min: u64,
    pub(crate) descriptors: Vec<DescriptorTerm>,
    pub(crate) descriptors_max: u64,
    pub(crate) notes: Vec<String>,
}

/// How the receive buffers of each shard are shared out.
#[derive(Debug, Serialize)]
pub(crate) struct PoolShares {
    buffers: usize,
    /// Lent to the kernel at most, to receive into.
    lent_max: usize,
    /// Cut for partial frames and unread answers at most, before the pool is short.
    kept_max: usize,
}

/// Where a shard runs.
#[derive(Debug, Serialize)]
pub(crate) struct ShardCore {
    shard: usize,
    pub(crate) core: usize,
}

/// Memory for one purpose.
#[derive(Debug, Serialize)]
pub(crate) struct MemoryTerm {
    of: Owner,
    what: &'static str,
    /// Bytes of one of them.
    each: u64,
    count: u64,
    bytes: u64,
    /// Bytes that are resident once the server is ready. The rest is reserved, and resident when it is first used.
    at_start: u64,
}

/// Whose memory it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Owner {
    /// Made by a shard's thread.
    Shard,
    /// Between a shard and the control plane.
    Lanes,
    Control,
    Process,
}

/// Stack of a thread, as the standard library makes it, and of the main thread where the host sets no limit. A few
/// pages of it are ever touched.
const STACK_BYTES: u64 = 2 << 20;
const MAIN_STACK_BYTES_MAX: u64 = 8 << 20;
/// Log, signals, control plane, its thread for series, takeover; the main thread has its own line.
const THREADS_BESIDES: usize = 5;

/// What is too small to have a line, at most and at start: the allocator's own tables, caches and slack, the runtime,
/// the touched pages of the stacks. A server at rest was measured with 1.6 MiB of it.
const BESIDES_BYTES: u64 = 8 << 20;
const BESIDES_BYTES_AT_START: u64 = 4 << 20;

impl Plan {
    /// The plan of a server with this setup.
    pub(crate) fn of(setup: &Setup) -> Self {
        let shards = setup.placement.data.len();
        let memory = memory(setup);
        let descriptors = descriptors::terms(setup.limits.connections_max, shards);
        let locked_bytes = (shards * LOCKED_BYTES) as u64;
        Self {
            shards: setup.placement.data.iter().enumerate().map(|(shard, &core)| ShardCore { shard, core }).collect(),
            control_core: setup.placement.control,
            memory_bytes_max: memory.iter().map(|term| term.bytes).sum(),
            memory_bytes_at_start: memory.iter().map(|term| term.at_start).sum(),
            memory,
            pool: PoolShares {
                buffers: setup.limits.pool_buffers,
                lent_max: setup.limits.lent_buffers(),
                kept_max: setup.limits.kept_buffers_max(),
            },
            threads: threads(shards) as u64,
            locked_bytes,
            locked_limit_min: locked_bytes.max(LOCKED_LIMIT_MIN as u64),
            descriptors_max: descriptors.iter().map(|term| term.count).sum(),
            descriptors,
            notes: vec![
                "at start is what is touched while starting; the rest is reserved, and resident when first used".into(),
                "not in the sum: what the kernel keeps of each connection (net.ipv4.tcp_rmem; 256 KiB at most of an answer)"
                    .into(),
            ],
        }
    }

    fn to_text(&self) -> String {
        let mut text = String::new();
        let cores: Vec<usize> = self.shards.iter().map(|shard| shard.core).collect();
        let mut line = |line: String| writeln!(text, "{}", line.trim_end()).expect("a String takes every line");
        line(format!(
            "cores: {} shard(s) on {}, control plane on {}",
            cores.len(),
            host::list(&cores),
            self.control_core
        ));
        line(String::new());
        line(format!("{:40} {:>12} {:>6} {:>14} {:>14}", "memory, bytes", "each", "count", "at most", "at start"));
        for term in &self.memory {
            let what = format!("{}: {}", term.of.name(), term.what);
            line(format!("{what:40} {:>12} {:>6} {:>14} {:>14}", term.each, term.count, term.bytes, term.at_start));
        }
        let (most, start) = (self.memory_bytes_max, self.memory_bytes_at_start);
        line(format!("{:40} {:>12} {:>6} {most:>14} {start:>14}", "sum", "", ""));
        line(format!("{:40} {:>12} {:>6} {:>14} {:>14}", "", "", "", mib(most), mib(start)));
        line(String::new());
        line(format!("{:60} {:>14}", "receive buffers of each shard", "at most"));
        line(format!("{:60} {:>14}", "all", self.pool.buffers));
        line(format!("{:60} {:>14}", "lent to the kernel, to receive into", self.pool.lent_max));
        line(format!("{:60} {:>14}", "cut for partial frames, unread answers, before it is short", self.pool.kept_max));
        line(String::new());
        line(format!("{:60} {:>14}", "descriptors", "at most"));
        for term in &self.descriptors {
            line(format!("{:60} {:>14}", term.what, term.count));
        }
        line(format!("{:60} {:>14}", "sum (ulimit -n, LimitNOFILE)", self.descriptors_max));
        line(String::new());
        line(format!("{:60} {:>14}", "threads, and the main one", self.threads));
        line(format!("{:60} {:>14}", "locked memory, bytes", self.locked_bytes));
        line(format!("{:60} {:>14}", "limit to grant (ulimit -l, LimitMEMLOCK)", self.locked_limit_min));
        line(String::new());
        self.notes.iter().for_each(|note| line(format!("note: {note}")));
        text
    }
}

impl Owner {
    fn name(self) -> &'static str {
        match self {
            Self::Shard => "shard",
            Self::Lanes => "lanes",
            Self::Control => "control",
            Self::Process => "process",
        }
    }
}

/// `64 MiB`, rounded up: a limit of so many is enough.
pub(crate) fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

fn memory(setup: &Setup) -> Vec<MemoryTerm> {
    let shards = setup.placement.data.len();
    let http = HttpLimits::default();
    // Every field by its name: a new one has to find its line.
    let ShardMemory {
        buffers,
        buffer_tables,
        series,
        shapes,
        skeletons,
        peers,
        queues,
        decoder,
        answers,
        tls,
        receive_ring,
        executor,
    } = setup.limits.memory();
    let shared = corelane_shard::needs::shared_bytes(shards, &setup.limits);
    let control = corelane_control::needs::memory(shards, setup.limits.series_max, &http);
    let events = SECURITY_EVENTS_MAX * (size_of::<usize>() + size_of::<SecurityEvent>());
    let used = |of, what, each: usize| MemoryTerm::new(of, what, each as u64, shards);
    let made = |of, what, each: usize| MemoryTerm::new(of, what, each as u64, shards).whole_at_start();
    let once = |what, bytes: usize| MemoryTerm::new(Owner::Control, what, bytes as u64, 1);
    vec![
        used(Owner::Shard, "receive buffers", buffers),
        made(Owner::Shard, "tables by buffer", buffer_tables),
        used(Owner::Shard, "live series", series),
        used(Owner::Shard, "series of known shapes", shapes),
        used(Owner::Shard, "skeletons", skeletons),
        used(Owner::Shard, "connection slots", peers),
        used(Owner::Shard, "run and wait queue", queues),
        used(Owner::Shard, "decoder scratch", decoder),
        used(Owner::Shard, "answers under way", answers),
        used(Owner::Shard, "TLS: handshakes, keys", tls),
        made(Owner::Shard, "receive ring (kernel)", receive_ring),
        made(Owner::Shard, "executor, its rings (kernel)", executor),
        made(Owner::Lanes, "telemetry samples", ring_bytes::<SAMPLE_WORDS>(RING_SLOTS)),
        made(Owner::Lanes, "security events", events),
        MemoryTerm::new(Owner::Lanes, "hand-over, counts by address", shared as u64, 1).whole_at_start(),
        once("pages of series", control.pages),
        once("series of all shards, if asked", control.round),
        once("HTTP answers under way", control.answers),
        once("HTTP connections", control.connections),
        once("last security events", control.events),
        MemoryTerm::new(Owner::Process, "thread stacks", STACK_BYTES, threads(shards)),
        MemoryTerm::new(Owner::Process, "log lines that wait", log::BYTES_MAX as u64, 1),
        MemoryTerm::new(Owner::Process, "main stack", main_stack(), 1),
        MemoryTerm::new(Owner::Process, "program and libraries", program_bytes(), 1).whole_at_start(),
        MemoryTerm {
            at_start: BESIDES_BYTES_AT_START,
            ..MemoryTerm::new(Owner::Process, "the rest", BESIDES_BYTES, 1)
        },
    ]
}

impl MemoryTerm {
    fn new(of: Owner, what: &'static str, each: u64, count: usize) -> Self {
        Self { of, what, each, count: count as u64, bytes: each * count as u64, at_start: 0 }
    }

    fn whole_at_start(self) -> Self {
        Self { at_start: self.bytes, ..self }
    }
}

fn threads(shards: usize) -> usize {
    shards * corelane_shard::needs::THREADS + THREADS_BESIDES
}

fn main_stack() -> u64 {
    getrlimit(Resource::Stack).current.map_or(MAIN_STACK_BYTES_MAX, |bytes| bytes.min(MAIN_STACK_BYTES_MAX))
}

/// What is mapped of files: this very program and its libraries, so the same for the server. 0 where `/proc` is not
/// there.
fn program_bytes() -> u64 {
    let Ok(maps) = Process::myself().and_then(|process| process.maps()) else { return 0 };
    let files = maps.iter().filter(|map| matches!(map.pathname, MMapPath::Path(_)));
    files.map(|map| map.address.1 - map.address.0).sum()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use corelane_shard::Limits;

    use super::*;
    use crate::host::Placement;

    fn setup(shards: usize, series_max: usize) -> Setup {
        let second = Duration::from_secs(1);
        Setup {
            placement: Placement { data: (0..shards).collect(), control: shards },
            limits: Limits {
                pool_buffers: 512 / shards,
                connections_max: 10_000,
                connections_per_ip_max: 0,
                accepts_per_ip_max: 0,
                ipv6_prefix: 64,
                rate_per_connection: 0,
                connection_age_max: Duration::ZERO,
                series_max,
                idle_timeout: second,
                frame_timeout: second,
                tls: None,
                drain_timeout: second,
            },
        }
    }

    fn term<'a>(plan: &'a Plan, what: &str) -> &'a MemoryTerm {
        plan.memory.iter().find(|term| term.what == what).unwrap()
    }

    #[test]
    fn the_sums_are_those_of_the_terms_and_the_pool_is_shared_out() {
        let (one, two) = (Plan::of(&setup(1, 65_536)), Plan::of(&setup(2, 65_536)));
        for plan in [&one, &two] {
            assert_eq!(plan.memory.iter().map(|term| term.bytes).sum::<u64>(), plan.memory_bytes_max);
            assert!(plan.memory.iter().all(|term| term.bytes == term.each * term.count));
            assert!(plan.memory.iter().all(|term| term.at_start <= term.bytes));
            assert_eq!(term(plan, "receive buffers").bytes, 64 << 20);
        }
        assert_eq!(term(&two, "skeletons").bytes, 2 * term(&one, "skeletons").bytes);
        assert_eq!((one.locked_bytes, one.locked_limit_min), (192 << 10, 512 << 10));
        assert_eq!(Plan::of(&setup(4, 1)).locked_limit_min, 768 << 10);
    }

    #[test]
    fn more_series_cost_what_their_table_says() {
        let (small, large) = (Plan::of(&setup(1, 1_000)), Plan::of(&setup(1, 100_000)));
        let of = |plan| term(plan, "live series").each;
        let table = |series| corelane_rollup::Rollup::memory_bytes_max(series) as u64;
        assert_eq!((of(&small), of(&large)), (table(1_000), table(100_000)));
        assert!(large.memory_bytes_max - small.memory_bytes_max > of(&large) - of(&small));
        assert_eq!(small.memory_bytes_at_start, large.memory_bytes_at_start, "series are touched as they come");
    }

    #[test]
    fn text_and_json_tell_the_same_sums() {
        let plan = Plan::of(&setup(2, 65_536));
        let (text, json) = (plan.to_text(), to_json(&plan));
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        for key in ["memory_bytes_max", "memory_bytes_at_start", "descriptors_max", "locked_bytes", "locked_limit_min"]
        {
            assert!(text.contains(&json[key].to_string()), "{key} is not in:\n{text}");
        }
        for term in &plan.memory {
            assert!(text.contains(term.what) && text.contains(&term.bytes.to_string()), "{}", term.what);
        }
        assert!(text.starts_with("cores: 2 shard(s) on 0-1, control plane on 2\n"), "{text}");
        assert!(text.lines().all(|line| line.len() <= 200 && line.trim_end() == line), "{text}");
    }
}
