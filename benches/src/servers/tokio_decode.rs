//! tokio's epoll with everything else as in a shard: the same decoder, rollup and counters, answers to commit requests.
//!
//! Written to be fast: one receive buffer for all connections, kept while it is warm; a frame is decoded where it was
//! received, and only one that is cut is copied, to stand in front of what follows it.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::TcpListener;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use corelane_shard::Pipeline;
use corelane_wire::{Answer, HEADER_BYTES, Hint, MAX_FRAME_SIZE, Padded, SLACK_BYTES, Step, encode_answer, next_step};
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::runtime::Builder;

use super::{Counted, SERIES_MAX, add};

/// What one read may bring.
const RECEIVE_BYTES: usize = 64 * 1024;
/// Room in front of it for the start of a cut frame.
const HEADROOM_BYTES: usize = HEADER_BYTES + MAX_FRAME_SIZE;

pub(super) fn run(listener: TcpListener, counted: Arc<Counted>) -> io::Result<()> {
    CORE.set(Some(Core {
        pipeline: Pipeline::new(SERIES_MAX),
        buffer: vec![0; HEADROOM_BYTES + RECEIVE_BYTES + SLACK_BYTES],
        counted,
    }));
    on_one_thread(listener, serve)
}

/// Accepts for ever, one task a connection, on the calling thread.
pub(super) fn on_one_thread<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    serve: impl Fn(TcpStream) -> F,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let runtime = Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async move {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(serve(stream));
        }
    })
}

thread_local! {
    static CORE: RefCell<Option<Core>> = const { RefCell::new(None) };
}

/// What all connections use in turn. It stays on the thread that made it; tasks need not hold it, so that they can be
/// spawned without a `LocalSet`, which costs.
struct Core {
    pipeline: Pipeline,
    buffer: Vec<u8>,
    counted: Arc<Counted>,
}

#[derive(Default)]
struct Connection {
    /// The start of a cut frame.
    partial: Vec<u8>,
    hint: Hint,
    decided: Answer,
    /// Answers to be written.
    answers: Vec<u8>,
}

async fn serve(mut stream: TcpStream) {
    let mut connection = Connection::default();
    loop {
        let more = poll_fn(|context| {
            CORE.with_borrow_mut(|core| connection.read(&mut stream, core.as_mut().expect("made at start"), context))
        });
        let more = more.await;
        if !connection.answers.is_empty() {
            if stream.write_all(&connection.answers).await.is_err() {
                return;
            }
            connection.answers.clear();
        }
        if !more {
            return;
        }
    }
}

impl Connection {
    /// Reads once and decides what came; `false` when nothing more will.
    fn read(&mut self, stream: &mut TcpStream, core: &mut Core, context: &mut Context<'_>) -> Poll<bool> {
        let Core { pipeline, buffer, counted } = core;
        let mut received = ReadBuf::new(&mut buffer[HEADROOM_BYTES..][..RECEIVE_BYTES]);
        let read = ready!(Pin::new(stream).poll_read(context, &mut received));
        let bytes = received.filled().len();
        if read.is_err() || bytes == 0 {
            return Poll::Ready(false);
        }
        let start = HEADROOM_BYTES - self.partial.len();
        buffer[start..HEADROOM_BYTES].copy_from_slice(&self.partial);
        self.partial.clear();
        let end = HEADROOM_BYTES + bytes;
        let mut unread = &buffer[start..end];
        let (mut frames, mut rejected) = (0, 0);
        loop {
            match next_step(&mut unread) {
                Step::Frame(payload) => {
                    let payload_end = end - unread.len();
                    let payload = Padded::new(buffer, payload_end - payload.len(), payload_end).expect("slack behind");
                    match pipeline.decide(payload, &mut self.hint) {
                        Ok(()) => frames += 1,
                        Err(_) => rejected += 1,
                    }
                }
                Step::CommitRequest => {
                    let Answer { committed, rejected: refused } = self.decided;
                    let answer = Answer { committed: committed + frames, rejected: refused + rejected };
                    self.answers.extend_from_slice(encode_answer(answer).as_slice());
                }
                Step::NeedMore { .. } => break,
                Step::Oversize { .. } => return Poll::Ready(false),
            }
        }
        pipeline.count();
        self.partial.extend_from_slice(unread);
        self.decided.committed += frames;
        self.decided.rejected += rejected;
        counted.add_frames(frames);
        add(&counted.rejected, rejected);
        counted.add_bytes(bytes);
        Poll::Ready(true)
    }
}
