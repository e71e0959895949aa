//! What is collected from the shards, and what is told of it.
//!
//! One task owns the control plane: it collects at intervals, and for requests. Those that wait are answered together, each
//! kind of answer written once, from a collection that began after all of them had come; and such rounds keep a distance, so
//! that a flood of requests costs the shards' rings no more than a few requests do. A panic in writing an answer costs
//! those who asked for it; one in a collection ends the task, and with it the control plane.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use corelane_metrics::Totals;
use tokio::select;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};

use crate::budget::{Budget, Rendered};
use crate::encode::{Format, Scrape};
use crate::stats::stats_json;
use crate::{ControlHandle, ControlPlane};

/// What can be asked of the collected numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    Metrics,
    OpenMetrics,
    Stats,
    Events,
    Health,
    Readiness,
}

/// How many questions there are.
const QUESTION_COUNT: usize = Question::Readiness as usize + 1;

/// One answer, cheap to give to many.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    status: StatusCode,
    content_type: &'static str,
    body: Rendered,
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        (self.status, [(header::CONTENT_TYPE, self.content_type)], self.body.into_body()).into_response()
    }
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NoAnswer {
    /// Answers that their readers have not taken use up the budget.
    NoMemory,
    /// Writing it panicked.
    Fault,
}

type Asked = (Question, oneshot::Sender<Result<Answer, NoAnswer>>);

/// Where requests ask.
pub(crate) struct AnswerDesk {
    waiting: mpsc::Sender<Asked>,
}

impl AnswerDesk {
    /// Waits for an answer made of a collection that begins after this call.
    pub(crate) async fn ask(&self, question: Question) -> Result<Answer, NoAnswer> {
        let (answer, answered) = oneshot::channel();
        self.waiting.send((question, answer)).await.map_err(|_| NoAnswer::Fault)?;
        answered.await.unwrap_or(Err(NoAnswer::Fault))
    }
}

/// Collects for a control plane and answers for it.
pub(crate) struct Collector {
    plane: ControlPlane,
    handle: ControlHandle,
    budget: Budget,
    asked: mpsc::Receiver<Asked>,
}

/// A desk for this plane, and what has to run for it.
pub(crate) fn desk(plane: ControlPlane, handle: ControlHandle, budget: Budget) -> (AnswerDesk, Collector) {
    let (waiting, asked) = mpsc::channel(WAITING_MAX);
    (AnswerDesk { waiting }, Collector { plane, handle, budget, asked })
}

impl Collector {
    /// Runs until `end`, collects a last time and returns the totals.
    pub(crate) async fn run(mut self, mut end: oneshot::Receiver<()>) -> Totals {
        let (mut ticks, mut is_ready) = (ticks(COLLECT_INTERVAL_STARTING), false);
        let mut next_round = Instant::now();
        loop {
            select! {
                _ = &mut end => break,
                Some(first) = self.asked.recv() => {
                    sleep_until(next_round).await;
                    self.answer_round(first);
                    next_round = Instant::now() + ROUND_DISTANCE;
                }
                _ = ticks.tick() => {
                    self.plane.collect_once();
                    if self.plane.unhealthy().is_none() {
                        self.handle.beat();
                    }
                }
            }
            // A pool that is already short does not hold up the start: the server serves, only more slowly.
            if !is_ready && self.plane.not_accepting().is_none() {
                is_ready = true;
                self.handle.set_ready();
                ticks = self::ticks(COLLECT_INTERVAL);
            }
        }
        self.plane.collect_once();
        self.plane.totals().clone()
    }

    /// Answers everybody who waits by now.
    fn answer_round(&mut self, first: Asked) {
        let mut round = vec![first];
        while let Ok(next) = self.asked.try_recv() {
            round.push(next);
        }
        self.plane.collect_once();
        let mut answers = [const { None }; QUESTION_COUNT];
        for (question, asker) in round {
            let answer = answers[question as usize].get_or_insert_with(|| self.answer(question));
            // The receiver is gone if the request was given up.
            let _ = asker.send(answer.clone());
        }
    }

    /// A panic leaves the plane as it was.
    fn answer(&self, question: Question) -> Result<Answer, NoAnswer> {
        catch_unwind(AssertUnwindSafe(|| self.write(question))).map_err(|_| NoAnswer::Fault)?.ok_or(NoAnswer::NoMemory)
    }

    /// None when the budget is used up. A verdict is never refused.
    fn write(&self, question: Question) -> Option<Answer> {
        let plane = &self.plane;
        let good = |content_type, body| {
            let body = Rendered::counted(body, &self.budget)?;
            Some(Answer { status: StatusCode::OK, content_type, body })
        };
        let scrape = |format: Format| good(format.content_type(), Scrape::gather(plane).to_text(format));
        match question {
            Question::Metrics => scrape(Format::Prometheus),
            Question::OpenMetrics => scrape(Format::OpenMetrics),
            Question::Stats => good(JSON, stats_json(plane, &self.handle.configuration())),
            Question::Events => good(JSON, plane.events.to_json()),
            Question::Health => Some(verdict(plane.unhealthy(), "healthy")),
            Question::Readiness => Some(verdict(plane.not_ready(self.handle.is_draining()), "ready")),
        }
    }
}

fn ticks(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

fn verdict(reason: Option<String>, good: &str) -> Answer {
    let (status, text) = match reason {
        None => (StatusCode::OK, format!("{good}\n")),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    };
    Answer { status, content_type: PLAIN_TEXT, body: Rendered::uncounted(text) }
}

const JSON: &str = "application/json";
const PLAIN_TEXT: &str = "text/plain; charset=utf-8";

/// Between two collections. A ring of 1 024 slots holds more samples than a shard flushes in that time, mostly; what is
/// overwritten costs no count.
const COLLECT_INTERVAL: Duration = Duration::from_millis(100);
/// The same until every shard accepts, so that the start is not held up.
const COLLECT_INTERVAL_STARTING: Duration = Duration::from_millis(10);
/// From the end of one round of answers to the next: a lone request never waits, and a flood gets 100 rounds a second.
const ROUND_DISTANCE: Duration = Duration::from_millis(10);
/// Requests that may wait for a round. Further ones wait for their place, and then for a later round.
const WAITING_MAX: usize = 64;
