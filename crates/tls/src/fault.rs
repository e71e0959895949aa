//! Why TLS with a peer came to nothing.

use rustls::{AlertDescription, Error};

/// What ended TLS with a peer: an alert (RFC 8446 section 6) that was due to it, or that it sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsFault {
    alert: u8,
    is_received: bool,
}

impl TlsFault {
    /// The bytes are none of TLS. Alert 0 is close_notify, which is no fault, so the number is free.
    pub const NOT_TLS: Self = Self { alert: 0, is_received: false };

    pub(crate) fn sent(alert: AlertDescription) -> Self {
        Self { alert: alert.into(), is_received: false }
    }

    pub(crate) fn received(alert: AlertDescription) -> Self {
        Self { alert: alert.into(), is_received: true }
    }

    pub(crate) fn of(error: &Error) -> Self {
        Self::sent(match error {
            Error::AlertReceived(alert) => return Self::received(*alert),
            Error::InvalidCertificate(why) => why.clone().into(),
            Error::InvalidMessage(why) => (*why).into(),
            Error::NoCertificatesPresented => AlertDescription::CertificateRequired,
            Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
                AlertDescription::UnexpectedMessage
            }
            Error::PeerIncompatible(_) => AlertDescription::HandshakeFailure,
            Error::PeerMisbehaved(_) => AlertDescription::IllegalParameter,
            Error::PeerSentOversizedRecord => AlertDescription::RecordOverflow,
            Error::DecryptError => AlertDescription::BadRecordMac,
            Error::NoApplicationProtocol => AlertDescription::NoApplicationProtocol,
            _ => AlertDescription::InternalError,
        })
    }

    /// What is sent in answer to it: nothing to a peer that told it.
    pub(crate) fn alert(self) -> Option<AlertDescription> {
        match self {
            Self { is_received: true, .. } => None,
            Self::NOT_TLS => Some(AlertDescription::UnexpectedMessage),
            Self { alert, .. } => Some(alert.into()),
        }
    }

    /// The alert's number, plus 256 when it came from the peer.
    pub fn code(self) -> u64 {
        u64::from(self.alert) + if self.is_received { 256 } else { 0 }
    }
}
