//! The record layer of an open connection (RFC 8446 section 5, RFC 5246 section 6.2): records are opened where they lie.
//!
//! rustls has shaken hands and owns the key schedule; its cipher suites decrypt and encrypt. What is here is only what its
//! kernel interface leaves to the caller: to find records, and to act on what is in them. rustls's own connection would
//! copy every record into memory that it allocates for it.

use std::ops::Range;

use rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, Iv, MessageDecrypter, MessageEncrypter, OutboundChunks, OutboundPlainMessage,
};
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{
    AlertDescription, ConnectionTrafficSecrets, ContentType, Error, ExtractedSecrets, ProtocolVersion,
    SupportedCipherSuite,
};

use crate::TlsFault;

/// Type, version, length.
pub const RECORD_HEADER_BYTES: usize = 5;

/// Longest record, header included. TLS 1.2 would allow more, but no suite of today needs it.
pub const RECORD_BYTES_MAX: usize = RECORD_HEADER_BYTES + PLAINTEXT_BYTES_MAX + 256;

/// Longest plaintext of one record.
const PLAINTEXT_BYTES_MAX: usize = 16 * 1024;

/// Records without data that a peer may be ahead: each costs more than its bytes, a key update most of all.
const IDLE_RECORDS_MAX: u32 = 32;
/// Bytes of data that make up for one of them.
const BYTES_AN_IDLE_RECORD: usize = 256;

/// Bytes of the record that `bytes` begin with, header included; `None` when the header is not whole.
///
/// # Errors
/// When no record begins so.
pub fn record_bytes(bytes: &[u8]) -> Result<Option<usize>, TlsFault> {
    // The first byte tells most who speak another protocol.
    match bytes.first() {
        None => return Ok(None),
        Some(20..=23) => {}
        Some(_) => return Err(TlsFault::NotTls),
    }
    if bytes.get(1).is_some_and(|&major| major != 3) {
        return Err(TlsFault::NotTls);
    }
    let &[_, _, _, high, low, ..] = bytes else { return Ok(None) };
    let total = RECORD_HEADER_BYTES + usize::from(u16::from_be_bytes([high, low]));
    if total > RECORD_BYTES_MAX {
        return Err(TlsFault::sent(AlertDescription::RecordOverflow));
    }
    Ok(Some(total))
}

/// What a record brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened {
    /// Plaintext, at this place in the record's own bytes.
    Data(Range<usize>),
    /// Nothing for the application.
    Nothing,
    /// The peer's close_notify: no data follows.
    CloseNotify,
}

/// Both directions of an open connection.
pub struct Records {
    keys: KernelConnection<ServerConnectionData>,
    decrypter: Box<dyn MessageDecrypter>,
    /// Records opened with this key.
    opened: u64,
    encrypter: Box<dyn MessageEncrypter>,
    /// Records sealed with this key.
    sealed: u64,
    /// The peer has asked for new keys in our direction, too.
    owes_key_update: bool,
    idle_records: u32,
}

impl Records {
    pub(crate) fn new(
        secrets: ExtractedSecrets,
        keys: KernelConnection<ServerConnectionData>,
    ) -> Result<Self, TlsFault> {
        let suite = keys.negotiated_cipher_suite();
        let ((sealed, ours), (opened, theirs)) = (secrets.tx, secrets.rx);
        Ok(Self {
            keys,
            decrypter: decrypter(suite, theirs)?,
            opened,
            encrypter: encrypter(suite, ours)?,
            sealed,
            owes_key_update: false,
            idle_records: 0,
        })
    }

    /// Decrypts one whole record, as long as [`record_bytes`] tells, where it lies.
    ///
    /// # Errors
    /// When it is none that the peer may send now. The connection is to be closed then.
    pub fn open(&mut self, record: &mut [u8]) -> Result<Opened, TlsFault> {
        let is_tls13 = self.keys.protocol_version() == ProtocolVersion::TLSv1_3;
        let outer = ContentType::from(record[0]);
        if is_tls13 && outer != ContentType::ApplicationData {
            return Err(TlsFault::sent(AlertDescription::UnexpectedMessage));
        }
        let base = record.as_ptr() as usize;
        let sealed = InboundOpaqueMessage::new(outer, ProtocolVersion::TLSv1_2, &mut record[RECORD_HEADER_BYTES..]);
        let opened = self.decrypter.decrypt(sealed, self.opened).map_err(|error| TlsFault::of(&error))?;
        self.opened += 1;
        let start = opened.payload.as_ptr() as usize - base;
        let place = start..start + opened.payload.len();
        if opened.typ == ContentType::ApplicationData && !place.is_empty() {
            self.idle_records = self.idle_records.saturating_sub((place.len() / BYTES_AN_IDLE_RECORD) as u32);
            return Ok(Opened::Data(place));
        }
        self.idle_records += 1;
        if self.idle_records > IDLE_RECORDS_MAX {
            return Err(TlsFault::sent(AlertDescription::UnexpectedMessage));
        }
        match (opened.typ, opened.payload) {
            (ContentType::ApplicationData, _) => Ok(Opened::Nothing),
            (ContentType::Alert, &[_, description]) => match AlertDescription::from(description) {
                AlertDescription::CloseNotify => Ok(Opened::CloseNotify),
                // Says that a close_notify comes.
                AlertDescription::UserCanceled => Ok(Opened::Nothing),
                description => Err(TlsFault::received(description)),
            },
            // RFC 8446 section 4.6.3. Alone in its record, since what follows is under the new key.
            (ContentType::Handshake, &[KEY_UPDATE, 0, 0, 1, asked @ (0 | 1)]) if is_tls13 => {
                self.owes_key_update |= asked == 1;
                let (opened, theirs) = self.keys.update_rx_secret().map_err(|error| TlsFault::of(&error))?;
                self.decrypter = decrypter(self.keys.negotiated_cipher_suite(), theirs)?;
                self.opened = opened;
                Ok(Opened::Nothing)
            }
            _ => Err(TlsFault::sent(AlertDescription::UnexpectedMessage)),
        }
    }

    /// Appends `plaintext` to `out`, as records.
    ///
    /// # Errors
    /// When the keys are used up and TLS 1.2 has no way to change them. The connection is to be closed then.
    pub fn seal(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), TlsFault> {
        for part in plaintext.chunks(PLAINTEXT_BYTES_MAX) {
            self.update_keys_if_due(out)?;
            self.seal_record(ContentType::ApplicationData, part, out)?;
        }
        Ok(())
    }

    /// Appends our last record to `out`: the alert that a fault calls for, else close_notify. Nothing may be sealed
    /// after it.
    ///
    /// # Errors
    /// As [`seal`](Self::seal).
    pub fn seal_end(&mut self, fault: Option<TlsFault>, out: &mut Vec<u8>) -> Result<(), TlsFault> {
        let (level, alert) = match fault.and_then(TlsFault::alert) {
            None => (ALERT_WARNING, AlertDescription::CloseNotify),
            Some(alert) => (ALERT_FATAL, alert),
        };
        self.seal_record(ContentType::Alert, &[level, alert.into()], out)
    }

    fn update_keys_if_due(&mut self, out: &mut Vec<u8>) -> Result<(), TlsFault> {
        let suite = self.keys.negotiated_cipher_suite();
        // The last record under the old key is the one that announces the new one.
        let used_up = self.sealed + 1 >= confidentiality_limit(suite);
        if !used_up && !self.owes_key_update {
            return Ok(());
        }
        if suite.tls13().is_none() {
            return Err(TlsFault::sent(AlertDescription::InternalError));
        }
        self.seal_record(ContentType::Handshake, &[KEY_UPDATE, 0, 0, 1, 0], out)?;
        let (sealed, ours) = self.keys.update_tx_secret().map_err(|error| TlsFault::of(&error))?;
        self.encrypter = encrypter(suite, ours)?;
        self.sealed = sealed;
        self.owes_key_update = false;
        Ok(())
    }

    fn seal_record(&mut self, typ: ContentType, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), TlsFault> {
        let message =
            OutboundPlainMessage { typ, version: ProtocolVersion::TLSv1_2, payload: OutboundChunks::Single(plaintext) };
        let record = self.encrypter.encrypt(message, self.sealed).map_err(|error| TlsFault::of(&error))?;
        self.sealed += 1;
        out.extend_from_slice(&record.encode());
        Ok(())
    }
}

/// Handshake type of a key update.
const KEY_UPDATE: u8 = 24;

const ALERT_WARNING: u8 = 1;
const ALERT_FATAL: u8 = 2;

fn confidentiality_limit(suite: SupportedCipherSuite) -> u64 {
    match suite {
        SupportedCipherSuite::Tls12(suite) => suite.common.confidentiality_limit,
        SupportedCipherSuite::Tls13(suite) => suite.common.confidentiality_limit,
    }
}

fn decrypter(
    suite: SupportedCipherSuite,
    secrets: ConnectionTrafficSecrets,
) -> Result<Box<dyn MessageDecrypter>, TlsFault> {
    let (key, iv) = key_and_iv(secrets)?;
    Ok(match suite {
        SupportedCipherSuite::Tls13(suite) => suite.aead_alg.decrypter(key, iv),
        SupportedCipherSuite::Tls12(suite) => {
            suite.aead_alg.decrypter(key, &iv.as_ref()[..suite.aead_alg.key_block_shape().fixed_iv_len])
        }
    })
}

fn encrypter(
    suite: SupportedCipherSuite,
    secrets: ConnectionTrafficSecrets,
) -> Result<Box<dyn MessageEncrypter>, TlsFault> {
    let (key, iv) = key_and_iv(secrets)?;
    Ok(match suite {
        SupportedCipherSuite::Tls13(suite) => suite.aead_alg.encrypter(key, iv),
        SupportedCipherSuite::Tls12(suite) => {
            let (fixed, explicit) = iv.as_ref().split_at(suite.aead_alg.key_block_shape().fixed_iv_len);
            suite.aead_alg.encrypter(key, fixed, explicit)
        }
    })
}

fn key_and_iv(secrets: ConnectionTrafficSecrets) -> Result<(AeadKey, Iv), TlsFault> {
    match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => Ok((key, iv)),
        _ => Err(TlsFault::of(&Error::General("a cipher suite that the record layer does not know".into()))),
    }
}

#[cfg(test)]
mod tests;
