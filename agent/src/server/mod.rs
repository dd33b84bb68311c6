//! The plugin's socket: its life on disk ([`PluginSocket`]) and what is served on it.
//!
//! | `GET` | answer |
//! |---|---|
//! | `/report` | the report for Weave Scope; built once per tick, the same bytes for every poller |
//! | `/totals` | totals since the start, read from the kernel when asked |
//! | `/healthz` | 200 while the sampler ticks |
//! | `/readyz` | 200 while the counters can be read |
//!
//! Other paths are 404, other methods 405.

mod socket;

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::sampler::Feed;
pub use socket::{PluginSocket, SocketError, SocketState};

/// Clients served at once; the next ones wait in the kernel's queue. Scope has two pollers.
const MAX_CONNECTIONS: usize = 128;
/// A client that has sent no whole request in this time is dropped, idle ones too. Scope polls every second or two.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection ends after this time, so that a client that does not read its answer cannot keep it.
const MAX_AGE: Duration = Duration::from_mins(2);
/// Answers under way have this long to be read when the agent stops.
const GRACE: Duration = Duration::from_secs(2);
/// Longest request head. Scope's are 200 bytes.
const MAX_HEAD: usize = 16 * 1024;
/// Pause after a failed `accept`, for instance when no descriptor is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Clone, Debug)]
struct Api {
    feed: Feed,
    /// A sampler that has not ticked for this long hangs.
    patience: Duration,
}

/// The routes, over a sampler that ticks every `interval`.
pub fn router(feed: Feed, interval: Duration) -> Router {
    Router::new()
        .route("/report", get(report))
        .route("/totals", get(totals))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .fallback(async || {
            (
                StatusCode::NOT_FOUND,
                "no such path: there are /report, /totals, /healthz and /readyz\n",
            )
        })
        .with_state(Api {
            feed,
            patience: (interval * 3).max(Duration::from_secs(10)),
        })
}

fn json(body: axum::body::Bytes) -> Response {
    (
        [(CONTENT_TYPE, HeaderValue::from_static("application/json"))],
        body,
    )
        .into_response()
}

fn unavailable(reason: &str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response()
}

async fn report(State(api): State<Api>) -> Response {
    json(api.feed.latest().report)
}

async fn totals(State(api): State<Api>) -> Response {
    match api.feed.totals().await {
        Ok(body) => json(body),
        Err(error) => unavailable(&error.to_string()),
    }
}

async fn healthz(State(api): State<Api>) -> Response {
    let silence = api.feed.latest().at.elapsed();
    if silence > api.patience {
        return unavailable(&format!("no sample for {} s", silence.as_secs()));
    }
    "ok\n".into_response()
}

async fn readyz(State(api): State<Api>) -> Response {
    match api.feed.latest().failure {
        Some(failure) => unavailable(&failure),
        None => healthz(State(api)).await,
    }
}

/// Serves until `shutdown`, and then at most a few seconds longer.
pub async fn serve(listener: UnixListener, router: Router, shutdown: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(_ended) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve_connection(stream, router.clone(), shutdown.clone()));
                }
                Err(error) => {
                    warn!(%error, "failed to accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
    drop(listener);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if timeout(GRACE, all_ended).await.is_err() {
        connections.shutdown().await;
    }
}

async fn serve_connection(stream: UnixStream, router: Router, shutdown: CancellationToken) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = async { tokio::select! { () = shutdown.cancelled() => {}, () = sleep(MAX_AGE) => {} } } => {
            connection.as_mut().graceful_shutdown();
            match timeout(GRACE, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        debug!(%error, "connection ended");
    }
}
