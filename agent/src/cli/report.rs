//! The latest rates of a report as a table.

use std::collections::BTreeMap;

use super::table::{Align, Table};
use crate::report::model::{Node, Report};
use crate::report::{CONTAINER_ROW, MetricKind, NAMESPACE_ROW, POD_ROW, metrics_shown};
use crate::totals::Totals;

/// One line per process with traffic in the window, and its pod if any has one. Commands come from the totals: reports
/// have none.
pub(super) fn table(report: &Report, totals: &Totals) -> String {
    let commands: BTreeMap<String, &str> = totals
        .processes
        .iter()
        .filter_map(|process| Some((process.pid.to_string(), process.command.as_deref()?)))
        .collect();
    let kinds: Vec<MetricKind> = metrics_shown(report)
        .into_iter()
        .filter(|kind| *kind != MetricKind::Requests)
        .collect();

    let in_pods = report
        .process
        .nodes
        .values()
        .any(|node| property(node, POD_ROW).is_some());
    let pod_titles = [("POD", Align::Left), ("CONTAINER", Align::Left)];
    let titles = [("PID", Align::Right), ("COMMAND", Align::Left)]
        .into_iter()
        .chain(pod_titles.into_iter().filter(|_| in_pods))
        .chain([("REQ/S", Align::Right)])
        .map(|(title, align)| (title.to_owned(), align));
    let mut table = Table::new(titles.chain(kinds.iter().map(|kind| (title(*kind), Align::Right))));
    for (id, node) in &report.process.nodes {
        let pid = id.rsplit(';').next().unwrap_or(id);
        let command = commands.get(pid).copied().unwrap_or("?");
        let rates = [MetricKind::Requests].iter().chain(&kinds);
        table.row(
            [pid.to_owned(), command.to_owned()]
                .into_iter()
                .chain([pod(node), container(node)].into_iter().filter(|_| in_pods))
                .chain(rates.map(|kind| latest(node, *kind))),
        );
    }
    table.render()
}

fn property<'a>(node: &'a Node, key: &str) -> Option<&'a str> {
    node.latest.get(key).map(|property| property.value.as_str())
}

/// `<namespace>/<name>`
fn pod(node: &Node) -> String {
    let name = property(node, POD_ROW).unwrap_or("-");
    match property(node, NAMESPACE_ROW) {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
    }
}

fn container(node: &Node) -> String {
    property(node, CONTAINER_ROW).unwrap_or("-").to_owned()
}

fn title(kind: MetricKind) -> String {
    match kind {
        MetricKind::Requests => "REQ/S".to_owned(),
        MetricKind::Code(code) => format!("{code}/S"),
        MetricKind::Others => "OTHERS/S".to_owned(),
    }
}

fn latest(node: &Node, kind: MetricKind) -> String {
    node.metrics
        .get(&kind)
        .and_then(|metric| metric.samples.last())
        .map_or_else(|| "-".to_owned(), |sample| format!("{:.2}", sample.value))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is known of process 12 besides its rates is `extra`.
    fn table_with(extra: &str) -> String {
        let report = r#"{"Plugins":[{"id":"http-statistics","label":"l","description":"d","interfaces":["reporter"],
                            "api_version":"1"}],
                "Process":{"metric_templates":{},"nodes":{
                  "h;12":{"metrics":{
                    "http_requests_per_second":{"samples":[{"date":"2026-11-22T16:16:40Z","value":2.0},
                                                           {"date":"2026-11-22T16:16:41Z","value":3.5}],
                                                "min":0,"max":3.5},
                    "http_404_responses_per_second":{"samples":[{"date":"2026-11-22T16:16:41Z","value":1.0}],
                                                     "min":0,"max":1}}EXTRA},
                  "h;13":{"metrics":{
                    "http_OTHERS_responses_per_second":{"samples":[{"date":"2026-11-22T16:16:41Z","value":7}],
                                                        "min":0,"max":7}}}}}}"#;
        let report: Report = serde_json::from_str(&report.replace("EXTRA", extra)).unwrap();
        let totals: Totals = serde_json::from_str(
            r#"{"hook":"kprobe","host":{"id":"h","source":"as configured","probes":[]},"exited":[],"losses":{},
                "processes":[{"pid":12,"command":"nginx","cgroup":"/","requests":9,"responses":{}}]}"#,
        )
        .unwrap();
        table(&report, &totals)
    }

    #[test]
    fn processes_have_a_row_and_codes_a_column() {
        let expected = "\
PID  COMMAND  REQ/S  404/S  OTHERS/S
 12  nginx     3.50   1.00         -
 13  ?            -      -      7.00
";
        assert_eq!(table_with(""), expected);
    }

    #[test]
    fn pods_have_a_column_if_there_are_any() {
        let property = |key: &str, value: &str| {
            format!(r#""http_statistics_{key}":{{"timestamp":"2026-11-22T16:16:41Z","value":"{value}"}}"#)
        };
        let extra = [
            property("pod", "shop-1"),
            property("namespace", "store"),
            property("container", "web"),
        ];
        let expected = "\
PID  COMMAND  POD           CONTAINER  REQ/S  404/S  OTHERS/S
 12  nginx    store/shop-1  web         3.50   1.00         -
 13  ?        -             -              -      -      7.00
";
        assert_eq!(
            table_with(&format!(r#","latest":{{{}}}"#, extra.join(","))),
            expected
        );
    }
}
