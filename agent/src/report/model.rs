//! A report as Weave Scope reads it. Names are case-sensitive there, one bad field fails the whole report, and
//! fields that are not written here (`TS`, `Window`, `ID`, `Shortcut`, a node's `topology`) must not be sent.
//!
//! `docs/reference/report.schema.json` says the same for people and other programs.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::MetricKind;

/// The answer to `GET /report`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Report {
    /// Exactly one: Scope refuses the report otherwise.
    pub plugins: [PluginSpec; 1],
    /// Live processes.
    pub process: Topology,
    /// Containers, each with the sum of its processes, live or gone.
    #[serde(default)]
    pub container: Topology,
    /// Pods, each with the sum of its processes, live or gone.
    #[serde(default)]
    pub pod: Topology,
    /// Templates only, so that Scope passes on what a service's only pod has.
    #[serde(default)]
    pub service: Topology,
    /// Templates only.
    #[serde(default)]
    pub deployment: Topology,
    /// Templates only.
    #[serde(default)]
    pub daemon_set: Topology,
    /// Templates only.
    #[serde(default)]
    pub stateful_set: Topology,
    /// Templates only.
    #[serde(default)]
    pub cron_job: Topology,
    /// Templates only.
    #[serde(default)]
    pub job: Topology,
    /// This host, if something could not be counted.
    #[serde(default)]
    pub host: Topology,
}

/// Who reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginSpec {
    /// Equal to the socket's file name without extension.
    pub id: String,
    /// Shown in the list of plugins.
    pub label: String,
    /// Shown when the label is pointed at.
    pub description: String,
    /// `reporter` only: for a plugin with `controller` Scope overwrites the controls of every node in its report.
    pub interfaces: Vec<String>,
    /// `"1"`.
    pub api_version: String,
}

/// Nodes of one kind. All templates are in every report: Scope's probe publishes differences, which lose templates that
/// come and go.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Topology {
    /// Nodes by id, as in `<host id>;<pid>` and `<container id>;<container>`.
    pub nodes: BTreeMap<String, Node>,
    /// By id, the key of the nodes' metrics.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metric_templates: BTreeMap<MetricKind, MetricTemplate>,
    /// By id, the key of the nodes' `latest`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata_templates: BTreeMap<Cow<'static, str>, MetadataTemplate>,
}

/// One process, container, pod or host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Its key, for containers and pods: Scope would show unknown ones without a name. Not for processes and hosts, which
    /// Scope knows itself: one that it does not know is not shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What it is called, and rows for its details.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub latest: BTreeMap<Cow<'static, str>, Latest>,
    /// Ids of nodes that it belongs to, by kind.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parents: BTreeMap<Cow<'static, str>, Vec<String>>,
    /// Graphs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<MetricKind, Metric>,
}

/// One property of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latest {
    /// Of several reporters' values Scope takes the one with the newest.
    pub timestamp: Date,
    /// The value.
    pub value: String,
}

/// One graph.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// Strictly ascending by date. The last value is the one shown.
    pub samples: Vec<Sample>,
    /// Lower end of the graph.
    pub min: f64,
    /// Upper end of the graph; more than 0, or its fill would be infinite.
    pub max: f64,
}

/// One point of a graph.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// When it was measured.
    pub date: Date,
    /// Events per second.
    pub value: f64,
}

/// How to show a metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MetricTemplate {
    /// Equal to its key.
    pub id: MetricKind,
    /// Unique within the topology.
    pub label: String,
    /// The three lowest of a node are shown at once; unique, or they flicker. Scope's own start at 1.
    pub priority: f64,
}

/// How to show a property.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MetadataTemplate {
    /// Equal to its key.
    pub id: Cow<'static, str>,
    /// Unique within the topology.
    pub label: Cow<'static, str>,
    /// Rows are sorted by it.
    pub priority: f64,
    /// Which part of the node has it: `latest`.
    pub from: Cow<'static, str>,
}

/// A date as RFC 3339 in UTC with microseconds, as in `2026-11-22T16:16:40.25Z`. Written once and shared by all
/// samples of a tick.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Date(Arc<str>);

impl Date {
    /// As it is sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<Timestamp> for Date {
    fn from(time: Timestamp) -> Self {
        let time = Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(time);
        Self(time.to_string().into())
    }
}

impl Serialize for Date {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Date {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Timestamp::deserialize(deserializer).map(Self::from)
    }
}
