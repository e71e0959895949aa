//! One connection without its socket: bytes in, decided frames and answers out.
//!
//! The life of a frame is [`Connection::serve`]. Holds pool memory only for a partial frame. Reads each whole frame where it
//! was received, copies nothing of it and allocates nothing. Knows no clock, so a test can feed it every cut and every order
//! there is.

use corelane_metrics::{CloseReason, SecurityDetail};
use corelane_pool::{BufferPool, PooledBuffer};
use corelane_wire::{Answer, Hint, MAX_FRAME_SIZE, Padded, RejectReason, SLACK_BYTES, Step, encode_answer, next_step};

use crate::inbox::Received;
use crate::limits::{REJECTED_RUN_MAX, TURN_STEPS};
use crate::partial_frame::{PartialFrame, Resumed};
use crate::pipeline::Pipeline;
use crate::tls::TlsConfig;

/// What all connections of a shard use in turn.
pub(crate) struct Core {
    pub(crate) pipeline: Pipeline,
    pub(crate) pool: BufferPool,
    /// Where a frame is put together that came in pieces too long for the headroom: [`SCRATCH_BYTES`].
    pub(crate) scratch: Box<[u8]>,
    /// Answers of the connection being served, framed, in order. Room for those of one turn is made at start.
    pub(crate) answers: Vec<u8>,
    /// TLS of new connections, if they speak it.
    pub(crate) tls: Option<TlsConfig>,
    /// What TLS has to say to the peer of the connection being served.
    pub(crate) sealed: Vec<u8>,
}

/// The largest payload and the slack behind it.
pub(crate) const SCRATCH_BYTES: usize = MAX_FRAME_SIZE + SLACK_BYTES;

#[derive(Debug, Default)]
pub(crate) struct Connection {
    partial: PartialFrame,
    progress: Progress,
}

/// What was decided of a connection's stream, and what its peer knows of that.
#[derive(Debug, Default)]
struct Progress {
    /// The decided prefix: accepted and rejected frames so far.
    decided: Answer,
    rejected_run: u32,
    asked: bool,
    /// Whether nothing was decided since the last answer.
    answered: bool,
    /// Frames and commit requests that have ended: tells one partial frame from the next.
    boundaries: u64,
    hint: Hint,
}

/// How a receive was worked off.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// All of it: the start of a partial frame is kept elsewhere.
    Emptied(PooledBuffer),
    /// The turn's budget is used up: bytes are left.
    Paused(Received),
    /// Frames after the offence are not looked at.
    Broken(Broken),
}

/// A rule whose breach costs the connection, and the detail for the security event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Broken {
    pub(crate) reason: CloseReason,
    pub(crate) detail: SecurityDetail,
}

impl Connection {
    /// Takes the frames out of `received`, decides each, and keeps the start of one that is cut.
    pub(crate) fn serve(&mut self, mut received: Received, core: &mut Core) -> Outcome {
        let outcome = match self.partial.resume(&mut received, &core.pool) {
            Resumed::InPlace => self.serve_in_place(received, core),
            Resumed::NeedsMore => Outcome::Emptied(received.buffer),
            Resumed::Whole { mut kept, payload_bytes } => {
                let rest = payload_bytes - kept.bytes().len();
                let whole = kept.complete(&received.unread()[..rest], &mut core.scratch);
                received.start += rest;
                let payload = Padded::new(whole, 0, payload_bytes).expect("a whole payload has the slack behind it");
                match self.progress.decide(payload, &mut core.pipeline) {
                    Ok(()) => self.serve_in_place(received, core),
                    Err(broken) => Outcome::Broken(broken),
                }
            }
        };
        core.pipeline.count();
        outcome
    }

    fn serve_in_place(&mut self, mut received: Received, core: &mut Core) -> Outcome {
        let mut unread = received.unread();
        for _ in 0..TURN_STEPS {
            match next_step(&mut unread) {
                Step::Frame(payload) => {
                    let end = received.end - unread.len();
                    let payload = Padded::new(&received.buffer, end - payload.len(), end);
                    let payload = payload.expect("a receive leaves room for the slack");
                    if let Err(broken) = self.progress.decide(payload, &mut core.pipeline) {
                        return Outcome::Broken(broken);
                    }
                }
                Step::CommitRequest => self.progress.answer(&mut core.answers),
                Step::NeedMore { frame_bytes } => {
                    if !unread.is_empty() {
                        self.partial.keep(unread, frame_bytes, &core.pool);
                    }
                    return Outcome::Emptied(received.buffer);
                }
                Step::Oversize { declared_bytes } => {
                    core.pipeline.reject(RejectReason::Oversize);
                    self.progress.reject();
                    let detail = SecurityDetail::DeclaredBytes(declared_bytes);
                    return Outcome::Broken(Broken { reason: CloseReason::Oversize, detail });
                }
            }
        }
        received.start = received.end - unread.len();
        Outcome::Paused(received)
    }

    /// Gives up a partial frame.
    pub(crate) fn drop_partial(&mut self) {
        self.partial = PartialFrame::None;
    }

    /// Whether the start of a frame has come, even if only of its header, and the rest has not.
    pub(crate) fn is_mid_frame(&self) -> bool {
        !self.partial.is_none()
    }

    /// The partial frame: what has come of it, what is missing, what it holds.
    pub(crate) fn partial(&self) -> &PartialFrame {
        &self.partial
    }

    /// Whether the peer ever asked for an answer, and so is written to.
    pub(crate) fn asked(&self) -> bool {
        self.progress.asked
    }

    /// Whether the peer, if it were closed now, would know the fate of each of its frames: it was answered after the last
    /// one, or never asked, and no frame is partial.
    pub(crate) fn is_at_commit_point(&self) -> bool {
        (self.progress.answered || !self.progress.asked) && !self.is_mid_frame()
    }

    /// Frames decided so far.
    pub(crate) fn decided(&self) -> Answer {
        self.progress.decided
    }

    /// The number of the partial frame: `None` between frames, a new one for each frame.
    pub(crate) fn partial_number(&self) -> Option<u64> {
        self.is_mid_frame().then_some(self.progress.boundaries)
    }

    /// Frames and commit requests that have ended.
    pub(crate) fn boundaries(&self) -> u64 {
        self.progress.boundaries
    }

    /// How many frames these are together.
    pub(crate) fn decided_frames(&self) -> u64 {
        self.progress.decided.committed + self.progress.decided.rejected
    }
}

impl Progress {
    /// Accepts the event as a whole, or rejects the frame as a whole.
    #[inline]
    fn decide(&mut self, payload: Padded<'_>, pipeline: &mut Pipeline) -> Result<(), Broken> {
        self.answered = false;
        match pipeline.decide(payload, &mut self.hint) {
            Ok(()) => {
                self.boundaries += 1;
                self.decided.committed += 1;
                self.rejected_run = 0;
                Ok(())
            }
            Err(_) => {
                self.reject();
                if self.rejected_run < REJECTED_RUN_MAX {
                    return Ok(());
                }
                let detail = SecurityDetail::RejectedInARow(self.rejected_run);
                Err(Broken { reason: CloseReason::RejectedFrames, detail })
            }
        }
    }

    fn reject(&mut self) {
        self.boundaries += 1;
        self.decided.rejected += 1;
        self.rejected_run += 1;
    }

    /// Everything before a commit request is decided by the time it is read, so it is answered on the spot.
    fn answer(&mut self, answers: &mut Vec<u8>) {
        (self.asked, self.answered) = (true, true);
        self.boundaries += 1;
        answers.extend_from_slice(encode_answer(self.decided).as_slice());
    }
}

#[cfg(test)]
pub(crate) use tests::panic_if_asked;

#[cfg(test)]
mod tests;
