//! What Weave Scope is told: the [`model`] of its reports, and how one is built from the window of rates. Pure.

pub mod model;

use std::collections::{BTreeMap, BTreeSet};

use crate::config::{HostId, StatusCodes};
use crate::stats::{Event, Owner, Series, Subject, Window};
use model::{Date, Metric, MetricTemplate, Node, PluginSpec, Report, Sample, Topology};

/// Scope's id of this plugin, and the file name of its socket without extension.
pub const PLUGIN_ID: &str = "http-statistics";

/// A graph of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MetricKind {
    /// Requests received per second.
    Requests,
    /// Responses per second with this status code.
    Code(u16),
    /// Responses per second with any other status code.
    Others,
}

impl MetricKind {
    /// Every metric of a configuration, in the order they are shown.
    fn all(codes: &StatusCodes) -> impl Iterator<Item = Self> {
        [Self::Requests]
            .into_iter()
            .chain(codes.iter().map(Self::Code))
            .chain([Self::Others])
    }

    /// The metric that shows an event.
    fn of(event: Event, codes: &StatusCodes) -> Self {
        match event {
            Event::Request => Self::Requests,
            Event::Response(code) if codes.contains(code) => Self::Code(code),
            Event::Response(_) | Event::UnknownResponse => Self::Others,
        }
    }

    /// The id in Scope: the ones of the original plugin, so that what knows those goes on working.
    #[must_use]
    pub fn id(self) -> String {
        match self {
            Self::Requests => "http_requests_per_second".to_owned(),
            Self::Code(code) => format!("http_{code}_responses_per_second"),
            Self::Others => "http_OTHERS_responses_per_second".to_owned(),
        }
    }

    /// The metric with this id.
    #[must_use]
    pub fn from_id(id: &str) -> Option<Self> {
        match id {
            "http_requests_per_second" => Some(Self::Requests),
            "http_OTHERS_responses_per_second" => Some(Self::Others),
            _ => {
                let code = id.strip_prefix("http_")?.strip_suffix("_responses_per_second")?;
                code.parse().ok().map(Self::Code)
            }
        }
    }

    fn template(self) -> MetricTemplate {
        let (label, priority) = match self {
            Self::Requests => ("HTTP Req/Second".to_owned(), 0.1),
            // 100/1000 is taken by requests, and equal priorities make Scope's rows flicker.
            Self::Code(100) => ("HTTP Resp 100/Second".to_owned(), 0.1005),
            Self::Code(code) => (format!("HTTP Resp {code}/Second"), f64::from(code) / 1000.0),
            Self::Others => ("HTTP Resp OTHERS/Second".to_owned(), 0.999),
        };
        MetricTemplate {
            id: self.id(),
            label,
            priority,
        }
    }
}

/// Builds reports of one host.
#[derive(Clone, Debug)]
pub struct ReportBuilder {
    host_id: HostId,
    codes: StatusCodes,
    metric_templates: BTreeMap<String, MetricTemplate>,
}

impl ReportBuilder {
    /// Reports for processes of `host_id`, with a metric of their own for `codes`.
    #[must_use]
    pub fn new(host_id: HostId, codes: StatusCodes) -> Self {
        let metric_templates = MetricKind::all(&codes)
            .map(|kind| (kind.id(), kind.template()))
            .collect();
        Self {
            host_id,
            codes,
            metric_templates,
        }
    }

    /// The report of a window. `is_live` says which processes may be shown: Scope would make up a node for a
    /// process it does not know.
    #[must_use]
    pub fn build(&self, window: &Window, is_live: impl Fn(&Owner) -> bool) -> Report {
        let dates: Vec<Date> = window.dates().map(Date::from).collect();
        let nodes = processes(window, &self.codes, is_live)
            .into_iter()
            .map(|(pid, by_kind)| {
                let metrics = by_kind
                    .into_iter()
                    .map(|(kind, series)| (kind.id(), metric(window, &dates, &series)))
                    .collect();
                (format!("{};{pid}", self.host_id), Node { metrics })
            })
            .collect();
        Report {
            plugins: [plugin_spec()],
            process: Topology {
                nodes,
                metric_templates: self.metric_templates.clone(),
            },
        }
    }
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

/// Live processes with traffic in the window. A process that moved to another cgroup is one process.
fn processes(
    window: &Window,
    codes: &StatusCodes,
    is_live: impl Fn(&Owner) -> bool,
) -> BTreeMap<u32, BTreeMap<MetricKind, Series>> {
    let mut processes: BTreeMap<u32, BTreeMap<MetricKind, Series>> = BTreeMap::new();
    for (subject, by_event) in window.series() {
        let Subject::Process(owner) = subject else {
            continue;
        };
        if !is_live(owner) {
            continue;
        }
        let by_kind = processes.entry(owner.pid).or_default();
        for (event, series) in by_event {
            by_kind
                .entry(MetricKind::of(*event, codes))
                .or_default()
                .merge(series);
        }
    }
    processes
}

fn metric(window: &Window, dates: &[Date], series: &Series) -> Metric {
    let rates = window.rates(series);
    let first = dates.len() - rates.len();
    let samples: Vec<Sample> = dates[first..]
        .iter()
        .zip(rates)
        .map(|(date, rate)| Sample {
            date: date.clone(),
            value: round(rate),
        })
        .collect();
    let max = samples.iter().map(|sample| sample.value).fold(0.0, f64::max);
    Metric {
        samples,
        min: 0.0,
        max: if max > 0.0 { max } else { 1.0 },
    }
}

/// Scope cuts values after two decimals, so that 199.998 would show as 199.99: round to what it can show.
fn round(rate: f64) -> f64 {
    let rounded = (rate * 100.0).round() / 100.0;
    // Once in 300 s is not never.
    if rounded == 0.0 && rate > 0.0 {
        0.01
    } else {
        rounded
    }
}

/// Ids of the metrics in a report, in the order they are shown.
#[must_use]
pub fn metrics_shown(report: &Report) -> BTreeSet<MetricKind> {
    report
        .process
        .nodes
        .values()
        .flat_map(|node| node.metrics.keys())
        .filter_map(|id| MetricKind::from_id(id))
        .collect()
}
