//! `corelane serve`: start order, signals, stop order.
//!
//! Main thread: checks, sockets, threads, then waits for a signal or for something that should not have ended. Owns
//! nothing of what the shards and the control plane work with.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use core_affinity::CoreId;
use corelane_command::Failure;
use corelane_control::{
    Configured, ControlConfig, ControlHandle, ControlPlane, HttpLimits, Protection, ShardPort, TokenSource,
};
use corelane_files::{FileWatch, LoadError};
use corelane_metrics::{Totals, cell};
use corelane_shard::limits::SECURITY_EVENTS_MAX;
use corelane_shard::{AccessRules, Limits, ShardConfig, ShardThread, Shards, TlsConfig};
use corelane_telemetry::{event_lane, page_lane, telemetry_ring};
use corelane_tls::{CertificateSource, DataPortFiles, DataPortTls};
use corelane_wire::RejectReason;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::{MembarrierCommand, membarrier};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::allocator::{memory_use, thread_allocations};
use crate::config::{Config, Said, SettingArgs, TlsFiles};
use crate::descriptors;
use crate::doctor;
use crate::host::{self, Placement, RING_SLOTS, Setup};
use crate::log;
use crate::plan::Plan;
use crate::reload::Reloader;
use crate::sockets::Sockets;
use crate::takeover::{Offer, Predecessor};

/// How long starting may take before it is given up.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// How often the configuration file is looked at for changes.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long the ready line waits for room in a full pipe. Signals wait behind it, so it is short.
const READY_LINE_SECONDS: i64 = 1;

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
    let file = FileWatch::new(flags.file().into_iter().collect());
    let config = Config::resolve(&flags)?;
    let mut setup = Setup::of(&config)?;
    let shards = setup.placement.data.len();
    let (connections_max, warning) = descriptors::connections_max(&config.max_connections, shards)?;
    setup.limits.connections_max = connections_max;
    doctor::require_grants(&Plan::of(&setup))?;
    // Not before: where threads or memory are short, the first thread already fails.
    log::init(config.log_format)?;
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
    let Sockets { data, control, probe, predecessor, takeover_path, listen, control_address, probe_address } = sockets;

    let (events, inbox) = channel();
    let reload_asked = Arc::new(AtomicBool::new(false));
    watch_signals(events.clone(), Arc::clone(&reload_asked))?;
    let shared = Shards::new(shards, &limits)
        .map_err(|error| Failure::failed(format!("cannot make what the shards share: {error}")))?;
    let rules = AccessRules { allow: config.allow.unwrap_or_default() };
    let tls = data_tls.as_ref().map(|tls| tls.config());
    let (ports, threads) = start_shards(&placement, &limits, &shared, &rules, tls, data, &events)?;
    let handle = ControlHandle::new();
    let addresses = Addresses { listen, control: control_address, probe: probe_address };
    for setting in in_use(config.told, &placement, connections_max, addresses, takeover_path.as_deref()) {
        handle.configure(setting);
    }
    let mut reloader = Reloader::new(flags, file, &rules, data_tls.clone(), shared.clone(), handle.clone());
    let config = ControlConfig {
        version: env!("CARGO_PKG_VERSION"),
        revision: env!("CORELANE_REVISION"),
        memory: memory_use,
        log_lines_dropped: log::lines_dropped,
        http: HttpLimits::default(),
        protection,
        data_tls,
    };
    let plane = start_control(placement.control, config, ports, (control, probe), handle.clone(), events.clone())?;
    let mut outcome = wait_until_ready(&inbox, shards, &handle, &reload_asked);
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
        match succeed(predecessor, listen, takeover_path.as_deref(), offered, events) {
            Ok(made) => (offer, is_shared) = (made, false),
            Err(failure) => outcome = Err(failure),
        }
    }
    if matches!(outcome, Ok(Ready::Yes)) {
        print_ready(listen, control_address, shards);
        service_manager(&[NotifyState::Ready]);
        outcome = wait_for_end(&inbox, &mut reloader, &reload_asked, &mut Watchdog::new(handle.clone()))
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

/// Prints the ready line. The server runs on without it if stdout is closed or nobody reads it.
fn print_ready(listen: SocketAddr, control: SocketAddr, shards: usize) {
    let mut stdout = io::stdout();
    // A pipe that can be written to has room for `PIPE_BUF`, so the line does not block behind this.
    let timeout = Timespec { tv_sec: READY_LINE_SECONDS, tv_nsec: 0 };
    match poll(&mut [PollFd::new(&stdout, PollFlags::OUT)], Some(&timeout)) {
        Ok(0) => tracing::warn!("the ready line is not printed: nobody reads stdout, and its pipe is full"),
        _ => {
            let pid = std::process::id();
            let line = format!("corelane ready listen={listen} control={control} shards={shards} pid={pid}\n");
            let _ = stdout.write_all(line.as_bytes());
        }
    }
}

/// Relieves the predecessor, if there is one, and offers the sockets to a successor; `None` when that cannot be done.
fn succeed(
    predecessor: Option<Predecessor>,
    listen: SocketAddr,
    takeover_path: Option<&Path>,
    sockets: io::Result<Vec<OwnedFd>>,
    events: Sender<Event>,
) -> Result<Option<Offer>, Failure> {
    predecessor.map_or(Ok(()), Predecessor::relieve).map_err(|error| {
        Failure::failed(format!("--takeover: another process goes on serving {listen}, this one stops: {error}"))
    })?;
    let on_relieved = move |process| drop(events.send(Event::Relieved { process }));
    match sockets.and_then(|sockets| Offer::make(listen, takeover_path, sockets, on_relieved)) {
        Ok(offer) => Ok(Some(offer)),
        Err(error) => {
            tracing::warn!("another process cannot take over from this one: {error}");
            Ok(None)
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
        let (requester, filler) = page_lane();
        let (security, security_reader) = event_lane(SECURITY_EVENTS_MAX);
        let waker = shards.link(index).clone();
        ports.push(ShardPort {
            core,
            samples,
            series: requester,
            events: security_reader,
            wake: Box::new(move || waker.wake()),
        });
        let accepts = events.clone();
        let config = ShardConfig {
            index,
            core,
            limits: limits.clone(),
            recorder,
            series: filler,
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
            .map_err(|error| cannot_start(&format!("shard {index} on core {core}"), &error))?;
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
    thread::Builder::new().name("control".into()).spawn(run).map_err(|error| cannot_start("the control plane", &error))
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

/// Where a server listens, after port 0 has become a real one.
struct Addresses {
    listen: SocketAddr,
    control: SocketAddr,
    probe: Option<SocketAddr>,
}

/// The configuration, with what this host and the kernel made of it.
fn in_use(
    mut told: Vec<Configured>,
    placement: &Placement,
    connections_max: usize,
    addresses: Addresses,
    takeover_path: Option<&Path>,
) -> Vec<Configured> {
    let Addresses { listen, control, probe } = addresses;
    for setting in &mut told {
        let found = match setting.key {
            "listen" => Some(listen.to_string()),
            "control" => Some(control.to_string()),
            "probe" => probe.map(|probe| probe.to_string()),
            "cores" => Some(host::list(&placement.data)),
            "control_core" => Some(placement.control.to_string()),
            "max_connections" => Some(connections_max.to_string()),
            "takeover_path" => takeover_path.map(|path| path.display().to_string()),
            _ => None,
        };
        if found.is_some() {
            setting.value = found;
        }
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

/// Turns signals into events. Each acts before it is logged, and a second stop signal ends the process at once. At most one
/// reload is under way in `events`, so a stop never waits behind more than that.
fn watch_signals(events: Sender<Event>, reload_asked: Arc<AtomicBool>) -> Result<(), Failure> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])
        .map_err(|error| Failure::failed(format!("cannot watch signals: {error}")))?;
    let watch = move || {
        let mut stopping = false;
        for signal in signals.forever() {
            if signal == SIGHUP {
                if !reload_asked.swap(true, Ordering::AcqRel) {
                    let _ = events.send(Event::Reload);
                }
            } else if stopping {
                tracing::error!("second signal: ended without finishing");
                log::flush(log::LAST_FLUSH_TIMEOUT);
                // Runs nothing that could wait for anybody, unlike `std::process::exit`.
                signal_hook::low_level::exit(1);
            } else {
                stopping = true;
                let _ = events.send(Event::Signal);
                tracing::info!(signal, "stopping: finishing what has arrived; a second signal ends at once");
            }
        }
    };
    let started = thread::Builder::new().name("signals".into()).spawn(watch);
    started.map(drop).map_err(|error| cannot_start("the signal thread", &error))
}

/// A thread that cannot be started.
fn cannot_start(what: &str, error: &io::Error) -> Failure {
    let remedy =
        if error.kind() == io::ErrorKind::WouldBlock { Failure::MORE_THREADS } else { "see `corelane doctor`" };
    Failure::failed(format!("cannot start {what}: {error}; {remedy}"))
}

fn wait_until_ready(
    inbox: &Receiver<Event>,
    shards: usize,
    handle: &ControlHandle,
    reload_asked: &AtomicBool,
) -> Result<Ready, Failure> {
    let deadline = Instant::now() + START_TIMEOUT;
    let mut accepting = 0;
    while accepting < shards || !handle.is_ready() {
        match inbox.recv_timeout(Duration::from_millis(5)) {
            Ok(Event::Signal) => return Ok(Ready::Stopped { relieved: None }),
            Ok(Event::ShardAccepts) => accepting += 1,
            // What is to be read again has just been read.
            Ok(Event::Reload) => reload_asked.store(false, Ordering::Release),
            // Nothing is offered yet.
            Ok(Event::Relieved { .. }) => {}
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
    reload_asked: &AtomicBool,
    watchdog: &mut Watchdog,
) -> Result<Option<u32>, Failure> {
    // Nothing to look after, nothing to wake up for.
    let look_every = if reloader.has_files() { LOOK_EVERY } else { Duration::MAX }.min(watchdog.every());
    loop {
        match inbox.recv_timeout(look_every) {
            Ok(Event::Signal) => return Ok(None),
            Ok(Event::Relieved { process }) => return Ok(Some(process)),
            Ok(Event::Reload) => {
                // Before the files are read: a signal that comes meanwhile asks for another reload.
                reload_asked.store(false, Ordering::Release);
                reloader.reload_all();
            }
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
