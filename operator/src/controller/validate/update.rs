//! How agents are replaced when a change needs that.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::error::Error;
use crate::api::v1alpha1::{UpdateKind, UpdateStrategy};

/// How agents are replaced.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Update {
    /// When someone deletes them.
    OnDelete,
    /// Node after node, without a gap: by Kubernetes where it can surge, otherwise by the operator's surge.
    Rolling {
        /// Whether their port for metrics is one of the node's, where there is room for one.
        on_node_port: bool,
    },
    /// Node after node: the new one takes over from the old one, on so many nodes at a time.
    Surging(IntOrString),
    /// Node after node: the new one comes when the old one has gone, on so many nodes at a time.
    Replacing(IntOrString),
}

impl Update {
    /// On how many nodes at a time agents are replaced, unless the resource says so.
    pub(crate) fn default_pace() -> IntOrString {
        IntOrString::String("10%".to_owned())
    }

    pub(super) fn of(strategy: UpdateStrategy, on_node_port: bool) -> Result<Self, Error> {
        let UpdateStrategy {
            kind,
            max_surge,
            max_unavailable,
        } = strategy;
        for (field, value) in [("maxSurge", &max_surge), ("maxUnavailable", &max_unavailable)] {
            if let Some(value) = value.as_ref().filter(|value| !is_count_or_percentage(value)) {
                let value = match value {
                    IntOrString::Int(count) => count.to_string(),
                    IntOrString::String(text) => text.clone(),
                };
                return Err(Error::Pace { field, value });
            }
        }
        let some = |value: &Option<IntOrString>| value.clone().filter(|value| !is_none(value));
        let update = match (some(&max_surge), some(&max_unavailable)) {
            (Some(_), Some(_)) => return Err(Error::SurgeAndUnavailable),
            (Some(_), None) if on_node_port => return Err(Error::SurgeOnNodePort),
            (Some(surge), None) => Self::Surging(surge),
            (None, Some(unavailable)) => Self::Replacing(unavailable),
            (None, None) if max_unavailable.is_some() => return Err(Error::NoPace),
            (None, None) if max_surge.is_some() => Self::Replacing(Self::default_pace()),
            (None, None) => Self::Rolling { on_node_port },
        };
        Ok(match kind {
            UpdateKind::RollingUpdate => update,
            UpdateKind::OnDelete => Self::OnDelete,
        })
    }
}

fn is_count_or_percentage(value: &IntOrString) -> bool {
    match value {
        IntOrString::Int(count) => *count >= 0,
        IntOrString::String(text) => text
            .strip_suffix('%')
            .filter(|digits| *digits == "0" || !digits.starts_with(['0', '+']))
            .and_then(|digits| digits.parse::<u8>().ok())
            .is_some_and(|percentage| percentage <= 100),
    }
}

fn is_none(value: &IntOrString) -> bool {
    match value {
        IntOrString::Int(count) => *count == 0,
        IntOrString::String(text) => text == "0%",
    }
}
