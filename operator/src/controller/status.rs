//! From what was seen to the status: counts, and conditions that a person can act on. Pure.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::claims::Conflict;
use super::pods::{self, AgentPod};
use super::validate;
use crate::api::v1alpha1::{HookCount, HttpStatisticsStatus, NodeCounts, UnavailableNode};

/// Most nodes that a status lists.
const MAX_LISTED: usize = 10;
/// Most nodes that a message names.
const MAX_NAMED: usize = 3;

/// What came of the last attempt to bring the cluster to what the resource says.
#[derive(Debug)]
pub enum Outcome<'a> {
    /// The objects are there.
    Applied {
        /// Whether a pod is replaced only when someone deletes it.
        on_delete: bool,
        /// Nodes that an older resource has.
        conflict: &'a Conflict,
        /// Who stands in while agents are replaced.
        stand_ins: &'a StandIns,
    },
    /// Nothing was changed: the resource cannot be used.
    Invalid(&'a validate::Error),
    /// Not everything could be written. The message says what, why and what to do.
    Failed(&'a str),
}

/// Whether there are agents that stand in for others.
#[derive(Clone, Debug, PartialEq)]
pub enum StandIns {
    /// There are none.
    None,
    /// They are on their way, and the others are those of before until they are there.
    Coming {
        /// Nodes that are meant to have one.
        desired: usize,
        /// Nodes that have one that is ready.
        ready: usize,
        /// Nodes where it fails, by name.
        failures: Vec<UnavailableNode>,
    },
    /// They are there: while the others are replaced, and until they have gone.
    There,
}

impl StandIns {
    /// Of their `DaemonSet`, and the pods of all agents.
    #[must_use]
    pub fn coming<'a>(set: Option<&DaemonSet>, pods: impl Iterator<Item = &'a AgentPod>) -> Self {
        let counts = set.map(counts).unwrap_or_default();
        let count = |number: i32| usize::try_from(number).unwrap_or(0);
        Self::Coming {
            desired: count(counts.desired),
            ready: count(counts.ready),
            failures: pods::failures(pods.filter(|pod| pod.stands_in())),
        }
    }
}

impl Outcome<'_> {
    fn stand_ins(&self) -> Option<&StandIns> {
        match self {
            Self::Applied { stand_ins, .. } => Some(stand_ins),
            Self::Invalid(_) | Self::Failed(_) => None,
        }
    }
}

/// What the status is made of.
#[derive(Debug)]
pub struct Seen<'a> {
    /// Of the spec that was looked at.
    pub generation: Option<i64>,
    /// What came of it.
    pub outcome: Outcome<'a>,
    /// The agents, if there are any.
    pub daemon_set: Option<&'a DaemonSet>,
    /// Whether the `DaemonSet` that is in the cache may be older than the last write to it.
    pub daemon_set_outdated: bool,
    /// Nodes whose agent does not work, by name.
    pub failures: &'a [UnavailableNode],
    /// How many agents use each hook.
    pub hooks: &'a [HookCount],
}

/// The three conditions, before they are dated.
struct Verdict {
    status: bool,
    reason: &'static str,
    message: String,
}

impl Verdict {
    fn new(status: bool, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            reason,
            message: message.into(),
        }
    }
}

/// The status that `seen` calls for, after `previous`. Conditions that stay as they were keep their date.
#[must_use]
pub fn status(previous: &HttpStatisticsStatus, seen: &Seen<'_>, now: Timestamp) -> HttpStatisticsStatus {
    let mut nodes = seen.daemon_set.map(counts);
    if let (Some(nodes), Some(StandIns::Coming { .. })) = (&mut nodes, seen.outcome.stand_ins()) {
        // They are of the spec of before.
        nodes.updated = 0;
    }
    let rollout = Rollout::of(previous, seen, nodes);
    let ready = ready(seen, nodes.unwrap_or_default(), rollout);
    let progressing = progressing(seen, nodes.unwrap_or_default(), rollout);
    let degraded = degraded(seen);
    let conditions = [
        ("Ready", ready),
        ("Progressing", progressing),
        ("Degraded", degraded),
    ]
    .map(|(kind, verdict)| dated(previous, kind, verdict, seen.generation, now));
    HttpStatisticsStatus {
        observed_generation: seen.generation,
        nodes,
        hook: describe_hooks(seen.hooks),
        hooks: seen.hooks.to_vec(),
        unavailable_nodes: seen.failures.iter().take(MAX_LISTED).cloned().collect(),
        conditions: conditions.into(),
    }
}

fn counts(daemon_set: &DaemonSet) -> NodeCounts {
    let Some(status) = &daemon_set.status else {
        return NodeCounts::default();
    };
    let desired = status.desired_number_scheduled.max(0);
    let ready = status.number_ready.clamp(0, desired);
    NodeCounts {
        desired,
        updated: status.updated_number_scheduled.unwrap_or(0).clamp(0, desired),
        ready,
        unavailable: desired - ready,
    }
}

/// `Fentry`, or `Fentry 12, Tracepoint 3`.
fn describe_hooks(hooks: &[HookCount]) -> Option<String> {
    match hooks {
        [] => None,
        [HookCount { hook, .. }] => Some(format!("{hook:?}")),
        several => Some(
            several
                .iter()
                .map(|HookCount { hook, nodes }| format!("{hook:?} {nodes}"))
                .collect::<Vec<_>>()
                .join(", "),
        ),
    }
}

/// How far a change has come.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Rollout {
    /// On its way.
    UnderWay,
    /// On its way when someone deletes the pods.
    Waiting,
    /// Everywhere.
    Done,
}

impl Rollout {
    fn of(previous: &HttpStatisticsStatus, seen: &Seen<'_>, nodes: Option<NodeCounts>) -> Self {
        let (Some(daemon_set), Some(nodes)) = (seen.daemon_set, nodes) else {
            return Self::UnderWay;
        };
        if let Some(StandIns::Coming { .. }) = seen.outcome.stand_ins() {
            return Self::UnderWay;
        }
        let status = daemon_set.status.as_ref();
        let observed = !seen.daemon_set_outdated
            && status.and_then(|status| status.observed_generation) >= daemon_set.metadata.generation;
        if !observed {
            return Self::UnderWay;
        }
        let scheduled = status.map_or(0, |status| status.current_number_scheduled);
        let updated = status
            .and_then(|status| status.updated_number_scheduled)
            .unwrap_or(0);
        if updated < scheduled {
            return match seen.outcome {
                Outcome::Applied { on_delete: true, .. } => Self::Waiting,
                _ => Self::UnderWay,
            };
        }
        // A node that joins or restarts afterwards is no change that is being rolled out.
        let was_done =
            condition(previous, "Progressing").is_some_and(|condition| condition.status == "False");
        if let Some(StandIns::There) = seen.outcome.stand_ins() {
            return Self::UnderWay;
        }
        let failing = i32::try_from(seen.failures.len()).unwrap_or(i32::MAX);
        if was_done || nodes.ready.saturating_add(failing) >= nodes.desired {
            Self::Done
        } else {
            Self::UnderWay
        }
    }
}

fn ready(seen: &Seen<'_>, nodes: NodeCounts, rollout: Rollout) -> Verdict {
    let NodeCounts {
        desired,
        updated: _,
        ready: _,
        unavailable,
    } = nodes;
    match &seen.outcome {
        Outcome::Invalid(error) => Verdict::new(false, "InvalidSpec", error.to_string()),
        Outcome::Failed(message) => Verdict::new(false, "ApplyFailed", *message),
        Outcome::Applied { conflict, .. } if !conflict.is_empty() => {
            Verdict::new(false, "Conflict", describe_conflict(conflict))
        }
        Outcome::Applied { stand_ins, .. } if rollout == Rollout::UnderWay => {
            Verdict::new(false, "RollingOut", describe_rollout(nodes, stand_ins))
        }
        Outcome::Applied { .. } if unavailable > 0 => Verdict::new(
            false,
            "AgentsUnavailable",
            format!("{unavailable} of {desired} nodes have no working agent"),
        ),
        Outcome::Applied { .. } if desired == 0 => Verdict::new(
            true,
            "NoNodes",
            "no node is selected: compare spec.nodeSelector and spec.tolerations with the nodes",
        ),
        Outcome::Applied { .. } => Verdict::new(
            true,
            "AgentsReady",
            format!("all {desired} selected nodes run a working agent"),
        ),
    }
}

fn progressing(seen: &Seen<'_>, nodes: NodeCounts, rollout: Rollout) -> Verdict {
    match &seen.outcome {
        Outcome::Invalid(_) => Verdict::new(
            false,
            "InvalidSpec",
            "nothing is rolled out until the spec is corrected; agents that run stay as they are",
        ),
        Outcome::Failed(_) => Verdict::new(true, "ApplyFailed", "trying again"),
        Outcome::Applied { stand_ins, .. } => match rollout {
            Rollout::UnderWay => Verdict::new(true, "RollingOut", describe_rollout(nodes, stand_ins)),
            Rollout::Waiting => Verdict::new(
                false,
                "WaitingForDeletion",
                "some agents are not of the current spec, and spec.updateStrategy.type is OnDelete: delete their pods",
            ),
            Rollout::Done => Verdict::new(false, "RolledOut", "every agent is of the current spec"),
        },
    }
}

fn degraded(seen: &Seen<'_>) -> Verdict {
    match &seen.outcome {
        Outcome::Invalid(error) => Verdict::new(true, "InvalidSpec", error.to_string()),
        Outcome::Failed(message) => Verdict::new(true, "ApplyFailed", *message),
        Outcome::Applied { conflict, .. } if !conflict.is_empty() => {
            Verdict::new(true, "Conflict", describe_conflict(conflict))
        }
        Outcome::Applied { .. } if !seen.failures.is_empty() => {
            Verdict::new(true, "AgentsFailing", describe_failures(seen.failures))
        }
        Outcome::Applied { .. } => Verdict::new(false, "AsExpected", "nothing needs attention"),
    }
}

/// `1 node`, `2 nodes`.
fn count_nodes(count: usize) -> String {
    format!("{count} {}", if count == 1 { "node" } else { "nodes" })
}

fn and_more(named: &[String], all: usize, separator: &str) -> String {
    let text = named.join(separator);
    match all - named.len() {
        0 => text,
        more => format!("{text}{separator}and {more} more"),
    }
}

fn describe_rollout(nodes: NodeCounts, stand_ins: &StandIns) -> String {
    let NodeCounts {
        desired,
        updated,
        ready,
        unavailable: _,
    } = nodes;
    match stand_ins {
        StandIns::Coming { desired: 0, .. } => {
            "new agents are about to start beside the old ones, which stay until those stand by".to_owned()
        }
        StandIns::Coming {
            desired,
            ready,
            failures,
        } => {
            let mut text = format!(
                "the new agent stands by on {ready} of {}; the old ones stay until it does on all",
                count_nodes(*desired)
            );
            if !failures.is_empty() {
                text.push_str("; ");
                text.push_str(&describe_failures(failures));
                text.push_str(": correct the spec, take it back, or make room");
            }
            text
        }
        StandIns::There if updated >= desired && ready >= desired => {
            "every agent is of the current spec; those that stood in are leaving".to_owned()
        }
        StandIns::None | StandIns::There if desired == 0 => {
            "Kubernetes has not taken up the change yet".to_owned()
        }
        StandIns::None => format!("{updated} of {desired} nodes have the current agent, {ready} are ready"),
        StandIns::There => format!(
            "{updated} of {desired} nodes have the current agent, {ready} are ready; another one stands in on the others"
        ),
    }
}

fn describe_conflict(conflict: &Conflict) -> String {
    let Conflict { older, nodes } = conflict;
    let named = &nodes[..nodes.len().min(MAX_NAMED)];
    format!(
        "{} selected here run the agent of the older {} {}: {}; narrow a nodeSelector, or delete one of the resources",
        count_nodes(nodes.len()),
        if older.len() == 1 {
            "HttpStatistics"
        } else {
            "HttpStatistics resources"
        },
        and_more(&older[..older.len().min(MAX_NAMED)], older.len(), ", "),
        and_more(named, nodes.len(), ", "),
    )
}

fn describe_failures(failures: &[UnavailableNode]) -> String {
    let named: Vec<String> = failures
        .iter()
        .take(MAX_NAMED)
        .map(|UnavailableNode { node, message }| format!("{node}: {message}"))
        .collect();
    format!(
        "{} whose agent fails: {}",
        count_nodes(failures.len()),
        and_more(&named, failures.len(), "; ")
    )
}

/// The condition `kind` of a status.
#[must_use]
pub fn condition<'a>(status: &'a HttpStatisticsStatus, kind: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|condition| condition.type_ == kind)
}

fn dated(
    previous: &HttpStatisticsStatus,
    kind: &str,
    verdict: Verdict,
    generation: Option<i64>,
    now: Timestamp,
) -> Condition {
    let Verdict {
        status,
        reason,
        message,
    } = verdict;
    let status = if status { "True" } else { "False" };
    let since = condition(previous, kind)
        .filter(|before| before.status == status)
        .map(|before| before.last_transition_time.clone());
    Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: generation,
        last_transition_time: since.unwrap_or_else(|| Time(now.round(jiff::Unit::Second).unwrap_or(now))),
    }
}

/// Whether only numbers differ, those that each node of a rollout changes: such a status need not be written at once.
#[must_use]
pub fn differs_in_numbers_only(one: &HttpStatisticsStatus, other: &HttpStatisticsStatus) -> bool {
    let gist = |status: &HttpStatisticsStatus| {
        let conditions = status.conditions.iter();
        (
            status.observed_generation,
            conditions
                .map(|condition| {
                    (
                        condition.type_.clone(),
                        condition.status.clone(),
                        condition.reason.clone(),
                    )
                })
                .collect::<Vec<_>>(),
        )
    };
    gist(one) == gist(other)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::v1alpha1::AttachMode;
    use crate::controller::events::transitions;

    fn daemon_set(generation: i64, observed: i64, numbers: [i32; 4]) -> DaemonSet {
        let [desired, scheduled, updated, ready] = numbers;
        serde_json::from_value(json!({
            "metadata": {"generation": generation},
            "status": {
                "observedGeneration": observed, "desiredNumberScheduled": desired, "numberMisscheduled": 0,
                "currentNumberScheduled": scheduled, "updatedNumberScheduled": updated, "numberReady": ready,
            },
        }))
        .unwrap()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// `Type=Status/Reason` of each condition.
    fn conditions(status: &HttpStatisticsStatus) -> Vec<String> {
        status
            .conditions
            .iter()
            .map(|condition| format!("{}={}/{}", condition.type_, condition.status, condition.reason))
            .collect()
    }

    /// The story of a resource: each step with what is seen and the conditions and Events that it must bring.
    #[test]
    #[expect(clippy::too_many_lines, reason = "it is one table")]
    fn a_rollout_is_told_from_its_beginning_to_its_end_and_not_more() {
        let no_contest = Conflict::default();
        let conflict = Conflict {
            older: vec!["older".to_owned()],
            nodes: ["n1", "n2", "n3", "n4"].map(str::to_owned).into(),
        };
        let failure = [UnavailableNode {
            node: "n2".to_owned(),
            message: "no BTF".to_owned(),
        }];
        let invalid = validate::Error::Image(String::new());
        let applied = |conflict| Outcome::Applied {
            on_delete: false,
            conflict,
            stand_ins: &StandIns::None,
        };
        let on_delete = Outcome::Applied {
            on_delete: true,
            conflict: &no_contest,
            stand_ins: &StandIns::None,
        };
        let none: &[UnavailableNode] = &[];
        let rolling = "Ready=False/RollingOut Progressing=True/RollingOut Degraded=False/AsExpected";
        let done = "Ready=True/AgentsReady Progressing=False/RolledOut Degraded=False/AsExpected";
        let steps = [
            // Not yet taken up, then node by node.
            (
                applied(&no_contest),
                (1, 0, [0, 0, 0, 0]),
                none,
                rolling,
                "RollingOut",
            ),
            (applied(&no_contest), (1, 1, [3, 1, 1, 0]), none, rolling, ""),
            (applied(&no_contest), (1, 1, [3, 3, 3, 2]), none, rolling, ""),
            (
                applied(&no_contest),
                (1, 1, [3, 3, 3, 3]),
                none,
                done,
                "RolledOut",
            ),
            // A node joins, one restarts: no change is being rolled out.
            (
                applied(&no_contest),
                (1, 1, [4, 3, 3, 3]),
                none,
                "Ready=False/AgentsUnavailable Progressing=False/RolledOut Degraded=False/AsExpected",
                "",
            ),
            (applied(&no_contest), (1, 1, [3, 3, 3, 3]), none, done, ""),
            // A new spec, and an agent that fails with it: the rollout ends all the same.
            (
                applied(&no_contest),
                (2, 2, [3, 3, 1, 2]),
                none,
                rolling,
                "RollingOut",
            ),
            (
                applied(&no_contest),
                (2, 2, [3, 3, 3, 2]),
                &failure,
                "Ready=False/AgentsUnavailable Progressing=False/RolledOut Degraded=True/AgentsFailing",
                "!AgentsFailing RolledOut",
            ),
            (
                Outcome::Invalid(&invalid),
                (2, 2, [3, 3, 3, 2]),
                &failure,
                "Ready=False/InvalidSpec Progressing=False/InvalidSpec Degraded=True/InvalidSpec",
                "!InvalidSpec",
            ),
            (
                Outcome::Failed("failed to apply DaemonSet x: no"),
                (2, 2, [3, 3, 3, 3]),
                none,
                "Ready=False/ApplyFailed Progressing=True/ApplyFailed Degraded=True/ApplyFailed",
                "!ApplyFailed",
            ),
            (
                applied(&no_contest),
                (2, 2, [3, 3, 3, 3]),
                none,
                done,
                "Recovered RolledOut",
            ),
            (
                applied(&conflict),
                (2, 2, [1, 1, 1, 1]),
                none,
                "Ready=False/Conflict Progressing=False/RolledOut Degraded=True/Conflict",
                "!Conflict",
            ),
            (
                applied(&no_contest),
                (2, 2, [0, 0, 0, 0]),
                none,
                "Ready=True/NoNodes Progressing=False/RolledOut Degraded=False/AsExpected",
                "Recovered",
            ),
            (
                on_delete,
                (3, 3, [3, 3, 1, 3]),
                none,
                "Ready=True/AgentsReady Progressing=False/WaitingForDeletion Degraded=False/AsExpected",
                "WaitingForDeletion",
            ),
        ];
        let mut previous = HttpStatisticsStatus::default();
        for (number, (outcome, (generation, observed, numbers), failures, expected, events)) in
            steps.into_iter().enumerate()
        {
            let daemon_set = daemon_set(generation, observed, numbers);
            let next = status(
                &previous,
                &Seen {
                    generation: Some(7),
                    outcome,
                    daemon_set: Some(&daemon_set),
                    daemon_set_outdated: false,
                    failures,
                    hooks: &[],
                },
                at(i64::try_from(number).unwrap()),
            );
            assert_eq!(conditions(&next).join(" "), expected, "step {number}");
            let told: Vec<String> = transitions(&previous, &next)
                .iter()
                .map(|event| format!("{}{}", if event.warning { "!" } else { "" }, event.reason))
                .collect();
            assert_eq!(told.join(" "), events, "step {number}");
            assert!(transitions(&next, &next).is_empty());
            previous = next;
        }
    }

    /// While others stand in, the counts of the agents are those of before, or do not tell the whole.
    #[test]
    fn a_rollout_is_under_way_as_long_as_somebody_stands_in() {
        let conflict = Conflict::default();
        let failures = [UnavailableNode {
            node: "n2".to_owned(),
            message: "ImagePullBackOff: no such image".to_owned(),
        }];
        let coming = |desired, ready, failures: &[UnavailableNode]| StandIns::Coming {
            desired,
            ready,
            failures: failures.into(),
        };
        let done = daemon_set(1, 1, [3, 3, 3, 3]);
        let halfway = daemon_set(1, 1, [3, 3, 1, 2]);
        let cases = [
            (
                &done,
                coming(0, 0, &[]),
                Some("new agents are about to start beside the old ones, which stay until those stand by"),
            ),
            (
                &done,
                coming(3, 2, &[]),
                Some("the new agent stands by on 2 of 3 nodes; the old ones stay until it does on all"),
            ),
            (
                &done,
                coming(3, 2, &failures),
                Some(
                    "the new agent stands by on 2 of 3 nodes; the old ones stay until it does on all; 1 node whose agent \
                     fails: n2: ImagePullBackOff: no such image: correct the spec, take it back, or make room",
                ),
            ),
            (
                &halfway,
                StandIns::There,
                Some("1 of 3 nodes have the current agent, 2 are ready; another one stands in on the others"),
            ),
            (
                &done,
                StandIns::There,
                Some("every agent is of the current spec; those that stood in are leaving"),
            ),
            (&done, StandIns::None, None),
        ];
        let mut previous = HttpStatisticsStatus::default();
        for (daemon_set, stand_ins, message) in cases {
            let next = status(
                &previous,
                &Seen {
                    generation: Some(2),
                    outcome: Outcome::Applied {
                        on_delete: false,
                        conflict: &conflict,
                        stand_ins: &stand_ins,
                    },
                    daemon_set: Some(daemon_set),
                    daemon_set_outdated: false,
                    failures: &[],
                    hooks: &[],
                },
                at(0),
            );
            let expected = match message {
                Some(_) => ["Ready=False/RollingOut", "Progressing=True/RollingOut"],
                None => ["Ready=True/AgentsReady", "Progressing=False/RolledOut"],
            };
            assert_eq!(conditions(&next)[..2], expected, "{stand_ins:?}");
            if let Some(message) = message {
                assert_eq!(next.conditions[1].message, message);
            }
            let is_of_before = matches!(stand_ins, StandIns::Coming { .. });
            let updated = next.nodes.unwrap_or_default().updated;
            assert_eq!(updated == 0, is_of_before, "{stand_ins:?}");
            previous = next;
        }
    }

    #[test]
    fn a_condition_is_dated_when_its_status_changes_and_only_then() {
        let conflict = Conflict::default();
        let daemon_set = daemon_set(1, 1, [1, 1, 1, 1]);
        let seen = |generation| Seen {
            generation: Some(generation),
            outcome: Outcome::Applied {
                on_delete: false,
                conflict: &conflict,
                stand_ins: &StandIns::None,
            },
            daemon_set: Some(&daemon_set),
            daemon_set_outdated: false,
            failures: &[],
            hooks: &[],
        };
        let first = status(&HttpStatisticsStatus::default(), &seen(1), at(10));
        let again = status(&first, &seen(1), at(20));
        assert_eq!(first, again);
        let changed = status(&first, &seen(2), at(30));
        assert_eq!(changed.observed_generation, Some(2));
        assert_eq!(changed.conditions[0].observed_generation, Some(2));
        assert_eq!(changed.conditions[0].last_transition_time, Time(at(10)));
        assert!(differs_in_numbers_only(&first, &again) && !differs_in_numbers_only(&first, &changed));
    }

    #[test]
    fn a_cache_that_has_not_seen_the_last_write_ends_no_rollout() {
        let conflict = Conflict::default();
        let daemon_set = daemon_set(1, 1, [1, 1, 1, 1]);
        let next = status(
            &HttpStatisticsStatus::default(),
            &Seen {
                generation: Some(2),
                outcome: Outcome::Applied {
                    on_delete: false,
                    conflict: &conflict,
                    stand_ins: &StandIns::None,
                },
                daemon_set: Some(&daemon_set),
                daemon_set_outdated: true,
                failures: &[],
                hooks: &[],
            },
            at(0),
        );
        assert_eq!(conditions(&next)[1], "Progressing=True/RollingOut");
    }

    #[test]
    fn hooks_are_counted_only_where_they_differ() {
        let count = |hook, nodes| HookCount { hook, nodes };
        let (fentry, tracepoint) = (count(AttachMode::Fentry, 12), count(AttachMode::Tracepoint, 3));
        assert_eq!(describe_hooks(&[]), None);
        assert_eq!(
            describe_hooks(std::slice::from_ref(&fentry)).as_deref(),
            Some("Fentry")
        );
        assert_eq!(
            describe_hooks(&[fentry, tracepoint]).as_deref(),
            Some("Fentry 12, Tracepoint 3")
        );
    }

    #[test]
    fn ten_nodes_are_listed_and_three_named() {
        let conflict = Conflict {
            older: vec!["a".to_owned()],
            nodes: (1..=5).map(|number| format!("n{number}")).collect(),
        };
        let failures: Vec<UnavailableNode> = (10..25)
            .map(|number| UnavailableNode {
                node: format!("n{number}"),
                message: "no BTF".to_owned(),
            })
            .collect();
        let seen = |conflict| Seen {
            generation: Some(1),
            outcome: Outcome::Applied {
                on_delete: false,
                conflict,
                stand_ins: &StandIns::None,
            },
            daemon_set: None,
            daemon_set_outdated: false,
            failures: &failures,
            hooks: &[],
        };
        let no_contest = Conflict::default();
        let next = status(&HttpStatisticsStatus::default(), &seen(&no_contest), at(0));
        assert_eq!(next.unavailable_nodes, failures[..10]);
        assert_eq!(
            next.conditions[2].message,
            "15 nodes whose agent fails: n10: no BTF; n11: no BTF; n12: no BTF; and 12 more"
        );
        let next = status(&HttpStatisticsStatus::default(), &seen(&conflict), at(0));
        assert_eq!(
            next.conditions[2].message,
            "5 nodes selected here run the agent of the older HttpStatistics a: n1, n2, n3, and 2 more; narrow a \
             nodeSelector, or delete one of the resources"
        );
    }
}
