//! Weave Scope, as far as plugins are concerned: what its probe asks for and accepts, how it publishes, how its app merges
//! what it got, and what of that its user interface shows. Written from what a running Scope 1.13.2 did.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;
use jiff::Timestamp;
use serde::Deserialize;

/// For connect, head and body together.
const BUDGET: Duration = Duration::from_millis(500);
/// Publishes that the app keeps: 15 s at one per second.
pub(crate) const KEPT: usize = 15;

/// A report as Scope decodes it: names are case-sensitive, what is unknown is ignored, what is wrong fails all of it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Report {
    #[serde(rename = "Plugins")]
    plugins: Vec<PluginSpec>,
    #[serde(flatten)]
    topologies: BTreeMap<Kind, Topology>,
}

/// Topologies of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(crate) enum Kind {
    Process,
    Container,
    Pod,
    Service,
    Deployment,
    DaemonSet,
    StatefulSet,
    CronJob,
    Job,
    Host,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PluginSpec {
    id: String,
    label: String,
    interfaces: Vec<String>,
    api_version: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Topology {
    nodes: BTreeMap<String, Node>,
    metric_templates: BTreeMap<String, Template>,
    metadata_templates: BTreeMap<String, Template>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Node {
    id: String,
    latest: BTreeMap<String, Latest>,
    metrics: BTreeMap<String, Metric>,
    parents: BTreeMap<String, Vec<String>>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Latest {
    timestamp: Timestamp,
    value: String,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Metric {
    samples: Vec<Sample>,
    #[serde(default)]
    max: f64,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Sample {
    date: Timestamp,
    value: f64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Template {
    id: String,
    label: String,
    priority: f64,
}

/// A probe with one plugin.
pub(crate) struct Probe {
    id: &'static str,
    socket: PathBuf,
    connection: Option<UnixStream>,
    /// Nodes that Scope reports itself.
    own: Vec<(Kind, String, Node)>,
    published: usize,
    last: Report,
}

impl Probe {
    pub(crate) fn new(id: &'static str, socket: &Path) -> Self {
        Self {
            id,
            socket: socket.to_owned(),
            connection: None,
            own: Vec::new(),
            published: 0,
            last: Report::default(),
        }
    }

    /// Scope's own reporters know of this node.
    pub(crate) fn knows(&mut self, kind: Kind, id: &str, latest: &[(&str, &str)]) {
        let property = |(key, value): &(&str, &str)| {
            let latest = Latest {
                timestamp: Timestamp::now(),
                value: (*value).to_owned(),
            };
            ((*key).to_owned(), latest)
        };
        let node = Node {
            id: id.to_owned(),
            latest: latest.iter().map(property).collect(),
            ..Node::default()
        };
        self.own.push((kind, id.to_owned(), node));
    }

    /// Scope's own reporters do not find it any more.
    pub(crate) fn forgets(&mut self, id: &str) {
        self.own.retain(|(_, known, _)| known != id);
    }

    /// Asks the plugin and publishes to `app` what came of it. Returns the plugin's status as the user interface shows it.
    pub(crate) fn publish(&mut self, app: &mut App) -> Result<(), String> {
        let (mut report, status) = match self.poll() {
            Ok(report) => (report, Ok(())),
            Err(error) => {
                self.connection = None;
                (Report::default(), Err(error))
            }
        };
        for (kind, id, node) in &self.own {
            let nodes = &mut report.topologies.entry(*kind).or_default().nodes;
            merge_node(nodes.entry(id.clone()).or_default(), node);
        }
        let whole = report.clone();
        if !self.published.is_multiple_of(3) {
            subtract(&mut report, &self.last);
        }
        self.last = whole;
        self.published += 1;
        app.receive(report);
        status
    }

    fn poll(&mut self) -> Result<Report, String> {
        let deadline = Instant::now() + BUDGET;
        // Go sends a request again on a new connection if a kept one turns out to be closed.
        if let Some(connection) = self.connection.take()
            && let Ok(body) = self.exchange(connection, deadline)
        {
            return self.accept(&body);
        }
        let connection = UnixStream::connect(&self.socket).map_err(|error| error.to_string())?;
        let body = self.exchange(connection, deadline)?;
        self.accept(&body)
    }

    fn exchange(&mut self, mut connection: UnixStream, deadline: Instant) -> Result<Vec<u8>, String> {
        let text = |error: std::io::Error| error.to_string();
        let request = format!(
            "GET /report?api_version=1&probe_id={} HTTP/1.1\r\nHost: plugin\r\nUser-Agent: Go-http-client/1.1\r\n\
             Accept-Encoding: gzip\r\n\r\n",
            self.id
        );
        connection.write_all(request.as_bytes()).map_err(text)?;
        let mut answer = Vec::new();
        let mut chunk = vec![0; 64 * 1024];
        let (head, length) = loop {
            if let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
                let length = header(&head, "content-length").and_then(|length| length.parse().ok());
                let length: usize = length.ok_or("no length")?;
                if answer.len() >= end + 4 + length {
                    answer.drain(..end + 4);
                    break (head, length);
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            connection
                .set_read_timeout(Some(left.max(Duration::from_micros(1))))
                .map_err(text)?;
            let count = connection.read(&mut chunk).map_err(text)?;
            if count == 0 {
                return Err("EOF".to_owned());
            }
            answer.extend_from_slice(&chunk[..count]);
        };
        if answer.len() != length {
            return Err("more than one answer".to_owned());
        }
        if !head.starts_with("http/1.1 200 ") {
            return Err(format!("plugin returned non-200 status code: {head}"));
        }
        self.connection = Some(connection);
        if header(&head, "content-encoding") != Some("gzip") {
            return Ok(answer);
        }
        let mut body = Vec::new();
        GzDecoder::new(&answer[..]).read_to_end(&mut body).map_err(text)?;
        Ok(body)
    }

    fn accept(&self, body: &[u8]) -> Result<Report, String> {
        if body.len() > 50 * 1024 * 1024 {
            return Err("response must be shorter than 50MB".to_owned());
        }
        let report: Report =
            serde_json::from_slice(body).map_err(|error| format!("decoding error: {error}"))?;
        let [plugin] = report.plugins.as_slice() else {
            return Err("report must contain exactly one plugin".to_owned());
        };
        let name = self
            .socket
            .file_stem()
            .map(|name| name.to_string_lossy().into_owned());
        if Some(&plugin.id) != name.as_ref() {
            return Err("plugin must not change its id".to_owned());
        }
        if plugin.api_version != "1" {
            return Err("incorrect API version".to_owned());
        }
        if plugin.label.is_empty() {
            return Err("spec must contain a label".to_owned());
        }
        if !plugin.interfaces.iter().any(|interface| interface == "reporter") {
            return Err("spec must implement the \"reporter\" interface".to_owned());
        }
        Ok(report)
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
}

/// Two of three publishes are differences: no templates, and of nodes only the parts that changed.
fn subtract(report: &mut Report, last: &Report) {
    for (kind, topology) in &mut report.topologies {
        topology.metric_templates.clear();
        topology.metadata_templates.clear();
        for (id, node) in &mut topology.nodes {
            let Some(before) = last
                .topologies
                .get(kind)
                .and_then(|topology| topology.nodes.get(id))
            else {
                continue;
            };
            if node.id == before.id {
                node.id.clear();
            }
            if node.latest == before.latest {
                node.latest.clear();
            }
            if node.parents == before.parents {
                node.parents.clear();
            }
        }
    }
}

/// The app, with one user who looks.
#[derive(Default)]
pub(crate) struct App {
    received: VecDeque<Report>,
}

/// One line of a node's details.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MetricRow {
    pub(crate) label: String,
    /// The last sample, cut after two decimals.
    pub(crate) value: f64,
    /// All samples.
    pub(crate) graph: Vec<f64>,
}

/// A node's details.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Details {
    pub(crate) name: String,
    /// Those that show at once come first, at most three; the rest is under "+N".
    pub(crate) metrics: Vec<MetricRow>,
    pub(crate) rows: BTreeMap<String, String>,
    pub(crate) parents: BTreeMap<String, Vec<String>>,
}

impl Details {
    pub(crate) fn metric(&self, label: &str) -> Option<&MetricRow> {
        self.metrics.iter().find(|row| row.label == label)
    }
}

impl App {
    fn receive(&mut self, report: Report) {
        self.received.push_back(report);
        while self.received.len() > KEPT {
            self.received.pop_front();
        }
    }

    fn merged(&self) -> BTreeMap<Kind, Topology> {
        let mut merged: BTreeMap<Kind, Topology> = BTreeMap::new();
        for (kind, topology) in self.received.iter().flat_map(|report| &report.topologies) {
            let Topology {
                nodes,
                metric_templates,
                metadata_templates,
            } = topology;
            let sum = merged.entry(*kind).or_default();
            for (id, node) in nodes {
                merge_node(sum.nodes.entry(id.clone()).or_default(), node);
            }
            for (ours, theirs) in [
                (&mut sum.metric_templates, metric_templates),
                (&mut sum.metadata_templates, metadata_templates),
            ] {
                ours.extend(theirs.iter().map(|(id, template)| (id.clone(), template.clone())));
            }
        }
        merged
    }

    /// The nodes of a view, by id. Those without an id are not shown.
    pub(crate) fn view(&self, kind: Kind) -> BTreeMap<String, Details> {
        let mut merged = self.merged();
        pass_on(&mut merged, Kind::Container, Kind::Pod, "pod");
        for (parent, key) in [
            (Kind::Service, "service"),
            (Kind::Deployment, "deployment"),
            (Kind::DaemonSet, "daemon_set"),
            (Kind::StatefulSet, "stateful_set"),
            (Kind::CronJob, "cron_job"),
            (Kind::Job, "job"),
        ] {
            pass_on(&mut merged, Kind::Pod, parent, key);
        }
        let topology = merged.remove(&kind).unwrap_or_default();
        let shown = topology.nodes.iter().filter(|(_, node)| !node.id.is_empty());
        shown
            .map(|(id, node)| (id.clone(), details(&topology, node)))
            .collect()
    }
}

fn details(topology: &Topology, node: &Node) -> Details {
    let mut templates: Vec<(&String, &Template)> = topology.metric_templates.iter().collect();
    templates.sort_by(|(_, a), (_, b)| a.priority.total_cmp(&b.priority));
    let metric = |(key, template): (&String, &Template)| {
        assert_eq!(*key, template.id, "a template's key is its id");
        let metric = node.metrics.get(key)?;
        assert!(metric.max > 0.0, "{key}: the graph's fill would be infinite");
        let graph: Vec<f64> = metric.samples.iter().map(|sample| sample.value).collect();
        Some(MetricRow {
            label: template.label.clone(),
            value: (graph.last()? * 100.0).trunc() / 100.0,
            graph,
        })
    };
    let row = |template: &Template| {
        let value = node.latest.get(&template.id)?.value.clone();
        Some((template.label.clone(), value))
    };
    let name = ["name", "docker_container_name", "kubernetes_name", "host_name"]
        .iter()
        .find_map(|key| node.latest.get(*key));
    Details {
        name: name.map(|name| name.value.clone()).unwrap_or_default(),
        metrics: templates.into_iter().filter_map(metric).collect(),
        rows: topology.metadata_templates.values().filter_map(row).collect(),
        parents: node.parents.clone(),
    }
}

/// A node shows the metrics of its only child.
fn pass_on(merged: &mut BTreeMap<Kind, Topology>, from: Kind, to: Kind, key: &str) {
    let children: Vec<Node> = merged
        .get(&from)
        .map(|topology| {
            topology
                .nodes
                .values()
                .filter(|node| !node.id.is_empty())
                .cloned()
                .collect()
        })
        .unwrap_or_default();
    let Some(topology) = merged.get_mut(&to) else {
        return;
    };
    for (id, node) in &mut topology.nodes {
        let mut own = children
            .iter()
            .filter(|child| child.parents.get(key).is_some_and(|parents| parents.contains(id)));
        if let (Some(child), None) = (own.next(), own.next()) {
            merge_metrics(&mut node.metrics, &child.metrics);
        }
    }
}

fn merge_node(node: &mut Node, other: &Node) {
    if node.id.is_empty() {
        node.id.clone_from(&other.id);
    }
    for (key, latest) in &other.latest {
        let newer = node
            .latest
            .get(key)
            .is_none_or(|known| known.timestamp < latest.timestamp);
        if newer {
            node.latest.insert(key.clone(), latest.clone());
        }
    }
    for (key, parents) in &other.parents {
        let known = node.parents.entry(key.clone()).or_default();
        known.extend(parents.iter().cloned());
        known.sort();
        known.dedup();
    }
    merge_metrics(&mut node.metrics, &other.metrics);
}

fn merge_metrics(metrics: &mut BTreeMap<String, Metric>, others: &BTreeMap<String, Metric>) {
    for (key, other) in others {
        let Some(metric) = metrics.get_mut(key) else {
            metrics.insert(key.clone(), other.clone());
            continue;
        };
        // By date; of equal dates the first one stays.
        let samples = metric.samples.drain(..).chain(other.samples.iter().cloned());
        let mut by_date: BTreeMap<Timestamp, Sample> = BTreeMap::new();
        for sample in samples {
            by_date.entry(sample.date).or_insert(sample);
        }
        metric.samples = by_date.into_values().collect();
        metric.max = metric.max.max(other.max);
    }
}
