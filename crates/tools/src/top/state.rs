//! Everything that is shown, and what news and keys change of it.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use corelane_api::{SecurityEvent, Sensor, Stats};
use jiff::Zoned;

use super::asker::{News, Order, Wish};
use super::rates::{AllRates, is_restarted};

/// What is shown.
#[derive(Debug)]
pub(super) struct State {
    /// Where the server is.
    pub(super) address: String,
    /// What it told last.
    pub(super) stats: Option<Stats>,
    /// None until there are two answers of one process.
    pub(super) rates: Option<AllRates>,
    /// Frames a second of each shard, oldest first.
    pub(super) lanes: Vec<VecDeque<f64>>,
    pub(super) events: Vec<SecurityEvent>,
    pub(super) sensors: Vec<Sensor>,
    /// Whether the last question for them had no answer.
    pub(super) lacks_sensors: bool,
    trails: HashMap<(String, String), Trail>,
    pub(super) order: Order,
    pub(super) search: String,
    /// A search that is being typed.
    pub(super) typed: Option<String>,
    pub(super) is_paused: bool,
    /// Since when nobody answers, and why.
    pub(super) gone: Option<(Zoned, String)>,
    /// The first shard that is shown.
    pub(super) first_lane: usize,
}

/// What is known of a sensor from several answers.
#[derive(Debug, Default)]
pub(super) struct Trail {
    pub(super) values: VecDeque<f64>,
    pub(super) per_second: Option<f64>,
    told: Option<(Instant, u64)>,
}

impl State {
    pub(super) fn new(address: String) -> Self {
        Self {
            address,
            stats: None,
            rates: None,
            lanes: Vec::new(),
            events: Vec::new(),
            sensors: Vec::new(),
            lacks_sensors: false,
            trails: HashMap::new(),
            order: Order::default(),
            search: String::new(),
            typed: None,
            is_paused: false,
            gone: None,
            first_lane: 0,
        }
    }

    pub(super) fn take(&mut self, news: News) {
        match news {
            News::Stats(stats) => self.take_stats(*stats),
            News::Events(told) => self.events = told.events,
            News::Sensors(at, told) => self.take_sensors(at, told.sensors),
            News::NoSensors => self.lacks_sensors = true,
            News::Gone(why) => {
                let since = self.gone.take().map_or_else(Zoned::now, |(since, _)| since);
                self.gone = Some((since, why));
            }
        }
    }

    fn take_stats(&mut self, stats: Stats) {
        self.gone = None;
        if self.stats.as_ref().is_some_and(|before| is_restarted(before, &stats)) {
            self.trails.clear();
        }
        self.rates = self.stats.as_ref().and_then(|before| AllRates::between(before, &stats));
        self.lanes.resize_with(stats.shards.len(), VecDeque::new);
        if let Some(rates) = &self.rates {
            for (lane, rates) in self.lanes.iter_mut().zip(&rates.shards) {
                lane.push_back(rates.frames);
                if lane.len() > LANE_VALUES {
                    lane.pop_front();
                }
            }
        }
        self.first_lane = self.first_lane.min(stats.shards.len().saturating_sub(1));
        self.stats = Some(stats);
    }

    fn take_sensors(&mut self, at: Instant, sensors: Vec<Sensor>) {
        // Of those alone that are told, so that nothing grows.
        let mut trails = HashMap::new();
        for sensor in &sensors {
            let key = (sensor.id.clone(), sensor.sensor.clone());
            let mut trail = self.trails.remove(&key).unwrap_or_default();
            trail.per_second = trail.told.and_then(|(then, count)| {
                let seconds = at.duration_since(then).as_secs_f64();
                let more = sensor.count.checked_sub(count)?;
                (seconds > 0.0).then(|| more as f64 / seconds)
            });
            trail.told = Some((at, sensor.count));
            trail.values.push_back(sensor.last);
            if trail.values.len() > TRAIL_VALUES {
                trail.values.pop_front();
            }
            trails.insert(key, trail);
        }
        (self.trails, self.sensors, self.lacks_sensors) = (trails, sensors, false);
    }

    pub(super) fn trail(&self, sensor: &Sensor) -> Option<&Trail> {
        self.trails.get(&(sensor.id.clone(), sensor.sensor.clone()))
    }

    pub(super) fn toggle_pause(&mut self) -> Wish {
        self.is_paused = !self.is_paused;
        Wish::Pause(self.is_paused)
    }

    pub(super) fn toggle_order(&mut self) -> Wish {
        self.order = match self.order {
            Order::Busiest => Order::Newest,
            Order::Newest => Order::Busiest,
        };
        self.sensor_wish()
    }

    /// Takes what was typed as the search.
    pub(super) fn search_for_typed(&mut self) -> Wish {
        self.search = self.typed.take().unwrap_or_default().trim().to_owned();
        self.sensor_wish()
    }

    fn sensor_wish(&self) -> Wish {
        Wish::Sensors(self.order, self.search.clone())
    }

    pub(super) fn scroll(&mut self, by: isize) {
        self.first_lane = self.first_lane.saturating_add_signed(by).min(self.lanes.len().saturating_sub(1));
    }
}

/// Values of a lane that are kept: more than a wide terminal has columns for.
const LANE_VALUES: usize = 300;
pub(super) const TRAIL_VALUES: usize = 24;
