//! What does it cost to take a receive buffer and give it back, and to keep the start of a cut frame?
//!
//! Workload: one thread, a pool of 512 buffers of 128 KiB, as a shard has. `one`: take a buffer and give it back.
//! `turn`: take 64, the kernel's share, and give them back. `touched`: take one, write 1 KiB to it as a small receive
//! does, give it back; here it shows whether the buffer that comes is still in the cache. `small`: take a slot for
//! 1 000 bytes and give it back.
//!
//! Baselines: a `Mutex<Vec<Box<[u8]>>>` that nobody else uses; the same while a thread on another core uses it, too, as
//! with a pool that is shared; the global allocator (jemalloc), without clearing the memory.
//!
//! Read: the time of each baseline over that of `corelane`. The sum of the buffers' first bytes is printed.

use std::hint::black_box;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use corelane_benches::host;
use corelane_pool::{BUFFER_BYTES, BufferPool};
use criterion::{Criterion, criterion_group, criterion_main};
use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Buffers of the pool, and those that are out at once.
const BUFFERS: usize = 512;
const TURN: usize = 64;
/// What a small receive writes, and what the start of a cut frame takes.
const RECEIVED: usize = 1024;
const KEPT_BYTES: usize = 1000;

/// The pool that most people write.
struct SharedPool(Mutex<Vec<Box<[u8]>>>);

impl SharedPool {
    fn new(bytes: usize) -> Self {
        Self(Mutex::new((0..BUFFERS).map(|_| vec![0; bytes].into_boxed_slice()).collect()))
    }

    fn acquire(&self) -> Box<[u8]> {
        self.0.lock().expect("nobody panics with it").pop().expect("enough buffers")
    }

    fn release(&self, buffer: Box<[u8]>) {
        self.0.lock().expect("nobody panics with it").push(buffer);
    }
}

fn pool(criterion: &mut Criterion) {
    let (core, other_core) = host::cores();
    host::pin(core);
    let own = BufferPool::new(BUFFERS).expect("64 MiB can be reserved");
    let shared = SharedPool::new(BUFFER_BYTES);
    let mut sum = 0;

    let mut group = criterion.benchmark_group("pool_one");
    group.warm_up_time(WARM_UP).measurement_time(MEASUREMENT).sample_size(20);
    group.bench_function("corelane", |bencher| bencher.iter(|| drop(black_box(own.acquire().expect("free")))));
    group.bench_function("mutex", |bencher| bencher.iter(|| shared.release(black_box(shared.acquire()))));
    group.bench_function("mutex_contended", |bencher| {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                host::pin(other_core);
                while !stop.load(Ordering::Relaxed) {
                    shared.release(black_box(shared.acquire()));
                }
            });
            bencher.iter(|| shared.release(black_box(shared.acquire())));
            stop.store(true, Ordering::Relaxed);
        });
    });
    group.bench_function("allocator", |bencher| {
        bencher.iter(|| drop(black_box(Vec::<u8>::with_capacity(BUFFER_BYTES))));
    });
    group.finish();

    let mut group = criterion.benchmark_group("pool_turn");
    group.warm_up_time(WARM_UP).measurement_time(MEASUREMENT).sample_size(20);
    let mut held = Vec::with_capacity(TURN);
    group.bench_function("corelane", |bencher| {
        bencher.iter(|| {
            held.extend((0..TURN).map(|_| own.acquire().expect("free")));
            black_box(&held);
            held.clear();
        });
    });
    let mut held = Vec::with_capacity(TURN);
    group.bench_function("mutex", |bencher| {
        bencher.iter(|| {
            held.extend((0..TURN).map(|_| shared.acquire()));
            black_box(&held);
            held.drain(..).for_each(|buffer| shared.release(buffer));
        });
    });
    let mut held = Vec::with_capacity(TURN);
    group.bench_function("allocator", |bencher| {
        bencher.iter(|| {
            held.extend((0..TURN).map(|_| Vec::<u8>::with_capacity(BUFFER_BYTES)));
            black_box(&held);
            held.clear();
        });
    });
    group.finish();

    let mut group = criterion.benchmark_group("pool_touched");
    group.warm_up_time(WARM_UP).measurement_time(MEASUREMENT).sample_size(20);
    group.bench_function("corelane", |bencher| {
        bencher.iter(|| {
            let mut buffer = own.acquire().expect("free");
            buffer[..RECEIVED].fill(black_box(1));
            sum += u64::from(black_box(&buffer)[0]);
        });
    });
    group.bench_function("mutex", |bencher| {
        bencher.iter(|| {
            let mut buffer = shared.acquire();
            buffer[..RECEIVED].fill(black_box(1));
            sum += u64::from(black_box(&buffer)[0]);
            shared.release(buffer);
        });
    });
    group.bench_function("allocator", |bencher| {
        bencher.iter(|| {
            let mut buffer = Vec::with_capacity(BUFFER_BYTES);
            buffer.resize(RECEIVED, black_box(1u8));
            sum += u64::from(black_box(&buffer)[0]);
        });
    });
    group.finish();

    let shared = SharedPool::new(KEPT_BYTES);
    let mut group = criterion.benchmark_group("pool_small");
    group.warm_up_time(WARM_UP).measurement_time(MEASUREMENT).sample_size(20);
    // As in a shard with other cut frames: the slab is open already.
    let kept = own.acquire_small(KEPT_BYTES, 0).expect("free");
    group.bench_function("corelane", |bencher| {
        bencher.iter(|| drop(black_box(own.acquire_small(KEPT_BYTES, 0).expect("free"))));
    });
    drop(kept);
    group.bench_function("mutex", |bencher| bencher.iter(|| shared.release(black_box(shared.acquire()))));
    group.bench_function("allocator", |bencher| {
        bencher.iter(|| drop(black_box(Vec::<u8>::with_capacity(KEPT_BYTES))));
    });
    group.finish();

    assert_eq!(own.free(), BUFFERS, "every buffer is home");
    assert_eq!(shared.0.lock().expect("nobody panics with it").len(), BUFFERS);
    println!("pool: sum of first bytes {sum}");
}

const WARM_UP: Duration = Duration::from_millis(100);
const MEASUREMENT: Duration = Duration::from_millis(300);

criterion_group!(benches, pool);
criterion_main!(benches);
