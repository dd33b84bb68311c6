//! Which tolerations Kubernetes accepts.

use k8s_openapi::api::core::v1::Toleration;

use super::syntax::{is_label_value, is_qualified_name};

/// What Kubernetes refuses about a toleration.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TolerationError {
    /// With `Exists`, a value has no meaning.
    #[error("operator Exists takes no value: leave one of the two out")]
    ExistsWithValue,
    /// Only `Exists` can be meant for all taints.
    #[error("without a key it must have operator Exists")]
    NoKey,
    /// An operator that Kubernetes does not know.
    #[error("operator must be Exists or Equal")]
    Operator,
    /// No taint can have this key.
    #[error("key is not the name of a taint")]
    Key,
    /// No taint can have this value.
    #[error("value is not that of a taint")]
    Value,
    /// Only pods that are evicted can stay for a while.
    #[error("tolerationSeconds needs effect NoExecute")]
    Seconds,
    /// An effect that Kubernetes does not know.
    #[error("effect must be NoSchedule, PreferNoSchedule or NoExecute")]
    Effect,
}

/// Checks what Kubernetes asks of a toleration (`validateTolerations`).
pub(super) fn check(toleration: &Toleration) -> Result<(), TolerationError> {
    let Toleration {
        effect,
        key,
        operator,
        toleration_seconds,
        value,
    } = toleration;
    let key = key.as_deref().unwrap_or_default();
    match operator.as_deref() {
        Some("Exists") if value.as_deref().is_some_and(|value| !value.is_empty()) => {
            return Err(TolerationError::ExistsWithValue);
        }
        None | Some("" | "Equal") if key.is_empty() => {
            return Err(TolerationError::NoKey);
        }
        None | Some("" | "Equal" | "Exists") => {}
        Some(_) => return Err(TolerationError::Operator),
    }
    if !key.is_empty() && !is_qualified_name(key) {
        return Err(TolerationError::Key);
    }
    if !value.as_deref().is_none_or(is_label_value) {
        return Err(TolerationError::Value);
    }
    match effect.as_deref() {
        None | Some("" | "NoExecute") => {}
        Some("NoSchedule" | "PreferNoSchedule") if toleration_seconds.is_none() => {}
        Some("NoSchedule" | "PreferNoSchedule") => {
            return Err(TolerationError::Seconds);
        }
        Some(_) => return Err(TolerationError::Effect),
    }
    Ok(())
}
