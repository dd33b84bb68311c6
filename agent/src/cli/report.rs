//! The latest rates of a report as a table.

use std::collections::BTreeMap;

use super::table::{Align, Table};
use crate::report::model::{Node, Report};
use crate::report::{MetricKind, metrics_shown};
use crate::totals::Totals;

/// One line per process with traffic in the window. Names come from the totals: reports have none.
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

    let titles = [
        ("PID", Align::Right),
        ("COMMAND", Align::Left),
        ("REQ/S", Align::Right),
    ]
    .map(|(title, align)| (title.to_owned(), align));
    let mut table = Table::new(
        titles
            .into_iter()
            .chain(kinds.iter().map(|kind| (title(*kind), Align::Right))),
    );
    for (id, node) in &report.process.nodes {
        let pid = id.rsplit(';').next().unwrap_or(id);
        let command = commands.get(pid).copied().unwrap_or("?");
        let head = [
            pid.to_owned(),
            command.to_owned(),
            latest(node, MetricKind::Requests),
        ];
        table.row(
            head.into_iter()
                .chain(kinds.iter().map(|kind| latest(node, *kind))),
        );
    }
    table.render()
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
        .get(&kind.id())
        .and_then(|metric| metric.samples.last())
        .map_or_else(|| "-".to_owned(), |sample| format!("{:.2}", sample.value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_have_a_row_and_codes_a_column() {
        let report: Report = serde_json::from_str(
            r#"{"Plugins":[{"id":"http-statistics","label":"l","description":"d","interfaces":["reporter"],
                            "api_version":"1"}],
                "Process":{"metric_templates":{},"nodes":{
                  "h;12":{"metrics":{
                    "http_requests_per_second":{"samples":[{"date":"2026-11-22T16:16:40Z","value":2.0},
                                                           {"date":"2026-11-22T16:16:41Z","value":3.5}],
                                                "min":0,"max":3.5},
                    "http_404_responses_per_second":{"samples":[{"date":"2026-11-22T16:16:41Z","value":1.0}],
                                                     "min":0,"max":1}}},
                  "h;13":{"metrics":{
                    "http_OTHERS_responses_per_second":{"samples":[{"date":"2026-11-22T16:16:41Z","value":7}],
                                                        "min":0,"max":7}}}}}}"#,
        )
        .unwrap();
        let totals: Totals = serde_json::from_str(
            r#"{"hook":"kprobe","exited":[],"losses":{},
                "processes":[{"pid":12,"command":"nginx","cgroup":"/","requests":9,"responses":{}}]}"#,
        )
        .unwrap();
        let expected = "\
PID  COMMAND  REQ/S  404/S  OTHERS/S
 12  nginx     3.50   1.00         -
 13  ?            -      -      7.00
";
        assert_eq!(table(&report, &totals), expected);
    }
}
