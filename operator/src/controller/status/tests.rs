//! The status of a resource through its life.

use std::io;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use super::publish::differ_in_numbers_only;
use super::*;
use crate::api::v1alpha1::UnavailableNode;
use crate::controller::claims::Conflict;
use crate::controller::events::transitions;
use crate::controller::validate;

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
    let no_conflict = Conflict::default();
    let conflict = Conflict {
        older: vec!["older".to_owned()],
        nodes: ["n1", "n2", "n3", "n4"].map(str::to_owned).into(),
    };
    let failure = [UnavailableNode {
        node: "n2".to_owned(),
        message: "no BTF".to_owned(),
    }];
    let invalid = validate::Error::Image(String::new());
    let refused = io::Error::other("failed to apply DaemonSet x: no");
    let applied = |conflict| Outcome::Applied {
        on_delete: false,
        conflict,
        surge: &SurgeState::None,
    };
    let on_delete = Outcome::Applied {
        on_delete: true,
        conflict: &no_conflict,
        surge: &SurgeState::None,
    };
    let none: &[UnavailableNode] = &[];
    let rolling = "Ready=False/RollingOut Progressing=True/RollingOut Degraded=False/AsExpected";
    let done = "Ready=True/AgentsReady Progressing=False/RolledOut Degraded=False/AsExpected";
    let steps = [
        // Not yet taken up, then node by node.
        (
            applied(&no_conflict),
            (1, 0, [0, 0, 0, 0]),
            none,
            rolling,
            "RollingOut",
        ),
        (applied(&no_conflict), (1, 1, [3, 1, 1, 0]), none, rolling, ""),
        (applied(&no_conflict), (1, 1, [3, 3, 3, 2]), none, rolling, ""),
        (
            applied(&no_conflict),
            (1, 1, [3, 3, 3, 3]),
            none,
            done,
            "RolledOut",
        ),
        // A node joins, one restarts: no change is being rolled out.
        (
            applied(&no_conflict),
            (1, 1, [4, 3, 3, 3]),
            none,
            "Ready=False/AgentsUnavailable Progressing=False/RolledOut Degraded=False/AsExpected",
            "",
        ),
        (applied(&no_conflict), (1, 1, [3, 3, 3, 3]), none, done, ""),
        // A new spec, and an agent that fails with it: the rollout ends all the same.
        (
            applied(&no_conflict),
            (2, 2, [3, 3, 1, 2]),
            none,
            rolling,
            "RollingOut",
        ),
        (
            applied(&no_conflict),
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
            Outcome::Failed(&refused),
            (2, 2, [3, 3, 3, 3]),
            none,
            "Ready=False/ApplyFailed Progressing=True/ApplyFailed Degraded=True/ApplyFailed",
            "!ApplyFailed",
        ),
        (
            applied(&no_conflict),
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
            applied(&no_conflict),
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
            &Observation {
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

/// While there is a surge, the counts of the agents are those of the spec before, or do not tell the whole.
#[test]
fn a_rollout_is_under_way_as_long_as_there_is_a_surge() {
    let conflict = Conflict::default();
    let failures = [UnavailableNode {
        node: "n2".to_owned(),
        message: "ImagePullBackOff: no such image".to_owned(),
    }];
    let starting = |desired, ready, failures: &[UnavailableNode]| SurgeState::Starting {
        desired,
        ready,
        failures: failures.into(),
    };
    let done = daemon_set(1, 1, [3, 3, 3, 3]);
    let halfway = daemon_set(1, 1, [3, 3, 1, 2]);
    let cases = [
        (
            &done,
            starting(0, 0, &[]),
            Some("new agents are about to start beside the old ones, which stay until those stand by"),
        ),
        (
            &done,
            starting(3, 2, &[]),
            Some("the new agent stands by on 2 of 3 nodes; the old ones stay until it does on all"),
        ),
        (
            &done,
            starting(3, 2, &failures),
            Some(
                "the new agent stands by on 2 of 3 nodes; the old ones stay until it does on all; 1 node whose agent \
                 fails: n2: ImagePullBackOff: no such image: correct the spec, take it back, or make room",
            ),
        ),
        (
            &halfway,
            SurgeState::Present,
            Some("1 of 3 nodes have the current agent, 2 are ready; another one stands in on the others"),
        ),
        (
            &done,
            SurgeState::Present,
            Some("every agent is of the current spec; those that stood in are leaving"),
        ),
        (&done, SurgeState::None, None),
    ];
    let mut previous = HttpStatisticsStatus::default();
    for (daemon_set, surge, message) in cases {
        let next = status(
            &previous,
            &Observation {
                generation: Some(2),
                outcome: Outcome::Applied {
                    on_delete: false,
                    conflict: &conflict,
                    surge: &surge,
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
        assert_eq!(conditions(&next)[..2], expected, "{surge:?}");
        if let Some(message) = message {
            assert_eq!(next.conditions[1].message, message);
        }
        let is_before = matches!(surge, SurgeState::Starting { .. });
        let updated = next.nodes.unwrap_or_default().updated;
        assert_eq!(updated == 0, is_before, "{surge:?}");
        previous = next;
    }
}

#[test]
fn a_condition_is_dated_when_its_status_changes_and_only_then() {
    let conflict = Conflict::default();
    let daemon_set = daemon_set(1, 1, [1, 1, 1, 1]);
    let seen = |generation| Observation {
        generation: Some(generation),
        outcome: Outcome::Applied {
            on_delete: false,
            conflict: &conflict,
            surge: &SurgeState::None,
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
    assert!(differ_in_numbers_only(&first, &again) && !differ_in_numbers_only(&first, &changed));
}

#[test]
fn a_cache_that_has_not_seen_the_last_write_ends_no_rollout() {
    let conflict = Conflict::default();
    let daemon_set = daemon_set(1, 1, [1, 1, 1, 1]);
    let next = status(
        &HttpStatisticsStatus::default(),
        &Observation {
            generation: Some(2),
            outcome: Outcome::Applied {
                on_delete: false,
                conflict: &conflict,
                surge: &SurgeState::None,
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
    let seen = |conflict| Observation {
        generation: Some(1),
        outcome: Outcome::Applied {
            on_delete: false,
            conflict,
            surge: &SurgeState::None,
        },
        daemon_set: None,
        daemon_set_outdated: false,
        failures: &failures,
        hooks: &[],
    };
    let no_conflict = Conflict::default();
    let next = status(&HttpStatisticsStatus::default(), &seen(&no_conflict), at(0));
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
