//! One run: shards and devices by turns, checked after every step.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use corelane_metrics::{CloseReason, SAMPLE_WORDS, Sample, Totals, cell};
use corelane_rollup::SeriesPage;
use corelane_shard::kernel::Instant;
use corelane_shard::limits::{LINGER, POOL_BUFFERS_MIN, QUIET_AFTER, SECURITY_EVENTS_MAX};
use corelane_shard::{AccessRules, Allocations, Limits, Shard, ShardConfig, Shards, TlsLimits};
use corelane_telemetry::{PageRequester, Reader, event_lane, page_lane, telemetry_ring};
use corelane_testkit::Random;
use corelane_wire::RejectReason;

use crate::device::{Device, PATIENCE, State};
use crate::kernel::{SimKernel, SimListener};
use crate::model::{FIRST_SENSOR, Series};
use crate::network::{Network, SharedNetwork, SimSocket};
use crate::tls::server_config;

/// What a run came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// Steps: a turn of a shard, an act of a device, or a jump in time.
    pub steps: u64,
    /// Connections' lives, from connecting to the end.
    pub connections: u64,
    /// Of them, devices that had all of their frames committed.
    pub complete: u64,
    /// Accepted frames.
    pub frames: u64,
    /// Simulated time.
    pub time: Duration,
}

impl std::ops::Add for Report {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            steps: self.steps + other.steps,
            connections: self.connections + other.connections,
            complete: self.complete + other.complete,
            frames: self.frames + other.frames,
            time: self.time + other.time,
        }
    }
}

/// What a run found.
#[derive(Debug)]
pub struct Failure {
    /// Where the run began.
    pub seed: u64,
    /// How far it came.
    pub step: u64,
    /// What was wrong.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {} fails at step {}: {}", self.seed, self.step, self.what)
    }
}

impl std::error::Error for Failure {}

/// Simulates the run of this seed, from the first connection to the last close.
///
/// # Errors
/// What was wrong; a panic is something wrong.
pub fn run(seed: u64) -> Result<Report, Failure> {
    let mut simulation = Simulation::new(seed);
    let ended = catch_unwind(AssertUnwindSafe(|| simulation.run()));
    let what = match ended {
        Ok(Ok(())) => return Ok(simulation.report()),
        Ok(Err(what)) => what,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
        }
    };
    let closes = CloseReason::ALL
        .iter()
        .map(|&reason| (reason.label(), simulation.totals.counter_sum(cell::connections_closed(reason))));
    let closes: Vec<_> = closes.filter(|&(_, count)| count > 0).collect();
    Err(Failure { seed, step: simulation.steps, what: format!("{what}; closed so far: {closes:?}") })
}

struct Simulation {
    network: SharedNetwork,
    shards: Shards<SimSocket>,
    hosts: Vec<Host>,
    limits: Limits,
    devices: Vec<Device>,
    /// Those that are connected.
    busy: Vec<usize>,
    /// Devices to come.
    to_come: usize,
    steps: u64,
    /// Whether the stop ended before its deadline.
    has_stopped_in_time: bool,
    started_at: Instant,
    totals: Totals,
}

/// A shard, and the loop that drives it.
struct Host {
    shard: Shard<SimKernel>,
    samples: Reader<SAMPLE_WORDS>,
    series: PageRequester<SeriesPage>,
    last_work: Instant,
    is_asleep: bool,
    /// After sleep the first look does not wait.
    waits: bool,
    is_stopped: bool,
}

/// Devices that are connected at once.
const DEVICES_MAX: usize = 24;
/// Steps in which all honest devices are done, once the others are gone.
const SETTLING_STEPS: u64 = 200_000;

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut random = Random::from_seed(seed);
        let count = *random.pick(&[1, 1, 1, 2, 3]);
        let second = Duration::from_secs(1);
        let tls = (random.below(4) == 0).then_some(TlsLimits { handshake_timeout: 10 * second, is_mutual: false });
        let limits = Limits {
            pool_buffers: *random.pick(&[POOL_BUFFERS_MIN, POOL_BUFFERS_MIN + 4, 32, 96]),
            connections_max: *random.pick(&[DEVICES_MAX, 2 * DEVICES_MAX]),
            connections_per_ip_max: *random.pick(&[0, 0, 4]),
            accepts_per_ip_max: 0,
            ipv6_prefix: 64,
            rate_per_connection: *random.pick(&[0, 0, 0, 200_000]),
            connection_age_max: *random.pick(&[Duration::ZERO, Duration::ZERO, 20 * second]),
            series_max: 16_384,
            idle_timeout: 60 * second,
            frame_timeout: 10 * second,
            tls,
            drain_timeout: 20 * second,
        };
        let to_come = 10 + random.below(60);
        let network = Network::new(random, count, limits.connection_age_max);
        let shards = Shards::new(count, &limits).expect("an eventfd a shard");
        let hosts = (0..count).map(|index| Host::new(index, &limits, &shards, &network)).collect();
        let started_at = network.borrow().now;
        let totals = Totals::new(count);
        Self {
            network,
            shards,
            hosts,
            limits,
            devices: Vec::new(),
            busy: Vec::new(),
            to_come,
            steps: 0,
            has_stopped_in_time: false,
            started_at,
            totals,
        }
    }

    fn run(&mut self) -> Result<(), String> {
        // Every third run is stopped at some moment.
        let stops_after = (self.below(3) == 0).then(|| self.below(8_000) as u64);
        while self.to_come > 0 || !self.busy.is_empty() {
            self.step()?;
            if self.to_come == 0 && self.below(500) == 0 {
                break;
            }
            if stops_after.is_some_and(|steps| self.steps >= steps) {
                break;
            }
        }
        if stops_after.is_none() {
            self.settle()?;
        }
        self.drain()?;
        self.check_results()
    }

    /// Whoever is not honest leaves, and all others come to their end.
    fn settle(&mut self) -> Result<(), String> {
        self.to_come = 0;
        let hostile = self.devices.iter_mut().filter(|device| !device.is_honest() && device.state == State::Busy);
        hostile.for_each(|device| device.end(&mut self.network.borrow_mut(), State::Gone));
        let devices = &self.devices;
        self.busy.retain(|&at| devices[at].state == State::Busy);
        let until = self.steps + SETTLING_STEPS;
        while let Some(&at) = self.busy.first() {
            if self.steps > until {
                return Err(format!("{} is not served to its end", self.devices[at].id));
            }
            self.step()?;
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<(), String> {
        self.to_come = 0;
        self.shards.drain();
        self.network.borrow_mut().is_stopping = true;
        self.devices.iter_mut().for_each(|device| device.note_stop(&self.network.borrow()));
        let begun_at = self.now();
        let latest = begun_at + self.limits.drain_timeout + LINGER + Duration::from_secs(2);
        while self.hosts.iter().any(|host| !host.is_stopped) {
            if self.now() > latest {
                return Err("a stop takes longer than the drain timeout".into());
            }
            self.step()?;
        }
        self.has_stopped_in_time = self.now().since(begun_at) < self.limits.drain_timeout;
        for host in &self.hosts {
            if host.shard.peers() > 0 {
                return Err(format!("{} connections are left after the stop", host.shard.peers()));
            }
        }
        let network = self.network.borrow();
        let waiting = |id: usize| network.backlogs.iter().any(|backlog| backlog.contains(&id));
        match network.links.iter().enumerate().find(|(id, link)| !link.is_closed && !waiting(*id)) {
            Some((id, _)) => Err(format!("socket {id} is open after the stop")),
            None => Ok(()),
        }
    }

    /// A shard's turn, a device's act, or time.
    fn step(&mut self) -> Result<(), String> {
        self.steps += 1;
        match self.below(100) {
            0 if self.to_come > 0 && self.busy.len() < DEVICES_MAX => self.connect(),
            0..45 => {
                let host = self.below(self.hosts.len());
                self.turn(host)?;
            }
            45..97 if !self.busy.is_empty() => {
                let at = self.busy[self.below(self.busy.len())];
                self.devices[at].act(&mut self.network.borrow_mut())?;
                let devices = &self.devices;
                self.busy.retain(|&at| devices[at].state == State::Busy);
            }
            97.. => {
                let most =
                    *self.pick(&[Duration::from_millis(1), Duration::from_millis(20), Duration::from_millis(300)]);
                let mut network = self.network.borrow_mut();
                let time = network.some_time(most);
                network.pass(time);
            }
            _ => self.connect(),
        }
        self.check()
    }

    fn connect(&mut self) {
        if self.to_come > 0 {
            self.to_come -= 1;
            let (number, has_tls) = (self.devices.len(), self.limits.tls.is_some());
            self.busy.push(number);
            self.devices.push(Device::new(&mut self.network.borrow_mut(), number, has_tls));
        }
    }

    fn turn(&mut self, host: usize) -> Result<(), String> {
        let link = self.shards.link(host);
        let now = self.network.borrow().now;
        self.hosts[host].advance(now, link.take_wake()).map_err(|error| error.to_string())?;
        let waited = self.hosts[host].shard.kernel_mut().take_waited();
        let mut network = self.network.borrow_mut();
        let time = network.some_time(waited);
        network.pass(time);
        drop(network);
        let totals = &mut self.totals;
        self.hosts[host].samples.read(|words| {
            totals.apply(host, Sample::from_words(words).expect("a shard records samples"));
        });
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        for host in self.hosts.iter().filter(|host| !host.is_stopped) {
            let missing = host.shard.missing_buffers();
            if missing != 0 {
                return Err(format!("{missing} buffers are nowhere"));
            }
            if let Some(fault) = host.shard.kernel().fault() {
                return Err(fault);
            }
        }
        let network = self.network.borrow();
        let before = Instant::default() + network.now.since(Instant::default()).saturating_sub(PATIENCE);
        match self.devices.iter().find(|device| device.waits_since(&network, before)) {
            Some(device) => {
                let link = &network.links[device.link];
                let kernels: Vec<_> = self.hosts.iter().map(|host| (host.is_asleep, host.shard.kernel())).collect();
                Err(format!("{} has not been read for {PATIENCE:?}: {link:?}; {kernels:?}", device.id))
            }
            None => Ok(()),
        }
    }

    /// Series and counters against what the devices have sent.
    fn check_results(&mut self) -> Result<(), String> {
        let found = self.found_series()?;
        let (mut accepted, mut rejected_least, mut rejected_most) = (0, 0, 0);
        for device in &self.devices {
            let none = BTreeMap::new();
            let series = found.get(&device.id).unwrap_or(&none);
            let count = series.get(FIRST_SENSOR).map_or(0, |series| series.count);
            let (known, sent) = device.frames_known();
            if !(known.committed..=sent.committed).contains(&count) {
                return Err(format!(
                    "{}: {count} frames were counted, of {known:?} at least, {sent:?} at most",
                    device.id
                ));
            }
            let owed = device.owed_at_stop().filter(|_| self.has_stopped_in_time);
            if owed.is_some_and(|owed| count < owed.committed) {
                return Err(format!("{}: {count} frames were counted, {owed:?} had come before the stop", device.id));
            }
            let expected = device.script.series(count);
            let is_same = series.len() == expected.len()
                && expected.iter().all(|(sensor, expected)| series.get(*sensor) == Some(expected));
            if !is_same {
                return Err(format!("{}: the series are {series:?}, not {expected:?}", device.id));
            }
            accepted += count;
            rejected_least += known.rejected;
            rejected_most += sent.rejected + 1;
        }
        let counted = self.totals.counter_sum(cell::FRAMES_ACCEPTED);
        if counted != accepted {
            return Err(format!("{counted} frames are accepted by the counter, {accepted} by the series"));
        }
        let rejected =
            RejectReason::ALL.iter().map(|&reason| self.totals.counter_sum(cell::frames_rejected(reason))).sum();
        if !(rejected_least..=rejected_most).contains(&rejected) {
            return Err(format!("{rejected} frames are rejected, not {rejected_least} to {rejected_most}"));
        }
        Ok(())
    }

    /// What the shards' tables hold, by device and sensor.
    fn found_series(&mut self) -> Result<BTreeMap<String, BTreeMap<String, Series>>, String> {
        let mut found: BTreeMap<String, BTreeMap<String, Series>> = BTreeMap::new();
        for host in &mut self.hosts {
            let mut page = Box::new(SeriesPage::new());
            for index in 0.. {
                page.reset(index, 0);
                host.series.request(page).map_err(|_| "a page is refused")?;
                host.shard.fill_series_page();
                page = host.series.take().ok_or("a page is not filled")?;
                for series in page.iter() {
                    let sensors = found.entry(series.id.to_owned()).or_default();
                    let (count, last, min, max, sum) = (series.count, series.last, series.min, series.max, series.sum);
                    let before = sensors.insert(series.sensor.to_owned(), Series { count, last, min, max, sum });
                    if before.is_some() {
                        return Err(format!("{} has two series {}", series.id, series.sensor));
                    }
                }
                if page.is_last() {
                    break;
                }
            }
        }
        Ok(found)
    }

    fn report(&self) -> Report {
        Report {
            steps: self.steps,
            connections: self.devices.len() as u64,
            complete: self.devices.iter().filter(|device| device.state == State::Complete).count() as u64,
            frames: self.totals.counter_sum(cell::FRAMES_ACCEPTED),
            time: self.now().since(self.started_at),
        }
    }

    fn now(&self) -> Instant {
        self.network.borrow().now
    }

    fn below(&self, end: usize) -> usize {
        self.network.borrow_mut().random.below(end)
    }

    fn pick<'a, T>(&self, items: &'a [T]) -> &'a T {
        self.network.borrow_mut().random.pick(items)
    }
}

impl Host {
    fn new(index: usize, limits: &Limits, shards: &Shards<SimSocket>, network: &SharedNetwork) -> Self {
        let (recorder, samples) = telemetry_ring(16_384);
        let (series, filler) = page_lane();
        let config = ShardConfig {
            index,
            core: index,
            limits: limits.clone(),
            recorder,
            series: filler,
            events: event_lane(SECURITY_EVENTS_MAX).0,
            shards: shards.clone(),
            rules: AccessRules::default(),
            tls: limits.tls.map(|_| server_config()),
            allocations: Allocations::default,
            on_accept_error: Box::new(|_| ()),
            on_accepting: Box::new(|| ()),
            on_end: Box::new(|| ()),
        };
        let shard = Shard::new(config, SimKernel::new(network, index), SimListener).expect("a pool");
        let last_work = network.borrow().now;
        Self { shard, samples, series, last_work, is_asleep: false, waits: false, is_stopped: false }
    }

    /// What the shard's thread would do next; `is_woken` by another thread.
    fn advance(&mut self, now: Instant, is_woken: bool) -> std::io::Result<()> {
        if self.is_stopped {
            return Ok(());
        }
        if self.is_asleep {
            if is_woken || self.shard.kernel().is_signalled() {
                self.shard.wakes_up();
                (self.is_asleep, self.waits, self.last_work) = (false, false, now);
            } else {
                self.shard.tick_asleep(now);
                return Ok(());
            }
        }
        let is_busy = self.shard.turn(self.waits)?;
        self.waits = true;
        if self.shard.is_drained() {
            self.shard.stopped();
            self.is_stopped = true;
        } else if is_busy {
            self.last_work = now;
        } else if now.since(self.last_work) >= QUIET_AFTER && self.shard.falls_asleep()? {
            self.is_asleep = true;
        }
        Ok(())
    }
}
