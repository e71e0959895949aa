//! What fills the servers' sockets: as fast as they take it, or at a pace.
//!
//! Frames are made beforehand. A sender writes whole *units* of them, takes note of nothing but bytes, and ends its
//! side when time is up; the run is over when the server has closed every connection, and so has counted all that was
//! sent.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::set_current_timer_slack;

use crate::events::Stream;
use crate::host;

/// Frames of one connection, sent over and over, and how many of them one write carries.
#[derive(Clone, Debug)]
pub struct Load {
    frames: Arc<Stream>,
    frames_a_unit: usize,
}

/// What was sent, and how long it took until it was counted.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// Frames.
    pub frames: u64,
    /// Bytes, headers included.
    pub bytes: u64,
    /// From the first write to the server's last close.
    pub elapsed: Duration,
}

/// A steady load.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Writes a second of all connections together.
    pub writes_a_second: u64,
    /// Every so many writes, a commit request follows the frame, and the time until its answer is taken; 0 for never.
    pub writes_a_probe: u64,
}

impl Load {
    /// # Panics
    /// When the frames do not make whole units.
    pub fn new(frames: Arc<Stream>, frames_a_unit: usize) -> Self {
        assert_eq!(frames.frames() % frames_a_unit, 0, "whole units");
        Self { frames, frames_a_unit }
    }
}

struct Connection {
    stream: TcpStream,
    load: Load,
    /// The bytes of the unit at hand that are not sent yet, as offsets into the load.
    at: usize,
    unit_end: usize,
    /// Frame in which the next unit begins.
    next_frame: usize,
    frames: u64,
    bytes: u64,
}

impl Connection {
    fn open(address: SocketAddr, load: &Load) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, load: load.clone(), at: 0, unit_end: 0, next_frame: 0, frames: 0, bytes: 0 })
    }

    /// Sends of the unit at hand, or the next, what the socket takes; `false` when that is nothing.
    fn send(&mut self) -> io::Result<bool> {
        self.begin_unit();
        self.send_rest()
    }

    fn begin_unit(&mut self) {
        if self.at < self.unit_end {
            return;
        }
        let frames = &self.load.frames;
        self.at = if self.next_frame == 0 { 0 } else { self.unit_end };
        let last = self.next_frame + self.load.frames_a_unit - 1;
        self.unit_end = frames.frame_end(last);
        self.next_frame = (last + 1) % frames.frames();
        self.frames += self.load.frames_a_unit as u64;
        self.bytes += (self.unit_end - self.at) as u64;
    }

    fn send_rest(&mut self) -> io::Result<bool> {
        match self.stream.write(&self.load.frames.as_bytes()[self.at..self.unit_end]) {
            Ok(bytes) => {
                self.at += bytes;
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Finishes the unit at hand and tells the server that this was all.
    fn end(&mut self) -> io::Result<()> {
        self.stream.set_nonblocking(false)?;
        while self.at < self.unit_end {
            self.send_rest()?;
        }
        self.stream.shutdown(Shutdown::Write)
    }

    /// Waits until the server has closed its side, too.
    fn wait_for_close(&mut self) -> io::Result<()> {
        while self.stream.read(&mut [0; 256])? > 0 {}
        Ok(())
    }
}

/// Connections to a server, ready to send.
pub struct Senders {
    connections: Vec<Connection>,
}

impl Senders {
    /// Opens a connection for each load.
    ///
    /// # Errors
    /// When the server does not listen, or the host has no descriptor left.
    pub fn connect(address: SocketAddr, loads: &[Load]) -> io::Result<Self> {
        let connections = loads.iter().map(|load| Connection::open(address, load)).collect::<io::Result<_>>()?;
        Ok(Self { connections })
    }

    /// Sends for so long as fast as the server takes it, each connection one unit by turns, from the calling thread.
    ///
    /// # Errors
    /// When the server closes a connection early.
    pub fn flat_out(mut self, time: Duration) -> io::Result<Sent> {
        for connection in &self.connections {
            connection.stream.set_nonblocking(true)?;
        }
        let start = Instant::now();
        while start.elapsed() < time {
            let mut progress = false;
            for connection in &mut self.connections {
                progress |= connection.send()?;
            }
            if !progress {
                wait_until_writable(&self.connections)?;
            }
        }
        self.finish(start)
    }

    /// Sends at a pace from the calling thread, connection after connection, each unit in a write of its own, and gives
    /// the times that probes took besides.
    ///
    /// # Errors
    /// When the server closes a connection early.
    pub fn paced(mut self, pace: Pace, time: Duration) -> io::Result<(Sent, Vec<Duration>)> {
        let _ = set_current_timer_slack(NonZeroU64::new(1));
        let streams = self.connections.iter().map(|connection| connection.stream.try_clone());
        let streams: Vec<_> = streams.collect::<io::Result<_>>()?;
        let start = Instant::now();
        let probes = Probes {
            start,
            asked_at: self.connections.iter().map(|_| AtomicU64::new(0)).collect(),
            over: AtomicBool::new(false),
        };
        let probed = thread::scope(|scope| {
            let answers = (pace.writes_a_probe > 0).then(|| scope.spawn(|| probes.take_answers(&streams)));
            let sent = self.send_paced(pace, time, start, &probes);
            probes.over.store(true, Ordering::Release);
            let times = answers.map(|answers| answers.join().expect("answers are read through"));
            sent.and_then(|()| times.unwrap_or_else(|| Ok(Vec::new())))
        })?;
        Ok((self.finish(start)?, probed))
    }

    fn send_paced(&mut self, pace: Pace, time: Duration, start: Instant, probes: &Probes) -> io::Result<()> {
        let writes = (pace.writes_a_second as f64 * time.as_secs_f64()) as u64;
        let count = self.connections.len() as u64;
        let mut probe = Vec::new();
        for number in 0..writes {
            let due = Duration::from_secs_f64(number as f64 / pace.writes_a_second as f64);
            if let Some(early) = due.checked_sub(start.elapsed()) {
                thread::sleep(early);
            }
            let index = (number % count) as usize;
            let connection = &mut self.connections[index];
            connection.begin_unit();
            let is_probe = pace.writes_a_probe > 0 && number % pace.writes_a_probe == pace.writes_a_probe - 1;
            let unit = &connection.load.frames.as_bytes()[connection.at..connection.unit_end];
            if is_probe && probes.asks(index) {
                probe.clear();
                probe.extend_from_slice(unit);
                probe.extend_from_slice(&corelane_testkit::frames::COMMIT_REQUEST);
                connection.stream.write_all(&probe)?;
            } else {
                connection.stream.write_all(unit)?;
            }
            connection.at = connection.unit_end;
        }
        Ok(())
    }

    fn finish(mut self, start: Instant) -> io::Result<Sent> {
        self.connections.iter_mut().try_for_each(Connection::end)?;
        self.connections.iter_mut().try_for_each(Connection::wait_for_close)?;
        let elapsed = start.elapsed();
        let frames = self.connections.iter().map(|connection| connection.frames).sum();
        let bytes = self.connections.iter().map(|connection| connection.bytes).sum();
        Ok(Sent { frames, bytes, elapsed })
    }
}

/// Commit requests whose answers are awaited, one a connection at most.
struct Probes {
    start: Instant,
    /// When each connection asked, in nanoseconds since the start; 0 when it waits for nothing.
    asked_at: Vec<AtomicU64>,
    over: AtomicBool,
}

impl Probes {
    /// Notes that a connection asks now, unless it still waits.
    fn asks(&self, index: usize) -> bool {
        let asked_at = &self.asked_at[index];
        let free = asked_at.load(Ordering::Acquire) == 0;
        if free {
            asked_at.store(self.start.elapsed().as_nanos() as u64, Ordering::Release);
        }
        free
    }

    /// Reads answers until the sender is done and all have come; gives the time that each took.
    fn take_answers(&self, streams: &[TcpStream]) -> io::Result<Vec<Duration>> {
        host::pin(host::cores().1);
        let mut times = Vec::new();
        loop {
            let over = self.over.load(Ordering::Acquire);
            let waiting = self.asked_at.iter().any(|asked_at| asked_at.load(Ordering::Acquire) != 0);
            if over && !waiting {
                return Ok(times);
            }
            let mut descriptors: Vec<_> = streams.iter().map(|stream| PollFd::new(stream, PollFlags::IN)).collect();
            poll(&mut descriptors, Some(&Timespec { tv_sec: 0, tv_nsec: 20_000_000 }))?;
            let readable: Vec<_> =
                (0..streams.len()).filter(|&index| !descriptors[index].revents().is_empty()).collect();
            for index in readable {
                if (&streams[index]).read(&mut [0; 256])? == 0 {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                let asked = Duration::from_nanos(self.asked_at[index].swap(0, Ordering::AcqRel));
                times.push(self.start.elapsed().saturating_sub(asked));
            }
        }
    }
}

fn wait_until_writable(connections: &[Connection]) -> io::Result<()> {
    let mut descriptors: Vec<_> =
        connections.iter().map(|connection| PollFd::new(&connection.stream, PollFlags::OUT)).collect();
    poll(&mut descriptors, None)?;
    Ok(())
}
