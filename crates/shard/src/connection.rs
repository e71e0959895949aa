//! One connection without its socket: bytes in, decided frames and answers out.
//!
//! The life of a frame is [`Connection::serve`]. Holds pool memory only for a frame that is begun and not finished. Reads
//! each whole frame where it was received, copies nothing of it and allocates nothing. Knows no clock but the tick it is
//! given, so a test can feed it every cut and every order there is.

use corelane_metrics::{CloseReason, Histogram};
use corelane_pool::{BufferPool, PooledBuffer};
use corelane_wire::{Answer, HEADER_BYTES, Hint, Padded, RejectReason, Step, encode_answer, next_step};

use crate::carry::{Carry, Resumed};
use crate::clock::Instant;
use crate::inbox::Received;
use crate::limits::{REJECTED_RUN_MAX, TURN_STEPS};
use crate::pipeline::Pipeline;
use crate::tls::TlsConfig;

/// What all connections of a shard use in turn.
pub(crate) struct Core {
    pub(crate) pipeline: Pipeline,
    pub(crate) pool: BufferPool,
    /// Answers of the connection being served, framed, in order. Room for those of one turn is made at start.
    pub(crate) answers: Vec<u8>,
    /// TLS of new connections, if they speak it.
    pub(crate) tls: Option<TlsConfig>,
    /// What TLS has to say to the peer of the connection being served.
    pub(crate) sealed: Vec<u8>,
}

#[derive(Debug, Default)]
pub(crate) struct Connection {
    carry: Carry,
    /// The decided prefix: accepted and rejected frames so far.
    decided: Answer,
    rejected_run: u32,
    asked: bool,
    /// Whether nothing was decided since the last answer.
    answered: bool,
    /// Frames and commit requests that have ended: tells one begun frame from the next.
    boundaries: u64,
    hint: Hint,
}

/// How a receive was worked off.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// All of it; what is left of it is kept by the connection, which may have taken the buffer for that.
    Drained(Option<PooledBuffer>),
    /// The turn's budget is used up: bytes are left.
    Paused(Received),
    /// Frames after the offence are not looked at.
    Broken(Broken),
}

/// A rule whose breach costs the connection, and the detail for the security event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Broken {
    pub(crate) reason: CloseReason,
    pub(crate) detail: u64,
}

impl Connection {
    /// Takes the frames out of `received`, decides each, and keeps the start of one that is cut.
    pub(crate) fn serve(&mut self, mut received: Received, core: &mut Core) -> Outcome {
        let read_at = received.at;
        let decided_before = self.decided_frames();
        let outcome = match self.carry.resume(&mut received) {
            Resumed::InPlace => self.serve_in_place(received, core),
            Resumed::NeedsMore => Outcome::Drained(Some(received.buffer)),
            Resumed::Whole => match self.decide_carried(core) {
                Ok(()) => self.serve_in_place(received, core),
                Err(broken) => Outcome::Broken(broken),
            },
        };
        core.pipeline.count();
        let decided = self.decided_frames() - decided_before;
        if decided > 0 {
            core.pipeline.metrics.observe(
                Histogram::INGEST_LATENCY,
                Instant::now().nanoseconds() - read_at.nanoseconds(),
                decided,
            );
        }
        outcome
    }

    fn serve_in_place(&mut self, mut received: Received, core: &mut Core) -> Outcome {
        let mut unread = received.unread();
        for _ in 0..TURN_STEPS {
            match next_step(&mut unread) {
                Step::Frame(payload) => {
                    let end = received.end - unread.len();
                    if let Err(broken) = self.decide(&received.buffer, end - payload.len(), end, core) {
                        return Outcome::Broken(broken);
                    }
                }
                Step::CommitRequest => self.answer(core),
                Step::NeedMore { frame_bytes } => {
                    received.start = received.end - unread.len();
                    if received.start == received.end {
                        return Outcome::Drained(Some(received.buffer));
                    }
                    return Outcome::Drained(self.carry.keep(received, frame_bytes, &core.pool));
                }
                Step::Oversize { declared_bytes } => {
                    core.pipeline.reject(RejectReason::Oversize);
                    self.boundaries += 1;
                    self.count_rejected();
                    let detail = u64::from(declared_bytes);
                    return Outcome::Broken(Broken { reason: CloseReason::Oversize, detail });
                }
            }
        }
        received.start = received.end - unread.len();
        Outcome::Paused(received)
    }

    /// Accepts the event in `start..end` of a buffer as a whole, or rejects the frame as a whole.
    fn decide(&mut self, buffer: &[u8], start: usize, end: usize, core: &mut Core) -> Result<(), Broken> {
        self.answered = false;
        let payload = Padded::new(buffer, start, end).expect("a receive and a carry leave room for the slack");
        self.boundaries += 1;
        match core.pipeline.decide(payload, &mut self.hint) {
            Ok(()) => {
                self.decided.committed += 1;
                self.rejected_run = 0;
                Ok(())
            }
            Err(_) => {
                self.count_rejected();
                if self.rejected_run < REJECTED_RUN_MAX {
                    return Ok(());
                }
                Err(Broken { reason: CloseReason::RejectedFrames, detail: u64::from(self.rejected_run) })
            }
        }
    }

    fn count_rejected(&mut self) {
        self.decided.rejected += 1;
        self.rejected_run += 1;
    }

    /// Everything before a commit request is decided by the time it is read, so it is answered on the spot.
    fn answer(&mut self, core: &mut Core) {
        (self.asked, self.answered) = (true, true);
        self.boundaries += 1;
        core.answers.extend_from_slice(encode_answer(self.decided).as_slice());
    }

    /// Decides the frame that the carry holds whole.
    fn decide_carried(&mut self, core: &mut Core) -> Result<(), Broken> {
        let Some((buffer, frame_bytes)) = self.carry.take_whole() else { return Ok(()) };
        self.decide(&buffer, HEADER_BYTES, frame_bytes, core)
    }

    /// Whether [`lend_carry`](Self::lend_carry) has a buffer to give.
    pub(crate) fn can_lend_carry(&self, pool: &BufferPool) -> bool {
        self.carry.can_lend(pool)
    }

    /// The buffer that the begun frame has to itself, with room for all of it.
    pub(crate) fn whole_buffer(&self) -> Option<&PooledBuffer> {
        self.carry.whole_buffer()
    }

    /// Gives away the buffer of the begun frame, to be filled from `.1` on with the `.2` bytes it lacks.
    pub(crate) fn lend_carry(&mut self, pool: &BufferPool) -> Option<(PooledBuffer, usize, usize)> {
        self.carry.lend(pool)
    }

    /// Takes the buffer back with `received` more bytes, and decides the frame if that was its end.
    pub(crate) fn take_back_carry(
        &mut self,
        buffer: PooledBuffer,
        received: usize,
        core: &mut Core,
    ) -> Result<(), Broken> {
        self.carry.take_back(buffer, received);
        let decided = self.decide_carried(core);
        core.pipeline.count();
        decided
    }

    /// Gives up a begun frame.
    pub(crate) fn drop_carry(&mut self) {
        self.carry = Carry::Empty;
    }

    /// Whether a frame is begun and not finished, be it only its header.
    pub(crate) fn is_mid_frame(&self) -> bool {
        !self.carry.is_empty()
    }

    /// Bytes of the begun frame that have come.
    pub(crate) fn carried_bytes(&self) -> usize {
        self.carry.len()
    }

    /// Whether giving up the begun frame would free memory of the pool.
    pub(crate) fn carry_holds_memory(&self) -> bool {
        self.carry.holds_memory()
    }

    /// Whether the peer ever asked for an answer, and so is written to.
    pub(crate) fn asked(&self) -> bool {
        self.asked
    }

    /// Whether the peer, closed now, would know of every frame of its: it was answered last, or never asked, and begun
    /// none.
    pub(crate) fn is_at_commit_point(&self) -> bool {
        (self.answered || !self.asked) && !self.is_mid_frame()
    }

    /// Frames decided so far.
    pub(crate) fn decided(&self) -> Answer {
        self.decided
    }

    /// The number of the frame that is begun and not finished: `None` between frames, another one for each frame.
    pub(crate) fn begun_frame(&self) -> Option<u64> {
        self.is_mid_frame().then_some(self.boundaries)
    }

    fn decided_frames(&self) -> u64 {
        self.decided.committed + self.decided.rejected
    }
}

#[cfg(test)]
pub(crate) use tests::panic_if_asked;

#[cfg(test)]
mod tests;
