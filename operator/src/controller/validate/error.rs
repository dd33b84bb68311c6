//! Why a resource cannot be used.

use super::syntax::{MAX_NAME, MAX_PLUGIN_DIRECTORY};
use super::tolerations::TolerationError;
use crate::controller::version::{MAX_SURGE, Version};
use crate::names::OS_LABEL;

/// Why a resource cannot be used: the field, what is wrong with it, and what would be right.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not what the API server hands out.
    #[error("metadata.{0} is missing: the API server sets it")]
    Metadata(&'static str),
    /// Cannot be the value of the label by which the agents are selected.
    #[error(
        "metadata.name: `{0}` has more than {MAX_NAME} characters, but labels the agents: choose a shorter one"
    )]
    Name(String),
    /// Missing, or of another type: the parser says which.
    #[error("{path}")]
    Shape {
        /// The field, from `spec` on.
        path: String,
        /// What the parser expected.
        source: serde_json::Error,
    },
    /// Not an image reference.
    #[error("spec.image: `{0}` is not an image: write it as in registry.example/agent:0.1.0")]
    Image(String),
    /// Neither key nor value of a label.
    #[error(
        "spec.nodeSelector: `{key}: {value}` is not a label: names and values have at most 63 of A-Z, a-z, 0-9, `-`, `_` and `.`"
    )]
    Label {
        /// The label's name.
        key: String,
        /// The value that a node's label must have.
        value: String,
    },
    /// Another system than Linux.
    #[error("spec.nodeSelector: {OS_LABEL} is `{0}`, but agents run on Linux only: leave it out")]
    OperatingSystem(String),
    /// A toleration that Kubernetes refuses.
    #[error("spec.tolerations[{index}]")]
    Toleration {
        /// Its place in the list, from 0 on.
        index: usize,
        /// What Kubernetes refuses about it.
        source: TolerationError,
    },
    /// Not the name of an object of Kubernetes.
    #[error("spec.{field}: `{name}` is not a name: use lower case letters, digits, `-`{dot}")]
    ObjectName {
        /// The field.
        field: &'static str,
        /// What it holds.
        name: String,
        /// Whether a name of this kind may have dots, in words.
        dot: &'static str,
    },
    /// Not a quantity of Kubernetes.
    #[error("spec.resources.{field}.{name}: `{amount}` is not an amount: write it as in 64Mi or 100m")]
    Quantity {
        /// `requests` or `limits`.
        field: &'static str,
        /// The resource, such as `memory`.
        name: String,
        /// What was written.
        amount: String,
    },
    /// No pod could ever be made of it.
    #[error(
        "spec.resources: the request for {name}, {request}, is above its limit, {limit}: raise the limit"
    )]
    RequestAboveLimit {
        /// The resource, such as `memory`.
        name: String,
        /// The amount requested.
        request: String,
        /// The most that may be used.
        limit: String,
    },
    /// Neither a number of nodes nor a share of them.
    #[error("spec.updateStrategy.{field}: `{value}` is neither a number nor 0% to 100%")]
    Pace {
        /// `maxSurge` or `maxUnavailable`.
        field: &'static str,
        /// What it holds.
        value: String,
    },
    /// Kubernetes takes only one of the two.
    #[error(
        "spec.updateStrategy.maxSurge: may not be set when maxUnavailable is not 0: leave one of the two out"
    )]
    SurgeAndUnavailable,
    /// An update that could not begin.
    #[error(
        "spec.updateStrategy.maxUnavailable: cannot be 0 when maxSurge is 0: leave both out, or give one of them"
    )]
    NoPace,
    /// Two agents on one port.
    #[error(
        "spec.updateStrategy.maxSurge: with hostId Hostname the agents are in the node's network, and the port of \
         spec.metrics has room for one: leave one of the three out"
    )]
    SurgeOnNodePort,
    /// The API server would drop or refuse the field.
    #[error(
        "spec.updateStrategy.maxSurge: this API server is of {version}, and {} is the first to know it: leave it out",
        MAX_SURGE
    )]
    SurgeUnknown {
        /// The API server's version.
        version: Version,
    },
    /// Too small or too large.
    #[error("spec.{field}: {value} is outside of {min} to {max}")]
    Range {
        /// The field.
        field: &'static str,
        /// What it holds.
        value: i32,
        /// The least that is allowed.
        min: i32,
        /// The most that is allowed.
        max: i32,
    },
    /// The window would hold no measurement.
    #[error(
        "spec.historySeconds: {history} is less than intervalSeconds, {interval}: no measurement would be reported"
    )]
    HistoryBelowInterval {
        /// The window, in seconds.
        history: i32,
        /// Time between measurements, in seconds.
        interval: i32,
    },
    /// Agents refuse such a file.
    #[error("spec.namespaces: `{0}` is both included and excluded: take it out of one list")]
    NamespaceTwice(String),
    /// Not a directory for a socket.
    #[error(
        "spec.pluginDirectory: `{0}` is not usable: give an absolute path of at most {MAX_PLUGIN_DIRECTORY} letters, digits, `-`, `_` and `.`, as in /var/run/scope/plugins"
    )]
    PluginDirectory(String),
}
