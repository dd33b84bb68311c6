//! An API server that keeps what it is given, and fails when it is told to.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use futures::stream;
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// What happens to a request instead of an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// A failure as the API server words it: code, reason, seconds to wait.
    Status(u16, &'static str, u32),
    /// An answer that is no JSON.
    Garbage,
    /// No answer at all.
    Silence,
    /// The right answer, late.
    Slow(Duration),
}

/// `times` requests of `method` whose path contains `path` meet `fault`.
struct Plan {
    method: Method,
    path: &'static str,
    fault: Fault,
    times: usize,
}

#[derive(Default)]
struct Content {
    /// By path.
    objects: BTreeMap<String, Value>,
    /// What happened, each with the path of its collection; the place is the resource version.
    events: Vec<(String, Value)>,
    /// What it says of itself, as in `GET /version`; it refuses to if it is `null`.
    version: Value,
    /// `METHOD path` of all requests that change something.
    writes: Vec<String>,
    requests: usize,
    /// Watches of before are broken.
    watchers: usize,
}

#[derive(Clone, Default)]
pub(crate) struct ApiServer {
    content: Arc<Mutex<Content>>,
    plans: Arc<Mutex<Vec<Plan>>>,
}

impl ApiServer {
    /// Serves on a port of its own for as long as the runtime lives; returns a client of it.
    pub(crate) async fn start(&self) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(answer).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let mut config = Config::new(url.parse().unwrap());
        config.default_retry = false;
        Client::try_from(config).unwrap()
    }

    /// Another way to the same content, with faults of its own.
    pub(crate) fn twin(&self) -> Self {
        Self {
            content: Arc::clone(&self.content),
            plans: Arc::default(),
        }
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap()
    }

    pub(crate) fn plan(&self, method: Method, path: &'static str, fault: Fault, times: usize) {
        self.plans.lock().unwrap().push(Plan {
            method,
            path,
            fault,
            times,
        });
    }

    /// From now on all goes well.
    pub(crate) fn forget_plans(&self) {
        self.plans.lock().unwrap().clear();
    }

    /// Plans that have not come true.
    pub(crate) fn left(&self) -> usize {
        self.plans.lock().unwrap().iter().map(|plan| plan.times).sum()
    }

    /// The API server was replaced by one of this version: all watches break, and the first one is not taken up at once.
    pub(crate) fn become_version(&self, minor: u32) {
        self.plan(
            Method::GET,
            "watch=true",
            Fault::Status(503, "ServiceUnavailable", 0),
            1,
        );
        let mut content = self.content();
        content.version = json!({"major": "1", "minor": minor.to_string()});
        content.watchers += 1;
    }

    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.content().objects.get(path).cloned()
    }

    pub(crate) fn writes(&self) -> Vec<String> {
        self.content().writes.clone()
    }

    pub(crate) fn requests(&self) -> usize {
        self.content().requests
    }

    /// As if someone else had written it.
    pub(crate) fn put(&self, path: &str, mut object: Value) -> Value {
        let mut content = self.content();
        let (collection, name) = path.rsplit_once('/').unwrap();
        let before = content.objects.get(path);
        let version = content.events.len() + 1;
        let metadata = &mut object["metadata"];
        metadata["name"] = json!(name);
        metadata["resourceVersion"] = json!(version.to_string());
        metadata["uid"] = before.map_or_else(
            || json!(format!("uid-{version}")),
            |before| before["metadata"]["uid"].clone(),
        );
        if metadata["creationTimestamp"].is_null() {
            metadata["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        let generation = before.and_then(|before| before["metadata"]["generation"].as_i64());
        let same = before.is_some_and(|before| before["spec"] == object["spec"]);
        object["metadata"]["generation"] = json!(generation.unwrap_or(0) + i64::from(!same));
        let kind = if before.is_some() { "MODIFIED" } else { "ADDED" };
        let event = json!({"type": kind, "object": object});
        content.objects.insert(path.to_owned(), object.clone());
        content.events.push((collection.to_owned(), event));
        object
    }

    /// As if someone else had deleted it.
    pub(crate) fn delete(&self, path: &str) {
        let mut content = self.content();
        let (collection, _) = path.rsplit_once('/').unwrap();
        let object = content.objects.remove(path).unwrap();
        content.events.push((
            collection.to_owned(),
            json!({"type": "DELETED", "object": object}),
        ));
    }

    /// Deletes what is of the uid that `options` name.
    fn delete_if(&self, path: &str, options: &Value) -> Response {
        match self.get(path) {
            None => failure(404, "NotFound", 0),
            Some(object) if options["preconditions"]["uid"] != object["metadata"]["uid"] => {
                failure(409, "Conflict", 0)
            }
            Some(object) => {
                self.delete(path);
                json_of(&object)
            }
        }
    }

    fn fault(&self, method: &Method, path: &str) -> Option<Fault> {
        let mut plans = self.plans.lock().unwrap();
        let plan = plans
            .iter_mut()
            .find(|plan| plan.times > 0 && plan.method == *method && path.contains(plan.path))?;
        plan.times -= 1;
        Some(plan.fault)
    }

    fn list(&self, path: &str) -> Response {
        let content = self.content();
        let items: Vec<&Value> = content
            .objects
            .iter()
            .filter(|(at, _)| {
                at.rsplit_once('/')
                    .is_some_and(|(collection, _)| collection == path)
            })
            .map(|(_, object)| object)
            .collect();
        // `List` of what each says it is; clients do not ask.
        let version = content.events.len().to_string();
        json_of(&json!({
            "apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": version}, "items": items,
        }))
    }

    fn watch(&self, path: String, since: usize) -> Response {
        let begun = self.content().watchers;
        let start = (self.clone(), path, since);
        let lines = stream::unfold(start, move |(server, path, mut next)| async move {
            loop {
                if server.content().watchers != begun {
                    return Some((Err(io::Error::other("the server is gone")), (server, path, next)));
                }
                let event = server.content().events.get(next).cloned();
                match event {
                    Some((collection, event)) => {
                        next += 1;
                        if collection == path {
                            return Some((Ok(format!("{event}\n")), (server, path, next)));
                        }
                    }
                    None => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        });
        Body::from_stream(lines).into_response()
    }

    /// Writes `object` only if it names the version that it replaces, or there is none and it names none.
    fn replace(&self, path: &str, object: Value) -> Response {
        let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
        match self.get(path) {
            None if !version(&object).is_null() => failure(404, "NotFound", 0),
            Some(before) if version(&before) != version(&object) => failure(409, "Conflict", 0),
            _ => json_of(&self.put(path, object)),
        }
    }

    fn patch(&self, path: &str, body: &Bytes, dry_run: bool) -> Response {
        let wanted: Value = serde_json::from_slice(body).unwrap();
        if dry_run {
            return json_of(&wanted);
        }
        if let Some(path) = path.strip_suffix("/status") {
            let Some(mut object) = self.get(path) else {
                return failure(404, "NotFound", 0);
            };
            if wanted["metadata"]["uid"] != object["metadata"]["uid"] {
                return failure(409, "Conflict", 0);
            }
            object["status"] = wanted["status"].clone();
            return json_of(&self.put(path, object));
        }
        let mut wanted = wanted;
        // Only its controller writes it.
        wanted["status"] = self.get(path).unwrap_or_default()["status"].clone();
        json_of(&self.put(path, wanted))
    }
}

async fn answer(State(server): State<ApiServer>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let dry_run = query.contains("dryRun=All");
    server.content().requests += 1;
    if parts.method != Method::GET && !dry_run {
        server.content().writes.push(format!("{} {path}", parts.method));
    }
    match server.fault(&parts.method, &format!("{path}?{query}")) {
        Some(Fault::Status(code, reason, wait)) => return failure(code, reason, wait),
        Some(Fault::Garbage) => return "<html>".into_response(),
        Some(Fault::Silence) => std::future::pending().await,
        Some(Fault::Slow(time)) => tokio::time::sleep(time).await,
        None => {}
    }
    match parts.method {
        Method::GET if query.contains("watch=true") => {
            let since = query
                .split('&')
                .find_map(|pair| pair.strip_prefix("resourceVersion="))
                .and_then(|version| version.parse().ok());
            server.watch(path, since.unwrap_or(0))
        }
        Method::GET if path == "/version" => match &server.content().version {
            Value::Null => failure(403, "Forbidden", 0),
            version => json_of(version),
        },
        Method::GET if path.contains("/leases/") => server
            .get(&path)
            .map_or_else(|| failure(404, "NotFound", 0), |object| json_of(&object)),
        Method::GET => server.list(&path),
        Method::PUT => server.replace(&path, serde_json::from_slice(&body).unwrap()),
        Method::POST if path.ends_with("/leases") => {
            let object: Value = serde_json::from_slice(&body).unwrap();
            let name = object["metadata"]["name"].as_str().unwrap().to_owned();
            server.replace(&format!("{path}/{name}"), object)
        }
        Method::PATCH => server.patch(&path, &body, dry_run),
        Method::DELETE => server.delete_if(&path, &serde_json::from_slice(&body).unwrap()),
        // Events.
        Method::POST => (
            StatusCode::CREATED,
            json_of(&serde_json::from_slice(&body).unwrap()),
        )
            .into_response(),
        _ => failure(405, "MethodNotAllowed", 0),
    }
}

fn json_of(value: &Value) -> Response {
    ([("content-type", "application/json")], value.to_string()).into_response()
}

fn failure(code: u16, reason: &str, wait: u32) -> Response {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
        "message": format!("the server says {reason}"), "details": {"retryAfterSeconds": wait},
    });
    (StatusCode::from_u16(code).unwrap(), json_of(&status)).into_response()
}
