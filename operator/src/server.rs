//! `/healthz`, `/readyz` and `/metrics`.

use std::io;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// What the operator waits for, in words; `None` when it is ready.
pub type WaitingFor = watch::Receiver<Option<&'static str>>;

#[derive(Clone)]
struct Shared {
    metrics: Metrics,
    waiting_for: WaitingFor,
}

/// Serves until `stop`.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    waiting_for: WaitingFor,
    stop: CancellationToken,
) -> io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics_text))
        .with_state(Shared { metrics, waiting_for });
    let ended = stop.clone();
    let server = axum::serve(listener, router).with_graceful_shutdown(async move { stop.cancelled().await });
    tokio::select! {
        result = server => result,
        // A client that keeps its connection open does not keep us.
        () = async { ended.cancelled().await; tokio::time::sleep(GRACE).await } => Ok(()),
    }
}

/// How long requests under way may take when the operator stops.
const GRACE: std::time::Duration = std::time::Duration::from_secs(2);

async fn ready(State(shared): State<Shared>) -> Response {
    match *shared.waiting_for.borrow() {
        None => "ok\n".into_response(),
        Some(what) => (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {what}\n")).into_response(),
    }
}

async fn metrics_text(State(shared): State<Shared>) -> Response {
    match shared.metrics.text() {
        Ok(text) => (
            [(
                CONTENT_TYPE,
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
            )],
            text,
        )
            .into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
