//! Several operators, of which some cannot reach the API server.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::http::Method;
use operator::leader::{Candidate, NAME};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::faults::api_server::{ApiServer, Fault};

/// When work began, and when it ended.
type Spans = Arc<Mutex<Vec<(Instant, Option<Instant>)>>>;

/// Work under way; its end is noted however it ends.
struct Span(Spans);

impl Span {
    fn begin(spans: &Spans) -> Self {
        spans.lock().unwrap().push((Instant::now(), None));
        Self(Arc::clone(spans))
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        self.0.lock().unwrap().last_mut().unwrap().1 = Some(Instant::now());
    }
}

/// An operator whose work is to note when it works.
struct Worker {
    spans: Spans,
    stop: CancellationToken,
    task: JoinHandle<()>,
    waiting_for: watch::Receiver<Option<&'static str>>,
}

impl Worker {
    async fn start(api: &ApiServer) -> Self {
        let candidate = Candidate::new(api.start().await, "monitoring");
        let (spans, stop) = (Spans::default(), CancellationToken::new());
        let (waiting, waiting_for) = watch::channel(Some("start"));
        let task = tokio::spawn({
            let (spans, stop) = (Arc::clone(&spans), stop.clone());
            async move {
                let work = |_| async {
                    let _span = Span::begin(&spans);
                    stop.cancelled().await;
                };
                candidate.run(&waiting, &stop, work).await;
            }
        });
        Self {
            spans,
            stop,
            task,
            waiting_for,
        }
    }

    fn spans(&self) -> Vec<(Instant, Option<Instant>)> {
        self.spans.lock().unwrap().clone()
    }

    async fn until(&self, what: &str, is_so: impl Fn(&[(Instant, Option<Instant>)]) -> bool) {
        let waiting = async {
            while !is_so(&self.spans()) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_mins(2), waiting).await;
        assert!(waited.is_ok(), "it never came that {what}: {:?}", self.spans());
    }

    /// Waits until it works for the `nth` time.
    async fn until_it_works(&self, nth: usize) {
        self.until("it works", |spans| {
            spans.len() == nth && spans[nth - 1].1.is_none()
        })
        .await;
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

fn path() -> String {
    format!("/apis/coordination.k8s.io/v1/namespaces/monitoring/leases/{NAME}")
}

#[tokio::test]
async fn an_operator_that_is_cut_off_has_stopped_before_another_begins() {
    let cut_off = async |fault: Fault| {
        let near = ApiServer::default();
        let far = near.twin();
        let first = Worker::start(&near).await;
        first.until_it_works(1).await;
        let mut second = Worker::start(&far).await;
        let stands_by = second.waiting_for.wait_for(Option::is_none);
        stands_by.await.unwrap();
        for method in [Method::GET, Method::POST, Method::PUT] {
            near.plan(method, "/leases", fault, usize::MAX);
        }
        second.until_it_works(1).await;
        let (ended, began) = (first.spans()[0].1, second.spans()[0].0);
        assert!(
            ended.is_some_and(|ended| ended < began),
            "{fault:?}: {ended:?} {began:?}"
        );

        // Back again, it waits for its turn, which comes with the other's end.
        near.forget_plans();
        second.stop().await;
        first.until_it_works(2).await;
        first.stop().await;
        let lease = near.get(&path()).unwrap();
        assert_eq!(lease["spec"]["holderIdentity"], Value::Null, "given back");
        assert_eq!(lease["spec"]["leaseTransitions"], 3);
    };
    let faults = [
        Fault::Silence,
        Fault::Garbage,
        Fault::Status(500, "InternalError", 0),
        Fault::Status(403, "Forbidden", 0),
    ];
    futures::future::join_all(faults.map(cut_off)).await;
}

#[tokio::test]
async fn a_lease_that_is_gone_or_taken_stops_an_operator_and_a_slow_answer_does_not() {
    let api = ApiServer::default();
    let worker = Worker::start(&api).await;
    worker.until_it_works(1).await;
    // Renewals come late, one conflicts with a change that took nothing away, and one is refused.
    api.plan(
        Method::PUT,
        "/leases/",
        Fault::Slow(Duration::from_millis(500)),
        1,
    );
    api.plan(Method::PUT, "/leases/", Fault::Status(409, "Conflict", 0), 1);
    api.plan(Method::PUT, "/leases/", Fault::Status(500, "InternalError", 0), 1);
    worker
        .until("all of that has happened", |_| api.left() == 0)
        .await;
    assert_eq!(worker.spans().len(), 1);

    api.delete(&path());
    // It makes it anew, and so begins again.
    worker.until_it_works(2).await;
    let mut lease = api.get(&path()).unwrap();
    lease["spec"]["holderIdentity"] = json!("a thief");
    api.put(&path(), lease);
    worker.until("it stops", |spans| spans[1].1.is_some()).await;
    worker.until_it_works(3).await;
    worker.stop().await;
}
