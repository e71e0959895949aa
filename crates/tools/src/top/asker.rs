//! Asking the control port, on a thread of its own: a server that takes its time holds no key up.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use crate::control_client::ControlClient;
use corelane_api::{Events, Sensors, Stats};

/// What the asker found out.
#[derive(Debug)]
pub(super) enum News {
    Stats(Box<Stats>),
    Events(Events),
    /// With when it came.
    Sensors(Instant, Sensors),
    /// No sensors: a busy shard keeps them back, and all other numbers go on.
    NoSensors,
    /// No answer, and why.
    Gone(String),
}

/// What the asker should do from now on.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Wish {
    Pause(bool),
    Sensors(Order, String),
}

/// Which sensors come first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Order {
    #[default]
    Busiest,
    Newest,
}

/// Asks until nobody listens any more.
pub(super) struct Asker {
    control: ControlClient,
    interval: Duration,
    wishes: Receiver<Wish>,
    news: Sender<News>,
    is_paused: bool,
    order: Order,
    search: String,
    /// When the sensors are asked for again: seldom, since every shard works for the answer.
    sensors_due: Instant,
    /// How many security events there were when they were asked for.
    events_told: Option<u64>,
    failures: u32,
}

/// Who would hear it has left.
struct Left;

impl Asker {
    pub(super) fn new(control: ControlClient, interval: Duration, wishes: Receiver<Wish>, news: Sender<News>) -> Self {
        Self {
            control,
            interval,
            wishes,
            news,
            is_paused: false,
            order: Order::default(),
            search: String::new(),
            sensors_due: Instant::now(),
            events_told: None,
            failures: 0,
        }
    }

    pub(super) fn run(mut self) {
        while let Ok(()) = self.turn() {}
    }

    fn turn(&mut self) -> Result<(), Left> {
        let asked = Instant::now();
        let mut wait = self.interval;
        if !self.is_paused {
            match self.ask()? {
                Ok(()) => self.failures = 0,
                Err(error) => {
                    wait = wait.max(RETRY_FIRST * 2_u32.pow(self.failures.min(RETRY_DOUBLINGS)));
                    self.failures += 1;
                    // Whoever answers next may be another process.
                    self.events_told = None;
                    self.tell(News::Gone(error))?;
                }
            }
        }
        let wait = if self.is_paused { Duration::MAX } else { wait.saturating_sub(asked.elapsed()) };
        match self.wishes.recv_timeout(wait) {
            Ok(Wish::Pause(is_paused)) => self.is_paused = is_paused,
            Ok(Wish::Sensors(order, search)) => {
                (self.order, self.search) = (order, search);
                self.sensors_due = Instant::now();
            }
            Err(RecvTimeoutError::Timeout) => (),
            Err(RecvTimeoutError::Disconnected) => return Err(Left),
        }
        Ok(())
    }

    /// One round of questions. The inner error is the server's.
    fn ask(&mut self) -> Result<Result<(), String>, Left> {
        let stats: Stats = match self.control.get("/api/v1/stats", &[]) {
            Ok(stats) => stats,
            Err(error) => return Ok(Err(error)),
        };
        let events = stats.totals.numbers.security_events.values().sum();
        self.tell(News::Stats(Box::new(stats)))?;
        if self.events_told != Some(events) {
            match self.control.get("/api/v1/events", &[]) {
                Ok(told) => self.tell(News::Events(told))?,
                Err(error) => return Ok(Err(error)),
            }
            self.events_told = Some(events);
        }
        let asked = Instant::now();
        if asked >= self.sensors_due {
            let told = self.ask_sensors();
            self.tell(told.map_or(News::NoSensors, |told| News::Sensors(Instant::now(), told)))?;
            // A large table takes the server longer, and is asked for less often.
            self.sensors_due = asked + (asked.elapsed() * 20).max(SENSORS_EVERY).max(self.interval);
        }
        Ok(Ok(()))
    }

    fn ask_sensors(&self) -> Result<Sensors, String> {
        let sort = match self.order {
            Order::Busiest => "count",
            Order::Newest => "last_timestamp",
        };
        self.control.get("/api/v1/sensors", &[("sort", sort), ("limit", SENSORS_ASKED), ("search", &self.search)])
    }

    fn tell(&self, news: News) -> Result<(), Left> {
        self.news.send(news).map_err(|_| Left)
    }
}

/// After the first failure, then doubled so many times.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_DOUBLINGS: u32 = 3;
const SENSORS_EVERY: Duration = Duration::from_secs(3);
/// More than a screen has lines, mostly.
const SENSORS_ASKED: &str = "100";
