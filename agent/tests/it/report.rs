//! The report as Weave Scope's probe and app take it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::time::Duration;

use agent::bpf::{Counter, Hook, Loss, Losses};
use agent::config::{HostId, StatusCodes};
use agent::report::{Facts, MAX_REPORT, ReportBuilder};
use agent::stats::{Event, Identity, Ledger, Owner, Window};
use agent::workload::{Container, Controller, ControllerKind, Directory, Place, Pod};
use boon::{Compiler, Schemas};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use serde_json::{Value, json};

const SECOND: Duration = Duration::from_secs(1);
const REQUESTS: &str = "http_requests_per_second";
const OK: &str = "http_200_responses_per_second";

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

/// Everything a report is made of. Each tick is a second.
struct World {
    ledger: Ledger,
    window: Window,
    counters: BTreeMap<(Owner, Event), u64>,
    places: BTreeMap<u64, Place>,
    gone: HashSet<Place>,
    directory: Directory,
    losses: Losses,
    max_size: usize,
    ticks: i64,
}

impl World {
    fn new() -> Self {
        Self {
            ledger: Ledger::default(),
            window: Window::new(Duration::from_mins(1), 60),
            counters: BTreeMap::new(),
            places: BTreeMap::new(),
            gone: HashSet::new(),
            directory: Directory::default(),
            losses: Losses::default(),
            max_size: MAX_REPORT,
            ticks: 0,
        }
    }

    fn tick(&mut self, events: &[(Owner, Event, u64)]) {
        for (owner, event, count) in events {
            *self.counters.entry((*owner, *event)).or_default() += count;
        }
        let counters: Vec<Counter> = self
            .counters
            .iter()
            .map(|((owner, event), value)| Counter {
                key: owner.key(*event),
                value: *value,
            })
            .collect();
        self.ledger.read(&counters, |owner| Identity {
            gone: false,
            command: None,
            place: self.places.get(&owner.cgroup).cloned().unwrap_or_default(),
        });
        let date = start() + SignedDuration::from_secs(self.ticks);
        self.window.push(date, SECOND, &self.ledger.take_deltas());
        self.ticks += 1;
        for owner in self.ledger.retirable().0 {
            self.counters.retain(|(of, _), _| *of != owner);
            let place = self.ledger.retire(&owner).unwrap();
            self.window.retire(owner, place);
        }
    }

    fn end(&mut self, owner: Owner) {
        self.ledger.mark_gone(owner);
    }

    fn report(&self) -> Value {
        let report = self.unchecked();
        check_against_schema(&report);
        check_against_contract(&report);
        report
    }

    fn unchecked(&self) -> Value {
        let host_id: HostId = "example.org".parse().unwrap();
        let builder = ReportBuilder::new(StatusCodes::default(), Hook::Tracepoint, self.max_size);
        let (report, _) = builder.build(&Facts {
            host_id: &host_id,
            window: &self.window,
            ledger: &self.ledger,
            gone: &self.gone,
            directory: &self.directory,
            losses: (&self.losses, start() + SECOND),
        });
        serde_json::from_slice(&report).unwrap()
    }
}

/// The report after these ticks.
fn report(ticks: &[Vec<(Owner, Event, u64)>]) -> Value {
    let mut world = World::new();
    for events in ticks {
        world.tick(events);
    }
    world.report()
}

#[track_caller]
fn check_against_schema(report: &Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/report.schema.json");
    let mut schemas = Schemas::new();
    let mut compiler = Compiler::new();
    compiler.enable_format_assertions();
    let schema = compiler.compile(path.to_str().unwrap(), &mut schemas).unwrap();
    let validated = schemas.validate(report, schema);
    assert!(validated.is_ok(), "{:#}", validated.unwrap_err());
}

/// What a schema cannot say of what makes Scope's pictures wrong.
#[track_caller]
fn check_against_contract(report: &Value) {
    for (name, topology) in report
        .as_object()
        .unwrap()
        .iter()
        .filter(|(name, _)| *name != "Plugins")
    {
        let none = serde_json::Map::new();
        let of = |field: &str| topology[field].as_object().unwrap_or(&none).clone();
        let (metrics, rows) = (of("metric_templates"), of("metadata_templates"));
        for templates in [&metrics, &rows] {
            let mut priorities = BTreeSet::new();
            let mut labels = BTreeSet::new();
            for (key, template) in templates {
                assert_eq!(template["id"], *key, "{name}");
                let priority = template["priority"].as_f64().unwrap().to_bits();
                assert!(priorities.insert(priority), "{name}: priority of {key} is taken");
                let label = template["label"].as_str().unwrap();
                assert!(labels.insert(label.to_owned()), "{name}: label of {key} is taken");
            }
        }
        for (id, node) in topology["nodes"].as_object().unwrap() {
            if let Some(own) = node.get("id") {
                assert_eq!(own, id, "{name}");
            }
            for (key, metric) in node["metrics"].as_object().unwrap_or(&none) {
                assert!(metrics.contains_key(key), "{name}: {key} has no template");
                let samples = metric["samples"].as_array().unwrap();
                let dates: Vec<Timestamp> = samples
                    .iter()
                    .map(|sample| sample["date"].as_str().unwrap().parse().unwrap())
                    .collect();
                assert!(dates.is_sorted_by(|a, b| a < b), "{id} {key}: dates must ascend");
                let max = metric["max"].as_f64().unwrap();
                let within = |sample: &Value| (0.0..=max).contains(&sample["value"].as_f64().unwrap());
                assert!(samples.iter().all(within), "{id} {key}: {metric}");
            }
            for (key, property) in node["latest"].as_object().unwrap_or(&none) {
                let ours = key.starts_with("http_statistics_");
                assert_eq!(ours, rows.contains_key(key), "{name}: {key}");
                let oldest = property["timestamp"] == "1970-01-01T00:00:00Z";
                assert_eq!(
                    oldest,
                    name != "Host",
                    "{name}: what Scope knows itself comes first: {key}"
                );
            }
        }
    }
}

fn values(report: &Value, topology: &str, node: &str, metric: &str) -> Vec<f64> {
    let samples = &report[topology]["nodes"][node]["metrics"][metric]["samples"];
    let values = samples.as_array().map_or(&[][..], Vec::as_slice).iter();
    values.map(|sample| sample["value"].as_f64().unwrap()).collect()
}

fn nodes(report: &Value, topology: &str) -> Vec<String> {
    report[topology]["nodes"]
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect()
}

#[test]
fn a_report_without_traffic_has_all_templates_and_no_nodes() {
    let codes = [
        "100", "200", "201", "202", "204", "308", "400", "401", "403", "404", "408", "451", "500", "501",
        "502", "503", "OTHERS",
    ];
    let ids: BTreeSet<String> = codes
        .map(|code| format!("http_{code}_responses_per_second"))
        .into_iter()
        .chain([REQUESTS.to_owned()])
        .collect();
    for ticks in [vec![], vec![vec![]; 100]] {
        let report = report(&ticks);
        let topologies: Vec<&String> = report.as_object().unwrap().keys().collect();
        let expected = [
            "Container",
            "CronJob",
            "DaemonSet",
            "Deployment",
            "Host",
            "Job",
            "Plugins",
            "Pod",
            "Process",
            "Service",
            "StatefulSet",
        ];
        assert_eq!(topologies, expected);
        for topology in topologies.into_iter().filter(|name| *name != "Plugins") {
            assert_eq!(report[topology]["nodes"], json!({}), "{topology}");
            if topology != "Host" {
                let templates = report[topology]["metric_templates"].as_object().unwrap();
                let found: BTreeSet<String> = templates.keys().cloned().collect();
                assert_eq!(found, ids, "{topology}");
            }
        }
    }
}

const CONTAINER: &str = "3f4e9c1a5b7d8e2f3f4e9c1a5b7d8e2f3f4e9c1a5b7d8e2f3f4e9c1a5b7d8e2f";
const POD: &str = "0c6f2b1e-8d1a-4a55-9d3f-5f4f3c2b1a00";

/// A web server in a pod, one that is in no container, and what the API server says.
fn cluster() -> (World, Owner, Owner) {
    let mut world = World::new();
    let (in_pod, outside) = (owner(29770, 1), owner(411, 2));
    let container = CONTAINER.parse().unwrap();
    let pod = POD.parse().unwrap();
    world.places.insert(
        1,
        Place {
            cgroup: Some(format!("/kubepods/pod{POD}/{CONTAINER}").into()),
            container: Some(container),
            pod: Some(pod),
        },
    );
    let pod: agent::workload::PodUid = POD.parse().unwrap();
    world.directory.containers.insert(
        container,
        Container {
            name: "nginx".to_owned(),
            pod: Some(pod.clone()),
        },
    );
    let controller = |kind, name: &str| Controller {
        kind,
        uid: format!("{name}-uid"),
        name: name.to_owned(),
    };
    world.directory.pods.insert(
        pod,
        Pod {
            name: "shop-7d9c".to_owned(),
            namespace: "store".to_owned(),
            controllers: vec![controller(ControllerKind::Deployment, "shop")],
        },
    );
    (world, in_pod, outside)
}

/// Review the file as a person would see it in Scope; `UPDATE_GOLDEN=1` writes it.
#[test]
fn a_report_looks_as_reviewed() {
    let (mut world, nginx, backup) = cluster();
    world.tick(&[(nginx, Event::Request, 1), (nginx, Event::Response(200), 1)]);
    world.tick(&[(backup, Event::Request, 3), (backup, Event::Response(404), 3)]);
    world.tick(&[
        (nginx, Event::Request, 12),
        (nginx, Event::Response(200), 10),
        (nginx, Event::Response(301), 1),
        (nginx, Event::UnknownResponse, 1),
    ]);
    (world.losses.0[0], world.losses.0[4]) = (2, 1);
    let report = world.report();
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
    let report = report(&[vec![(nginx, Event::Request, 1), (nginx, Event::Response(200), 1)]]);
    assert_eq!(
        report["Plugins"],
        json!([{
            "id": "http-statistics",
            "label": "HTTP Statistics",
            "description": "Adds http request metrics to processes",
            "interfaces": ["reporter"],
            "api_version": "1"
        }])
    );
    let node = &report["Process"]["nodes"]["example.org;29770"];
    let samples = json!([{"date": "2016-09-21T07:22:24.293175Z", "value": 1.0}]);
    assert_eq!(node["metrics"][REQUESTS]["samples"], samples);
    assert_eq!(node["metrics"][OK]["samples"], samples);
    assert_eq!(
        report["Process"]["metric_templates"][REQUESTS],
        json!({"id": "http_requests_per_second", "label": "HTTP Req/Second", "priority": 0.1})
    );
    assert_eq!(
        report["Process"]["metric_templates"][OK],
        json!({"id": "http_200_responses_per_second", "label": "HTTP Resp 200/Second", "priority": 0.2})
    );
}

#[test]
fn only_live_processes_are_reported() {
    let (live, gone) = (owner(1, 1), owner(2, 1));
    let mut world = World::new();
    world.tick(&[(live, Event::Request, 1), (gone, Event::Request, 1)]);
    world.end(gone);
    assert_eq!(nodes(&world.report(), "Process"), ["example.org;1"]);
    world.tick(&[]);
    assert_eq!(nodes(&world.report(), "Process"), ["example.org;1"]);
}

#[test]
fn a_process_in_two_cgroups_is_one_node_with_the_sum() {
    let (before, after) = (owner(1, 1), owner(1, 2));
    let report = report(&[
        vec![(before, Event::Request, 4)],
        vec![(before, Event::Request, 1), (after, Event::Request, 2)],
        vec![(after, Event::Request, 5)],
    ]);
    assert_eq!(
        values(&report, "Process", "example.org;1", REQUESTS),
        [4.0, 3.0, 5.0]
    );
}

#[test]
fn a_process_that_moved_is_shown_where_it_had_traffic_last() {
    let (mut world, inside, _) = cluster();
    let outside = Owner { cgroup: 2, ..inside };
    let container =
        |world: &World| world.report()["Process"]["nodes"]["example.org;29770"]["parents"].clone();
    world.tick(&[(outside, Event::Request, 1)]);
    assert_eq!(container(&world), Value::Null);
    world.tick(&[(inside, Event::Request, 1)]);
    assert_eq!(
        container(&world)["container"][0],
        format!("{CONTAINER};<container>")
    );
    world.tick(&[]);
    world.tick(&[(outside, Event::Request, 1)]);
    assert_eq!(container(&world), Value::Null);
}

#[test]
fn codes_without_a_metric_of_their_own_share_one() {
    let others = [Event::Response(301), Event::Response(418), Event::UnknownResponse];
    let report = report(&[others.map(|event| (owner(1, 1), event, 2)).to_vec()]);
    let metric = "http_OTHERS_responses_per_second";
    assert_eq!(values(&report, "Process", "example.org;1", metric), [6.0]);
}

#[test]
fn a_rare_code_has_zeros_between_its_hits_and_goes_when_idle() {
    let nginx = owner(1, 1);
    let code = "http_500_responses_per_second";
    let mut world = World::new();
    world.tick(&[(nginx, Event::Response(500), 1)]);
    for _ in 0..9 {
        world.tick(&[(nginx, Event::Request, 1)]);
    }
    world.tick(&[(nginx, Event::Response(500), 1)]);
    let mut expected = vec![0.0; 11];
    (expected[0], expected[10]) = (1.0, 1.0);
    assert_eq!(
        values(&world.report(), "Process", "example.org;1", code),
        expected
    );

    for _ in 0..60 {
        world.tick(&[(nginx, Event::Request, 1)]);
    }
    let report = world.report();
    assert_eq!(
        values(&report, "Process", "example.org;1", code),
        Vec::<f64>::new()
    );
    assert_eq!(values(&report, "Process", "example.org;1", REQUESTS).len(), 60);
}

#[test]
fn containers_and_pods_have_sums_of_their_own_with_exited_processes() {
    let (mut world, nginx, backup) = cluster();
    let cgi = owner(500, 1);
    world.tick(&[(nginx, Event::Request, 1), (backup, Event::Request, 7)]);
    world.tick(&[(nginx, Event::Request, 2), (cgi, Event::Request, 10)]);
    world.end(cgi);
    let (container, pod) = (format!("{CONTAINER};<container>"), format!("{POD};<pod>"));
    for expected in [vec![1.0, 12.0], vec![1.0, 12.0, 3.0], vec![1.0, 12.0, 3.0, 3.0]] {
        let report = world.report();
        assert_eq!(nodes(&report, "Container"), [container.as_str()]);
        assert_eq!(nodes(&report, "Pod"), [pod.as_str()]);
        assert_eq!(values(&report, "Container", &container, REQUESTS), expected);
        assert_eq!(values(&report, "Pod", &pod, REQUESTS), expected);
        assert_eq!(
            nodes(&report, "Process"),
            ["example.org;29770", "example.org;411"]
        );
        // The first of them came after the last look at who is alive.
        let late = u64::from(expected.len() == 2);
        world.tick(&[(nginx, Event::Request, 3 - late), (cgi, Event::Request, late)]);
    }
}

#[test]
fn a_pod_is_the_sum_of_its_containers_old_and_new() {
    let (mut world, first, _) = cluster();
    let second = owner(2, 3);
    let (old, new) = (world.places[&1].clone(), "a".repeat(64));
    let restarted = Place {
        cgroup: Some("/new".into()),
        container: Some(new.parse().unwrap()),
        ..old.clone()
    };
    world.places.insert(3, restarted.clone());
    world.tick(&[(first, Event::Request, 5)]);
    world.end(first);
    world.gone.insert(old);
    world.tick(&[(second, Event::Request, 1)]);
    let report = world.report();
    assert_eq!(
        nodes(&report, "Container"),
        [format!("{new};<container>")],
        "the old one is gone"
    );
    assert_eq!(
        values(&report, "Pod", &format!("{POD};<pod>"), REQUESTS),
        [5.0, 1.0]
    );

    world.end(second);
    world.gone.insert(restarted);
    let report = world.report();
    assert_eq!(
        (nodes(&report, "Container"), nodes(&report, "Pod")),
        (vec![], vec![])
    );
}

#[test]
fn what_nobody_names_has_its_ids() {
    let (mut world, nginx, _) = cluster();
    world.directory = Directory::default();
    world.tick(&[(nginx, Event::Request, 1)]);
    let report = world.report();
    let container = &report["Container"]["nodes"][format!("{CONTAINER};<container>")];
    assert_eq!(
        container["latest"]["docker_container_name"]["value"],
        CONTAINER[..12]
    );
    let pod = &report["Pod"]["nodes"][format!("{POD};<pod>")];
    assert_eq!(pod["latest"]["kubernetes_name"]["value"], POD);
    assert_eq!(pod.get("parents"), None);
    let process = &report["Process"]["nodes"]["example.org;29770"];
    assert_eq!(process["latest"]["docker_container_id"]["value"], CONTAINER);
    assert_eq!(process["latest"].get("http_statistics_pod"), None);
}

#[test]
fn a_pod_belongs_to_its_controllers() {
    let kinds = [
        (ControllerKind::Deployment, "deployment", "<deployment>"),
        (ControllerKind::DaemonSet, "daemon_set", "<daemonset>"),
        (ControllerKind::StatefulSet, "stateful_set", "<statefulset>"),
        (ControllerKind::CronJob, "cron_job", "<cronjob>"),
        (ControllerKind::Job, "job", "<job>"),
    ];
    let (mut world, nginx, _) = cluster();
    let controllers = kinds.map(|(kind, _, _)| Controller {
        kind,
        uid: "u".to_owned(),
        name: "n".to_owned(),
    });
    for pod in world.directory.pods.values_mut() {
        pod.controllers = controllers.to_vec();
    }
    world.tick(&[(nginx, Event::Request, 1)]);
    let parents = world.report()["Pod"]["nodes"][format!("{POD};<pod>")]["parents"].clone();
    let expected: Value = kinds
        .iter()
        .map(|(_, key, tag)| ((*key).to_owned(), json!([format!("u;{tag}")])))
        .collect::<serde_json::Map<_, _>>()
        .into();
    assert_eq!(parents, expected);
}

#[test]
fn the_host_says_what_was_lost_and_only_then() {
    let mut world = World::new();
    assert_eq!(world.report()["Host"]["nodes"], json!({}));
    for (index, loss) in Loss::ALL.iter().enumerate() {
        world.losses = Losses::default();
        world.losses.0[index] = 3;
        let row = &world.report()["Host"]["nodes"]["example.org;<host>"]["latest"]["http_statistics_losses"];
        let expected =
            json!({"timestamp": "2016-09-21T07:22:25.293175Z", "value": format!("{} 3", loss.name())});
        assert_eq!(*row, expected);
    }
}

/// Processes of 200 pods that all have traffic in each tick.
fn large(processes: u32) -> World {
    let mut world = World::new();
    for pod in 0..200_u64 {
        world.places.insert(
            pod,
            Place {
                cgroup: Some(format!("/{pod}").into()),
                container: Some(format!("{pod:064x}").parse().unwrap()),
                pod: Some(format!("{pod:032x}").parse().unwrap()),
            },
        );
    }
    for tick in 0..60_u64 {
        let events: Vec<_> = (1..=processes)
            .flat_map(|pid| {
                let owner = owner(pid, u64::from(pid) % 200);
                let count = 1 + u64::from(pid) * tick * tick % 20_000;
                [
                    (owner, Event::Request, count),
                    (owner, Event::Response(200), count),
                ]
            })
            .collect();
        world.tick(&events);
    }
    world
}

#[test]
fn a_report_that_would_be_too_large_shows_less_of_the_past() {
    let mut world = large(20);
    world.max_size = usize::MAX;
    let length = |world: &World| {
        let report = world.unchecked();
        let shown = values(&report, "Process", "example.org;1", REQUESTS).len();
        let last =
            &report["Process"]["nodes"]["example.org;1"]["metrics"][REQUESTS]["samples"][shown - 1]["date"];
        assert_eq!(last, "2016-09-21T07:23:23.293175Z", "the newest stay");
        (report.to_string().len(), shown)
    };
    let (whole, ticks) = length(&world);
    assert_eq!(ticks, 60);
    world.max_size = whole;
    assert_eq!(length(&world), (whole, 60), "it just fits");
    let mut before = (whole, 60);
    while before.1 > 3 {
        world.max_size = before.0 - 1;
        let (size, shown) = length(&world);
        assert_eq!(shown, before.1 - 1, "what there is room for stays");
        assert!(size <= world.max_size, "{size} of {}", world.max_size);
        before = (size, shown);
    }
    world.max_size = 0;
    assert_eq!(length(&world).1, 3, "so many stay, whatever the size");
}

#[test]
fn two_thousand_busy_processes_fit() {
    let world = large(2000);
    let report = world.report();
    let size = report.to_string().len();
    assert!(size <= MAX_REPORT, "{size}");
    assert_eq!(nodes(&report, "Process").len(), 2000);
    let shown = values(&report, "Process", "example.org;1", REQUESTS).len();
    assert!(shown >= 5, "{shown} samples in {size} bytes");
}

proptest! {
    /// Pods and containers show what happened, tick by tick, whoever of their processes has ended since.
    #[test]
    fn sums_are_what_happened(
        ticks in prop::collection::vec(prop::collection::vec((1..5_u32, 1..50_u64), 0..6), 1..40),
        ends in prop::collection::vec((1..5_u32, 0..40_usize), 0..4)
    ) {
        let (mut world, _, _) = cluster();
        let mut truth = Vec::new();
        for (tick, hits) in ticks.iter().enumerate() {
            for (pid, at) in &ends {
                if *at == tick {
                    world.end(owner(*pid, 1));
                }
            }
            let events: Vec<_> = hits.iter().map(|(pid, count)| (owner(*pid, 1), Event::Request, *count)).collect();
            world.tick(&events);
            #[expect(clippy::cast_precision_loss, reason = "small")]
            truth.push(hits.iter().map(|(_, count)| count).sum::<u64>() as f64);
        }
        let quiet = truth.iter().take_while(|count| **count == 0.0).count();
        let report = world.report();
        for (topology, id) in [("Container", format!("{CONTAINER};<container>")), ("Pod", format!("{POD};<pod>"))] {
            prop_assert_eq!(values(&report, topology, &id, REQUESTS), &truth[quiet..]);
        }
    }
}
