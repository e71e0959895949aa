//! What connects: devices with a script, a pace, and a way to end.

use std::time::Duration;

use corelane_shard::kernel::Instant;
use corelane_shard::limits::{EVICT_AFTER, FRAME_RATE_MIN};
use corelane_testkit::Random;
use corelane_wire::{ANSWER_BYTES_MAX, Answer, Reply, Step, decode_answer, next_step};

use crate::model::Script;
use crate::network::Network;
use crate::tls::ClientTls;

/// One connection of one device.
pub(crate) struct Device {
    pub(crate) id: String,
    pub(crate) script: Script,
    pub(crate) link: usize,
    tls: Option<Box<ClientTls>>,
    manners: Manners,
    /// Bytes of the script that were written, into TLS where there is TLS.
    written: usize,
    /// Bytes for the network, and how many of them it has taken.
    out: Vec<u8>,
    taken: usize,
    /// When they were made.
    out_at: Instant,
    has_ended: bool,
    /// Replies, as far as they have come.
    replies: Vec<u8>,
    answers: usize,
    /// What the server has told of its frames.
    told: Answer,
    /// Whole frames that had reached the server when it was asked to stop.
    arrived: usize,
    /// The code of the server's last frame.
    pub(crate) closing: Option<String>,
    connected_at: Instant,
    acted_at: Instant,
    /// When the first byte of the frame at hand was sent.
    frame_at: Option<(usize, Instant)>,
    /// When it was too slow last.
    slow_at: Option<Instant>,
    pub(crate) state: State,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Busy,
    /// It has sent everything and heard everything.
    Complete,
    /// It ended otherwise, or was ended.
    Gone,
}

/// How it behaves.
#[derive(Debug)]
struct Manners {
    /// Most bytes it sends at once.
    piece: usize,
    /// Where it stops sending, in bytes for the network.
    stops_at: Option<usize>,
    /// What it does then.
    stop: Stop,
    reads: bool,
    /// Waits for all answers before it ends its side.
    waits_for_answers: bool,
    /// Whether the server has to serve it to its end.
    is_honest: bool,
}

#[derive(Clone, Copy, Debug)]
enum Stop {
    Silence,
    HalfClose,
    Reset,
}

impl Device {
    /// Connects.
    pub(crate) fn new(network: &mut Network, number: usize, has_tls: bool) -> Self {
        let random = &mut network.random;
        let id = format!("d{number}");
        let frames = *random.pick(&[0, 1, 1, 2, 2, 5, 5, 20, 20, 60, 60, MANY_FRAMES]);
        let mut script = Script::new(random, &id, frames);
        let manners = Manners::new(random, script.bytes.len());
        // All answers of an honest device fit: whether it takes them in time is not a matter of chance.
        let room_min = if manners.is_honest { 8_000 + ANSWER_BYTES_MAX * script.requests() } else { 200 };
        let send_room = *random.pick(&[room_min, 128 * 1024]);
        if !manners.is_honest && random.below(10) == 0 {
            script.push_oversize();
        }
        let link = network.connect(send_room);
        let now = network.now;
        Self {
            id,
            script,
            link,
            tls: has_tls.then(|| Box::new(ClientTls::new())),
            manners,
            written: 0,
            out: Vec::new(),
            taken: 0,
            out_at: now,
            has_ended: false,
            replies: Vec::new(),
            answers: 0,
            told: Answer::default(),
            arrived: 0,
            closing: None,
            connected_at: now,
            acted_at: now,
            frame_at: None,
            slow_at: None,
            state: State::Busy,
        }
    }

    pub(crate) fn is_honest(&self) -> bool {
        self.manners.is_honest
    }

    /// The server is asked to stop: from now on it has to decide what has reached it.
    pub(crate) fn note_stop(&mut self, network: &Network) {
        let link = &network.links[self.link];
        // With TLS it is not known which frames these are.
        if self.state == State::Busy && self.tls.is_none() && !link.is_closed && !link.server_ended {
            self.arrived = self.script.frames_in(self.written - (self.out.len() - self.taken));
        }
    }

    /// Frames that the server has to have decided although it was asked to stop; `None` if it has closed the connection for
    /// another reason.
    pub(crate) fn owed_at_stop(&self) -> Option<Answer> {
        let is_stopped = self.manners.is_honest && matches!(self.closing.as_deref(), None | Some("shutdown"));
        is_stopped.then(|| self.script.decided(self.arrived))
    }

    /// Frames that the server has told of, at least, and those that it may have received whole.
    pub(crate) fn frames_known(&self) -> (Answer, Answer) {
        let all = match self.state {
            State::Complete => self.script.frames(),
            _ => self.script.frames_in(self.written),
        };
        let sent = self.script.decided(all);
        (if self.state == State::Complete { sent } else { self.told }, sent)
    }

    /// Reads, writes, ends: a little of each. `Err` says what the server did wrong.
    pub(crate) fn act(&mut self, network: &mut Network) -> Result<(), String> {
        if self.state != State::Busy {
            return Ok(());
        }
        let heard = if self.manners.reads { self.hear(network) } else { Ok(()) };
        heard.map_err(|wrong| format!("{}: {wrong}", self.id))?;
        self.send(network);
        self.acted_at = network.now;
        Ok(())
    }

    fn hear(&mut self, network: &mut Network) -> Result<(), String> {
        let link = &mut network.links[self.link];
        let whole = link.to_device.len();
        let bytes = if network.random.below(3) == 0 { network.random.below(whole + 1) } else { whole };
        let came: Vec<u8> = link.to_device.drain(..bytes).collect();
        match &mut self.tls {
            None => self.replies.extend(came),
            Some(tls) => tls.read(&came, &mut self.replies)?,
        }
        self.read_replies()?;
        let link = &network.links[self.link];
        if link.to_device.is_empty() && (link.server_ended || link.is_closed) {
            return self.server_ended(network);
        }
        Ok(())
    }

    fn read_replies(&mut self) -> Result<(), String> {
        let replies = std::mem::take(&mut self.replies);
        let mut unread = &replies[..];
        while let Step::Frame(payload) = next_step(&mut unread) {
            if let Some(code) = &self.closing {
                return Err(format!("a frame behind the last, {code}"));
            }
            match decode_answer(payload) {
                Ok(Reply::Committed(answer)) => {
                    let expected = self.script.answer(self.answers);
                    if expected != Some(answer) {
                        return Err(format!("answer {} is {answer:?}, not {expected:?}", self.answers));
                    }
                    self.answers += 1;
                    self.told = answer;
                }
                Ok(Reply::Closing { code, answer, .. }) => {
                    let frames = (answer.committed + answer.rejected) as usize;
                    if frames > self.script.frames_in(self.written) || self.script.decided(frames) != answer {
                        return Err(format!("the last frame, {code}, tells {answer:?} of what was sent"));
                    }
                    self.closing = Some(code.to_owned());
                    self.told = answer;
                }
                Err(error) => return Err(format!("{error}: {payload:x?}")),
            }
        }
        self.replies = unread.to_vec();
        Ok(())
    }

    /// The server's side has ended and everything it sent is read.
    fn server_ended(&mut self, network: &mut Network) -> Result<(), String> {
        // A server that stops may close before it has read all, and tells only those who have asked.
        let is_told = self.told == self.script.decided(self.script.frames());
        let is_complete = self.has_ended
            && (is_told || !network.is_stopping)
            && self.closing.is_none()
            && self.replies.is_empty()
            && self.written == self.script.bytes.len()
            && self.taken == self.out.len()
            && self.answers == self.script.requests();
        self.end(network, if is_complete { State::Complete } else { State::Gone });
        let link = &network.links[self.link];
        let was_refused = link.is_closed && !link.server_ended && link.received_at <= self.connected_at;
        if is_complete || !self.manners.is_honest || was_refused || self.is_excused(network) {
            return Ok(());
        }
        Err(format!(
            "an honest device was closed ({:?}, {link:?}, {:?} after connecting) with {} of {} answers, {} of {} bytes \
             sent, ended {}, TLS {}, {} taken of {}",
            self.closing,
            network.now.since(self.connected_at),
            self.answers,
            self.script.requests(),
            self.written,
            self.script.bytes.len(),
            self.has_ended,
            self.tls.is_some(),
            self.taken,
            self.out.len()
        ))
    }

    /// Whether the server may have had reason to close it: the run's other devices kept it from acting in time.
    fn is_excused(&self, network: &Network) -> bool {
        let now = network.now;
        let is_old = !network.age_max.is_zero() && now.since(self.connected_at) >= network.age_max;
        let is_slow = self.is_slow(now) || self.slow_at.is_some_and(|at| now.since(at) < 2 * EVICT_AFTER);
        match self.closing.as_deref() {
            Some("shutdown") => network.is_stopping,
            Some("max_age") => is_old,
            Some("frame_timeout") => is_slow,
            Some(_) => false,
            // Who has asked for nothing is not told why; nor is who leaves answers unread, or shakes hands for long.
            None => {
                let is_unheard = self.answers == 0 && (network.is_stopping || is_old || is_slow);
                let may_shake_hands = self.tls.is_some() && self.answers == 0;
                is_unheard
                    || network.is_stopping && self.has_ended
                    || may_shake_hands && now.since(self.connected_at) >= EVICT_AFTER
                    || now.since(self.acted_at) >= EVICT_AFTER
            }
        }
    }

    /// Whether the frame at hand, or what is on its way, is older and slower than a server with a short pool accepts.
    fn is_slow(&self, now: Instant) -> bool {
        let is_slow = |bytes: usize, since: Instant| {
            let age = now.since(since);
            age >= EVICT_AFTER && (bytes as f64) < age.as_secs_f64() * FRAME_RATE_MIN as f64
        };
        is_slow(self.out.len(), self.out_at)
            || self.frame_at.is_some_and(|(start, since)| is_slow(self.written - start, since))
    }

    fn send(&mut self, network: &mut Network) {
        if self.state != State::Busy || self.closing.is_some() {
            return;
        }
        let now = network.now;
        if self.is_slow(now) {
            self.slow_at = Some(now);
        }
        let piece = 1 + network.random.below(self.manners.piece);
        if self.taken == self.out.len() {
            (self.out, self.taken, self.out_at) = (Vec::new(), 0, now);
            self.write(piece);
        }
        let link = &mut network.links[self.link];
        if link.is_closed || link.is_shut {
            return self.end(network, State::Gone);
        }
        let room = link.window.saturating_sub(link.to_server.len());
        let left = self.manners.stops_at.unwrap_or(usize::MAX);
        let bytes = piece.min(room).min(self.out.len() - self.taken).min(left);
        link.to_server.extend(&self.out[self.taken..self.taken + bytes]);
        self.taken += bytes;
        if let Some(left) = &mut self.manners.stops_at {
            *left -= bytes;
            if *left == 0 {
                return self.stop(network);
            }
        }
        self.frame_at = self
            .script
            .frame_at(self.written)
            .map(|start| self.frame_at.filter(|&(before, _)| before == start).unwrap_or((start, now)));
        let is_shaking_hands = self.tls.as_ref().is_some_and(|tls| tls.is_handshaking());
        let is_sent =
            self.written == self.script.bytes.len() && self.taken == self.out.len() && !is_shaking_hands && bytes == 0;
        let may_end = !self.manners.waits_for_answers || self.answers == self.script.requests();
        if is_sent && may_end && !self.has_ended {
            self.has_ended = true;
            match &mut self.tls {
                // Its close_notify is on its way with the next piece.
                Some(tls) => tls.end(),
                None => network.links[self.link].device_ended = true,
            }
        } else if is_sent && self.has_ended && self.tls.is_some() {
            let mut records = Vec::new();
            self.tls.iter_mut().for_each(|tls| tls.take_records(&mut records));
            match records.is_empty() {
                true => network.links[self.link].device_ended = true,
                false => (self.out, self.taken) = (records, 0),
            }
        }
    }

    /// Writes a piece of the script.
    fn write(&mut self, piece: usize) {
        let bytes = piece.min(self.script.bytes.len() - self.written);
        let data = &self.script.bytes[self.written..self.written + bytes];
        self.written += bytes;
        match &mut self.tls {
            None => self.out.extend_from_slice(data),
            Some(tls) => {
                tls.write(data);
                tls.take_records(&mut self.out);
            }
        }
    }

    fn stop(&mut self, network: &mut Network) {
        self.manners.stops_at = Some(usize::MAX);
        match self.manners.stop {
            Stop::Silence => self.manners.stops_at = Some(0),
            Stop::HalfClose => {
                self.has_ended = true;
                network.links[self.link].device_ended = true;
                self.manners.stops_at = Some(0);
            }
            Stop::Reset => self.end(network, State::Gone),
        }
    }

    /// Leaves; with a reset, unless the server has ended, too.
    pub(crate) fn end(&mut self, network: &mut Network, state: State) {
        let link = &mut network.links[self.link];
        if state == State::Complete || link.server_ended && link.to_device.is_empty() {
            link.device_ended = true;
        } else {
            link.is_reset = true;
            link.to_device.clear();
        }
        self.state = state;
    }

    /// Whether bytes of it have waited to be received since `before`, and the server reads nothing of it.
    pub(crate) fn waits_since(&self, network: &Network, before: Instant) -> bool {
        let link = &network.links[self.link];
        self.state == State::Busy
            && self.manners.is_honest
            && !link.to_server.is_empty()
            && !link.is_closed
            && link.received_at < before
            && self.connected_at < before
    }
}

impl Manners {
    fn new(random: &mut Random, stream_bytes: usize) -> Self {
        let is_honest = random.below(2) == 0;
        let stops = !is_honest && random.below(4) > 0;
        Self {
            piece: if is_honest {
                *random.pick(&[3_000, 70_000, 200_000])
            } else {
                *random.pick(&[1, 40, 5_000, 200_000])
            },
            stops_at: stops.then(|| 1 + random.below(stream_bytes + 300)),
            stop: *random.pick(&[Stop::Silence, Stop::HalfClose, Stop::Reset]),
            reads: is_honest || random.below(3) > 0,
            waits_for_answers: random.below(2) == 0,
            is_honest,
        }
    }
}

/// More than a shard serves of one connection in one go, in less than one receive.
const MANY_FRAMES: usize = 1_500;

/// How long an honest device may wait for the server to read what it has sent.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
