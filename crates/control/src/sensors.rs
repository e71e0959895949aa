//! The live series of every shard, gathered in rounds and answered as JSON.
//!
//! A round requests the series of each shard page by page, a few pages in flight, and adds up what several shards know of
//! one series. It serves every request that was waiting when it began and no other, so an answer never tells less than
//! the shards knew when it was asked. Nobody asking, there is no round, and nothing is kept between two.
//!
//! All of it happens on a thread of its own, because a search through all series takes up to seconds and probes have
//! to be answered meanwhile. The thread is started by the control plane's and stays on the same core. Requests of one
//! round that ask for the same share one answer.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr;
use std::thread::{Builder, sleep};
use std::time::{Duration, Instant};
use std::{io, mem};

use corelane_api::{Sensor, Sensors};
use corelane_rollup::{SeriesPage, SeriesView, TEXT_BYTES_MAX};
use corelane_telemetry::{LANE_PAGES, PageRequester};
use tokio::sync::{mpsc, oneshot};

use crate::budget::{Budget, Rendered, SeriesWriter};

/// Longest time that a round may take.
pub(crate) const ROUND_MAX: Duration = Duration::from_secs(1);

/// Longest time that a request waits for its answer: for the requests of an earlier round, then for its own round and
/// for others of the same. Long enough for some twenty searches through 65 536 series of the longest names.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(10);

/// Default and greatest number of series in one answer.
const LIMIT_DEFAULT: usize = 100;
pub(crate) const LIMIT_MAX: usize = 10_000;

/// Between two looks at the lanes. A shard fills up to `LANE_PAGES` pages meanwhile, about 2 000 series.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// Requests that may wait for a round to begin. Further ones wait for their place, and their time runs.
const WAITING_MAX: usize = 64;

/// The control plane's end of one shard's lane of series.
pub(crate) struct SeriesPort {
    pub(crate) pages: PageRequester<SeriesPage>,
    pub(crate) wake: Box<dyn Fn() + Send>,
}

/// Every live series at the time of one round, or the shard that did not answer.
type Round = Result<Vec<Series>, usize>;

/// Why a request for series has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoSeries {
    /// This shard did not tell its series within [`ROUND_MAX`].
    Silent(usize),
    /// Answers that their readers have not taken use up the budget.
    NoMemory,
    /// Requests before it took longer than [`WAIT_MAX`].
    Busy,
    /// Making the answer panicked.
    Fault,
}

struct Asked {
    query: SensorsQuery,
    answer: oneshot::Sender<Result<Rendered, NoSeries>>,
}

/// Where requests ask for series.
#[derive(Clone)]
pub(crate) struct SensorsDesk {
    waiting: mpsc::Sender<Asked>,
}

impl SensorsDesk {
    /// Waits for the answer, of a round that begins after this call.
    pub(crate) async fn ask(&self, query: SensorsQuery) -> Result<Rendered, NoSeries> {
        let (answer, answered) = oneshot::channel();
        let wait = async {
            self.waiting.send(Asked { query, answer }).await.map_err(|_| NoSeries::Fault)?;
            answered.await.unwrap_or(Err(NoSeries::Fault))
        };
        tokio::time::timeout(WAIT_MAX, wait).await.unwrap_or(Err(NoSeries::Busy))
    }
}

/// Starts the thread that asks these shards. What is returned besides the desk ends when the thread does, which is
/// once the desk and its clones are gone.
///
/// # Errors
/// When the thread cannot be started.
pub(crate) fn start(ports: Vec<SeriesPort>, budget: Budget) -> io::Result<(SensorsDesk, oneshot::Receiver<()>)> {
    let (waiting, asked) = mpsc::channel(WAITING_MAX);
    let (runs, ended) = oneshot::channel();
    let run = move || {
        serve_rounds(ports, asked, &budget);
        drop(runs);
    };
    Builder::new().name("series".into()).spawn(run)?;
    Ok((SensorsDesk { waiting }, ended))
}

fn serve_rounds(mut ports: Vec<SeriesPort>, mut asked: mpsc::Receiver<Asked>, budget: &Budget) {
    let mut number = 0;
    while let Some(first) = asked.blocking_recv() {
        let mut waiting = vec![first];
        while let Ok(next) = asked.try_recv() {
            waiting.push(next);
        }
        // Requests that were given up need no round.
        waiting.retain(|asked| !asked.answer.is_closed());
        if !waiting.is_empty() {
            number += 1;
            answer_all(waiting, &gather(&mut ports, number), budget);
        }
    }
}

/// Answers requests in their order, those that ask for the same together.
fn answer_all(mut waiting: Vec<Asked>, round: &Round, budget: &Budget) {
    while let Some(first) = waiting.first() {
        let query = first.query.clone();
        let (same, others) = mem::take(&mut waiting).into_iter().partition(|asked| asked.query == query);
        waiting = others;
        let same: Vec<Asked> = same;
        if same.iter().all(|asked| asked.answer.is_closed()) {
            continue;
        }
        // A panic costs those who asked for this.
        let answer = catch_unwind(AssertUnwindSafe(|| render(&query, round, budget))).unwrap_or(Err(NoSeries::Fault));
        for asked in same {
            let _ = asked.answer.send(answer.clone());
        }
    }
}

fn render(query: &SensorsQuery, round: &Round, budget: &Budget) -> Result<Rendered, NoSeries> {
    let series = round.as_ref().map_err(|&shard| NoSeries::Silent(shard))?;
    let mut writer = SeriesWriter::new(budget);
    // Nothing else can fail: the numbers and texts of a series are always JSON.
    serde_json::to_writer(&mut writer, &query.select(series)).map_err(|_| NoSeries::NoMemory)?;
    Ok(writer.finish())
}

/// One series, added up over the shards.
#[derive(Debug, PartialEq)]
pub(crate) struct Series {
    id: Box<str>,
    sensor: Box<str>,
    aggregate: Aggregate,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Aggregate {
    count: u64,
    last: f64,
    last_timestamp: u64,
    min: f64,
    max: f64,
    sum: f64,
}

impl Aggregate {
    fn of(view: &SeriesView<'_>) -> Self {
        let SeriesView { count, last, last_timestamp, min, max, sum, .. } = *view;
        Self { count, last, last_timestamp, min, max, sum }
    }

    fn merge(&mut self, other: Self) {
        if other.last_timestamp > self.last_timestamp {
            (self.last, self.last_timestamp) = (other.last, other.last_timestamp);
        }
        self.count += other.count;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.sum += other.sum;
    }
}

type Merged = HashMap<(Box<str>, Box<str>), Aggregate>;

/// One round over all shards.
fn gather(ports: &mut [SeriesPort], number: u64) -> Round {
    let deadline = Instant::now() + ROUND_MAX;
    let mut merged = Merged::new();
    let mut shards: Vec<_> = ports.iter().map(|_| ShardRound::new(number)).collect();
    loop {
        let mut unfinished = None;
        for (shard, (port, round)) in ports.iter_mut().zip(&mut shards).enumerate() {
            if !round.advance(port, &mut merged) {
                unfinished.get_or_insert(shard);
            }
        }
        match unfinished {
            None => break,
            Some(shard) if Instant::now() >= deadline => return Err(shard),
            Some(_) => sleep(LOOK_INTERVAL),
        }
    }
    let series = merged.into_iter().map(|((id, sensor), aggregate)| Series { id, sensor, aggregate });
    Ok(series.collect())
}

/// Heap bytes of a round with this number of series, all with the longest names: the table that merges them, which
/// doubles, keeps an eighth free and is half as large again while it moves, the list that becomes of it, and what an
/// answer selects from that list.
pub(crate) fn round_bytes_max(series: usize) -> usize {
    let slots = (series + series / 7 + 1).next_power_of_two();
    let slot = size_of::<((Box<str>, Box<str>), Aggregate)>() + 1;
    series * 2 * TEXT_BYTES_MAX + slots * slot * 3 / 2 + series * size_of::<Series>() + selection_bytes_max(series)
}

/// Of a selection: references to all that matches, in a list that doubles, and the series of the answer.
fn selection_bytes_max(series: usize) -> usize {
    2 * series.next_power_of_two() * size_of::<&Series>() + LIMIT_MAX * size_of::<Sensor<&str>>()
}

/// How far one shard is in a round.
struct ShardRound {
    number: u64,
    next_index: usize,
    in_flight: usize,
    last_seen: bool,
    /// Invariant: `idle.len() + in_flight == LANE_PAGES`.
    #[expect(clippy::vec_box, reason = "pages travel through the lane in their boxes")]
    idle: Vec<Box<SeriesPage>>,
}

impl ShardRound {
    fn new(number: u64) -> Self {
        let idle = (0..LANE_PAGES).map(|_| Box::new(SeriesPage::new())).collect();
        Self { number, next_index: 0, in_flight: 0, last_seen: false, idle }
    }

    /// Takes the pages that came and requests the next ones; returns whether the shard has told all.
    fn advance(&mut self, port: &mut SeriesPort, merged: &mut Merged) -> bool {
        if self.is_done() {
            return true;
        }
        while let Some(page) = port.pages.take() {
            // A page of a round that gave up waiting comes late, and ends here.
            if page.round() != self.number {
                continue;
            }
            self.in_flight -= 1;
            self.last_seen |= page.is_last();
            add_page(merged, &page);
            self.idle.push(page);
        }
        while !self.last_seen
            && let Some(mut page) = self.idle.pop()
        {
            page.reset(self.next_index, self.number);
            match port.pages.request(page) {
                Ok(()) => {
                    self.next_index += 1;
                    self.in_flight += 1;
                }
                // Pages of a round that gave up still wait for the shard.
                Err(page) => {
                    self.idle.push(page);
                    break;
                }
            }
        }
        if !self.is_done() {
            // At every look: a shard that went back to sleep with pages waiting would cost the round its second.
            (port.wake)();
        }
        self.is_done()
    }

    fn is_done(&self) -> bool {
        self.last_seen && self.in_flight == 0
    }
}

fn add_page(merged: &mut Merged, page: &SeriesPage) {
    for view in page.iter() {
        let aggregate = Aggregate::of(&view);
        merged
            .entry((view.id.into(), view.sensor.into()))
            .and_modify(|known| known.merge(aggregate))
            .or_insert(aggregate);
    }
}

/// What a request wants to see.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SensorsQuery {
    id: Option<String>,
    prefix: String,
    /// Part of the id or of the sensor, in any case of its ASCII letters.
    search: String,
    sort: Sort,
    limit: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Sort {
    Count,
    LastTimestamp,
    Id,
}

impl FromStr for Sort {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "count" => Ok(Self::Count),
            "last_timestamp" => Ok(Self::LastTimestamp),
            "id" => Ok(Self::Id),
            _ => Err("it has to be count, last_timestamp or id"),
        }
    }
}

impl SensorsQuery {
    /// The query of these parameters. The error says what is wrong, and what is allowed.
    pub(crate) fn parse(parameters: &[(String, String)]) -> Result<Self, String> {
        let mut query =
            Self { id: None, prefix: String::new(), search: String::new(), sort: Sort::Count, limit: LIMIT_DEFAULT };
        for (at, (name, value)) in parameters.iter().enumerate() {
            if parameters[..at].iter().any(|(earlier, _)| earlier == name) {
                return Err(format!("the parameter {name:?} is given twice"));
            }
            match name.as_str() {
                "id" => query.id = Some(value.clone()),
                "prefix" => query.prefix.clone_from(value),
                "search" => query.search.clone_from(value),
                "sort" => query.sort = value.parse().map_err(|error| bad_value(name, value, error))?,
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
                    let allowed = format_args!("it has to be a whole number from 1 to {LIMIT_MAX}");
                    query.limit = limit.ok_or_else(|| bad_value(name, value, allowed))?;
                }
                _ => {
                    return Err(format!(
                        "there is no parameter {name:?}; the parameters are id, prefix, search, sort and limit"
                    ));
                }
            }
        }
        Ok(query)
    }

    /// The series that match, sorted and cut off.
    pub(crate) fn select<'a>(&self, series: &'a [Series]) -> Sensors<&'a str> {
        let matches = |series: &&Series| {
            self.id.as_ref().is_none_or(|id| **id == *series.id)
                && series.sensor.starts_with(&self.prefix)
                && (has_part(&series.id, &self.search) || has_part(&series.sensor, &self.search))
        };
        let mut found: Vec<&Series> = series.iter().filter(matches).collect();
        found.sort_unstable_by_key(|series| {
            let first = match self.sort {
                Sort::Count => series.aggregate.count,
                Sort::LastTimestamp => series.aggregate.last_timestamp,
                Sort::Id => 0,
            };
            (Reverse(first), &series.id, &series.sensor)
        });
        let truncated = found.len() > self.limit;
        found.truncate(self.limit);
        Sensors { sensors: found.into_iter().map(told).collect(), truncated }
    }
}

fn has_part(text: &str, part: &str) -> bool {
    part.is_empty() || text.as_bytes().windows(part.len()).any(|window| window.eq_ignore_ascii_case(part.as_bytes()))
}

fn bad_value(name: &str, value: &str, allowed: impl Display) -> String {
    format!("{name}={value:?} is not allowed: {allowed}")
}

fn told(series: &Series) -> Sensor<&str> {
    let Aggregate { count, last, last_timestamp, min, max, sum } = series.aggregate;
    let mean = sum / count as f64;
    Sensor { id: &series.id, sensor: &series.sensor, count, last, last_timestamp, min, max, mean }
}

#[cfg(test)]
mod tests;
