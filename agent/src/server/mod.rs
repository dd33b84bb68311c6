//! The plugin's socket: its life on disk ([`PluginSocket`]) and what is served on it. Metrics also on a TCP port
//! ([`MetricsPort`]), under the same limits, and everything also on a socket of the agent's own ([`StandbySocket`]).
//!
//! | `GET` | answer |
//! |---|---|
//! | `/report` | the report for Weave Scope, of the latest tick; the same bytes for every poller |
//! | `/totals` | totals since the start, read from the kernel when asked |
//! | `/overview` | totals and rates of everyone at the latest tick, for the live table |
//! | `/metrics` | the same as counters for Prometheus: `OpenMetrics` for those who ask for it |
//! | `/healthz` | 200 while the sampler ticks; says so if this agent stands by |
//! | `/readyz` | 200 while the counters can be read |
//!
//! Other paths are 404, other methods 405.

mod clients;
mod port;
mod socket;
mod standby;
mod stream;

use std::future::pending;
use std::io;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRef, RawQuery, State};
use axum::http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, yield_now};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::error_chain::error_chain;
use crate::host::{Poll, ProbeId};
use crate::sampler::{Body, Feed, Published, View, accepts_gzip};
use clients::{Activity, Clients};
pub use port::{MetricsPort, PortError};
pub use socket::{PLUGIN_DIR, PluginSocket, SocketError, SocketState};
pub use standby::{SocketOwnership, StandbySocket};
use stream::WriteTimeout;

/// Clients served at once; a next one takes the place of who is missed least. Scope has two pollers.
const MAX_CONNECTIONS: usize = 128;
/// A client that has sent no whole request in this time is dropped, idle ones too. Scope polls every second or two.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A client that has not read a whole answer in this time is dropped, or it could keep the answers of many ticks in
/// memory. Scope gives up after half a second.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Answers under way have this long to be read when the agent stops.
const GRACE: Duration = Duration::from_secs(2);
/// Longest request head. Scope's are 200 bytes.
const MAX_HEAD: usize = 16 * 1024;
/// Pause after a failed `accept`, for instance when no descriptor is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A sampler that has not ticked for this long, nor for three intervals, hangs.
const MIN_PATIENCE: Duration = Duration::from_secs(10);

/// What `/healthz` and `/readyz` of an agent say that is well and stands by.
pub const STANDING_BY: &str = "standing by\n";

#[derive(Clone, Debug)]
struct Api {
    feed: Feed,
    /// Whether this agent has the plugin's socket.
    serving: watch::Receiver<bool>,
}

/// The routes, over a sampler. `serving` says whether this agent has the plugin's socket.
pub fn router(feed: Feed, serving: watch::Receiver<bool>) -> Router {
    Router::new()
        .route("/report", get(report))
        .route("/totals", get(totals))
        .route("/overview", get(overview))
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .fallback(async || {
            (
                StatusCode::NOT_FOUND,
                "no such path: there are /report, /totals, /overview, /metrics, /healthz and /readyz\n",
            )
        })
        .with_state(Api { feed, serving })
}

/// The routes for those who may be on another host: metrics, and nothing else.
pub fn metrics_router(feed: Feed) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .fallback(async || (StatusCode::NOT_FOUND, "no such path: there is /metrics\n"))
        .with_state(feed)
}

const JSON: &str = "application/json";

fn typed(content_type: &'static str, body: Bytes) -> Response {
    ([(CONTENT_TYPE, HeaderValue::from_static(content_type))], body).into_response()
}

/// Compressed for those who take that.
fn compressible(headers: &HeaderMap, content_type: &'static str, body: &Body) -> Response {
    let gzip = accepts_gzip(headers).then(|| body.gzip());
    maybe_compressed(content_type, body, gzip)
}

fn maybe_compressed(content_type: &'static str, body: &Body, gzip: Option<Bytes>) -> Response {
    let is_compressed = gzip.is_some();
    let mut answer = typed(content_type, gzip.unwrap_or_else(|| body.plain()));
    let headers = answer.headers_mut();
    if is_compressed {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    headers.insert(VARY, HeaderValue::from_static("accept, accept-encoding"));
    answer
}

fn unavailable(reason: &str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response()
}

/// The process at the other end, if it is in our PID namespace.
#[derive(Clone, Copy, Debug)]
struct Peer(Option<u32>);

impl FromRef<Api> for Feed {
    fn from_ref(api: &Api) -> Self {
        api.feed.clone()
    }
}

async fn report(
    State(api): State<Api>,
    Extension(Peer(pid)): Extension<Peer>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    if let Some(probe) = query.as_deref().and_then(ProbeId::from_query) {
        api.feed.polled(Poll { probe, pid });
    }
    let takes_gzip = accepts_gzip(&headers);
    if takes_gzip {
        api.feed.takes_gzip();
    }
    match api.feed.view(View::Report).await {
        // Only if the sampler thought that worth its while.
        Ok(body) => maybe_compressed(JSON, &body, body.compressed().filter(|_| takes_gzip)),
        Err(error) => unavailable(&error_chain(&error)),
    }
}

async fn totals(State(api): State<Api>) -> Response {
    match api.feed.totals().await {
        Ok(body) => typed(JSON, body),
        Err(error) => unavailable(&error_chain(&error)),
    }
}

async fn overview(State(api): State<Api>, headers: HeaderMap) -> Response {
    match api.feed.view(View::Overview).await {
        Ok(body) => compressible(&headers, JSON, &body),
        Err(error) => unavailable(&error_chain(&error)),
    }
}

async fn metrics(State(feed): State<Feed>, headers: HeaderMap) -> Response {
    let accepted = headers.get_all(ACCEPT).iter();
    let open = accepted
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.contains("application/openmetrics-text"));
    let (view, content_type) = if open {
        (
            View::OpenMetrics,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        )
    } else {
        (View::ClassicMetrics, "text/plain; version=0.0.4; charset=utf-8")
    };
    match feed.view(view).await {
        Ok(body) => compressible(&headers, content_type, &body),
        Err(error) => unavailable(&error_chain(&error)),
    }
}

async fn healthz(State(api): State<Api>) -> Response {
    let Published { at, interval, .. } = api.feed.latest();
    let silence = at.elapsed();
    if silence > (interval * 3).max(MIN_PATIENCE) {
        return unavailable(&format!("no sample for {} s", silence.as_secs()));
    }
    if *api.serving.borrow() {
        "ok\n"
    } else {
        STANDING_BY
    }
    .into_response()
}

async fn readyz(State(api): State<Api>) -> Response {
    match api.feed.latest().failure {
        Some(failure) => unavailable(&failure),
        None => healthz(State(api)).await,
    }
}

/// Where connections come from.
pub trait Listener: Send + Sync {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection, and the process at its other end, if it is in our PID namespace.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Option<u32>)>> + Send;
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<(UnixStream, Option<u32>)> {
        let (stream, _) = self.accept().await?;
        let pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
        // 0: outside our PID namespace.
        let pid = pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0);
        Ok((stream, pid))
    }
}

/// Serves on the latest of `listeners` until `shutdown`, and then at most a few seconds longer.
pub async fn serve<L: Listener>(
    mut listeners: mpsc::Receiver<L>,
    router: Router,
    shutdown: CancellationToken,
) {
    let mut listener: Option<L> = None;
    let mut connections = JoinSet::new();
    let mut clients = Clients::default();
    let mut failing = false;
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(ended) = connections.join_next_with_id() => {
                clients.remove(ended.map_or_else(|error| error.id(), |(id, ())| id));
            }
            Some(new) = listeners.recv() => listener = Some(new),
            accepted = accept(listener.as_ref()) => match accepted {
                Ok((stream, pid)) => {
                    if std::mem::take(&mut failing) {
                        info!("connections are accepted again");
                    }
                    if clients.len() >= MAX_CONNECTIONS {
                        clients.displace_one();
                        // In a flood of them, those already here must get to say what they want.
                        yield_now().await;
                    }
                    let activity = clients.activity();
                    let connection = serve_connection(
                        stream,
                        Peer(pid),
                        router.clone(),
                        activity.clone(),
                        shutdown.clone(),
                    );
                    clients.add(connections.spawn(connection), activity);
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        warn!(%error, "failed to accept a connection; trying again");
                    }
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

async fn accept<L: Listener>(listener: Option<&L>) -> io::Result<(L::Stream, Option<u32>)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => pending().await,
    }
}

async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    router: Router,
    activity: Activity,
    shutdown: CancellationToken,
) {
    let router = TowerToHyperService::new(router);
    let stream = WriteTimeout::new(stream, ANSWER_TIMEOUT, move || activity.answered());
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        router.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
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
