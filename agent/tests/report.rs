//! The report as Weave Scope's probe and app take it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use agent::config::StatusCodes;
use agent::report::ReportBuilder;
use agent::stats::{Delta, Event, Owner, Subject, Window};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

const SECOND: Duration = Duration::from_secs(1);

fn start() -> Timestamp {
    "2016-09-21T07:22:24.293175Z".parse().unwrap()
}

fn owner(pid: u32, cgroup: u64) -> Owner {
    Owner {
        pid,
        start_time: u64::from(pid) * 10,
        cgroup,
    }
}

fn delta(owner: Owner, event: Event, count: u64) -> Delta {
    Delta {
        subject: Subject::Process(owner),
        event,
        count,
    }
}

/// The report after these ticks of one second.
fn report(ticks: &[Vec<Delta>], is_live: impl Fn(&Owner) -> bool) -> Value {
    let mut window = Window::new(Duration::from_mins(1), 60);
    for (tick, deltas) in (0..).zip(ticks) {
        window.push(start() + SignedDuration::from_secs(tick), SECOND, deltas);
    }
    let builder = ReportBuilder::new("example.org".parse().unwrap(), StatusCodes::default());
    let report = serde_json::to_value(builder.build(&window, is_live)).unwrap();
    check_against_contract(&report);
    report
}

/// What Scope refuses, and what makes its pictures wrong.
#[track_caller]
fn check_against_contract(report: &Value) {
    let top: BTreeSet<&str> = report.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(top, BTreeSet::from(["Plugins", "Process"]));

    let plugins = report["Plugins"].as_array().unwrap();
    assert_eq!(plugins.len(), 1, "report must contain exactly one plugin");
    assert_eq!(
        plugins[0]["id"], "http-statistics",
        "plugin must not change its id"
    );
    assert_eq!(plugins[0]["api_version"], "1", "incorrect API version");
    assert_eq!(
        plugins[0]["label"], "HTTP Statistics",
        "spec must contain a label"
    );
    assert_eq!(plugins[0]["interfaces"], json!(["reporter"]));

    let templates = report["Process"]["metric_templates"].as_object().unwrap();
    let mut priorities = BTreeMap::new();
    let mut labels = BTreeSet::new();
    for (key, template) in templates {
        assert_eq!(template["id"], *key);
        let priority = template["priority"].as_f64().unwrap();
        assert!(priority > 0.0 && priority < 1.0, "{key}: {priority}");
        assert_eq!(
            priorities.insert(priority.to_string(), key),
            None,
            "priority of {key} is taken"
        );
        assert!(
            labels.insert(template["label"].as_str().unwrap()),
            "label of {key} is taken"
        );
    }

    for (id, node) in report["Process"]["nodes"].as_object().unwrap() {
        let (host, pid) = id.split_once(';').unwrap();
        assert_eq!(host, "example.org");
        pid.parse::<u32>().unwrap();
        let fields: Vec<&String> = node.as_object().unwrap().keys().collect();
        assert_eq!(fields, ["metrics"], "a process node has neither id nor topology");
        for (key, metric) in node["metrics"].as_object().unwrap() {
            assert!(templates.contains_key(key), "{key} has no template");
            let samples = metric["samples"].as_array().unwrap();
            assert!(
                (1..=60).contains(&samples.len()),
                "{key}: {} samples",
                samples.len()
            );
            let dates: Vec<Timestamp> = samples
                .iter()
                .map(|sample| sample["date"].as_str().unwrap().parse().unwrap())
                .collect();
            assert!(dates.is_sorted_by(|a, b| a < b), "{key}: dates must ascend");
            assert_eq!(metric["min"], 0.0);
            let max = metric["max"].as_f64().unwrap();
            assert!(max > 0.0, "{key}: a graph needs a height");
            let values: Vec<f64> = samples
                .iter()
                .map(|sample| sample["value"].as_f64().unwrap())
                .collect();
            assert!(
                values.iter().all(|value| (0.0..=max).contains(value)),
                "{key}: {values:?}"
            );
            assert!(
                values.iter().any(|value| *value > 0.0),
                "{key} was idle for the whole window"
            );
        }
    }
}

fn values(report: &Value, node: &str, metric: &str) -> Vec<f64> {
    report["Process"]["nodes"][node]["metrics"][metric]["samples"]
        .as_array()
        .map(|samples| {
            samples
                .iter()
                .map(|sample| sample["value"].as_f64().unwrap())
                .collect()
        })
        .unwrap_or_default()
}

#[test]
fn a_report_without_traffic_has_all_templates_and_no_nodes() {
    for ticks in [vec![], vec![vec![]; 100]] {
        let report = report(&ticks, |_| true);
        assert_eq!(report["Process"]["nodes"], json!({}));
        let ids: BTreeSet<&str> = report["Process"]["metric_templates"]
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        let codes = [
            "100", "200", "201", "202", "204", "308", "400", "401", "403", "404", "408", "451", "500", "501",
        ];
        let codes = codes.into_iter().chain(["502", "503", "OTHERS"]);
        let expected: BTreeSet<String> = codes
            .map(|code| format!("http_{code}_responses_per_second"))
            .chain(["http_requests_per_second".to_owned()])
            .collect();
        assert_eq!(ids, expected.iter().map(String::as_str).collect());
    }
}

/// Review the file as a person would see it in Scope; `UPDATE_GOLDEN=1` writes it.
#[test]
fn a_report_looks_as_reviewed() {
    let (nginx, worker) = (owner(29770, 1), owner(29771, 1));
    let ticks = [
        vec![
            delta(nginx, Event::Request, 1),
            delta(nginx, Event::Response(200), 1),
        ],
        vec![
            delta(worker, Event::Request, 3),
            delta(worker, Event::Response(404), 3),
        ],
        vec![
            delta(nginx, Event::Request, 12),
            delta(nginx, Event::Response(200), 10),
            delta(nginx, Event::Response(301), 1),
            delta(nginx, Event::UnknownResponse, 1),
        ],
    ];
    let report = report(&ticks, |_| true);
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/report.json");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&golden, serde_json::to_string_pretty(&report).unwrap() + "\n").unwrap();
    }
    let reviewed: Value = serde_json::from_str(&std::fs::read_to_string(&golden).unwrap()).unwrap();
    assert_eq!(report, reviewed);
}

/// The example in the original plugin's README.
#[test]
fn one_request_is_reported_as_the_original_did() {
    let nginx = owner(29770, 1);
    let report = report(
        &[vec![
            delta(nginx, Event::Request, 1),
            delta(nginx, Event::Response(200), 1),
        ]],
        |_| true,
    );
    let node = &report["Process"]["nodes"]["example.org;29770"];
    let samples = json!([{"date": "2016-09-21T07:22:24.293175Z", "value": 1.0}]);
    assert_eq!(node["metrics"]["http_requests_per_second"]["samples"], samples);
    assert_eq!(
        node["metrics"]["http_200_responses_per_second"]["samples"],
        samples
    );
    assert_eq!(
        report["Process"]["metric_templates"]["http_requests_per_second"],
        json!({"id": "http_requests_per_second", "label": "HTTP Req/Second", "priority": 0.1})
    );
    assert_eq!(
        report["Process"]["metric_templates"]["http_200_responses_per_second"],
        json!({"id": "http_200_responses_per_second", "label": "HTTP Resp 200/Second", "priority": 0.2})
    );
}

#[test]
fn only_live_processes_are_reported() {
    let (live, gone) = (owner(1, 1), owner(2, 1));
    let deltas = vec![delta(live, Event::Request, 1), delta(gone, Event::Request, 1)];
    let report = report(&[deltas], |owner| *owner == live);
    let nodes: Vec<&String> = report["Process"]["nodes"].as_object().unwrap().keys().collect();
    assert_eq!(nodes, ["example.org;1"]);
}

#[test]
fn a_process_in_two_cgroups_is_one_node_with_the_sum() {
    let (before, after) = (owner(1, 1), owner(1, 2));
    let ticks = [
        vec![delta(before, Event::Request, 4)],
        vec![delta(before, Event::Request, 1), delta(after, Event::Request, 2)],
        vec![delta(after, Event::Request, 5)],
    ];
    let report = report(&ticks, |_| true);
    assert_eq!(
        values(&report, "example.org;1", "http_requests_per_second"),
        [4.0, 3.0, 5.0]
    );
}

#[test]
fn codes_without_a_metric_of_their_own_share_one() {
    let nginx = owner(1, 1);
    let others = [Event::Response(301), Event::Response(418), Event::UnknownResponse];
    let report = report(&[others.map(|event| delta(nginx, event, 2)).to_vec()], |_| true);
    assert_eq!(
        values(&report, "example.org;1", "http_OTHERS_responses_per_second"),
        [6.0]
    );
}

#[test]
fn a_rare_code_has_zeros_between_its_hits_and_goes_when_idle() {
    let nginx = owner(1, 1);
    let mut ticks = vec![vec![delta(nginx, Event::Response(500), 1)]];
    ticks.resize(10, vec![delta(nginx, Event::Request, 1)]);
    ticks.push(vec![delta(nginx, Event::Response(500), 1)]);
    let code = "http_500_responses_per_second";
    let mut expected = vec![0.0; 11];
    (expected[0], expected[10]) = (1.0, 1.0);
    assert_eq!(values(&report(&ticks, |_| true), "example.org;1", code), expected);

    ticks.resize(71, vec![delta(nginx, Event::Request, 1)]);
    let report = report(&ticks, |_| true);
    assert_eq!(values(&report, "example.org;1", code), Vec::<f64>::new());
    assert_eq!(
        values(&report, "example.org;1", "http_requests_per_second").len(),
        60
    );
}
