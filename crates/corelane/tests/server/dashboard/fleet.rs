//! Devices of a plant that report all the time, and some that do it badly.

use std::f64::consts::TAU;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant, SystemTime};

use corelane_testkit::frames::{header, invalid_frames};
use corelane_testkit::{Peer, Random, Server};
use corelane_wire::encode_event;

/// Sends until it is dropped.
pub(crate) struct Fleet {
    done: Arc<AtomicBool>,
    senders: Vec<JoinHandle<()>>,
}

/// The flags of a server that has something to say of the bad ones.
pub(crate) const FLAGS: [&str; 6] =
    ["--allow", "127.0.0.0/16", "--frame-timeout", "2s", "--max-connections-per-ip", "64"];

/// How many of a kind, frames of one of them a second, and for each sensor: lowest and highest value, seconds of a wave.
type Kind = (&'static str, usize, f64, &'static [(&'static str, f64, f64, f64)]);

const KINDS: [Kind; 4] = [
    (
        "turbine",
        12,
        620.0,
        &[
            ("rotor_speed_rpm", 8.0, 16.5, 41.0),
            ("power_kilowatts", 900.0, 3_150.0, 55.0),
            ("wind_metres_per_second", 4.0, 14.0, 37.0),
            ("nacelle_celsius", 18.0, 44.0, 80.0),
            ("blade_pitch_degrees", 0.0, 22.0, 29.0),
        ],
    ),
    (
        "press",
        9,
        590.0,
        &[
            ("ram_pressure_bar", 20.0, 212.0, 9.0),
            ("oil_celsius", 38.0, 71.0, 70.0),
            ("motor_amperes", 12.0, 88.0, 18.0),
        ],
    ),
    (
        "cold-store",
        7,
        560.0,
        &[
            ("air_celsius", -21.5, -17.0, 50.0),
            ("humidity_percent", 61.0, 78.0, 64.0),
            ("compressor_watts", 300.0, 2_200.0, 26.0),
        ],
    ),
    (
        "bus",
        14,
        530.0,
        &[
            ("speed_kilometres_per_hour", 0.0, 58.0, 33.0),
            ("battery_percent", 41.0, 44.0, 90.0),
            ("latitude_degrees", 52.49, 52.53, 85.0),
        ],
    ),
];

/// From one report of a device to its next.
const TURN: Duration = Duration::from_millis(5);
const PARTS: usize = 10;

impl Fleet {
    pub(crate) fn start(server: &Server) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let address = server.listen;
        let devices = KINDS.iter().flat_map(|kind| (1..=kind.1).map(move |number| (kind, number)));
        let devices: Vec<_> =
            devices.map(|(kind, number)| (Device::new(kind, number), Peer::connect(address))).collect();
        let over = Arc::clone(&done);
        let good = spawn(move || report(devices, &over));
        let over = Arc::clone(&done);
        let bad = spawn(move || {
            let mut random = Random::from_seed(7);
            while !over.load(Ordering::Relaxed) {
                misbehave(address, &mut random);
                sleep(Duration::from_millis(300 + random.below(2_500) as u64));
            }
        });
        Self { done, senders: vec![good, bad] }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        for sender in self.senders.drain(..) {
            let ended = sender.join();
            assert!(ended.is_ok() || std::thread::panicking(), "a sender panicked");
        }
    }
}

struct Device {
    id: String,
    kind: &'static Kind,
    phase: f64,
    /// Frames that are due and not whole yet.
    due: f64,
}

impl Device {
    fn new(kind: &'static Kind, number: usize) -> Self {
        Self { id: format!("{}-{number:02}", kind.0), kind, phase: number as f64 * 0.37, due: 0.0 }
    }

    /// The frames of one turn, `seconds` after the start.
    fn frames(&mut self, seconds: f64, random: &mut Random) -> Vec<u8> {
        let (_, _, rate, sensors) = self.kind;
        // Busy and quiet times; the first of a kind reports most.
        let tide = 1.0 + 0.3 * (seconds / 47.0 * TAU + self.phase / 3.0).sin() + 0.1 * (seconds / 9.0 * TAU).sin();
        self.due += rate * tide * TURN.as_secs_f64() * (1.0 - self.phase / 6.0);
        let mut bytes = Vec::new();
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
        while self.due >= 1.0 {
            self.due -= 1.0;
            let timestamp = now - random.below(900_000) as u64;
            let points = sensors.iter().map(|(sensor, low, high, wave)| {
                let swing = (seconds / wave * TAU + self.phase * 5.0).sin() * 0.42
                    + (random.below(1_000) as f64 / 1_000.0 - 0.5) * 0.1;
                (*sensor, low + (high - low) * (0.5 + swing), Some("site=north;line=7"))
            });
            encode_event(&mut bytes, &self.id, timestamp, None, points).unwrap();
        }
        bytes
    }
}

fn report(mut devices: Vec<(Device, Peer)>, over: &AtomicBool) {
    let (start, mut random) = (Instant::now(), Random::from_seed(1));
    let (mut next, mut part) = (start, 0);
    while !over.load(Ordering::Relaxed) {
        // A part of them at a time: devices do not wait for one another.
        for (device, peer) in devices.iter_mut().skip(part).step_by(PARTS) {
            peer.send(&device.frames(start.elapsed().as_secs_f64(), &mut random));
        }
        part = (part + 1) % PARTS;
        next += TURN / PARTS as u32;
        sleep(next.saturating_duration_since(Instant::now()));
    }
}

/// One peer that does one thing wrong. Connections that are refused or closed meanwhile are what is wanted.
fn misbehave(address: std::net::SocketAddr, random: &mut Random) {
    let invalid = invalid_frames();
    let frame = |random: &mut Random| random.pick(&invalid).bytes.clone();
    let from = |third: u8, random: &mut Random| {
        Peer::connect_from(Ipv4Addr::new(127, third, 3, 2 + random.below(60) as u8), address)
    };
    match random.below(8) {
        0 => drop(from(0, random).try_send(b"GET / HTTP/1.1\r\nHost: plant\r\n\r\n")),
        1 => drop(from(9, random)),
        2 => {
            let mut peer = from(0, random);
            let _ = peer.try_send(&header(400));
            sleep(Duration::from_millis(2_400));
        }
        3 => {
            let mut peer = from(0, random);
            let bad = frame(random);
            (0..64).for_each(|_| drop(peer.try_send(&bad)));
        }
        _ => {
            let mut peer = from(0, random);
            for _ in 0..1 + random.below(20) {
                let _ = peer.try_send(&frame(random));
            }
        }
    }
}
