//! How long does one payload take to become an event, and how does that compare with other decoders of the same schema?
//!
//! Workload: frames as they lie in memory after a receive, decoded one after the other, one iteration a pass over all
//! of them. A stream is about as long as one receive, 92 KiB, where its events repeat a shape, and four times that
//! where they do not, so that the branch predictor does not learn the stream. Streams:
//!
//! - `100B`, `1KB`, `16KB`, `64KB`: one source, the same shape, other numbers; 1 KB is 997 bytes with 14 points of
//!   three keys. What is longer than 2.25 KB is never kept as a skeleton, so there `corelane` is the predicted way.
//! - `devices`: a hundred sources by turns, each with sensors of its own, 3 to 25 points.
//! - `mixed`: no two events alike: points, widths of values, unknown keys, indefinite lengths.
//! - `shuffled`: the event of 1 KB, keys of the event and of each point in random order.
//! - `not_ascii`: the event of 1 KB, same sizes, every sensor and every tag with a letter outside ASCII.
//!
//! Contenders: `corelane` is `decode_padded`, whichever way it takes, and `corelane_rollup` what a shard does with the
//! event besides: series and counters. `predicted` is `decode_padded` on a stream in which one text changes with every
//! event, so that no skeleton ever matches (asserted); what looking for one and learning one in vain costs is in it.
//! `general` is `decode`. Baselines: a walk by hand over `minicbor` into memory that is reused, `cbor4ii` into
//! borrowing structs and `ciborium` into owning ones, both through serde.
//!
//! Read: the time of `ciborium` or `cbor4ii` over that of `corelane` and `corelane_rollup`, stream by stream. Before it
//! is measured, each contender decodes the stream once and has to find the same ids, timestamps, texts and values;
//! their checksum is printed.

use std::hint::black_box;
use std::time::Duration;

use corelane_benches::baseline::{BorrowedEvent, Number, OwnedEvent, Value, walk};
use corelane_benches::events::{self, Source, Stream};
use corelane_benches::host::{self, CpuTime};
use corelane_benches::servers::SERIES_MAX;
use corelane_shard::Pipeline;
use corelane_shard::limits::RECEIVE_BYTES;
use corelane_testkit::Random;
use corelane_wire::{Decoder, Event, Hint, Shape, SkeletonTable};
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use serde::de::DeserializeOwned;
use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn decode(criterion: &mut Criterion<CpuTime>) {
    host::pin(host::cores().0);
    let mut random = Random::from_seed(7);
    let device = events::device(1);
    let sizes = [
        ("100B", events::small_device()),
        ("1KB", device.clone()),
        ("16KB", events::device_of(16 * 1024)),
        ("64KB", events::device_of(64 * 1024)),
    ];
    for (name, source) in &sizes {
        let stream = Stream::new().fill(RECEIVE_BYTES, |number| events::plain(source, number, &mut random));
        let kept_as_skeleton = stream.payload_bytes() / stream.frames() < 1_536;
        let changing = kept_as_skeleton.then(|| changing_text(source, &mut random));
        let expected = if kept_as_skeleton { Expected::Skeleton } else { Expected::Any };
        compare::<f64>(criterion, name, &stream, expected, changing.as_ref());
    }
    let gateway: Vec<_> =
        (0..100).map(|number| events::other_device(number, 3 + (number * 7) % 23, &mut random)).collect();
    let devices =
        Stream::new().fill(4 * RECEIVE_BYTES, |number| events::plain(&gateway[number % 100], number, &mut random));
    compare::<f64>(criterion, "devices", &devices, Expected::Any, None);

    let mixed = Stream::new().fill(4 * RECEIVE_BYTES, |number| events::mixed(number, &mut random));
    compare::<Number>(criterion, "mixed", &mixed, Expected::Any, None);

    let shuffled = Stream::new().fill(4 * RECEIVE_BYTES, |number| events::shuffled(&device, number, &mut random));
    compare::<f64>(criterion, "shuffled", &shuffled, Expected::Any, None);

    let not_ascii = events::device_not_ascii(1);
    let stream = Stream::new().fill(RECEIVE_BYTES, |number| events::plain(&not_ascii, number, &mut random));
    let changing = changing_text(&not_ascii, &mut random);
    compare::<f64>(criterion, "not_ascii", &stream, Expected::Skeleton, Some(&changing));
}

/// The stream for `predicted`.
fn changing_text(source: &Source, random: &mut Random) -> Stream {
    Stream::new().fill(4 * RECEIVE_BYTES, |number| events::with_changing_text(source, number, random))
}

/// What of a stream matches a skeleton, once the first pass is over.
#[derive(Clone, Copy, PartialEq)]
enum Expected {
    Skeleton,
    Any,
}

/// All contenders on one stream; `changing` is the stream of the same sizes for `predicted`.
fn compare<V: Value + DeserializeOwned>(
    criterion: &mut Criterion<CpuTime>,
    name: &str,
    stream: &Stream,
    expected: Expected,
    changing: Option<&Stream>,
) {
    check::<V>(name, stream);
    let mut group = criterion.benchmark_group(format!("decode_{name}"));
    group.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(600)).sample_size(20);
    set_throughput(&mut group, stream);

    let mut padded = PaddedDecoder::new();
    padded.pass(stream);
    let known = padded.known(stream);
    if expected == Expected::Skeleton {
        assert_eq!(known, stream.frames(), "{name}: every event after the first matches a skeleton");
    }
    println!("decode_{name}: {} events, {known} of them match a skeleton", stream.frames());
    group.bench_function("corelane", |bencher| bencher.iter(|| padded.pass(stream)));

    let mut pipeline = Pipeline::new(SERIES_MAX);
    let mut hint = Hint::default();
    group.bench_function("corelane_rollup", |bencher| {
        bencher.iter(|| {
            // As often as a shard with receives of this size.
            pipeline.count();
            stream.padded().filter(|payload| pipeline.decide(*payload, &mut hint).is_ok()).count()
        });
    });

    let mut decoder = Decoder::new();
    group.bench_function("general", |bencher| {
        bencher.iter(|| stream.payloads().map(|payload| used(&decoder.decode(payload).expect("valid"))).sum::<u64>());
    });

    let mut points = Vec::new();
    group.bench_function("minicbor", |bencher| {
        bencher.iter(|| {
            let pass = stream.payloads().map(|payload| {
                let event = walk(payload, &mut points).expect("valid");
                black_box(&points);
                black_box(event).timestamp
            });
            pass.fold(0, u64::wrapping_add)
        });
    });

    group.bench_function("cbor4ii", |bencher| {
        bencher.iter(|| {
            let pass = stream.payloads().map(|payload| {
                let event: BorrowedEvent<'_, V> = cbor4ii::serde::from_slice(payload).expect("valid");
                black_box(&event).timestamp
            });
            pass.fold(0, u64::wrapping_add)
        });
    });

    group.bench_function("ciborium", |bencher| {
        bencher.iter(|| {
            let pass = stream.payloads().map(|payload| {
                let event: OwnedEvent<V> = ciborium::from_reader(payload).expect("valid");
                black_box(&event).timestamp
            });
            pass.fold(0, u64::wrapping_add)
        });
    });

    if let Some(stream) = changing {
        check::<V>(&format!("{name}, a text changing"), stream);
        set_throughput(&mut group, stream);
        let mut padded = PaddedDecoder::new();
        padded.pass(stream);
        assert_eq!(padded.known(stream), 0, "{name}: no event matches a skeleton");
        group.bench_function("predicted", |bencher| bencher.iter(|| padded.pass(stream)));
    }
    group.finish();
}

fn set_throughput(group: &mut BenchmarkGroup<'_, CpuTime>, stream: &Stream) {
    let (elements, bytes) = (stream.frames() as u64, stream.payload_bytes() as u64);
    group.throughput(Throughput::ElementsAndBytes { elements, bytes });
}

/// `decode_padded` with what it keeps.
struct PaddedDecoder {
    decoder: Decoder,
    skeletons: SkeletonTable,
    hint: Hint,
}

impl PaddedDecoder {
    fn new() -> Self {
        Self { decoder: Decoder::new(), skeletons: SkeletonTable::new(), hint: Hint::default() }
    }

    fn each(&mut self, stream: &Stream, mut use_event: impl FnMut(&Event<'_>) -> u64) -> u64 {
        let pass = stream.padded().map(|payload| {
            let event = self.decoder.decode_padded(payload, &mut self.skeletons, &mut self.hint).expect("valid");
            use_event(&event)
        });
        pass.fold(0, u64::wrapping_add)
    }

    fn pass(&mut self, stream: &Stream) -> u64 {
        self.each(stream, used)
    }

    fn known(&mut self, stream: &Stream) -> usize {
        self.each(stream, |event| u64::from(matches!(event.shape(), Shape::Known(_)))) as usize
    }
}

/// The event is there, whole: nothing of what led to it can be left out.
fn used(event: &Event<'_>) -> u64 {
    black_box(event).timestamp()
}

/// Lets every contender decode the stream and compares all that they found.
fn check<V: Value + DeserializeOwned>(name: &str, stream: &Stream) {
    let mut decoder = Decoder::new();
    let expected: u64 =
        stream.payloads().map(|payload| content(&decoder.decode(payload).expect("valid"))).fold(0, u64::wrapping_add);
    let mut padded = PaddedDecoder::new();
    // The second pass finds the skeletons that the first one left.
    for _ in 0..2 {
        assert_eq!(padded.each(stream, content), expected, "{name}: corelane");
    }
    let mut points = Vec::new();
    let mut sums = [Sum::default(); 3];
    for payload in stream.payloads() {
        let event = walk(payload, &mut points).expect("valid");
        sums[0].event(event.id, event.timestamp, event.metadata);
        points.iter().for_each(|point| sums[0].point(point.sensor, point.value, point.tags));
        let event: BorrowedEvent<'_, V> = cbor4ii::serde::from_slice(payload).expect("valid");
        sums[1].event(event.id, event.timestamp, event.metadata);
        event.telemetry.iter().for_each(|point| sums[1].point(point.sensor, point.value.get(), point.tags));
        let event: OwnedEvent<V> = ciborium::from_reader(payload).expect("valid");
        sums[2].event(&event.id, event.timestamp, event.metadata.as_deref());
        let points = event.telemetry.iter();
        points.for_each(|point| sums[2].point(&point.sensor, point.value.get(), point.tags.as_deref()));
    }
    assert_eq!(sums.map(|Sum(sum)| sum), [expected; 3], "{name}: minicbor, cbor4ii, ciborium");
    println!("decode_{name}: checksum {expected:016x}");
}

fn content(event: &Event<'_>) -> u64 {
    let mut sum = Sum::default();
    sum.event(event.id(), event.timestamp(), event.metadata());
    event.points().for_each(|point| sum.point(point.sensor, point.value, point.tags));
    sum.0
}

/// A sum over everything in an event.
#[derive(Clone, Copy, Default)]
struct Sum(u64);

impl Sum {
    fn event(&mut self, id: &str, timestamp: u64, metadata: Option<&str>) {
        self.text(id);
        self.text(metadata.unwrap_or("none"));
        self.0 = self.0.wrapping_add(timestamp.rotate_left(17));
    }

    fn point(&mut self, sensor: &str, value: f64, tags: Option<&str>) {
        self.text(sensor);
        self.text(tags.unwrap_or("none"));
        self.0 = self.0.wrapping_add(value.to_bits().wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }

    fn text(&mut self, text: &str) {
        let hash = text
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        self.0 = self.0.wrapping_add(hash);
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime::new());
    targets = decode
}
criterion_main!(benches);
