//! A blocking client that can also misbehave.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use corelane_wire::{Answer, HEADER_BYTES, decode_answer};
use rustix::net::{AddressFamily, SocketType, sockopt};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use crate::DEADLINE;
use crate::frames::COMMIT_REQUEST;

/// One connection to the data port. Small writes go out at once.
#[derive(Debug)]
pub struct Peer {
    stream: TcpStream,
    tls: Option<Box<ClientConnection>>,
}

/// A frame of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The answer to a commit request.
    Committed(Answer),
    /// The last frame.
    Closing {
        /// For a person.
        error: String,
        /// Why, as a metric's reason.
        code: String,
        /// How far the frames are decided.
        answer: Answer,
    },
}

impl Reply {
    /// How far the frames are decided.
    pub fn answer(&self) -> Answer {
        match self {
            Self::Committed(answer) | Self::Closing { answer, .. } => *answer,
        }
    }
}

impl Peer {
    /// # Panics
    /// When nobody listens.
    pub fn connect(address: SocketAddr) -> Self {
        Self::of(TcpStream::connect(address).unwrap_or_else(|error| panic!("cannot connect to {address}: {error}")))
    }

    /// A peer over a connection that is open.
    ///
    /// # Panics
    /// When the socket takes no options.
    pub fn of(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("a fresh socket takes options");
        stream.set_read_timeout(Some(DEADLINE)).expect("a fresh socket takes options");
        stream.set_write_timeout(Some(DEADLINE)).expect("a fresh socket takes options");
        Self { stream, tls: None }
    }

    /// A peer that speaks TLS with a server named `localhost`. Shakes hands when it first sends or reads.
    ///
    /// # Panics
    /// When nobody listens.
    pub fn connect_tls(address: SocketAddr, config: &Arc<ClientConfig>) -> Self {
        let name = ServerName::try_from("localhost").expect("a host's name");
        let mut tls = ClientConnection::new(Arc::clone(config), name).expect("a config that fits");
        tls.set_buffer_limit(None);
        Self { tls: Some(Box::new(tls)), ..Self::connect(address) }
    }

    /// The records that these bytes become, for the caller to send.
    ///
    /// # Panics
    /// When it does not speak TLS, or has not shaken hands.
    pub fn seal(&mut self, bytes: &[u8]) -> Vec<u8> {
        let tls = self.tls.as_mut().expect("a peer with TLS");
        assert!(!tls.is_handshaking(), "hands are shaken first");
        tls.writer().write_all(bytes).expect("memory takes what is sent");
        let mut records = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut records).expect("memory takes what is sent");
        }
        records
    }

    /// Writes bytes as they are, with TLS or without.
    ///
    /// # Errors
    /// The broken connection.
    pub fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Begins to shake hands, and no more.
    ///
    /// # Panics
    /// When it does not speak TLS, or the server has closed.
    pub fn send_hello(&mut self) {
        let tls = self.tls.as_mut().expect("a peer with TLS");
        tls.write_tls(&mut self.stream).expect("an open connection takes bytes");
    }

    /// Shakes hands now.
    ///
    /// # Errors
    /// When either side refuses; one that the server refuses may also show only at the next read.
    ///
    /// # Panics
    /// When it does not speak TLS.
    pub fn shake_hands(&mut self) -> io::Result<()> {
        let tls = self.tls.as_mut().expect("a peer with TLS");
        while tls.is_handshaking() {
            tls.complete_io(&mut self.stream)?;
        }
        Ok(())
    }

    /// Reads something, 0 bytes at the end.
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            Some(tls) => rustls::Stream::new(tls.as_mut(), &mut self.stream).read(bytes),
            None => self.stream.read(bytes),
        }
    }

    fn read_whole(&mut self, mut bytes: &mut [u8], what: &str) {
        while !bytes.is_empty() {
            let count = self.read(bytes).unwrap_or_else(|error| panic!("{what} comes whole: {error}"));
            assert!(count > 0, "{what} is cut");
            bytes = &mut bytes[count..];
        }
    }

    /// As [`connect`](Self::connect), from one of the addresses of this host: all of 127.0.0.0/8 are.
    ///
    /// # Panics
    /// As [`connect`](Self::connect), and when the address is none of this host.
    pub fn connect_from(source: Ipv4Addr, address: SocketAddr) -> Self {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        rustix::net::bind(&socket, &SocketAddr::from((source, 0))).expect("an address of this host");
        rustix::net::connect(&socket, &address).unwrap_or_else(|error| panic!("{address} from {source}: {error}"));
        Self::of(TcpStream::from(socket))
    }

    /// The same connection for another thread: one that writes while this one reads.
    ///
    /// # Panics
    /// When no descriptor is left.
    pub fn share(&self) -> Self {
        assert!(self.tls.is_none(), "TLS is not shared");
        Self { stream: self.stream.try_clone().expect("a descriptor is left"), tls: None }
    }

    /// As the server sees this peer.
    ///
    /// # Panics
    /// When the socket is dead.
    pub fn address(&self) -> SocketAddr {
        self.stream.local_addr().unwrap_or_else(|_| (Ipv4Addr::UNSPECIFIED, 0).into())
    }

    /// Writes all of it.
    ///
    /// # Panics
    /// When the server has closed.
    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).expect("the server takes what is sent");
    }

    /// Writes all of it, or finds that the server has closed.
    ///
    /// # Errors
    /// The broken connection.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.tls {
            Some(tls) => rustls::Stream::new(tls.as_mut(), &mut self.stream).write_all(bytes),
            None => self.stream.write_all(bytes),
        }
    }

    /// Asks how far the frames so far are decided, and waits for the answer.
    ///
    /// # Panics
    /// When another frame or none comes.
    pub fn commit(&mut self) -> Answer {
        self.send(&COMMIT_REQUEST);
        self.answer()
    }

    /// The answer to the oldest commit request that has none.
    ///
    /// # Panics
    /// When another frame or none comes.
    pub fn answer(&mut self) -> Answer {
        match self.reply() {
            Some(Reply::Committed(answer)) => answer,
            other => panic!("an answer is awaited, not {other:?}"),
        }
    }

    /// The server's next frame; `None` for its FIN.
    ///
    /// # Panics
    /// When the connection is reset, cut inside a frame, or silent for too long.
    pub fn reply(&mut self) -> Option<Reply> {
        let mut header = [0; HEADER_BYTES];
        if self.read(&mut header[..1]).expect("the server answers or closes") == 0 {
            return None;
        }
        self.read_whole(&mut header[1..], "a header");
        let mut payload = vec![0; u32::from_be_bytes(header) as usize];
        self.read_whole(&mut payload, "a payload");
        Some(match decode_answer(&payload).expect("the server sends answers") {
            corelane_wire::Reply::Committed(answer) => Reply::Committed(answer),
            corelane_wire::Reply::Closing { error, code, answer } => {
                Reply::Closing { error: error.to_owned(), code: code.to_owned(), answer }
            }
        })
    }

    /// As [`reply`](Self::reply); `None` for a reset, too.
    ///
    /// # Panics
    /// When the connection is cut inside a frame, or silent for too long.
    pub fn try_reply(&mut self) -> Option<Reply> {
        match self.stream.peek(&mut [0]) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => None,
            _ => self.reply(),
        }
    }

    /// Whether a frame begins to come, rather than any kind of end.
    pub fn is_answered(&mut self) -> bool {
        self.read(&mut [0]).is_ok_and(|count| count == 1)
    }

    /// Every further frame of the server until its FIN.
    ///
    /// # Panics
    /// As [`reply`](Self::reply).
    pub fn replies(&mut self) -> Vec<Reply> {
        std::iter::from_fn(|| self.reply()).collect()
    }

    /// Whether a reply, or the end, has come and is still unread.
    ///
    /// # Panics
    /// When the socket is dead.
    pub fn has_reply(&self) -> bool {
        self.stream.set_nonblocking(true).expect("an open socket takes options");
        let seen = self.stream.peek(&mut [0; 1]);
        self.stream.set_nonblocking(false).expect("an open socket takes options");
        !matches!(seen, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Sends a FIN, with TLS behind a close_notify, and goes on reading.
    ///
    /// # Panics
    /// When the connection is broken.
    pub fn half_close(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            while tls.wants_write() {
                tls.write_tls(&mut self.stream).expect("an open connection takes bytes");
            }
        }
        self.stream.shutdown(Shutdown::Write).expect("an open connection can be half-closed");
    }

    /// Takes in as little as the kernel lets it, so that what the server writes stays with the server.
    ///
    /// # Panics
    /// When the socket is dead.
    pub fn shrink_receive_buffer(&mut self) {
        sockopt::set_socket_recv_buffer_size(&self.stream, 1).expect("an open socket takes options");
    }

    /// Closes with a RST.
    ///
    /// # Panics
    /// When the socket is dead.
    pub fn reset(self) {
        sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO)).expect("an open socket takes options");
    }
}
