//! A blocking client that can also misbehave.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use corelane_wire::{Answer, HEADER_BYTES, decode_answer};
use rustix::net::{AddressFamily, SocketType, sockopt};

use crate::DEADLINE;
use crate::frames::COMMIT_REQUEST;

/// One connection to the data port. Small writes go out at once.
#[derive(Debug)]
pub struct Peer {
    stream: TcpStream,
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
        Self { stream }
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
        Self { stream: self.stream.try_clone().expect("a descriptor is left") }
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
        self.stream.write_all(bytes).expect("the server takes what is sent");
    }

    /// Writes all of it, or finds that the server has closed.
    ///
    /// # Errors
    /// The broken connection.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
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
        if self.stream.read(&mut header[..1]).expect("the server answers or closes") == 0 {
            return None;
        }
        self.stream.read_exact(&mut header[1..]).expect("a header comes whole");
        let mut payload = vec![0; u32::from_be_bytes(header) as usize];
        self.stream.read_exact(&mut payload).expect("a payload comes whole");
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

    /// Sends a FIN, and goes on reading.
    ///
    /// # Panics
    /// When the connection is broken.
    pub fn half_close(&mut self) {
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
