//! Requests and responses by workload: counters that only rise, in bounded memory. Pure.
//!
//! What is new since the last tick is added under the names of that moment and never moved: a counter that were the
//! sum of accounts would fall when a process exits, is renamed, or leaves what is shown.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::bpf::Loss;
use crate::stats::Event;
use crate::totals::UNKNOWN;
use crate::workload::{Directory, Place};

/// Most counters of workloads, those of [`Workload::other`] not among them: some 300 bytes each, here and in a scrape.
pub const MAX_SERIES: usize = 10_000;
/// Where there is no room for a new counter, workloads without traffic for this long give way. Longer than what
/// Prometheus looks back (5 min), so that one that comes back is a new series to it, and no counter that fell.
const IDLE: Duration = Duration::from_hours(1);

/// Who did something, as far as it is told: names of OpenTelemetry's conventions in Prometheus's form. Not `pod` and the
/// like, which Prometheus itself sets to the agent's pod; and no PID, which is another one after every restart. What is
/// absent is an empty label.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Workload {
    /// The pod's namespace. Absent, as all of them, if there is none or it is not known. Absent and not empty: workloads are
    /// compared with each other all the time, and some processors take 0.3 µs to compare nothing with nothing.
    pub k8s_namespace_name: Option<String>,
    /// The pod.
    pub k8s_pod_name: Option<String>,
    /// The container's name; outside of pods the first 12 digits of its id.
    pub k8s_container_name: Option<String>,
    /// The process's command name.
    pub process_executable_name: Option<String>,
}

impl Workload {
    /// A process of this command name in this place.
    #[must_use]
    pub fn new(command: Option<&str>, place: &Place, directory: &Directory) -> Self {
        let uid = directory.pod_of(place);
        let pod = uid.and_then(|uid| directory.pods.get(uid));
        let container = place.container.and_then(|id| {
            let name = directory.containers.get(&id).map(|known| known.name.clone());
            let digits = || uid.is_none().then(|| id.to_string()[..12].to_owned());
            name.or_else(digits)
        });
        Self {
            k8s_namespace_name: pod.map(|pod| pod.namespace.clone()),
            k8s_pod_name: pod.map(|pod| pod.name.clone()),
            k8s_container_name: container,
            process_executable_name: command.map(str::to_owned),
        }
    }

    /// All for whom there is no room.
    #[must_use]
    pub fn other() -> Self {
        Self {
            process_executable_name: Some("other".to_owned()),
            ..Self::default()
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Responses {
    #[prometheus(flatten)]
    workload: Workload,
    /// `unknown` if it could not be read.
    http_response_status_code: String,
}

impl Responses {
    fn new(workload: &Workload, code: Option<u16>) -> Self {
        Self {
            workload: workload.clone(),
            http_response_status_code: code.map_or(UNKNOWN.to_owned(), |code| code.to_string()),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Lost {
    #[prometheus(flatten)]
    workload: Workload,
    /// [`Loss::name`].
    cause: &'static str,
}

impl Lost {
    fn new(workload: &Workload, loss: Loss) -> Self {
        Self {
            workload: workload.clone(),
            cause: loss.name(),
        }
    }
}

/// The counters of one workload.
#[derive(Debug)]
struct Known {
    /// When it last had traffic.
    latest: Instant,
    counters: HashMap<Event, Counter>,
}

/// The counters of all workloads.
#[derive(Debug)]
pub struct Workloads {
    requests: Family<Workload, Counter>,
    responses: Family<Responses, Counter>,
    lost: Family<Lost, Counter>,
    known: HashMap<Workload, Known>,
    other: Workload,
    /// How many counters there are, those of `other` not among them.
    series: usize,
    max_series: usize,
    /// When it was last looked who could give way.
    searched: Option<Instant>,
    /// What was counted under [`Workload::other`] for want of room.
    overflow: Counter,
}

impl Workloads {
    /// None yet, and never more than `max_series` counters, usually [`MAX_SERIES`].
    #[must_use]
    pub fn new(max_series: usize) -> Self {
        Self {
            requests: Family::default(),
            responses: Family::default(),
            lost: Family::default(),
            known: HashMap::new(),
            other: Workload::other(),
            series: 0,
            max_series,
            searched: None,
            overflow: Counter::default(),
        }
    }

    /// Has the counters exposed.
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "http_server_requests",
            "HTTP requests received",
            self.requests.clone(),
        );
        registry.register(
            "http_server_responses",
            "HTTP responses sent",
            self.responses.clone(),
        );
    }

    /// Has what was lost and what did not fit exposed.
    pub(super) fn register_lost(&self, registry: &mut Registry) {
        registry.register(
            "workload_losses",
            "What could not be counted of each workload, by cause; scope_http_statistics_losses has all of it",
            self.lost.clone(),
        );
        registry.register(
            "series_overflow",
            "Requests and responses counted as process other, because there are too many series",
            self.overflow.clone(),
        );
    }

    /// How many counters there are, those of `other` not among them.
    #[must_use]
    pub fn series(&self) -> usize {
        self.series
    }

    /// What a workload did `count` times since the last tick, at the tick of `now`.
    pub fn add(&mut self, workload: &Workload, event: Event, count: u64, now: Instant) {
        if let Some(known) = self.known.get_mut(workload)
            && let Some(counter) = known.counters.get(&event)
        {
            known.latest = now;
            counter.inc_by(count);
            return;
        }
        let has_room = *workload == self.other || self.series < self.max_series || self.make_room(now);
        if has_room {
            self.create(workload, event, now).inc_by(count);
        } else {
            self.overflow.inc_by(count);
            let other = self.other.clone();
            self.create(&other, event, now).inc_by(count);
        }
    }

    /// The counter, made if it is not there.
    fn create(&mut self, workload: &Workload, event: Event, now: Instant) -> Counter {
        let known = self.known.entry(workload.clone()).or_insert_with(|| Known {
            latest: now,
            counters: HashMap::new(),
        });
        known.latest = now;
        if let Some(counter) = known.counters.get(&event) {
            return counter.clone();
        }
        let response = |code| {
            self.responses
                .get_or_create_owned(&Responses::new(workload, code))
        };
        let counter = match event {
            Event::Request => self.requests.get_or_create_owned(workload),
            Event::Response(code) => response(Some(code)),
            Event::UnknownResponse => response(None),
            Event::Lost(loss) => self.lost.get_or_create_owned(&Lost::new(workload, loss)),
        };
        known.counters.insert(event, counter.clone());
        if *workload != self.other {
            self.series += 1;
        }
        counter
    }

    /// Forgets who had no traffic for long; at most once a tick.
    fn make_room(&mut self, now: Instant) -> bool {
        if self.searched == Some(now) {
            return false;
        }
        self.searched = Some(now);
        let Self {
            requests,
            responses,
            lost,
            known,
            other,
            series,
            ..
        } = self;
        known.retain(|workload, Known { latest, counters }| {
            let stays = workload == other || now.duration_since(*latest) < IDLE;
            if !stays {
                *series -= counters.len();
                for event in counters.keys() {
                    match event {
                        Event::Request => requests.remove(workload),
                        Event::Response(code) => responses.remove(&Responses::new(workload, Some(*code))),
                        Event::UnknownResponse => responses.remove(&Responses::new(workload, None)),
                        Event::Lost(loss) => lost.remove(&Lost::new(workload, *loss)),
                    };
                }
            }
            stays
        });
        *series < self.max_series
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use prometheus_client::encoding::text::encode;
    use proptest::prelude::*;

    use super::*;
    use crate::workload::{Container, Pod};

    fn process(name: &str) -> Workload {
        Workload {
            process_executable_name: Some(name.to_owned()),
            ..Workload::default()
        }
    }

    /// Every series and its value.
    fn scrape(workloads: &Workloads) -> BTreeMap<String, u64> {
        let mut registry = Registry::default();
        workloads.register(&mut registry);
        workloads.register_lost(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text.lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.rsplit_once(' ').unwrap())
            .map(|(series, value)| (series.to_owned(), value.parse().unwrap()))
            .collect()
    }

    fn of_process(series: &BTreeMap<String, u64>, name: &str) -> Vec<u64> {
        let label = format!("process_executable_name=\"{name}\"");
        series
            .iter()
            .filter(|(series, _)| series.contains(&label))
            .map(|(_, value)| *value)
            .collect()
    }

    #[test]
    fn what_has_no_room_is_other_until_somebody_was_silent_for_long() {
        let mut workloads = Workloads::new(2);
        let begin = Instant::now();
        workloads.add(&process("a"), Event::Request, 1, begin);
        workloads.add(&process("a"), Event::Response(200), 1, begin);
        workloads.add(&process("b"), Event::Request, 5, begin);
        workloads.add(&process("a"), Event::Request, 1, begin);
        let series = scrape(&workloads);
        assert_eq!(of_process(&series, "a"), [2, 1]);
        assert_eq!(of_process(&series, "other"), [5]);
        assert_eq!(series["series_overflow_total"], 5);

        let later = begin + IDLE;
        workloads.add(&process("b"), Event::Request, 3, later);
        let series = scrape(&workloads);
        assert!(of_process(&series, "a").is_empty(), "{series:?}");
        assert_eq!(of_process(&series, "b"), [3]);
        assert_eq!(of_process(&series, "other"), [5], "it stays, however silent");
        assert_eq!(workloads.series(), 1);
    }

    proptest! {
        /// Whoever does what: no counter ever falls, nothing is lost, and the bound holds.
        #[test]
        fn counters_only_rise(hits in prop::collection::vec((0..12_u8, 0..4_u16, 1..9_u64), 1..200)) {
            let mut workloads = Workloads::new(10);
            let now = Instant::now();
            let (mut before, mut sum) = (BTreeMap::new(), 0);
            for (who, code, count) in hits {
                let event = if code == 0 { Event::Request } else { Event::Response(200 + code) };
                workloads.add(&process(&who.to_string()), event, count, now);
                sum += count;
                let mut after = scrape(&workloads);
                for (series, value) in &before {
                    prop_assert!(after.get(series) >= Some(value), "{series}");
                }
                before.clone_from(&after);
                after.remove("series_overflow_total");
                prop_assert_eq!(after.values().sum::<u64>(), sum);
                prop_assert!(workloads.series() <= 10 && after.len() <= 10 + 4);
            }
        }
    }

    #[test]
    fn names_are_those_that_are_known() {
        let (id, uid) = ("ab".repeat(32).parse().unwrap(), "c".repeat(32));
        let mut directory = Directory::default();
        let mut place = Place {
            container: Some(id),
            ..Place::default()
        };
        let labels = |place: &Place, directory: &Directory| {
            let workload = Workload::new(Some("nginx"), place, directory);
            [
                workload.k8s_namespace_name,
                workload.k8s_pod_name,
                workload.k8s_container_name,
                workload.process_executable_name,
            ]
            .map(Option::unwrap_or_default)
        };
        assert_eq!(
            labels(&place, &directory),
            ["", "", "abababababab", "nginx"],
            "no pod"
        );
        place.pod = Some(uid.parse().unwrap());
        assert_eq!(
            labels(&place, &directory),
            ["", "", "", "nginx"],
            "its name is to come"
        );
        directory.pods.insert(
            uid.parse().unwrap(),
            Pod {
                name: "shop-1".to_owned(),
                namespace: "store".to_owned(),
                controllers: Vec::new(),
            },
        );
        let container = Container {
            name: "web".to_owned(),
            pod: None,
        };
        directory.containers.insert(id, container);
        assert_eq!(labels(&place, &directory), ["store", "shop-1", "web", "nginx"]);
    }
}
