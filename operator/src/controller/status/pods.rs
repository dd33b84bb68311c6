//! What the agents' pods tell: which nodes have no working agent and why, and which hooks are in use.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::ContainerStatus;

use crate::api::v1alpha1::{AttachMode, HookCount, UnavailableNode};
use crate::controller::agent_pod::{AgentPod, HOOKS};

/// Longest message about a node, in bytes. Ten of them fit well into a condition.
const MAX_MESSAGE: usize = 300;

/// The node and why it has no working agent, if there is a reason to worry: a pod that is just starting is none.
pub(crate) fn failure(pod: &AgentPod) -> Option<UnavailableNode> {
    if pod.is_ready() || pod.is_being_deleted() {
        return None;
    }
    Some(UnavailableNode {
        node: pod.spec.node_name.clone()?,
        message: one_line(&reason(pod)?),
    })
}

fn reason(pod: &AgentPod) -> Option<String> {
    if pod.status.phase.as_deref() == Some("Failed") {
        let message = pod.status.message.as_deref().unwrap_or("no reason given");
        return Some(format!("the pod failed: {message}"));
    }
    if let Some(condition) = pod.condition("PodScheduled")
        && condition.status == "False"
    {
        let message = condition.message.as_deref().unwrap_or("no reason given");
        return Some(format!("the pod cannot be scheduled: {message}"));
    }
    let (before, agent) = (
        pod.status.init_container_statuses.first(),
        pod.status.container_statuses.first(),
    );
    // The agent waits for the init container, and whatever is wrong with the image shows there first.
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
    // An init container is not `started` for long: it ends.
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

fn is_done(container: &ContainerStatus) -> bool {
    let end = container
        .state
        .as_ref()
        .and_then(|state| state.terminated.as_ref());
    end.is_some_and(|end| end.exit_code == 0)
}

/// What the container said when it ended, or when it ended last if it was started again.
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
fn one_line(text: &str) -> String {
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.len() > MAX_MESSAGE {
        let end = (0..=MAX_MESSAGE)
            .rev()
            .find(|end| line.is_char_boundary(*end))
            .unwrap_or(0);
        line.truncate(end);
        line.push('…');
    }
    line
}

/// On how many nodes agents use each hook, as far as they said; only hooks that are in use. Where one agent takes over from
/// another, both are ready for a moment; they may use the same hook or not. A surge agent is not counted beside an agent.
pub(crate) fn hooks<'a>(pods: impl Iterator<Item = &'a AgentPod> + Clone) -> Vec<HookCount> {
    let mut counts = HOOKS.map(|hook| HookCount { hook, nodes: 0 });
    let (surge, agents) = (
        pods.clone().filter(|pod| pod.is_surge()),
        pods.filter(|pod| !pod.is_surge()),
    );
    let by_node: HashMap<Option<&str>, AttachMode> = surge
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
pub(crate) fn failures<'a>(pods: impl Iterator<Item = &'a AgentPod>) -> Vec<UnavailableNode> {
    let mut failures: Vec<UnavailableNode> = pods.filter_map(failure).collect();
    failures.sort_unstable_by(|one, other| (&one.node, &one.message).cmp(&(&other.node, &other.message)));
    failures.dedup_by(|later, earlier| later.node == earlier.node);
    failures
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::names::{COMPONENT_LABEL, INSTANCE_LABEL, SURGE_COMPONENT};

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
            // Started again, and not there yet.
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
            let failure = failure(&pod(&status));
            assert_eq!(
                failure.as_ref().map(|failure| failure.message.as_str()),
                expected,
                "{status}"
            );
            assert!(failure.is_none_or(|failure| failure.node == "n"), "{status}");
        }
    }

    #[test]
    fn a_pod_that_is_ready_or_being_deleted_is_no_failure() {
        let mut status = container(&json!({"state": {"running": {}}, "started": true}));
        assert!(failure(&pod(&status)).is_some());
        status["conditions"] = json!([{"type": "Ready", "status": "True"}]);
        assert_eq!(failure(&pod(&status)), None);

        status["conditions"] = json!([{"type": "Ready", "status": "False"}]);
        let mut going = pod(&status);
        assert!(failure(&going).is_some());
        going.metadata.deletion_timestamp =
            Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
        assert_eq!(failure(&going), None);
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
        let mut surge = told("kprobe\n", "True");
        let labels = [(COMPONENT_LABEL.to_owned(), SURGE_COMPONENT.to_owned())];
        surge.metadata.labels = Some(labels.into());
        for (pod, expected) in [
            (None, vec![]),
            (Some("n1"), vec![]),
            (Some("alone"), vec![count(AttachMode::Kprobe, 1)]),
        ] {
            surge.spec.node_name = pod.map(str::to_owned);
            let surge = pod.map(|_| &surge);
            let mut all = vec![count(AttachMode::Fentry, 1)];
            all.extend(expected);
            all.push(count(AttachMode::Tracepoint, 2));
            assert_eq!(hooks(pods.iter().chain(surge)), all);
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
            let failure = failure(&before(&state));
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
        assert_eq!(failure(&pod).unwrap().node, "node-7");
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
        assert!(failures[0].message.len() <= MAX_MESSAGE + '…'.len_utf8());
    }
}
