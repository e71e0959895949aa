//! The TLS side of a simulated device, with a stock client.
//!
//! Keys are of Ed25519: its signatures all have one length, so that every run of a seed sees the same bytes' places.

use std::io::{Read, Write};
use std::sync::{Arc, OnceLock};

use corelane_shard::TlsConfig;
use corelane_tls::{DataPortFiles, DataPortTls};
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

/// Both sides' settings, made once a process.
fn settings() -> &'static (TlsConfig, Arc<ClientConfig>) {
    static SETTINGS: OnceLock<(TlsConfig, Arc<ClientConfig>)> = OnceLock::new();
    SETTINGS.get_or_init(|| {
        let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
        let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a host's name");
        let certificate = params.self_signed(&key).expect("a fresh key signs");
        let directory = tempfile::tempdir().expect("a directory");
        let [certificate_file, key_file] = ["certificate", "key"].map(|name| directory.path().join(name));
        std::fs::write(&certificate_file, certificate.pem()).expect("a file");
        std::fs::write(&key_file, key.serialize_pem()).expect("a file");
        let files = DataPortFiles { certificate: certificate_file, key: key_file, client_ca: None, client_crl: None };
        let server = DataPortTls::load(files).expect("certificate and key belong together").config();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).expect("a certificate");
        let client = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        (server, Arc::new(client))
    })
}

/// What shards begin handshakes with.
pub(crate) fn server_config() -> TlsConfig {
    Arc::clone(&settings().0)
}

/// A device's end.
pub(crate) struct ClientTls {
    connection: ClientConnection,
}

impl ClientTls {
    pub(crate) fn new() -> Self {
        let name = ServerName::try_from("localhost").expect("a name");
        let mut connection = ClientConnection::new(Arc::clone(&settings().1), name).expect("a client");
        connection.set_buffer_limit(None);
        Self { connection }
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    pub(crate) fn write(&mut self, data: &[u8]) {
        self.connection.writer().write_all(data).expect("there is no limit");
    }

    pub(crate) fn end(&mut self) {
        self.connection.send_close_notify();
    }

    /// What is to be sent.
    pub(crate) fn take_records(&mut self, out: &mut Vec<u8>) {
        while self.connection.wants_write() {
            self.connection.write_tls(out).expect("a vector takes all");
        }
    }

    /// Opens what has come; `Err` names what was wrong with it.
    pub(crate) fn read(&mut self, mut bytes: &[u8], into: &mut Vec<u8>) -> Result<(), String> {
        while !bytes.is_empty() && self.connection.read_tls(&mut bytes).is_ok_and(|count| count > 0) {
            self.connection.process_new_packets().map_err(|error| error.to_string())?;
            // An error only says that there is no more for now.
            let _ = self.connection.reader().read_to_end(into);
        }
        Ok(())
    }
}
