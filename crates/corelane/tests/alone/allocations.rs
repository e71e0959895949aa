//! The data core's promise about the heap: what it allocates does not depend on the frames it takes.
//!
//! Only counts can fail; the rates that the machine gave are printed.

use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use corelane_testkit::{Metrics, Peer, Server, frames};

use crate::{BINARY, turn};

/// What the data core did between two scrapes.
struct Work {
    seconds: f64,
    frames: u64,
    allocations: u64,
}

impl Work {
    /// Measures what happens during `work`. A scrape tells the allocations of up to 100 ms before it, at both ends.
    fn during(server: &Server, work: impl FnOnce()) -> Self {
        let (start, before) = (Instant::now(), server.metrics());
        work();
        let (seconds, after) = (start.elapsed().as_secs_f64(), server.metrics());
        let allocations = |metrics: &Metrics| metrics.count("corelane_allocations_total", &[]);
        Self {
            seconds,
            frames: after.accepted() - before.accepted(),
            allocations: allocations(&after) - allocations(&before),
        }
    }

    fn print(&self, what: &str) {
        println!(
            "{what}: {:.0} frames/s, {:.0} allocations/s ({} frames, {} allocations in {:.1} s)",
            self.frames as f64 / self.seconds,
            self.allocations as f64 / self.seconds,
            self.frames,
            self.allocations,
            self.seconds
        );
    }
}

/// Sends `rate` frames a second, each its own write to the next peer, and returns how many it sent.
fn send_paced(peers: &mut [Peer], frame: &[u8], rate: f64, duration: Duration) -> u64 {
    let start = Instant::now();
    let mut sent = 0;
    while start.elapsed() < duration {
        let due = (start.elapsed().as_secs_f64() * rate) as u64;
        while sent < due {
            let next = sent as usize % peers.len();
            peers[next].send(frame);
            sent += 1;
        }
        sleep(Duration::from_micros(300));
    }
    sent
}

#[test]
fn however_far_apart_frames_come_they_cost_few_allocations() {
    let _turn = turn();
    let server = Server::start(BINARY, &[]);
    let frame = frames::event("device-0001", 1_700_000_000_000_000_000);
    let mut peers: Vec<Peer> = (0..16).map(|_| server.connect()).collect();
    let mut sent = 0;
    for rate in [10.0, 30.0, 400.0, 1_500.0] {
        let work = Work::during(&server, || sent += send_paced(&mut peers, &frame, rate, Duration::from_secs(2)));
        work.print("evenly spaced");
        assert!(work.allocations as f64 <= 1_000.0 * work.seconds, "{} at {rate} frames/s", work.allocations);
    }
    server.assert_accounted(sent);
}

#[test]
fn steady_state_allocates_nothing_per_frame() {
    let _turn = turn();
    let server = Server::start(BINARY, &[]);
    let frame = frames::event("device-0001", 1_700_000_000_000_000_000);
    let mut peers: Vec<Peer> = (0..64).map(|_| server.connect()).collect();
    let mut sent = send_paced(&mut peers, &frame, 10_000.0, Duration::from_secs(2));
    let paced = Work::during(&server, || {
        sent += send_paced(&mut peers, &frame, 10_000.0, Duration::from_secs(5));
    });
    paced.print("each frame its own write, 64 connections");
    assert!(paced.allocations as f64 <= 1_000.0 * paced.seconds, "{} in {:.1} s", paced.allocations, paced.seconds);

    let chunk = frame.repeat(256);
    let mut flat_out = |duration: Duration| {
        scope(|scope| {
            let writers: Vec<_> = peers[..2]
                .iter_mut()
                .map(|peer| {
                    scope.spawn(|| {
                        let start = Instant::now();
                        let mut chunks = 0;
                        while start.elapsed() < duration {
                            peer.send(&chunk);
                            chunks += 1;
                        }
                        chunks * 256
                    })
                })
                .collect();
            sent += writers.into_iter().map(|writer| writer.join().unwrap()).sum::<u64>();
        });
    };
    flat_out(Duration::from_secs(1));
    let flat = Work::during(&server, || flat_out(Duration::from_secs(4)));
    flat.print("flat out, 2 connections");
    assert!(flat.allocations * 1_000 < flat.frames, "{} for {} frames", flat.allocations, flat.frames);

    let metrics = server.assert_accounted(sent);
    assert_eq!(metrics.accepted(), sent);
}

/// The data core must not notice who looks at its numbers. Three servers get the same frames at the same time, so that
/// whatever else the machine does hits all three: one is left alone, one is scraped every millisecond, and the readers
/// of one are killed while it answers them.
#[test]
fn observers_cost_the_data_core_nothing() {
    let _turn = turn();
    let servers: Vec<Server> = (0..3).map(|_| Server::start(BINARY, &[])).collect();
    let (scraped, forsaken) = (&servers[1], &servers[2]);
    let frame = frames::event("device-0001", 1_700_000_000_000_000_000);
    let mut peers: Vec<Vec<Peer>> = servers.iter().map(|server| (0..16).map(|_| server.connect()).collect()).collect();
    let mut send = |seconds: u64| {
        scope(|scope| {
            let senders: Vec<_> = peers
                .iter_mut()
                .map(|peers| {
                    // As many frames whatever the pace was.
                    let frame = &frame;
                    scope.spawn(move || {
                        let start = Instant::now();
                        for number in 0..seconds * 3_000 {
                            let due = start + Duration::from_micros(number * 1_000_000 / 3_000);
                            sleep(due.saturating_duration_since(Instant::now()));
                            let next = number as usize % peers.len();
                            peers[next].send(frame);
                        }
                    })
                })
                .collect();
            senders.into_iter().for_each(|sender| sender.join().unwrap());
        });
        seconds * 3_000
    };
    let warm_up = send(1);
    let before: Vec<Metrics> = servers.iter().map(Server::metrics).collect();
    let (start, mut scrapes, mut killed) = (Instant::now(), 0, 0);
    let sent = warm_up
        + scope(|scope| {
            let observers = [
                scope.spawn(|| {
                    let mut scrapes = 0;
                    let mut connection = corelane_testkit::http::HttpConnection::open(scraped.control).unwrap();
                    while start.elapsed() < Duration::from_secs(10) {
                        assert_eq!(connection.get("/metrics").unwrap().status, 200);
                        scrapes += 1;
                        sleep((start + Duration::from_millis(scrapes)).saturating_duration_since(Instant::now()));
                    }
                    scrapes
                }),
                scope.spawn(|| {
                    let mut killed = 0;
                    while start.elapsed() < Duration::from_secs(10) {
                        kill_a_reader(forsaken);
                        killed += 1;
                    }
                    killed
                }),
            ];
            let sent = send(10);
            [scrapes, killed] = observers.map(|observer| observer.join().unwrap());
            sent
        });
    let seconds = start.elapsed().as_secs_f64();
    println!("{scrapes} scrapes of one, {killed} killed readers of another, in {seconds:.1} s");
    let rate = |server: &Server, before: &Metrics| {
        let after = server.assert_accounted(sent);
        assert_eq!(after.accepted(), sent);
        let name = "corelane_allocations_total";
        (after.count(name, &[]) - before.count(name, &[])) as f64 / seconds
    };
    let rates: Vec<f64> = servers.iter().zip(&before).map(|(server, before)| rate(server, before)).collect();
    println!(
        "allocations/s of the data core: alone {:.0}, scraped {:.0}, forsaken {:.0}",
        rates[0], rates[1], rates[2]
    );
    for rate in &rates[1..] {
        assert!(*rate <= 2.0 * rates[0] + 200.0, "{rates:?}");
    }
    assert!(servers.iter().all(|server| server.get("/healthz").status == 200));
}

/// A reader that asks for one scrape after the other and takes none, killed when the server cannot go on writing.
fn kill_a_reader(server: &Server) {
    const READER: &str = r#"
        exec 3<>"/dev/tcp/127.0.0.1/$0"
        while printf 'GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n' >&3; do :; done
    "#;
    let port = server.control.port().to_string();
    let mut reader = std::process::Command::new("bash").args(["-c", READER, &port]).spawn().unwrap();
    sleep(Duration::from_millis(250));
    assert_eq!(reader.try_wait().unwrap(), None, "the reader is in the middle of it");
    // SIGKILL.
    reader.kill().unwrap();
    reader.wait().unwrap();
}
