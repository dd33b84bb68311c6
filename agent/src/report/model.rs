//! A report as Weave Scope reads it. Names are case-sensitive there, one bad field fails the whole report, and
//! fields that are not written here (`TS`, `Window`, `ID`, `Shortcut`, a node's `topology`) must not be sent.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The answer to `GET /report`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Exactly one: Scope refuses the report otherwise.
    #[serde(rename = "Plugins")]
    pub plugins: [PluginSpec; 1],
    /// Metrics of processes.
    #[serde(rename = "Process")]
    pub process: Topology,
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

/// Nodes of one kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Topology {
    /// Nodes by id; `<host id>;<pid>` for processes.
    pub nodes: BTreeMap<String, Node>,
    /// Templates by id, equal to the key of the nodes' metrics. All of them in every report: Scope's probe
    /// publishes differences, which lose templates that come and go.
    pub metric_templates: BTreeMap<String, MetricTemplate>,
}

/// One process. It has no `id`: Scope knows live processes itself, and would show a dead one that has an id.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Metrics by template id.
    pub metrics: BTreeMap<String, Metric>,
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
    pub id: String,
    /// Unique within the topology.
    pub label: String,
    /// The three lowest of a node are shown at once; unique, or they flicker. Scope's own start at 1.
    pub priority: f64,
}

/// A date as RFC 3339 in UTC with microseconds, as in `2026-11-22T16:16:40.25Z`. Written once and shared by all
/// samples of a tick.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Date(Arc<str>);

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
