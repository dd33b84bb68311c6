//! Does for all nodes what scheduler and kubelet do, as far as the API shows: binds pods, lets them become ready or
//! fail, and confirms that they are gone. Agents of an image called `…:broken` fail on every node.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use futures::stream::{FuturesUnordered, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

/// What the agents of a node say before they die.
pub(crate) type LastWords = Arc<Mutex<BTreeMap<String, String>>>;

pub(crate) struct Kubelet {
    pub(crate) last_words: LastWords,
    task: tokio::task::JoinHandle<()>,
}

impl Kubelet {
    pub(crate) fn start(client: Client) -> Self {
        let last_words = LastWords::default();
        let task = tokio::spawn(run(client, Arc::clone(&last_words)));
        Self { last_words, task }
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How many pods are worked on at once.
const CONCURRENCY: usize = 32;

async fn run(client: Client, last_words: LastWords) {
    let pods = Api::<Pod>::namespaced(client, crate::NAMESPACE);
    let mut events = watcher(pods.clone(), watcher::Config::default())
        .default_backoff()
        .touched_objects()
        .boxed();
    let mut work = FuturesUnordered::new();
    // Pods under work, and what came in for them meanwhile.
    let mut busy: HashMap<String, Option<Pod>> = HashMap::new();
    let mut look_again = tokio::time::interval(std::time::Duration::from_secs(1));
    let mut known: HashMap<String, Pod> = HashMap::new();
    loop {
        tokio::select! {
            Some(name) = work.next(), if !work.is_empty() => {
                let name: String = name;
                if let Some(Some(pod)) = busy.remove(&name) {
                    busy.insert(name, None);
                    work.push(step(pods.clone(), pod, Arc::clone(&last_words)));
                }
            }
            event = events.next(), if work.len() < CONCURRENCY => {
                let Some(event) = event else { return };
                let Ok(pod) = event else { continue };
                let name = pod.name_any();
                known.insert(name.clone(), pod.clone());
                if let Some(waiting) = busy.get_mut(&name) {
                    *waiting = Some(pod);
                } else {
                    busy.insert(name, None);
                    work.push(step(pods.clone(), pod, Arc::clone(&last_words)));
                }
            }
            _ = look_again.tick() => {
                // Words may have changed; the step does nothing where all is as it should be.
                let idle: Vec<Pod> = known
                    .values()
                    .filter(|pod| !busy.contains_key(&pod.name_any()))
                    .filter(|pod| wanted(pod, &last_words).is_some())
                    .take(CONCURRENCY)
                    .cloned()
                    .collect();
                for pod in idle {
                    let name = pod.name_any();
                    known.remove(&name);
                    busy.insert(name, None);
                    work.push(step(pods.clone(), pod, Arc::clone(&last_words)));
                }
            }
        }
    }
}

fn node(pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    spec.node_name.clone().or_else(|| {
        let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
        let required = affinity
            .required_during_scheduling_ignored_during_execution
            .as_ref()?;
        let field = required
            .node_selector_terms
            .first()?
            .match_fields
            .as_ref()?
            .first()?;
        field.values.as_ref()?.first().cloned()
    })
}

/// What a pod's init container says: the hook that was asked for; where the node decides, those called `…-2` have the last.
fn told(pod: &Pod, node: &str) -> Option<String> {
    let container = pod.spec.as_ref()?.init_containers.as_ref()?.first()?;
    let variables = container.env.as_ref()?;
    let asked = variables
        .iter()
        .find(|variable| variable.name == "SCOPE_HTTP_STATISTICS_HOOK")?
        .value
        .as_deref()?;
    Some(match asked {
        "auto" if node.ends_with("-2") => {
            "tracepoint\nnot fentry: locked down\nnot kprobe: none\n".to_owned()
        }
        "auto" => "fentry\n".to_owned(),
        asked => format!("{asked}\n"),
    })
}

/// The status that the pod should have and has not.
fn wanted(pod: &Pod, last_words: &LastWords) -> Option<Value> {
    let node = node(pod)?;
    let image = pod.spec.as_ref()?.containers.first()?.image.as_deref();
    let broken = image.is_some_and(|image| image.ends_with(":broken"));
    let words = last_words.lock().ok()?.get(&node).cloned();
    let words = words.or_else(|| broken.then(|| "error: it is broken\n".to_owned()));
    let status = pod.status.as_ref();
    let ready = status
        .and_then(|status| status.conditions.as_ref())
        .is_some_and(|conditions| {
            conditions
                .iter()
                .any(|condition| condition.type_ == "Ready" && condition.status == "True")
        });
    let failing = status
        .and_then(|status| status.container_statuses.as_ref())
        .is_some_and(|containers| !containers.is_empty())
        && !ready;
    let container = |state: Value, ready| {
        json!({
            "name": "agent", "image": "agent", "imageID": "", "ready": ready, "started": ready,
            "restartCount": 0, "state": state,
        })
    };
    let done = json!({
        "name": "hook", "image": "agent", "imageID": "", "ready": true, "restartCount": 0,
        "state": {"terminated": {"exitCode": 0, "reason": "Completed", "message": told(pod, &node)}},
    });
    match words {
        None if ready => None,
        None => Some(json!({
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "PodScheduled", "status": "True"}],
            "initContainerStatuses": [done],
            "containerStatuses": [container(json!({"running": {}}), true)],
        })),
        Some(_) if failing => None,
        Some(words) => Some(json!({
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "False"}, {"type": "PodScheduled", "status": "True"}],
            "initContainerStatuses": [done],
            "containerStatuses": [container(
                json!({"terminated": {"exitCode": 1, "reason": "Error", "message": words}}),
                false,
            )],
        })),
    }
}

/// Takes a pod one step further. Whatever fails is tried again when the pod changes, or in a second.
async fn step(pods: Api<Pod>, pod: Pod, last_words: LastWords) -> String {
    let name = pod.name_any();
    if pod.metadata.deletion_timestamp.is_some() {
        let now = DeleteParams {
            grace_period_seconds: Some(0),
            ..DeleteParams::default()
        };
        let _ = pods.delete(&name, &now).await;
        return name;
    }
    if let (Some(node), None) = (
        node(&pod),
        pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()),
    ) {
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        let _ = pods
            .create_subresource::<Value, Value>("binding", &name, &PostParams::default(), &binding)
            .await;
    }
    if let Some(status) = wanted(&pod, &last_words) {
        let patch = Patch::Merge(json!({"status": status}));
        let _ = pods.patch_status(&name, &PatchParams::default(), &patch).await;
    }
    name
}
