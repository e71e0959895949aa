//! The paths: who may ask, what is answered.
//!
//! Everything but `/healthz` and `/readyz` needs the token, if there is one: also paths that do not exist. Nothing takes
//! a body; a short one is skipped, and a long one refused unread.

use std::sync::Arc;

use axum::Router;
use axum::body::HttpBody;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{AppendHeaders, IntoResponse, Json, Response};
use axum::routing::get;
use serde_json::json;

use crate::TokenSource;
use crate::answers::{AnswerDesk, Question};
use crate::dashboard;
use crate::sensors::{SensorsDesk, SensorsQuery, WAIT_MAX};

/// Where the paths get their answers.
pub(crate) struct Desks {
    pub(crate) answers: AnswerDesk,
    pub(crate) sensors: SensorsDesk,
}

pub(crate) fn router(desks: Desks, token: Option<Arc<TokenSource>>) -> Router {
    let router = Router::new()
        .route("/", get(dashboard::page))
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/api/v1/stats", get(stats))
        .route("/api/v1/sensors", get(sensors))
        .route("/api/v1/events", get(events));
    #[cfg(test)]
    let router = router.route("/panic", get(async || -> Response { panic!("a test breaks a request") }));
    router
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(token, admit))
        .with_state(Arc::new(desks))
}

const PATHS: &str = "/, /metrics, /healthz, /readyz, /api/v1/stats, /api/v1/sensors, /api/v1/events";

/// Probes have no place for a secret, and learn nothing that they could not find out by connecting.
const PATHS_FOR_ALL: [&str; 2] = ["/healthz", "/readyz"];

/// Longest body that is skipped rather than refused.
const BODY_BYTES_MAX: u64 = 4 * 1024;

async fn admit(State(token): State<Option<Arc<TokenSource>>>, request: Request, next: Next) -> Response {
    let is_for_all = PATHS_FOR_ALL.contains(&request.uri().path());
    if let Some(token) = token
        && !is_for_all
        && !token.admits(request.headers())
    {
        // Clients that know one way of asking only look for theirs.
        let ways = ["Bearer realm=\"corelane\"", "Basic realm=\"corelane\", charset=\"UTF-8\""];
        let error = "this needs the token: `Authorization: Bearer TOKEN`, or any user name with the token as password";
        let ways = AppendHeaders(ways.map(|way| (header::WWW_AUTHENTICATE, way)));
        return (ways, failure(StatusCode::UNAUTHORIZED, error)).into_response();
    }
    let refused = match request.body().size_hint().upper() {
        Some(bytes) if bytes <= BODY_BYTES_MAX => return next.run(request).await,
        Some(_) => StatusCode::PAYLOAD_TOO_LARGE,
        None => StatusCode::LENGTH_REQUIRED,
    };
    let error = format!("nothing here takes a body; send none, or {BODY_BYTES_MAX} bytes at most with their length");
    ([(header::CONNECTION, "close")], failure(refused, &error)).into_response()
}

async fn metrics(State(desks): State<Arc<Desks>>, headers: HeaderMap) -> Response {
    let question = if wants_open_metrics(&headers) { Question::OpenMetrics } else { Question::Metrics };
    ask(&desks, question).await
}

async fn healthz(State(desks): State<Arc<Desks>>) -> Response {
    ask(&desks, Question::Health).await
}

async fn readyz(State(desks): State<Arc<Desks>>) -> Response {
    ask(&desks, Question::Readiness).await
}

async fn stats(State(desks): State<Arc<Desks>>) -> Response {
    ask(&desks, Question::Stats).await
}

async fn events(State(desks): State<Arc<Desks>>) -> Response {
    ask(&desks, Question::Events).await
}

async fn ask(desks: &Desks, question: Question) -> Response {
    match desks.answers.ask(question).await {
        Some(answer) => answer.into_response(),
        None => failure(StatusCode::INTERNAL_SERVER_ERROR, "internal error; the log has more"),
    }
}

async fn sensors(State(desks): State<Arc<Desks>>, Query(parameters): Query<Vec<(String, String)>>) -> Response {
    let query = match SensorsQuery::parse(&parameters) {
        Ok(query) => query,
        Err(error) => return failure(StatusCode::BAD_REQUEST, &error),
    };
    match desks.sensors.next_round().await {
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

async fn unknown_path(uri: Uri) -> Response {
    failure(StatusCode::NOT_FOUND, &format!("there is nothing at {}; the paths are {PATHS}", uri.path()))
}

async fn wrong_method(method: Method) -> Response {
    failure(StatusCode::METHOD_NOT_ALLOWED, &format!("{method} is not allowed here; use GET or HEAD"))
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
