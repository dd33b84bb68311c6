//! Asks a running agent over its socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::StatusCode;
use hyper_util::client::legacy::Client as HttpClient;
use hyperlocal::{UnixClientExt as _, UnixConnector, Uri};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

/// A whole request takes no longer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The most Scope accepts.
const MAX_BODY: usize = 50 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "failed to connect to {}: no agent listens there: start it with `scope-http-statistics-agent run`, or set --plugin-dir",
        .socket.display()
    )]
    NoAgent {
        /// The socket.
        socket: PathBuf,
    },
    /// The socket is not ours to use.
    #[error("failed to connect to {}: permission denied: run as root (sudo)", .socket.display())]
    Permission {
        /// The socket.
        socket: PathBuf,
    },
    /// Connected, but no answer came.
    #[error("failed to get {path} from {}: no answer in {TIMEOUT:?}: the agent hangs; restart it", .socket.display())]
    Timeout {
        /// The socket.
        socket: PathBuf,
        /// What was asked for.
        path: &'static str,
    },
    /// The exchange failed.
    #[error("failed to get {path} from {}: {cause}: is that the agent's socket?", .socket.display())]
    Exchange {
        /// The socket.
        socket: PathBuf,
        /// What was asked for.
        path: &'static str,
        /// Why.
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The agent says no.
    #[error("the agent answers {path} with {status}: {reason}")]
    Status {
        /// What was asked for.
        path: &'static str,
        /// Its answer.
        status: StatusCode,
        /// Its words.
        reason: String,
    },
    /// The answer is something else.
    #[error(
        "failed to read the agent's answer to {path}: {cause}: are client and agent of the same version?"
    )]
    Answer {
        /// What was asked for.
        path: &'static str,
        /// Why.
        cause: serde_json::Error,
    },
}

/// A client of one agent.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    http: HttpClient<UnixConnector, Empty<Bytes>>,
}

impl Client {
    /// A client of the agent that listens on `socket`.
    #[must_use]
    pub fn new(socket: PathBuf) -> Self {
        Self {
            socket,
            http: HttpClient::unix(),
        }
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The body of a 200 answer.
    ///
    /// # Errors
    /// When no agent listens, it does not answer in time, or answers something else.
    pub async fn get(&self, path: &'static str) -> Result<Bytes, ClientError> {
        let socket = self.socket.clone();
        let exchange = async {
            let answer = self.http.get(Uri::new(&socket, path).into()).await?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MAX_BODY)
                .collect()
                .await?
                .to_bytes();
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>((status, body))
        };
        let (status, body) = match timeout(TIMEOUT, exchange).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(cause)) => return Err(self.explain(path, cause)),
            Err(_) => return Err(ClientError::Timeout { socket, path }),
        };
        if status != StatusCode::OK {
            let reason = String::from_utf8_lossy(&body)
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ");
            return Err(ClientError::Status { path, status, reason });
        }
        Ok(body)
    }

    /// The body of a 200 answer, read as JSON.
    ///
    /// # Errors
    /// As [`get`](Self::get), or when the answer is something else.
    pub async fn get_json<T: DeserializeOwned>(&self, path: &'static str) -> Result<T, ClientError> {
        let body = self.get(path).await?;
        serde_json::from_slice(&body).map_err(|cause| ClientError::Answer { path, cause })
    }

    fn explain(&self, path: &'static str, cause: Box<dyn std::error::Error + Send + Sync>) -> ClientError {
        let socket = self.socket.clone();
        let mut innermost: &(dyn std::error::Error + 'static) = &*cause;
        while let Some(source) = innermost.source() {
            innermost = source;
        }
        match innermost.downcast_ref::<io::Error>().map(io::Error::kind) {
            Some(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                ClientError::NoAgent { socket }
            }
            Some(io::ErrorKind::PermissionDenied) => ClientError::Permission { socket },
            _ => ClientError::Exchange { socket, path, cause },
        }
    }
}
