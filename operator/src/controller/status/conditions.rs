//! The conditions `Ready`, `Progressing` and `Degraded`.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::messages;
use super::observation::{Observation, Outcome, SurgeState};
use crate::api::v1alpha1::{HttpStatisticsStatus, NodeCounts};
use crate::error_chain::error_chain;

/// The conditions that `observation` calls for, after the status `previous`. Those whose status stays the same keep their date.
pub(super) fn conditions(
    previous: &HttpStatisticsStatus,
    observation: &Observation<'_>,
    nodes: Option<NodeCounts>,
    now: Timestamp,
) -> Vec<Condition> {
    let progress = Progress::of(previous, observation, nodes);
    let nodes = nodes.unwrap_or_default();
    [
        ("Ready", ready(observation, nodes, progress)),
        ("Progressing", progressing(observation, nodes, progress)),
        ("Degraded", degraded(observation)),
    ]
    .map(|(kind, verdict)| dated(previous, kind, verdict, observation.generation, now))
    .into()
}

/// How far a change of the spec has come.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Progress {
    /// Not all agents are of the current spec yet.
    UnderWay,
    /// It goes on when someone deletes pods (`OnDelete`).
    Waiting,
    /// All agents are of the current spec.
    Done,
}

impl Progress {
    fn of(previous: &HttpStatisticsStatus, observation: &Observation<'_>, nodes: Option<NodeCounts>) -> Self {
        let (Some(daemon_set), Some(nodes)) = (observation.daemon_set, nodes) else {
            return Self::UnderWay;
        };
        if let Some(SurgeState::Starting { .. }) = observation.outcome.surge() {
            return Self::UnderWay;
        }
        let status = daemon_set.status.as_ref();
        let observed = !observation.daemon_set_outdated
            && status.and_then(|status| status.observed_generation) >= daemon_set.metadata.generation;
        if !observed {
            return Self::UnderWay;
        }
        let scheduled = status.map_or(0, |status| status.current_number_scheduled);
        let updated = status
            .and_then(|status| status.updated_number_scheduled)
            .unwrap_or(0);
        if updated < scheduled {
            return match observation.outcome {
                Outcome::Applied { on_delete: true, .. } => Self::Waiting,
                _ => Self::UnderWay,
            };
        }
        // A node that joins or restarts afterwards is no change that is being rolled out.
        let was_done = previous
            .condition("Progressing")
            .is_some_and(|condition| condition.status == "False");
        if let Some(SurgeState::Present) = observation.outcome.surge() {
            return Self::UnderWay;
        }
        let failing = i32::try_from(observation.failures.len()).unwrap_or(i32::MAX);
        if was_done || nodes.ready.saturating_add(failing) >= nodes.desired {
            Self::Done
        } else {
            Self::UnderWay
        }
    }
}

/// A condition before it is dated.
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

fn ready(observation: &Observation<'_>, nodes: NodeCounts, progress: Progress) -> Verdict {
    let NodeCounts {
        desired,
        updated: _,
        ready: _,
        unavailable,
    } = nodes;
    match &observation.outcome {
        Outcome::Invalid(error) => Verdict::new(false, "InvalidSpec", error_chain(*error)),
        Outcome::Failed(error) => Verdict::new(false, "ApplyFailed", error_chain(*error)),
        Outcome::Applied { conflict, .. } if !conflict.is_empty() => {
            Verdict::new(false, "Conflict", messages::conflict(conflict))
        }
        Outcome::Applied { surge, .. } if progress == Progress::UnderWay => {
            Verdict::new(false, "RollingOut", messages::rollout(nodes, surge))
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

fn progressing(observation: &Observation<'_>, nodes: NodeCounts, progress: Progress) -> Verdict {
    match &observation.outcome {
        Outcome::Invalid(_) => Verdict::new(
            false,
            "InvalidSpec",
            "nothing is rolled out until the spec is corrected; agents that run stay as they are",
        ),
        Outcome::Failed(_) => Verdict::new(true, "ApplyFailed", "trying again"),
        Outcome::Applied { surge, .. } => match progress {
            Progress::UnderWay => Verdict::new(true, "RollingOut", messages::rollout(nodes, surge)),
            Progress::Waiting => Verdict::new(
                false,
                "WaitingForDeletion",
                "some agents are not of the current spec, and spec.updateStrategy.type is OnDelete: delete their pods",
            ),
            Progress::Done => Verdict::new(false, "RolledOut", "every agent is of the current spec"),
        },
    }
}

fn degraded(observation: &Observation<'_>) -> Verdict {
    match &observation.outcome {
        Outcome::Invalid(error) => Verdict::new(true, "InvalidSpec", error_chain(*error)),
        Outcome::Failed(error) => Verdict::new(true, "ApplyFailed", error_chain(*error)),
        Outcome::Applied { conflict, .. } if !conflict.is_empty() => {
            Verdict::new(true, "Conflict", messages::conflict(conflict))
        }
        Outcome::Applied { .. } if !observation.failures.is_empty() => {
            Verdict::new(true, "AgentsFailing", messages::failures(observation.failures))
        }
        Outcome::Applied { .. } => Verdict::new(false, "AsExpected", "nothing needs attention"),
    }
}

/// The condition `kind` with the date at which its status became what it is.
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
    let since = previous
        .condition(kind)
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
