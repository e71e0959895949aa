//! TLS of the data port: one configuration made of certificate, key, and those whom clients' certificates must come from.

use std::path::PathBuf;
use std::sync::Arc;

use corelane_files::{LoadError, Reloaded, read_file};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme,
};

use crate::certificates::{certified, config_builder, provider, without_resumption};

/// The configuration that handshakes begin with, from files that are read again when they change.
#[derive(Debug)]
pub struct DataPortTls {
    files: Reloaded<Made>,
}

struct Made {
    config: Arc<ServerConfig>,
    expires_unix_seconds: i64,
}

/// The files, all PEM.
#[derive(Clone, Debug)]
pub struct DataPortFiles {
    /// The server's own certificate first, then those between it and the authority.
    pub certificate: PathBuf,
    /// Its key, without a passphrase.
    pub key: PathBuf,
    /// Authorities of which clients need a certificate, if they need one; may hold their revocation lists, too.
    pub client_ca: Option<PathBuf>,
    /// Revocation lists of these authorities. Where there is any list, a certificate of whose issuer there is none is
    /// refused.
    pub client_crl: Option<PathBuf>,
}

impl DataPortTls {
    /// Reads all files.
    ///
    /// # Errors
    /// When one cannot be read, or they do not belong together.
    pub fn load(files: DataPortFiles) -> Result<Self, LoadError> {
        let DataPortFiles { certificate, key, client_ca, client_crl } = files;
        let paths = [Some(certificate), Some(key), client_ca, client_crl];
        Ok(Self { files: Reloaded::load(paths.into_iter().flatten().collect(), made)? })
    }

    /// What handshakes begin with from now on.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.files.current().config)
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

fn made(paths: &[PathBuf]) -> Result<Made, LoadError> {
    let (pair, trusted) = paths.split_at(2);
    let own = certified(pair)?;
    let builder = config_builder();
    let builder = match verifier(trusted)? {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = without_resumption(builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(own.key))));
    // The record layer works where the bytes were received.
    config.enable_secret_extraction = true;
    Ok(Made { config: Arc::new(config), expires_unix_seconds: own.expires_unix_seconds })
}

fn verifier(paths: &[PathBuf]) -> Result<Option<Arc<dyn ClientCertVerifier>>, LoadError> {
    let Some(authorities) = paths.first() else { return Ok(None) };
    let (mut roots, mut lists) = (RootCertStore::empty(), Vec::new());
    for path in paths {
        let text = read_file(path)?;
        let no_pem = |error| LoadError::new(path, format_args!("is no PEM file: {error}"));
        let mut found = 0;
        for certificate in CertificateDer::pem_slice_iter(&text) {
            found += 1;
            let added = roots.add(certificate.map_err(no_pem)?);
            added.map_err(|error| LoadError::new(path, format_args!("certificate {found} of the file: {error}")))?;
        }
        for list in CertificateRevocationListDer::pem_slice_iter(&text) {
            found += 1;
            lists.push(list.map_err(no_pem)?);
        }
        if found == 0 {
            let what = "has neither a certificate nor a revocation list; it has to be PEM";
            return Err(LoadError::new(path, what));
        }
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).with_crls(lists);
    let inner = builder.build();
    inner.map(|inner| Some(Arc::new(ShortChains { inner }) as Arc<dyn ClientCertVerifier>)).map_err(|error| match error
    {
        VerifierBuilderError::NoRootAnchors => {
            LoadError::new(authorities, "has no certificate of an authority, so that no client could be trusted")
        }
        VerifierBuilderError::InvalidCrl(error) => {
            let path = paths.last().unwrap_or(authorities);
            LoadError::new(path, format_args!("has a revocation list that cannot be used: {error:?}"))
        }
        error => LoadError::new(authorities, error),
    })
}

/// Refuses chains beyond a bound before it looks into them: rustls keeps a client's chain as long as its connection.
#[derive(Debug)]
struct ShortChains {
    inner: Arc<dyn ClientCertVerifier>,
}

/// Longest chain of a client, in bytes of its certificates. Three of RSA with 4 096 bits take 6 KB.
pub const CLIENT_CHAIN_BYTES_MAX: usize = 8 * 1024;

impl ClientCertVerifier for ShortChains {
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let bytes = end_entity.len() + intermediates.iter().map(|certificate| certificate.len()).sum::<usize>();
        if bytes > CLIENT_CHAIN_BYTES_MAX {
            return Err(CertificateError::BadEncoding.into());
        }
        self.inner.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }
}

#[cfg(test)]
mod tests;
