//! How Kubernetes replaces the agents, and whether surge agents serve meanwhile.

use k8s_openapi::api::apps::v1::{DaemonSetUpdateStrategy, RollingUpdateDaemonSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::controller::validate::Update;
use crate::controller::version::{MAX_SURGE, Version};

/// Whether the operator surges: a gap is to be avoided, and Kubernetes would leave one.
pub(super) fn needs_surge(update: &Update, version: Option<Version>) -> bool {
    match update {
        Update::Rolling { on_node_port } => *on_node_port || version < Some(MAX_SURGE),
        Update::OnDelete | Update::Surging(_) | Update::Replacing(_) => false,
    }
}

pub(super) fn update_strategy(update: &Update, version: Option<Version>) -> DaemonSetUpdateStrategy {
    let rolling = |max_surge, max_unavailable| DaemonSetUpdateStrategy {
        type_: Some("RollingUpdate".to_owned()),
        rolling_update: Some(RollingUpdateDaemonSet {
            max_surge,
            max_unavailable: Some(max_unavailable),
        }),
    };
    let surging = |pace| rolling(Some(pace), IntOrString::Int(0));
    match update {
        Update::OnDelete => DaemonSetUpdateStrategy {
            type_: Some("OnDelete".to_owned()),
            rolling_update: None,
        },
        // Although nobody would miss the agents: should the new ones fail in spite of the surge, they fail on 10 % of the nodes.
        Update::Rolling { .. } if needs_surge(update, version) => rolling(None, Update::default_pace()),
        Update::Rolling { .. } => surging(Update::default_pace()),
        Update::Surging(pace) => surging(pace.clone()),
        Update::Replacing(pace) => rolling(None, pace.clone()),
    }
}
