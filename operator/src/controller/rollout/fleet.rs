//! A `DaemonSet` with its pods: what is known of each node's.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;

use super::patience::{left, soonest};
use crate::controller::agent_pod::AgentPod;
#[cfg(doc)]
use crate::controller::validate::Update;

/// How the pod of a node is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum PodState {
    Serves,
    /// It starts, or fails, since then.
    Fails(Option<Timestamp>),
    /// Its node has had no room for it since then.
    NoRoom(Option<Timestamp>),
}

/// A `DaemonSet` with its pods.
#[derive(Clone, Debug)]
pub(super) struct Fleet {
    /// Whether each node that is meant to have a pod has one, as far as both caches can tell.
    pub(super) complete: bool,
    /// Whether no pod is about to be replaced.
    pub(super) updated: bool,
    /// How many nodes are meant to have a pod.
    pub(super) desired: usize,
    /// How many of those have one that is ready, as the `DaemonSet` says.
    pub(super) ready: usize,
    /// By node. A pod that is being deleted is none; but if its node is dead, it stays, and after a while counts as failing.
    pub(super) nodes: BTreeMap<String, PodState>,
    /// How long it takes until the first of the pods that are being deleted counts as failing.
    pub(super) lost_in: Option<Duration>,
}

impl Fleet {
    /// The fleet of `set`, which is `outdated` if there was a later write to it. Of `pods`, only its own count.
    pub(super) fn of<'a>(
        set: &DaemonSet,
        outdated: bool,
        pods: impl Iterator<Item = &'a AgentPod>,
        now: Timestamp,
    ) -> Self {
        let uid = set.metadata.uid.as_ref();
        let mut nodes: BTreeMap<String, PodState> = BTreeMap::new();
        let (mut lost, mut lost_in) = (0, None);
        for pod in pods.filter(|pod| pod.controller.is_some() && pod.controller.as_ref() == uid) {
            let Some(node) = &pod.spec.node_name else {
                continue;
            };
            let deleted = pod.metadata.deletion_timestamp.as_ref().map(|time| time.0);
            let state = match deleted.map(|deleted| left(Some(deleted), now)) {
                Some(Duration::ZERO) => {
                    lost += 1;
                    PodState::Fails(deleted)
                }
                leaving @ Some(_) => {
                    lost_in = soonest([lost_in, leaving]);
                    continue;
                }
                None if pod.serves() => PodState::Serves,
                None if pod.has_room() => PodState::Fails(pod.since()),
                None => PodState::NoRoom(pod.since()),
            };
            // Where Kubernetes surges, a node has two pods of the same DaemonSet for a while.
            if nodes.get(node) != Some(&PodState::Serves) {
                nodes.insert(node.clone(), state);
            }
        }
        let serving = nodes.values().filter(|state| **state == PodState::Serves).count();
        let count = |number: i32| usize::try_from(number).unwrap_or(0);
        let status = set.status.clone().unwrap_or_default();
        let (desired, ready) = (count(status.desired_number_scheduled), count(status.number_ready));
        // The pods come by another watch than the status, and either may be behind.
        let complete = !outdated
            && set.metadata.deletion_timestamp.is_none()
            && status.observed_generation.is_some()
            && status.observed_generation >= set.metadata.generation
            && count(status.current_number_scheduled) >= desired
            && nodes.len() >= desired
            // If a node is no longer meant to have a pod, the status does not say whether the pod that is left there is ready.
            && serving <= ready + count(status.number_misscheduled);
        let updated = status.updated_number_scheduled.unwrap_or(0);
        Self {
            complete,
            updated: updated.saturating_add(lost) >= status.current_number_scheduled,
            desired,
            ready,
            nodes,
            lost_in,
        }
    }

    /// Whether nothing changes by itself.
    pub(super) fn is_settled(&self) -> bool {
        self.complete && self.updated
    }

    /// Whether Kubernetes replaces no pod that is ready, since as many are missing as may be ([`Update::default_pace`]).
    pub(super) fn is_stuck(&self) -> bool {
        self.desired.saturating_sub(self.ready) * 10 >= self.desired
    }

    pub(super) fn serves_nowhere(&self) -> bool {
        self.ready == 0 && !self.nodes.values().any(|state| *state == PodState::Serves)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::fixtures::{NOW, SERVES, at, fails, no_room};
    use super::*;

    #[test]
    #[expect(clippy::too_many_lines, reason = "it is one story")]
    fn a_fleet_is_its_own_pods_and_complete_when_both_caches_agree() {
        let pod = |change: &dyn Fn(&mut Value)| {
            let mut pod = json!({
                "metadata": {
                    "name": "x", "creationTimestamp": "1970-01-01T00:07:00Z",
                    "ownerReferences": [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "s", "uid": "u", "controller": true}],
                },
                "spec": {"nodeName": "n1"},
                "status": {"conditions": [{"type": "Ready", "status": "True"}]},
            });
            change(&mut pod);
            let mut pod: AgentPod = serde_json::from_value(pod).unwrap();
            pod.thin();
            pod
        };
        let on = |node: &'static str| move |pod: &mut Value| pod["spec"]["nodeName"] = json!(node);
        let conditions = |conditions: Value| {
            move |pod: &mut Value| {
                pod["spec"]["nodeName"] = json!("n2");
                pod["status"]["conditions"] = conditions.clone();
            }
        };
        let leaving = |since: &'static str| {
            move |pod: &mut Value| {
                pod["spec"]["nodeName"] = json!("n2");
                pod["metadata"]["deletionTimestamp"] = json!(since);
            }
        };
        let since =
            json!([{"type": "Ready", "status": "False", "lastTransitionTime": "1970-01-01T00:09:00Z"}]);
        let cases: Vec<(AgentPod, Option<PodState>)> = vec![
            (pod(&on("n2")), Some(SERVES)),
            (pod(&conditions(since)), Some(fails(9))),
            (pod(&conditions(json!([]))), Some(fails(7))),
            (
                pod(&conditions(json!([{"type": "PodScheduled", "status": "False"}]))),
                Some(no_room(7)),
            ),
            (
                pod(&|pod| pod["metadata"]["ownerReferences"][0]["uid"] = json!("another")),
                None,
            ),
            (pod(&|pod| pod["metadata"]["ownerReferences"] = json!([])), None),
            (pod(&leaving("1970-01-01T00:56:00Z")), None),
            (pod(&leaving("1970-01-01T00:55:00Z")), Some(fails(55))),
        ];
        let set = |change: &dyn Fn(&mut Value)| -> DaemonSet {
            let mut set = json!({
                "metadata": {"uid": "u", "generation": 2},
                "status": {
                    "observedGeneration": 2, "desiredNumberScheduled": 2, "currentNumberScheduled": 2,
                    "updatedNumberScheduled": 2, "numberReady": 2, "numberMisscheduled": 0,
                },
            });
            change(&mut set);
            serde_json::from_value(set).unwrap()
        };
        for (other, state) in cases {
            let pods = [pod(&|_| ()), other];
            let fleet = Fleet::of(&set(&|_| ()), false, pods.iter(), at(NOW));
            let expected: Vec<PodState> = [Some(SERVES), state].into_iter().flatten().collect();
            assert_eq!(fleet.nodes.into_values().collect::<Vec<_>>(), expected);
            // A node without a pod of its own is one that the cache has not seen.
            assert_eq!(fleet.complete, state.is_some());
        }

        // A pod on a dead node is not waited for, but only after a while.
        for (since, expected) in [
            ("1970-01-01T00:55:00Z", (true, true, None)),
            (
                "1970-01-01T00:58:00Z",
                (false, false, Some(Duration::from_mins(3))),
            ),
        ] {
            let pods = [pod(&|_| ()), pod(&leaving(since))];
            let set = set(&|set| set["status"]["updatedNumberScheduled"] = json!(1));
            let fleet = Fleet::of(&set, false, pods.iter(), at(NOW));
            assert_eq!(
                (fleet.complete, fleet.updated, fleet.lost_in),
                expected,
                "{since}"
            );
        }

        let pods = [pod(&|_| ()), pod(&on("n2"))];
        let of = |change: &dyn Fn(&mut Value), outdated| {
            let fleet = Fleet::of(&set(change), outdated, pods.iter(), at(NOW));
            (fleet.complete, fleet.updated)
        };
        // Of ten pods one may be missing, of eleven two.
        for (desired, ready, stuck) in [(10, 10, false), (10, 9, true), (11, 10, false), (11, 9, true)] {
            let change = |set: &mut Value| {
                set["status"]["desiredNumberScheduled"] = json!(desired);
                set["status"]["numberReady"] = json!(ready);
            };
            let fleet = Fleet::of(&set(&change), false, pods.iter(), at(NOW));
            assert_eq!(fleet.is_stuck(), stuck, "{ready} of {desired}");
        }
        // By now, one of the pods is where it is not meant to be.
        let misscheduled = |set: &mut Value| {
            set["status"] = json!({
                "observedGeneration": 2, "desiredNumberScheduled": 1, "currentNumberScheduled": 1,
                "updatedNumberScheduled": 1, "numberReady": 1, "numberMisscheduled": 1,
            });
        };
        assert_eq!(of(&misscheduled, false), (true, true));
        assert_eq!(of(&|_| (), false), (true, true));
        assert!(!of(&|_| (), true).0);
        for (path, value, expected) in [
            ("/status/observedGeneration", json!(1), (false, true)),
            ("/status/observedGeneration", json!(null), (false, true)),
            ("/status/currentNumberScheduled", json!(1), (false, true)),
            ("/status/updatedNumberScheduled", json!(1), (true, false)),
            ("/status/numberReady", json!(1), (false, true)),
            ("/status/desiredNumberScheduled", json!(3), (false, true)),
            ("/status", json!(null), (false, true)),
            (
                "/metadata",
                json!({"uid": "u", "deletionTimestamp": "2026-01-01T00:00:00Z"}),
                (false, true),
            ),
        ] {
            let change = |set: &mut Value| *set.pointer_mut(path).unwrap() = value.clone();
            assert_eq!(of(&change, false), expected, "{path} {value}");
        }
    }
}
