//! The HTTP side: paths, and connections that can stall or break without hurting anyone.
//!
//! A peer that does not finish its request header is closed after the header timeout, one that does not take its answer
//! after the answer timeout (the kernel's user timeout, which counts while data is unacknowledged or its window is
//! shut), and no more connections are open at once than the limit; further ones wait in the accept queue.

use std::io;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use corelane_metrics::Totals;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use socket2::SockRef;
use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::encode::{OPEN_METRICS_TEXT, PROMETHEUS_TEXT, Scrape};
use crate::sensors::{self, SensorsDesk, SensorsQuery, WAIT_MAX};
use crate::stats::stats_json;
use crate::{ControlHandle, ControlPlane};

/// Bounds of the HTTP side.
#[derive(Clone, Copy, Debug)]
pub struct HttpLimits {
    /// Connections open at once. Each may hold 16 KiB of request header, and an answer that its peer has not taken yet.
    pub connections_max: usize,
    /// From the start of waiting for a request to the end of its header; so it also ends idle connections. The default
    /// is longer than a common scrape interval of 10 s.
    pub header_timeout: Duration,
    /// How long a peer may take nothing of its answer.
    pub answer_timeout: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self { connections_max: 64, header_timeout: Duration::from_secs(12), answer_timeout: Duration::from_secs(10) }
    }
}

impl ControlPlane {
    /// Serves until [`ControlHandle::stop`], on the calling thread, and returns the last totals.
    ///
    /// # Errors
    /// When the runtime cannot be set up on the listener.
    pub fn run(self, listener: TcpListener, handle: ControlHandle) -> io::Result<Totals> {
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        runtime.block_on(serve(self, listener, handle))
    }
}

struct App {
    /// Only ever locked by the one thread of the runtime, and never across an `await`: a lock nobody waits for.
    plane: Mutex<ControlPlane>,
    desk: SensorsDesk,
    handle: ControlHandle,
}

impl App {
    /// The plane with everything drained that the shards have handed out by now.
    fn drained(&self) -> MutexGuard<'_, ControlPlane> {
        // A panic in one answer leaves whole numbers behind.
        let mut plane = self.plane.lock().unwrap_or_else(PoisonError::into_inner);
        plane.drain_once();
        plane
    }
}

async fn serve(mut plane: ControlPlane, listener: TcpListener, handle: ControlHandle) -> io::Result<Totals> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let limits = plane.config.http;
    let (desk, rounds) = sensors::desk(std::mem::take(&mut plane.series));
    let app = Arc::new(App { plane: Mutex::new(plane), desk, handle: handle.clone() });
    tokio::spawn(rounds);
    tokio::spawn(drain_at_intervals(Arc::clone(&app)));

    let connections = GracefulShutdown::new();
    tokio::select! {
        () = accept(listener, router(Arc::clone(&app)), limits, &connections) => (),
        () = handle.stopped() => (),
    }
    // Answers that take longer are cut off; the process is about to end.
    let _ = timeout(LAST_ANSWERS_MAX, connections.shutdown()).await;
    Ok(app.drained().totals().clone())
}

async fn drain_at_intervals(app: Arc<App>) {
    let mut ticks = interval(DRAIN_INTERVAL_STARTING);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while app.drained().not_ready(false).is_some() {
        ticks.tick().await;
    }
    app.handle.set_ready();
    ticks = interval(DRAIN_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        drop(app.drained());
    }
}

/// Accepts for ever.
async fn accept(listener: tokio::net::TcpListener, router: Router, limits: HttpLimits, connections: &GracefulShutdown) {
    let places = Arc::new(Semaphore::new(limits.connections_max));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.header_timeout).max_buf_size(HEADER_BYTES_MAX);
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, mostly: the accept queue stays readable, so do not spin on it.
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        if SockRef::from(&stream).set_tcp_user_timeout(Some(limits.answer_timeout)).is_err() {
            // The peer is gone already.
            continue;
        }
        let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router.clone()));
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            // However it ended, timeouts and resets included, the peer alone is concerned.
            let _ = connection.await;
            drop(place);
        });
    }
}

fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/api/v1/stats", get(stats))
        .route("/api/v1/sensors", get(sensors))
        .route("/api/v1/events", get(events))
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .with_state(app)
}

const PATHS: &str = "/metrics, /healthz, /readyz, /api/v1/stats, /api/v1/sensors, /api/v1/events";

async fn metrics(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    let scrape = Scrape::gather(&app.drained());
    if wants_open_metrics(&headers) {
        ([(header::CONTENT_TYPE, OPEN_METRICS_TEXT)], scrape.into_open_metrics()).into_response()
    } else {
        ([(header::CONTENT_TYPE, PROMETHEUS_TEXT)], scrape.to_prometheus()).into_response()
    }
}

async fn healthz(State(app): State<Arc<App>>) -> Response {
    verdict(app.drained().unhealthy(), "healthy")
}

async fn readyz(State(app): State<Arc<App>>) -> Response {
    verdict(app.drained().not_ready(app.handle.is_draining()), "ready")
}

async fn stats(State(app): State<Arc<App>>) -> Response {
    Json(stats_json(&app.drained())).into_response()
}

async fn sensors(State(app): State<Arc<App>>, Query(parameters): Query<Vec<(String, String)>>) -> Response {
    let query = match SensorsQuery::parse(&parameters) {
        Ok(query) => query,
        Err(error) => return failure(StatusCode::BAD_REQUEST, &error),
    };
    match app.desk.next_round().await {
        Some(Ok(series)) => Json(query.select(&series)).into_response(),
        Some(Err(shard)) => failure(
            StatusCode::SERVICE_UNAVAILABLE,
            &format!("shard {shard} did not tell its series within {} s", WAIT_MAX.as_secs()),
        ),
        None => failure(
            StatusCode::SERVICE_UNAVAILABLE,
            &format!("the shards did not tell their series within {} s", WAIT_MAX.as_secs()),
        ),
    }
}

async fn events(State(app): State<Arc<App>>) -> Response {
    Json(app.drained().events.to_json()).into_response()
}

async fn unknown_path(uri: Uri) -> Response {
    failure(StatusCode::NOT_FOUND, &format!("there is nothing at {}; the paths are {PATHS}", uri.path()))
}

async fn wrong_method(method: Method) -> Response {
    failure(StatusCode::METHOD_NOT_ALLOWED, &format!("{method} is not allowed here; use GET or HEAD"))
}

fn verdict(reason: Option<String>, good: &str) -> Response {
    match reason {
        None => format!("{good}\n").into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

fn failure(status: StatusCode, error: &str) -> Response {
    (status, Json(json!({ "error": error }))).into_response()
}

/// Whether OpenMetrics is asked for, and plain text is not liked better.
fn wants_open_metrics(headers: &HeaderMap) -> bool {
    let accept = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect::<Vec<_>>();
    let accept = accept.join(",");
    let weight = |media: &str| {
        let entries = accept.split(',').map(|entry| entry.split(';').map(str::trim).collect::<Vec<_>>());
        let wanted = entries.filter(|entry| entry[0].eq_ignore_ascii_case(media));
        let weights = wanted.map(|entry| {
            let weight = entry.iter().find_map(|part| part.strip_prefix("q="));
            weight.map_or(1.0, |weight| weight.parse().unwrap_or(0.0))
        });
        weights.fold(0.0, f32::max)
    };
    let open_metrics = weight("application/openmetrics-text");
    open_metrics > 0.0 && open_metrics >= weight("text/plain")
}

/// Between two drains. A ring of 1 024 slots holds more samples than a shard flushes in that time, mostly; what is
/// overwritten costs no count.
const DRAIN_INTERVAL: Duration = Duration::from_millis(100);
/// The same until every shard accepts, so that the start is not held up.
const DRAIN_INTERVAL_STARTING: Duration = Duration::from_millis(10);
/// How long answers under way may take after the stop.
const LAST_ANSWERS_MAX: Duration = Duration::from_secs(1);
/// After a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Longest request header.
pub(crate) const HEADER_BYTES_MAX: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_metrics_has_to_be_asked_for() {
        let wants = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            wants_open_metrics(&headers)
        };
        assert!(!wants_open_metrics(&HeaderMap::new()));
        assert!(wants("application/openmetrics-text"));
        // What Prometheus 2.53 sends.
        assert!(wants(
            "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,\
             text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
        ));
        assert!(!wants("*/*"));
        assert!(!wants("text/plain, application/openmetrics-text; q=0.5"));
        assert!(!wants("application/openmetrics-text;q=0"));
        assert!(!wants("text/html, application/xhtml+xml"));
    }
}
