//! The certificate that handshakes present.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use corelane_files::{LoadError, Reloaded, read_file};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ConfigBuilder, Error, InconsistentKeys, ServerConfig, WantsVerifier};
use x509_parser::parse_x509_certificate;

/// A chain of certificates and its key, from two PEM files that are read again when they change.
pub struct CertificateSource {
    files: Reloaded<Certified>,
}

pub(crate) struct Certified {
    pub(crate) key: Arc<CertifiedKey>,
    pub(crate) expires_unix_seconds: i64,
}

impl CertificateSource {
    /// Reads both files: the chain with the server's own certificate first, and its key without a passphrase.
    ///
    /// # Errors
    /// When one cannot be read, or they do not belong together.
    pub fn load(certificate: PathBuf, key: PathBuf) -> Result<Self, LoadError> {
        Ok(Self { files: Reloaded::load(vec![certificate, key], certified)? })
    }

    /// When the first of the certificates in use expires, in seconds since the Unix epoch.
    pub fn expires_unix_seconds(&self) -> i64 {
        self.files.current().expires_unix_seconds
    }

    /// As [`Reloaded::reload`].
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn reload(&self) -> Result<(), LoadError> {
        self.files.reload()
    }

    /// As [`Reloaded::reload_if_changed`].
    pub fn reload_if_changed(&self) -> Option<Result<(), LoadError>> {
        self.files.reload_if_changed()
    }
}

impl ResolvesServerCert for CertificateSource {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.files.current().key))
    }
}

impl fmt::Debug for CertificateSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.files.fmt(f)
    }
}

/// TLS 1.2 and 1.3 for a server that shows these certificates and asks clients for none. `protocols` are offered by
/// ALPN, if there are any. No session is resumed, so that every handshake shows the certificate in use.
pub fn server_config(certificates: Arc<CertificateSource>, protocols: &[&[u8]]) -> ServerConfig {
    let mut config = without_resumption(config_builder().with_no_client_auth().with_cert_resolver(certificates));
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    config
}

/// TLS 1.2 and 1.3.
pub(crate) fn config_builder() -> ConfigBuilder<ServerConfig, WantsVerifier> {
    ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .expect("the provider has cipher suites for both versions")
}

/// Lets every connection shake hands in full, so that each is checked against the certificates and lists in use.
pub(crate) fn without_resumption(mut config: ServerConfig) -> ServerConfig {
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}

/// Where all cryptography comes from.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

pub(crate) fn certified(paths: &[PathBuf]) -> Result<Certified, LoadError> {
    let [certificate, key] = paths else { unreachable!("a source has two files") };
    let chain = chain(certificate)?;
    let expires_unix_seconds = first_expiry(&chain).map_err(|what| LoadError::new(certificate, what))?;
    let made = CertifiedKey::from_der(chain, private_key(key)?, &provider());
    let made = made.map_err(|error| match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => LoadError::new(
            key,
            format_args!("is not the key of the first certificate in {}; give both of one pair", certificate.display()),
        ),
        Error::InvalidCertificate(_) => LoadError::new(certificate, error),
        error => {
            LoadError::new(key, format_args!("{error}; use RSA of 2048 bits or more, ECDSA P-256 or P-384, Ed25519"))
        }
    })?;
    Ok(Certified { key: Arc::new(made), expires_unix_seconds })
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, LoadError> {
    let chain = CertificateDer::pem_slice_iter(&read_file(path)?).collect::<Result<Vec<_>, _>>();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        Ok(_) => Err(LoadError::new(
            path,
            "has no certificate; it has to be PEM, with the server's own certificate first and then those between it and \
             the authority",
        )),
        Err(error) => Err(LoadError::new(path, format_args!("is no PEM file of certificates: {error}"))),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, LoadError> {
    // The reason would not help: an encrypted key, say, counts as no key at all.
    PrivateKeyDer::from_pem_slice(&read_file(path)?).map_err(|_| {
        LoadError::new(path, "has no private key; it has to be PEM (PKCS#8, PKCS#1 or SEC1), without a passphrase")
    })
}

fn first_expiry(chain: &[CertificateDer<'_>]) -> Result<i64, String> {
    let expiries = chain.iter().enumerate().map(|(index, certificate)| match parse_x509_certificate(certificate) {
        Ok((_, certificate)) => Ok(certificate.validity().not_after.timestamp()),
        Err(error) => Err(format!("certificate {} of the file is not X.509: {error}", index + 1)),
    });
    Ok(expiries.collect::<Result<Vec<_>, _>>()?.into_iter().min().expect("a chain has a certificate"))
}

#[cfg(test)]
mod tests;
