//! TLS on a connection: records are opened in the buffer that they came in, answers are sealed.
//!
//! Owns the handshake, then the record layer, and the start of a record whose rest is on its way. The data of all records
//! of one receive is moved together in place, so that frames run through it as they do without TLS. Knows no clock and no
//! socket.
#![allow(clippy::disallowed_types, reason = "TLS is configured by another thread")]

use std::sync::Arc;

use corelane_metrics::CloseReason;
use corelane_pool::{BufferPool, SmallBuffer};
use corelane_tls::{Handshake, Opened, Records, ServerConfig, TlsFault, record_bytes};

use crate::carry::prepend;
use crate::connection::{Broken, Core, Outcome};
use crate::inbox::Received;
use crate::peer::{Peer, Receiving};

/// What handshakes begin with.
pub type TlsConfig = Arc<ServerConfig>;

#[derive(Default)]
pub(crate) struct Tls {
    stage: Stage,
    cut: Cut,
    /// Why nothing more is opened.
    end: Option<End>,
    /// Bytes of the stream up to the first that is neither opened nor given to the handshake.
    opened_bytes: u64,
    /// The same before the receive at hand, and before the one in which the frame at hand began.
    receive_from: u64,
    frame_from: u64,
    /// Records opened: tells one cut record from the next.
    records: u64,
    /// Invariant: it is one of the shard's handshakes under way.
    pub(crate) has_place: bool,
}

#[derive(Default)]
enum Stage {
    /// No byte has come.
    #[default]
    Fresh,
    Handshake(Box<Handshake>),
    Open(Box<Records>),
}

#[derive(Clone, Copy)]
enum End {
    CloseNotify,
    Fault(TlsFault),
}

/// The start of a record.
#[derive(Default)]
enum Cut {
    #[default]
    Nothing,
    Slot {
        slot: SmallBuffer,
        len: usize,
    },
    /// When the pool is short: its last buffer may hold the start of a frame in front of this. So there are at most as
    /// many of these as buffers.
    Heap(Vec<u8>),
}

impl Tls {
    pub(crate) fn is_handshaking(&self) -> bool {
        !matches!(self.stage, Stage::Open(_))
    }

    /// Opens what was received; what remains is data, in the same buffer.
    fn open(&mut self, mut received: Received, core: &mut Core) -> Option<Received> {
        self.receive_from = self.opened_bytes;
        if self.end.is_some() {
            return None;
        }
        let opened = match self.shake_hands(&mut received, core) {
            Ok(true) => self.open_records(&mut received, core),
            Ok(false) => Ok(false),
            Err(fault) => Err(fault),
        };
        match opened {
            Ok(has_data) => has_data.then_some(received),
            Err(fault) => {
                self.end = Some(End::Fault(fault));
                None
            }
        }
    }

    /// Gives the handshake its bytes; whether it is complete.
    fn shake_hands(&mut self, received: &mut Received, core: &mut Core) -> Result<bool, TlsFault> {
        if let Stage::Fresh = self.stage {
            let config = core.tls.as_ref().expect("a connection with TLS has a shard with TLS");
            self.stage = Stage::Handshake(Box::new(Handshake::new(Arc::clone(config))?));
        }
        let Stage::Handshake(handshake) = &mut self.stage else { return Ok(true) };
        let mut rest = received.unread();
        let is_complete = handshake.advance(&mut rest, &mut core.sealed)?;
        let start = received.end - rest.len();
        self.opened_bytes += (start - received.start) as u64;
        received.start = start;
        if is_complete && let Stage::Handshake(handshake) = std::mem::take(&mut self.stage) {
            self.stage = Stage::Open(Box::new(handshake.finish()?));
        }
        Ok(is_complete)
    }

    /// Leaves the data of all whole records in `received`; whether there is any. A fault ends what can be read, not what
    /// was read.
    fn open_records(&mut self, received: &mut Received, core: &Core) -> Result<bool, TlsFault> {
        let Stage::Open(records) = &mut self.stage else { return Ok(false) };
        if !self.cut.join(received)? {
            return Ok(false);
        }
        let mut data: Option<std::ops::Range<usize>> = None;
        while self.end.is_none()
            && let Some(bytes) = record_bytes(received.unread()).unwrap_or_else(|fault| {
                self.end = Some(End::Fault(fault));
                None
            })
            && bytes <= received.unread().len()
        {
            let at = received.start;
            match records.open(&mut received.buffer[at..at + bytes]) {
                Ok(Opened::Data(place)) => {
                    let place = at + place.start..at + place.end;
                    data = Some(match data {
                        None => place,
                        Some(data) => {
                            received.buffer.copy_within(place.clone(), data.end);
                            data.start..data.end + place.len()
                        }
                    });
                }
                Ok(Opened::Nothing) => {}
                Ok(Opened::CloseNotify) => self.end = Some(End::CloseNotify),
                Err(fault) => self.end = Some(End::Fault(fault)),
            }
            received.start += bytes;
            self.opened_bytes += bytes as u64;
            self.records += 1;
        }
        if self.end.is_none() {
            self.cut = Cut::keep(received.unread(), &core.pool);
        }
        let data = data.unwrap_or(received.end..received.end);
        (received.start, received.end, received.is_opened) = (data.start, data.end, true);
        Ok(!received.unread().is_empty())
    }

    /// Makes what is to be sent of the answers, behind what the handshake has to say.
    pub(crate) fn seal(&mut self, core: &mut Core) {
        if let Stage::Open(records) = &mut self.stage
            && let Err(fault) = records.seal(&core.answers, &mut core.sealed)
        {
            self.end = Some(End::Fault(fault));
        }
        core.answers.clear();
        std::mem::swap(&mut core.answers, &mut core.sealed);
    }

    /// As [`seal`](Self::seal), for the last time. A peer that `asked` reads on until our close_notify; a fatal alert would
    /// make it throw the answers away.
    pub(crate) fn seal_end(&mut self, asked: bool, core: &mut Core) {
        self.seal(core);
        std::mem::swap(&mut core.answers, &mut core.sealed);
        if let Stage::Open(records) = &mut self.stage {
            let fault = match self.end {
                Some(End::Fault(fault)) if !asked => Some(fault),
                _ => None,
            };
            // Without keys that may be used, nothing is said.
            let _ = records.seal_end(fault, &mut core.sealed);
        }
    }

    /// The fault that ends the connection once all data in front of it is decided.
    pub(crate) fn broken(&self) -> Option<Broken> {
        match self.end {
            Some(End::Fault(fault)) => Some(Broken { reason: CloseReason::Tls, detail: fault.code() }),
            _ => None,
        }
    }
}

impl Cut {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Nothing => &[],
            Self::Slot { slot, len } => &slot[..*len],
            Self::Heap(bytes) => bytes,
        }
    }

    fn keep(bytes: &[u8], pool: &BufferPool) -> Self {
        if bytes.is_empty() {
            return Self::Nothing;
        }
        match pool.acquire_small(bytes.len()) {
            Some(mut slot) => {
                slot[..bytes.len()].copy_from_slice(bytes);
                Self::Slot { slot, len: bytes.len() }
            }
            None => Self::Heap(bytes.to_vec()),
        }
    }

    /// Puts the start in front of the bytes that came next; `false` when all of them were added to it instead.
    fn join(&mut self, received: &mut Received) -> Result<bool, TlsFault> {
        let more = received.unread().len();
        if record_bytes(self.bytes())?.is_some_and(|whole| self.bytes().len() + more < whole) && self.add(received) {
            return Ok(false);
        }
        prepend(received, self.bytes());
        *self = Self::Nothing;
        Ok(true)
    }

    fn add(&mut self, received: &Received) -> bool {
        let more = received.unread();
        match self {
            Self::Slot { slot, len } if *len + more.len() <= slot.len() => {
                slot[*len..*len + more.len()].copy_from_slice(more);
                *len += more.len();
                true
            }
            Self::Heap(bytes) => {
                bytes.extend_from_slice(more);
                true
            }
            _ => false,
        }
    }
}

impl Peer {
    /// Takes the frames out of what was received.
    pub(crate) fn serve(&mut self, mut received: Received, core: &mut Core) -> Outcome {
        let begun = self.connection.begun_frame();
        if let Some(tls) = &mut self.tls
            && !received.is_opened
        {
            match tls.open(received, core) {
                Some(data) => received = data,
                None => return Outcome::Drained,
            }
        }
        let outcome = self.connection.serve(received, core);
        if let Some(tls) = &mut self.tls
            && self.connection.begun_frame() != begun
        {
            tls.frame_from = tls.receive_from;
        }
        outcome
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    /// What is begun and not finished, a frame or a record: another number for each.
    pub(crate) fn begun(&self) -> Option<u64> {
        let frame = self.connection.begun_frame().map(|number| 2 * number);
        let record = self.tls.as_ref().filter(|tls| !tls.cut.bytes().is_empty()).map(|tls| 2 * tls.records + 1);
        frame.or(record)
    }

    /// Bytes kept of what is begun.
    pub(crate) fn begun_bytes(&self) -> usize {
        self.connection.carried_bytes() + self.tls.as_ref().map_or(0, |tls| tls.cut.bytes().len())
    }

    /// Whether what is begun can be received with the buffers that are kept back. The start of a frame that has no buffer
    /// of its own may take the one that its records come in, and one has to be left to receive into.
    pub(crate) fn can_use_kept_back(&self, pool: &BufferPool) -> bool {
        match &self.tls {
            None => self.connection.can_lend_carry(pool),
            Some(_) if self.connection.has_whole_buffer() => pool.free() > 0,
            Some(_) => self.begun().is_some() && pool.free() > 1,
        }
    }

    /// Whether giving up what is begun would free memory of the pool.
    pub(crate) fn holds_memory(&self) -> bool {
        let has_slot = |tls: &Tls| matches!(tls.cut, Cut::Slot { .. });
        self.connection.carry_holds_memory() || self.tls.as_ref().is_some_and(|tls| has_slot(tls))
    }

    /// Gives up what is begun.
    pub(crate) fn drop_begun(&mut self) {
        self.connection.drop_carry();
        if let Some(tls) = &mut self.tls {
            tls.cut = Cut::Nothing;
        }
    }

    /// Bytes of the stream in front of the frame, or record, that is begun: all in them is decided.
    pub(crate) fn decided_bytes(&self) -> u64 {
        match &self.tls {
            None => self.received_bytes - self.connection.carried_bytes() as u64,
            Some(tls) if self.connection.is_mid_frame() => tls.frame_from,
            Some(tls) => tls.opened_bytes,
        }
    }

    /// How the stream ended, if it did: 0 by the peer's FIN or close_notify, else by an error.
    pub(crate) fn ended(&self) -> Option<i32> {
        match (self.receiving, &self.tls) {
            (Receiving::Ended { errno }, _) => Some(errno),
            (_, Some(tls)) if matches!(tls.end, Some(End::CloseNotify)) => Some(0),
            _ => None,
        }
    }
}
