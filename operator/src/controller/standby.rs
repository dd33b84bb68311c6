//! Agents are replaced without a gap also where Kubernetes takes the old one away first: others stand in meanwhile
//! (docs/adr/0005-stand-ins.md). Pure; what is done follows from the objects that are there, so the operator may stop at any
//! time, and what is asked for may change.
//!
//! Two rules, each to keep a node from being without:
//! - The agents are changed only while on each node with an agent that serves there is one that stands in.
//! - Those that stand in are changed or deleted only while on each node with one that serves there is an agent.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;

use super::pods::AgentPod;
#[cfg(doc)]
use super::validate::Update;

/// How long a pod waits for room on its node until a gap there is taken instead: for an autoscaler, or someone who reads the
/// status. What fails for another reason is not got over by waiting, and keeps the old agents where they are.
pub const PATIENCE: Duration = Duration::from_mins(5);

/// Whether pods of `set` have waited for someone to delete them: any other strategy replaces them, whatever their template.
#[must_use]
pub fn is_released(set: &DaemonSet) -> bool {
    let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
    let on_delete = strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete");
    let status = set.status.as_ref();
    on_delete
        && status.is_some_and(|status| {
            status.updated_number_scheduled.unwrap_or(0) < status.current_number_scheduled
        })
}

/// How the pod of a node is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum PodState {
    Serves,
    /// It starts, or fails: since then.
    Fails(Option<Timestamp>),
    /// Its node has no room for it: since then.
    NoRoom(Option<Timestamp>),
}

/// A `DaemonSet` with its pods.
#[derive(Clone, Debug)]
pub struct Fleet {
    /// Whether each node that is meant to have a pod has one, as far as both caches can tell.
    complete: bool,
    /// Whether no pod is about to be replaced.
    updated: bool,
    /// How many nodes are meant to have a pod.
    desired: usize,
    /// How many of those have one that is ready, as the `DaemonSet` says.
    ready: usize,
    /// By node. A pod that is leaving is none, and one that does not get to it fails: its node is dead.
    nodes: BTreeMap<String, PodState>,
    /// In so much time the first of those that are leaving fails.
    lost_in: Option<Duration>,
}

impl Fleet {
    /// Of `set`, which is `outdated` if there was a later write to it, and those of `pods` that are its own.
    #[must_use]
    pub fn of<'a>(
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
            // One takes over from another of the same DaemonSet, where it surges.
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
            // Of a node that is not meant to have a pod, the status does not say whether the one that is left is ready.
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

    /// Nothing changes by itself.
    fn is_settled(&self) -> bool {
        self.complete && self.updated
    }

    /// As many pods are missing as may be ([`Update::default_pace`]): Kubernetes replaces none that is ready.
    fn is_stuck(&self) -> bool {
        self.desired.saturating_sub(self.ready) * 10 >= self.desired
    }

    fn serves_nowhere(&self) -> bool {
        self.ready == 0 && !self.nodes.values().any(|state| *state == PodState::Serves)
    }

    /// Whether this fleet, if it stays as it is, leaves no node without that has one of `other`.
    fn covers(&self, other: &Self, now: Timestamp) -> Coverage {
        let coverage = |node| match self.nodes.get(node) {
            // Where it has no pod it is not meant to have any.
            None | Some(PodState::Serves) => Coverage::Whole,
            Some(PodState::NoRoom(since)) => match left(*since, now) {
                Duration::ZERO => Coverage::Whole,
                left => Coverage::Later(left),
            },
            Some(PodState::Fails(since)) => Coverage::Not(left(*since, now)),
        };
        other
            .nodes
            .iter()
            .filter(|(_, state)| **state == PodState::Serves)
            .map(|(node, _)| coverage(node))
            .fold(Coverage::Whole, Coverage::and)
    }

    /// In how much time the first pod has waited for long, of those that wait where one of `other` has room.
    fn kept_out_by(&self, other: &Self, now: Timestamp) -> Option<Duration> {
        let waits = self
            .nodes
            .iter()
            .filter_map(|(node, state)| match (state, other.nodes.get(node)) {
                (PodState::NoRoom(since), Some(PodState::Serves | PodState::Fails(_))) => {
                    Some(left(*since, now))
                }
                _ => None,
            });
        waits.min()
    }
}

/// Of the time that is waited from `since`.
fn left(since: Option<Timestamp>, now: Timestamp) -> Duration {
    let waited = since.and_then(|since| Duration::try_from(now.duration_since(since)).ok());
    PATIENCE.saturating_sub(waited.unwrap_or_default())
}

fn soonest<const N: usize>(times: [Option<Duration>; N]) -> Option<Duration> {
    times.into_iter().flatten().min()
}

/// Whether agents can be taken away.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Coverage {
    /// Yes.
    Whole,
    /// In so much time, if nothing changes: what is missing is only room.
    Later(Duration),
    /// No. In so much time the first of those that fail has done so for long.
    Not(Duration),
}

impl Coverage {
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Whole, coverage) | (coverage, Self::Whole) => coverage,
            (Self::Later(one), Self::Later(other)) => Self::Later(one.max(other)),
            (Self::Not(one), Self::Not(other)) => Self::Not(one.min(other)),
            (Self::Not(left), Self::Later(_)) | (Self::Later(_), Self::Not(left)) => Self::Not(left),
        }
    }
}

/// Whether the agents may be replaced.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Replace {
    /// Yes.
    Now,
    /// Not yet.
    Later {
        /// Whether to make sure that those that stand in are there, as they should be.
        bring: bool,
        /// When to look again, should nothing happen before.
        again: Option<Duration>,
    },
}

/// Decides whether the agents may be replaced: before their `DaemonSet` is written.
#[must_use]
pub fn may_replace(agents: &Fleet, standby: Option<&Fleet>, now: Timestamp) -> Replace {
    if agents.serves_nowhere() {
        return Replace::Now;
    }
    let Some(standby) = standby else {
        return Replace::Later {
            bring: true,
            again: None,
        };
    };
    let coverage = standby.covers(agents, now);
    if coverage == Coverage::Whole && standby.is_settled() {
        return Replace::Now;
    }
    // What is asked for now may be a cure for those that stand in. Should both fail, on different nodes, and go on to, there is
    // no way without a gap.
    let free = agents.is_settled() && agents.covers(standby, now) == Coverage::Whole;
    let (bring, again) = match coverage {
        Coverage::Whole => (free, None),
        Coverage::Later(left) => (free, Some(left)),
        Coverage::Not(left) if free || left.is_zero() => (true, None),
        Coverage::Not(left) => (false, Some(left)),
    };
    Replace::Later {
        bring,
        again: soonest([again, agents.lost_in, standby.lost_in]),
    }
}

/// Whether those that stand in may leave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Leave {
    /// Yes.
    Now,
    /// Not yet. Look again then, should nothing happen before.
    Later(Option<Duration>),
}

/// Decides whether those that stand in may leave: after the agents' `DaemonSet` was written. `wanted` is whether agents are to
/// be replaced in this way.
#[must_use]
pub fn may_leave(wanted: bool, agents: &Fleet, standby: &Fleet, now: Timestamp) -> Leave {
    let (done, again) = match agents.covers(standby, now) {
        Coverage::Whole if !agents.complete => (false, None),
        Coverage::Whole if agents.updated || !wanted => (true, None),
        // Where a node has room for one, they may have got it, and the rollout gets no further.
        Coverage::Whole => match agents.kept_out_by(standby, now) {
            Some(Duration::ZERO) => (agents.is_stuck(), None),
            left => (false, left),
        },
        Coverage::Later(left) => (false, Some(left)),
        Coverage::Not(_) => (false, None),
    };
    if done {
        Leave::Now
    } else {
        Leave::Later(soonest([again, agents.lost_in]))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_second(minute * 60).unwrap()
    }

    const NOW: i64 = 60;

    /// A fleet that is settled: how it is on nodes 1, 2, ….
    fn fleet(presences: &[PodState]) -> Fleet {
        let nodes = presences.iter().enumerate();
        Fleet {
            complete: true,
            updated: true,
            desired: presences.len(),
            ready: presences.iter().filter(|state| **state == SERVES).count(),
            nodes: nodes
                .map(|(node, state)| (format!("n{}", node + 1), *state))
                .collect(),
            lost_in: None,
        }
    }

    const SERVES: PodState = PodState::Serves;

    fn fails(minute: i64) -> PodState {
        PodState::Fails(Some(at(minute)))
    }

    fn no_room(minute: i64) -> PodState {
        PodState::NoRoom(Some(at(minute)))
    }

    fn hold(bring: bool, minutes: Option<u64>) -> Replace {
        let again = minutes.map(Duration::from_mins);
        Replace::Later { bring, again }
    }

    fn keep(minutes: Option<u64>) -> Leave {
        Leave::Later(minutes.map(Duration::from_mins))
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "it is one table")]
    fn agents_are_replaced_when_somebody_stands_in_on_each_node_that_is_served() {
        let (served, starting) = (fleet(&[SERVES, SERVES]), fails(NOW));
        let unsettled = |complete| Fleet {
            complete,
            updated: false,
            ..served.clone()
        };
        let moved = Fleet {
            nodes: [("elsewhere".to_owned(), SERVES)].into(),
            ..served.clone()
        };
        let (bring, write) = (hold(true, None), Replace::Now);
        let cases: Vec<(&str, Fleet, Option<Fleet>, Replace)> = vec![
            ("nobody stands in", served.clone(), None, bring),
            (
                "there is nothing to lose",
                fleet(&[starting, starting]),
                None,
                write,
            ),
            (
                "a pod is ready that was not seen yet",
                Fleet {
                    ready: 1,
                    ..fleet(&[starting, starting])
                },
                None,
                bring,
            ),
            (
                "they are not there yet",
                served.clone(),
                Some(Fleet {
                    complete: false,
                    ..fleet(&[])
                }),
                bring,
            ),
            (
                "one of them starts",
                served.clone(),
                Some(fleet(&[SERVES, starting])),
                bring,
            ),
            (
                "they are being changed",
                served.clone(),
                Some(unsettled(true)),
                bring,
            ),
            ("it is not sure", served.clone(), Some(unsettled(false)), bring),
            (
                "all are ready",
                served.clone(),
                Some(fleet(&[SERVES, SERVES])),
                write,
            ),
            (
                "no agent there",
                fleet(&[SERVES, starting]),
                Some(fleet(&[SERVES, starting])),
                write,
            ),
            ("the nodes are others", served.clone(), Some(moved), write),
            (
                "not meant to be there",
                served.clone(),
                Some(fleet(&[SERVES])),
                write,
            ),
            // Room may come; a failure does not go away by itself.
            (
                "no room",
                served.clone(),
                Some(fleet(&[SERVES, no_room(58)])),
                hold(true, Some(3)),
            ),
            (
                "no room for long",
                served.clone(),
                Some(fleet(&[SERVES, no_room(55)])),
                write,
            ),
            (
                "the image is bad",
                served.clone(),
                Some(fleet(&[fails(1), no_room(1)])),
                bring,
            ),
            // The agents are being replaced, and another spec comes.
            (
                "who serves alone is left alone",
                fleet(&[SERVES, starting]),
                Some(fleet(&[starting, SERVES])),
                hold(false, Some(5)),
            ),
            (
                "unless it has no end",
                fleet(&[SERVES, starting]),
                Some(fleet(&[fails(1), SERVES])),
                hold(true, None),
            ),
            (
                "the agents are about to go",
                unsettled(true),
                Some(fleet(&[SERVES, starting])),
                hold(false, Some(5)),
            ),
            (
                "one of them is leaving",
                served.clone(),
                Some(Fleet {
                    lost_in: Some(Duration::from_mins(2)),
                    ..unsettled(false)
                }),
                hold(true, Some(2)),
            ),
        ];
        for (what, agents, standby, expected) in cases {
            let planned = may_replace(&agents, standby.as_ref(), at(NOW));
            assert_eq!(planned, expected, "{what}");
        }
    }

    #[test]
    fn who_stands_in_goes_when_an_agent_is_ready_wherever_they_are() {
        let (served, starting) = (fleet(&[SERVES, SERVES]), fails(NOW));
        let incomplete = |lost_in| Fleet {
            complete: false,
            lost_in,
            ..served.clone()
        };
        let replacing = |presences: &[PodState]| Fleet {
            updated: false,
            ..fleet(presences)
        };
        let go = Leave::Now;
        // With the agents; whether they are still replaced in this way, or in another one by now.
        let cases = [
            ("all are ready", served.clone(), go, go),
            ("it is not sure", incomplete(None), keep(None), keep(None)),
            (
                "one is leaving",
                incomplete(Some(Duration::from_mins(2))),
                keep(Some(2)),
                keep(Some(2)),
            ),
            ("some are of before", replacing(&[SERVES, SERVES]), keep(None), go),
            ("one starts", fleet(&[SERVES, starting]), keep(None), keep(None)),
            ("one fails", fleet(&[SERVES, fails(1)]), keep(None), keep(None)),
            (
                "they take its room",
                replacing(&[SERVES, no_room(56)]),
                keep(Some(1)),
                keep(Some(1)),
            ),
            ("they took its room", replacing(&[SERVES, no_room(55)]), go, go),
            (
                "they took its room, but others are replaced",
                Fleet {
                    desired: 11,
                    ready: 10,
                    ..replacing(&[SERVES, no_room(55)])
                },
                keep(None),
                go,
            ),
            (
                "they took its room, and one fails",
                replacing(&[fails(1), no_room(1)]),
                keep(None),
                keep(None),
            ),
            ("it is to be elsewhere", fleet(&[SERVES]), go, go),
        ];
        for (what, agents, in_this_way, otherwise) in cases {
            for (wanted, expected) in [(true, in_this_way), (false, otherwise)] {
                let planned = may_leave(wanted, &agents, &served, at(NOW));
                assert_eq!(planned, expected, "{what}, {wanted}");
            }
        }

        // Who took the room need not be of use there; where it has none itself, it is not to blame.
        for (standby, since, expected) in [
            (fails(1), 55, go),
            (fails(1), 56, keep(Some(1))),
            (no_room(1), 1, keep(None)),
        ] {
            let agents = replacing(&[SERVES, no_room(since)]);
            let planned = may_leave(true, &agents, &fleet(&[SERVES, standby]), at(NOW));
            assert_eq!(planned, expected, "{standby:?}");
        }
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "it is one story")]
    fn a_team_is_its_own_pods_and_complete_when_both_caches_agree() {
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

        // One on a dead node is not waited for, but not at once.
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
        // One of them where it is not meant to be, by now.
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

    /// A cluster of some nodes, and a controller that does with `DaemonSets` what that of Kubernetes does, in any order.
    struct Model {
        spec: u8,
        /// For how many pods each node has room.
        room: [usize; NODES],
        agents: Set,
        standby: Option<Set>,
        /// Whether what fails has failed for long.
        late: bool,
        random: u64,
    }

    #[derive(Default)]
    struct Set {
        template: u8,
        observed: bool,
        /// By node.
        pods: Vec<Option<ModelPod>>,
    }

    #[derive(Clone, Copy)]
    struct ModelPod {
        template: u8,
        placed: bool,
        ready: bool,
        leaving: bool,
    }

    const NODES: usize = 3;

    /// No agent of it is ever ready.
    fn is_bad(template: u8) -> bool {
        template % 3 == 2
    }

    impl Set {
        fn of(template: u8) -> Self {
            Self {
                template,
                observed: false,
                pods: vec![None; NODES],
            }
        }

        fn serves(&self, node: usize) -> bool {
            self.pods[node].is_some_and(|pod| pod.ready && !pod.leaving)
        }

        fn takes_room(&self, node: usize) -> bool {
            self.pods[node].is_some_and(|pod| pod.placed)
        }

        /// As `Fleet::of`.
        fn fleet(&self, late: bool) -> Fleet {
            let since = if late { 0 } else { NOW };
            let here = |pod: &Option<ModelPod>| pod.filter(|pod| !pod.leaving);
            let pods = || self.pods.iter().enumerate();
            Fleet {
                complete: self.observed && pods().all(|(_, pod)| here(pod).is_some()),
                updated: pods().all(|(_, pod)| pod.is_none_or(|pod| pod.template == self.template)),
                desired: NODES,
                ready: (0..NODES).filter(|node| self.serves(*node)).count(),
                nodes: pods()
                    .filter_map(|(node, pod)| {
                        let state = match here(pod)? {
                            ModelPod { ready: true, .. } => SERVES,
                            ModelPod { placed: true, .. } => fails(since),
                            _ => no_room(since),
                        };
                        Some((node.to_string(), state))
                    })
                    .collect(),
                lost_in: None,
            }
        }

        /// What the controller of `DaemonSets` does with one node.
        fn control(&mut self, node: usize, max_unavailable: usize) {
            self.observed = true;
            let unavailable = (0..NODES).filter(|node| !self.serves(*node)).count();
            let template = self.template;
            match &mut self.pods[node] {
                empty @ None => {
                    *empty = Some(ModelPod {
                        template,
                        placed: false,
                        ready: false,
                        leaving: false,
                    });
                }
                Some(pod) if pod.template != template && (!pod.ready || unavailable < max_unavailable) => {
                    pod.leaving = true;
                }
                Some(_) => {}
            }
        }

        /// What scheduler and kubelet do.
        fn run(&mut self, node: usize, has_room: bool) {
            match &mut self.pods[node] {
                Some(pod) if pod.leaving => self.pods[node] = None,
                Some(pod) if pod.placed => pod.ready = !is_bad(pod.template),
                Some(pod) => pod.placed = has_room,
                None => {}
            }
        }
    }

    impl Model {
        fn draw(&mut self, below: usize) -> usize {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            usize::try_from(self.random >> 33).unwrap() % below
        }

        fn serves(&self, node: usize) -> bool {
            self.agents.serves(node) || self.standby.as_ref().is_some_and(|set| set.serves(node))
        }

        fn operate(&mut self) {
            let agents = self.agents.fleet(self.late);
            let standby = self.standby.as_ref().map(|set| set.fleet(self.late));
            if self.agents.template == self.spec {
                if let Some(standby) = standby
                    && may_leave(true, &agents, &standby, at(NOW)) == Leave::Now
                {
                    self.standby = None;
                }
                return;
            }
            match may_replace(&agents, standby.as_ref(), at(NOW)) {
                Replace::Now => (self.agents.template, self.agents.observed) = (self.spec, false),
                // As they are not the same, others come instead.
                Replace::Later { bring: true, .. }
                    if self.standby.as_ref().map(|set| set.template) != Some(self.spec) =>
                {
                    self.standby = Some(Set::of(self.spec));
                }
                Replace::Later { .. } => {}
            }
        }

        fn step(&mut self) {
            let node = self.draw(NODES);
            let sets = [Some(&self.agents), self.standby.as_ref()].into_iter().flatten();
            let has_room = sets.filter(|set| set.takes_room(node)).count() < self.room[node];
            match self.draw(5) {
                0 => self.operate(),
                1 => self.agents.control(node, 1),
                2 => self.agents.run(node, has_room),
                3 => self.standby.iter_mut().for_each(|set| set.control(node, 1)),
                _ => self.standby.iter_mut().for_each(|set| set.run(node, has_room)),
            }
        }

        fn is_done(&self) -> bool {
            let agents = &self.agents;
            self.standby.is_none()
                && agents.template == self.spec
                && (0..NODES).all(|node| {
                    agents.serves(node) && agents.pods[node].is_some_and(|pod| pod.template == self.spec)
                })
        }
    }

    /// Specs come and go at any time, also such whose agents fail, and some nodes have room for one pod only: until somebody
    /// has waited for long, no node that is served is ever without, and a good spec that stays is everywhere in the end.
    #[test]
    fn no_order_of_events_leaves_a_node_without_or_hangs() {
        for seed in 1..=2000 {
            let mut agents = Set::of(0);
            for node in 0..NODES {
                agents.control(node, 1);
                agents.run(node, true);
                agents.run(node, true);
            }
            let mut model = Model {
                spec: 0,
                room: [2; NODES],
                agents,
                standby: None,
                late: false,
                random: seed,
            };
            if seed % 2 == 0 {
                model.room = [(); NODES].map(|()| 1 + model.draw(2));
            }
            for step in 0..400 {
                if model.draw(40) == 0 {
                    model.spec = u8::try_from(model.draw(6)).unwrap();
                }
                model.step();
                assert!(
                    (0..NODES).all(|node| model.serves(node)),
                    "seed {seed}, step {step}"
                );
            }
            model.spec = 3 * u8::try_from(model.draw(2)).unwrap();
            let mut steps = 0;
            while !model.is_done() {
                // What helps in the end is that time passes.
                model.late = steps > 2000;
                model.step();
                steps += 1;
                assert!(steps < 10_000, "seed {seed}");
            }
        }
    }
}
