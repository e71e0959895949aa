//! HTTP/1.1 as far as tests need it: GET, one connection, answers with a length or in chunks.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::DEADLINE;

/// A connection that is kept between requests.
#[derive(Debug)]
pub struct HttpConnection<S: Read + Write = TcpStream> {
    stream: BufReader<S>,
}

/// What came back.
#[derive(Debug)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Status line and header.
    pub head: String,
    /// The whole body.
    pub body: String,
}

impl HttpConnection {
    /// # Errors
    /// When nobody listens.
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_nodelay(true)?;
        Ok(Self::over(stream))
    }
}

impl<S: Read + Write> HttpConnection<S> {
    /// Over a stream that is there already.
    pub fn over(stream: S) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    /// What it is over.
    pub fn stream(&mut self) -> &mut S {
        self.stream.get_mut()
    }

    /// Asks and waits for the whole answer.
    ///
    /// # Errors
    /// When the connection breaks, or the answer is none that this understands.
    pub fn get(&mut self, path: &str) -> io::Result<Response> {
        self.get_with(path, "")
    }

    /// As [`get`](Self::get), with header lines that each end in `\r\n`.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn get_with(&mut self, path: &str, header: &str) -> io::Result<Response> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{header}\r\n");
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut head = self.line()?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or(io::ErrorKind::InvalidData)?;
        let (mut bytes, mut chunked) = (0, false);
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let field = line.to_ascii_lowercase();
            if let Some(length) = field.strip_prefix("content-length:") {
                bytes = length.trim().parse().map_err(|_| io::ErrorKind::InvalidData)?;
            }
            chunked |= field == "transfer-encoding: chunked";
            head = head + "\n" + &line;
        }
        let body = if chunked { self.chunks()? } else { self.exactly(bytes)? };
        let body = String::from_utf8(body).map_err(|_| io::ErrorKind::InvalidData)?;
        Ok(Response { status, head, body })
    }

    fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let bytes = usize::from_str_radix(&self.line()?, 16).map_err(|_| io::ErrorKind::InvalidData)?;
            body.extend(self.exactly(bytes)?);
            self.line()?;
            if bytes == 0 {
                return Ok(body);
            }
        }
    }

    fn exactly(&mut self, bytes: usize) -> io::Result<Vec<u8>> {
        let mut body = vec![0; bytes];
        self.stream.read_exact(&mut body)?;
        Ok(body)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.stream.read_line(&mut line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }
}

/// Asks over a connection of its own.
///
/// # Errors
/// As [`HttpConnection`].
pub fn get(address: SocketAddr, path: &str) -> io::Result<Response> {
    HttpConnection::open(address)?.get(path)
}
