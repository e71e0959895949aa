//! The thread that sends: one loop over a timer and all sockets.
//!
//! At each tick that has something it deals out what has become due and writes it, one write a connection. Between two
//! ticks it sleeps, unless an answer comes. It allocates nothing for a frame, waits for no answer, and counts how late it
//! is itself.

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

use super::{connection::Connection, corpus::Corpus, measured::Interval, schedule::Schedule};

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
        let mut turns = Turns {
            poll,
            timer,
            events: Vec::with_capacity(EVENTS_MAX),
            listed: Vec::with_capacity(self.connections.len()),
            interval: Interval::new(Duration::ZERO),
        };

        let start = Instant::now();
        let schedule = self.schedule;
        let (mut tick, mut frame) = (0, 0);
        while tick < schedule.ticks() && !self.is_over() {
            let now = turns.wait_until(&mut self, start + schedule.time_of(schedule.next(tick, frame)))?;
            // When it is late, all that should have been by now.
            while tick < schedule.ticks() {
                let next = schedule.next(tick, frame);
                let due_at = start + schedule.time_of(next);
                if due_at > now {
                    break;
                }
                tick = next;
                turns.interval.began_tick(now - due_at);
                while frame < schedule.due(tick) {
                    turns.deal(&mut self, frame, due_at);
                    frame += 1;
                }
                if schedule.ends_second(tick) {
                    turns.send_listed(&mut self, now)?;
                    turns.end_interval(&self, schedule.time_of(tick));
                }
            }
            turns.send_listed(&mut self, now)?;
        }
        let elapsed = schedule.time_of(tick);
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
            turns.wait(self, Some(&FINISH_LOOK))?;
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
    /// Sleeps until then, or until a socket is ready, which is served; gives the time it woke up.
    fn wait_until(&mut self, sender: &mut Sender<'_>, then: Instant) -> io::Result<Instant> {
        match then.checked_duration_since(Instant::now()) {
            Some(left) if !left.is_zero() => {
                // Also puts back a timer that has gone off.
                let once = Itimerspec { it_interval: timespec(Duration::ZERO), it_value: timespec(left) };
                timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
                self.wait(sender, None)
            }
            _ => self.wait(sender, Some(&timespec(Duration::ZERO))),
        }
    }

    /// Sleeps until the timer goes off or a socket is ready, at most so long, and serves the sockets.
    fn wait(&mut self, sender: &mut Sender<'_>, timeout: Option<&Timespec>) -> io::Result<Instant> {
        self.events.clear();
        match epoll::wait(&self.poll, rustix::buffer::spare_capacity(&mut self.events), timeout) {
            Ok(_) => (),
            // Ctrl-C; the flag says so.
            Err(rustix::io::Errno::INTR) => return Ok(Instant::now()),
            Err(error) => return Err(error.into()),
        }
        let now = Instant::now();
        for index in 0..self.events.len() {
            let (data, flags) = (self.events[index].data.u64(), self.events[index].flags);
            if data == TIMER {
                continue;
            }
            let connection = &mut sender.connections[data as usize];
            if flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
                connection.receive(&mut self.interval);
            }
            if connection.ended().is_some() {
                let _ = epoll::delete(&self.poll, connection.socket());
            } else if flags.contains(epoll::EventFlags::OUT) || connection.is_behind() {
                self.send(sender, data as usize, now)?;
            }
        }
        Ok(now)
    }

    /// Frame `number` is due.
    fn deal(&mut self, sender: &mut Sender<'_>, number: u64, due: Instant) {
        let index = (number % sender.connections.len() as u64) as usize;
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

/// Sockets that are served between two looks at the clock.
const EVENTS_MAX: usize = 256;

/// How often it looks whether all is answered.
const FINISH_LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };

/// How long the server may take to read and to answer what was sent.
const FINISH_TIMEOUT: Duration = Duration::from_secs(15);
