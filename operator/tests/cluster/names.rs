//! The agents' names of pods, from a real API server, with the rights that the operator gives them and no more.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agent::pods::{self, NodeFiles, Sources};
use agent::workload::{ContainerId, ControllerKind, Directory, PodUid};
use anyhow::{Context, Result, ensure};
use jiff::SignedDuration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client, ResourceExt, discovery};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{NAMESPACE, PATIENCE, World, owned, spec, until};

/// As many as a large node is set to, and several pages of a list.
const PODS: usize = 250;

/// The agent's part that names pods.
struct Names {
    directory: watch::Receiver<Arc<Directory>>,
    running: tokio::task::JoinHandle<()>,
    shutdown: CancellationToken,
}

impl Names {
    async fn start(node: &str, kubeconfig: &std::path::Path, no_files: &std::path::Path) -> Result<Self> {
        let mut sources = Sources::find(Some(node), Some(kubeconfig)).await;
        ensure!(sources.api.is_ok(), "{:?}", sources.api);
        sources.files = NodeFiles::below(no_files);
        let (sender, directory) = watch::channel(Arc::default());
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(pods::run(sources, sender, shutdown.clone()));
        Ok(Self {
            directory,
            running,
            shutdown,
        })
    }

    async fn until(&mut self, what: &str, is_so: impl Fn(&Directory) -> bool) -> Result<Arc<Directory>> {
        let found = self.directory.wait_for(|directory| is_so(directory));
        let directory = tokio::time::timeout(PATIENCE, found)
            .await
            .with_context(|| format!("it never came that {what}"))??;
        Ok(Arc::clone(&directory))
    }

    async fn stop(self) -> Result<()> {
        self.shutdown.cancel();
        Ok(self.running.await?)
    }
}

fn uid_of(pod: &Pod) -> Result<PodUid> {
    Ok(pod.uid().context("no uid")?.parse()?)
}

fn pod(name: &str, node: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {"nodeName": node, "containers": [{"name": "web", "image": "web:1"}]},
    })
}

/// Nodes `POOL-1` and so on with agents of a resource of that name, whose rights the kubeconfig gives.
async fn start_agents(world: &World, pool: &str, nodes: usize) -> Result<PathBuf> {
    world.add_nodes(pool, nodes).await?;
    world.create(pool, spec(pool)).await?;
    world.wait_for(pool, "Ready=True/AgentsReady").await?;
    let token = world.token(&owned(pool)).await?;
    world
        .cluster
        .write_kubeconfig(&format!("{pool}.kubeconfig"), &token)
}

/// Makes a namespace, and waits until there may be pods in it.
async fn make_namespace(admin: &Client, name: &str) -> Result<()> {
    let namespace = serde_json::from_value(json!({"metadata": {"name": name}}))?;
    Api::<Namespace>::all(admin.clone())
        .create(&PostParams::default(), &namespace)
        .await?;
    // That takes a service account and, in older clusters, its token.
    let pods = Api::<Pod>::namespaced(admin.clone(), name);
    let only_try = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let one: Pod = serde_json::from_value(pod("one", "anywhere"))?;
    until("pods may be made", async || {
        Ok(pods.create(&only_try, &one).await.ok())
    })
    .await?;
    Ok(())
}

pub(crate) async fn agents_name_the_pods_of_their_node(world: &mut World) -> Result<()> {
    let kubeconfig = start_agents(world, "named", 2).await?;
    let admin = world.admin();
    make_namespace(&admin, "shop").await?;
    let pods = Api::<Pod>::namespaced(admin.clone(), "shop");
    let create = async |object: Value| -> Result<Pod> {
        Ok(pods
            .create(&PostParams::default(), &serde_json::from_value(object)?)
            .await?)
    };

    // Before the agent begins: a full node, one pod elsewhere, a static pod's mirror, and a Deployment's.
    for number in 0..PODS {
        create(pod(&format!("web-{number}"), "named-1")).await?;
    }
    let elsewhere = create(pod("elsewhere", "named-2")).await?;
    let hash = "9f1c0dbd5cb4d8a5d6e6ae9d0c9b2b57";
    let mut mirror = pod("etcd-named-1", "named-1");
    mirror["metadata"]["annotations"] = json!({
        "kubernetes.io/config.hash": hash, "kubernetes.io/config.mirror": hash, "kubernetes.io/config.source": "file",
    });
    create(mirror).await?;
    let labels = json!({"app": "cart"});
    let mut template = pod("", "named-1");
    template["metadata"] = json!({"labels": labels});
    let deployment: Deployment = serde_json::from_value(json!({
        "metadata": {"name": "cart"},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": template},
    }))?;
    let deployment = Api::<Deployment>::namespaced(admin.clone(), "shop")
        .create(&PostParams::default(), &deployment)
        .await?;

    let empty = tempfile::tempdir()?;
    let mut names = Names::start("named-1", &kubeconfig, empty.path()).await?;
    let directory = names
        .until("all are known, and the Deployment", |directory| {
            let in_shop = directory.pods.values().filter(|pod| pod.namespace == "shop");
            let with_deployment = in_shop.clone().filter(|pod| !pod.controllers.is_empty());
            in_shop.count() == PODS + 2 && with_deployment.count() == 1
        })
        .await?;
    let by_name: BTreeMap<&str, &PodUid> = directory
        .pods
        .iter()
        .map(|(uid, pod)| (pod.name.as_str(), uid))
        .collect();
    ensure!(
        by_name.get("etcd-named-1") == Some(&&hash.parse()?),
        "{by_name:?}"
    );
    ensure!(!directory.pods.contains_key(&uid_of(&elsewhere)?));
    let cart = directory
        .pods
        .values()
        .find(|pod| pod.name.starts_with("cart-"))
        .context("no pod of the Deployment")?;
    let [controller] = cart.controllers.as_slice() else {
        anyhow::bail!("{cart:?}")
    };
    ensure!(controller.kind == ControllerKind::Deployment && controller.name == "cart");
    ensure!(Some(&controller.uid) == deployment.metadata.uid.as_ref());
    // The agents' own pod is on the node as well, of a DaemonSet.
    let own = directory
        .pods
        .values()
        .find(|pod| pod.namespace == NAMESPACE)
        .context("no agent")?;
    ensure!(
        own.controllers
            .iter()
            .any(|controller| controller.kind == ControllerKind::DaemonSet)
    );

    follow(world, &pods, &mut names).await?;
    names.stop().await?;
    world.delete("named").await
}

/// Containers start; the API server goes away and comes back; a pod is made again under its name.
async fn follow(world: &mut World, pods: &Api<Pod>, names: &mut Names) -> Result<()> {
    let first = uid_of(&pods.get("web-0").await?)?;
    let id: ContainerId = "ab".repeat(32).parse()?;
    let status = json!({"status": {"containerStatuses": [{
        "name": "web", "image": "web:1", "imageID": "", "ready": true, "restartCount": 0,
        "containerID": format!("containerd://{id}"), "state": {"running": {}},
    }]}});
    pods.patch_status("web-0", &PatchParams::default(), &Patch::Merge(status))
        .await?;
    let directory = names
        .until("its container is known", |directory| {
            directory.containers.contains_key(&id)
        })
        .await?;
    ensure!(
        directory.containers[&id].name == "web" && directory.containers[&id].pod.as_ref() == Some(&first)
    );

    if world.cluster.is_own() {
        let known = names.directory.borrow().pods.len();
        world.cluster.restart_api_server(Duration::from_secs(3)).await?;
        let stayed = names.directory.borrow().pods.len();
        ensure!(stayed == known, "{known} names before, {stayed} after");
    }
    let now = DeleteParams {
        grace_period_seconds: Some(0),
        ..DeleteParams::default()
    };
    until("it is gone", async || {
        // The API server may not yet know its own roles again.
        let _asked = pods.delete("web-0", &now).await;
        Ok(pods.get_opt("web-0").await?.is_none().then_some(()))
    })
    .await?;
    let again = until("it is made again", async || {
        let object = serde_json::from_value(pod("web-0", "named-1"))?;
        Ok(pods.create(&PostParams::default(), &object).await.ok())
    })
    .await?;
    let second = uid_of(&again)?;
    let directory = names
        .until("the new one is known", |directory| {
            directory.pods.contains_key(&second)
        })
        .await?;
    // Its last samples still need its name.
    ensure!(directory.pods.contains_key(&first) && first != second);
    Ok(())
}

/// What the real controllers make, each of its kind, through all that lies between; how Scope is told is in
/// agent/tests/it/report.rs.
pub(crate) async fn agents_know_what_made_a_pod(world: &mut World) -> Result<()> {
    let kubeconfig = start_agents(world, "made", 1).await?;
    let admin = world.admin();
    make_namespace(&admin, "makers").await?;
    // A ReplicaSet that nobody made is nothing that Scope shows.
    let alone = create(&admin, "apps", "ReplicaSet", set("alone")).await?;
    let mut expected = BTreeMap::new();
    for (kind, name) in [
        (ControllerKind::Deployment, "Deployment"),
        (ControllerKind::StatefulSet, "StatefulSet"),
    ] {
        let name_of_pods = name.to_lowercase();
        let made = create(&admin, "apps", name, set(&name_of_pods)).await?;
        expected.insert(name_of_pods, vec![(kind, uid(&made)?)]);
    }
    let job = create(
        &admin,
        "batch",
        "Job",
        json!({"metadata": {"name": "job"}, "spec": task("job")}),
    )
    .await?;
    expected.insert("job".to_owned(), vec![(ControllerKind::Job, uid(&job)?)]);
    let daemon_set = world.daemon_sets().get(&owned("made")).await?;
    let daemon_set = daemon_set.uid().context("no uid")?;
    expected.insert(owned("made"), vec![(ControllerKind::DaemonSet, daemon_set)]);
    let cron_job = create_cron_job(&admin).await?;
    let jobs = api(&admin, "batch", "Job").await?;
    let made_by_cron = until("the CronJob makes a Job", async || {
        let jobs = jobs.list(&ListParams::default()).await?;
        Ok(jobs
            .items
            .into_iter()
            .find(|job| job.name_any().starts_with("cron-")))
    })
    .await?;
    expected.insert(
        "cron".to_owned(),
        vec![
            (ControllerKind::CronJob, uid(&cron_job)?),
            (ControllerKind::Job, uid(&made_by_cron)?),
        ],
    );

    let empty = tempfile::tempdir()?;
    let mut names = Names::start("made-1", &kubeconfig, empty.path()).await?;
    let controllers = |directory: &Directory, maker: &str| {
        let pod = directory
            .pods
            .values()
            .find(|pod| pod.name.starts_with(&format!("{maker}-")));
        let mut found: Vec<_> = pod?
            .controllers
            .iter()
            .map(|controller| (controller.kind, controller.uid.clone()))
            .collect();
        found.sort_unstable();
        Some(found)
    };
    for (maker, expected) in &mut expected {
        expected.sort_unstable();
        let what = format!("the pod of {maker} has {expected:?}");
        names
            .until(&what, |directory| {
                controllers(directory, maker).as_ref() == Some(expected)
            })
            .await?;
    }
    // All owners have been asked for by now.
    let directory = names
        .until("the pod of a ReplicaSet is known", |directory| {
            controllers(directory, &alone.name_any()).is_some()
        })
        .await?;
    ensure!(
        controllers(&directory, "alone") == Some(Vec::new()),
        "{directory:?}"
    );
    names.stop().await?;
    world.delete("made").await
}

fn uid(object: &DynamicObject) -> Result<String> {
    object.uid().context("no uid")
}

/// Objects of a kind in `makers`, in the version that the API server has: `CronJob` was not always `v1`.
async fn api(admin: &Client, group: &str, kind: &str) -> Result<Api<DynamicObject>> {
    let pinned =
        async |version| discovery::pinned_kind(admin, &GroupVersionKind::gvk(group, version, kind)).await;
    let (resource, _): (ApiResource, _) = match pinned("v1").await {
        Ok(found) => found,
        Err(_) => pinned("v1beta1").await?,
    };
    Ok(Api::namespaced_with(admin.clone(), "makers", &resource))
}

async fn create(admin: &Client, group: &str, kind: &str, object: Value) -> Result<DynamicObject> {
    let objects = api(admin, group, kind).await?;
    let object = serde_json::from_value(object)?;
    Ok(objects.create(&PostParams::default(), &object).await?)
}

/// One pod that stays, on the node.
fn set(name: &str) -> Value {
    let labels = json!({"app": name});
    let mut template = pod("", "made-1");
    template["metadata"] = json!({"labels": labels});
    let mut object = json!({
        "metadata": {"name": name},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": template},
    });
    if name == "statefulset" {
        object["spec"]["serviceName"] = json!(name);
    }
    object
}

/// One pod that runs once, on the node.
fn task(name: &str) -> Value {
    let mut template = pod("", "made-1");
    template["metadata"] = json!({"labels": {"app": name}});
    template["spec"]["restartPolicy"] = json!("Never");
    json!({"template": template})
}

/// One that is late, so that the controller need not wait for the next minute.
async fn create_cron_job(admin: &Client) -> Result<DynamicObject> {
    let object = json!({
        "metadata": {"name": "cron"},
        "spec": {
            "schedule": "* * * * *", "concurrencyPolicy": "Forbid",
            "jobTemplate": {"spec": task("cron")},
        },
    });
    let cron_job = create(admin, "batch", "CronJob", object).await?;
    let before = cron_job.creation_timestamp().context("no creation time")?.0 - SignedDuration::from_mins(2);
    let status = json!({"status": {"lastScheduleTime": before.to_string()}});
    api(admin, "batch", "CronJob")
        .await?
        .patch_status("cron", &PatchParams::default(), &Patch::Merge(status))
        .await?;
    Ok(cron_job)
}
