//! Names of pods from an API server that does not always do what it should.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agent::pods::{self, NodeFiles, Sources};
use agent::workload::{ControllerKind, Directory, PodUid};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::apiserver::{ApiServer, Fault, NODE, owned_by, pod, reference};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Nothing waits for so long unless something is broken.
const PATIENCE: Duration = Duration::from_mins(1);

const A: &str = "aaaaaaaa-0c3b-4e7d-9f21-6b5c4d3e2f10";
const B: &str = "bbbbbbbb-0c3b-4e7d-9f21-6b5c4d3e2f10";
const C: &str = "cccccccc-0c3b-4e7d-9f21-6b5c4d3e2f10";

/// The agent's part that names pods.
struct Names {
    directory: watch::Receiver<Arc<Directory>>,
    running: JoinHandle<()>,
    shutdown: CancellationToken,
    /// In place of `/var/log`.
    log: TempDir,
}

impl Names {
    async fn of(server: &ApiServer) -> Self {
        Self::patient(server, PATIENCE).await
    }

    async fn patient(server: &ApiServer, list_patience: Duration) -> Self {
        let mut sources = Sources::find(Some(NODE), Some(&server.kubeconfig())).await;
        sources.api = Ok(sources.api.unwrap().with_list_patience(list_patience));
        Self::from(sources)
    }

    fn from(mut sources: Sources) -> Self {
        let log = TempDir::new().unwrap();
        sources.files = NodeFiles::below(log.path());
        let (sender, directory) = watch::channel(Arc::default());
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(pods::run(sources, sender, shutdown.clone()));
        Self {
            directory,
            running,
            shutdown,
            log,
        }
    }

    /// Waits until it is so.
    async fn until(&mut self, what: &str, is_so: impl Fn(&Directory) -> bool) -> Arc<Directory> {
        let latest = self.directory.clone();
        let found = self.directory.wait_for(|directory| is_so(directory));
        let Ok(directory) = tokio::time::timeout(PATIENCE, found).await else {
            panic!("waited in vain until {what}: {:?}", latest.borrow());
        };
        Arc::clone(&directory.expect("it runs"))
    }

    async fn until_named(&mut self, uid: &str, name: &str) -> Arc<Directory> {
        let what = format!("{uid} is {name}");
        self.until(&what, |directory| named(directory, uid) == Some(name))
            .await
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.running.await.unwrap();
    }
}

fn uid(text: &str) -> PodUid {
    text.parse().unwrap()
}

fn named<'a>(directory: &'a Directory, pod: &str) -> Option<&'a str> {
    Some(directory.pods.get(&uid(pod))?.name.as_str())
}

fn id(digit: &str) -> String {
    digit.repeat(64)
}

async fn wait_for(what: &str, is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(
        tokio::time::timeout(PATIENCE, waiting).await.is_ok(),
        "waited in vain for {what}"
    );
}

#[tokio::test]
async fn names_come_with_the_list_and_follow_the_watch() {
    let server = ApiServer::start();
    server.apply(pod(A, "shop", "web-0", &[(&id("a"), "nginx")]));
    let mut names = Names::of(&server).await;
    names.until_named(A, "web-0").await;

    server.apply(pod(B, "shop", "cart", &[]));
    names.until_named(B, "cart").await;
    // Its container starts, and starts again.
    for digit in ["b", "c"] {
        server.apply(pod(B, "shop", "cart", &[(&id(digit), "node")]));
    }
    let container = id("c").parse().unwrap();
    let directory = names
        .until("the container is known", |directory| {
            directory.containers.contains_key(&container)
        })
        .await;
    for digit in ["b", "c"] {
        let container = &directory.containers[&id(digit).parse().unwrap()];
        assert_eq!((container.name.as_str(), &container.pod), ("node", &Some(uid(B))));
    }

    // Deleted and made again under its name.
    server.delete(A);
    server.apply(pod(C, "shop", "web-0", &[(&id("d"), "nginx")]));
    let directory = names.until_named(C, "web-0").await;
    assert_eq!(directory.containers[&id("a").parse().unwrap()].pod, Some(uid(A)));
    assert_eq!(directory.containers[&id("d").parse().unwrap()].pod, Some(uid(C)));
    assert_eq!(server.watches_and_lists(), (1, 1));
    names.stop().await;
}

#[tokio::test]
async fn a_long_list_comes_in_pages() {
    let server = ApiServer::start();
    let uid_of = |number: usize| format!("{number:08}-0c3b-4e7d-9f21-6b5c4d3e2f10");
    for number in 0..120 {
        server.apply(pod(&uid_of(number), "shop", &format!("web-{number}"), &[]));
    }
    server.fail_lists([
        Fault::Slow(Duration::from_millis(200)),
        Fault::Slow(Duration::from_millis(200)),
    ]);
    let mut names = Names::of(&server).await;
    let directory = names
        .until("all are known", |directory| directory.pods.len() == 120)
        .await;
    assert_eq!(named(&directory, &uid_of(77)), Some("web-77"));
    assert_eq!(server.requests("continue=").len(), 2);
    names.stop().await;
}

#[tokio::test]
async fn the_api_server_may_come_later_than_the_agent() {
    let mut server = ApiServer::new();
    server.apply(pod(A, "shop", "web-0", &[(&id("a"), "nginx")]));
    let mut names = Names::of(&server).await;
    fs::create_dir_all(names.log.path().join(format!("pods/shop_from-files_{A}"))).unwrap();
    names.until_named(A, "from-files").await;
    server.serve();
    names.until_named(A, "web-0").await;
    names.stop().await;
}

#[tokio::test]
async fn lists_that_fail_are_asked_for_again() {
    let server = ApiServer::start();
    server.apply(pod(A, "shop", "web-0", &[]));
    server.fail_lists([
        Fault::Status(500),
        Fault::Garbage,
        Fault::Status(429),
        Fault::Status(410),
    ]);
    let mut names = Names::of(&server).await;
    names.until_named(A, "web-0").await;
    assert_eq!(server.watches_and_lists().1, 5);
    names.stop().await;
}

#[tokio::test]
async fn an_agent_without_rights_uses_the_nodes_files_until_it_has_them() {
    let server = ApiServer::start();
    server.apply(pod(A, "shop", "web-0", &[]));
    server.fail_lists([Fault::Status(403), Fault::Status(403), Fault::Status(403)]);
    let mut names = Names::of(&server).await;
    write_log(names.log.path(), A, "from-files", &id("a"));
    let directory = names.until_named(A, "from-files").await;
    let container = &directory.containers[&id("a").parse().unwrap()];
    assert_eq!(
        (container.name.as_str(), &container.pod),
        ("nginx", &Some(uid(A)))
    );
    names.until_named(A, "web-0").await;
    names.stop().await;
}

/// As kubelet does.
fn write_log(log: &Path, uid: &str, pod: &str, container: &str) {
    let directory = log.join(format!("pods/shop_{pod}_{uid}/nginx"));
    fs::create_dir_all(&directory).unwrap();
    fs::create_dir_all(log.join("containers")).unwrap();
    let link = log.join(format!("containers/{pod}_shop_nginx-{container}.log"));
    std::os::unix::fs::symlink(directory.join("0.log"), link).unwrap();
}

#[tokio::test]
async fn a_watch_that_breaks_goes_on_where_it_was() {
    let server = ApiServer::start();
    server.apply(pod(A, "shop", "web-0", &[]));
    server.fail_watches([
        Fault::Torn,
        Fault::Status(500),
        Fault::Garbage,
        Fault::Slow(Duration::from_millis(300)),
    ]);
    let mut names = Names::of(&server).await;
    names.until_named(A, "web-0").await;
    server.apply(pod(B, "shop", "cart", &[]));
    let directory = names.until_named(B, "cart").await;
    assert_eq!(named(&directory, A), Some("web-0"));
    // Ended by the server, as it does every few minutes.
    let (before, _) = server.watches_and_lists();
    assert!(before >= 4, "three that fail, and one that is late: {before}");
    server.cut_watches();
    wait_for("the watch", || server.watches_and_lists().0 > before).await;
    server.apply(pod(C, "shop", "mail", &[]));
    names.until_named(C, "mail").await;
    assert_eq!(server.watches_and_lists().1, 1, "one list");
    names.stop().await;
}

#[tokio::test]
async fn a_watch_that_is_too_late_begins_with_a_new_list() {
    let server = ApiServer::start();
    server.apply(pod(A, "shop", "web-0", &[(&id("a"), "nginx")]));
    server.fail_watches([Fault::Expired]);
    let mut names = Names::of(&server).await;
    names.until_named(A, "web-0").await;
    wait_for("the second list and its watch", || {
        server.watches_and_lists() == (2, 2)
    })
    .await;
    // Told at the beginning of a watch.
    server.delete(A);
    server.apply(pod(B, "shop", "web-0", &[]));
    let directory = names.until_named(B, "web-0").await;
    assert_eq!(
        named(&directory, A),
        Some("web-0"),
        "known until its last samples are gone"
    );
    server.fail_watches([Fault::Status(410)]);
    server.cut_watches();
    wait_for("the third list", || server.watches_and_lists().1 == 3).await;
    server.apply(pod(C, "shop", "mail", &[]));
    let directory = names.until_named(C, "mail").await;
    assert_eq!(directory.pods.len(), 3);
    names.stop().await;
}

#[tokio::test]
async fn what_was_known_stays_while_the_api_server_is_silent() {
    let server = ApiServer::start();
    server.apply(pod(A, "shop", "web-0", &[]));
    let mut names = Names::patient(&server, Duration::from_millis(500)).await;
    names.until_named(A, "web-0").await;
    // A new list has to be made, and nobody answers. The list that follows is answered.
    server.compact();
    server.apply(pod(B, "shop", "cart", &[]));
    server.compact();
    server.fail_lists([Fault::Silence, Fault::Silence]);
    server.cut_watches();
    wait_for("the first list without an answer", || {
        server.watches_and_lists().1 == 2
    })
    .await;
    assert_eq!(named(&names.directory.borrow(), A), Some("web-0"));
    names.until_named(B, "cart").await;
    names.stop().await;
}

#[tokio::test]
async fn an_object_that_cannot_be_read_hides_no_other() {
    let server = ApiServer::start();
    let broken = |uid: &str| -> Value {
        let mut broken = pod(uid, "shop", "broken", &[]);
        broken["status"] = json!("a string");
        broken
    };
    server.apply(broken(A));
    server.apply(pod(B, "shop", "cart", &[]));
    let mut names = Names::of(&server).await;
    names.until_named(B, "cart").await;
    server.apply(broken("dddddddd-0c3b-4e7d-9f21-6b5c4d3e2f10"));
    server.apply(pod(C, "shop", "mail", &[]));
    let directory = names.until_named(C, "mail").await;
    assert_eq!(directory.pods.len(), 2);
    assert_eq!(server.watches_and_lists(), (1, 1));
    // It is mended.
    server.apply(pod(A, "shop", "web-0", &[]));
    names.until_named(A, "web-0").await;
    names.stop().await;
}

#[tokio::test]
async fn deployments_and_cron_jobs_are_found_through_what_they_make() {
    let server = ApiServer::start();
    server.set_owner(
        "replicasets",
        "shop",
        "web-5d4",
        json!({"name": "web-5d4", "namespace": "shop", "uid": "rs-uid",
            "ownerReferences": [reference("apps/v1", "Deployment", "web", "deployment-uid")]}),
    );
    server.set_owner(
        "jobs",
        "shop",
        "night-1",
        json!({"name": "night-1", "namespace": "shop", "uid": "job-uid",
            "ownerReferences": [reference("batch/v1", "CronJob", "night", "cronjob-uid")]}),
    );
    // Another one has taken its name.
    let other = json!({"name": "old", "namespace": "shop", "uid": "new-uid",
        "ownerReferences": [reference("apps/v1", "Deployment", "wrong", "wrong-uid")]});
    server.set_owner("replicasets", "shop", "old", other);
    let pods = [
        owned_by(
            pod(A, "shop", "web-5d4-x", &[]),
            "apps/v1",
            "ReplicaSet",
            "web-5d4",
            "rs-uid",
        ),
        owned_by(
            pod(B, "shop", "old-x", &[]),
            "apps/v1",
            "ReplicaSet",
            "old",
            "old-uid",
        ),
        owned_by(
            pod(C, "shop", "night-1-x", &[]),
            "batch/v1",
            "Job",
            "night-1",
            "job-uid",
        ),
    ];
    for pod in pods {
        server.apply(pod);
    }
    let mut names = Names::of(&server).await;
    let controllers = |directory: &Directory, pod: &str| -> Vec<(ControllerKind, String, String)> {
        let pod = directory.pods.get(&uid(pod));
        let controllers = pod.map(|pod| pod.controllers.clone()).unwrap_or_default();
        controllers
            .into_iter()
            .map(|controller| (controller.kind, controller.uid, controller.name))
            .collect()
    };
    let controller = |kind, uid: &str, name: &str| (kind, uid.to_owned(), name.to_owned());
    let directory = names
        .until("both are known", |directory| {
            controllers(directory, A).len() == 1 && controllers(directory, C).len() == 2
        })
        .await;
    let web = controller(ControllerKind::Deployment, "deployment-uid", "web");
    assert_eq!(controllers(&directory, A), [web]);
    let job = controller(ControllerKind::Job, "job-uid", "night-1");
    let night = controller(ControllerKind::CronJob, "cronjob-uid", "night");
    assert_eq!(controllers(&directory, C), [job, night]);
    wait_for("all to be asked for", || server.requests("/apis/").len() == 3).await;
    assert_eq!(controllers(&directory, B), []);
    // Once for all pods, however often they change.
    server.apply(owned_by(
        pod("dddddddd-0c3b-4e7d-9f21-6b5c4d3e2f10", "shop", "web-5d4-y", &[]),
        "apps/v1",
        "ReplicaSet",
        "web-5d4",
        "rs-uid",
    ));
    names
        .until("the second one's too", |directory| {
            controllers(directory, "dddddddd-0c3b-4e7d-9f21-6b5c4d3e2f10").len() == 1
        })
        .await;
    assert_eq!(server.requests("/apis/").len(), 3);
    names.stop().await;
}

#[tokio::test]
async fn pods_are_named_where_owners_may_not_be_asked_for() {
    let server = ApiServer::start();
    server.refuse_owners(403);
    let of =
        |uid: &str, name: &str| owned_by(pod(uid, "shop", name, &[]), "apps/v1", "ReplicaSet", "web", name);
    server.apply(of(A, "one"));
    server.apply(of(B, "two"));
    let mut names = Names::of(&server).await;
    names.until_named(B, "two").await;
    wait_for("a refusal", || !server.requests("/apis/").is_empty()).await;
    // Refused once, it does not ask for the next one at once.
    server.apply(of(C, "three"));
    names.until_named(C, "three").await;
    assert_eq!(server.requests("/apis/").len(), 1);
    names.stop().await;
}

#[tokio::test]
async fn without_an_api_server_the_nodes_files_name_pods() {
    let sources = Sources::find(None, None).await;
    assert!(sources.api.is_err());
    let mut names = Names::from(sources);
    write_log(names.log.path(), A, "web-0", &id("a"));
    names.until_named(A, "web-0").await;
    write_log(names.log.path(), B, "cart", &id("b"));
    names.until_named(B, "cart").await;
    fs::remove_dir_all(names.log.path().join(format!("pods/shop_web-0_{A}"))).unwrap();
    names
        .until("it is gone", |directory| named(directory, A).is_none())
        .await;
    names.stop().await;
}

#[tokio::test]
async fn what_is_missing_to_ask_the_api_server_is_said() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("kubeconfig");
    let reason = |sources: Sources| sources.api.unwrap_err().to_string();
    let absent = Sources::find(Some(NODE), Some(&file)).await;
    assert!(reason(absent).contains("--kubeconfig"));
    fs::write(&file, "nonsense: [").unwrap();
    let nonsense = Sources::find(Some(NODE), Some(&file)).await;
    assert!(reason(nonsense).contains("--kubeconfig"));
    let server = ApiServer::new();
    let nameless = Sources::find(None, Some(&server.kubeconfig())).await;
    assert!(reason(nameless).contains("NODE_NAME"));
}
