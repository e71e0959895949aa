//! A control plane on `127.0.0.1:0` over fake shards: real rings, real rollup tables, real lanes, no network.

#![allow(dead_code, reason = "each test file uses a part")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use corelane_control::{ControlConfig, ControlHandle, ControlPlane, HttpLimits, MemoryUse, Protection, ShardPort};
use corelane_metrics::{RING_SLOTS_MIN, SecurityEvent, ShardMetrics, ShardState, Totals};
use corelane_rollup::{Rollup, SeriesPage};
use corelane_telemetry::{EventWriter, PageFiller, Recorder, event_lane, page_lane, telemetry_ring};

/// What a shard's thread owns.
pub(crate) struct Data {
    pub(crate) metrics: ShardMetrics,
    pub(crate) rollup: Rollup,
    pub(crate) recorder: Recorder<3>,
    filler: PageFiller<SeriesPage>,
    /// Neither flushes nor answers.
    pub(crate) stuck: bool,
}

impl Data {
    pub(crate) fn flush(&mut self) {
        let Self { metrics, recorder, .. } = self;
        metrics.flush(1, |words| recorder.record(words));
    }
}

pub(crate) struct FakeShard {
    data: Arc<Mutex<Data>>,
    pub(crate) events: Mutex<EventWriter<SecurityEvent>>,
    pub(crate) wakes: Arc<AtomicUsize>,
}

impl FakeShard {
    /// Works on the shard's data, and flushes as a shard does before it answers its peers.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Data) -> T) -> T {
        let mut data = self.data.lock().unwrap();
        let result = work(&mut data);
        data.flush();
        result
    }

    pub(crate) fn set_state(&self, state: ShardState) {
        self.with(|data| data.metrics.set_state(state));
    }

    pub(crate) fn set_stuck(&self, stuck: bool) {
        self.data.lock().unwrap().stuck = stuck;
    }
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    /// The port for probes.
    pub(crate) probe: SocketAddr,
    pub(crate) handle: ControlHandle,
    pub(crate) shards: Vec<FakeShard>,
    running: Option<JoinHandle<Totals>>,
}

impl Server {
    /// Starts with every shard accepting, and waits until the control plane is ready.
    pub(crate) fn start(shard_count: usize, http: HttpLimits) -> Self {
        Self::start_protected(shard_count, http, Protection::default())
    }

    pub(crate) fn start_protected(shard_count: usize, http: HttpLimits, protection: Protection) -> Self {
        let (ports, shards): (Vec<_>, Vec<_>) = (0..shard_count).map(|_| fake_shard()).unzip();
        let memory = || MemoryUse { allocated_bytes: 1_000, resident_bytes: 2_000 };
        let config = ControlConfig {
            version: "1.2.3",
            revision: "abc",
            memory,
            log_lines_dropped: || 3,
            http,
            protection,
            data_tls: None,
        };
        let plane = ControlPlane::new(config, ports);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let probe = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, probe_address) = (listener.local_addr().unwrap(), probe.local_addr().unwrap());
        let handle = ControlHandle::new();
        let running = spawn({
            let handle = handle.clone();
            move || plane.run(listener, Some(probe), handle).unwrap()
        });
        let server = Self { address, probe: probe_address, handle, shards, running: Some(running) };
        server.shards.iter().for_each(|shard| shard.set_state(ShardState::Accepting));
        wait_until("the control plane is ready", || server.handle.is_ready());
        server
    }

    pub(crate) fn stop(mut self) -> Totals {
        self.handle.stop();
        self.running.take().unwrap().join().unwrap()
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.request("GET", path, "")
    }

    pub(crate) fn request(&self, method: &str, path: &str, headers: &str) -> Answer {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n");
        ask(self.address, &head)
    }
}

/// Sends a request that asks for the end of its connection, and reads to that end.
pub(crate) fn ask(address: SocketAddr, request: &str) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    Answer::parse(&String::from_utf8(bytes).unwrap())
}

impl Drop for Server {
    fn drop(&mut self) {
        self.handle.stop();
        if let Some(running) = self.running.take() {
            let ended = running.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the control plane panicked");
        }
    }
}

fn fake_shard() -> (ShardPort, FakeShard) {
    let (recorder, samples) = telemetry_ring(RING_SLOTS_MIN);
    let (series, filler) = page_lane();
    let (metrics, rollup) = (ShardMetrics::new(), Rollup::new(65_536));
    let data = Arc::new(Mutex::new(Data { metrics, rollup, recorder, filler, stuck: false }));
    let (events, security) = event_lane(64);
    let wakes = Arc::new(AtomicUsize::new(0));
    let wake = Box::new({
        let wakes = Arc::clone(&wakes);
        move || {
            wakes.fetch_add(1, Ordering::Relaxed);
        }
    });
    // The shard's loop ends with the last other owner of its data.
    let (weak, mut turn) = (Arc::downgrade(&data), 0);
    spawn(move || {
        while let Some(data) = weak.upgrade() {
            let mut data = data.lock().unwrap();
            let Data { rollup, filler, stuck, .. } = &mut *data;
            if !*stuck {
                while filler.fill_next(|page| rollup.fill(page)) {}
                turn += 1;
                if turn % 20 == 0 {
                    data.flush();
                }
            }
            drop(data);
            sleep(Duration::from_millis(1));
        }
    });
    let port = ShardPort { core: 7, samples, series, events: security, wake };
    (port, FakeShard { data, events: Mutex::new(events), wakes })
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

impl Answer {
    fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").expect("an answer has a head");
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).expect("a status line").parse().unwrap();
        let headers = lines.filter_map(|line| line.split_once(": "));
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
        Self { status, headers, body: body.to_owned() }
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        assert_eq!(self.headers["content-type"], "application/json");
        serde_json::from_str(&self.body).unwrap()
    }
}

pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "not within 20 s: {what}");
        sleep(Duration::from_millis(5));
    }
}
