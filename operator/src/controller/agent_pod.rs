//! A pod of an agent: only what is looked at, since there is one on every node.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Affinity, ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::{Resource, ResourceExt};
use serde::{Deserialize, Serialize};

use crate::api::v1alpha1::AttachMode;
use crate::names::{COMPONENT_LABEL, INSTANCE_LABEL, SURGE_COMPONENT, hook_name};

/// The hooks that an agent may use, in the order of the status.
pub(super) const HOOKS: [AttachMode; 3] = [AttachMode::Fentry, AttachMode::Kprobe, AttachMode::Tracepoint];

/// A pod of an agent or a surge agent.
#[derive(Clone, Debug, Default, Deserialize, Resource, Serialize)]
#[resource(inherit = "Pod")]
pub(super) struct AgentPod {
    /// Thinned out by [`AgentPod::thin`].
    pub(super) metadata: ObjectMeta,
    #[serde(default)]
    pub(super) spec: Placement,
    #[serde(default)]
    pub(super) status: PodStatus,
    /// The uid of its `DaemonSet`, taken out of its owners by [`AgentPod::thin`].
    #[serde(skip)]
    pub(super) controller: Option<String>,
}

/// Part of a pod's spec.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Placement {
    /// The node, once the pod is there.
    pub(super) node_name: Option<String>,
    /// Names the node before that.
    pub(super) affinity: Option<Affinity>,
}

/// Part of a pod's status.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodStatus {
    /// `Failed` for a pod that was evicted.
    pub(super) phase: Option<String>,
    /// Why the pod failed, in words.
    pub(super) message: Option<String>,
    /// `Ready` and `PodScheduled` are looked at.
    #[serde(default)]
    pub(super) conditions: Vec<PodCondition>,
    /// There is one: it ends by telling the hook.
    #[serde(default)]
    pub(super) init_container_statuses: Vec<ContainerStatus>,
    /// There is one: the agent.
    #[serde(default)]
    pub(super) container_statuses: Vec<ContainerStatus>,
}

/// Part of a pod's condition.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodCondition {
    #[serde(rename = "type")]
    kind: String,
    /// `True`, `False` or `Unknown`.
    pub(super) status: String,
    /// Why it is so, in words.
    pub(super) message: Option<String>,
    last_transition_time: Option<Time>,
}

impl AgentPod {
    /// Keeps what is needed: 5,000 whole pods would take more memory than the operator.
    pub(super) fn thin(&mut self) {
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

    pub(super) fn condition(&self, kind: &str) -> Option<&PodCondition> {
        self.status
            .conditions
            .iter()
            .find(|condition| condition.kind == kind)
    }

    pub(super) fn is_ready(&self) -> bool {
        self.condition("Ready")
            .is_some_and(|condition| condition.status == "True")
    }

    pub(super) fn is_being_deleted(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// Whether there is an agent that counts, and that is meant to go on.
    pub(super) fn serves(&self) -> bool {
        self.is_ready() && !self.is_being_deleted()
    }

    /// Whether its node has room for it. A pod that has got its room keeps it.
    pub(super) fn has_room(&self) -> bool {
        self.condition("PodScheduled")
            .is_none_or(|condition| condition.status != "False")
    }

    /// Since when it is as ready as it is.
    pub(super) fn since(&self) -> Option<Timestamp> {
        self.condition("Ready")
            .and_then(|condition| condition.last_transition_time.as_ref())
            .or(self.metadata.creation_timestamp.as_ref())
            .map(|time| time.0)
    }

    /// Whether it is a surge agent, and is meant to go on.
    pub(super) fn is_surge(&self) -> bool {
        let component = self.labels().get(COMPONENT_LABEL);
        component.is_some_and(|component| component == SURGE_COMPONENT) && !self.is_being_deleted()
    }

    /// The hook in use, if the agent is ready and its pod tells which.
    pub(super) fn hook(&self) -> Option<AttachMode> {
        if !self.serves() {
            return None;
        }
        let container = self.status.init_container_statuses.first()?;
        let end = container.state.as_ref()?.terminated.as_ref()?;
        let word = end.message.as_deref()?.lines().next()?;
        HOOKS.into_iter().find(|hook| hook_name(*hook) == word)
    }
}
