//! What the agents' pods say about nodes that have no working agent.

use std::collections::HashMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Affinity, ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::{Resource, ResourceExt};
use serde::{Deserialize, Serialize};

use super::build::{COMPONENT_LABEL, INSTANCE_LABEL, STANDBY_COMPONENT, hook_name};
use crate::api::v1alpha1::{AttachMode, HookCount, UnavailableNode};

/// Longest message of a node, in bytes. Ten of them fit well into a condition.
const MAX_WORDS: usize = 300;

/// An agent's pod: only what is looked at, since there is one on every node.
#[derive(Clone, Debug, Default, Deserialize, Resource, Serialize)]
#[resource(inherit = "Pod")]
pub struct AgentPod {
    /// As of any object, thinned out by [`AgentPod::thin`].
    pub metadata: ObjectMeta,
    /// Where it runs.
    #[serde(default)]
    pub spec: Placement,
    /// How it is.
    #[serde(default)]
    pub status: State,
    /// The uid of the `DaemonSet` that it is of, taken out of its owners.
    #[serde(skip)]
    pub controller: Option<String>,
}

/// Part of a pod's spec.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// The node, once it is there.
    pub node_name: Option<String>,
    /// The node, before.
    pub affinity: Option<Affinity>,
}

/// Part of a pod's status.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// `Failed` for a pod that was evicted.
    pub phase: Option<String>,
    /// Why, in words.
    pub message: Option<String>,
    /// `Ready`, `PodScheduled`.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// One, which tells the hook.
    #[serde(default)]
    pub init_container_statuses: Vec<ContainerStatus>,
    /// One, the agent.
    #[serde(default)]
    pub container_statuses: Vec<ContainerStatus>,
}

/// Part of a pod's condition.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Of what.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Why, in words.
    pub message: Option<String>,
    /// Since when.
    pub last_transition_time: Option<Time>,
}

impl AgentPod {
    /// Keeps what is needed: 5,000 whole pods would take more memory than the operator.
    pub fn thin(&mut self) {
        let metadata = &mut self.metadata;
        metadata.managed_fields = None;
        metadata.annotations = None;
        self.controller = metadata
            .owner_references
            .take()
            .into_iter()
            .flatten()
            .find(|owner| owner.controller == Some(true))
            .map(|owner| owner.uid);
        if let Some(labels) = &mut metadata.labels {
            labels.retain(|key, _| [INSTANCE_LABEL, COMPONENT_LABEL].contains(&key.as_str()));
        }
        // A DaemonSet's pod knows its node before the scheduler does.
        if let Some(affinity) = self.spec.affinity.take()
            && self.spec.node_name.is_none()
        {
            self.spec.node_name = affinity
                .node_affinity
                .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution)
                .into_iter()
                .flat_map(|required| required.node_selector_terms)
                .flat_map(|term| term.match_fields.unwrap_or_default())
                .find(|field| field.key == "metadata.name")
                .and_then(|field| field.values.unwrap_or_default().pop());
        }
    }

    fn condition(&self, kind: &str) -> Option<&Condition> {
        self.status
            .conditions
            .iter()
            .find(|condition| condition.kind == kind)
    }

    fn is_ready(&self) -> bool {
        self.condition("Ready")
            .is_some_and(|condition| condition.status == "True")
    }

    fn is_leaving(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// Whether there is an agent that counts, and is meant to go on.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.is_ready() && !self.is_leaving()
    }

    /// Whether its node has room for it. One that has got it keeps it.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.condition("PodScheduled")
            .is_none_or(|condition| condition.status != "False")
    }

    /// Since when it is as ready as it is.
    #[must_use]
    pub fn since(&self) -> Option<Timestamp> {
        self.condition("Ready")
            .and_then(|condition| condition.last_transition_time.as_ref())
            .or(self.metadata.creation_timestamp.as_ref())
            .map(|time| time.0)
    }

    /// Whether it stands in for an agent, and is meant to go on.
    #[must_use]
    pub fn stands_in(&self) -> bool {
        let component = self.labels().get(COMPONENT_LABEL);
        component.is_some_and(|component| component == STANDBY_COMPONENT) && !self.is_leaving()
    }

    /// The hook in use, if the agent is ready and said which.
    #[must_use]
    pub fn hook(&self) -> Option<AttachMode> {
        if !self.serves() {
            return None;
        }
        let container = self.status.init_container_statuses.first()?;
        let end = container.state.as_ref()?.terminated.as_ref()?;
        let word = end.message.as_deref()?.lines().next()?;
        HOOKS.into_iter().find(|hook| hook_name(*hook) == word)
    }

    /// The node and why it has no working agent, if there is a reason to worry: a pod that is just starting is none.
    #[must_use]
    pub fn failure(&self) -> Option<UnavailableNode> {
        if self.is_ready() || self.is_leaving() {
            return None;
        }
        Some(UnavailableNode {
            node: self.spec.node_name.clone()?,
            message: words(&self.reason()?),
        })
    }

    fn reason(&self) -> Option<String> {
        if self.status.phase.as_deref() == Some("Failed") {
            let message = self.status.message.as_deref().unwrap_or("no reason given");
            return Some(format!("the pod failed: {message}"));
        }
        if let Some(condition) = self.condition("PodScheduled")
            && condition.status == "False"
        {
            let message = condition.message.as_deref().unwrap_or("no reason given");
            return Some(format!("the pod cannot be scheduled: {message}"));
        }
        let (before, agent) = (
            self.status.init_container_statuses.first(),
            self.status.container_statuses.first(),
        );
        // The agent waits for what comes before it, and whatever is wrong with the image shows there first.
        let container = before.filter(|container| !is_done(container)).or(agent)?;
        let state = container.state.as_ref()?;
        if let Some(waiting) = &state.waiting {
            return match waiting.reason.as_deref() {
                None | Some("ContainerCreating" | "PodInitializing") => last_words(container),
                Some("CrashLoopBackOff") => last_words(container).or_else(|| waiting.message.clone()),
                Some(reason) => Some(match &waiting.message {
                    Some(message) => format!("{reason}: {message}"),
                    None => reason.to_owned(),
                }),
            };
        }
        // What comes before the agent is never `started` for long: it ends.
        let is_before = before.is_some_and(|before| std::ptr::eq(before, container));
        if state.terminated.is_some() || is_before || !container.started.unwrap_or_default() {
            return last_words(container);
        }
        Some(if container.ready {
            "the node does not answer".to_owned()
        } else {
            "the agent runs, but is not ready: see its log".to_owned()
        })
    }
}

fn is_done(container: &ContainerStatus) -> bool {
    let end = container
        .state
        .as_ref()
        .and_then(|state| state.terminated.as_ref());
    end.is_some_and(|end| end.exit_code == 0)
}

/// What the agent said at its end; of now, or of the time before.
fn last_words(container: &ContainerStatus) -> Option<String> {
    let ended = |state: &Option<_>| {
        state
            .as_ref()
            .and_then(|state: &k8s_openapi::api::core::v1::ContainerState| state.terminated.clone())
    };
    let end = ended(&container.state).or_else(|| ended(&container.last_state))?;
    // With `FallbackToLogsOnError` the message is the end of its log, and the error is the last line.
    let said = end.message.unwrap_or_default();
    let line = said.lines().map(str::trim).rfind(|line| !line.is_empty());
    Some(match (line, end.reason) {
        (Some(line), _) => line.strip_prefix("error: ").unwrap_or(line).to_owned(),
        (None, Some(reason)) => format!("the agent ended with exit code {} ({reason})", end.exit_code),
        (None, None) => format!("the agent ended with exit code {}", end.exit_code),
    })
}

/// One line of bounded length.
fn words(text: &str) -> String {
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.len() > MAX_WORDS {
        let end = (0..=MAX_WORDS)
            .rev()
            .find(|end| line.is_char_boundary(*end))
            .unwrap_or(0);
        line.truncate(end);
        line.push('…');
    }
    line
}

/// What an agent may use, in the order of the status.
const HOOKS: [AttachMode; 3] = [AttachMode::Fentry, AttachMode::Kprobe, AttachMode::Tracepoint];

/// On how many nodes agents use each hook, as far as they said; only hooks that are in use. Where one agent takes over from
/// another, both are ready for a moment; they may use the same hook or not. One that stands in is not counted beside an agent.
#[must_use]
pub fn hooks<'a>(pods: impl Iterator<Item = &'a AgentPod> + Clone) -> Vec<HookCount> {
    let mut counts = HOOKS.map(|hook| HookCount { hook, nodes: 0 });
    let (standing_in, agents) = (
        pods.clone().filter(|pod| pod.stands_in()),
        pods.filter(|pod| !pod.stands_in()),
    );
    let by_node: HashMap<Option<&str>, AttachMode> = standing_in
        .chain(agents)
        .filter_map(|pod| Some((pod.spec.node_name.as_deref(), pod.hook()?)))
        .collect();
    for hook in by_node.into_values() {
        for count in counts.iter_mut().filter(|count| count.hook == hook) {
            count.nodes += 1;
        }
    }
    counts.into_iter().filter(|count| count.nodes > 0).collect()
}

/// All nodes that have no working agent, by name, each once.
#[must_use]
pub fn failures<'a>(pods: impl Iterator<Item = &'a AgentPod>) -> Vec<UnavailableNode> {
    let mut failures: Vec<UnavailableNode> = pods.filter_map(AgentPod::failure).collect();
    failures.sort_unstable_by(|one, other| (&one.node, &one.message).cmp(&(&other.node, &other.message)));
    failures.dedup_by(|later, earlier| later.node == earlier.node);
    failures
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A pod on node `n`, as the API server hands it out and the operator keeps it.
    fn pod(status: &Value) -> AgentPod {
        let mut pod: AgentPod = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "agent-x", "labels": {INSTANCE_LABEL: "default", "other": "label"}},
            "spec": {"nodeName": "n", "containers": [{"name": "agent"}]},
            "status": status,
        }))
        .unwrap();
        pod.thin();
        pod
    }

    fn container(status: &Value) -> Value {
        let mut whole = json!({
            "name": "agent", "image": "agent:1", "imageID": "", "ready": false, "restartCount": 1, "started": false,
        });
        for (key, value) in status.as_object().unwrap() {
            whole[key] = value.clone();
        }
        json!({"phase": "Running", "containerStatuses": [whole]})
    }

    #[test]
    fn a_failure_is_told_in_the_agents_own_words() {
        let end = json!({"terminated": {
            "exitCode": 1, "reason": "Error",
            "message": "INFO starting\n\nerror: kernel 4.19: no BTF: take a kernel with CONFIG_DEBUG_INFO_BTF\n\n",
        }});
        let own = Some("kernel 4.19: no BTF: take a kernel with CONFIG_DEBUG_INFO_BTF");
        let silent = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
        let waiting =
            |reason: &str, message: &str| json!({"waiting": {"reason": reason, "message": message}});
        let running = json!({"running": {}});
        let pull = "Back-off pulling image \"agent:1\"";
        let cases = [
            (container(&json!({"state": end})), own),
            (
                container(&json!({"state": waiting("CrashLoopBackOff", "back-off 20s"), "lastState": end})),
                own,
            ),
            // Again on its way, and not there yet.
            (container(&json!({"state": running, "lastState": end})), own),
            (
                container(&json!({"state": waiting("ContainerCreating", ""), "lastState": end})),
                own,
            ),
            (
                container(&json!({"state": silent})),
                Some("the agent ended with exit code 137 (OOMKilled)"),
            ),
            (
                container(&json!({"state": waiting("CrashLoopBackOff", "back-off 20s")})),
                Some("back-off 20s"),
            ),
            (
                container(&json!({"state": waiting("ImagePullBackOff", pull)})),
                Some("ImagePullBackOff: Back-off pulling image \"agent:1\""),
            ),
            (
                container(&json!({"state": running, "started": true})),
                Some("the agent runs, but is not ready: see its log"),
            ),
            (
                container(&json!({"state": running, "started": true, "ready": true})),
                Some("the node does not answer"),
            ),
            (
                json!({"phase": "Failed", "message": "Pod was evicted"}),
                Some("the pod failed: Pod was evicted"),
            ),
            (
                json!({"phase": "Pending", "conditions": [
                    {"type": "PodScheduled", "status": "False", "message": "0/1 nodes: Insufficient memory."},
                ]}),
                Some("the pod cannot be scheduled: 0/1 nodes: Insufficient memory."),
            ),
            // Starting.
            (json!({}), None),
            (json!({"phase": "Pending"}), None),
            (container(&json!({"state": running})), None),
            (
                container(&json!({"state": waiting("ContainerCreating", "")})),
                None,
            ),
        ];
        for (status, expected) in cases {
            let failure = pod(&status).failure();
            assert_eq!(
                failure.as_ref().map(|failure| failure.message.as_str()),
                expected,
                "{status}"
            );
            assert!(failure.is_none_or(|failure| failure.node == "n"), "{status}");
        }
    }

    #[test]
    fn who_is_ready_or_goes_away_is_no_failure() {
        let mut status = container(&json!({"state": {"running": {}}, "started": true}));
        assert!(pod(&status).failure().is_some());
        status["conditions"] = json!([{"type": "Ready", "status": "True"}]);
        assert_eq!(pod(&status).failure(), None);

        status["conditions"] = json!([{"type": "Ready", "status": "False"}]);
        let mut going = pod(&status);
        assert!(going.failure().is_some());
        going.metadata.deletion_timestamp =
            Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
        assert_eq!(going.failure(), None);
    }

    #[test]
    fn ready_agents_count_under_the_hook_that_was_told_before_they_began() {
        let told = |words: &str, ready: &str| {
            pod(&json!({
                "conditions": [{"type": "Ready", "status": ready}],
                "initContainerStatuses": [{
                    "name": "hook", "image": "agent", "imageID": "", "ready": true, "restartCount": 0,
                    "state": {"terminated": {"exitCode": 0, "reason": "Completed", "message": words}},
                }],
            }))
        };
        let silent = pod(&json!({"conditions": [{"type": "Ready", "status": "True"}]}));
        let mut going = told("fentry\n", "True");
        going.metadata.deletion_timestamp =
            Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
        let mut pods = [
            told(
                "tracepoint\nnot fentry: locked down\nnot kprobe: no kprobes\n",
                "True",
            ),
            told("fentry\n", "True"),
            told("tracepoint\n", "True"),
            told("tracepoint\n", "True"),
            told("kprobe\n", "False"),
            told("none\nno BTF\n", "True"),
            told("auto\n", "True"),
            told("", "True"),
            silent,
            going,
        ];
        for (number, pod) in pods.iter_mut().enumerate() {
            // One takes over from the other: one node.
            let number = if number == 3 { 2 } else { number };
            pod.spec.node_name = Some(format!("n{number}"));
        }
        let count = |hook, nodes| HookCount { hook, nodes };
        let mut stands_in = told("kprobe\n", "True");
        let labels = [(COMPONENT_LABEL.to_owned(), STANDBY_COMPONENT.to_owned())];
        stands_in.metadata.labels = Some(labels.into());
        for (pod, expected) in [
            (None, vec![]),
            (Some("n1"), vec![]),
            (Some("alone"), vec![count(AttachMode::Kprobe, 1)]),
        ] {
            stands_in.spec.node_name = pod.map(str::to_owned);
            let stands_in = pod.map(|_| &stands_in);
            let mut all = vec![count(AttachMode::Fentry, 1)];
            all.extend(expected);
            all.push(count(AttachMode::Tracepoint, 2));
            assert_eq!(hooks(pods.iter().chain(stands_in)), all);
        }
    }

    #[test]
    fn what_is_wrong_before_the_agent_begins_is_told_too() {
        let before = |state: &Value| {
            let container = |name: &str, state: &Value| json!({"name": name, "image": "agent", "imageID": "", "ready": false, "restartCount": 0, "state": state});
            pod(&json!({
                "phase": "Pending",
                "initContainerStatuses": [container("hook", state)],
                "containerStatuses": [container("agent", &json!({"waiting": {"reason": "PodInitializing"}}))],
            }))
        };
        let cases = [
            (
                json!({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}),
                Some("ImagePullBackOff: no such image"),
            ),
            (
                json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}),
                Some("the agent ended with exit code 137 (OOMKilled)"),
            ),
            (json!({"running": {}}), None),
            (json!({"waiting": {"reason": "PodInitializing"}}), None),
            (
                json!({"terminated": {"exitCode": 0, "reason": "Completed", "message": "none\nno BTF"}}),
                None,
            ),
        ];
        for (state, expected) in cases {
            let failure = before(&state).failure();
            let told = failure.as_ref().map(|failure| failure.message.as_str());
            assert_eq!(told, expected, "{state}");
        }
    }

    #[test]
    fn a_pod_that_waits_for_the_scheduler_names_its_node_too() {
        let mut pod: AgentPod = serde_json::from_value(json!({
            "metadata": {},
            "spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchFields": [
                    {"key": "metadata.name", "operator": "In", "values": ["node-7"]},
                ]}],
            }}}},
            "status": {"conditions": [{"type": "PodScheduled", "status": "False"}]},
        }))
        .unwrap();
        pod.thin();
        assert_eq!(pod.failure().unwrap().node, "node-7");
        assert!(pod.spec.affinity.is_none());
    }

    #[test]
    fn a_node_is_named_once_and_long_words_are_cut() {
        let long = "ä".repeat(1000);
        let failed = |node: &str, message: &str| {
            let mut pod = pod(&json!({"phase": "Failed", "message": message}));
            pod.spec.node_name = Some(node.to_owned());
            pod
        };
        let pods = [failed("n2", "b"), failed("n1", &long), failed("n2", "a")];
        let failures = failures(pods.iter());
        assert_eq!(
            failures
                .iter()
                .map(|failure| failure.node.as_str())
                .collect::<Vec<_>>(),
            ["n1", "n2"]
        );
        assert_eq!(failures[1].message, "the pod failed: a");
        assert!(failures[0].message.len() <= MAX_WORDS + '…'.len_utf8());
    }
}
