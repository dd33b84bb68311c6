//! What the rows of the table are: everyone by process, container or pod, in an order, and who is left out. Pure.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use clap::ValueEnum;
use jiff::Timestamp;
use serde::Serialize;

use crate::overview::{Activity, Overview};
use crate::totals::PlaceTotals;

/// What a row is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(in crate::cli) enum Grouping {
    #[default]
    Process,
    Container,
    Pod,
}

impl Grouping {
    pub(super) const fn next(self) -> Self {
        match self {
            Self::Process => Self::Container,
            Self::Container => Self::Pod,
            Self::Pod => Self::Process,
        }
    }

    pub(super) const fn plural(self) -> &'static str {
        match self {
            Self::Process => "processes",
            Self::Container => "containers",
            Self::Pod => "pods",
        }
    }
}

/// What rows are sorted by; numbers descend, names ascend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Sort {
    /// Requests per second
    #[default]
    Rate,
    /// Responses 4xx and 5xx per second
    Errors,
    /// Requests since the agent started
    Total,
    /// By name
    Name,
}

impl Sort {
    pub(super) const fn next(self) -> Self {
        match self {
            Self::Rate => Self::Errors,
            Self::Errors => Self::Total,
            Self::Total => Self::Name,
            Self::Name => Self::Rate,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Errors => "errors",
            Self::Total => "total",
            Self::Name => "name",
        }
    }
}

/// One process, container or pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(in crate::cli) struct Row {
    /// Of processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pid: Option<u32>,
    /// Command, container, or `<namespace>/<pod>`.
    pub(super) name: String,
    /// Where that is: the container, its pod, or else the cgroup.
    pub(super) place: String,
    /// Since the agent started.
    pub(super) requests: u64,
    /// The same by status code.
    pub(super) responses: BTreeMap<String, u64>,
    /// In the latest tick.
    pub(super) requests_per_second: f64,
    /// The same by status code.
    pub(super) responses_per_second: BTreeMap<String, f64>,
    /// Requests per second in the ticks of the last minute, oldest first.
    pub(super) history: Vec<f64>,
}

impl Row {
    /// Responses per second of a class of status codes, 1 to 5.
    pub(super) fn class_rate(&self, class: u8) -> f64 {
        let digit = char::from(b'0' + class);
        let of_class = |(code, rate): (&String, &f64)| code.starts_with(digit).then_some(*rate);
        let rates = self.responses_per_second.iter().filter_map(of_class);
        // The sum of no floats is -0.
        rates.fold(0.0, |sum, rate| sum + rate)
    }

    fn error_rate(&self) -> f64 {
        self.class_rate(4) + self.class_rate(5)
    }

    /// Tells rows apart from one refresh to the next.
    pub(super) fn key(&self) -> (Option<u32>, &str, &str) {
        (self.pid, &self.name, &self.place)
    }

    fn add(&mut self, activity: &Activity, ticks: usize) {
        let Activity {
            counts,
            request_rates,
            response_rates,
        } = activity;
        self.requests += counts.requests;
        for (code, count) in &counts.responses {
            *self.responses.entry(code.clone()).or_default() += count;
        }
        for (code, rate) in response_rates {
            *self.responses_per_second.entry(code.clone()).or_default() += rate;
        }
        self.history.resize(ticks, 0.0);
        for (sum, rate) in self.history.iter_mut().rev().zip(request_rates.iter().rev()) {
            *sum += rate;
        }
        self.requests_per_second = self.history.last().copied().unwrap_or(0.0);
    }
}

/// What is shown of an overview.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(in crate::cli) struct Listing {
    pub(super) host: String,
    pub(super) hook: String,
    /// The agent's process.
    pub(super) agent: u32,
    pub(super) date: Option<Timestamp>,
    /// Why the counters cannot be read, if so.
    pub(super) failure: Option<String>,
    pub(super) by: Grouping,
    pub(super) rows: Vec<Row>,
    /// All of it, also what the rows leave out.
    pub(super) sum: Row,
    pub(super) losses: BTreeMap<String, u64>,
}

/// Which rows there are, and in which order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::cli) struct Selection {
    pub(in crate::cli) by: Grouping,
    pub(in crate::cli) sort: Sort,
    /// The other way round.
    pub(in crate::cli) reverse: bool,
    /// Only rows with this in name, place or PID, in whatever case.
    pub(in crate::cli) filter: String,
}

impl Selection {
    /// Processes that are gone are in their containers and pods, and in the sum.
    pub(super) fn of(&self, overview: &Overview) -> Listing {
        let ticks = overview.ticks;
        let mut rows: BTreeMap<(Option<u32>, String, String), Row> = BTreeMap::new();
        let mut sum = Row {
            name: "all".to_owned(),
            ..Row::default()
        };
        let mut take = |names: Option<(Option<u32>, String, String)>, activity: &Activity| {
            sum.add(activity, ticks);
            if let Some((pid, name, place)) = names {
                let row = rows
                    .entry((pid, name.clone(), place.clone()))
                    .or_insert_with(|| Row {
                        pid,
                        name,
                        place,
                        ..Row::default()
                    });
                row.add(activity, ticks);
            }
        };
        for process in &overview.processes {
            let (command, place) = (process.command.as_deref(), &process.place);
            take(self.names(Some((process.pid, command)), place), &process.activity);
        }
        for exited in &overview.exited {
            take(self.names(None, &exited.place), &exited.activity);
        }
        let mut rows: Vec<Row> = rows.into_values().filter(|row| self.shows(row)).collect();
        rows.sort_by(|a, b| self.compare(a, b));
        Listing {
            host: overview.host.clone(),
            hook: overview.hook.clone(),
            agent: overview.pid,
            date: overview.date,
            failure: overview.failure.clone(),
            by: self.by,
            rows,
            sum,
            losses: overview.losses.clone(),
        }
    }

    /// PID, name and place of the row for a process, if it has one.
    fn names(
        &self,
        process: Option<(u32, Option<&str>)>,
        place: &PlaceTotals,
    ) -> Option<(Option<u32>, String, String)> {
        let pod = pod(place);
        let container = container(place);
        let cgroup = || printable(place.cgroup.as_deref().unwrap_or("?"));
        match self.by {
            Grouping::Process => process.map(|(pid, command)| {
                let place = match (pod, container) {
                    (Some(pod), Some(container)) => format!("{pod}/{container}"),
                    (Some(name), None) | (None, Some(name)) => name,
                    (None, None) => cgroup(),
                };
                (Some(pid), printable(command.unwrap_or("?")), place)
            }),
            Grouping::Container => Some(match container {
                Some(container) => (None, container, pod.unwrap_or_else(cgroup)),
                None => (None, "(no container)".to_owned(), String::new()),
            }),
            Grouping::Pod => Some((None, pod.unwrap_or_else(|| "(no pod)".to_owned()), String::new())),
        }
    }

    fn shows(&self, row: &Row) -> bool {
        let filter = self.filter.to_lowercase();
        let has = |text: &str| text.to_lowercase().contains(&filter);
        has(&row.name) || has(&row.place) || row.pid.is_some_and(|pid| has(&pid.to_string()))
    }

    fn compare(&self, a: &Row, b: &Row) -> Ordering {
        let by_rate = || b.requests_per_second.total_cmp(&a.requests_per_second);
        let order = match self.sort {
            Sort::Rate => by_rate(),
            Sort::Errors => b.error_rate().total_cmp(&a.error_rate()).then_with(by_rate),
            Sort::Total => b.requests.cmp(&a.requests),
            Sort::Name => Ordering::Equal,
        };
        // Rows that are equal must not jump about.
        let order = order
            .then_with(|| a.name.cmp(&b.name))
            .then_with(|| a.key().cmp(&b.key()));
        if self.reverse { order.reverse() } else { order }
    }
}

/// `<namespace>/<name>`, or else its UID.
fn pod(place: &PlaceTotals) -> Option<String> {
    match (&place.namespace, &place.pod) {
        (Some(namespace), Some(pod)) => Some(printable(&format!("{namespace}/{pod}"))),
        _ => place.pod_uid.clone(),
    }
}

/// Its name, or else how its id begins.
fn container(place: &PlaceTotals) -> Option<String> {
    let id = place.container_id.as_deref()?;
    Some(match &place.container {
        Some(name) => printable(name),
        None => id.chars().take(12).collect(),
    })
}

/// Processes choose their names, and must not tell a terminal what to do.
fn printable(text: &str) -> String {
    text.replace(char::is_control, "?")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overview::{ExitedActivity, ProcessActivity};
    use crate::totals::Counts;

    fn activity(requests: u64, rate: f64, code: &str) -> Activity {
        Activity {
            counts: Counts {
                losses: BTreeMap::new(),
                requests,
                responses: [(code.to_owned(), requests)].into(),
            },
            request_rates: vec![rate, rate / 2.0],
            response_rates: [(code.to_owned(), rate / 2.0)].into(),
        }
    }

    fn place(pod: Option<&str>, container: char) -> PlaceTotals {
        PlaceTotals {
            cgroup: Some(format!("/{container}")),
            container_id: pod.map(|_| container.to_string().repeat(64)),
            container: None,
            pod_uid: pod.map(|_| "uid".to_owned()),
            pod: pod.map(str::to_owned),
            namespace: pod.map(|_| "shop".to_owned()),
        }
    }

    fn overview() -> Overview {
        let process = |pid, command: &str, place, activity| ProcessActivity {
            pid,
            command: Some(command.to_owned()),
            place,
            activity,
        };
        Overview {
            host: "h".to_owned(),
            hook: "kprobe".to_owned(),
            pid: 1,
            date: None,
            failure: None,
            ticks: 3,
            processes: vec![
                process(7, "nginx", place(Some("web"), 'a'), activity(10, 4.0, "200")),
                process(8, "nginx", place(Some("web"), 'a'), activity(20, 8.0, "404")),
                process(9, "a\u{1b}[2J", place(None, 'b'), activity(99, 0.0, "503")),
            ],
            exited: vec![ExitedActivity {
                place: place(Some("web"), 'a'),
                activity: activity(1, 2.0, "200"),
            }],
            losses: BTreeMap::new(),
        }
    }

    /// Name, requests and rate of each row.
    fn rows(selection: &Selection) -> Vec<(String, u64, f64)> {
        let rows = selection.of(&overview()).rows;
        rows.into_iter()
            .map(|row| (row.name, row.requests, row.requests_per_second))
            .collect()
    }

    #[test]
    fn rows_are_processes_containers_or_pods() {
        let by = |by| {
            rows(&Selection {
                by,
                ..Selection::default()
            })
        };
        let named = |rows: &[(&str, u64, f64)]| -> Vec<(String, u64, f64)> {
            rows.iter()
                .map(|(name, total, rate)| ((*name).to_owned(), *total, *rate))
                .collect()
        };
        assert_eq!(
            by(Grouping::Process),
            named(&[("nginx", 20, 4.0), ("nginx", 10, 2.0), ("a?[2J", 99, 0.0)])
        );
        assert_eq!(
            by(Grouping::Container),
            named(&[("aaaaaaaaaaaa", 31, 7.0), ("(no container)", 99, 0.0)])
        );
        assert_eq!(
            by(Grouping::Pod),
            named(&[("shop/web", 31, 7.0), ("(no pod)", 99, 0.0)])
        );
        let sum = Selection::default().of(&overview()).sum;
        assert_eq!((sum.requests, sum.history), (130, vec![0.0, 14.0, 7.0]));
        assert_eq!(sum.responses_per_second["200"].to_string(), "3");
    }

    #[test]
    fn rows_are_sorted_and_filtered() {
        let totals = |sort, reverse, filter: &str| -> Vec<u64> {
            let selection = Selection {
                by: Grouping::Process,
                sort,
                reverse,
                filter: filter.to_owned(),
            };
            rows(&selection).into_iter().map(|(_, total, _)| total).collect()
        };
        assert_eq!(totals(Sort::Rate, false, ""), [20, 10, 99]);
        assert_eq!(totals(Sort::Errors, false, ""), [20, 10, 99]);
        assert_eq!(totals(Sort::Errors, true, ""), [99, 10, 20]);
        assert_eq!(totals(Sort::Total, false, ""), [99, 20, 10]);
        assert_eq!(totals(Sort::Name, false, ""), [99, 10, 20]);
        for (filter, expected) in [
            ("NGINX", &[20, 10][..]),
            ("shop/web", &[20, 10]),
            ("9", &[99]),
            ("none", &[]),
        ] {
            assert_eq!(totals(Sort::Rate, false, filter), expected, "{filter}");
        }
    }
}
