//! The operator on a real control plane, with the rights of its installation and no more.
//!
//! etcd, API server and controllers are real; nodes are objects only, and [`kubelet`] does what their kubelets would.
//! Tests run one after the other on one cluster, in this order; arguments choose among them by parts of their names.
//! Each has nodes of its own, so no resource of one test meets that of another. `--list` prints their names; with `--bench`
//! it measures instead.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is a test runner: it prints its results"
)]

mod bench;
mod control_plane;
mod kubelet;
mod names;
#[expect(unreachable_pub, reason = "the agent's tests have it from a crate")]
#[path = "../../../agent/testkit/src/results.rs"]
mod results;

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::future::LocalBoxFuture;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Node, Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, PropagationPolicy};
use kube::{Api, Client, CustomResourceExt, Resource, ResourceExt};
use operator::api::v1alpha1::{HttpStatistics, HttpStatisticsStatus, UnavailableNode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::control_plane::{Cluster, Operator};
use crate::kubelet::Kubelet;
use crate::names::{agents_know_what_made_a_pod, agents_name_the_pods_of_their_node};
use crate::results::record;

const NAMESPACE: &str = "scope-http-statistics";
const OPERATOR_USER: &str = "system:serviceaccount:scope-http-statistics:scope-http-statistics-operator";
/// Long enough for a busy machine; what hangs has failed.
const PATIENCE: Duration = Duration::from_mins(3);

/// Asks until there is an answer.
async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask().await.with_context(|| format!("waiting until {what}"))? {
            return Ok(answer);
        }
        ensure!(start.elapsed() < PATIENCE, "it never came that {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Everything that a test may use.
struct World {
    cluster: Cluster,
    operator: Option<Operator>,
    operator_kubeconfig: std::path::PathBuf,
    kubelet: Kubelet,
}

type Test = for<'a> fn(&'a mut World) -> LocalBoxFuture<'a, Result<()>>;

macro_rules! tests {
    ($($name:ident)*) => {
        &[$((stringify!($name), (|world| Box::pin($name(world))) as Test)),*]
    };
}

const TESTS: &[(&str, Test)] = tests! {
    an_installation_taken_back_at_once_leaves_nothing
    it_waits_for_its_definition
    a_default_resource_that_is_going_is_waited_for
    a_resource_brings_up_its_agents
    a_live_change_restarts_nothing
    a_change_of_the_image_rolls_out
    the_surge_serves_on_each_node_while_its_agent_is_replaced
    what_others_change_or_delete_is_repaired
    a_spec_that_cannot_be_used_changes_nothing
    what_fails_on_a_node_is_told_in_its_own_words
    of_two_that_claim_a_node_the_older_has_it
    a_missing_right_is_told_and_its_return_noticed
    agents_name_the_pods_of_their_node
    agents_know_what_made_a_pod
    a_cluster_at_rest_sees_no_write
    a_restarted_operator_changes_nothing_and_misses_nothing
    it_survives_a_restart_of_the_api_server
    of_several_operators_one_works
    fifty_resources_are_as_well_kept_as_one
    a_deleted_resource_leaves_nothing
    a_large_cluster
};

fn main() -> ExitCode {
    let chosen: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let tests: Vec<_> = TESTS
        .iter()
        .filter(|(name, _)| chosen.is_empty() || chosen.iter().any(|part| name.contains(part.as_str())))
        .collect();
    if std::env::args().any(|argument| argument == "--list") {
        for (name, _) in tests {
            println!("{name}");
        }
        return ExitCode::SUCCESS;
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    if std::env::args().any(|argument| argument == "--bench") {
        let measured = runtime.block_on(async { bench::measure(&mut World::new().await?).await });
        return match measured {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let (mut passed, mut failed) = (0, 0);
    runtime.block_on(async {
        println!("running {} tests", tests.len());
        let mut world = match World::new().await {
            Ok(world) => world,
            Err(error) => {
                println!("no cluster to test on: {error:#}");
                failed = tests.len();
                return;
            }
        };
        for (name, test) in tests {
            let start = Instant::now();
            let result = async {
                test(&mut world).await?;
                world.cluster.check()
            };
            match result.await {
                Ok(()) => {
                    passed += 1;
                    record(name, Ok(()), start.elapsed());
                    println!("test {name} ... ok ({:.1} s)", start.elapsed().as_secs_f64());
                }
                Err(error) => {
                    failed += 1;
                    record(name, Err(&format!("{error:#}")), start.elapsed());
                    println!("test {name} ... FAILED: {error:?}");
                    if let Some(operator) = &world.operator {
                        println!(
                            "the operator's log ends with\n{}",
                            operator.process.last_lines(20)
                        );
                    }
                }
            }
        }
    });
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!("test result: {verdict}. {passed} passed; {failed} failed;");
    if failed == 0 && passed > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

impl World {
    /// A cluster with the operator's installation; its definition is not there yet.
    async fn new() -> Result<Self> {
        let cluster = Cluster::start().await?;
        let admin = &cluster.admin;
        // The API server makes it itself, some time after it is ready.
        let namespaces = Api::<Namespace>::all(admin.clone());
        until("there is a default namespace", async || {
            Ok(namespaces.get_opt("default").await?)
        })
        .await?;
        let manifest = include_str!("../../../deployments/operator.yaml");
        let documents: Vec<Value> = serde_saphyr::from_multiple(manifest)?;
        for document in &documents {
            let namespace = document["metadata"]["namespace"].as_str();
            let client = || admin.clone();
            match document["kind"].as_str().context("a document without a kind")? {
                "Namespace" => install::<Namespace>(&Api::all(client()), document).await,
                "ServiceAccount" => install::<ServiceAccount>(&namespaced(admin, namespace)?, document).await,
                "ClusterRole" => install::<ClusterRole>(&Api::all(client()), document).await,
                "ClusterRoleBinding" => install::<ClusterRoleBinding>(&Api::all(client()), document).await,
                "Role" => install::<Role>(&namespaced(admin, namespace)?, document).await,
                "RoleBinding" => install::<RoleBinding>(&namespaced(admin, namespace)?, document).await,
                // It runs here, as a process, for now without a definition and always without the installation's resource.
                "Deployment" | "CustomResourceDefinition" | "ConfigMap" => Ok(()),
                kind => bail!("unexpected {kind}"),
            }?;
        }
        let token = token(admin, "scope-http-statistics-operator").await?;
        let operator_kubeconfig = cluster.write_kubeconfig("operator.kubeconfig", &token)?;
        let kubelet = Kubelet::start(admin.clone());
        Ok(Self {
            operator: Some(Operator::start(&cluster, &operator_kubeconfig)?),
            cluster,
            operator_kubeconfig,
            kubelet,
        })
    }

    /// For a service account in the operator's namespace.
    async fn token(&self, account: &str) -> Result<String> {
        token(&self.cluster.admin, account).await
    }

    fn admin(&self) -> Client {
        self.cluster.admin.clone()
    }

    fn operator(&mut self) -> Result<&mut Operator> {
        self.operator.as_mut().context("the operator is not running")
    }

    fn resources(&self) -> Api<HttpStatistics> {
        Api::all(self.admin())
    }

    fn daemon_sets(&self) -> Api<DaemonSet> {
        Api::namespaced(self.admin(), NAMESPACE)
    }

    fn config_maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.admin(), NAMESPACE)
    }

    /// Nodes `POOL-1` to `POOL-count`, which only resources with `pool: POOL` select.
    async fn add_nodes(&self, pool: &str, count: usize) -> Result<()> {
        let nodes = Api::<Node>::all(self.admin());
        for number in 1..=count {
            let node = serde_json::from_value(json!({
                "metadata": {
                    "name": format!("{pool}-{number}"),
                    "labels": {"kubernetes.io/os": "linux", "pool": pool},
                },
            }))?;
            nodes.create(&PostParams::default(), &node).await?;
        }
        Ok(())
    }

    async fn create(&self, name: &str, spec: Value) -> Result<HttpStatistics> {
        let resource = json!({
            "apiVersion": "scope-http-statistics.dev/v1alpha1", "kind": "HttpStatistics",
            "metadata": {"name": name}, "spec": spec,
        });
        let resource: kube::core::DynamicObject = serde_json::from_value(resource)?;
        let kind = kube::core::ApiResource::erase::<HttpStatistics>(&());
        let created = Api::<kube::core::DynamicObject>::all_with(self.admin(), &kind)
            .create(&PostParams::default(), &resource)
            .await?;
        Ok(serde_json::from_value(serde_json::to_value(created)?)?)
    }

    async fn change(&self, name: &str, spec: Value) -> Result<HttpStatistics> {
        let patch = Patch::Merge(json!({"spec": spec}));
        Ok(self
            .resources()
            .patch(name, &PatchParams::default(), &patch)
            .await?)
    }

    /// Waits until the status is of the current spec and has a condition, as in `Ready=True/AgentsReady`.
    async fn wait_for(&self, name: &str, condition: &str) -> Result<HttpStatisticsStatus> {
        let resources = self.resources();
        let last = std::cell::RefCell::new(String::new());
        until(&format!("{name} is {condition}"), async || {
            let resource = resources.get(name).await?;
            let status = resource.status.unwrap_or_default();
            *last.borrow_mut() = format!("{status:?}");
            let current = status.observed_generation == resource.metadata.generation;
            let met = status
                .conditions
                .iter()
                .any(|one| format!("{}={}/{}", one.type_, one.status, one.reason) == condition);
            Ok((current && met).then_some(status))
        })
        .await
        .with_context(|| format!("last status: {}", last.borrow()))
    }

    /// Waits until `kubectl get` shows this in the column `Hook`.
    async fn wait_for_hook(&self, name: &str, hook: &str) -> Result<()> {
        let path = format!("/apis/scope-http-statistics.dev/v1alpha1/httpstatistics/{name}");
        let last = std::cell::RefCell::new(String::new());
        until(&format!("{name} shows {hook}"), async || {
            let request = axum::http::Request::get(&path)
                .header("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
                .body(Vec::new())?;
            let table: Value = self.admin().request(request).await?;
            let columns = table["columnDefinitions"].as_array().context("no columns")?;
            let place = columns.iter().position(|column| column["name"] == "Hook");
            let cell = &table["rows"][0]["cells"][place.context("no such column")?];
            *last.borrow_mut() = cell.to_string();
            Ok((cell == hook).then_some(()))
        })
        .await
        .with_context(|| format!("last shown: {}", last.borrow()))
    }

    /// Which nodes run an agent of `name`, and the uid of its pod.
    async fn agents(&self, name: &str) -> Result<BTreeMap<String, String>> {
        let selector = format!("app.kubernetes.io/component=agent,app.kubernetes.io/instance={name}");
        let pods = Api::<Pod>::namespaced(self.admin(), NAMESPACE)
            .list(&ListParams::default().labels(&selector))
            .await?;
        let alive = pods
            .items
            .iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_none());
        Ok(alive
            .filter_map(|pod| Some((pod.spec.as_ref()?.node_name.clone()?, pod.uid()?)))
            .collect())
    }

    /// Waits until nothing is left of what the resource `name` owned.
    async fn wait_until_gone(&self, name: &str) -> Result<()> {
        let (daemon_sets, maps) = (self.daemon_sets(), self.config_maps());
        let accounts = Api::<ServiceAccount>::namespaced(self.admin(), NAMESPACE);
        let bindings = Api::<ClusterRoleBinding>::all(self.admin());
        let object = owned(name);
        until(&format!("everything of {name} is gone"), async || {
            let gone = daemon_sets.get_opt(&object).await?.is_none()
                && maps.get_opt(&object).await?.is_none()
                && accounts.get_opt(&object).await?.is_none()
                && bindings.get_opt(&object).await?.is_none()
                && self.agents(name).await?.is_empty();
            Ok(gone.then_some(()))
        })
        .await
    }

    async fn events(&self, name: &str) -> Result<Vec<String>> {
        let events = Api::<Event>::namespaced(self.admin(), "default")
            .list(&ListParams::default().fields(&format!("involvedObject.name={name}")))
            .await?;
        let mut events = events.items;
        events.sort_by_key(ResourceExt::name_any); // it ends with the time
        Ok(events
            .iter()
            .map(|event| {
                let word = |word: &Option<String>| word.clone().unwrap_or_default();
                format!("{} {}", word(&event.type_), word(&event.reason))
            })
            .collect())
    }

    async fn delete(&self, name: &str) -> Result<()> {
        self.resources().delete(name, &DeleteParams::background()).await?;
        Ok(())
    }
}

async fn token(admin: &Client, account: &str) -> Result<String> {
    let request: TokenRequest =
        serde_json::from_value(json!({"spec": {"audiences": [], "expirationSeconds": 7200}}))?;
    let answer = Api::<ServiceAccount>::namespaced(admin.clone(), NAMESPACE)
        .create_token_request(account, &PostParams::default(), &request)
        .await?;
    Ok(answer.status.context("no token")?.token)
}

fn namespaced<K>(client: &Client, namespace: Option<&str>) -> Result<Api<K>>
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
{
    Ok(Api::namespaced(
        client.clone(),
        namespace.context("no namespace")?,
    ))
}

async fn install<K>(api: &Api<K>, document: &Value) -> Result<()>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Serialize,
{
    let object: K = serde_json::from_value(document.clone())?;
    let parameters = PatchParams::apply("installation").force();
    api.patch(&object.name_any(), &parameters, &Patch::Apply(&object))
        .await?;
    Ok(())
}

fn spec(pool: &str) -> Value {
    json!({"image": "agent:1", "nodeSelector": {"pool": pool}})
}

/// `scope-http-statistics-agent-NAME`.
fn owned(name: &str) -> String {
    format!("scope-http-statistics-agent-{name}")
}

/// An operator that brings a resource `default`, of nodes that there are none of, in the place of the one that runs.
async fn with_a_default_resource(
    world: &mut World,
    test: impl AsyncFnOnce(&World, Operator) -> Result<()>,
) -> Result<()> {
    let operator = world.operator()?;
    wait_until_it_serves(operator).await?;
    world.operator.take().context("no operator")?.stop().await?;
    let resource = json!({
        "apiVersion": "scope-http-statistics.dev/v1alpha1", "kind": "HttpStatistics",
        "metadata": {"name": "default"}, "spec": spec("none"),
    });
    let file = world.cluster.directory.path().join("default-resource.yaml");
    std::fs::write(&file, resource.to_string())?;
    let arguments = [
        &*format!("--default-resource={}", file.display()),
        "--default-resource-owner=scope-http-statistics-resource-default",
    ];
    let (cluster, kubeconfig) = (&world.cluster, &world.operator_kubeconfig);
    let result = match Operator::start_pod(cluster, kubeconfig, "with-a-default", &arguments) {
        Ok(operator) => test(world, operator).await,
        Err(error) => Err(error),
    };
    world.operator = Some(Operator::start(&world.cluster, &world.operator_kubeconfig)?);
    result
}

/// The garbage collector has not heard of the definition, and would not before it is gone.
async fn an_installation_taken_back_at_once_leaves_nothing(world: &mut World) -> Result<()> {
    if !world.cluster.is_own() {
        println!("not tried: the controllers are not ours to stop");
        return Ok(());
    }
    let definitions = Api::<CustomResourceDefinition>::all(world.admin());
    with_a_default_resource(world, async |world, operator| {
        world.cluster.signal_controllers("STOP")?;
        let result = install_and_take_back(world, operator, &definitions).await;
        world.cluster.signal_controllers("CONT")?;
        result?;
        until("the definition is gone", async || {
            let definition = definitions.get_opt(HttpStatistics::crd_name()).await?;
            Ok(definition.is_none().then_some(()))
        })
        .await?;
        world.wait_until_gone("default").await
    })
    .await
}

async fn install_and_take_back(
    world: &World,
    operator: Operator,
    definitions: &Api<CustomResourceDefinition>,
) -> Result<()> {
    definitions
        .create(&PostParams::default(), &HttpStatistics::crd())
        .await?;
    until("its last object and its finalizer are there", async || {
        if world.daemon_sets().get_opt(&owned("default")).await?.is_none() {
            return Ok(None);
        }
        let resource = world.resources().get("default").await?;
        Ok((resource.finalizers() == ["foregroundDeletion"]).then_some(()))
    })
    .await?;
    operator.stop().await?;
    definitions
        .delete(HttpStatistics::crd_name(), &DeleteParams::background())
        .await?;
    until("the resource is being deleted", async || {
        let resource = world.resources().get_opt("default").await?;
        let resource = resource.context("it did not wait for the garbage collector")?;
        Ok(resource.metadata.deletion_timestamp)
    })
    .await?;
    // No longer for what else might be.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let definition = definitions.get_opt(HttpStatistics::crd_name()).await?;
    let resource = world.resources().get_opt("default").await?;
    ensure!(
        definition.is_some_and(|definition| definition.metadata.deletion_timestamp.is_some())
            && resource.is_some_and(|resource| resource.metadata.deletion_timestamp.is_some()),
        "they did not wait for the garbage collector"
    );
    Ok(())
}

async fn a_default_resource_that_is_going_is_waited_for(world: &mut World) -> Result<()> {
    const HOLD: &str = "example.com/hold";
    let before = world.create("default", spec("none")).await?.uid();
    let patch = |finalizers: Value| Patch::Merge(json!({"metadata": {"finalizers": finalizers}}));
    let hold = patch(json!([HOLD]));
    let resources = world.resources();
    resources.patch("default", &PatchParams::default(), &hold).await?;
    world.delete("default").await?;
    with_a_default_resource(world, async |world, operator| {
        until("the operator waits", async || {
            let log = operator.process.last_lines(50);
            Ok(log.contains("is being deleted; waiting").then_some(()))
        })
        .await?;
        let resource = resources.get("default").await?;
        ensure!(resource.uid() == before && resource.finalizers() == [HOLD]);
        resources
            .patch("default", &PatchParams::default(), &patch(Value::Null))
            .await?;
        until("there is another one, which is young", async || {
            let resource = resources.get_opt("default").await?;
            Ok(resource.filter(|resource| {
                resource.uid() != before && resource.finalizers() == ["foregroundDeletion"]
            }))
        })
        .await?;
        world.wait_for("default", "Ready=True/NoNodes").await?;
        operator.stop().await?;
        world.delete("default").await
    })
    .await
}

async fn wait_until_it_serves(operator: &mut Operator) -> Result<()> {
    until("it serves", async || {
        operator.process.check()?;
        Ok(operator.get("/healthz").ok().filter(|(code, _)| *code == 200))
    })
    .await?;
    Ok(())
}

async fn it_waits_for_its_definition(world: &mut World) -> Result<()> {
    let definitions = Api::<CustomResourceDefinition>::all(world.admin());
    if definitions.get_opt(HttpStatistics::crd_name()).await?.is_none() {
        let operator = world.operator()?;
        wait_until_it_serves(operator).await?;
        let (code, body) = operator.get("/readyz")?;
        ensure!(code == 503 && body.contains("definition"), "{code} {body}");
        // Not applied: API servers before 1.25 do not know CEL rules, and refuse to apply what they do not know.
        definitions
            .create(&PostParams::default(), &HttpStatistics::crd())
            .await?;
    }
    world.operator()?.wait_until_ready().await?;
    let (_, metrics) = world.operator()?.get("/metrics")?;
    ensure!(
        metrics.contains("scope_http_statistics_operator_build_info{version="),
        "{metrics}"
    );
    // The text format of Prometheus, since nothing else was asked for.
    ensure!(
        metrics.contains("# TYPE scope_http_statistics_operator_build_info gauge\n"),
        "{metrics}"
    );
    Ok(())
}

async fn a_resource_brings_up_its_agents(world: &mut World) -> Result<()> {
    world.add_nodes("first", 3).await?;
    let resource = world.create("first", spec("first")).await?;
    let status = world.wait_for("first", "Ready=True/AgentsReady").await?;
    let nodes = status.nodes.context("no counts")?;
    ensure!(
        (nodes.desired, nodes.updated, nodes.ready, nodes.unavailable) == (3, 3, 3, 0),
        "{nodes:?}"
    );
    ensure!(world.agents("first").await?.len() == 3);
    world.wait_for_hook("first", "Fentry 2, Tracepoint 1").await?;
    let hooks = world
        .resources()
        .get("first")
        .await?
        .status
        .unwrap_or_default()
        .hooks;
    ensure!(
        serde_json::to_value(&hooks)?
            == json!([{"hook": "Fentry", "nodes": 2}, {"hook": "Tracepoint", "nodes": 1}]),
        "{hooks:?}"
    );

    let daemon_set = world.daemon_sets().get(&owned("first")).await?;
    let config_map = world.config_maps().get(&owned("first")).await?;
    let account = Api::<ServiceAccount>::namespaced(world.admin(), NAMESPACE)
        .get(&owned("first"))
        .await?;
    let binding = Api::<ClusterRoleBinding>::all(world.admin())
        .get(&owned("first"))
        .await?;
    for metadata in [
        &daemon_set.metadata,
        &config_map.metadata,
        &account.metadata,
        &binding.metadata,
    ] {
        let owners = metadata.owner_references.as_ref().context("no owner")?;
        ensure!(
            owners.len() == 1 && Some(&owners[0].uid) == resource.metadata.uid.as_ref(),
            "{owners:?}"
        );
    }
    ensure!(binding.role_ref.name == "scope-http-statistics-agent");
    ensure!(
        world.events("first").await? == ["Normal RollingOut", "Normal RolledOut"],
        "{:?}",
        world.events("first").await?
    );
    Ok(())
}

async fn a_live_change_restarts_nothing(world: &mut World) -> Result<()> {
    let before = (
        world.agents("first").await?,
        world.daemon_sets().get(&owned("first")).await?,
    );
    let change = json!({
        "intervalSeconds": 2, "historySeconds": 120, "statusCodes": [200, 418], "logLevel": "Debug",
        "namespaces": {"exclude": ["kube-system"]}, "processes": "Pods",
    });
    let changed = world.change("first", change).await?;
    let maps = world.config_maps();
    let file = until("the file changes", async || {
        let map = maps.get(&owned("first")).await?;
        let file = map
            .data
            .and_then(|mut data| data.remove("config.yaml"))
            .context("no file")?;
        Ok(file.contains("interval: 2s").then_some(file))
    })
    .await?;
    for line in [
        "history: 120s",
        "- 418",
        "logLevel: debug",
        "- kube-system",
        "processes: pods",
    ] {
        ensure!(file.contains(line), "{file}");
    }
    let resources = world.resources();
    until("the status is of the new spec", async || {
        let status = resources.get("first").await?.status.unwrap_or_default();
        Ok((status.observed_generation == changed.metadata.generation).then_some(()))
    })
    .await?;
    let after = (
        world.agents("first").await?,
        world.daemon_sets().get(&owned("first")).await?,
    );
    ensure!(before.0 == after.0, "agents were restarted");
    ensure!(
        before.1.metadata.generation == after.1.metadata.generation,
        "the DaemonSet was changed"
    );
    world.wait_for("first", "Ready=True/AgentsReady").await?;
    ensure!(
        world.events("first").await?.len() == 2,
        "{:?}",
        world.events("first").await?
    );
    Ok(())
}

async fn a_change_of_the_image_rolls_out(world: &mut World) -> Result<()> {
    let before = world.agents("first").await?;
    world
        .change("first", json!({"image": "agent:2", "attachMode": "Tracepoint"}))
        .await?;
    world.wait_for("first", "Progressing=False/RolledOut").await?;
    let after = world.agents("first").await?;
    ensure!(
        after.len() == 3 && before.iter().all(|(node, uid)| after.get(node) != Some(uid)),
        "{before:?} {after:?}"
    );
    world.wait_for("first", "Ready=True/AgentsReady").await?;
    world.wait_for_hook("first", "Tracepoint").await?;
    let events = world.events("first").await?;
    ensure!(
        events.len() == 4 && events[2..] == ["Normal RollingOut", "Normal RolledOut"],
        "{events:?}"
    );
    Ok(())
}

/// What a resource's pods are like, at one time: which of its nodes have one that is ready and stays.
async fn served(world: &World, name: &str) -> Result<BTreeSet<String>> {
    let selector =
        format!("app.kubernetes.io/component in (agent,standby),app.kubernetes.io/instance={name}");
    let pods = Api::<Pod>::namespaced(world.admin(), NAMESPACE)
        .list(&ListParams::default().labels(&selector))
        .await?;
    let serves = |pod: &Pod| {
        let conditions = pod.status.as_ref()?.conditions.as_ref()?;
        let ready = conditions
            .iter()
            .any(|one| one.type_ == "Ready" && one.status == "True");
        (ready && pod.metadata.deletion_timestamp.is_none()).then(|| pod.spec.as_ref()?.node_name.clone())?
    };
    Ok(pods.items.iter().filter_map(serves).collect())
}

/// Asks until there is an answer, and at each time whether all nodes of the resource are served.
async fn until_while_served<T>(
    world: &World,
    name: &str,
    nodes: usize,
    what: &str,
    ask: impl AsyncFn() -> Result<Option<T>>,
) -> Result<T> {
    until(what, async || {
        let served = served(world, name).await?;
        ensure!(served.len() >= nodes, "only {served:?} are served");
        ask().await
    })
    .await
}

#[expect(clippy::too_many_lines, reason = "it is one story")]
async fn the_surge_serves_on_each_node_while_its_agent_is_replaced(world: &mut World) -> Result<()> {
    const NAME: &str = "relay";
    let surge_name = format!("scope-http-statistics-standby-{NAME}");
    world.add_nodes(NAME, 3).await?;
    let created = world.create(NAME, spec(NAME)).await?;
    world.wait_for(NAME, "Ready=True/AgentsReady").await?;
    let sets = world.daemon_sets();
    ensure!(
        sets.get_opt(&surge_name).await?.is_none(),
        "nobody is to be replaced"
    );
    let reason = async |world: &World, kind: &str| -> Result<(String, String)> {
        let resource = world.resources().get(NAME).await?;
        let status = resource.status.unwrap_or_default();
        let current = status.observed_generation == resource.metadata.generation;
        let condition = status.conditions.into_iter().find(|one| one.type_ == kind);
        let condition = condition.filter(|_| current);
        Ok(condition.map(|one| (one.reason, one.message)).unwrap_or_default())
    };
    let ready = async |world: &World| Ok((reason(world, "Ready").await?.0 == "AgentsReady").then_some(()));
    let is_there = async |sets: &Api<DaemonSet>| Ok(sets.get_opt(&surge_name).await?);
    let gone = async |sets: &Api<DaemonSet>| Ok(sets.get_opt(&surge_name).await?.is_none().then_some(()));

    // An image that does not work takes no agent away.
    let agents = world.agents(NAME).await?;
    world.change(NAME, json!({"image": "agent:broken"})).await?;
    until_while_served(world, NAME, 3, "the new agents fail", async || {
        let (reason, message) = reason(world, "Degraded").await?;
        Ok((reason == "AgentsFailing" && message.contains("it is broken")).then_some(()))
    })
    .await?;
    until_while_served(world, NAME, 3, "it is told what to do", async || {
        let (_, message) = reason(world, "Progressing").await?;
        let told = message.contains("stands by on 0 of 3 nodes; the old ones stay")
            && message.contains("correct the spec");
        Ok(told.then_some(()))
    })
    .await?;
    ensure!(world.agents(NAME).await? == agents);

    // Corrected, it is rolled out; the broken ones are mended.
    world.change(NAME, json!({"image": "agent:2"})).await?;
    until_while_served(world, NAME, 3, "it is ready", async || ready(world).await).await?;
    let replaced = world.agents(NAME).await?;
    ensure!(replaced.len() == 3 && replaced.iter().all(|(node, uid)| agents.get(node) != Some(uid)));
    ensure!(
        sets.get_opt(&surge_name).await?.is_none(),
        "the surge is still there"
    );

    // Taken back.
    world.change(NAME, json!({"image": "agent:broken"})).await?;
    let surge =
        until_while_served(world, NAME, 3, "there is a surge", async || is_there(&sets).await).await?;
    let owners = surge.owner_references();
    ensure!(
        owners.len() == 1 && Some(&owners[0].uid) == created.metadata.uid.as_ref(),
        "{owners:?}"
    );
    world.change(NAME, json!({"image": "agent:2"})).await?;
    until_while_served(world, NAME, 3, "the surge leaves", async || gone(&sets).await).await?;
    until_while_served(world, NAME, 3, "it is ready", async || ready(world).await).await?;
    ensure!(
        world.agents(NAME).await? == replaced,
        "agents were replaced for nothing"
    );

    // The operator ends at each step; a node joins; the surge is deleted; another spec comes.
    world.change(NAME, json!({"image": "agent:3"})).await?;
    until_while_served(world, NAME, 3, "there is a surge", async || is_there(&sets).await).await?;
    restart(world).await?;
    let agents_pod = async || {
        let spec = sets.get(&owned(NAME)).await?.spec;
        spec.and_then(|spec| spec.template.spec).context("no pod")
    };
    let template_is = async |image: &str| {
        let spec = agents_pod().await?;
        Ok((spec.containers[0].image.as_deref() == Some(image)).then_some(()))
    };
    until_while_served(world, NAME, 3, "agents are replaced", async || {
        template_is("agent:3").await
    })
    .await?;
    restart(world).await?;
    world.change(NAME, json!({"image": "agent:4"})).await?;
    until_while_served(world, NAME, 3, "another spec is", async || {
        template_is("agent:4").await
    })
    .await?;
    until_while_served(world, NAME, 3, "it is ready", async || ready(world).await).await?;
    world.change(NAME, json!({"image": "agent:broken"})).await?;
    until_while_served(world, NAME, 3, "there is a surge", async || is_there(&sets).await).await?;
    sets.delete(&surge_name, &DeleteParams::background()).await?;
    let node =
        json!({"metadata": {"name": "relay-4", "labels": {"kubernetes.io/os": "linux", "pool": NAME}}});
    let nodes = Api::<Node>::all(world.admin());
    nodes
        .create(&PostParams::default(), &serde_json::from_value(node)?)
        .await?;
    until_while_served(world, NAME, 3, "there is a surge again", async || {
        let surge = sets.get_opt(&surge_name).await?;
        let status = surge.and_then(|set| set.status).unwrap_or_default();
        Ok((status.desired_number_scheduled == 4).then_some(()))
    })
    .await?;
    until("the node that joined is served", async || {
        Ok((served(world, NAME).await?.len() == 4).then_some(()))
    })
    .await?;
    world.change(NAME, json!({"image": "agent:5"})).await?;
    until_while_served(world, NAME, 4, "it is ready", async || ready(world).await).await?;

    // A resource that asks for a gap waits for no surge.
    let strategy = json!({"image": "agent:6", "updateStrategy": {"maxUnavailable": "100%"}});
    world.change(NAME, strategy).await?;
    until("it is ready", async || {
        ensure!(sets.get_opt(&surge_name).await?.is_none(), "there is a surge");
        ready(world).await
    })
    .await?;

    // A port of the node's is given back.
    let host_port = async |network: bool| {
        let spec = agents_pod().await?;
        let ports = spec.containers[0].ports.clone().unwrap_or_default();
        let is_so = spec.host_network.unwrap_or_default() == network && ports.len() == 1;
        Ok(is_so.then(|| ports[0].host_port.unwrap_or_default()))
    };
    world
        .change(NAME, json!({"hostId": "Hostname", "metrics": {"port": 9464}}))
        .await?;
    let port = until("the agents are in the node's network", async || {
        host_port(true).await
    })
    .await?;
    ensure!(port == 9464, "they have port {port}");
    world.change(NAME, json!({"hostId": null})).await?;
    let port = until("they are not", async || host_port(false).await).await?;
    ensure!(port == 0, "they keep port {port}");
    world.delete(NAME).await?;
    Ok(())
}

/// Ends the operator, and starts it anew.
async fn restart(world: &mut World) -> Result<()> {
    if let Some(operator) = world.operator.take() {
        operator.stop().await?;
    }
    world.operator = Some(Operator::start(&world.cluster, &world.operator_kubeconfig)?);
    world.operator()?.wait_until_ready().await
}

async fn what_others_change_or_delete_is_repaired(world: &mut World) -> Result<()> {
    let name = owned("first");
    let someone = PatchParams::default();
    let (daemon_sets, maps) = (world.daemon_sets(), world.config_maps());
    let image =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "agent", "image": "evil:1"}]}}}});
    daemon_sets
        .patch(&name, &someone, &Patch::Strategic(image))
        .await?;
    until("the image is ours again", async || {
        let daemon_set = daemon_sets.get(&name).await?;
        let pod = daemon_set
            .spec
            .and_then(|spec| spec.template.spec)
            .context("no pod")?;
        Ok((pod.containers[0].image.as_deref() == Some("agent:2")).then_some(()))
    })
    .await?;

    let data = json!({"data": {"config.yaml": "interval: 1h"}});
    maps.patch(&name, &someone, &Patch::Merge(data)).await?;
    until("the file is ours again", async || {
        let map = maps.get(&name).await?;
        let file = map
            .data
            .unwrap_or_default()
            .remove("config.yaml")
            .unwrap_or_default();
        Ok(file.contains("interval: 2s").then_some(()))
    })
    .await?;

    let accounts = Api::<ServiceAccount>::namespaced(world.admin(), NAMESPACE);
    let bare = json!({"metadata": {"labels": null, "ownerReferences": null}});
    accounts.patch(&name, &someone, &Patch::Merge(bare)).await?;
    until("labels and owner are back", async || {
        let metadata = accounts.get(&name).await?.metadata;
        Ok((metadata.labels.is_some() && metadata.owner_references.is_some()).then_some(()))
    })
    .await?;

    let bindings = Api::<ClusterRoleBinding>::all(world.admin());
    bindings
        .patch(&name, &someone, &Patch::Merge(json!({"subjects": null})))
        .await?;
    until("the agents are bound again", async || {
        Ok(bindings.get(&name).await?.subjects.map(|_| ()))
    })
    .await?;

    let uid = daemon_sets.get(&name).await?.uid();
    for deleted in ["account", "binding", "map", "set"] {
        let now = DeleteParams::background();
        match deleted {
            "account" => drop(accounts.delete(&name, &now).await?),
            "binding" => drop(bindings.delete(&name, &now).await?),
            "map" => drop(maps.delete(&name, &now).await?),
            _ => drop(
                daemon_sets
                    .delete(
                        &name,
                        &DeleteParams {
                            propagation_policy: Some(PropagationPolicy::Foreground),
                            ..DeleteParams::default()
                        },
                    )
                    .await?,
            ),
        }
    }
    until("all are back", async || {
        let (account, binding) = (accounts.get_opt(&name).await?, bindings.get_opt(&name).await?);
        let (map, set) = (maps.get_opt(&name).await?, daemon_sets.get_opt(&name).await?);
        let new = set.is_some_and(|set| set.uid() != uid && set.metadata.deletion_timestamp.is_none());
        Ok((account.is_some() && binding.is_some() && map.is_some() && new).then_some(()))
    })
    .await?;
    let agents = async || Ok((world.agents("first").await?.len() == 3).then_some(()));
    until("all nodes have an agent again", agents).await?;
    world.wait_for("first", "Ready=True/AgentsReady").await?;
    Ok(())
}

async fn a_spec_that_cannot_be_used_changes_nothing(world: &mut World) -> Result<()> {
    let before = world.daemon_sets().get(&owned("first")).await?;
    let agents = world.agents("first").await?;
    let resources = json!({"requests": {"memory": "64Mi"}, "limits": {"memory": "32Mi"}});
    world
        .change("first", json!({"image": "agent:3", "resources": resources}))
        .await?;
    let status = world.wait_for("first", "Degraded=True/InvalidSpec").await?;
    let message = "spec.resources: the request for memory, 64Mi, is above its limit, 32Mi: raise the limit";
    ensure!(
        status
            .conditions
            .iter()
            .any(|condition| condition.type_ == "Ready" && condition.message == message),
        "{status:?}"
    );
    ensure!(
        world
            .daemon_sets()
            .get(&owned("first"))
            .await?
            .metadata
            .generation
            == before.metadata.generation
    );
    ensure!(world.agents("first").await? == agents);

    world
        .change("first", json!({"image": "agent:2", "resources": null}))
        .await?;
    world.wait_for("first", "Ready=True/AgentsReady").await?;
    ensure!(world.agents("first").await? == agents);
    let events = world.events("first").await?;
    ensure!(
        events.contains(&"Warning InvalidSpec".to_owned()) && events.contains(&"Normal Recovered".to_owned()),
        "{events:?}"
    );
    Ok(())
}

async fn what_fails_on_a_node_is_told_in_its_own_words(world: &mut World) -> Result<()> {
    let say = |words: Option<&str>| -> Result<()> {
        let mut all = world.kubelet.last_words.lock().ok().context("poisoned")?;
        match words {
            Some(words) => all.insert("failing-2".to_owned(), words.to_owned()),
            None => all.remove("failing-2"),
        };
        Ok(())
    };
    say(Some(
        "INFO starting\nerror: kernel 4.19: no BTF: take a newer kernel\n",
    ))?;
    world.add_nodes("failing", 3).await?;
    world.create("failing", spec("failing")).await?;
    let status = world.wait_for("failing", "Degraded=True/AgentsFailing").await?;
    let expected = UnavailableNode {
        node: "failing-2".to_owned(),
        message: "kernel 4.19: no BTF: take a newer kernel".to_owned(),
    };
    ensure!(
        status.unavailable_nodes == [expected],
        "{:?}",
        status.unavailable_nodes
    );
    let status = world.wait_for("failing", "Ready=False/AgentsUnavailable").await?;
    ensure!(
        status
            .nodes
            .is_some_and(|nodes| (nodes.desired, nodes.ready, nodes.unavailable) == (3, 2, 1)),
        "{status:?}"
    );

    say(None)?;
    let status = world.wait_for("failing", "Ready=True/AgentsReady").await?;
    ensure!(status.unavailable_nodes.is_empty(), "{status:?}");
    world.wait_for("failing", "Degraded=False/AsExpected").await?;
    ensure!(world.events("failing").await?.last().map(String::as_str) == Some("Normal Recovered"));
    Ok(())
}

async fn of_two_that_claim_a_node_the_older_has_it(world: &mut World) -> Result<()> {
    world.add_nodes("shared", 4).await?;
    let nodes = Api::<Node>::all(world.admin());
    let ssd = Patch::Merge(json!({"metadata": {"labels": {"disk": "ssd"}}}));
    nodes.patch("shared-1", &PatchParams::default(), &ssd).await?;
    world
        .create(
            "z-older",
            json!({"image": "agent:1", "nodeSelector": {"pool": "shared", "disk": "ssd"}}),
        )
        .await?;
    world.wait_for("z-older", "Ready=True/AgentsReady").await?;
    // The API server counts in seconds.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    world.create("a-newer", spec("shared")).await?;
    let status = world.wait_for("a-newer", "Degraded=True/Conflict").await?;
    let message = &status.conditions[0].message;
    ensure!(
        message.contains("z-older") && message.contains("shared-1"),
        "{message}"
    );
    let on = async |name: &str, expected: &[&str]| {
        until(&format!("{name} runs on {expected:?}"), async || {
            let agents = world.agents(name).await?;
            Ok(agents.keys().eq(expected).then_some(()))
        })
        .await
    };
    on("a-newer", &["shared-2", "shared-3", "shared-4"]).await?;
    on("z-older", &["shared-1"]).await?;

    // Nodes change sides without a restart elsewhere.
    let kept = world.agents("a-newer").await?;
    nodes.patch("shared-4", &PatchParams::default(), &ssd).await?;
    on("z-older", &["shared-1", "shared-4"]).await?;
    on("a-newer", &["shared-2", "shared-3"]).await?;
    ensure!(
        world
            .agents("a-newer")
            .await?
            .iter()
            .all(|(node, uid)| kept.get(node) == Some(uid))
    );
    until("the condition names the node", async || {
        let status = world.resources().get("a-newer").await?.status.unwrap_or_default();
        Ok(status
            .conditions
            .iter()
            .any(|condition| condition.message.contains("shared-4"))
            .then_some(()))
    })
    .await?;

    world.delete("z-older").await?;
    world.wait_for("a-newer", "Ready=True/AgentsReady").await?;
    on("a-newer", &["shared-1", "shared-2", "shared-3", "shared-4"]).await?;
    Ok(())
}

async fn a_missing_right_is_told_and_its_return_noticed(world: &mut World) -> Result<()> {
    let roles = Api::<ClusterRole>::all(world.admin());
    let role = roles.get("scope-http-statistics-operator").await?;
    let mut less = role.clone();
    // Not even the right to hand on what it may not do itself.
    less.rules
        .as_mut()
        .context("no rules")?
        .retain(|rule| !rule.verbs.contains(&"bind".to_owned()));
    roles
        .replace("scope-http-statistics-operator", &PostParams::default(), &less)
        .await?;
    // The API server knows roles from a watch of its own.
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.add_nodes("refused", 1).await?;
    world.create("refused", spec("refused")).await?;
    let status = world.wait_for("refused", "Degraded=True/ApplyFailed").await?;
    let message = &status.conditions[0].message;
    ensure!(
        message.contains("ClusterRoleBinding") && message.contains("roles of its installation"),
        "{message}"
    );
    ensure!(world.daemon_sets().get_opt(&owned("refused")).await?.is_none());
    let mut role = role;
    role.metadata.resource_version = None;
    roles
        .replace("scope-http-statistics-operator", &PostParams::default(), &role)
        .await?;
    world.wait_for("refused", "Ready=True/AgentsReady").await?;
    ensure!(
        world
            .operator()?
            .metric("scope_http_statistics_operator_reconcile_errors_total")?
            >= 1.0
    );
    Ok(())
}

async fn a_cluster_at_rest_sees_no_write(world: &mut World) -> Result<()> {
    const REST: Duration = Duration::from_mins(1);
    let count = |world: &mut World| -> Result<f64> {
        if world.cluster.is_own() {
            let writes = u32::try_from(world.cluster.writes(OPERATOR_USER)?.len())?;
            ensure!(writes > 0, "the audit log has none of the operator's writes");
            Ok(writes.into())
        } else {
            world
                .operator()?
                .metric("scope_http_statistics_operator_writes_total")
        }
    };
    // Numbers of what went before may still be on their way.
    tokio::time::sleep(Duration::from_secs(12)).await;
    let before = count(world)?;
    tokio::time::sleep(REST).await;
    let after = count(world)?;
    println!("writes within {} s of rest: {}", REST.as_secs(), after - before);
    ensure!(before.total_cmp(&after).is_eq(), "{before} writes, then {after}");
    Ok(())
}

async fn a_restarted_operator_changes_nothing_and_misses_nothing(world: &mut World) -> Result<()> {
    let version = async |world: &World| -> Result<_> {
        let daemon_set = world.daemon_sets().get(&owned("failing")).await?;
        let map = world.config_maps().get(&owned("failing")).await?;
        let resource = world.resources().get("failing").await?;
        Ok([
            daemon_set.resource_version(),
            map.resource_version(),
            resource.resource_version(),
        ])
    };
    let before = version(world).await?;
    let events = world.events("failing").await?;
    let stopped = world.operator.take().context("not running")?.stop().await?;
    println!("stopped within {:.1} s of SIGTERM", stopped.as_secs_f64());
    world.change("first", json!({"image": "agent:4"})).await?;
    world.operator = Some(Operator::start(&world.cluster, &world.operator_kubeconfig)?);
    world.operator()?.wait_until_ready().await?;
    world.wait_for("first", "Ready=True/AgentsReady").await?;
    let image = world
        .daemon_sets()
        .get(&owned("first"))
        .await?
        .spec
        .and_then(|spec| spec.template.spec);
    ensure!(image.context("no pod")?.containers[0].image.as_deref() == Some("agent:4"));
    ensure!(
        before == version(world).await?,
        "an object that was as it should be has changed"
    );
    ensure!(events == world.events("failing").await?);
    Ok(())
}

async fn it_survives_a_restart_of_the_api_server(world: &mut World) -> Result<()> {
    if !world.cluster.is_own() {
        println!("left out: this cluster is not ours to break");
        return Ok(());
    }
    let process = world.operator()?.process.id();
    world.cluster.restart_api_server(Duration::from_secs(5)).await?;
    world.change("first", json!({"image": "agent:5"})).await?;
    world.wait_for("first", "Ready=True/AgentsReady").await?;
    let operator = world.operator()?;
    operator.process.check()?;
    ensure!(operator.process.id() == process && operator.get("/readyz")?.0 == 200);
    Ok(())
}

async fn of_several_operators_one_works(world: &mut World) -> Result<()> {
    const WRITES: &str = "scope_http_statistics_operator_writes_total";
    if let Some(operator) = world.operator.take() {
        operator.stop().await?;
    }
    let start = async |world: &World, name: &str| {
        let mut operator = Operator::start_pod(
            &world.cluster,
            &world.operator_kubeconfig,
            name,
            &["--leader-election"],
        )?;
        operator.wait_until_ready().await?;
        Ok::<_, anyhow::Error>(operator)
    };
    let leases = Api::<Lease>::namespaced(world.admin(), NAMESPACE);
    let until_held_by = async |name: &str| {
        let begin = Instant::now();
        until(&format!("{name} has the lease"), async || {
            let lease = leases.get("scope-http-statistics-operator").await?;
            let holder = lease
                .spec
                .and_then(|spec| spec.holder_identity)
                .unwrap_or_default();
            Ok(holder.starts_with(name).then_some(()))
        })
        .await?;
        println!(
            "{name} has the lease after {:.1} s",
            begin.elapsed().as_secs_f64()
        );
        Ok::<_, anyhow::Error>(())
    };
    let roll_out = async |world: &World, image: &str| {
        world.change("first", json!({"image": image})).await?;
        world.wait_for("first", "Ready=True/AgentsReady").await
    };

    let first = start(world, "operator-a").await?;
    until_held_by("operator-a").await?;
    let second = start(world, "operator-b").await?;
    roll_out(world, "agent:6").await?;
    // By this account it was over half a century ago. Clocks are not believed.
    let over = json!({"spec": {"renewTime": "1970-01-01T00:00:00.000000Z"}});
    leases
        .patch(
            "scope-http-statistics-operator",
            &PatchParams::default(),
            &Patch::Merge(over),
        )
        .await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    roll_out(world, "agent:7").await?;
    ensure!(first.metric(WRITES)? > 0.0);
    ensure!(second.metric(WRITES)? < 1.0);

    first.stop().await?;
    until_held_by("operator-b").await?;
    roll_out(world, "agent:8").await?;

    // One that stands still for longer than the lease, and goes on as if nothing had happened.
    let third = start(world, "operator-c").await?;
    let before = second.metric(WRITES)?;
    second.process.signal("STOP")?;
    until_held_by("operator-c").await?;
    roll_out(world, "agent:9").await?;
    second.process.signal("CONT")?;
    until("the second one notices", async || {
        let noticed = second.process.last_lines(20).contains("has lost the lease");
        Ok(noticed.then_some(()))
    })
    .await?;
    roll_out(world, "agent:10").await?;
    let after = second.metric(WRITES)?;
    ensure!(before.total_cmp(&after).is_eq(), "{before} writes, then {after}");
    ensure!(second.get("/readyz")?.0 == 200, "it stands by again");

    // Gone without a word.
    third.process.signal("KILL")?;
    until_held_by("operator-b").await?;
    roll_out(world, "agent:11").await?;
    second.stop().await?;
    world.operator = Some(Operator::start(&world.cluster, &world.operator_kubeconfig)?);
    world.operator()?.wait_until_ready().await
}

async fn fifty_resources_are_as_well_kept_as_one(world: &mut World) -> Result<()> {
    let pools: Vec<String> = (1..=50).map(|number| format!("many-{number}")).collect();
    let start = Instant::now();
    for pool in &pools {
        world.add_nodes(pool, 1).await?;
        world.create(pool, spec(pool)).await?;
    }
    for pool in &pools {
        world.wait_for(pool, "Ready=True/AgentsReady").await?;
    }
    println!(
        "50 resources were ready after {:.1} s",
        start.elapsed().as_secs_f64()
    );
    if world.cluster.is_own() {
        let writes = world.cluster.writes(OPERATOR_USER)?;
        let of_one = writes.iter().filter(|write| write.contains("many-25 ")).count();
        println!("writes for one of them: {of_one}");
        // Four objects, and a status for each step of the rollout.
        ensure!(of_one <= 4 + 8, "{writes:?}");
    }
    for pool in &pools {
        world.delete(pool).await?;
    }
    Ok(())
}

async fn a_deleted_resource_leaves_nothing(world: &mut World) -> Result<()> {
    let uid = world.resources().get("first").await?.uid().context("no uid")?;
    let start = Instant::now();
    world.delete("first").await?;
    world.wait_until_gone("first").await?;
    println!("gone after {:.1} s", start.elapsed().as_secs_f64());

    // Under the same name it is a new one.
    world.create("first", spec("first")).await?;
    world.wait_for("first", "Ready=True/AgentsReady").await?;
    let owners = world
        .daemon_sets()
        .get(&owned("first"))
        .await?
        .metadata
        .owner_references
        .unwrap_or_default();
    ensure!(owners.len() == 1 && owners[0].uid != uid, "{owners:?}");
    world.delete("first").await?;
    Ok(())
}

/// 2,000 nodes, or as many as `TEST_NODES` says.
async fn a_large_cluster(world: &mut World) -> Result<()> {
    let nodes: usize = match std::env::var("TEST_NODES") {
        Ok(number) => number.parse().context("TEST_NODES is a number")?,
        Err(_) => 2000,
    };
    // From a start, so that the peak of memory is that of a cluster of this size.
    if let Some(operator) = world.operator.take() {
        operator.stop().await?;
    }
    let start = Instant::now();
    world.add_nodes("large", nodes).await?;
    println!("{nodes} nodes after {:.1} s", start.elapsed().as_secs_f64());
    world.operator = Some(Operator::start(&world.cluster, &world.operator_kubeconfig)?);
    world.operator()?.wait_until_ready().await?;

    let own_writes = |world: &World| -> Result<usize> {
        Ok(world
            .cluster
            .writes(OPERATOR_USER)?
            .iter()
            .filter(|write| write.contains("large "))
            .count())
    };
    let wait = async |world: &World, what: &str| -> Result<f64> {
        let start = Instant::now();
        // Each of them takes three writes of the kubelet.
        loop {
            match world.wait_for("large", what).await {
                Ok(_) => return Ok(start.elapsed().as_secs_f64()),
                Err(error) if start.elapsed() > Duration::from_mins(10) => return Err(error),
                Err(_) => {}
            }
        }
    };
    let mut large = spec("large");
    large["updateStrategy"] = json!({"maxUnavailable": "50%"});
    world.create("large", large).await?;
    let seconds = wait(world, "Ready=True/AgentsReady").await?;
    world
        .wait_for_hook("large", &format!("Fentry {}, Tracepoint 1", nodes - 1))
        .await?;
    if world.cluster.is_own() {
        let writes = own_writes(world)?;
        println!("first rollout: {seconds:.1} s, {writes} writes");
        ensure!(writes < 100, "{writes} writes for {nodes} nodes");
    }
    let operator = world.operator()?;
    let memory = operator.peak_memory()?;
    let reconciles = operator.metric("scope_http_statistics_operator_reconciles_total")?;
    let (_, metrics) = operator.get("/metrics")?;
    println!(
        "peak memory: {memory} KiB, {reconciles} reconciles, p99 of own time: {:.4} s at most",
        percentile(&metrics)?
    );
    ensure!(memory < 64 * 1024, "{memory} KiB");
    Ok(())
}

/// Upper bound of the 99th percentile of a reconcile's own time, in seconds.
fn percentile(metrics: &str) -> Result<f64> {
    let buckets: Vec<(f64, f64)> = metrics
        .lines()
        .filter_map(|line| {
            let rest =
                line.strip_prefix("scope_http_statistics_operator_reconcile_own_seconds_bucket{le=\"")?;
            let (bound, count) = rest.split_once("\"} ")?;
            Some((bound.replace("+Inf", "inf").parse().ok()?, count.parse().ok()?))
        })
        .collect();
    let all = buckets.last().context("no buckets")?.1;
    let bucket = buckets
        .iter()
        .find(|(_, count)| *count >= 0.99 * all)
        .context("no bucket")?;
    Ok(bucket.0)
}
