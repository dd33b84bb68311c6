//! Nodes and hooks, counted.

use k8s_openapi::api::apps::v1::DaemonSet;

use crate::api::v1alpha1::{HookCount, NodeCounts};

pub(super) fn counts(daemon_set: &DaemonSet) -> NodeCounts {
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

/// The hooks in use, in words: `Fentry`, or `Fentry 12, Tracepoint 3`.
pub(super) fn describe_hooks(hooks: &[HookCount]) -> Option<String> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::v1alpha1::AttachMode;

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
}
