//! A handshake under way: bytes in, bytes out, and the record layer at its end.

use std::sync::Arc;

use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{AlertDescription, ServerConfig};

use crate::record::{Records, record_bytes};
use crate::{RECORD_BYTES_MAX, TlsFault};

/// Most bytes of a handshake that are kept until a message of it is whole. A chain of four certificates takes 8 KiB.
pub const HANDSHAKE_BYTES_MAX: usize = 32 * 1024;
const _: () = assert!(HANDSHAKE_BYTES_MAX > RECORD_BYTES_MAX, "a record can be kept whole");

/// The server's side of a handshake.
pub struct Handshake {
    connection: UnbufferedServerConnection,
    /// Bytes that came and make no whole record, or no whole message, yet.
    pending: Vec<u8>,
    /// Of `pending`, what `connection` has been shown.
    shown: usize,
}

impl Handshake {
    /// # Errors
    /// When the configuration is none that a handshake can begin with.
    pub fn new(config: Arc<ServerConfig>) -> Result<Self, TlsFault> {
        let connection = UnbufferedServerConnection::new(config).map_err(|error| TlsFault::of(&error))?;
        Ok(Self { connection, pending: Vec::new(), shown: 0 })
    }

    /// Takes the handshake's bytes from the front of `bytes`, and appends to `out` what is to be sent. Tells whether the
    /// handshake is complete; what is then left in `bytes` belongs to the records that follow.
    ///
    /// # Errors
    /// What ends the handshake. An alert for the peer, where there is one, is in `out`.
    pub fn advance(&mut self, bytes: &mut &[u8], out: &mut Vec<u8>) -> Result<bool, TlsFault> {
        // Record by record: behind the last one of the handshake begins what is not ours to decrypt.
        while self.take_record(bytes)? {
            let outcome = self.process(out);
            if outcome.is_err() {
                self.tell_alert(out);
            }
            if outcome? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The record layer of the complete handshake.
    ///
    /// # Errors
    /// When it is not complete, or its cipher suite is unknown.
    pub fn finish(self) -> Result<Records, TlsFault> {
        if !self.pending.is_empty() {
            return Err(TlsFault::sent(AlertDescription::UnexpectedMessage));
        }
        let (secrets, keys) =
            self.connection.dangerous_into_kernel_connection().map_err(|error| TlsFault::of(&error))?;
        Records::new(secrets, keys)
    }

    /// Moves the rest of one record over; whether it is whole now.
    fn take_record(&mut self, bytes: &mut &[u8]) -> Result<bool, TlsFault> {
        loop {
            let begun = &self.pending[self.shown..];
            let (wanted, is_known) = match record_bytes(begun)? {
                Some(total) => (total - begun.len(), true),
                None => (1, false),
            };
            if is_known && wanted == 0 {
                return Ok(true);
            }
            if self.pending.len() + wanted > HANDSHAKE_BYTES_MAX {
                return Err(TlsFault::sent(AlertDescription::RecordOverflow));
            }
            let taken = wanted.min(bytes.len());
            if taken == 0 {
                return Ok(false);
            }
            // Not twice what came before, as a vector grows by itself.
            self.pending.reserve_exact(wanted);
            let (front, rest) = bytes.split_at(taken);
            self.pending.extend_from_slice(front);
            *bytes = rest;
        }
    }

    /// Lets rustls work on what is pending until it needs more; whether the handshake is complete.
    fn process(&mut self, out: &mut Vec<u8>) -> Result<bool, TlsFault> {
        loop {
            let UnbufferedStatus { discard, state } = self.connection.process_tls_records(&mut self.pending);
            let outcome = match state {
                Ok(ConnectionState::EncodeTlsData(mut encode)) => {
                    append(out, |space| encode.encode(space));
                    None
                }
                Ok(ConnectionState::TransmitTlsData(transmit)) => {
                    transmit.done();
                    None
                }
                Ok(ConnectionState::BlockedHandshake) => Some(Ok(false)),
                Ok(ConnectionState::WriteTraffic(_)) => Some(Ok(true)),
                // A close_notify in the midst of a handshake, or data before its end.
                Ok(_) => Some(Err(TlsFault::sent(AlertDescription::UnexpectedMessage))),
                Err(error) => Some(Err(TlsFault::of(&error))),
            };
            self.pending.drain(..discard);
            if let Some(outcome) = outcome {
                self.shown = self.pending.len();
                return outcome;
            }
        }
    }

    /// The alert that rustls has queued before it failed. Once: then it would look at the same bytes again.
    fn tell_alert(&mut self, out: &mut Vec<u8>) {
        let UnbufferedStatus { state, .. } = self.connection.process_tls_records(&mut self.pending);
        if let Ok(ConnectionState::EncodeTlsData(mut encode)) = state {
            append(out, |space| encode.encode(space));
        }
    }
}

/// Lets `encode` write behind what `out` holds, as much room as it asks for.
fn append(out: &mut Vec<u8>, mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>) {
    let start = out.len();
    let written = match encode(&mut []) {
        Ok(written) => written,
        Err(EncodeError::InsufficientSize(size)) => {
            out.resize(start + size.required_size, 0);
            encode(&mut out[start..]).unwrap_or(0)
        }
        Err(EncodeError::AlreadyEncoded) => 0,
    };
    out.truncate(start + written);
}

#[cfg(test)]
mod tests;
