//! `HttpStatistics`, version `v1alpha1`: how the node agents of a cluster should run, and how they do.
//!
//! Cluster-scoped, because it makes privileged pods: only those who administer the cluster may create one.
//!
//! The doc comments here are what `kubectl explain httpstatistics` shows. They describe the meaning of each field
//! to the person who writes the resource, not the code that reads it.
//!
//! Durations are whole seconds with the unit in the field's name (Kubernetes API conventions, "Units"), which lets
//! the schema bound them without CEL; API servers before 1.25 drop CEL rules without a word.

#![expect(
    unreachable_pub,
    reason = "`KubeSchema` writes a public copy of the spec into a function"
)]

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Toleration;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// The status codes that the original plugin showed, and that are shown unless the resource says otherwise.
pub const DEFAULT_STATUS_CODES: [i32; 16] = [
    100, 200, 201, 202, 204, 308, 400, 401, 403, 404, 408, 451, 500, 501, 502, 503,
];

/// The agent that should run on each selected node. It counts HTTP requests and responses per process, container
/// and pod, and reports them to Weave Scope.
#[derive(Clone, CustomResource, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "scope-http-statistics.dev",
    version = "v1alpha1",
    kind = "HttpStatistics",
    plural = "httpstatistics",
    singular = "httpstatistics",
    shortname = "httpstat",
    status = "HttpStatisticsStatus",
    derive = "PartialEq",
    validation = Rule::new("self.metadata.name.size() <= 63").message("metadata.name: at most 63 characters, since it labels the agents"),
    doc = "How the agents that count HTTP requests and responses run on the nodes of this cluster, and how they do.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#,
        description = "Whether every selected node runs a working agent."
    ),
    printcolumn(
        name = "Desired",
        type_ = "integer",
        json_path = ".status.nodes.desired",
        description = "Nodes that should run an agent."
    ),
    printcolumn(
        name = "Available",
        type_ = "integer",
        json_path = ".status.nodes.ready",
        description = "Nodes whose agent counts and can be asked for a report."
    ),
    printcolumn(
        name = "Hook",
        type_ = "string",
        json_path = ".status.hook",
        description = "How the agents attach to the kernel, and on how many nodes if they differ."
    ),
    printcolumn(
        name = "Image",
        type_ = "string",
        json_path = ".spec.image",
        description = "The agent's image.",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
// API servers before 1.25 drop these rules without a word; `controller::validate` knows them too.
#[x_kube(
    validation = Rule::new("self.historySeconds >= self.intervalSeconds")
        .message("historySeconds: must be at least intervalSeconds, or no measurement is reported"),
    validation = Rule::new("!has(self.nodeSelector) || !('kubernetes.io/os' in self.nodeSelector) || self.nodeSelector['kubernetes.io/os'] == 'linux'")
        .message("nodeSelector: agents run on Linux only; leave kubernetes.io/os out"),
)]
#[serde(rename_all = "camelCase")]
pub struct HttpStatisticsSpec {
    /// The agent's container image, by tag or, better, by digest.
    #[schemars(length(min = 1, max = 1024))]
    pub image: String,

    /// Secrets with which the nodes pull the image, in the operator's namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub image_pull_secrets: Vec<LocalReference>,

    /// Run agents only on nodes that carry all of these labels. Empty: on every Linux node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,

    /// Node taints that the agents tolerate. Default: all of them, so that control-plane nodes are counted too.
    #[serde(default = "tolerate_everything")]
    #[schemars(length(max = 64))]
    pub tolerations: Vec<Toleration>,

    /// Priority class of the agents' pods, such as `system-node-critical`. Unset: the cluster's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,

    /// CPU and memory that each agent requests and may use at most. The memory of its eBPF maps counts as its own.
    #[serde(default, skip_serializing_if = "Resources::is_unset")]
    pub resources: Resources,

    /// How running agents are replaced when a change needs that. Unless `maxSurge` or `maxUnavailable` says otherwise, a new
    /// agent starts beside the old one and takes over, so that nothing is missed, on 10% of the nodes at a time. API servers
    /// before Kubernetes 1.22 cannot do that, nor can any where the agents have a port in the node's network: there agents of
    /// a second `DaemonSet` stand in meanwhile, on all of the nodes.
    #[serde(default)]
    pub update_strategy: UpdateStrategy,

    /// The rights that the agents get on their nodes.
    #[serde(default)]
    pub security_mode: SecurityMode,

    /// How the agents attach to the kernel.
    #[serde(default)]
    pub attach_mode: AttachMode,

    /// Seconds between two measurements. Every rate is taken over the time that really passed between them.
    #[serde(default = "default_interval_seconds")]
    #[schemars(range(min = 1, max = 60))]
    pub interval_seconds: i32,

    /// How far back, in seconds, the measurements in each report reach: the length of the graphs in Scope.
    #[serde(default = "default_history_seconds")]
    #[schemars(range(min = 1, max = 600))]
    pub history_seconds: i32,

    /// Status codes that get a metric of their own; all others are summed up as OTHERS.
    #[serde(default = "default_status_codes")]
    #[schemars(
        length(max = 500),
        inner(range(min = 100, max = 599)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub status_codes: Vec<i32>,

    /// Which pods are reported, by their namespace. Default: all.
    #[serde(default, skip_serializing_if = "Namespaces::is_everything")]
    pub namespaces: Namespaces,

    /// Which processes are reported.
    #[serde(default)]
    pub processes: Processes,

    /// The name under which the agents report their node. It must be the one that Scope's probe uses there, or
    /// Scope cannot match the two and shows nothing.
    #[serde(default)]
    pub host_id: HostId,

    /// Scope's plugin directory on the nodes (`--probe.plugins.root` of its probe). The agents create a
    /// subdirectory for their socket in it.
    // The socket's path must fit into `sockaddr_un.sun_path`, 107 bytes and a NUL, and the agent appends
    // `/http-statistics/http-statistics.sock`, which is 37. No segment starts with a dot, so none is `..`, which
    // Kubernetes refuses in a hostPath.
    #[serde(default = "default_plugin_directory")]
    #[schemars(
        length(min = 2, max = 70),
        regex(pattern = "^(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+$")
    )]
    pub plugin_directory: String,

    /// Serve OpenMetrics from every agent. Unset: the agents open no port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<MetricsEndpoint>,

    /// The least severe messages that the agents log.
    #[serde(default)]
    pub log_level: LogLevel,
}

/// An object in the operator's namespace.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct LocalReference {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// CPU and memory of one agent.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Resources {
    /// What the node must have free to run the agent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "quantities")]
    pub requests: BTreeMap<String, Quantity>,

    /// What the agent may use at most. It is killed when it needs more memory.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "quantities")]
    pub limits: BTreeMap<String, Quantity>,
}

impl Resources {
    /// Whether nothing is requested and nothing limited.
    #[must_use]
    pub fn is_unset(&self) -> bool {
        let Self { requests, limits } = self;
        requests.is_empty() && limits.is_empty()
    }
}

/// How running agents are replaced.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[x_kube(
    validation = Rule::new("(has(self.maxSurge) && string(self.maxSurge) != '0' && string(self.maxSurge) != '0%') ? (!has(self.maxUnavailable) || string(self.maxUnavailable) == '0' || string(self.maxUnavailable) == '0%') : (!has(self.maxUnavailable) || (string(self.maxUnavailable) != '0' && string(self.maxUnavailable) != '0%'))")
        .message("updateStrategy: one of maxSurge and maxUnavailable must be 0 or left out, and the other not"),
)]
#[serde(rename_all = "camelCase")]
pub struct UpdateStrategy {
    /// When agents are replaced.
    #[serde(default, rename = "type")]
    pub kind: UpdateKind,

    /// On how many nodes the new agent may start while the old one still serves, during a rolling update, as a number or a
    /// percentage. The new one takes over when the old one has stopped. From Kubernetes 1.22 on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "count_or_percentage")]
    pub max_surge: Option<IntOrString>,

    /// How many nodes may be without an agent during a rolling update, as a number or a percentage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "count_or_percentage")]
    pub max_unavailable: Option<IntOrString>,
}

/// When agents are replaced.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum UpdateKind {
    /// Node after node, by itself.
    #[default]
    RollingUpdate,
    /// Only when someone deletes the old pod.
    OnDelete,
}

/// The rights that the agents get on their nodes.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum SecurityMode {
    /// Privileged containers: works wherever eBPF does.
    #[default]
    Privileged,
    /// Only the capabilities that the agent needs. Nodes whose kernel or container runtime wants more cannot run it.
    Capabilities,
}

/// How the agents attach to the kernel. All hooks count alike; they differ in cost and in what they need.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub enum AttachMode {
    /// The first of the others, in their order, that works on the node.
    #[default]
    Auto,
    /// BPF trampolines on the kernel's socket functions: the cheapest.
    Fentry,
    /// Kprobes on the same functions.
    Kprobe,
    /// Raw tracepoints: also on kernels that are locked down or were built without kprobes.
    Tracepoint,
}

/// Which pods are reported, by their namespace.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Namespaces {
    /// Report only pods in these namespaces. Empty: in all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 256),
        inner(length(max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub include: Vec<String>,

    /// Leave out pods in these namespaces. None of them may be included, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 256),
        inner(length(max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub exclude: Vec<String>,
}

impl Namespaces {
    /// Whether no pod is left out.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        let Self { include, exclude } = self;
        include.is_empty() && exclude.is_empty()
    }
}

/// Which processes are reported.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Processes {
    /// Those in pods that `namespaces` lets through, and those of the node itself.
    #[default]
    All,
    /// Only those in pods that `namespaces` lets through.
    Pods,
}

/// The name under which an agent reports its node.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum HostId {
    /// The name of the node in Kubernetes: what Scope's 1.13.2 manifests make its probe use (`SCOPE_HOSTNAME`).
    #[default]
    NodeName,
    /// The node's own host name: what Scope's probe uses where `SCOPE_HOSTNAME` is not set. The agents then run in
    /// the node's network, since a pod of its own network has a host name of its own.
    Hostname,
}

/// Where each agent serves OpenMetrics.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct MetricsEndpoint {
    /// Port of the agent's pod that answers `GET /metrics`.
    #[serde(default = "default_metrics_port")]
    #[schemars(range(min = 1, max = 65_535))]
    pub port: i32,
}

/// The least severe messages that are logged.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum LogLevel {
    /// Only what went wrong for good.
    Error,
    /// Also what may go wrong.
    Warn,
    /// Also what an operator of the agent wants to know: starts, stops, the hook in use.
    #[default]
    Info,
    /// Also what explains the agent's decisions.
    Debug,
    /// Everything.
    Trace,
}

/// What was last seen of the agents. Written by the operator only.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpStatisticsStatus {
    /// `metadata.generation` of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// The selected nodes, counted by the state of their agents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<NodeCounts>,

    /// The hooks in use, in words: `Fentry`, or `Fentry 12, Tracepoint 3` where nodes differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<String>,

    /// Ready agents by the hook that they use: what their node let them take when their pod began.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 8),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["hook"])
    )]
    pub hooks: Vec<HookCount>,

    /// Nodes whose agent does not work and why, in the agent's own words where it had any. Ten at most, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 10),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["node"])
    )]
    pub unavailable_nodes: Vec<UnavailableNode>,

    /// `Ready`: every selected node runs a working agent. `Progressing`: a change is being rolled out.
    /// `Degraded`: something needs a person, and the message says what.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Vec<Condition>,
}

impl HttpStatisticsStatus {
    /// The condition of this type.
    pub(crate) fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.type_ == kind)
    }
}

/// The selected nodes, counted by the state of their agents.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct NodeCounts {
    /// Nodes that should run an agent.
    #[schemars(range(min = 0))]
    pub desired: i32,
    /// Nodes whose agent was made from the current spec.
    #[schemars(range(min = 0))]
    pub updated: i32,
    /// Nodes whose agent counts and can be asked for a report.
    #[schemars(range(min = 0))]
    pub ready: i32,
    /// Nodes that should run an agent and have none that is ready.
    #[schemars(range(min = 0))]
    pub unavailable: i32,
}

/// How many agents use one hook.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct HookCount {
    /// The hook.
    pub hook: AttachMode,
    /// Nodes whose ready agent uses it.
    #[schemars(range(min = 0))]
    pub nodes: i32,
}

/// A node whose agent does not work.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct UnavailableNode {
    /// The node's name.
    pub node: String,
    /// Why it has no working agent.
    pub message: String,
}

fn tolerate_everything() -> Vec<Toleration> {
    vec![Toleration {
        operator: Some("Exists".to_owned()),
        ..Toleration::default()
    }]
}

/// Scope polls once a second.
fn default_interval_seconds() -> i32 {
    1
}

/// Scope keeps 15 s by itself; overlapping history is deduplicated by its date and makes the graphs longer.
fn default_history_seconds() -> i32 {
    60
}

fn default_status_codes() -> Vec<i32> {
    DEFAULT_STATUS_CODES.to_vec()
}

/// `--probe.plugins.root` of Scope's probe when it is not set.
fn default_plugin_directory() -> String {
    "/var/run/scope/plugins".to_owned()
}

/// The port that Prometheus' list of exporters keeps for OpenTelemetry's, for want of one of our own.
fn default_metrics_port() -> i32 {
    9464
}

/// Amounts by resource name, as in a pod. The schema that comes with [`Quantity`] accepts any string, so that a
/// typing error would show only when a pod is refused.
fn quantities(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": {
            "x-kubernetes-int-or-string": true,
            "pattern": r"^[0-9]+(\.[0-9]+)?([numkMGTPE]|[KMGTPE]i|[eE][0-9]+)?$",
        },
    })
}

/// A whole number, or `0%` to `100%`.
fn count_or_percentage(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "minimum": 0,
        "pattern": "^([0-9]|[1-9][0-9]|100)%$",
    })
}
