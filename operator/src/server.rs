//! What the operator answers by HTTP:
//!
//! | path | answer |
//! |---|---|
//! | `/healthz` | 200 as long as the operator runs |
//! | `/readyz` | 200 when it works or stands by; before that 503, with what it waits for |
//! | `/metrics` | its metrics: `OpenMetrics` for clients that ask for it |

use std::io;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::metrics::{Metrics, classic};

/// How long requests that are under way may take when the operator stops.
const GRACE: Duration = Duration::from_secs(2);

/// What the operator waits for, in words; `None` when it is ready.
pub(crate) type WaitingFor = watch::Receiver<Option<&'static str>>;

#[derive(Clone)]
struct Shared {
    metrics: Metrics,
    waiting_for: WaitingFor,
}

/// Serves until `stop`.
///
/// # Errors
/// When the listener fails.
pub(crate) async fn serve(
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
        // A client that keeps its connection open does not keep the operator.
        () = async { ended.cancelled().await; tokio::time::sleep(GRACE).await } => Ok(()),
    }
}

async fn ready(State(shared): State<Shared>) -> Response {
    match *shared.waiting_for.borrow() {
        None => "ok\n".into_response(),
        Some(what) => (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {what}\n")).into_response(),
    }
}

async fn metrics_text(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    let text = match shared.metrics.text() {
        Ok(text) => text,
        Err(error) => return (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    };
    let (content_type, text) = if accepts_open_metrics(&headers) {
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", text)
    } else {
        ("text/plain; version=0.0.4; charset=utf-8", classic(&text))
    };
    ([(CONTENT_TYPE, content_type), (VARY, "accept")], text).into_response()
}

fn accepts_open_metrics(headers: &HeaderMap) -> bool {
    let mut accepted = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok());
    accepted.any(|value| value.contains("application/openmetrics-text"))
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use axum::http::HeaderValue;

    use super::*;

    #[tokio::test]
    async fn metrics_are_open_metrics_for_those_who_ask_and_of_prometheus_for_all_others() {
        let metrics = Metrics::default();
        metrics.wrote("DaemonSet", Duration::from_millis(3));
        let shared = Shared {
            metrics,
            waiting_for: watch::channel(None).1,
        };
        let get = async |accept: Option<&'static str>| {
            let accept = accept.map(|value| (ACCEPT, HeaderValue::from_static(value)));
            let headers = accept.into_iter().collect();
            let answer = metrics_text(State(shared.clone()), headers).await;
            let content_type = answer.headers()[CONTENT_TYPE].to_str().unwrap().to_owned();
            let body = to_bytes(answer.into_body(), usize::MAX).await.unwrap();
            (content_type, String::from_utf8(body.into()).unwrap())
        };
        let sample = "scope_http_statistics_operator_writes_total{kind=\"DaemonSet\"} 1\n";

        // What Prometheus sends.
        for accept in [
            "application/openmetrics-text",
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1",
        ] {
            let (content_type, text) = get(Some(accept)).await;
            assert_eq!(
                content_type,
                "application/openmetrics-text; version=1.0.0; charset=utf-8"
            );
            assert!(
                text.contains("# TYPE scope_http_statistics_operator_writes counter\n"),
                "{text}"
            );
            assert!(text.contains(sample) && text.ends_with("# EOF\n"), "{text}");
        }
        for accept in [None, Some("*/*"), Some("text/plain;version=0.0.4")] {
            let (content_type, text) = get(accept).await;
            assert_eq!(content_type, "text/plain; version=0.0.4; charset=utf-8");
            for line in [
                "# TYPE scope_http_statistics_operator_writes_total counter\n",
                "# TYPE scope_http_statistics_operator_build_info gauge\n",
                "# TYPE scope_http_statistics_operator_write_seconds histogram\n",
                sample,
            ] {
                assert!(text.contains(line), "{line}{text}");
            }
            assert!(!text.contains("# UNIT") && !text.contains("# EOF"), "{text}");
        }
    }
}
