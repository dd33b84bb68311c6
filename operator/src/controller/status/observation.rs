//! What a status is made of.

use std::error::Error;

use k8s_openapi::api::apps::v1::DaemonSet;

use super::counts::counts;
use super::pods;
use crate::api::v1alpha1::{HookCount, UnavailableNode};
use crate::controller::agent_pod::AgentPod;
use crate::controller::claims::Conflict;

/// What was seen of the agents, and what came of the last reconcile.
#[derive(Debug)]
pub(crate) struct Observation<'a> {
    /// The generation of the spec that was reconciled.
    pub(crate) generation: Option<i64>,
    pub(crate) outcome: Outcome<'a>,
    /// The agents, if there are any.
    pub(crate) daemon_set: Option<&'a DaemonSet>,
    /// Whether the `DaemonSet` may be older than the last write to it.
    pub(crate) daemon_set_outdated: bool,
    /// Nodes whose agent does not work, by name.
    pub(crate) failures: &'a [UnavailableNode],
    /// How many agents use each hook.
    pub(crate) hooks: &'a [HookCount],
}

/// What came of the last attempt to bring the cluster to what the resource says.
#[derive(Debug)]
pub(crate) enum Outcome<'a> {
    /// The objects are there.
    Applied {
        /// Whether a pod is replaced only when someone deletes it.
        on_delete: bool,
        /// Nodes that an older resource has.
        conflict: &'a Conflict,
        surge: &'a SurgeState,
    },
    /// Nothing was changed: the resource cannot be used.
    Invalid(&'a (dyn Error + 'static)),
    /// Not everything could be written. The error says what, why and what to do.
    Failed(&'a (dyn Error + 'static)),
}

impl Outcome<'_> {
    pub(super) fn surge(&self) -> Option<&SurgeState> {
        match self {
            Self::Applied { surge, .. } => Some(surge),
            Self::Invalid(_) | Self::Failed(_) => None,
        }
    }
}

/// Where the operator surges, since Kubernetes cannot: how far that has come.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum SurgeState {
    /// There are no surge agents.
    None,
    /// They start. Until they cover the agents, these are still of the spec before.
    Starting {
        /// Nodes that are meant to have a surge agent.
        desired: usize,
        /// Nodes that have one that is ready.
        ready: usize,
        /// Nodes where it fails, by name.
        failures: Vec<UnavailableNode>,
    },
    /// They are there: while the agents are replaced, and until the surge has left.
    Present,
}

impl SurgeState {
    /// Of the surge's `DaemonSet`, if it is there already, and the pods of all agents.
    pub(crate) fn starting<'a>(set: Option<&DaemonSet>, pods: impl Iterator<Item = &'a AgentPod>) -> Self {
        let counts = set.map(counts).unwrap_or_default();
        let count = |number: i32| usize::try_from(number).unwrap_or(0);
        Self::Starting {
            desired: count(counts.desired),
            ready: count(counts.ready),
            failures: pods::failures(pods.filter(|pod| pod.is_surge())),
        }
    }
}
