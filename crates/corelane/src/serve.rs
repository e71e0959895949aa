//! `corelane serve`: start order, signals, stop order.
//!
//! Main thread: checks, sockets, threads, then waits for a signal or for something that should not have ended. Owns
//! nothing of what the shards and the control plane work with.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use core_affinity::CoreId;
use corelane_control::{
    Configured, ControlConfig, ControlHandle, ControlPlane, HttpLimits, Protection, ShardPort, TokenSource,
};
use corelane_metrics::{RING_SLOTS_MIN, Totals, cell};
use corelane_ring::telemetry_ring;
use corelane_rollup::snapshot_lane;
use corelane_shard::limits::SECURITY_EVENTS_MAX;
use corelane_shard::{AccessRules, Limits, ShardConfig, ShardThread, Shards, TlsConfig};
use corelane_tls::{CertificateSource, DataPortFiles, DataPortTls, LoadError};
use corelane_wire::RejectReason;
use crossbeam_queue::ArrayQueue;
use rustix::thread::{MembarrierCommand, membarrier};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::allocator::{memory_use, thread_allocations};
use crate::config::{Config, Said, SettingArgs, TlsFiles};
use crate::doctor;
use crate::failure::Failure;
use crate::host::{self, Placement, Setup};
use crate::log;
use crate::plan::Plan;
use crate::reload::{self, Reloader};
use crate::sockets::Sockets;
use crate::takeover::{Offer, Predecessor};

/// Slots of a shard's TelemetryRing: several drains' worth at full load, 32 bytes each.
pub(crate) const RING_SLOTS: usize = 16 * 1024;
const _: () = assert!(RING_SLOTS >= RING_SLOTS_MIN);

/// How long starting may take before it is given up.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// How often the configuration file is looked at for changes.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What wakes the main thread.
enum Event {
    Signal,
    Reload,
    /// Another process has the sockets now.
    Relieved {
        process: u32,
    },
    ShardAccepts,
    /// A thread that should run has ended.
    Ended(String),
}

/// Runs the server until a signal.
pub(crate) fn run(flags: SettingArgs) -> Result<(), Failure> {
    // The shards' executors use it at every park; registering it takes milliseconds once other threads run.
    let _ = membarrier(MembarrierCommand::RegisterPrivateExpedited);
    let stamp = reload::stamp(flags.file().as_deref());
    let config = Config::resolve(&flags)?;
    log::init(config.log_format);
    let mut setup = Setup::of(&config)?;
    let shards = setup.placement.data.len();
    let (connections_max, warning) = host::connections_max(&config.max_connections, shards)?;
    setup.limits.connections_max = connections_max;
    doctor::require_grants(&Plan::of(&setup))?;
    if let Some(warning) = warning {
        tracing::warn!("{warning}");
    }
    let Setup { placement, limits } = setup;
    if let Some(core) = placement.shared_core() {
        tracing::warn!("core {core} carries a shard and the control plane");
    }
    let data_tls = data_tls(&config)?;
    let protection = protection(&config)?;
    warn_if_exposed(config.control, &protection);
    let sockets = Sockets::open(&config, shards)?;
    let offered = sockets.duplicates();
    let Sockets { data, control, probe, predecessor, listen, control_address, probe_address } = sockets;

    let (events, inbox) = channel();
    watch_signals(events.clone())?;
    let shared = Shards::new(shards, &limits)
        .map_err(|error| Failure::failed(format!("cannot make what the shards share: {error}")))?;
    let rules = AccessRules { allow: config.allow.unwrap_or_default() };
    let tls = data_tls.as_ref().map(|tls| tls.config());
    let (ports, threads) = start_shards(&placement, &limits, &shared, &rules, tls, data, &events)?;
    let handle = ControlHandle::new();
    for setting in in_use(config.told, &placement, connections_max, listen, control_address, probe_address) {
        handle.configure(setting);
    }
    let mut reloader = Reloader::new(flags, stamp, &rules, data_tls.clone(), shared.clone(), handle.clone());
    let config = ControlConfig {
        version: env!("CARGO_PKG_VERSION"),
        revision: env!("CORELANE_REVISION"),
        memory: memory_use,
        http: HttpLimits::default(),
        protection,
        data_tls,
    };
    let plane = start_control(placement.control, config, ports, (control, probe), handle.clone(), events.clone())?;
    let mut outcome = wait_until_ready(&inbox, shards, &handle);
    if let Ok(Ready::Never { accepting }) = outcome {
        // A shard that does not come up does not stop when asked to either: the process ends without it.
        return Err(Failure::failed(format!(
            "not ready after {START_TIMEOUT:?}: {accepting} of {shards} shards accept"
        )));
    }
    let mut offer = None;
    // While another process has the same sockets, who waits in their queues is not lost with this one.
    let mut is_shared = predecessor.is_some();
    if matches!(outcome, Ok(Ready::Yes)) {
        match succeed(predecessor, listen, offered, events) {
            Ok(made) => (offer, is_shared) = (made, false),
            Err(failure) => outcome = Err(failure),
        }
    }
    if matches!(outcome, Ok(Ready::Yes)) {
        // Whoever started us may have closed our stdout; the server is no worse for it.
        let _ = writeln!(
            io::stdout(),
            "corelane ready listen={listen} control={control_address} shards={shards} pid={}",
            std::process::id()
        );
        service_manager(&[NotifyState::Ready]);
        outcome = wait_for_end(&inbox, &mut reloader, &mut Watchdog::new(handle.clone()))
            .map(|relieved| Ready::Stopped { relieved });
    }
    handle.set_draining();
    if let Ok(Ready::Stopped { relieved: Some(process) }) = outcome {
        service_manager(&[NotifyState::MainPid(process)]);
        handle.stop_accepting();
        is_shared = true;
    } else {
        service_manager(&[NotifyState::Stopping]);
    }
    if is_shared {
        shared.drain_leaving_backlog();
    } else {
        shared.drain();
    }
    if let Some(offer) = offer {
        offer.withdraw();
    }
    for (index, thread) in threads.into_iter().enumerate() {
        if let Err(error) = thread.join() {
            // More than that it ended, which is what the outcome may tell already.
            outcome = Err(Failure::failed(format!("shard {index} failed: {error}")));
        }
    }
    handle.stop();
    match plane.join() {
        Ok(Ok(totals)) => log_totals(&totals),
        // More than that it ended, as with a shard.
        Ok(Err(error)) => outcome = Err(Failure::failed(format!("the control plane failed: {error}"))),
        Err(_) => outcome = outcome.and(Err(Failure::failed("the control plane failed: internal error"))),
    }
    outcome.map(|_| ())
}

/// Relieves the predecessor, if there is one, and offers the sockets to a successor; `None` when that cannot be done.
fn succeed(
    predecessor: Option<Predecessor>,
    listen: SocketAddr,
    sockets: io::Result<Vec<OwnedFd>>,
    events: Sender<Event>,
) -> Result<Option<Offer>, Failure> {
    let relieved = predecessor.map_or(Ok(()), Predecessor::relieve);
    let on_relieved = move |process| drop(events.send(Event::Relieved { process }));
    match (sockets.and_then(|sockets| Offer::make(listen, sockets, on_relieved)), relieved) {
        // Whoever did not answer has left its name to this process, so it is gone.
        (Ok(offer), _) => Ok(Some(offer)),
        (Err(error), Ok(())) => {
            tracing::warn!("another process cannot take over from this one: {error}");
            Ok(None)
        }
        (Err(_), Err(error)) => {
            let text = format!("--takeover: the process that serves {listen} goes on, this one stops: {error}");
            Err(Failure::failed(text))
        }
    }
}

/// How waiting for a complete start ended.
enum Ready {
    Yes,
    /// A signal came, or a successor.
    Stopped {
        relieved: Option<u32>,
    },
    /// Not in time.
    Never {
        accepting: usize,
    },
}

type Started = (Vec<ShardPort>, Vec<ShardThread>);

/// Starts every shard with its ends of ring, lanes and tables; the other ends are for the control plane.
fn start_shards(
    placement: &Placement,
    limits: &Limits,
    shards: &Shards,
    rules: &AccessRules,
    tls: Option<TlsConfig>,
    listeners: Vec<TcpListener>,
    events: &Sender<Event>,
) -> Result<Started, Failure> {
    let (mut ports, mut threads) = (Vec::new(), Vec::new());
    for (index, (listener, &core)) in listeners.into_iter().zip(&placement.data).enumerate() {
        let (recorder, samples) = telemetry_ring(RING_SLOTS);
        let (asker, answerer) = snapshot_lane();
        let security = Arc::new(ArrayQueue::new(SECURITY_EVENTS_MAX));
        let waker = shards.link(index).clone();
        ports.push(ShardPort {
            core,
            samples,
            series: asker,
            events: Arc::clone(&security),
            wake: Box::new(move || waker.wake()),
        });
        let accepts = events.clone();
        let config = ShardConfig {
            index,
            core,
            limits: limits.clone(),
            recorder,
            series: answerer,
            events: security,
            shards: shards.clone(),
            rules: rules.clone(),
            tls: tls.clone(),
            allocations: thread_allocations,
            on_accept_error: Box::new(accept_error_logger(index)),
            on_accepting: Box::new(move || drop(accepts.send(Event::ShardAccepts))),
            on_end: Box::new(on_end(format!("shard {index}"), events.clone())),
        };
        let thread = corelane_shard::spawn(config, listener)
            .map_err(|error| Failure::failed(format!("cannot start shard {index} on core {core}: {error}")))?;
        threads.push(thread);
    }
    Ok((ports, threads))
}

/// Says once a second at most that connections cannot be accepted, and why.
fn accept_error_logger(shard: usize) -> impl FnMut(io::Error) {
    let mut quiet_until = Instant::now();
    move |error| {
        if Instant::now() >= quiet_until {
            quiet_until = Instant::now() + Duration::from_secs(1);
            tracing::warn!(
                shard,
                "cannot accept connections: {error}; those that wait are accepted as soon as others close"
            );
        }
    }
}

/// Tells systemd, where it asked for it (sd_notify(3)).
fn service_manager(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!("cannot tell the service manager: {error}");
    }
}

fn on_end(who: String, events: Sender<Event>) -> impl FnOnce() {
    move || drop(events.send(Event::Ended(who)))
}

fn start_control(
    core: usize,
    config: ControlConfig,
    ports: Vec<ShardPort>,
    (control, probe): (TcpListener, Option<TcpListener>),
    handle: ControlHandle,
    events: Sender<Event>,
) -> Result<thread::JoinHandle<io::Result<Totals>>, Failure> {
    let run = move || {
        // Runs when dropped, be it by a panic.
        let _ended = scopeguard::guard(on_end("the control plane".into(), events), |on_end| on_end());
        if !core_affinity::set_for_current(CoreId { id: core }) {
            tracing::warn!(core, "cannot pin the control plane");
        }
        ControlPlane::new(config, ports).run(control, probe, handle)
    };
    thread::Builder::new()
        .name("control".into())
        .spawn(run)
        .map_err(|error| Failure::failed(format!("cannot start the control plane: {error}")))
}

/// Reads the files that protect the data port.
fn data_tls(config: &Config) -> Result<Option<Arc<DataPortTls>>, Failure> {
    let Some(TlsFiles { certificate, key }) = &config.tls else { return Ok(None) };
    let path = |said: &Option<Said<PathBuf>>| said.as_ref().map(|said| said.value.clone());
    let files = DataPortFiles {
        certificate: certificate.value.clone(),
        key: key.value.clone(),
        client_ca: path(&config.tls_client_ca),
        client_crl: path(&config.tls_client_crl),
    };
    let tls = DataPortTls::load(files).map_err(|error| Failure::usage(format!("TLS of the data port: {error}")))?;
    Ok(Some(Arc::new(tls)))
}

/// Reads the files that protect the control port.
fn protection(config: &Config) -> Result<Protection, Failure> {
    let wrong = |flag: &Said<_>, error: LoadError| Failure::usage(format!("{}: {error}", flag.source));
    let mut protection = Protection { hosts: config.control_hosts.clone(), ..Protection::default() };
    if let Some(files) = &config.control_tls {
        let source = CertificateSource::load(files.certificate.value.clone(), files.key.value.clone());
        protection.certificates = Some(Arc::new(source.map_err(|error| wrong(&files.certificate, error))?));
    }
    if let Some(file) = &config.control_token_file {
        let source = TokenSource::load(file.value.clone()).map_err(|error| wrong(file, error))?;
        protection.token = Some(Arc::new(source));
    }
    Ok(protection)
}

/// The configuration, with what this host and the kernel made of it.
fn in_use(
    mut told: Vec<Configured>,
    placement: &Placement,
    connections_max: usize,
    listen: SocketAddr,
    control: SocketAddr,
    probe: Option<SocketAddr>,
) -> Vec<Configured> {
    for setting in &mut told {
        let found = match setting.key {
            "listen" => listen.to_string(),
            "control" => control.to_string(),
            "probe" => match probe {
                Some(probe) => probe.to_string(),
                None => continue,
            },
            "cores" => host::list(&placement.data),
            "control_core" => placement.control.to_string(),
            "max_connections" => connections_max.to_string(),
            _ => continue,
        };
        setting.value = Some(found);
    }
    told
}

fn warn_if_exposed(control: SocketAddr, protection: &Protection) {
    let lacks = match (&protection.certificates, &protection.token) {
        (Some(_), Some(_)) => return,
        (None, None) => "neither TLS nor a token",
        (None, Some(_)) => "no TLS, so that its token can be read on the way",
        (Some(_), None) => "no token",
    };
    if !control.ip().is_loopback() {
        tracing::warn!(
            "the control port {control} can be reached from other hosts and has {lacks}; set --control-tls-cert, \
             --control-tls-key and --control-token-file"
        );
    }
}

/// Turns signals into events; a second one ends the process at once.
fn watch_signals(events: Sender<Event>) -> Result<(), Failure> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])
        .map_err(|error| Failure::failed(format!("cannot watch signals: {error}")))?;
    let watch = move || {
        let mut stopping = false;
        for signal in signals.forever() {
            if signal == SIGHUP {
                let _ = events.send(Event::Reload);
            } else if stopping {
                tracing::error!("second signal: ended without finishing");
                std::process::exit(1);
            } else {
                stopping = true;
                tracing::info!(signal, "stopping: finishing what has arrived; a second signal ends at once");
                let _ = events.send(Event::Signal);
            }
        }
    };
    let started = thread::Builder::new().name("signals".into()).spawn(watch);
    started.map(drop).map_err(|error| Failure::failed(format!("cannot start the signal thread: {error}")))
}

fn wait_until_ready(inbox: &Receiver<Event>, shards: usize, handle: &ControlHandle) -> Result<Ready, Failure> {
    let deadline = Instant::now() + START_TIMEOUT;
    let mut accepting = 0;
    while accepting < shards || !handle.is_ready() {
        match inbox.recv_timeout(Duration::from_millis(5)) {
            Ok(Event::Signal) => return Ok(Ready::Stopped { relieved: None }),
            Ok(Event::ShardAccepts) => accepting += 1,
            // What is to be read again has just been read; and nothing is offered yet.
            Ok(Event::Reload | Event::Relieved { .. }) => {}
            Ok(Event::Ended(who)) => return Err(Failure::failed(format!("{who} ended while starting"))),
            Err(_) if Instant::now() >= deadline => return Ok(Ready::Never { accepting }),
            Err(_) => {}
        }
    }
    Ok(Ready::Yes)
}

/// Gives the process that took over, if that is the end.
fn wait_for_end(
    inbox: &Receiver<Event>,
    reloader: &mut Reloader,
    watchdog: &mut Watchdog,
) -> Result<Option<u32>, Failure> {
    // Nothing to look after, nothing to wake up for.
    let look_every = if reloader.has_files() { LOOK_EVERY } else { Duration::MAX }.min(watchdog.every());
    loop {
        match inbox.recv_timeout(look_every) {
            Ok(Event::Signal) => return Ok(None),
            Ok(Event::Relieved { process }) => return Ok(Some(process)),
            Ok(Event::Reload) => reloader.reload_all(),
            Err(RecvTimeoutError::Timeout) => {
                reloader.reload_if_changed();
                watchdog.tell();
            }
            Ok(Event::ShardAccepts) => {}
            Ok(Event::Ended(who)) => return Err(Failure::failed(format!("{who} ended; stopping"))),
            Err(_) => return Err(Failure::failed("every thread has ended")),
        }
    }
}

/// systemd's watchdog, where the unit has one: told while the control plane runs and hears from every shard.
struct Watchdog {
    handle: ControlHandle,
    timeout: Option<Duration>,
    pulse: u64,
}

impl Watchdog {
    fn new(handle: ControlHandle) -> Self {
        Self { handle, timeout: sd_notify::watchdog_enabled(), pulse: 0 }
    }

    fn every(&self) -> Duration {
        self.timeout.map_or(Duration::MAX, |timeout| timeout / 3)
    }

    fn tell(&mut self) {
        let pulse = self.handle.pulse();
        if self.timeout.is_some() && std::mem::replace(&mut self.pulse, pulse) != pulse {
            service_manager(&[NotifyState::Watchdog]);
        }
    }
}

fn log_totals(totals: &Totals) {
    let rejected: u64 = RejectReason::ALL.iter().map(|&reason| totals.counter_sum(cell::frames_rejected(reason))).sum();
    let accepted = totals.counter_sum(cell::FRAMES_ACCEPTED);
    let bytes = totals.counter_sum(cell::RECEIVED_BYTES);
    tracing::info!(accepted, rejected, bytes, "stopped");
}
