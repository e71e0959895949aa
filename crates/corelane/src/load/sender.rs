//! The thread that sends: one loop over a timer and all sockets.
//!
//! At each tick it deals out what has become due and writes it, one write for each connection that has something. Between
//! two ticks it sleeps, unless an answer comes. It allocates nothing for a frame, waits for no answer, and counts how late
//! it is itself.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rustix::{
    event::{Timespec, epoll},
    time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime},
};

use super::{
    connection::Connection,
    corpus::Corpus,
    measured::Interval,
    schedule::{Schedule, TICK},
};

/// Connections, what to send over them, and when.
pub(super) struct Sender<'a> {
    pub(super) connections: Vec<Connection>,
    pub(super) corpus: &'a Corpus,
    pub(super) schedule: Schedule,
    /// Set to end early.
    pub(super) stop: &'a AtomicBool,
    /// Takes an interval a second.
    pub(super) intervals: mpsc::Sender<Interval>,
}

/// What became of the connections. They stay open as long as it is kept.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) connections: Vec<Connection>,
    /// From the start to the last frame that was due.
    pub(super) elapsed: Duration,
}

impl Sender<'_> {
    /// Sends until the schedule ends, and until all is answered, or the server takes too long to.
    pub(super) fn run(mut self) -> io::Result<Sent> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        epoll::add(&poll, &timer, epoll::EventData::new_u64(TIMER), epoll::EventFlags::IN)?;
        for (index, connection) in self.connections.iter().enumerate() {
            epoll::add(&poll, connection.socket(), epoll::EventData::new_u64(index as u64), epoll::EventFlags::IN)?;
        }
        let tick = timespec(TICK);
        // Taken before the timer starts, or each of its ticks would be a little before its time.
        let start = Instant::now();
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: tick, it_value: tick })?;
        let mut turns = Turns {
            poll,
            timer,
            events: Vec::with_capacity(EVENTS_MAX),
            listed: Vec::with_capacity(self.connections.len()),
            interval: Interval::new(Duration::ZERO),
        };

        let mut tick = 0;
        let mut spent = 0;
        let mut frame = 0;
        let ticks = self.schedule.ticks();
        while tick < ticks && !self.is_over() {
            let now = turns.wait(&mut self)?;
            let passed = (now.duration_since(start).as_nanos() / TICK.as_nanos()) as u64;
            while tick < passed.min(ticks) {
                tick += 1;
                let due_at = start + TICK * tick as u32;
                turns.interval.began_tick(now.saturating_duration_since(due_at));
                let due = self.schedule.due(tick);
                loop {
                    let cost = self.schedule.cost(self.corpus.frame_bytes(frame));
                    if spent + cost > due {
                        break;
                    }
                    spent += cost;
                    turns.deal(&mut self, frame, due_at);
                    frame += 1;
                }
                if tick % TICKS_A_SECOND == 0 {
                    turns.send_listed(&mut self, now)?;
                    turns.end_interval(&self, TICK * tick as u32);
                }
            }
            turns.send_listed(&mut self, now)?;
        }
        let elapsed = TICK * tick as u32;
        self.finish(&mut turns)?;
        turns.end_interval(&self, start.elapsed());
        Ok(Sent { connections: self.connections, elapsed })
    }

    /// Whether it makes no sense to go on.
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.connections.iter().all(|connection| connection.ended().is_some())
    }

    /// Gives the server time to take and to answer everything.
    fn finish(&mut self, turns: &mut Turns) -> io::Result<()> {
        let deadline = Instant::now() + FINISH_TIMEOUT;
        let mut has_asked = false;
        while Instant::now() < deadline {
            if self.connections.iter().all(Connection::is_idle) {
                if has_asked {
                    break;
                }
                has_asked = true;
                let now = Instant::now();
                for index in 0..self.connections.len() {
                    self.connections[index].ask_last(now);
                    turns.list(self, index);
                }
                turns.send_listed(self, now)?;
            }
            turns.wait(self)?;
        }
        Ok(())
    }
}

/// The state of the loop.
struct Turns {
    poll: OwnedFd,
    timer: OwnedFd,
    events: Vec<epoll::Event>,
    /// Connections with something to write.
    listed: Vec<usize>,
    interval: Interval,
}

impl Turns {
    /// Sleeps until the next tick, and serves the sockets that are ready before; gives the time it woke up.
    fn wait(&mut self, sender: &mut Sender<'_>) -> io::Result<Instant> {
        self.events.clear();
        match epoll::wait(&self.poll, rustix::buffer::spare_capacity(&mut self.events), None) {
            Ok(_) => (),
            // Ctrl-C; the flag says so.
            Err(rustix::io::Errno::INTR) => return Ok(Instant::now()),
            Err(error) => return Err(error.into()),
        }
        let now = Instant::now();
        for index in 0..self.events.len() {
            let (data, flags) = (self.events[index].data.u64(), self.events[index].flags);
            if data == TIMER {
                let _ = rustix::io::read(&self.timer, &mut [0; 8]);
                continue;
            }
            let connection = &mut sender.connections[data as usize];
            if flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
                connection.receive(now, &mut self.interval);
            }
            if connection.ended().is_some() {
                let _ = epoll::delete(&self.poll, connection.socket());
            } else if flags.contains(epoll::EventFlags::OUT) {
                self.send(sender, data as usize, now)?;
            }
        }
        Ok(now)
    }

    /// Frame `number` is due.
    fn deal(&mut self, sender: &mut Sender<'_>, number: u64, due: Instant) {
        let index = (number % sender.connections.len() as u64) as usize;
        self.interval.scheduled += 1;
        sender.connections[index].schedule(due);
        self.list(sender, index);
    }

    fn list(&mut self, sender: &mut Sender<'_>, index: usize) {
        let connection = &mut sender.connections[index];
        // Who is blocked is served when the socket is ready again.
        if !connection.is_listed && !connection.is_blocked {
            connection.is_listed = true;
            self.listed.push(index);
        }
    }

    fn send_listed(&mut self, sender: &mut Sender<'_>, now: Instant) -> io::Result<()> {
        while let Some(index) = self.listed.pop() {
            sender.connections[index].is_listed = false;
            self.send(sender, index, now)?;
        }
        Ok(())
    }

    fn send(&mut self, sender: &mut Sender<'_>, index: usize, now: Instant) -> io::Result<()> {
        let connection = &mut sender.connections[index];
        let was_blocked = connection.is_blocked;
        connection.send(sender.corpus, now, now_ns(), &mut self.interval);
        if connection.ended().is_some() {
            let _ = epoll::delete(&self.poll, connection.socket());
        } else if connection.is_blocked != was_blocked {
            let flags = if connection.is_blocked {
                epoll::EventFlags::IN | epoll::EventFlags::OUT
            } else {
                epoll::EventFlags::IN
            };
            epoll::modify(&self.poll, connection.socket(), epoll::EventData::new_u64(index as u64), flags)?;
        }
        Ok(())
    }

    /// Passes on what was measured.
    fn end_interval(&mut self, sender: &Sender<'_>, end: Duration) {
        let mut interval = std::mem::replace(&mut self.interval, Interval::new(end));
        interval.length = end.saturating_sub(interval.start);
        // When nobody takes it any more, the run is being given up.
        let _ = sender.intervals.send(interval);
    }
}

fn now_ns() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX)
}

fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs() as i64, tv_nsec: i64::from(duration.subsec_nanos()) }
}

/// Of the timer, among the numbers of connections.
const TIMER: u64 = u64::MAX;

const TICKS_A_SECOND: u64 = (Duration::from_secs(1).as_nanos() / TICK.as_nanos()) as u64;

/// Sockets that are served between two looks at the clock.
const EVENTS_MAX: usize = 256;

/// How long the server may take to read and to answer what was sent.
const FINISH_TIMEOUT: Duration = Duration::from_secs(15);
