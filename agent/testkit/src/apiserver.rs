//! As much of an API server as the agent talks to, over real HTTP, with faults to order.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;

/// The node whose pods are asked for.
pub const NODE: &str = "node-1";

/// What happens instead of an answer.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This status, as an API server says it.
    Status(u16),
    /// Something that is no answer of an API server.
    Garbage,
    /// Nothing, ever.
    Silence,
    /// The right answer, but late.
    Slow(Duration),
    /// A watch that begins well and then says 410 Gone.
    Expired,
    /// A watch whose connection breaks in the middle of an event.
    Torn,
}

#[derive(Debug, Default)]
struct Objects {
    pods: BTreeMap<String, Value>,
    owners: BTreeMap<String, Value>,
    /// Resource version, type, object.
    events: Vec<(u64, &'static str, Value)>,
    version: u64,
    list_faults: VecDeque<Fault>,
    watch_faults: VecDeque<Fault>,
    /// In place of any owner.
    owner_fault: Option<u16>,
    requests: Vec<String>,
    /// Watches before this version are told so.
    oldest: u64,
}

type Shared = (Arc<Mutex<Objects>>, watch::Sender<u64>, watch::Sender<u64>);

/// A running server. Ends with the runtime of the test.
pub struct ApiServer {
    objects: Arc<Mutex<Objects>>,
    changes: watch::Sender<u64>,
    /// Watches that began before this number changed are cut.
    cut: watch::Sender<u64>,
    listener: Option<TcpListener>,
    directory: TempDir,
}

impl ApiServer {
    /// Takes a port, but does not listen to anyone before [`serve`](Self::serve).
    pub fn new() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let directory = TempDir::new().expect("a temporary directory");
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": format!("http://{address}")}}],
            "users": [{"name": "test", "user": {"token": "secret"}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        });
        std::fs::write(directory.path().join("kubeconfig"), kubeconfig.to_string()).expect("a kubeconfig");
        Self {
            objects: Arc::default(),
            changes: watch::Sender::default(),
            cut: watch::Sender::default(),
            listener: Some(listener),
            directory,
        }
    }

    /// One that serves.
    pub fn start() -> Self {
        let mut server = Self::new();
        server.serve();
        server
    }

    /// Begins to answer. Needs a runtime.
    pub fn serve(&mut self) {
        let listener = self.listener.take().expect("it serves once");
        listener.set_nonblocking(true).expect("a socket");
        let listener = tokio::net::TcpListener::from_std(listener).expect("a runtime");
        let shared: Shared = (Arc::clone(&self.objects), self.changes.clone(), self.cut.clone());
        let router = Router::new()
            .route("/api/v1/pods", get(pods))
            .route(
                "/apis/{group}/v1/namespaces/{namespace}/{kind}/{name}",
                get(owner),
            )
            .with_state(shared);
        tokio::spawn(async { axum::serve(listener, router).await });
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
    }

    fn objects(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().expect("no test panicked with it")
    }

    /// Adds or changes a pod, by UID.
    pub fn apply(&self, mut pod: Value) {
        let uid = pod["metadata"]["uid"].as_str().expect("a UID").to_owned();
        let mut objects = self.objects();
        objects.version += 1;
        let version = objects.version;
        pod["metadata"]["resourceVersion"] = version.to_string().into();
        let kind = match objects.pods.insert(uid, pod.clone()) {
            None => "ADDED",
            Some(_) => "MODIFIED",
        };
        objects.events.push((version, kind, pod));
        drop(objects);
        self.changes.send_replace(version);
    }

    pub fn delete(&self, uid: &str) {
        let mut objects = self.objects();
        objects.version += 1;
        let version = objects.version;
        let mut pod = objects.pods.remove(uid).expect("a pod with this UID");
        pod["metadata"]["resourceVersion"] = version.to_string().into();
        objects.events.push((version, "DELETED", pod));
        drop(objects);
        self.changes.send_replace(version);
    }

    /// What owns pods: `replicasets` or `jobs`.
    pub fn set_owner(&self, kind: &str, namespace: &str, name: &str, metadata: Value) {
        let key = format!("{kind}/{namespace}/{name}");
        self.objects().owners.insert(key, metadata);
    }

    pub fn refuse_owners(&self, status: u16) {
        self.objects().owner_fault = Some(status);
    }

    pub fn fail_lists(&self, faults: impl IntoIterator<Item = Fault>) {
        self.objects().list_faults.extend(faults);
    }

    pub fn fail_watches(&self, faults: impl IntoIterator<Item = Fault>) {
        self.objects().watch_faults.extend(faults);
    }

    /// Ends all watches under way.
    pub fn cut_watches(&self) {
        self.cut.send_modify(|cut| *cut += 1);
    }

    /// Forgets what happened so far: watches that want to begin there are told so.
    pub fn compact(&self) {
        let mut objects = self.objects();
        objects.oldest = objects.version;
        objects.events.clear();
    }

    /// Paths and queries so far; those with `part` in it.
    pub fn requests(&self, part: &str) -> Vec<String> {
        let objects = self.objects();
        objects
            .requests
            .iter()
            .filter(|uri| uri.contains(part))
            .cloned()
            .collect()
    }

    /// How many watches and how many lists were begun.
    pub fn watches_and_lists(&self) -> (usize, usize) {
        let all = self.requests("/api/v1/pods");
        let watches = all.iter().filter(|uri| uri.contains("watch=")).count();
        let more = all.iter().filter(|uri| uri.contains("continue=")).count();
        (watches, all.len() - watches - more)
    }
}

fn status(code: u16) -> Response {
    let reason = match code {
        403 => "Forbidden",
        404 => "NotFound",
        410 => "Expired",
        _ => "InternalError",
    };
    let body = json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
        "message": format!("the test says {code}"), "reason": reason, "code": code});
    (StatusCode::from_u16(code).expect("a status"), body.to_string()).into_response()
}

async fn never() -> Response {
    std::future::pending().await
}

async fn pods(
    State((objects, changes, cut)): State<Shared>,
    uri: Uri,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    let lock = || objects.lock().expect("no test panicked with it");
    lock().requests.push(uri.to_string());
    let selector = query.get("fieldSelector").map(String::as_str);
    assert_eq!(selector, Some(format!("spec.nodeName={NODE}").as_str()), "{uri}");
    let watches = query.contains_key("watch");
    let fault = if watches {
        lock().watch_faults.pop_front()
    } else {
        lock().list_faults.pop_front()
    };
    let (mut torn, mut expired) = (false, false);
    match fault {
        Some(Fault::Status(code)) => return status(code),
        Some(Fault::Garbage) => return "<html>a proxy's error page</html>".into_response(),
        Some(Fault::Silence) => return never().await,
        Some(Fault::Slow(delay)) => tokio::time::sleep(delay).await,
        Some(Fault::Expired) => expired = true,
        Some(Fault::Torn) => torn = true,
        None => {}
    }
    if watches {
        let from: u64 = query["resourceVersion"].parse().expect("a version");
        return watch_pods(objects, &changes, &cut, from, torn, expired);
    }
    let objects = lock();
    let limit: usize = query["limit"].parse().expect("a limit");
    let start: usize = query
        .get("continue")
        .map_or(0, |token| token.parse().expect("our token"));
    let items: Vec<&Value> = objects.pods.values().skip(start).take(limit).collect();
    let next = start + items.len();
    let mut metadata = json!({"resourceVersion": objects.version.to_string()});
    if next < objects.pods.len() {
        metadata["continue"] = next.to_string().into();
    }
    json!({"apiVersion": "v1", "kind": "PodList", "metadata": metadata, "items": items})
        .to_string()
        .into_response()
}

fn watch_pods(
    objects: Arc<Mutex<Objects>>,
    changes: &watch::Sender<u64>,
    cut: &watch::Sender<u64>,
    from: u64,
    torn: bool,
    expired: bool,
) -> Response {
    if from < objects.lock().expect("no test panicked with it").oldest {
        return status(410);
    }
    if expired {
        let gone = json!({"type": "ERROR", "object": {"kind": "Status", "apiVersion": "v1", "metadata": {},
            "status": "Failure", "message": "too old", "reason": "Expired", "code": 410}});
        return format!("{gone}\n").into_response();
    }
    let state = (from, changes.subscribe(), cut.subscribe());
    let events = futures::stream::unfold(state, move |(from, mut changes, mut cut)| {
        let objects = Arc::clone(&objects);
        async move {
            loop {
                let next = {
                    let objects = objects.lock().expect("no test panicked with it");
                    objects
                        .events
                        .iter()
                        .find(|(version, ..)| *version > from)
                        .cloned()
                };
                if let Some((version, kind, object)) = next {
                    let line = format!("{}\n", json!({"type": kind, "object": object}));
                    if torn {
                        // Half a line, and then the connection ends with an error.
                        let half = Bytes::from(line[..line.len() / 2].to_owned());
                        return Some((Ok(half), (u64::MAX, changes, cut)));
                    }
                    return Some((Ok(Bytes::from(line)), (version, changes, cut)));
                }
                if from == u64::MAX {
                    return Some((Err(io::Error::other("torn")), (from, changes, cut)));
                }
                tokio::select! {
                    _ = changes.changed() => {}
                    _ = cut.changed() => return None,
                }
            }
        }
    });
    Body::from_stream(events).into_response()
}

async fn owner(
    State((objects, ..)): State<Shared>,
    uri: Uri,
    Path((_, namespace, kind, name)): Path<(String, String, String, String)>,
) -> Response {
    let mut objects = objects.lock().expect("no test panicked with it");
    objects.requests.push(uri.to_string());
    if let Some(code) = objects.owner_fault {
        return status(code);
    }
    match objects.owners.get(&format!("{kind}/{namespace}/{name}")) {
        Some(metadata) => {
            let object = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": metadata});
            object.to_string().into_response()
        }
        None => status(404),
    }
}

/// A pod with containers, by id and name, all of them running.
pub fn pod(uid: &str, namespace: &str, name: &str, containers: &[(&str, &str)]) -> Value {
    let statuses: Vec<Value> = containers
        .iter()
        .map(|(id, name)| {
            json!({"name": name, "containerID": format!("containerd://{id}"), "ready": true, "restartCount": 0,
                "image": "example/image:1", "imageID": "example/image@sha256:0", "lastState": {},
                "state": {"running": {"startedAt": "2026-11-22T16:16:40Z"}}})
        })
        .collect();
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"uid": uid, "namespace": namespace, "name": name, "creationTimestamp": "2026-11-22T16:16:40Z"},
        "spec": {"nodeName": NODE, "containers": []},
        "status": {"phase": "Running", "containerStatuses": statuses}})
}

/// The same, made by something.
pub fn owned_by(mut pod: Value, api_version: &str, kind: &str, name: &str, uid: &str) -> Value {
    pod["metadata"]["ownerReferences"] = json!([reference(api_version, kind, name, uid)]);
    pod
}

pub fn reference(api_version: &str, kind: &str, name: &str, uid: &str) -> Value {
    json!({"apiVersion": api_version, "kind": kind, "name": name, "uid": uid, "controller": true,
        "blockOwnerDeletion": true})
}
