//! TLS on a connection: records are opened in the buffer that they came in, answers are sealed.
//!
//! Owns the handshake, then the record layer, and the start of a record whose rest is on its way (`partial_record`). The data
//! of all records of one receive is moved together in place, so that frames run through it as they do without TLS. Knows no
//! clock and no socket.
#![allow(clippy::disallowed_types, reason = "TLS is configured by another thread")]

use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use corelane_metrics::{CloseReason, SecurityDetail};
use corelane_pool::BufferPool;
use corelane_tls::{Handshake, Opened, Records, ServerConfig, TlsFault, record_bytes};

use crate::connection::{Broken, Core, Outcome};
use crate::inbox::Received;
use crate::partial_record::PartialRecord;
use crate::peer::{Peer, Receiving};

/// What handshakes begin with.
pub type TlsConfig = Arc<ServerConfig>;

#[derive(Default)]
pub(crate) struct Tls {
    stage: Stage,
    partial: PartialRecord,
    /// Why nothing more is opened.
    end: Option<End>,
    /// Bytes of the stream up to the first that is neither opened nor given to the handshake.
    opened_bytes: u64,
    /// The same before the receive at hand, and before the one in which the frame at hand began.
    receive_from: u64,
    frame_from: u64,
    /// Records opened: tells one partial record from the next.
    records: u64,
    /// The address as which it counts among the shard's handshakes under way.
    pub(crate) place: Option<IpAddr>,
    /// Whether the peer has said hello and got ours.
    pub(crate) has_answered: bool,
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

impl Tls {
    pub(crate) fn is_handshaking(&self) -> bool {
        !matches!(self.stage, Stage::Open(_))
    }

    /// Opens what was received: what is unread then is data, if there is any, and in front of the start of a record.
    fn open(&mut self, received: &mut Received, core: &mut Core) {
        self.receive_from = self.opened_bytes;
        let opened = match self.end {
            Some(_) => Ok(()),
            None => self.shake_hands(received, core).and_then(|is_complete| match is_complete {
                true => self.open_records(received, &core.pool),
                false => Ok(()),
            }),
        };
        if let Err(fault) = opened {
            self.end = Some(End::Fault(fault));
        }
        if received.cut.is_none() {
            // The handshake has it, or the record that it belongs to, or nobody wants it.
            received.start = received.end;
            received.cut = Some(received.end..received.end);
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
        self.has_answered |= !core.sealed.is_empty();
        if is_complete && let Stage::Handshake(handshake) = std::mem::take(&mut self.stage) {
            self.stage = Stage::Open(Box::new(handshake.finish()?));
        }
        Ok(is_complete)
    }

    /// Opens all whole records. A fault ends what can be read, not what was read.
    fn open_records(&mut self, received: &mut Received, pool: &BufferPool) -> Result<(), TlsFault> {
        let Stage::Open(records) = &mut self.stage else { return Ok(()) };
        if !self.partial.join(received, pool)? {
            return Ok(());
        }
        let mut data: Option<Range<usize>> = None;
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
        received.cut = Some(if self.end.is_none() { received.start..received.end } else { 0..0 });
        let data = data.unwrap_or(received.end..received.end);
        (received.start, received.end) = (data.start, data.end);
        Ok(())
    }

    /// Makes what is to be sent of the answers, behind what TLS itself has to say.
    pub(crate) fn seal(&mut self, core: &mut Core) {
        self.seal_answers(core);
        std::mem::swap(&mut core.answers, &mut core.sealed);
    }

    /// Puts our last record behind the answers. A peer that `asked` reads on until our close_notify; a fatal alert would make
    /// it throw the answers away.
    pub(crate) fn seal_end(&mut self, asked: bool, core: &mut Core) {
        self.seal_answers(core);
        if let Stage::Open(records) = &mut self.stage {
            let fault = match self.end {
                Some(End::Fault(fault)) if !asked => Some(fault),
                _ => None,
            };
            // Without keys that may be used, nothing is said.
            let _ = records.seal_end(fault, &mut core.sealed);
        }
    }

    fn seal_answers(&mut self, core: &mut Core) {
        if let Stage::Open(records) = &mut self.stage
            && let Err(fault) = records.seal(&core.answers, &mut core.sealed)
        {
            self.end = Some(End::Fault(fault));
        }
        core.answers.clear();
    }

    /// The fault that ends the connection once all data in front of it is decided.
    pub(crate) fn fault(&self) -> Option<Broken> {
        match self.end {
            Some(End::Fault(fault)) => {
                let detail = match fault {
                    TlsFault::NotTls => SecurityDetail::NotTls,
                    TlsFault::AlertSent(alert) => SecurityDetail::AlertSent(alert),
                    TlsFault::AlertReceived(alert) => SecurityDetail::AlertReceived(alert),
                };
                Some(Broken { reason: CloseReason::Tls, detail })
            }
            _ => None,
        }
    }
}

impl<S> Peer<S> {
    /// Takes the frames out of what was received.
    pub(crate) fn serve(&mut self, mut received: Received, core: &mut Core) -> Outcome {
        let partial = self.connection.partial_number();
        let Some(tls) = &mut self.tls else { return self.connection.serve(received, core) };
        if received.cut.is_none() {
            tls.open(&mut received, core);
        }
        let cut = received.cut.clone().unwrap_or_default();
        let outcome = match received.unread().is_empty() {
            true => Outcome::Emptied(received.buffer),
            false => self.connection.serve(received, core),
        };
        if self.connection.partial_number() != partial {
            tls.frame_from = tls.receive_from;
        }
        if let Outcome::Emptied(buffer) = &outcome {
            tls.partial.keep(&buffer[cut], &core.pool);
        }
        outcome
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    /// The partial frame or record: a new number for each, `None` if there is none.
    pub(crate) fn partial_number(&self) -> Option<u64> {
        let frame = self.connection.partial_number().map(|number| 2 * number);
        let record = self.tls.as_ref().filter(|tls| !tls.partial.is_none()).map(|tls| 2 * tls.records + 1);
        frame.or(record)
    }

    /// Bytes kept of a partial frame and a partial record.
    pub(crate) fn partial_bytes(&self) -> usize {
        self.connection.partial().len() + self.tls.as_ref().map_or(0, |tls| tls.partial.bytes().len())
    }

    /// Bytes that the peer has to send, at least, before a partial frame or record is whole. `None` if nothing is partial, or
    /// only the header of a frame.
    pub(crate) fn missing_bytes(&self) -> Option<usize> {
        let frame = self.connection.partial().missing_bytes();
        let Some(tls) = &self.tls else { return frame };
        let Some(record) = tls.partial.missing_bytes() else { return frame };
        // What has come of the record may belong to the frame.
        Some(frame.map_or(record, |frame| record.max(frame.saturating_sub(tls.partial.bytes().len()))))
    }

    /// Whether giving up what is partial would return memory to the pool.
    pub(crate) fn holds_memory(&self) -> bool {
        self.connection.partial().holds_memory() || self.tls.as_ref().is_some_and(|tls| !tls.partial.is_none())
    }

    /// Gives up what is partial.
    pub(crate) fn drop_partial(&mut self) {
        self.connection.drop_partial();
        if let Some(tls) = &mut self.tls {
            tls.partial = PartialRecord::default();
        }
    }

    /// Bytes of the stream in front of the partial frame, or record: everything in them is decided.
    pub(crate) fn decided_bytes(&self) -> u64 {
        match &self.tls {
            None => self.received_bytes - self.connection.partial().len() as u64,
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
