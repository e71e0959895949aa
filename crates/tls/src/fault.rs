//! Why TLS with a peer came to nothing.

use rustls::{AlertDescription, Error};

/// What ended TLS with a peer. Alerts are by their number (RFC 8446 section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFault {
    /// The bytes are not TLS.
    NotTls,
    /// The peer broke a rule, and this alert was due to it.
    AlertSent(u8),
    /// The peer sent this alert.
    AlertReceived(u8),
}

impl TlsFault {
    pub(crate) fn sent(alert: AlertDescription) -> Self {
        Self::AlertSent(alert.into())
    }

    pub(crate) fn received(alert: AlertDescription) -> Self {
        Self::AlertReceived(alert.into())
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

    /// The alert that is due to the peer, which needs none after its own.
    pub(crate) fn alert(self) -> Option<AlertDescription> {
        match self {
            Self::NotTls => Some(AlertDescription::UnexpectedMessage),
            Self::AlertSent(alert) => Some(alert.into()),
            Self::AlertReceived(_) => None,
        }
    }
}
