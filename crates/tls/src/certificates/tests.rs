use std::fs;

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ProtocolVersion, RootCertStore, ServerConnection};
use tempfile::TempDir;

use super::*;

/// PEM of a self-signed certificate for `localhost` that expires with a year, and of its key.
fn pair(expires: i32) -> (String, String) {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_after = date_time_ymd(expires, 1, 1);
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

struct Files {
    _directory: TempDir,
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    fn new((certificate, key): &(String, String)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let files = Self {
            certificate: directory.path().join("tls.crt"),
            key: directory.path().join("tls.key"),
            _directory: directory,
        };
        files.write(certificate, key);
        files
    }

    fn write(&self, certificate: &str, key: &str) {
        fs::write(&self.certificate, certificate).unwrap();
        fs::write(&self.key, key).unwrap();
    }

    fn load(&self) -> Result<CertificateSource, LoadError> {
        CertificateSource::load(self.certificate.clone(), self.key.clone())
    }
}

/// 1 January of a year, in seconds since the Unix epoch.
fn new_year(year: i32) -> i64 {
    date_time_ymd(year, 1, 1).unix_timestamp()
}

/// Shakes hands in memory and returns the version, and the certificate that the client saw.
fn handshake(
    server: &Arc<ServerConfig>,
    trusted: &[&str],
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Result<(ProtocolVersion, CertificateDer<'static>), Error> {
    let mut roots = RootCertStore::empty();
    for pem in trusted {
        roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut client = ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap();
    let mut server = ServerConnection::new(Arc::clone(server)).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        server.read_tls(&mut &wire[..]).unwrap();
        server.process_new_packets()?;
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        client.read_tls(&mut &wire[..]).unwrap();
        client.process_new_packets()?;
    }
    let seen = client.peer_certificates().unwrap()[0].clone().into_owned();
    Ok((client.protocol_version().unwrap(), seen))
}

#[test]
fn handshakes_after_a_change_see_the_new_certificate() {
    let (old, new) = (pair(2090), pair(2091));
    let files = Files::new(&old);
    let source = Arc::new(files.load().unwrap());
    let config = Arc::new(server_config(Arc::clone(&source), &[]));
    let seen = || handshake(&config, &[&old.0, &new.0], rustls::ALL_VERSIONS).unwrap().1;
    let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    assert_eq!((seen(), source.expires_unix_seconds()), (der(&old.0), new_year(2090)));

    // One file after the other, with a look between: the pair does not match meanwhile.
    fs::write(&files.certificate, &new.0).unwrap();
    assert!(source.reload_if_changed().is_none());
    fs::write(&files.key, &new.1).unwrap();
    assert!(source.reload_if_changed().is_none());
    source.reload_if_changed().unwrap().unwrap();
    assert_eq!((seen(), source.expires_unix_seconds()), (der(&new.0), new_year(2091)));

    for broken in ["", "nonsense", &old.0] {
        fs::write(&files.certificate, broken).unwrap();
        assert!(source.reload().is_err(), "{broken:?}");
        assert_eq!((seen(), source.expires_unix_seconds()), (der(&new.0), new_year(2091)));
    }
}

#[test]
fn both_versions_are_spoken() {
    let pair = pair(2090);
    let config = Arc::new(server_config(Arc::new(Files::new(&pair).load().unwrap()), &[]));
    for (version, expected) in
        [(&rustls::version::TLS12, ProtocolVersion::TLSv1_2), (&rustls::version::TLS13, ProtocolVersion::TLSv1_3)]
    {
        assert_eq!(handshake(&config, &[&pair.0], &[version]).unwrap().0, expected);
    }
}

#[test]
fn the_expiry_is_that_of_the_first_of_the_chain_to_expire() {
    let (own, between) = (pair(2095), pair(2040));
    let files = Files::new(&(format!("{}{}", own.0, between.0), own.1));
    assert_eq!(files.load().unwrap().expires_unix_seconds(), new_year(2040));
}

#[test]
fn an_error_names_the_file_and_what_would_mend_it() {
    let (one, other) = (pair(2090), pair(2090));
    let files = Files::new(&one);
    let error = |certificate: &str, key: &str| {
        files.write(certificate, key);
        files.load().unwrap_err().to_string()
    };
    for (certificate, key, file, mend) in [
        ("", &one.1[..], "tls.crt", "has no certificate"),
        (&one.1, &one.1, "tls.crt", "has no certificate"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &one.1, "tls.crt", "not X.509"),
        ("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", &one.1, "tls.crt", "no PEM file"),
        (&one.0, "", "tls.key", "without a passphrase"),
        (&one.0, &one.0, "tls.key", "without a passphrase"),
        (&one.0, &other.1, "tls.key", "is not the key of the first certificate in"),
    ] {
        let text = error(certificate, key);
        let (path, what) = text.split_once(": ").unwrap();
        assert!(path.ends_with(file) && what.contains(mend), "{text}");
    }
    fs::remove_file(&files.key).unwrap();
    assert!(files.load().unwrap_err().to_string().contains("tls.key: No such file"));
}

#[test]
fn nothing_prints_a_key() {
    let pair = pair(2090);
    let source = Files::new(&pair).load().unwrap();
    assert!(!format!("{source:?}").contains("key:"), "{source:?}");
}
