//! How much can one data core take, what does a frame cost, and how much memory does it need?
//!
//! Workload: events over loopback, from this process on the last core to one server in a process of its own on the
//! first (see `servers`), flat out or paced. A run ends when the server has closed every connection, so everything sent
//! is counted, and the counts have to agree: that is the checksum. Where contenders are compared they take turns, round
//! by round. A ratio of throughputs is that of their best rounds: a neighbour on the host halves the sender's speed for
//! seconds at a time, and then it is the sender that is measured. All else is the median over the rounds.
//!
//! - `one`, `eight`: so many connections flat out, 64 frames a write, 997 bytes and 14 points an event, one device a
//!   connection.
//! - `gateway`: eight connections, each frame another device of a hundred, with sensors of its own, 3 to 25 points.
//! - `fan_in_1`, `fan_in_4`: 2 000 connections by turns, one or four frames a write.
//! - `paced`: 10 000 frames/s (80 Mbit/s) over 64 connections, each its own write. Every fiftieth is followed by a
//!   commit request: the time from before the write until its answer is here is the latency, so *counted* and a way
//!   back.
//! - `memory`: 5 000 connections flat out, 16 frames a write, more series than there may be.
//! - `delimited`: the server that looks for newlines, stopped at 1 GB.
//! - `idle`: 2 000 connections that send nothing.
//! - `shards`: 300 000 frames/s a shard in writes of 16, one shard and two; senders on both cores in both cases.
//!
//! Read: the ratios. Absolute figures are those of this machine and moment. Arguments choose sections by name.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use corelane_benches::events::{self, Stream};
use corelane_benches::host;
use corelane_benches::results::{Results, is_test, median};
use corelane_benches::senders::{Load, Pace, Senders, Sent};
use corelane_benches::servers::{Counts, Kind, Server, Usage, serve_if_asked};
use corelane_testkit::Random;
use corelane_testkit::allocator::Counting;
use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Counting<Jemalloc> = Counting(Jemalloc);

fn main() {
    serve_if_asked();
    host::raise_descriptor_limit();
    // A server inherits what the thread that starts it may use, so the main thread stays free.
    let _ = host::cores();
    let wanted: Vec<_> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name);
    let scale = if is_test() { Scale::TEST } else { Scale::FULL };
    let mut results = Results::default();
    for (name, section) in SECTIONS {
        if is_wanted(name) {
            println!("\n{name}");
            section(&scale, &mut results);
        }
    }
    results.save("stream_throughput");
}

/// A part of the benchmark, by its name.
type Section = fn(&Scale, &mut Results);

const SECTIONS: [(&str, Section); 10] = [
    ("one", one),
    ("eight", eight),
    ("gateway", gateway),
    ("fan_in_1", fan_in_1),
    ("fan_in_4", fan_in_4),
    ("paced", paced),
    ("memory", memory),
    ("delimited", delimited),
    ("idle", idle),
    ("shards", shards),
];

/// How long and how often.
struct Scale {
    rounds: usize,
    flat_out: Duration,
    paced: Duration,
    fan_in_connections: usize,
    memory_connections: usize,
    stopped_at_bytes: u64,
}

impl Scale {
    const FULL: Self = Self {
        rounds: 9,
        flat_out: Duration::from_millis(600),
        paced: Duration::from_secs(5),
        fan_in_connections: 2_000,
        memory_connections: 5_000,
        stopped_at_bytes: 1_000_000_000,
    };
    const TEST: Self = Self {
        rounds: 1,
        flat_out: Duration::from_millis(50),
        paced: Duration::from_millis(200),
        fan_in_connections: 50,
        memory_connections: 50,
        stopped_at_bytes: 50_000_000,
    };
}

fn one(scale: &Scale, results: &mut Results) {
    compare_flat_out("one", &device_loads(1, FRAMES, WRITE_FRAMES), scale, &FOUR, results);
}

fn eight(scale: &Scale, results: &mut Results) {
    compare_flat_out("eight", &device_loads(8, FRAMES, WRITE_FRAMES), scale, &FOUR, results);
}

/// The gateway's mix against the same-shape stream on as many connections.
fn gateway(scale: &Scale, results: &mut Results) {
    let same = device_loads(8, FRAMES, WRITE_FRAMES);
    let mut random = Random::from_seed(11);
    let mixed: Vec<_> = (0..8)
        .map(|connection| {
            let devices: Vec<_> = (0..100)
                .map(|index| {
                    let points = 3 + random.below(23);
                    events::other_device(connection * 100 + index, points, &mut random)
                })
                .collect();
            let frames = (0..FRAMES).fold(Stream::new(), |mut frames, number| {
                frames.push(&events::plain(&devices[number % devices.len()], number, &mut random));
                frames
            });
            Load::new(Arc::new(frames), WRITE_FRAMES)
        })
        .collect();
    let contenders = [
        ("same_shape", Kind::Corelane, &same[..]),
        (CORELANE, Kind::Corelane, &mixed),
        (TOKIO, Kind::TokioDecode, &mixed),
    ];
    let rounds = in_turns(scale, &contenders, |senders| senders.flat_out(scale.flat_out));
    report("gateway", &contenders, &rounds, results);
    let over = |index| best_of(&rounds, 1) / best_of(&rounds, index);
    note(results, "gateway_bytes_over_same_shape", over(0));
    note(results, "gateway_bytes_over_tokio_decode", over(2));
}

fn fan_in_1(scale: &Scale, results: &mut Results) {
    let loads = device_loads(scale.fan_in_connections, 4, 1);
    compare_flat_out("fan_in_1", &loads, scale, &[Kind::Corelane, Kind::TokioDecode], results);
}

fn fan_in_4(scale: &Scale, results: &mut Results) {
    let loads = device_loads(scale.fan_in_connections, 4, 4);
    compare_flat_out("fan_in_4", &loads, scale, &[Kind::Corelane, Kind::TokioDecode], results);
}

/// Several servers in turn under the same load: bytes/s and CPU time of corelane, the first, over each.
fn compare_flat_out(section: &str, loads: &[Load], scale: &Scale, kinds: &[Kind], results: &mut Results) {
    let contenders: Vec<_> = kinds.iter().map(|kind| (kind.name(), *kind, loads)).collect();
    let rounds = in_turns(scale, &contenders, |senders| senders.flat_out(scale.flat_out));
    report(section, &contenders, &rounds, results);
    for (index, kind) in kinds.iter().enumerate().skip(1) {
        let cpu = median_of(&rounds, |runs| runs[0].nanoseconds_a_frame() / runs[index].nanoseconds_a_frame());
        note(results, &format!("{section}_bytes_over_{}", kind.name()), best_of(&rounds, 0) / best_of(&rounds, index));
        note(results, &format!("{section}_cpu_over_{}", kind.name()), cpu);
    }
}

/// What is compared: a name, a server, its load.
type Contender<'l> = (&'static str, Kind, &'l [Load]);

/// All contenders round by round, each round begun by another one. Their runs are in the order of the contenders.
fn in_turns(
    scale: &Scale,
    contenders: &[Contender<'_>],
    send: impl Fn(Senders) -> std::io::Result<Sent> + Sync,
) -> Vec<Vec<Run>> {
    let round = |round: usize| {
        let mut runs: Vec<_> = (0..contenders.len())
            .map(|index| {
                let index = (index + round) % contenders.len();
                let (_, kind, loads) = contenders[index];
                (index, run(kind, loads, &send))
            })
            .collect();
        runs.sort_by_key(|(index, _)| *index);
        runs.into_iter().map(|(_, run)| run).collect()
    };
    (0..scale.rounds).map(round).collect()
}

/// The medians of each contender.
fn report(section: &str, contenders: &[Contender<'_>], rounds: &[Vec<Run>], results: &mut Results) {
    for (index, (name, ..)) in contenders.iter().enumerate() {
        let middle = |of: fn(&Run) -> f64| median_of(rounds, |runs| of(&runs[index]));
        let numbers = [
            ("frames_a_second", middle(Run::frames_a_second)),
            ("gigabits_a_second", middle(Run::bytes_a_second) * 8e-9),
            ("cpu_ns_a_frame", middle(Run::nanoseconds_a_frame)),
            ("allocations_a_frame", middle(Run::allocations_a_frame)),
            ("allocations_a_second", middle(Run::allocations_a_second)),
            ("resident_mb_max", middle(Run::resident_megabytes_max)),
        ];
        for (what, number) in numbers {
            results.set(&format!("{section}/{name}/{what}"), number);
        }
        let [frames, gigabits, cpu, allocations_a_frame, allocations, resident] = numbers.map(|(_, number)| number);
        println!(
            "  {name:<16} {frames:>9.0} frames/s {gigabits:>6.2} Gbit/s {cpu:>8.1} ns CPU a frame \
             {allocations_a_frame:>9.5} allocations a frame {allocations:>9.0}/s {resident:>6.1} MB"
        );
    }
}

/// 80 Mbit/s: CPU time against tokio's, latency, allocations, memory.
fn paced(scale: &Scale, results: &mut Results) {
    let loads = device_loads(64, 64, 1);
    let pace = Pace { writes_a_second: 10_000, writes_a_probe: 50 };
    let latencies: [Mutex<Vec<f64>>; 2] = Default::default();
    let contenders = [(CORELANE, Kind::Corelane, &loads[..]), (TOKIO, Kind::TokioDecode, &loads)];
    let mut rounds: Vec<Vec<Run>> = Vec::new();
    for round in 0..scale.rounds.div_ceil(2) {
        let measure = |index: usize| {
            run(contenders[index].1, &loads, |senders| {
                let (sent, probed) = senders.paced(pace, scale.paced)?;
                latencies[index].lock().expect("not poisoned").extend(probed.iter().map(Duration::as_secs_f64));
                Ok(sent)
            })
        };
        let early = (round % 2 == 0).then(|| measure(0));
        let tokio = measure(1);
        rounds.push(vec![early.unwrap_or_else(|| measure(0)), tokio]);
    }
    report("paced", &contenders, &rounds, results);
    for ((name, ..), latencies) in contenders.iter().zip(latencies) {
        let mut latencies = latencies.into_inner().expect("not poisoned");
        latencies.sort_by(f64::total_cmp);
        for percent in [50, 99] {
            let at = (latencies.len() * percent / 100).min(latencies.len() - 1);
            note(results, &format!("paced_{name}_p{percent}_ms"), latencies[at] * 1e3);
        }
    }
    let cpu = |runs: &[Run]| runs[0].nanoseconds_a_frame() / runs[1].nanoseconds_a_frame();
    note(results, "paced_cpu_over_tokio_decode", median_of(&rounds, cpu));

    let mut server = Server::start(Kind::TokioDelimited, 1);
    let before = server.usage();
    let senders = Senders::connect(server.address, &loads).expect("connected");
    // Without probes, which would not be understood either.
    let pace = Pace { writes_a_probe: 0, ..pace };
    let (sent, _) = host::on_last_core(|| senders.paced(pace, scale.paced / 2)).expect("sent");
    let grown = server.usage().resident_bytes_max - before.resident_bytes;
    let megabytes_a_second = grown as f64 / 1e6 / sent.elapsed.as_secs_f64();
    println!(
        "  {:<22} {megabytes_a_second:.1} MB/s of memory, so 1 GB after {:.0} s",
        "tokio_delimited",
        1e3 / megabytes_a_second
    );
    results.set("paced_tokio_delimited_mb_a_second", megabytes_a_second);
}

/// The most that is ever resident, with every connection and every series taken.
fn memory(scale: &Scale, results: &mut Results) {
    let loads = device_loads(scale.memory_connections, 16, 16);
    let run = run(Kind::Corelane, &loads, |senders| senders.flat_out(3 * scale.flat_out));
    report("memory", &[(CORELANE, Kind::Corelane, &loads)], &[vec![run]], results);
}

fn delimited(scale: &Scale, results: &mut Results) {
    let loads = device_loads(8, FRAMES, WRITE_FRAMES);
    let mut server = Server::start(Kind::TokioDelimited, 1);
    let senders = Senders::connect(server.address, &loads).expect("connected");
    let start = Instant::now();
    let sender = thread::spawn(move || {
        // Ends with an error, when the server does.
        host::on_last_core(|| drop(senders.flat_out(LONGEST)));
    });
    let mut resident = 0;
    while resident < scale.stopped_at_bytes && start.elapsed() < LONGEST {
        thread::sleep(Duration::from_millis(5));
        resident = server.usage().resident_bytes;
    }
    let elapsed = start.elapsed();
    let counts = server.counts();
    drop(server);
    sender.join().expect("the sender ends with the server");
    println!(
        "  {:<22} {:.0} MB resident after {:.2} s, {} frames handed out",
        "tokio_delimited",
        resident as f64 / 1e6,
        elapsed.as_secs_f64(),
        counts.frames
    );
    results.set("delimited_resident_mb", resident as f64 / 1e6);
    results.set("delimited_seconds", elapsed.as_secs_f64());
}

fn idle(scale: &Scale, results: &mut Results) {
    let mut percents = [0.0; 2];
    for (percent, connections) in percents.iter_mut().zip([0, scale.fan_in_connections]) {
        let mut server = Server::start(Kind::Corelane, 1);
        let senders = Senders::connect(server.address, &device_loads(connections, 1, 1)).expect("connected");
        // Accepted, and asleep.
        thread::sleep(scale.flat_out / 4);
        let before = server.usage();
        thread::sleep(scale.paced / 2);
        let after = server.usage();
        drop(senders);
        *percent = (after.time - before.time).as_secs_f64() / (scale.paced / 2).as_secs_f64() * 100.0;
        println!(
            "  {connections:>5} connections: {percent:.3} % of a core, {:.1} MB",
            after.resident_bytes as f64 / 1e6
        );
    }
    note(results, "idle_cpu_percent", percents[1]);
    note(results, "idle_cpu_percent_over_no_connection", percents[1] - percents[0]);
}

/// What a frame costs with one shard and with two, each as busy as the one.
fn shards(scale: &Scale, results: &mut Results) {
    let (core, other_core) = host::cores();
    if core == other_core {
        println!("  skipped: one core");
        return;
    }
    let halves = [device_loads(64, 16, 16), device_loads(128, 16, 16).split_off(64)];
    let mut ratios = Vec::new();
    for round in 0..scale.rounds {
        let mut costs = [0.0; 2];
        for (index, cost) in costs.iter_mut().enumerate() {
            let shards = index + 1;
            let mut server = Server::start(Kind::Corelane, shards);
            let counted = server.counts();
            let [here, there] =
                halves.each_ref().map(|loads| Senders::connect(server.address, loads).expect("connected"));
            let pace = Pace { writes_a_second: (shards * SHARD_FRAMES_A_SECOND / 16 / 2) as u64, writes_a_probe: 0 };
            let before = server.usage();
            let time = scale.flat_out * 2;
            let sent = thread::scope(|scope| {
                let there = scope.spawn(|| {
                    host::pin(core);
                    there.paced(pace, time).expect("sent").0
                });
                let here = host::on_last_core(|| here.paced(pace, time)).expect("sent").0;
                here.frames + there.join().expect("sent").frames
            });
            let after = server.usage();
            let counts = server.counts();
            assert_eq!(counts.frames - counted.frames, sent, "every frame is counted");
            *cost = (after.time - before.time).as_secs_f64() / sent as f64 * 1e6;
            if round == 0 {
                println!(
                    "  {shards} shards: {cost:.3} s CPU a million frames, {:.3} of it the shards'",
                    (counts.data_time - counted.data_time).as_secs_f64() / sent as f64 * 1e6
                );
            }
        }
        ratios.push(costs[1] / costs[0]);
    }
    note(results, "shards_cpu_two_over_one", median(&mut ratios));
}

/// What one run of one server gave.
struct Run {
    sent: Sent,
    before: (Counts, Usage),
    after: (Counts, Usage),
}

/// Starts a server, connects, sends, and takes its numbers before and after.
fn run(kind: Kind, loads: &[Load], send: impl FnOnce(Senders) -> std::io::Result<Sent> + Send) -> Run {
    let mut server = Server::start(kind, 1);
    let counts = server.counts();
    let senders = Senders::connect(server.address, loads).expect("connected");
    let before = (counts, server.usage());
    let sent = host::on_last_core(|| send(senders)).expect("sent");
    let usage = server.usage();
    let after = (server.counts(), usage);
    let run = Run { sent, before, after };
    let counted = |of: fn(&Counts) -> u64| of(&run.after.0) - of(&run.before.0);
    assert!(counted(|counts| counts.bytes) >= sent.bytes, "{}: every byte is received", kind.name());
    assert_eq!(counted(|counts| counts.rejected), 0, "{}: no frame is refused", kind.name());
    if kind != Kind::ReceiveOnly {
        assert_eq!(counted(|counts| counts.frames), sent.frames, "{}: every frame is counted", kind.name());
    }
    run
}

impl Run {
    fn frames_a_second(&self) -> f64 {
        self.sent.frames as f64 / self.sent.elapsed.as_secs_f64()
    }

    fn bytes_a_second(&self) -> f64 {
        self.sent.bytes as f64 / self.sent.elapsed.as_secs_f64()
    }

    fn nanoseconds(&self) -> f64 {
        (self.after.1.time - self.before.1.time).as_nanos() as f64
    }

    fn nanoseconds_a_frame(&self) -> f64 {
        self.nanoseconds() / self.sent.frames as f64
    }

    fn allocations(&self) -> u64 {
        self.after.0.allocations - self.before.0.allocations
    }

    fn allocations_a_frame(&self) -> f64 {
        self.allocations() as f64 / self.sent.frames as f64
    }

    fn allocations_a_second(&self) -> f64 {
        self.allocations() as f64 / self.sent.elapsed.as_secs_f64()
    }

    fn resident_megabytes_max(&self) -> f64 {
        self.after.1.resident_bytes_max as f64 / 1e6
    }
}

/// A load for each connection, of one device each.
fn device_loads(connections: usize, frames: usize, frames_a_unit: usize) -> Vec<Load> {
    let mut random = Random::from_seed(5);
    let load = |number| {
        let device = events::device(number);
        let stream = (0..frames).fold(Stream::new(), |mut stream, number| {
            stream.push(&events::plain(&device, number, &mut random));
            stream
        });
        Load::new(Arc::new(stream), frames_a_unit)
    };
    (0..connections).map(load).collect()
}

/// Bytes/s of one contender in its best round: that in which the machine had least else to do.
fn best_of(rounds: &[Vec<Run>], index: usize) -> f64 {
    rounds.iter().map(|runs| runs[index].bytes_a_second()).fold(0.0, f64::max)
}

fn median_of(rounds: &[Vec<Run>], of: impl Fn(&[Run]) -> f64) -> f64 {
    median(&mut rounds.iter().map(|runs| of(runs)).collect::<Vec<_>>())
}

fn note(results: &mut Results, name: &str, number: f64) {
    println!("  {name} = {number:.3}");
    results.set(name, number);
}

/// Names of the two that are compared most.
const CORELANE: &str = "corelane";
const TOKIO: &str = "tokio_decode";
/// Everything that is compared flat out.
const FOUR: [Kind; 4] = [Kind::Corelane, Kind::TokioDecode, Kind::TokioOwned, Kind::ReceiveOnly];
/// Frames of one connection that are sent over and over, 192 KB, and so few that the sender reads them from its cache.
const FRAMES: usize = 3 * WRITE_FRAMES;
/// Frames a write, flat out: 64 KB is one segment to the kernel. Longer and shorter writes make the sender slower.
const WRITE_FRAMES: usize = 64;
/// A pace at which two shards and their senders fit two cores.
const SHARD_FRAMES_A_SECOND: usize = 300_000;
/// Longer than it takes to fill 1 GB.
const LONGEST: Duration = Duration::from_secs(20);
