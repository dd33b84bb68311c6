//! What Weave Scope is told: the [`model`] of its reports, and how one is built from the window of rates. Pure.
//!
//! Scope sums nothing up: it passes a container's metrics on to its pod, and a pod's to its controller, if it is the
//! only one there. So processes, containers and pods each have their own rates, and the templates are also where the
//! controllers are.

mod metric;
pub mod model;
mod writer;

use std::borrow::Cow;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::iter;
use std::sync::LazyLock;

use jiff::Timestamp;

use crate::bpf::{Hook, Loss, Losses};
use crate::config::Filter;
use crate::config::{HostId, PLUGIN_ID, StatusCodes};
use crate::stats::{Ledger, Series, Subject, Window};
use crate::workload::{ContainerId, ControllerKind, Directory, Place, PodUid};
pub use metric::MetricKind;
use model::{Date, Latest, MetadataTemplate, MetricTemplate, Node, PluginSpec, Report};
use writer::ReportWriter;

/// Largest report, in bytes of JSON. Scope takes 50 MiB, but has 500 ms for all of it. A report that would be larger
/// shows less of the past.
pub const MAX_REPORT: usize = 3 * 1024 * 1024;

/// Key of a process's pod in `latest`.
pub const POD_ROW: &str = "http_statistics_pod";
/// Key of its pod's namespace.
pub const NAMESPACE_ROW: &str = "http_statistics_namespace";
/// Key of its container's name.
pub const CONTAINER_ROW: &str = "http_statistics_container";
/// Key of the hook that counts it.
pub const HOOK_ROW: &str = "http_statistics_hook";
/// Key of what could not be counted on a host.
pub const LOSSES_ROW: &str = "http_statistics_losses";

/// Rows of processes: key, label, and place among the rows. Scope's own are 1 to 4.
const PROCESS_ROWS: [(&str, &str, f64); 4] = [
    (POD_ROW, "Pod", 11.0),
    (NAMESPACE_ROW, "Namespace", 12.0),
    (CONTAINER_ROW, "Container", 13.0),
    (HOOK_ROW, "HTTP counted by", 14.0),
];
/// Rows of hosts. Scope's own are 1 to 14.
const HOST_ROWS: [(&str, &str, f64); 1] = [(LOSSES_ROW, "HTTP not counted", 21.0)];

fn metadata_templates(
    rows: &[(&'static str, &'static str, f64)],
) -> BTreeMap<Cow<'static, str>, MetadataTemplate> {
    let template = |(key, label, priority): &(&'static str, &'static str, f64)| {
        let template = MetadataTemplate {
            id: (*key).into(),
            label: (*label).into(),
            priority: *priority,
            from: "latest".into(),
        };
        ((*key).into(), template)
    };
    rows.iter().map(template).collect()
}

/// What a report is made of.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// This host, in Scope.
    pub host_id: &'a HostId,
    /// What happened lately.
    pub window: &'a Window,
    /// To whom: Scope would make up a node for a process that is known to be gone.
    pub ledger: &'a Ledger,
    /// Places in the window that are gone: Scope would make up a container for one.
    pub gone: &'a HashSet<Place>,
    /// What containers and pods are called.
    pub directory: &'a Directory,
    /// What could not be counted, and when that last changed.
    pub losses: (&'a Losses, Timestamp),
}

/// Builds reports of one host.
#[derive(Clone, Debug)]
pub struct ReportBuilder {
    codes: StatusCodes,
    /// Templates as they stand in a topology's JSON: of graphs, of processes, of hosts.
    graphs: String,
    processes: String,
    hosts: String,
    hook: Hook,
    max_size: usize,
    filter: Filter,
}

impl ReportBuilder {
    /// Reports with a metric of their own for `codes`, of an agent that counts with `hook`, of at most `max_size` bytes,
    /// usually [`MAX_REPORT`].
    #[must_use]
    pub fn new(codes: StatusCodes, hook: Hook, max_size: usize) -> Self {
        let metric_templates: BTreeMap<MetricKind, MetricTemplate> = MetricKind::all(&codes)
            .map(|kind| (kind, kind.template()))
            .collect();
        let graphs = format!(r#""metric_templates":{}"#, writer::json(&metric_templates));
        let rows = |rows: &[_]| {
            let templates = metadata_templates(rows);
            format!(r#""metadata_templates":{}"#, writer::json(&templates))
        };
        Self {
            codes,
            processes: format!("{graphs},{}", rows(&PROCESS_ROWS)),
            hosts: rows(&HOST_ROWS),
            graphs,
            hook,
            max_size,
            filter: Filter::default(),
        }
    }

    /// The same of what `filter` shows only.
    #[must_use]
    pub fn filtered(self, filter: Filter) -> Self {
        Self { filter, ..self }
    }

    /// The report of a window as JSON, a [`Report`], and how many of the window's ticks are shown: not all if the
    /// report would be too large.
    ///
    /// Nearly all of it is samples. They are written straight to their place, not by way of a [`Report`], which would
    /// take longer than all else that the agent does.
    #[must_use]
    pub fn build(&self, facts: &Facts<'_>) -> (Vec<u8>, usize) {
        let Drafts {
            processes,
            containers,
            pods,
        } = Drafts::new(facts, &self.codes, &self.filter);
        let mut writer = ReportWriter::new(&[plugin_spec()]);
        let processes = processes
            .into_iter()
            .map(|(pid, draft)| self.process(facts, pid, draft));
        writer.topology("Process", processes, &self.processes);
        let containers = containers
            .into_iter()
            .map(|(id, draft)| container(facts, id, draft));
        writer.topology("Container", containers, &self.graphs);
        let pods = pods.into_iter().map(|(uid, rates)| pod(facts, uid, rates));
        writer.topology("Pod", pods, &self.graphs);
        // Scope passes on to them what their only pod has.
        for name in [
            "Service",
            "Deployment",
            "DaemonSet",
            "StatefulSet",
            "CronJob",
            "Job",
        ] {
            writer.topology(name, iter::empty(), &self.graphs);
        }
        let hosts = host(facts).into_iter();
        writer.topology(
            "Host",
            hosts.map(|(id, node)| (id, node, Rates::new())),
            &self.hosts,
        );
        writer.finish(facts.window, self.max_size)
    }

    fn process<'a>(&self, facts: &Facts<'_>, pid: u32, draft: Draft<'a>) -> (String, Node, Rates<'a>) {
        let Draft {
            place,
            rates,
            idle: _,
        } = draft;
        let directory = facts.directory;
        let uid = directory.pod_of(place);
        let pod = uid.and_then(|uid| directory.pods.get(uid));
        let mut rows: BTreeMap<Cow<'static, str>, Latest> = [constant(HOOK_ROW, self.hook.name())].into();
        if let Some(pod) = pod {
            rows.extend([
                constant(POD_ROW, &pod.name),
                constant(NAMESPACE_ROW, &pod.namespace),
            ]);
        }
        let mut parents = BTreeMap::new();
        if let Some(id) = place.container {
            rows.extend([constant("docker_container_id", &id.to_string())]);
            parents.insert("container".into(), vec![container_id(id)]);
            if let Some(container) = directory.containers.get(&id) {
                rows.extend([constant(CONTAINER_ROW, &container.name)]);
            }
        }
        if let Some(uid) = uid {
            parents.insert("pod".into(), vec![pod_id(uid)]);
        }
        let node = Node {
            id: None,
            latest: rows,
            parents,
            metrics: BTreeMap::new(),
        };
        (format!("{};{pid}", facts.host_id), node, rates)
    }
}

/// The date of what does not change. The oldest: what Scope knows itself is newer and is shown instead.
static ALWAYS: LazyLock<Date> = LazyLock::new(|| Timestamp::UNIX_EPOCH.into());

/// A property that does not change.
fn constant(key: &'static str, value: &str) -> (Cow<'static, str>, Latest) {
    let latest = Latest {
        timestamp: ALWAYS.clone(),
        value: value.to_owned(),
    };
    (key.into(), latest)
}

fn container_id(id: ContainerId) -> String {
    format!("{id};<container>")
}

fn pod_id(uid: &PodUid) -> String {
    format!("{uid};<pod>")
}

/// A container that Scope may not know: its runtime need not be one that Scope asks.
fn container<'a>(facts: &Facts<'_>, id: ContainerId, draft: Draft<'a>) -> (String, Node, Rates<'a>) {
    let Draft {
        place,
        rates,
        idle: _,
    } = draft;
    let digits = id.to_string();
    let name = match facts.directory.containers.get(&id) {
        Some(container) => container.name.as_str(),
        None => &digits[..12],
    };
    let properties = [
        ("docker_container_id", digits.as_str()),
        ("docker_container_name", name),
        ("docker_container_state", "running"),
    ];
    let pod = facts.directory.pod_of(place);
    let node = Node {
        id: Some(container_id(id)),
        latest: properties.map(|(key, value)| constant(key, value)).into(),
        parents: pod
            .map(|uid| ("pod".into(), vec![pod_id(uid)]))
            .into_iter()
            .collect(),
        metrics: BTreeMap::new(),
    };
    (container_id(id), node, rates)
}

fn pod<'a>(facts: &Facts<'_>, uid: &PodUid, rates: Rates<'a>) -> (String, Node, Rates<'a>) {
    let pod = facts.directory.pods.get(uid);
    let mut properties = vec![("kubernetes_name", pod.map_or(uid.as_str(), |pod| &pod.name))];
    properties.extend(pod.map(|pod| ("kubernetes_namespace", pod.namespace.as_str())));
    let mut parents: BTreeMap<Cow<'static, str>, Vec<String>> = BTreeMap::new();
    for controller in pod.map_or(&[][..], |pod| &pod.controllers) {
        let kind = match controller.kind {
            ControllerKind::Deployment => "deployment",
            ControllerKind::DaemonSet => "daemon_set",
            ControllerKind::StatefulSet => "stateful_set",
            ControllerKind::CronJob => "cron_job",
            ControllerKind::Job => "job",
        };
        // The tag in an id has no underscore.
        let id = format!("{};<{}>", controller.uid, kind.replace('_', ""));
        parents.entry(kind.into()).or_default().push(id);
    }
    let node = Node {
        id: Some(pod_id(uid)),
        latest: properties
            .into_iter()
            .map(|(key, value)| constant(key, value))
            .collect(),
        parents,
        metrics: BTreeMap::new(),
    };
    (pod_id(uid), node, rates)
}

/// This host, if something could not be counted.
fn host(facts: &Facts<'_>) -> Option<(String, Node)> {
    let (losses, changed) = facts.losses;
    let causes: Vec<String> = Loss::ALL
        .iter()
        .zip(losses.0)
        .filter(|(_, count)| *count > 0)
        .map(|(loss, count)| format!("{} {count}", loss.name()))
        .collect();
    let losses = Latest {
        timestamp: changed.into(),
        value: causes.join(", "),
    };
    let node = Node {
        latest: [(LOSSES_ROW.into(), losses)].into(),
        ..Node::default()
    };
    (!causes.is_empty()).then(|| (format!("{};<host>", facts.host_id), node))
}

fn plugin_spec() -> PluginSpec {
    PluginSpec {
        id: PLUGIN_ID.to_owned(),
        label: "HTTP Statistics".to_owned(),
        description: "Adds http request metrics to processes".to_owned(),
        interfaces: vec!["reporter".to_owned()],
        api_version: "1".to_owned(),
    }
}

/// What happened to one node: for each metric the parts of a sum.
type Rates<'a> = BTreeMap<MetricKind, Vec<&'a Series>>;

/// A node to be.
struct Draft<'a> {
    /// Where it is; of several places the one with the latest traffic.
    place: &'a Place,
    /// How many ticks ago that was.
    idle: usize,
    rates: Rates<'a>,
}

/// Everyone with traffic in the window.
#[derive(Default)]
struct Drafts<'a> {
    /// Live ones. A process that moved to another cgroup is one process.
    processes: BTreeMap<u32, Draft<'a>>,
    /// With processes that are gone, unless they are gone themselves.
    containers: BTreeMap<ContainerId, Draft<'a>>,
    /// With containers that are gone, unless they are gone themselves.
    pods: BTreeMap<&'a PodUid, Rates<'a>>,
}

impl<'a> Drafts<'a> {
    fn new(facts: &Facts<'a>, codes: &StatusCodes, filter: &Filter) -> Self {
        let mut drafts = Self::default();
        let mut pods_there = BTreeSet::new();
        // In a fixed order: where idle times are equal, the choice of a place must not differ from report to report.
        let series: BTreeMap<_, _> = facts.window.series().collect();
        for (subject, by_event) in series {
            let (place, live) = match subject {
                Subject::Process(owner) => match facts.ledger.account(owner) {
                    Some(account) => (account.place(), facts.ledger.is_live(owner)),
                    None => continue,
                },
                Subject::Exited(place) => (place, false),
            };
            if !filter.shows(place, facts.directory) {
                continue;
            }
            let rates = || {
                by_event
                    .iter()
                    .filter_map(|(event, series)| Some((MetricKind::of(*event, codes)?, series)))
            };
            let idle = by_event.values().map(Series::idle).min().unwrap_or(usize::MAX);
            if let Subject::Process(owner) = subject
                && live
            {
                add(drafts.processes.entry(owner.pid), place, idle, rates());
            }
            let there = live || !facts.gone.contains(place);
            if let Some(id) = place.container
                && there
            {
                add(drafts.containers.entry(id), place, idle, rates());
            }
            if let Some(uid) = facts.directory.pod_of(place) {
                merge(drafts.pods.entry(uid).or_default(), rates());
                if there {
                    pods_there.insert(uid);
                }
            }
        }
        drafts.pods.retain(|uid, _| pods_there.contains(uid));
        drafts
    }
}

fn add<'a, K: Ord>(
    entry: Entry<'_, K, Draft<'a>>,
    place: &'a Place,
    idle: usize,
    rates: impl Iterator<Item = (MetricKind, &'a Series)>,
) {
    let draft = entry.or_insert_with(|| Draft {
        place,
        idle,
        rates: Rates::new(),
    });
    if idle < draft.idle {
        (draft.place, draft.idle) = (place, idle);
    }
    merge(&mut draft.rates, rates);
}

fn merge<'a>(sum: &mut Rates<'a>, rates: impl Iterator<Item = (MetricKind, &'a Series)>) {
    for (kind, series) in rates {
        sum.entry(kind).or_default().push(series);
    }
}

/// The metrics that some process in a report has, in the order they are shown.
#[must_use]
pub fn metrics_shown(report: &Report) -> BTreeSet<MetricKind> {
    let nodes = report.process.nodes.values();
    nodes.flat_map(|node| node.metrics.keys()).copied().collect()
}
