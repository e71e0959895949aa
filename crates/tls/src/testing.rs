//! A client and the data port's side of TLS, in memory.

use std::io::{Read, Write};
use std::sync::Arc;

use corelane_testkit::pki::{Authority, Identity};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ServerConfig};

use crate::{DataPortFiles, DataPortTls, Handshake, Opened, Records, TlsFault, record_bytes};

/// The data port of an authority's fleet; `revoked` when clients need a certificate, and not one of these.
pub(crate) fn server(authority: &Authority, revoked: Option<&[&Identity]>) -> Arc<ServerConfig> {
    let directory = tempfile::tempdir().unwrap();
    let (certificate, key) = authority.issue("localhost").write(directory.path(), "server");
    let client_ca = revoked.map(|revoked| {
        let path = directory.path().join("ca.pem");
        std::fs::write(&path, authority.certificate() + &authority.revocation_list(revoked)).unwrap();
        path
    });
    DataPortTls::load(DataPortFiles { certificate, key, client_ca, client_crl: None }).unwrap().config()
}

/// The server's side.
pub(crate) struct Served {
    handshake: Option<Handshake>,
    pub(crate) records: Option<Records>,
    cut: Vec<u8>,
    pub(crate) received: Vec<u8>,
    pub(crate) is_closed: bool,
    out: Vec<u8>,
}

impl Served {
    pub(crate) fn new(config: Arc<ServerConfig>) -> Self {
        let handshake = Some(Handshake::new(config).unwrap());
        Self { handshake, records: None, cut: Vec::new(), received: Vec::new(), is_closed: false, out: Vec::new() }
    }

    pub(crate) fn take(&mut self, mut bytes: &[u8]) -> Result<(), TlsFault> {
        if let Some(handshake) = &mut self.handshake {
            if !handshake.advance(&mut bytes, &mut self.out)? {
                assert!(bytes.is_empty());
                return Ok(());
            }
            self.records = self.handshake.take().map(|handshake| handshake.finish().unwrap());
        }
        self.cut.extend_from_slice(bytes);
        let records = self.records.as_mut().unwrap();
        while let Some(total) = record_bytes(&self.cut)?
            && total <= self.cut.len()
        {
            match records.open(&mut self.cut[..total])? {
                Opened::Data(place) => self.received.extend_from_slice(&self.cut[place]),
                Opened::Nothing => {}
                Opened::CloseNotify => self.is_closed = true,
            }
            self.cut.drain(..total);
        }
        Ok(())
    }

    pub(crate) fn end(&mut self, fault: Option<TlsFault>) {
        self.records.as_mut().unwrap().seal_end(fault, &mut self.out).unwrap();
    }
}

/// A stock client.
pub(crate) struct Client {
    pub(crate) tls: ClientConnection,
    read: Vec<u8>,
}

impl Client {
    pub(crate) fn new(config: Arc<ClientConfig>) -> Self {
        let tls = ClientConnection::new(config, ServerName::try_from("localhost").unwrap()).unwrap();
        Self { tls, read: Vec::new() }
    }

    pub(crate) fn queue(&mut self, data: &[u8]) {
        self.tls.writer().write_all(data).unwrap();
    }

    /// Passes bytes to and fro, to the server in pieces, until neither has any.
    pub(crate) fn pass(&mut self, served: &mut Served, piece: usize) -> Result<(), TlsFault> {
        loop {
            let mut sent = Vec::new();
            while self.tls.wants_write() {
                self.tls.write_tls(&mut sent).unwrap();
            }
            sent.chunks(piece).try_for_each(|piece| served.take(piece))?;
            if served.out.is_empty() && sent.is_empty() {
                return Ok(());
            }
            self.hear(served);
        }
    }

    /// Whatever it makes of the server's bytes.
    fn hear(&mut self, served: &mut Served) -> Option<rustls::Error> {
        let out = std::mem::take(&mut served.out);
        let mut out = &out[..];
        while !out.is_empty() && self.tls.read_tls(&mut out).is_ok() {
            if let Err(error) = self.tls.process_new_packets() {
                return Some(error);
            }
            // An error only says that there is no more for now.
            let _ = self.tls.reader().read_to_end(&mut self.read);
        }
        None
    }

    pub(crate) fn shake_hands(&mut self, served: &mut Served, piece: usize) -> Result<(), TlsFault> {
        self.pass(served, piece)?;
        assert!(!self.tls.is_handshaking() && served.records.is_some());
        Ok(())
    }

    /// Whether an alert of the server comes.
    pub(crate) fn was_told(&mut self, served: &mut Served) -> bool {
        matches!(self.hear(served), Some(rustls::Error::AlertReceived(_)))
    }

    /// Sends, is answered, and gives what it read.
    pub(crate) fn exchange(&mut self, served: &mut Served, up: &[u8], down: &[u8]) -> Vec<u8> {
        self.queue(up);
        self.pass(served, usize::MAX).unwrap();
        served.records.as_mut().unwrap().seal(down, &mut served.out).unwrap();
        assert!(self.hear(served).is_none());
        std::mem::take(&mut self.read)
    }

    pub(crate) fn close(&mut self, served: &mut Served) -> bool {
        served.end(None);
        self.hear(served);
        self.tls.reader().read(&mut [0]).is_ok_and(|count| count == 0)
    }
}
