//! One connection: its write buffer, commit requests and answers.
//!
//! Owns the socket and no task: bytes move while one of its methods is awaited. Each of them reads and writes at once,
//! so a server that answers or closes in the middle of a long write is heard, and neither side waits for the other to
//! read first. Dropping one of their futures loses nothing. Ends in one `ClientError`, after which it is only to be
//! dropped, or in `finish`.

use std::{collections::VecDeque, io, time::Duration};

use corelane_wire::{Answer, UNANSWERED_REQUESTS_MAX};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::Interest,
    net::TcpStream,
    time::{Instant, timeout_at},
};

use crate::{
    ClientError,
    replies::{Replies, Reply},
};

/// A connection to a data port that has answered a commit request.
#[derive(Debug)]
pub struct Client {
    address: String,
    stream: TcpStream,
    /// Frames to be written: those from `written` on.
    outgoing: Vec<u8>,
    written: usize,
    replies: Replies,
    /// Answers that came and were not taken.
    answers: VecDeque<Answer>,
    /// The last answer that came.
    last_answer: Answer,
    /// Commit requests that have no answer yet.
    pending: usize,
}

impl Client {
    /// Connects to `address` (`host:port`), sends one commit request and waits for its answer, all within `timeout`.
    ///
    /// The answer proves that a corelane server is at the other end, and having asked once makes the server explain a
    /// later close by its last frame.
    ///
    /// # Errors
    /// `Unreachable`, `ConnectTimeout`, `NotCorelane`, or `Closed` by a server that takes no more connections.
    pub async fn connect(address: &str, timeout: Duration) -> Result<Self, ClientError> {
        let deadline = Instant::now() + timeout;
        let unreachable = |source| ClientError::Unreachable { address: address.to_owned(), source };
        let stream = timeout_at(deadline, TcpStream::connect(address))
            .await
            .map_err(|_| ClientError::ConnectTimeout { address: address.to_owned(), timeout })?
            .map_err(unreachable)?;
        // The buffer here gathers small frames; what is flushed should go.
        stream.set_nodelay(true).map_err(unreachable)?;
        SockRef::from(&stream).set_tcp_keepalive(&keepalive()).map_err(unreachable)?;
        let mut client = Self {
            address: address.to_owned(),
            stream,
            outgoing: Vec::with_capacity(WRITE_BUFFER_BYTES),
            written: 0,
            replies: Replies::default(),
            answers: VecDeque::new(),
            last_answer: Answer::default(),
            pending: 0,
        };
        match timeout_at(deadline, client.commit()).await {
            Ok(Ok(_)) => Ok(client),
            Ok(Err(ClientError::Closed(closing))) => Err(ClientError::Closed(closing)),
            Ok(Err(error)) => Err(client.not_corelane(match error {
                ClientError::InvalidReply if client.replies.is_http() => "answered HTTP",
                ClientError::InvalidReply => "answered in another protocol",
                _ => "closed the connection before it answered, unless a limit or an address rule made it",
            })),
            Err(_) => Err(client.not_corelane("accepted the connection and did not answer a commit request in time")),
        }
    }

    /// Queues whole frames (`corelane_wire::encode_event` makes them) and, once the write buffer is full, writes.
    ///
    /// # Errors
    /// `Closed`, `Lost` or `InvalidReply` when the connection ended.
    pub async fn send(&mut self, frames: &[u8]) -> Result<(), ClientError> {
        self.outgoing.extend_from_slice(frames);
        if self.outgoing.len() - self.written >= WRITE_BUFFER_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    /// Queues a commit request; [`answer`](Self::answer) returns its answer. While [`UNANSWERED_REQUESTS_MAX`] requests have
    /// none, which is as many as the protocol allows, it first writes what is queued and waits for an answer.
    ///
    /// # Errors
    /// `Closed`, `Lost` or `InvalidReply` when the connection ended before there was room.
    pub async fn request_commit(&mut self) -> Result<(), ClientError> {
        while self.pending >= UNANSWERED_REQUESTS_MAX {
            self.turn().await?;
        }
        self.outgoing.extend_from_slice(&COMMIT_REQUEST);
        self.pending += 1;
        Ok(())
    }

    /// Writes all that is queued.
    ///
    /// # Errors
    /// `Closed`, `Lost` or `InvalidReply` when the connection ended.
    pub async fn flush(&mut self) -> Result<(), ClientError> {
        while self.written < self.outgoing.len() {
            self.turn().await?;
        }
        Ok(())
    }

    /// The next answer, writing what is queued meanwhile. It takes as long as the server needs to store what was sent.
    ///
    /// # Errors
    /// `Closed`, `Lost` or `InvalidReply` when the connection ended before the answer came.
    ///
    /// # Panics
    /// When no commit request is without its answer: it would wait for ever.
    pub async fn answer(&mut self) -> Result<Answer, ClientError> {
        assert!(self.pending + self.answers.len() > 0, "an answer is awaited that nobody asked for");
        loop {
            if let Some(answer) = self.answers.pop_front() {
                return Ok(answer);
            }
            self.turn().await?;
        }
    }

    /// Sends a commit request and waits for its answer, which covers everything sent before. Answers to earlier
    /// requests that were not taken are passed over.
    ///
    /// # Errors
    /// As [`answer`](Self::answer).
    pub async fn commit(&mut self) -> Result<Answer, ClientError> {
        self.request_commit().await?;
        while self.pending > 0 {
            self.turn().await?;
        }
        self.answers.clear();
        Ok(self.last_answer)
    }

    /// Waits until the connection ends, for callers who have nothing to send just now; answers that come are kept, and
    /// what is queued is written.
    pub async fn closed(&mut self) -> ClientError {
        loop {
            if let Err(error) = self.turn().await {
                return error;
            }
        }
    }

    /// Commits what was sent, half-closes, and waits until the server has closed its direction, too.
    ///
    /// # Errors
    /// As [`answer`](Self::answer). Once the commit is answered nothing that happens is an error.
    pub async fn finish(mut self) -> Result<Answer, ClientError> {
        let answer = self.commit().await?;
        // The commit is answered, so how the rest goes is of no consequence: it only spares the server a reset.
        if SockRef::from(&self.stream).shutdown(std::net::Shutdown::Write).is_ok() {
            let _ = tokio::time::timeout(FINISH_TIMEOUT, self.closed()).await;
        }
        Ok(answer)
    }

    /// Gives the socket, which does not block, to a caller with a loop of its own, and what cuts its answers.
    ///
    /// # Errors
    /// When the socket cannot be taken out of the runtime.
    ///
    /// # Panics
    /// When frames are queued or answers are awaited: they would be lost.
    pub fn into_parts(self) -> io::Result<(std::net::TcpStream, Replies)> {
        assert!(self.outgoing.is_empty() && self.pending == 0, "nothing is under way");
        Ok((self.stream.into_std()?, self.replies))
    }

    /// Waits until the socket can do something, and does it.
    async fn turn(&mut self) -> Result<(), ClientError> {
        let has_outgoing = self.written < self.outgoing.len();
        let interest = if has_outgoing { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        let ready = self.stream.ready(interest).await.map_err(|error| self.lost(error))?;
        if ready.is_readable() {
            self.read()?;
        }
        if has_outgoing && ready.is_writable() {
            self.write()?;
        }
        Ok(())
    }

    fn read(&mut self) -> Result<(), ClientError> {
        let mut bytes = [0; READ_BYTES];
        match self.stream.try_read(&mut bytes) {
            Ok(0) => {
                Err(self.lost(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed it without a word")))
            }
            Ok(count) => {
                self.replies.extend(&bytes[..count]);
                self.take_replies()
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(self.lost(error)),
        }
    }

    fn take_replies(&mut self) -> Result<(), ClientError> {
        while let Some(reply) = self.replies.next_reply().map_err(|_| ClientError::InvalidReply)? {
            match reply {
                Reply::Committed(answer) => {
                    self.pending = self.pending.checked_sub(1).ok_or(ClientError::InvalidReply)?;
                    self.last_answer = answer;
                    self.answers.push_back(answer);
                }
                Reply::Closing(closing) => return Err(ClientError::Closed(closing)),
            }
        }
        Ok(())
    }

    fn write(&mut self) -> Result<(), ClientError> {
        match self.stream.try_write(&self.outgoing[self.written..]) {
            Ok(count) => {
                self.written += count;
                if self.written == self.outgoing.len() {
                    self.outgoing.clear();
                    self.written = 0;
                }
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(self.explain(error)),
        }
    }

    /// A write failed, so the server has closed. Its last frame may have come since the last read, and says why.
    fn explain(&mut self, error: io::Error) -> ClientError {
        let mut bytes = [0; READ_BYTES];
        while let Ok(count @ 1..) = self.stream.try_read(&mut bytes) {
            self.replies.extend(&bytes[..count]);
            if let Err(error) = self.take_replies() {
                return error;
            }
        }
        self.lost(error)
    }

    fn lost(&self, source: io::Error) -> ClientError {
        ClientError::Lost { source, answer: self.last_answer }
    }

    fn not_corelane(&self, found: &'static str) -> ClientError {
        ClientError::NotCorelane { address: self.address.clone(), found }
    }
}

/// A server that vanished is noticed in a minute, also while nothing is sent and an answer is awaited.
fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10)).with_retries(3)
}

/// An empty frame.
const COMMIT_REQUEST: [u8; 4] = [0; 4];

/// Frames are written once there are so many bytes of them: enough that a system call costs little a frame.
const WRITE_BUFFER_BYTES: usize = 64 * 1024;

/// An answer has some 30 bytes.
const READ_BYTES: usize = 4096;

/// How long a server that has answered everything may take to close its direction.
const FINISH_TIMEOUT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
