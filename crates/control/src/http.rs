//! The paths: who may ask, what is answered.
//!
//! Everything but `/healthz` and `/readyz` needs the token, if there is one: also paths that do not exist. Without a
//! token the name that a request asks for has to be one of the port's. Nothing takes a body; a short one is skipped, and
//! a long one refused unread.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::HttpBody;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{AppendHeaders, IntoResponse, Json, Response};
use axum::routing::get;
use serde_json::json;

use crate::TokenSource;
use crate::answers::{AnswerDesk, NoAnswer, Question};
use crate::connections::{Connection, Connections};
use crate::dashboard;
use crate::hosts::HostRule;
use crate::sensors::{NoSeries, ROUND_MAX, SensorsDesk, SensorsQuery, WAIT_MAX};
use crate::wrong_tokens::WrongTokens;

/// Where the paths get their answers.
pub(crate) struct Desks {
    pub(crate) answers: AnswerDesk,
    pub(crate) sensors: SensorsDesk,
    /// Those of the control port, of which one may have to end.
    pub(crate) connections: Arc<Connections>,
}

/// Which requests a port answers.
#[derive(Clone)]
pub(crate) struct Admission {
    pub(crate) token: Option<Arc<TokenSource>>,
    pub(crate) wrong_tokens: Arc<WrongTokens>,
    /// Looked at only where there is no token.
    pub(crate) hosts: HostRule,
}

/// Who asks. Every request has it as an extension.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) connection: Arc<Connection>,
    pub(crate) address: SocketAddr,
}

/// The paths of the control port.
pub(crate) fn router(desks: Arc<Desks>, admission: Admission) -> Router {
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
        .layer(from_fn_with_state(admission, admit))
        .with_state(desks)
}

/// The paths of the port for probes.
pub(crate) fn probe_router(desks: Arc<Desks>, admission: Admission) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .fallback(async || failure(StatusCode::NOT_FOUND, "this port has the paths /healthz and /readyz and no other"))
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(admission, admit))
        .with_state(desks)
}

const PATHS: &str = "/, /metrics, /healthz, /readyz, /api/v1/stats, /api/v1/sensors, /api/v1/events";

/// Probes have no place for a secret, and learn nothing that they could not find out by connecting.
const PATHS_FOR_ALL: [&str; 2] = ["/healthz", "/readyz"];

/// Longest body that is skipped rather than refused.
const BODY_BYTES_MAX: u64 = 4 * 1024;

/// Longest error text in an answer: some of them quote what was asked, which may be long.
const ERROR_CHARS_MAX: usize = 1024;

/// The head of a whole request of a probe. Such a request may take one of the places kept back for probes.
pub(crate) fn is_probe(head: &[u8]) -> bool {
    let line = head.strip_prefix(b"GET ").or_else(|| head.strip_prefix(b"HEAD "));
    let is_path = |path: &str| {
        let rest = line.and_then(|line| line.strip_prefix(path.as_bytes()));
        rest.is_some_and(|rest| rest.starts_with(b" ") || rest.starts_with(b"?"))
    };
    PATHS_FOR_ALL.iter().any(|path| is_path(path)) && head.ends_with(b"\r\n\r\n")
}

async fn admit(State(admission): State<Admission>, request: Request, next: Next) -> Response {
    let is_for_all = PATHS_FOR_ALL.contains(&request.uri().path());
    match &admission.token {
        Some(token) if !is_for_all && !token.admits(request.headers()) => {
            let gave_one = request.headers().contains_key(header::AUTHORIZATION);
            let client = request.extensions().get::<Client>().filter(|_| gave_one).cloned();
            return unauthorized(&admission.wrong_tokens, client).await;
        }
        Some(_) => (),
        None => {
            if let Some(name) = admission.hosts.refuses(&request) {
                let error = format!(
                    "this port answers requests for localhost and for IP addresses; {name:?} is not one of its names. \
                     Ask for the IP address, or start the server with --control-host and that name, or with a token \
                     (--control-token-file)"
                );
                return failure(StatusCode::MISDIRECTED_REQUEST, &error);
            }
        }
    }
    let refused = match request.body().size_hint().upper() {
        Some(bytes) if bytes <= BODY_BYTES_MAX => return next.run(request).await,
        Some(_) => StatusCode::PAYLOAD_TOO_LARGE,
        None => StatusCode::LENGTH_REQUIRED,
    };
    let error = format!("nothing here takes a body; send none, or {BODY_BYTES_MAX} bytes at most with their length");
    ([(header::CONNECTION, "close")], failure(refused, &error)).into_response()
}

/// Refuses a request without the token. A wrong token of a client is noted, and its answer held back when its address
/// had many; a missing one is not, because browsers ask without it first.
async fn unauthorized(wrong_tokens: &WrongTokens, gave_wrong: Option<Client>) -> Response {
    // Clients that know one way of asking only look for theirs.
    let ways = ["Bearer realm=\"corelane\"", "Basic realm=\"corelane\", charset=\"UTF-8\""];
    let error = "this needs the token: `Authorization: Bearer TOKEN`, or any user name with the token as password";
    let ways = AppendHeaders(ways.map(|way| (header::WWW_AUTHENTICATE, way)));
    let mut answer = (ways, failure(StatusCode::UNAUTHORIZED, error)).into_response();
    if let Some(Client { connection, address }) = gave_wrong
        && wrong_tokens.note(address, Instant::now())
    {
        connection.slowed();
        if !wrong_tokens.slow_down().await {
            answer.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
        }
    }
    answer
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
        Ok(answer) => answer.into_response(),
        Err(NoAnswer::NoMemory) => no_memory(desks),
        Err(NoAnswer::Fault) => fault(),
    }
}

async fn sensors(State(desks): State<Arc<Desks>>, Query(parameters): Query<Vec<(String, String)>>) -> Response {
    let query = match SensorsQuery::parse(&parameters) {
        Ok(query) => query,
        Err(error) => return failure(StatusCode::BAD_REQUEST, &error),
    };
    match desks.sensors.ask(query).await {
        Ok(answer) => ([(header::CONTENT_TYPE, "application/json")], answer.into_body()).into_response(),
        Err(NoSeries::Silent(shard)) => failure(
            StatusCode::SERVICE_UNAVAILABLE,
            &format!("shard {shard} did not tell its series within {} s", ROUND_MAX.as_secs()),
        ),
        Err(NoSeries::Busy) => {
            later(&format!("requests for series before this one took longer than {} s; ask again", WAIT_MAX.as_secs()))
        }
        Err(NoSeries::NoMemory) => no_memory(&desks),
        Err(NoSeries::Fault) => fault(),
    }
}

/// The answer when the memory for answers is used up. Ends the connection that has not taken its answer for longest.
fn no_memory(desks: &Desks) -> Response {
    desks.connections.end_longest_answer();
    later("answers that their readers have not taken yet use up the memory for answers; ask again, or for fewer series")
}

fn later(error: &str) -> Response {
    ([(header::RETRY_AFTER, "1")], failure(StatusCode::SERVICE_UNAVAILABLE, error)).into_response()
}

fn fault() -> Response {
    failure(StatusCode::INTERNAL_SERVER_ERROR, "internal error; the log has more")
}

async fn unknown_path(uri: Uri) -> Response {
    failure(StatusCode::NOT_FOUND, &format!("there is nothing at {}; the paths are {PATHS}", uri.path()))
}

async fn wrong_method(method: Method) -> Response {
    failure(StatusCode::METHOD_NOT_ALLOWED, &format!("{method} is not allowed here; use GET or HEAD"))
}

fn failure(status: StatusCode, error: &str) -> Response {
    let end = error.char_indices().nth(ERROR_CHARS_MAX).map_or(error.len(), |(end, _)| end);
    let error = &error[..end];
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
    fn only_a_whole_request_of_a_probe_is_taken_for_one() {
        for probe in [
            "GET /healthz HTTP/1.1\r\nHost: 10.0.0.1\r\n\r\n",
            "HEAD /readyz HTTP/1.0\r\n\r\n",
            "GET /readyz?verbose HTTP/1.1\r\n\r\n",
        ] {
            assert!(is_probe(probe.as_bytes()), "{probe}");
        }
        for other in [
            "",
            "G",
            "GET /healthz HTTP/1.1\r\nHost: 10.0.0.1\r\n",
            "GET /healthzz HTTP/1.1\r\n\r\n",
            "GET /metrics HTTP/1.1\r\n\r\n",
            "POST /healthz HTTP/1.1\r\nContent-Length: 1\r\n\r\nx",
        ] {
            assert!(!is_probe(other.as_bytes()), "{other}");
        }
    }

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
