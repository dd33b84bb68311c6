//! The sampler as servers see it: they ask, and wait for an answer.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use super::body::Body;
use crate::host::Poll;

/// How the latest tick went.
#[derive(Clone, Debug)]
pub struct Published {
    /// When the tick was over.
    pub at: Instant,
    /// When the next one is to be expected after that.
    pub interval: Duration,
    /// Why the counters could not be read in this tick, if so. Views then show what was read before.
    pub failure: Option<String>,
}

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Unavailable {
    /// The kernel does not let us.
    #[error("the counters cannot be read")]
    Counters(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// Not to be written as JSON.
    #[error("the answer cannot be written")]
    Json(#[source] Arc<serde_json::Error>),
    /// Not to be written as text.
    #[error("the metrics cannot be written")]
    Metrics(#[from] std::fmt::Error),
    /// There is no sampler any more.
    #[error("the agent is stopping")]
    Stopped,
}

impl From<serde_json::Error> for Unavailable {
    fn from(error: serde_json::Error) -> Self {
        Self::Json(Arc::new(error))
    }
}

/// One request for totals, and where the answer goes.
pub(super) type TotalsRequest = oneshot::Sender<Result<Bytes, Unavailable>>;

/// What is told of the latest tick when somebody asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum View {
    /// The [`report`](crate::report) as JSON.
    Report,
    /// [`Overview`] as JSON.
    Overview,
    /// [`Metrics`] as `OpenMetrics`.
    OpenMetrics,
    /// The same as [`metrics::classic`] text.
    ClassicMetrics,
}

/// One request for a view, and where the answer goes.
pub(super) type ViewRequest = (View, oneshot::Sender<Result<Body, Unavailable>>);

/// How many requests of each kind may wait.
pub(super) const MAX_REQUESTS: usize = 16;

/// How many polls are noted between two ticks. More than one of each probe tell nothing new.
const MAX_POLLS: usize = 16;

/// What servers tell the sampler. Looking into it is left to the sampler, so that no answer waits for `/proc`.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Polls since the last tick, none twice.
    pub(super) polls: Mutex<Vec<Poll>>,
    /// How many reports were asked for since the last tick by those who take gzip.
    pub(super) gzip: AtomicUsize,
}

/// The sampler as servers see it.
#[derive(Clone, Debug)]
pub struct Feed {
    pub(super) published: watch::Receiver<Published>,
    pub(super) totals: mpsc::Sender<TotalsRequest>,
    pub(super) views: mpsc::Sender<ViewRequest>,
    pub(super) notes: Arc<Notes>,
}

impl Feed {
    /// How the latest tick went.
    #[must_use]
    pub fn latest(&self) -> Published {
        self.published.borrow().clone()
    }

    /// Scope's probe has asked for a report.
    pub fn polled(&self, poll: Poll) {
        let mut polls = self.notes.polls.lock().unwrap_or_else(PoisonError::into_inner);
        if polls.len() < MAX_POLLS && !polls.contains(&poll) {
            polls.push(poll);
        }
    }

    /// Somebody who takes gzip has asked for a report.
    pub fn takes_gzip(&self) {
        self.notes.gzip.fetch_add(1, Ordering::Relaxed);
    }

    /// Totals as JSON, read now.
    ///
    /// # Errors
    /// When the kernel cannot be read, or the sampler has stopped.
    pub async fn totals(&self) -> Result<Bytes, Unavailable> {
        let (reply, answer) = oneshot::channel();
        ask(&self.totals, reply, answer).await
    }

    /// A view of the latest tick.
    ///
    /// # Errors
    /// When it cannot be written, or the sampler has stopped.
    pub async fn view(&self, view: View) -> Result<Body, Unavailable> {
        let (reply, answer) = oneshot::channel();
        ask(&self.views, (view, reply), answer).await
    }

    /// Waits for the next tick; `false` if there will be none.
    pub async fn ticked(&mut self) -> bool {
        self.published.changed().await.is_ok()
    }
}

async fn ask<R, T>(
    requests: &mpsc::Sender<R>,
    request: R,
    answer: oneshot::Receiver<Result<T, Unavailable>>,
) -> Result<T, Unavailable> {
    if requests.send(request).await.is_err() {
        return Err(Unavailable::Stopped);
    }
    answer.await.unwrap_or(Err(Unavailable::Stopped))
}
