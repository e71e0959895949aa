//! One connection of the load: what is due on it, what is written, and the answers that come back.
//!
//! What is due is a number, not bytes: while the server does not read, only the numbers grow.

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    os::fd::{AsFd, BorrowedFd},
    time::Instant,
};

use corelane_client::{Answer, Closing, Replies, Reply};
use corelane_wire::UNANSWERED_REQUESTS_MAX;

use super::{corpus::Corpus, measured::Interval};

/// Which frames of the corpus a connection sends, and how often it asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deal {
    /// Its number; it sends this frame first.
    pub(super) index: u64,
    /// How many connections there are: the step from one frame to the next.
    pub(super) connections: u64,
    /// A commit request follows every so many frames; 0 for never.
    pub(super) commit_every: u64,
}

#[derive(Debug)]
pub(super) struct Connection {
    deal: Deal,
    stream: TcpStream,
    replies: Replies,
    /// Frames and commit requests to be written: those from `written` on.
    outgoing: Vec<u8>,
    written: usize,
    /// Frames that were due so far, and those of them that are sent: written, or in `outgoing`.
    scheduled: u64,
    sent: u64,
    /// When the frames that a commit request is to follow were due, of those that are not sent yet.
    planned: VecDeque<Instant>,
    /// The commit requests that have no answer yet.
    asked: VecDeque<Asked>,
    answer: Answer,
    /// Whether the socket took less than it was given, so that it is to be watched.
    pub(super) is_blocked: bool,
    /// Whether it is in the list of those with something to write.
    pub(super) is_listed: bool,
    ended: Option<String>,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    /// When the frame before it was due; none for the last request of all, which measures nothing.
    due: Option<Instant>,
    sent: Instant,
}

impl Connection {
    pub(super) fn new(stream: TcpStream, replies: Replies, deal: Deal) -> Self {
        Self {
            deal,
            stream,
            replies,
            outgoing: Vec::new(),
            written: 0,
            scheduled: 0,
            sent: 0,
            planned: VecDeque::new(),
            asked: VecDeque::new(),
            answer: Answer::default(),
            is_blocked: false,
            is_listed: false,
            ended: None,
        }
    }

    /// One more frame is due.
    pub(super) fn schedule(&mut self, due: Instant) {
        self.scheduled += 1;
        if self.is_asked_after(self.scheduled) {
            self.planned.push_back(due);
        }
    }

    /// Whether a commit request follows frame `number`. Connections take turns, or all would ask at once.
    fn is_asked_after(&self, number: u64) -> bool {
        let Deal { index, connections, commit_every } = self.deal;
        commit_every > 0 && (number + index * commit_every / connections).is_multiple_of(commit_every)
    }

    /// Writes what is due, until the socket takes no more.
    pub(super) fn send(&mut self, corpus: &Corpus, now: Instant, now_ns: u64, interval: &mut Interval) {
        while self.ended.is_none() {
            self.fill(corpus, now, now_ns, interval);
            if self.written == self.outgoing.len() {
                self.is_blocked = false;
                return;
            }
            match self.stream.write(&self.outgoing[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.is_blocked = true;
                    return;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => (),
                Err(error) => {
                    // The server may have said why.
                    self.receive(interval);
                    self.end(format!("a write failed: {error}"));
                }
            }
        }
    }

    /// Makes frames that are due ready to be written, as long as the protocol allows one more request after them.
    fn fill(&mut self, corpus: &Corpus, now: Instant, now_ns: u64, interval: &mut Interval) {
        if self.written == self.outgoing.len() {
            self.outgoing.clear();
            self.written = 0;
        }
        while self.sent < self.scheduled
            && self.outgoing.len() < OUTGOING_BYTES_MAX
            && self.asked.len() < UNANSWERED_REQUESTS_MAX
        {
            let number = self.deal.index + self.sent * self.deal.connections;
            let before = self.outgoing.len();
            corpus.append(number, now_ns, &mut self.outgoing);
            self.sent += 1;
            interval.sent += 1;
            interval.bytes += (self.outgoing.len() - before) as u64;
            if self.is_asked_after(self.sent) {
                self.outgoing.extend_from_slice(&COMMIT_REQUEST);
                self.asked.push_back(Asked { due: self.planned.pop_front(), sent: now });
            }
        }
    }

    /// Asks how all that was sent fared.
    pub(super) fn ask_last(&mut self, now: Instant) {
        self.outgoing.extend_from_slice(&COMMIT_REQUEST);
        self.asked.push_back(Asked { due: None, sent: now });
    }

    /// Reads what has come, and measures.
    pub(super) fn receive(&mut self, interval: &mut Interval) {
        let mut bytes = [0; READ_BYTES];
        match self.stream.read(&mut bytes) {
            Ok(0) => self.end("the server closed it without a word".to_owned()),
            Ok(count) => {
                self.replies.extend(&bytes[..count]);
                let now = Instant::now();
                while let Some(reply) = self.replies.next_reply().transpose() {
                    self.take(reply.map_err(|error| error.to_string()), now, interval);
                    if self.ended.is_some() {
                        break;
                    }
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => (),
            Err(error) => self.end(error.to_string()),
        }
    }

    fn take(&mut self, reply: Result<Reply, String>, now: Instant, interval: &mut Interval) {
        match reply {
            Ok(Reply::Committed(answer)) => {
                self.answer = answer;
                match self.asked.pop_front() {
                    Some(Asked { due: Some(due), sent }) => interval.answered(now - due, now - sent),
                    Some(Asked { due: None, .. }) => (),
                    None => self.end("the server sent an answer that nothing asked for".to_owned()),
                }
            }
            Ok(Reply::Closing(Closing { error, code, answer })) => {
                self.answer = answer;
                self.end(format!("the server closed it ({code}): {error}"));
            }
            Err(error) => self.end(error),
        }
    }

    fn end(&mut self, why: String) {
        // The first reason is the cause of the others.
        self.ended.get_or_insert(why);
    }

    /// Whether frames are due that an answer may have made room for.
    pub(super) fn is_behind(&self) -> bool {
        self.sent < self.scheduled && !self.is_blocked
    }

    /// Whether nothing is left to be written or answered; also of a connection that ended.
    pub(super) fn is_idle(&self) -> bool {
        let is_written = self.sent == self.scheduled && self.written == self.outgoing.len();
        self.ended.is_some() || (is_written && self.asked.is_empty())
    }

    /// Why it ended early.
    pub(super) fn ended(&self) -> Option<&str> {
        self.ended.as_deref()
    }

    pub(super) fn scheduled(&self) -> u64 {
        self.scheduled
    }

    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// Commit requests without an answer.
    pub(super) fn unanswered(&self) -> u64 {
        self.asked.len() as u64
    }

    /// The last answer.
    pub(super) fn answer(&self) -> Answer {
        self.answer
    }

    /// The socket.
    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// An empty frame.
const COMMIT_REQUEST: [u8; 4] = [0; 4];

/// What may wait in memory for a socket that takes no more, and one frame: enough for one write of a burst.
const OUTGOING_BYTES_MAX: usize = 256 * 1024;

/// Some hundred answers.
const READ_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Duration;

    use corelane_wire::{encode_answer, encode_event};

    use super::*;

    #[test]
    fn a_server_that_does_not_answer_is_asked_no_more_often_than_the_protocol_allows() {
        let mut frame = Vec::new();
        encode_event(&mut frame, "a", 1, None, [("s", 1.0, None)].into_iter()).unwrap();
        let corpus = Corpus::of(frame);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let deal = Deal { index: 0, connections: 1, commit_every: 1 };
        let mut connection = Connection::new(stream, Replies::default(), deal);
        let (now, mut interval) = (Instant::now(), Interval::new(Duration::ZERO));
        (0..5_000).for_each(|_| connection.schedule(now));
        connection.send(&corpus, now, 1, &mut interval);
        let asked = UNANSWERED_REQUESTS_MAX as u64;
        assert_eq!((connection.sent(), connection.unanswered()), (asked, asked));
        assert!(connection.is_behind() && !connection.is_idle());

        server.write_all(&encode_answer(Answer::default()).as_slice().repeat(10)).unwrap();
        while connection.unanswered() > asked - 10 {
            connection.receive(&mut interval);
        }
        connection.send(&corpus, now, 1, &mut interval);
        assert_eq!((connection.sent(), connection.unanswered()), (asked + 10, asked));
    }
}
