//! What does telemetry cost the core that records it, and what the one that reads it?
//!
//! Workload: samples of three words through rings of 16 384 slots, as between a shard and the control plane.
//!
//! - `record`: one thread records, nobody reads, so that the ring is full and each sample overwrites the oldest.
//! - `read`: 4 096 samples are recorded, uncounted, then read.
//! - `contended`: one thread records while another, on another core, reads without a pause: far more often than the
//!   control plane does.
//! - `turns`: the work of a shard, receive by receive (112 events of 1 KB decoded and counted into their series), with
//!   telemetry and without any: no counter, no flush, no clock. *With* is what the shard does: counters at every event,
//!   a histogram at every receive, a flush of all that changed every 10 ms.
//!
//! Baselines: `ArrayQueue::force_push`, a `Mutex<VecDeque>` that drops its oldest, and, for `turns`, no telemetry.
//!
//! Read: nanoseconds of `record` (at most 5), and the throughput of `turns` on over off (at least 0.99). Both sides of
//! the latter take turns of some milliseconds, and the number is the median over all pairs, so that whatever else the
//! machine does falls on both. The samples that were read and lost have to add up to those recorded.

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use corelane_benches::events::{self, Stream};
use corelane_benches::host::{self, CpuTime};
use corelane_benches::results::{Results, is_test, median};
use corelane_benches::servers::SERIES_MAX;
use corelane_metrics::{Histogram, SAMPLE_WORDS, Sample, Totals, cell};
use corelane_shard::Pipeline;
use corelane_shard::limits::RECEIVE_BYTES;
use corelane_telemetry::{Recorder, telemetry_ring};
use corelane_testkit::Random;
use corelane_wire::Hint;
use criterion::{BatchSize, Criterion, Throughput, criterion_group};
use crossbeam_queue::ArrayQueue;
use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

const SLOTS: usize = 16 * 1024;
const READ: usize = 4 * 1024;

type Words = [u64; SAMPLE_WORDS];

/// Drops the oldest when it is full.
struct LockedRing(Mutex<VecDeque<Words>>);

impl LockedRing {
    fn new() -> Self {
        Self(Mutex::new(VecDeque::with_capacity(SLOTS)))
    }

    fn record(&self, words: Words) {
        let mut samples = self.0.lock().expect("nobody panics with it");
        if samples.len() == SLOTS {
            samples.pop_front();
        }
        samples.push_back(words);
    }

    fn pop(&self) -> Option<Words> {
        self.0.lock().expect("nobody panics with it").pop_front()
    }
}

/// Gives samples, each another one.
fn samples() -> impl FnMut() -> Words {
    let mut number = 0;
    move || {
        number += 1;
        black_box([7, number, number])
    }
}

fn alone(criterion: &mut Criterion<CpuTime>) {
    host::pin(host::cores().0);
    let mut sample = samples();
    let mut group = criterion.benchmark_group("ring_record");
    group.warm_up_time(WARM_UP).measurement_time(MEASUREMENT).sample_size(30);
    group.bench_function("none", |bencher| bencher.iter(&mut sample));
    let (mut recorder, mut reader) = telemetry_ring(SLOTS);
    group.bench_function("corelane", |bencher| bencher.iter(|| recorder.record(sample())));
    reader.read(|words| {
        black_box(words);
    });
    assert_eq!(reader.delivered() + reader.lost(), recorder.written());
    let queue = ArrayQueue::new(SLOTS);
    group.bench_function("array_queue", |bencher| bencher.iter(|| queue.force_push(sample())));
    let locked = LockedRing::new();
    group.bench_function("mutex", |bencher| bencher.iter(|| locked.record(sample())));
    group.finish();

    let mut group = criterion.benchmark_group("ring_read");
    group.warm_up_time(WARM_UP).measurement_time(MEASUREMENT).sample_size(20);
    group.throughput(Throughput::Elements(READ as u64));
    let mut sum = 0;
    group.bench_function("corelane", |bencher| {
        let fill = || {
            let (mut recorder, reader) = telemetry_ring(SLOTS);
            (0..READ).for_each(|_| recorder.record(sample()));
            (recorder, reader)
        };
        let empty = |(recorder, mut reader): (_, corelane_telemetry::Reader<SAMPLE_WORDS>)| {
            assert_eq!(reader.read(|words| sum = words[1].wrapping_add(sum)), READ);
            (recorder, reader)
        };
        bencher.iter_batched(fill, empty, BatchSize::PerIteration);
    });
    group.bench_function("array_queue", |bencher| {
        let fill = || {
            let queue = ArrayQueue::new(SLOTS);
            (0..READ).for_each(|_| assert_eq!(queue.force_push(sample()), None));
            queue
        };
        let empty = |queue: ArrayQueue<Words>| {
            while let Some(words) = queue.pop() {
                sum = words[1].wrapping_add(sum);
            }
            queue
        };
        bencher.iter_batched(fill, empty, BatchSize::PerIteration);
    });
    group.bench_function("mutex", |bencher| {
        let fill = || {
            let ring = LockedRing::new();
            (0..READ).for_each(|_| ring.record(sample()));
            ring
        };
        let empty = |ring: LockedRing| {
            while let Some(words) = ring.pop() {
                sum = words[1].wrapping_add(sum);
            }
            ring
        };
        bencher.iter_batched(fill, empty, BatchSize::PerIteration);
    });
    group.finish();
    println!("ring: checksum of what was read {sum}");
}

fn contended(criterion: &mut Criterion) {
    let (core, other_core) = host::cores();
    host::pin(core);
    let mut sample = samples();
    let mut group = criterion.benchmark_group("ring_contended");
    group.warm_up_time(WARM_UP).measurement_time(MEASUREMENT).sample_size(20);
    group.bench_function("corelane", |bencher| {
        let (mut recorder, mut reader) = telemetry_ring(SLOTS);
        let seen = while_another_reads(
            other_core,
            || {
                reader.read(|words| {
                    black_box(words);
                })
            },
            || bencher.iter(|| recorder.record(sample())),
        );
        let rest = reader.read(|words| {
            black_box(words);
        });
        assert_eq!(reader.delivered(), (seen + rest) as u64);
        assert_eq!(reader.delivered() + reader.lost(), recorder.written());
    });
    group.bench_function("array_queue", |bencher| {
        let queue = ArrayQueue::new(SLOTS);
        let pop_all = || std::iter::from_fn(|| queue.pop()).take(SLOTS).map(black_box).count();
        while_another_reads(other_core, pop_all, || bencher.iter(|| queue.force_push(sample())));
    });
    group.bench_function("mutex", |bencher| {
        let ring = LockedRing::new();
        let pop_all = || std::iter::from_fn(|| ring.pop()).take(SLOTS).map(black_box).count();
        while_another_reads(other_core, pop_all, || bencher.iter(|| ring.record(sample())));
    });
    group.finish();
}

/// Runs `measure` while a thread on another core reads; tells how many samples that thread got.
fn while_another_reads(core: usize, mut read: impl FnMut() -> usize + Send, measure: impl FnOnce()) -> usize {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let reading = scope.spawn(|| {
            host::pin(core);
            let mut count = 0;
            while !stop.load(Ordering::Relaxed) {
                count += read();
            }
            count
        });
        measure();
        stop.store(true, Ordering::Relaxed);
        reading.join().expect("the reader runs through")
    })
}

/// A shard's work without its sockets.
struct Shard {
    pipeline: Pipeline,
    hint: Hint,
    recorder: Recorder<SAMPLE_WORDS>,
    flush_at: Instant,
}

impl Shard {
    /// Works off as many receives; tells the CPU time it took.
    fn work<const TELEMETRY: bool>(&mut self, stream: &Stream, receives: usize) -> Duration {
        let start = host::thread_time();
        for _ in 0..receives {
            if TELEMETRY {
                self.receive(stream);
            } else {
                black_box(self.receive_in_silence(stream));
            }
        }
        host::thread_time() - start
    }

    fn receive(&mut self, stream: &Stream) {
        let received_at = Instant::now();
        let frames = self.receive_in_silence(stream);
        let Self { pipeline, recorder, flush_at, .. } = self;
        pipeline.count();
        let now = Instant::now();
        pipeline.metrics.add(cell::RECEIVED_BYTES, stream.as_bytes().len() as u64);
        pipeline.metrics.observe(Histogram::INGEST_LATENCY, (now - received_at).as_nanos() as u64, frames);
        if now >= *flush_at {
            *flush_at = now + FLUSH_EVERY;
            pipeline.metrics.flush(0, |words| recorder.record(words));
        }
    }

    /// As [`receive`](Self::receive), but for what only telemetry needs.
    fn receive_in_silence(&mut self, stream: &Stream) -> u64 {
        let Self { pipeline, hint, .. } = self;
        stream.padded().filter(|payload| pipeline.decide(*payload, hint).is_ok()).count() as u64
    }
}

/// Telemetry on against off, over the work of a shard.
fn turns() {
    let (pairs, receives) = if is_test() { (1, 20) } else { (PAIRS, SLICE_RECEIVES) };
    let mut random = Random::from_seed(7);
    let source = events::device(1);
    let stream = Stream::new().fill(RECEIVE_BYTES, |number| events::plain(&source, number, &mut random));
    let (recorder, mut reader) = telemetry_ring(SLOTS);
    let mut shard =
        Shard { pipeline: Pipeline::new(SERIES_MAX), hint: Hint::default(), recorder, flush_at: Instant::now() };
    let (mut ratios, mut on, mut off) = (Vec::new(), Duration::ZERO, Duration::ZERO);
    for pair in 0..pairs {
        // Who goes first takes turns, too.
        let early = (pair % 2 == 0).then(|| shard.work::<true>(&stream, receives));
        let time_off = shard.work::<false>(&stream, receives);
        let time_on = early.unwrap_or_else(|| shard.work::<true>(&stream, receives));
        ratios.push(time_off.as_secs_f64() / time_on.as_secs_f64());
        on += time_on;
        off += time_off;
    }
    let Shard { pipeline, recorder, .. } = &mut shard;
    pipeline.count();
    pipeline.metrics.flush(0, |words| recorder.record(words));
    let mut totals = Totals::new(1);
    reader.read(|words| totals.apply(0, Sample::from_words(words).expect("a sample")));
    // Those of the silent half were accepted, too, and are counted with the next.
    let frames = (stream.frames() * receives * pairs) as u64;
    assert_eq!(totals.counter(0, cell::FRAMES_ACCEPTED), 2 * frames, "what came out of the ring is what was counted");
    let ratio = median(&mut ratios);
    let nanoseconds = |time: Duration| time.as_nanos() as f64 / frames as f64;
    println!(
        "ring_turns: {:.1} ns a frame with telemetry, {:.1} without; throughput on over off: {ratio:.4}",
        nanoseconds(on),
        nanoseconds(off)
    );
    let mut results = Results::default();
    results.set("telemetry_on_over_off", ratio);
    results.save("telemetry_ring");
}

/// How often a busy shard flushes.
const FLUSH_EVERY: Duration = Duration::from_millis(10);
/// Slices of some milliseconds each, a second and a half together.
const PAIRS: usize = 200;
const SLICE_RECEIVES: usize = 1000;

const WARM_UP: Duration = Duration::from_millis(100);
const MEASUREMENT: Duration = Duration::from_millis(300);

criterion_group! {
    name = of_one_thread;
    config = Criterion::default().with_measurement(CpuTime::new());
    targets = alone
}
criterion_group!(of_two_threads, contended);

fn main() {
    of_one_thread();
    of_two_threads();
    turns();
    Criterion::default().configure_from_args().final_summary();
}
