//! This project's server with its defaults, put together as `corelane serve` does it, without flags, log and signals.

use std::net::TcpListener;
use std::time::Duration;
use std::{io, thread};

use corelane_control::{ControlConfig, ControlHandle, ControlPlane, HttpLimits, MemoryUse, Protection, ShardPort};
use corelane_shard::limits::SECURITY_EVENTS_MAX;
use corelane_shard::{AccessRules, Allocations, Limits, ShardConfig, Shards, bind_listeners};
use corelane_telemetry::{event_lane, page_lane, telemetry_ring};
use corelane_testkit::allocator::thread_calls;
use rustix::thread::{MembarrierCommand, membarrier};

use super::{BACKLOG, SERIES_MAX, answer_questions};
use crate::host;

/// Buffers of all shards: 64 MiB.
const POOL_BUFFERS: usize = 512;
/// Slots of a shard's ring.
const RING_SLOTS: usize = 16 * 1024;

/// Serves with shards on the first cores and the control plane on the last.
pub(super) fn serve(shards: usize) -> io::Result<()> {
    // As `corelane serve` does before its first thread, and for its reason: later it takes milliseconds.
    let _ = membarrier(MembarrierCommand::RegisterPrivateExpedited);
    let cores = corelane_testkit::host::allowed_cores();
    let listeners = bind_listeners(([127, 0, 0, 1], 0).into(), shards, BACKLOG)?;
    let address = listeners[0].local_addr()?;
    let control_listener = TcpListener::bind(("127.0.0.1", 0))?;
    let control_address = control_listener.local_addr()?;
    let limits = Limits {
        pool_buffers: POOL_BUFFERS / shards,
        connections_max: 10_000,
        connections_per_ip_max: 0,
        accepts_per_ip_max: 0,
        ipv6_prefix: 64,
        rate_per_connection: 0,
        connection_age_max: Duration::ZERO,
        series_max: SERIES_MAX,
        idle_timeout: Duration::from_secs(300),
        frame_timeout: Duration::from_secs(10),
        tls: None,
        drain_timeout: Duration::from_secs(10),
    };
    let shared = Shards::new(shards, &limits)?;
    let mut ports = Vec::new();
    // Shards end with the process.
    let mut threads = Vec::new();
    for (index, listener) in listeners.into_iter().enumerate() {
        let (recorder, samples) = telemetry_ring(RING_SLOTS);
        let (requester, filler) = page_lane();
        let (security, security_reader) = event_lane(SECURITY_EVENTS_MAX);
        let waker = shared.link(index).clone();
        ports.push(ShardPort {
            core: cores[index],
            samples,
            series: requester,
            events: security_reader,
            wake: Box::new(move || waker.wake()),
        });
        let config = ShardConfig {
            index,
            core: cores[index],
            limits: limits.clone(),
            recorder,
            series: filler,
            events: security,
            shards: shared.clone(),
            rules: AccessRules::default(),
            tls: None,
            allocations: || {
                let calls = thread_calls();
                Allocations { count: calls.allocations, bytes: calls.bytes }
            },
            on_accept_error: Box::new(|error| eprintln!("accept: {error}")),
            on_accepting: Box::new(|| ()),
            on_end: Box::new(|| ()),
        };
        threads.push(corelane_shard::spawn(config, listener)?);
    }
    let config = ControlConfig {
        version: env!("CARGO_PKG_VERSION"),
        revision: "bench",
        memory: MemoryUse::default,
        log_lines_dropped: || 0,
        http: HttpLimits::default(),
        protection: Protection::default(),
        data_tls: None,
    };
    let control_core = host::cores().1;
    let handle = ControlHandle::new();
    let theirs = handle.clone();
    thread::Builder::new().name("control".into()).spawn(move || {
        host::pin(control_core);
        ControlPlane::new(config, ports).run(control_listener, None, theirs).expect("the control plane serves");
    })?;
    while !handle.is_ready() {
        thread::sleep(Duration::from_millis(1));
    }
    host::pin(control_core);
    println!("ready {address} {control_address}");
    // Its counts come out of its control port.
    answer_questions(|| [0; 4])
}
