//! The controller with an API server that fails in each way that real ones do.

mod api_server;
mod lease;

use std::time::{Duration, Instant};

use axum::http::Method;
use operator::controller;
use operator::leader::Leadership;
use operator::metrics::Metrics;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::faults::api_server::{ApiServer, Fault};

const RESOURCES: &str = "/apis/scope-http-statistics.dev/v1alpha1/httpstatistics";
const DAEMON_SET: &str = "/apis/apps/v1/namespaces/monitoring/daemonsets/scope-http-statistics-agent-default";
const SURGE: &str = "/apis/apps/v1/namespaces/monitoring/daemonsets/scope-http-statistics-standby-default";
const CONFIG_MAP: &str = "/api/v1/namespaces/monitoring/configmaps/scope-http-statistics-agent-default";

struct Controller {
    api: ApiServer,
    metrics: Metrics,
    waiting_for: watch::Receiver<Option<&'static str>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Controller {
    async fn start(api: &ApiServer) -> Self {
        let client = api.start().await;
        let metrics = Metrics::default();
        let (waiting, waiting_for) = watch::channel(Some("start"));
        let stop = CancellationToken::new();
        let run = controller::run(
            client,
            "monitoring".to_owned(),
            metrics.clone(),
            Leadership::unlimited(),
            waiting,
            stop.clone(),
        );
        Self {
            api: api.clone(),
            metrics,
            waiting_for,
            stop,
            task: tokio::spawn(run),
        }
    }

    async fn until<T>(&self, what: &str, ask: impl Fn(&ApiServer) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(answer) = ask(&self.api) {
                return answer;
            }
            assert!(
                start.elapsed() < Duration::from_mins(2),
                "it never came that {what}; writes: {:?}; resource: {:?}",
                self.api.writes(),
                self.api.get(&format!("{RESOURCES}/default"))
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits for a condition of the resource `default`; returns its message.
    async fn condition(&self, kind: &str, reason: &str) -> String {
        self.until(&format!("{kind} is {reason}"), |api| {
            let resource = api.get(&format!("{RESOURCES}/default"))?;
            let conditions = resource["status"]["conditions"].as_array()?.clone();
            let condition = conditions
                .iter()
                .find(|one| one["type"] == kind && one["reason"] == reason)?;
            Some(condition["message"].as_str()?.to_owned())
        })
        .await
    }

    async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_mins(1), self.task)
            .await
            .expect("it does not stop")
            .unwrap();
    }
}

fn add(api: &ApiServer, name: &str, spec: &Value) {
    let resource = json!({
        "apiVersion": "scope-http-statistics.dev/v1alpha1", "kind": "HttpStatistics",
        "metadata": {}, "spec": spec,
    });
    api.put(&format!("{RESOURCES}/{name}"), resource);
}

fn with_a_resource() -> ApiServer {
    let api = ApiServer::default();
    add(&api, "default", &json!({"image": "agent:1"}));
    api
}

#[tokio::test]
async fn a_refused_write_is_told_retried_and_forgotten() {
    let cases = [
        (
            Fault::Status(409, "Conflict", 0),
            "the server says Conflict",
            "conflict",
        ),
        (
            Fault::Status(404, "NotFound", 0),
            "the server says NotFound",
            "not_found",
        ),
        (
            Fault::Status(403, "Forbidden", 0),
            "give the operator the roles of its installation",
            "forbidden",
        ),
        (
            Fault::Status(422, "Invalid", 0),
            "the server says Invalid",
            "invalid",
        ),
        (
            Fault::Status(429, "TooManyRequests", 1),
            "the server says TooManyRequests",
            "throttled",
        ),
        (
            Fault::Status(500, "InternalError", 0),
            "the server says InternalError",
            "server",
        ),
        (Fault::Garbage, "DaemonSet", "connection"),
        (Fault::Silence, "did not answer within", "timeout"),
    ];
    let run = async |(fault, message, kind): (Fault, &str, &str)| {
        let api = with_a_resource();
        api.plan(Method::PATCH, "/daemonsets/", fault, 2);
        let controller = Controller::start(&api).await;
        let told = controller.condition("Degraded", "ApplyFailed").await;
        assert!(told.contains(message), "{fault:?}: {told}");
        controller.condition("Degraded", "AsExpected").await;
        assert!(api.get(DAEMON_SET).is_some(), "{fault:?}");
        assert_eq!(api.left(), 0, "{fault:?}");
        let metrics = controller.metrics.text().unwrap();
        let counted = format!("scope_http_statistics_operator_reconcile_errors_total{{kind=\"{kind}\"}} 2");
        assert!(metrics.contains(&counted), "{fault:?}: {metrics}");
        // Told once, although it happened twice.
        let statuses = api
            .writes()
            .iter()
            .filter(|write| write.ends_with("/status"))
            .count();
        assert_eq!(statuses, 2, "{fault:?}: {:?}", api.writes());
        controller.stop().await;
    };
    futures::future::join_all(cases.map(run)).await;
}

#[tokio::test]
async fn retries_become_rarer() {
    let api = with_a_resource();
    api.plan(
        Method::PATCH,
        "/configmaps/",
        Fault::Status(500, "InternalError", 0),
        usize::MAX,
    );
    let controller = Controller::start(&api).await;
    let tries = |api: &ApiServer| {
        api.writes()
            .iter()
            .filter(|write| write.contains("/configmaps/"))
            .count()
    };
    let mut times = Vec::new();
    for count in 1..=4 {
        controller
            .until("it tries", |api| (tries(api) >= count).then_some(()))
            .await;
        times.push(Instant::now());
    }
    let gaps: Vec<Duration> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // 1 s, 2 s, 4 s: never earlier, however busy the machine.
    for (gap, least) in gaps.iter().zip([900, 1900, 3900]) {
        assert!(*gap >= Duration::from_millis(least), "{gaps:?}");
    }
    controller.stop().await;
}

#[tokio::test]
async fn a_status_that_cannot_be_written_is_written_later() {
    let api = with_a_resource();
    api.plan(
        Method::PATCH,
        "/status",
        Fault::Status(500, "InternalError", 0),
        1,
    );
    api.plan(Method::POST, "/events", Fault::Status(500, "InternalError", 0), 1);
    let controller = Controller::start(&api).await;
    controller.condition("Progressing", "RollingOut").await;
    // The Event comes after it.
    controller
        .until("both have failed", |api| (api.left() == 0).then_some(()))
        .await;
    controller.stop().await;
}

#[tokio::test]
async fn caches_that_cannot_be_filled_at_first_are_waited_for() {
    let api = with_a_resource();
    api.plan(
        Method::GET,
        "/nodes?&limit",
        Fault::Status(403, "Forbidden", 0),
        1,
    );
    api.plan(Method::GET, "/pods?", Fault::Status(500, "InternalError", 0), 1);
    api.plan(Method::GET, "/daemonsets?", Fault::Garbage, 1);
    api.plan(
        Method::GET,
        "/configmaps?",
        Fault::Slow(Duration::from_secs(2)),
        1,
    );
    let mut controller = Controller::start(&api).await;
    assert!(controller.waiting_for.borrow().is_some());
    assert_eq!(api.writes(), Vec::<String>::new());
    let ready = controller.waiting_for.wait_for(Option::is_none);
    tokio::time::timeout(Duration::from_mins(1), ready)
        .await
        .unwrap()
        .unwrap();
    controller.condition("Progressing", "RollingOut").await;
    controller.stop().await;
}

#[tokio::test]
async fn a_watch_that_breaks_or_is_too_old_loses_nothing() {
    for fault in [
        Fault::Status(410, "Expired", 0),
        Fault::Status(500, "InternalError", 0),
        Fault::Garbage,
    ] {
        let api = with_a_resource();
        api.plan(Method::GET, "/httpstatistics?&watch", fault, 2);
        let controller = Controller::start(&api).await;
        controller.condition("Progressing", "RollingOut").await;
        add(&api, "default", &json!({"image": "agent:2"}));
        controller
            .until("the new image is there", |api| {
                let daemon_set = api.get(DAEMON_SET)?;
                (daemon_set["spec"]["template"]["spec"]["containers"][0]["image"] == "agent:2").then_some(())
            })
            .await;
        controller.stop().await;
    }
}

#[tokio::test]
async fn a_resource_that_cannot_be_read_does_not_stop_the_others() {
    let api = with_a_resource();
    add(&api, "broken", &json!({"image": 7, "nodeSelector": "none"}));
    let controller = Controller::start(&api).await;
    controller.condition("Progressing", "RollingOut").await;
    let message = controller
        .until("the broken one says so", |api| {
            let resource = api.get(&format!("{RESOURCES}/broken"))?;
            let condition = &resource["status"]["conditions"][0];
            (condition["reason"] == "InvalidSpec").then(|| condition["message"].to_string())
        })
        .await;
    assert!(
        message.contains("spec.image") || message.contains("spec.nodeSelector"),
        "{message}"
    );
    controller.stop().await;
}

#[tokio::test]
async fn what_is_there_already_is_not_written_again() {
    let api = with_a_resource();
    let controller = Controller::start(&api).await;
    controller.condition("Progressing", "RollingOut").await;
    // Its own writes come back through the watches; then all is quiet.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = api.writes().len();
    // What others do to objects of ours is repaired by one write, each.
    let mut map = api.get(CONFIG_MAP).unwrap();
    let file = map["data"]["config.yaml"].clone();
    map["data"]["config.yaml"] = json!("interval: 1h");
    api.put(CONFIG_MAP, map);
    controller
        .until("it is repaired", |api| {
            (api.get(CONFIG_MAP)?["data"]["config.yaml"] == file).then_some(())
        })
        .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(api.writes()[before..], [format!("PATCH {CONFIG_MAP}")]);
    controller.stop().await;
}

#[tokio::test]
async fn what_is_deleted_as_soon_as_it_is_made_comes_back() {
    let api = with_a_resource();
    // The cache sees neither.
    api.plan(
        Method::GET,
        "/configmaps?&watch",
        Fault::Slow(Duration::from_secs(2)),
        1,
    );
    let controller = Controller::start(&api).await;
    controller.condition("Progressing", "RollingOut").await;
    api.delete(CONFIG_MAP);
    controller
        .until("it is back", |api| api.get(CONFIG_MAP).map(drop))
        .await;
    controller.stop().await;
}

#[tokio::test]
async fn the_api_servers_version_decides_how_agents_are_replaced_also_when_it_becomes_another() {
    let api = with_a_resource();
    let controller = Controller::start(&api).await;
    let replaced = async |expected: Value| {
        let what = format!("agents are replaced by {expected}");
        let is_so = |api: &ApiServer| {
            let set = api.get(DAEMON_SET)?;
            (set["spec"]["updateStrategy"]["rollingUpdate"] == expected).then_some(())
        };
        controller.until(&what, is_so).await;
    };
    // It refuses to say.
    replaced(json!({"maxUnavailable": "10%"})).await;
    api.become_version(22);
    replaced(json!({"maxSurge": "10%", "maxUnavailable": 0})).await;
    api.become_version(21);
    replaced(json!({"maxUnavailable": "10%"})).await;

    api.become_version(33);
    replaced(json!({"maxSurge": "10%", "maxUnavailable": 0})).await;
    // One that does not answer has not become older.
    api.plan(Method::GET, "/version", Fault::Status(500, "InternalError", 0), 1);
    let (before, template) = (api.writes(), api.get(DAEMON_SET).unwrap());
    api.become_version(33);
    controller
        .until("it was asked again", |api| (api.left() == 0).then_some(()))
        .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(api.writes(), before);
    assert_eq!(api.get(DAEMON_SET).unwrap(), template);
    controller.stop().await;
}

/// What Kubernetes does with the `DaemonSet` at `path`: one pod, of its template, that is ready.
fn run(api: &ApiServer, path: &str, pod: &str) {
    let mut set = api.get(path).unwrap();
    let ready = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "labels": set["spec"]["template"]["metadata"]["labels"],
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "DaemonSet", "name": set["metadata"]["name"],
                "uid": set["metadata"]["uid"], "controller": true,
            }],
        },
        "spec": {"nodeName": "n"},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    });
    api.put(pod, ready);
    set["status"] = json!({
        "observedGeneration": set["metadata"]["generation"], "desiredNumberScheduled": 1, "currentNumberScheduled": 1,
        "updatedNumberScheduled": 1, "numberReady": 1, "numberMisscheduled": 0,
    });
    api.put(path, set);
}

#[tokio::test]
async fn the_surge_comes_and_goes_while_agents_are_replaced_whatever_fails_meanwhile() {
    const OLD: &str = "/api/v1/namespaces/monitoring/pods/old";
    const NEW: &str = "/api/v1/namespaces/monitoring/pods/new";
    const BESIDE: &str = "/api/v1/namespaces/monitoring/pods/beside";
    let image = |path: &'static str| {
        move |api: &ApiServer| {
            let set = api.get(path)?;
            Some(set["spec"]["template"]["spec"]["containers"][0]["image"].clone())
        }
    };
    let is = |path: &'static str, expected: &'static str| {
        move |api: &ApiServer| (image(path)(api)? == expected).then_some(())
    };
    let api = with_a_resource();
    let controller = Controller::start(&api).await;
    controller
        .until("there are agents", is(DAEMON_SET, "agent:1"))
        .await;
    run(&api, DAEMON_SET, OLD);
    controller.condition("Progressing", "RolledOut").await;

    let fault = Fault::Status(500, "InternalError", 0);
    api.plan(Method::PATCH, "dryRun=All", fault, 1);
    let fault = Fault::Status(403, "Forbidden", 0);
    api.plan(
        Method::PATCH,
        "/daemonsets/scope-http-statistics-standby-default",
        fault,
        1,
    );
    add(&api, "default", &json!({"image": "agent:2"}));
    controller.until("there is a surge", is(SURGE, "agent:2")).await;
    assert_eq!(api.left(), 0);
    let told = controller.condition("Progressing", "RollingOut").await;
    assert!(told.contains("about to start beside the old ones"), "{told}");
    assert_eq!(image(DAEMON_SET)(&api).unwrap(), "agent:1");

    run(&api, SURGE, BESIDE);
    controller
        .until("the agents are replaced", is(DAEMON_SET, "agent:2"))
        .await;
    api.delete(OLD);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(api.get(SURGE).is_some(), "the surge left too early");
    api.plan(Method::DELETE, "/daemonsets/", fault, 1);
    run(&api, DAEMON_SET, NEW);
    let told = controller.condition("Degraded", "ApplyFailed").await;
    let expected = "failed to delete DaemonSet scope-http-statistics-standby-default: the server says Forbidden: give the operator \
                    the roles of its installation";
    assert_eq!(told, expected);
    let gone = |api: &ApiServer| api.get(SURGE).is_none().then_some(());
    controller.until("the surge leaves", gone).await;
    let told = controller.condition("Progressing", "RollingOut").await;
    assert!(told.contains("those that stood in are leaving"), "{told}");
    api.delete(BESIDE);
    controller.condition("Progressing", "RolledOut").await;

    // What others change is put back at once.
    let before = api.writes().len();
    let mut set = api.get(DAEMON_SET).unwrap();
    set["spec"]["template"]["spec"]["containers"][0]["image"] = json!("evil:1");
    api.put(DAEMON_SET, set);
    controller
        .until("it is repaired", is(DAEMON_SET, "agent:2"))
        .await;
    run(&api, DAEMON_SET, NEW);
    controller.condition("Progressing", "RolledOut").await;
    let surge = |writes: &[String]| writes.iter().filter(|write| write.contains("standby")).count();
    assert_eq!(surge(&api.writes()[before..]), 0, "{:?}", api.writes());
    controller.stop().await;

    // An operator that does not know what it wrote finds nothing to replace, unless the API server cannot tell.
    for (fault, expected) in [(None, 0), (Some(Fault::Status(400, "BadRequest", 0)), 2)] {
        let before = api.writes().len();
        if let Some(fault) = fault {
            api.plan(Method::PATCH, "dryRun=All", fault, 1);
        }
        let controller = Controller::start(&api).await;
        if fault.is_some() {
            controller.until("there is a surge", is(SURGE, "agent:2")).await;
            run(&api, SURGE, BESIDE);
        }
        let written = |api: &ApiServer| {
            let writes = api.writes();
            let of_agents = |write: &String| write.contains("daemonsets/scope-http-statistics-agent-default");
            writes[before..].iter().any(of_agents).then_some(())
        };
        controller.until("it is written once more", written).await;
        controller.until("there is no surge", gone).await;
        assert_eq!(surge(&api.writes()[before..]), expected, "{:?}", api.writes());
        controller.stop().await;
    }
}

#[tokio::test]
async fn it_stops_in_time_while_the_api_server_is_silent() {
    let silent_from_the_start = ApiServer::default();
    silent_from_the_start.plan(Method::GET, "/", Fault::Silence, usize::MAX);
    let silent_on_lists = with_a_resource();
    silent_on_lists.plan(Method::GET, "/nodes?", Fault::Silence, usize::MAX);
    let silent_on_writes = with_a_resource();
    silent_on_writes.plan(Method::PATCH, "/", Fault::Silence, usize::MAX);
    for api in [silent_from_the_start, silent_on_lists, silent_on_writes] {
        let controller = Controller::start(&api).await;
        controller
            .until("it asks", |api| (api.requests() > 0).then_some(()))
            .await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let start = Instant::now();
        controller.stop().await;
        println!("stopped after {:.1} s", start.elapsed().as_secs_f64());
    }
}
