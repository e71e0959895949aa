//! What `stream_throughput` compares. Each runs in a process of its own, made from the benchmark's own binary, so that
//! CPU time and peak memory are the server's alone; its data is handled by one thread pinned to one core.
//!
//! - `corelane`: this project's server, through the crates that its binary is made of, control plane and all.
//! - `tokio_decode`: a tokio server on one thread with the same decoder, rollup and counters.
//! - `tokio_owned`: tokio, `read_exact` of header and payload, `ciborium` into owned structs.
//! - `tokio_delimited`: tokio, `read_until(b'\n')`, a `Vec` a line.
//! - `receive_only`: receives and looks at nothing: what the kernel can give.
//!
//! `process` starts one of them and asks it for its numbers.

mod corelane;
mod process;
mod receive_only;
mod tokio_decode;
mod tokio_delimited;
mod tokio_owned;

use std::io::{BufRead, stdin};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{io, thread};

use corelane_testkit::allocator::thread_calls;

use crate::host;

pub use process::{Counts, Server, Usage};

/// One of the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as the modules, which say what they are")]
pub enum Kind {
    Corelane,
    TokioDecode,
    TokioOwned,
    TokioDelimited,
    ReceiveOnly,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Corelane, Self::TokioDecode, Self::TokioOwned, Self::TokioDelimited, Self::ReceiveOnly];

    /// As it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Corelane => "corelane",
            Self::TokioDecode => "tokio_decode",
            Self::TokioOwned => "tokio_owned",
            Self::TokioDelimited => "tokio_delimited",
            Self::ReceiveOnly => "receive_only",
        }
    }
}

/// If this process was started by [`Server::start`], serves until its standard input ends, and does not return.
pub fn serve_if_asked() {
    let mut arguments = std::env::args().skip_while(|argument| argument != SERVE).skip(1);
    let (Some(name), Some(shards)) = (arguments.next(), arguments.next()) else { return };
    let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name).expect("the name of a server");
    host::raise_descriptor_limit();
    let served = match kind {
        Kind::Corelane => corelane::serve(shards.parse().expect("a number of shards")),
        Kind::TokioDecode => serve(tokio_decode::run),
        Kind::TokioOwned => serve(tokio_owned::run),
        Kind::TokioDelimited => serve(tokio_delimited::run),
        Kind::ReceiveOnly => serve(receive_only::run),
    };
    served.expect("the server serves");
    std::process::exit(0);
}

/// What a baseline has counted, published by its data thread after every read.
#[derive(Debug, Default)]
struct Counted {
    frames: AtomicU64,
    rejected: AtomicU64,
    bytes: AtomicU64,
    allocations: AtomicU64,
}

impl Counted {
    fn add_frames(&self, frames: u64) {
        add(&self.frames, frames);
    }

    fn add_bytes(&self, bytes: usize) {
        add(&self.bytes, bytes as u64);
        self.allocations.store(thread_calls().allocations, Ordering::Relaxed);
    }
}

/// With one writer no read-modify-write is needed.
fn add(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Ordering::Relaxed) + count, Ordering::Relaxed);
}

/// A baseline: one thread on the first core; the main thread answers questions on the last.
fn serve(run: fn(TcpListener, Arc<Counted>) -> io::Result<()>) -> io::Result<()> {
    let (core, other_core) = host::cores();
    let listener = listener()?;
    let address = listener.local_addr()?;
    let counted = Arc::new(Counted::default());
    let theirs = Arc::clone(&counted);
    thread::Builder::new().name("data".into()).spawn(move || {
        host::pin(core);
        run(listener, theirs).expect("the baseline serves");
    })?;
    host::pin(other_core);
    println!("ready {address} -");
    answer_questions(|| {
        [&counted.frames, &counted.rejected, &counted.bytes, &counted.allocations]
            .map(|counter| counter.load(Ordering::Relaxed))
    })
}

/// The same backlog and options as the server's own listener has.
fn listener() -> io::Result<TcpListener> {
    let any: SocketAddr = ([127, 0, 0, 1], 0).into();
    Ok(corelane_shard::bind_listeners(any, 1, BACKLOG)?.remove(0))
}

/// For each line on standard input, one line with what the process has used and counted.
fn answer_questions(counts: impl Fn() -> [u64; 4]) -> io::Result<()> {
    for question in stdin().lock().lines() {
        question?;
        let (resident, resident_max) = host::resident_bytes();
        let [frames, rejected, bytes, allocations] = counts();
        let time = host::process_time().as_nanos();
        println!("{time} {resident} {resident_max} {frames} {rejected} {bytes} {allocations}");
    }
    Ok(())
}

/// Announces a server's process; followed by its name and the number of its shards.
const SERVE: &str = "--serve";

/// Live series of a shard by default.
pub const SERIES_MAX: usize = 65_536;
/// The server's default.
const BACKLOG: u32 = 4096;
