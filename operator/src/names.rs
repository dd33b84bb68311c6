//! Names that several modules, the installation or people rely on: of objects, labels and field managers.

use crate::api::v1alpha1::AttachMode;

/// The cluster role of the agents. The installation brings it; the operator only binds agents to it. The names of the objects
/// that a resource owns begin with it.
pub const AGENT_ROLE: &str = "scope-http-statistics-agent";
/// The names of surge `DaemonSets` begin with it. No resource can have a name by which the two kinds of names meet.
const SURGE_PREFIX: &str = "scope-http-statistics-standby";
/// The field manager of all writes, but for those of the default resource.
pub(crate) const FIELD_MANAGER: &str = "scope-http-statistics-operator";

/// The label that names the resource to which an object belongs.
pub(crate) const INSTANCE_LABEL: &str = "app.kubernetes.io/instance";
/// The label that tells agents from surge agents.
pub(crate) const COMPONENT_LABEL: &str = "app.kubernetes.io/component";
/// The value of [`COMPONENT_LABEL`] for agents.
pub(crate) const AGENT_COMPONENT: &str = "agent";
/// The value of [`COMPONENT_LABEL`] for surge agents. Network policies and pod monitors of users select it.
pub(crate) const SURGE_COMPONENT: &str = "standby";
/// The label that tells a node's operating system. Kubelet sets it.
pub(crate) const OS_LABEL: &str = "kubernetes.io/os";

/// Selects the objects that the operator made.
pub(crate) const MANAGED: &str = "app.kubernetes.io/managed-by=scope-http-statistics-operator";
/// Selects the pods of agents and surge agents. Agents that run without the operator have no instance label.
pub(crate) const AGENT_PODS: &str = "app.kubernetes.io/name=scope-http-statistics,app.kubernetes.io/component in (agent,standby),app.kubernetes.io/instance";

/// The name of every object of the resource `name`, but for its surge `DaemonSet`. No object of an installation has such a name.
pub(crate) fn object_name(name: &str) -> String {
    format!("{AGENT_ROLE}-{name}")
}

/// The name of the surge `DaemonSet` of the resource `name`.
pub(crate) fn surge_name(name: &str) -> String {
    format!("{SURGE_PREFIX}-{name}")
}

/// The hook as the agent spells it: its option `--hook` takes this word, and its command `hook` prints it.
pub(crate) fn hook_name(hook: AttachMode) -> &'static str {
    match hook {
        AttachMode::Auto => "auto",
        AttachMode::Fentry => "fentry",
        AttachMode::Kprobe => "kprobe",
        AttachMode::Tracepoint => "tracepoint",
    }
}
