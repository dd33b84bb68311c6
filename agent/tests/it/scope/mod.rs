//! The agent as Weave Scope sees it: a model of Scope's probe polls it and a model of its app shows what came.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod ui;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent::bpf::Loss;
use agent::stats::Event;
use agent::workload::{Container, Controller, ControllerKind, Directory, Pod};
use testkit::world::{Agent, World, settings};
use tokio::time::sleep;
use ui::{App, Details, Kind, Probe};

const CONTAINER: &str = "3f4e9c1a5b7d8e2f3f4e9c1a5b7d8e2f3f4e9c1a5b7d8e2f3f4e9c1a5b7d8e2f";
const POD: &str = "0c6f2b1e-8d1a-4a55-9d3f-5f4f3c2b1a00";
const DEPLOYMENT: &str = "b7a1f0de-1111-4222-8333-444455556666";
const REQUESTS: &str = "HTTP Req/Second";
/// Nothing waits for it unless something is broken.
const PATIENCE: Duration = Duration::from_mins(1);
/// Of the agents here; probes poll as often.
const INTERVAL: Duration = Duration::from_millis(100);

fn pod_cgroup() -> String {
    format!("/kubepods/pod{POD}/{CONTAINER}")
}

/// What the API server says.
fn directory() -> Arc<Directory> {
    let pod: agent::workload::PodUid = POD.parse().unwrap();
    let mut directory = Directory::default();
    let container = Container {
        name: "web".to_owned(),
        pod: Some(pod.clone()),
    };
    directory.containers.insert(CONTAINER.parse().unwrap(), container);
    let deployment = Controller {
        kind: ControllerKind::Deployment,
        uid: DEPLOYMENT.to_owned(),
        name: "shop".to_owned(),
    };
    let known = Pod {
        name: "shop-7d9c".to_owned(),
        namespace: "store".to_owned(),
        controllers: vec![deployment],
    };
    directory.pods.insert(pod, known);
    Arc::new(directory)
}

/// A Scope that looks at one agent.
struct Scope {
    probe: Probe,
    app: App,
}

impl Scope {
    fn new(agent: &Agent) -> Self {
        let mut probe = Probe::new("99f6914cc717fa5", &agent.socket());
        probe.knows(
            Kind::Deployment,
            &format!("{DEPLOYMENT};<deployment>"),
            &[("kubernetes_name", "shop")],
        );
        probe.knows(Kind::Host, "node-1;<host>", &[("host_name", "node-1")]);
        Self {
            probe,
            app: App::default(),
        }
    }

    fn knows_process(&mut self, pid: u32, name: &str) {
        self.probe.knows(Kind::Process, &process(pid), &[("name", name)]);
    }

    /// Polls as Scope does until `look` finds what it looks for.
    #[track_caller]
    fn until<T>(&mut self, what: &str, look: impl Fn(&App) -> Option<T>) -> impl Future<Output = T> {
        let deadline = Instant::now() + PATIENCE;
        let mut status = Ok(());
        async move {
            loop {
                if let Some(found) = look(&self.app) {
                    return found;
                }
                assert!(
                    Instant::now() < deadline,
                    "waited in vain for {what}; status: {status:?}"
                );
                sleep(INTERVAL).await;
                status = self.probe.publish(&mut self.app);
            }
        }
    }
}

fn process(pid: u32) -> String {
    format!("node-1;{pid}")
}

fn shown(app: &App, kind: Kind, id: &str) -> Option<Details> {
    app.view(kind).remove(id)
}

/// A node with traffic.
fn busy(app: &App, kind: Kind, id: &str) -> Option<Details> {
    shown(app, kind, id).filter(|details| !details.metrics.is_empty())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_show_at_the_process_its_container_its_pod_and_its_deployment() {
    let world = World::new();
    world.directory.send_replace(directory());
    let nginx = world.start(4242, "nginx", &pod_cgroup());
    let agent = Agent::start(&world, &settings(&[])).await;
    let mut scope = Scope::new(&agent);
    scope.knows_process(4242, "nginx");
    for (event, count) in [
        (Event::Request, 100),
        (Event::Response(200), 50),
        (Event::Response(404), 30),
        (Event::Response(500), 20),
    ] {
        world.counters.hit(nginx, event, count);
    }
    let nodes = [
        (Kind::Process, process(4242)),
        (Kind::Container, format!("{CONTAINER};<container>")),
        (Kind::Pod, format!("{POD};<pod>")),
        (Kind::Deployment, format!("{DEPLOYMENT};<deployment>")),
    ];
    let all = scope
        .until("metrics everywhere", |app| {
            let all = nodes.iter().map(|(kind, id)| busy(app, *kind, id));
            all.collect::<Option<Vec<Details>>>()
        })
        .await;
    for details in &all {
        let labels: Vec<&str> = details.metrics.iter().map(|row| row.label.as_str()).collect();
        let expected = [
            REQUESTS,
            "HTTP Resp 200/Second",
            "HTTP Resp 404/Second",
            "HTTP Resp 500/Second",
        ];
        assert_eq!(labels, expected, "the first three show at once");
        let first: Vec<f64> = details.metrics.iter().map(|row| row.graph[0]).collect();
        assert!(
            (first[0] - first[1..].iter().sum::<f64>()).abs() < 0.05,
            "{first:?}"
        );
        assert_eq!(details.metrics, all[0].metrics, "the same everywhere");
    }
    let [process, container, pod, _] = &all[..] else {
        unreachable!()
    };
    assert_eq!(process.rows["Pod"], "shop-7d9c");
    assert_eq!(process.rows["Namespace"], "store");
    assert_eq!(process.rows["Container"], "web");
    assert_eq!(process.rows["HTTP counted by"], "tracepoint");
    assert_eq!(process.parents["container"], [format!("{CONTAINER};<container>")]);
    assert_eq!((container.name.as_str(), pod.name.as_str()), ("web", "shop-7d9c"));
    assert_eq!(container.parents["pod"], [format!("{POD};<pod>")]);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_scope_calls_a_container_itself_is_shown() {
    let world = World::new();
    let nginx = world.start(4242, "nginx", &pod_cgroup());
    let agent = Agent::start(&world, &settings(&[])).await;
    let mut scope = Scope::new(&agent);
    let id = format!("{CONTAINER};<container>");
    world.counters.hit(nginx, Event::Request, 1);
    let name = |app: &App| Some(busy(app, Kind::Container, &id)?.name);
    let unknown = scope.until("the container", name).await;
    assert_eq!(unknown, CONTAINER[..12], "no phantom without a name");
    scope
        .probe
        .knows(Kind::Container, &id, &[("docker_container_name", "web-1")]);
    let known = |app: &App| name(app).filter(|name| *name == "web-1");
    scope.until("Scope's own name", known).await;
    scope.probe.publish(&mut scope.app).unwrap();
    assert_eq!(name(&scope.app).as_deref(), Some("web-1"), "it stays");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_traffic_the_plugin_is_well_and_nothing_is_shown() {
    let world = World::new();
    let agent = Agent::start(&world, &settings(&[])).await;
    let mut scope = Scope::new(&agent);
    scope.knows_process(4242, "nginx");
    let mut status = Err(String::new());
    scope
        .until("a poll in time", |app| {
            busy(app, Kind::Process, &process(4242)).map_or(Some(()), |_| None)
        })
        .await;
    for _ in 0..20 {
        status = scope.probe.publish(&mut scope.app).or(status);
    }
    assert_eq!(status, Ok(()));
    assert_eq!(
        shown(&scope.app, Kind::Process, &process(4242)).unwrap().metrics,
        []
    );
    assert!(scope.app.view(Kind::Container).is_empty() && scope.app.view(Kind::Pod).is_empty());
    let host = shown(&scope.app, Kind::Host, "node-1;<host>").unwrap();
    assert!(host.rows.is_empty());
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rare_code_never_leaves_the_screen_while_its_last_hit_is_in_the_window() {
    let world = World::new();
    let nginx = world.start(4242, "nginx", "/nginx.service");
    let agent = Agent::start(&world, &settings(&[])).await;
    let mut scope = Scope::new(&agent);
    scope.knows_process(4242, "nginx");
    let row = |app: &App| {
        shown(app, Kind::Process, &process(4242))?
            .metric("HTTP Resp 500/Second")
            .cloned()
    };
    world.counters.hit(nginx, Event::Response(500), 1);
    scope.until("the code", row).await;
    // Publishes in a row have templates or not; both must show it.
    for _ in 0..20 {
        sleep(INTERVAL).await;
        // A poll may take too long on a busy machine; what was published before must do then.
        let _status = scope.probe.publish(&mut scope.app);
        let row = row(&scope.app).unwrap();
        assert_eq!(
            row.graph.iter().filter(|value| **value > 0.0).count(),
            1,
            "{row:?}"
        );
    }
    let quiet = scope
        .until("zeros after the hit", |app| {
            row(app).filter(|row| row.graph.len() > 10)
        })
        .await;
    assert!(
        quiet.value.abs() < f64::EPSILON && quiet.graph[0] > 0.0,
        "{quiet:?}"
    );
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_poller_changes_nothing() {
    let world = World::new();
    let nginx = world.start(4242, "nginx", "/nginx.service");
    let agent = Agent::start(&world, &settings(&[])).await;
    let mut one = Scope::new(&agent);
    let mut other = Probe::new("3b1f7a90c2d4e5f6", &agent.socket());
    one.knows_process(4242, "nginx");
    let row = |app: &App| {
        shown(app, Kind::Process, &process(4242))?
            .metric(REQUESTS)
            .cloned()
    };
    // 7 in one tick, and never again.
    world.counters.hit(nginx, Event::Request, 7);
    for _ in 0..10 {
        sleep(INTERVAL / 3).await;
        let _first = one.probe.publish(&mut one.app);
        let _second = other.publish(&mut one.app);
    }
    let row = one.until("the requests", row).await;
    let hits: Vec<&f64> = row.graph.iter().filter(|value| **value > 0.0).collect();
    assert_eq!(
        hits.len(),
        1,
        "both have the same samples, with the same dates: {row:?}"
    );
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_ended_is_gone_and_its_container_keeps_the_count() {
    let world = World::new();
    world.directory.send_replace(directory());
    let cgi = world.start(77, "cgi", &pod_cgroup());
    // A window of more than the test's patience: nothing leaves by growing old.
    let agent = Agent::start(&world, &settings(&[("interval", "200ms"), ("history", "2m")])).await;
    let mut scope = Scope::new(&agent);
    scope.knows_process(77, "cgi");
    let container = format!("{CONTAINER};<container>");
    world.counters.hit(cgi, Event::Request, 3);
    scope
        .until("the process", |app| busy(app, Kind::Process, &process(77)))
        .await;
    world.end(cgi);
    scope.probe.forgets(&process(77));
    scope
        .until("the process to go", |app| {
            shown(app, Kind::Process, &process(77)).is_none().then_some(())
        })
        .await;
    // Until nothing is left of what was published before its account was closed.
    for _ in 0..2 * ui::KEPT {
        sleep(2 * INTERVAL).await;
        let _status = scope.probe.publish(&mut scope.app);
    }
    let kept = |app: &App| busy(app, Kind::Container, &container);
    let row = scope.until("the container", kept).await.metrics.remove(0);
    assert_eq!(
        row.graph.iter().filter(|value| **value > 0.0).count(),
        1,
        "{row:?}"
    );

    world.remove(&pod_cgroup());
    let gone = |app: &App| app.view(Kind::Container).is_empty().then_some(());
    scope.until("the container to go with its cgroup", gone).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_on_the_same_path_goes_unnoticed_but_for_the_gap() {
    let world = World::new();
    let nginx = world.start(4242, "nginx", "/nginx.service");
    let agent = Agent::start(&world, &settings(&[])).await;
    let mut scope = Scope::new(&agent);
    scope.knows_process(4242, "nginx");
    world.counters.hit(nginx, Event::Request, 1);
    scope
        .until("traffic", |app| busy(app, Kind::Process, &process(4242)))
        .await;
    let (_, root) = agent.stop().await;
    scope.probe.publish(&mut scope.app).unwrap_err();

    let again = World::new();
    let nginx = again.start(4242, "nginx", "/nginx.service");
    let agent = Agent::start_in(root, &again, &settings(&[])).await;
    again.counters.hit(nginx, Event::Response(201), 1);
    let new = |app: &App| {
        shown(app, Kind::Process, &process(4242))?
            .metric("HTTP Resp 201/Second")
            .cloned()
    };
    scope.until("traffic after the restart", new).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_host_tells_what_was_lost() {
    let world = World::new();
    let agent = Agent::start(&world, &settings(&[])).await;
    let mut scope = Scope::new(&agent);
    world.counters.lose(Loss::GaveUp, 2);
    let row = |app: &App| {
        shown(app, Kind::Host, "node-1;<host>")?
            .rows
            .remove("HTTP not counted")
    };
    assert_eq!(scope.until("the row", row).await, "gave_up 2");
    world.counters.lose(Loss::CountersFull, 1);
    let both = |app: &App| row(app).filter(|value| value == "counters_full 1, gave_up 2");
    scope.until("the newer value", both).await;
    agent.stop().await;
}

/// `hostId` is not configured, so that the poller's environment tells.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_are_of_the_host_that_the_probe_names() {
    let world = World::new();
    let nginx = world.start(4242, "nginx", "/nginx.service");
    world.counters.hit(nginx, Event::Request, 1);
    world.poller("SCOPE_HOSTNAME=from-the-probe\0", "host");
    let agent = Agent::start(&world, &settings(&[("hostId", "")])).await;
    let mut scope = Scope::new(&agent);
    let id = "from-the-probe;4242";
    scope.probe.knows(Kind::Process, id, &[("name", "nginx")]);
    scope
        .until("the process", |app| busy(app, Kind::Process, id))
        .await;
    let totals: agent::totals::Totals = agent::client::Client::new(agent.socket())
        .get_json("/totals")
        .await
        .unwrap();
    assert_eq!(totals.host.id, "from-the-probe");
    assert_eq!(totals.host.source, "SCOPE_HOSTNAME of Scope's probe");
    let probe = &totals.host.probes[0];
    assert_eq!(
        (probe.id.as_str(), probe.pid),
        ("99f6914cc717fa5", Some(std::process::id()))
    );
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clusters_probe_does_not_name_the_host() {
    let world = World::new();
    world.poller("SCOPE_HOSTNAME=cluster-agent\0", "its own");
    let agent = Agent::start(&world, &settings(&[("hostId", "")])).await;
    let mut probe = Probe::new("3b1f7a90c2d4e5f6", &agent.socket());
    let client = agent::client::Client::new(agent.socket());
    let deadline = Instant::now() + PATIENCE;
    let totals = loop {
        assert!(Instant::now() < deadline, "the probe is not noticed");
        let _status = probe.publish(&mut App::default());
        let totals: agent::totals::Totals = client.get_json("/totals").await.unwrap();
        if !totals.host.probes.is_empty() {
            break totals;
        }
    };
    assert_ne!(totals.host.id, "cluster-agent");
    let sources: BTreeSet<&str> = ["from NODE_NAME", "the host's name"].into();
    assert!(
        sources.contains(totals.host.source.as_str()),
        "{}",
        totals.host.source
    );
    assert_eq!(totals.host.probes[0].host_id, None);
    agent.stop().await;
}
