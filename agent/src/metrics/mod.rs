//! What is told to Prometheus: `GET /metrics`.
//!
//! One more consumer of what the sampler has anyway: it is told what is new in each tick, and reads no map itself. The
//! text is written when somebody asks, at most once per tick.

mod workloads;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::bpf::{Hook, Loss, Losses, ProgramStatistics};
use crate::config::Filter;
use crate::stats::{Delta, Event, Ledger, Owner, PerTick, Subject};
use crate::workload::Directory;
pub use workloads::{MAX_SERIES, Workload, Workloads};

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Cause {
    cause: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Program {
    program: String,
}

/// What is known at a tick.
#[derive(Clone, Copy, Debug)]
pub struct Tick<'a> {
    /// When.
    pub now: Instant,
    /// What happened since the last one.
    pub deltas: &'a [Delta],
    /// To whom.
    pub ledger: &'a Ledger,
    /// What containers and pods are called.
    pub directory: &'a Directory,
    /// Who is shown.
    pub filter: &'a Filter,
    /// What could not be counted so far.
    pub losses: &'a Losses,
}

/// All metrics of an agent.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    workloads: Workloads,
    unlabelled: Counter,
    losses: Family<Cause, Counter>,
    series: Gauge,
    readable: Gauge,
    tick: Histogram,
    report: Histogram,
    runs: Family<Program, Counter>,
    run_time: Family<Program, Counter<f64, AtomicU64>>,
}

impl Metrics {
    /// Those of an agent that counts with `hook`, with at most `max_series` counters of workloads, usually
    /// [`MAX_SERIES`].
    #[must_use]
    pub fn new(hook: Hook, max_series: usize) -> Self {
        // 0.1 ms to 1.6 s.
        let durations = || Histogram::new(exponential_buckets(0.0001, 2.0, 15));
        let metrics = Self {
            registry: Registry::default(),
            workloads: Workloads::new(max_series),
            unlabelled: Counter::default(),
            losses: Family::default(),
            series: Gauge::default(),
            readable: Gauge::default(),
            tick: durations(),
            report: durations(),
            runs: Family::default(),
            run_time: Family::default(),
        };
        // An alert needs to see the 0 before the first loss.
        for loss in Loss::ALL {
            drop(metrics.losses.get_or_create(&Cause { cause: loss.name() }));
        }
        metrics.readable.set(1);
        metrics.register(hook)
    }

    fn register(mut self, hook: Hook) -> Self {
        self.workloads.register(&mut self.registry);
        let own = self.registry.sub_registry_with_prefix("scope_http_statistics");
        own.register(
            "build",
            "The agent's version",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        own.register(
            "hook",
            "How the agent is attached to the kernel",
            Info::new([("hook", hook.name())]),
        );
        own.register(
            "losses",
            "What could not be counted, by cause",
            self.losses.clone(),
        );
        own.register(
            "unlabelled_requests",
            "Requests to pods whose name was not known, or to processes of which it is not known where they were",
            self.unlabelled.clone(),
        );
        self.workloads.register_lost(own);
        own.register(
            "series",
            "Counters of requests, responses and losses of workloads that there are",
            self.series.clone(),
        );
        own.register(
            "counters_readable",
            "Whether the kernel's counters could be read in the latest tick",
            self.readable.clone(),
        );
        own.register_with_unit(
            "tick_duration",
            "Time that the reading of the counters and all that follows from it took",
            Unit::Seconds,
            self.tick.clone(),
        );
        own.register_with_unit(
            "report_duration",
            "Time that writing the report for Scope took",
            Unit::Seconds,
            self.report.clone(),
        );
        own.register(
            "bpf_program_runs",
            "Runs of the programs in the kernel while kernel.bpf_stats_enabled is set",
            self.runs.clone(),
        );
        own.register_with_unit(
            "bpf_program_run_time",
            "Time that these took",
            Unit::Seconds,
            self.run_time.clone(),
        );
        self
    }

    /// Takes in a tick.
    pub fn take(&mut self, tick: &Tick<'_>) {
        let Tick {
            now,
            deltas,
            ledger,
            directory,
            filter,
            losses,
        } = *tick;
        self.readable.set(1);
        let mut by_owner: PerTick<Owner, Vec<(Event, u64)>> = PerTick::default();
        for Delta {
            subject,
            event,
            count,
        } in deltas
        {
            // What is new is always a process's.
            if let Subject::Process(owner) = subject {
                by_owner.entry(*owner).or_default().push((*event, *count));
            }
        }
        for (owner, events) in by_owner {
            let Some(account) = ledger.account(&owner) else {
                continue;
            };
            let place = account.place();
            if !filter.shows(place, directory) {
                continue;
            }
            let workload = Workload::new(account.command(), place, directory);
            let unlabelled = directory.lacks_label(place);
            for (event, count) in events {
                if unlabelled && event == Event::Request {
                    self.unlabelled.inc_by(count);
                }
                self.workloads.add(&workload, event, count, now);
            }
        }
        self.series
            .set(i64::try_from(self.workloads.series()).unwrap_or(i64::MAX));
        for (loss, count) in Loss::ALL.iter().zip(losses.0) {
            let counter = self.losses.get_or_create(&Cause { cause: loss.name() });
            counter.inc_by(count.saturating_sub(counter.get()));
        }
    }

    /// The counters could not be read.
    pub fn failed(&self) {
        self.readable.set(0);
    }

    /// A tick took so long.
    pub fn ticked(&self, duration: Duration) {
        self.tick.observe(duration.as_secs_f64());
    }

    /// A report took so long.
    pub fn reported(&self, duration: Duration) {
        self.report.observe(duration.as_secs_f64());
    }

    /// How often each program ran so far, and how long. Those that the kernel never measured are left out.
    pub fn measured<'a>(&self, programs: impl Iterator<Item = (&'a str, ProgramStatistics)>) {
        for (name, statistics) in programs.filter(|(_, statistics)| statistics.runs > 0) {
            let program = Program {
                program: name.to_owned(),
            };
            let runs = self.runs.get_or_create(&program);
            runs.inc_by(statistics.runs.saturating_sub(runs.get()));
            let run_time = self.run_time.get_or_create(&program);
            run_time.inc_by((statistics.run_time.as_secs_f64() - run_time.get()).max(0.0));
        }
    }

    /// All of it as `OpenMetrics` 1.0.0.
    ///
    /// # Errors
    /// When it cannot be formatted.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// The same in the text format 0.0.4 of Prometheus, for readers that do not know `OpenMetrics`: counters and infos are
/// named as their samples, infos are gauges, and there are neither units nor an end.
#[must_use]
pub fn classic(open_metrics: &str) -> String {
    let kinds: HashMap<&str, &str> = open_metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .collect();
    let mut text = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines() {
        let comment = line.strip_prefix("# ").map(|comment| comment.splitn(3, ' '));
        let words: Vec<&str> = comment.into_iter().flatten().collect();
        match words[..] {
            [] => text.push_str(line),
            [keyword @ ("HELP" | "TYPE"), name, rest] => {
                let kind = kinds.get(name).copied().unwrap_or_default();
                let suffix = match kind {
                    "counter" => "_total",
                    "info" => "_info",
                    _ => "",
                };
                let rest = if keyword == "TYPE" && kind == "info" {
                    "gauge"
                } else {
                    rest
                };
                text.extend(["# ", keyword, " ", name, suffix, " ", rest]);
            }
            _ => continue,
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::{Counter, REQUESTS};
    use crate::config::{Overrides, Settings};
    use crate::stats::Identity;
    use crate::workload::{Place, Pod};

    const POD: &str = "cccccccccccccccccccccccccccccccc";

    /// Takes `count` requests, in all so far, of process 7 in this place.
    fn requests(
        metrics: &mut Metrics,
        ledger: &mut Ledger,
        count: u64,
        place: &Place,
        directory: &Directory,
        filter: &Filter,
    ) {
        let owner = Owner {
            pid: 7,
            start_time: 1,
            cgroup: 1,
        };
        let counter = Counter {
            key: owner.key(Event::from_code(REQUESTS)),
            value: count,
        };
        ledger.read(&[counter], |_| Identity {
            gone: false,
            command: Some("nginx".to_owned()),
            place: place.clone(),
        });
        let deltas = ledger.take_deltas();
        metrics.take(&Tick {
            now: Instant::now(),
            deltas: &deltas,
            ledger,
            directory,
            filter,
            losses: &Losses::default(),
        });
    }

    /// The value of the only series that begins so.
    #[track_caller]
    fn value(metrics: &Metrics, series: &str) -> Option<u64> {
        let text = metrics.text().unwrap();
        let mut lines = text.lines().filter(|line| line.starts_with(series));
        let line = lines.next()?;
        assert_eq!(lines.next(), None, "{series}");
        line.rsplit_once(' ').unwrap().1.parse().ok()
    }

    #[test]
    fn requests_before_a_pod_has_a_name_stay_where_they_were_counted() {
        let mut metrics = Metrics::new(Hook::Kprobe, MAX_SERIES);
        let (mut ledger, mut directory) = (Ledger::default(), Directory::default());
        let place = Place {
            pod: Some(POD.parse().unwrap()),
            cgroup: Some("/pod".into()),
            ..Place::default()
        };
        let everything = Filter::default();
        requests(&mut metrics, &mut ledger, 2, &place, &directory, &everything);
        let pod = Pod {
            name: "shop-1".to_owned(),
            namespace: "store".to_owned(),
            controllers: Vec::new(),
        };
        directory.pods.insert(POD.parse().unwrap(), pod);
        requests(&mut metrics, &mut ledger, 7, &place, &directory, &everything);
        let of = |namespace: &str| format!("http_server_requests_total{{k8s_namespace_name=\"{namespace}\"");
        assert_eq!(value(&metrics, &of("")), Some(2));
        assert_eq!(value(&metrics, &of("store")), Some(5));
        assert_eq!(
            value(&metrics, "scope_http_statistics_unlabelled_requests_total"),
            Some(2)
        );

        // What is not shown any more stands still.
        let overrides = Overrides::from_text("{namespaces: {exclude: [store]}, hostId: h}", "f".as_ref());
        let hidden = Settings::new(overrides.unwrap()).unwrap().live.filter();
        requests(&mut metrics, &mut ledger, 9, &place, &directory, &hidden);
        assert_eq!(value(&metrics, &of("store")), Some(5));
        requests(&mut metrics, &mut ledger, 10, &place, &directory, &everything);
        assert_eq!(value(&metrics, &of("store")), Some(6));
    }

    #[test]
    fn a_workload_has_its_losses() {
        let mut metrics = Metrics::new(Hook::Kprobe, MAX_SERIES);
        let mut ledger = Ledger::default();
        let owner = Owner {
            pid: 7,
            start_time: 1,
            cgroup: 1,
        };
        let counter = Counter {
            key: owner.key(Event::Lost(Loss::OutOfSync)),
            value: 3,
        };
        ledger.read(&[counter], |_| Identity {
            gone: false,
            command: Some("nginx".to_owned()),
            place: Place::default(),
        });
        metrics.take(&Tick {
            now: Instant::now(),
            deltas: &ledger.take_deltas(),
            ledger: &ledger,
            directory: &Directory::default(),
            filter: &Filter::default(),
            losses: &Losses::default(),
        });
        let name = "scope_http_statistics_workload_losses_total";
        assert_eq!(value(&metrics, name), Some(3));
        let text = metrics.text().unwrap();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        assert!(
            line.contains("process_executable_name=\"nginx\"") && line.contains("cause=\"out_of_sync\""),
            "{line}"
        );
        // Responses are no losses.
        assert!(!text.contains("http_server_responses_total{"), "{text}");
    }

    #[test]
    fn programs_are_there_once_the_kernel_measures_them() {
        let metrics = Metrics::new(Hook::Kprobe, MAX_SERIES);
        let name = "scope_http_statistics_bpf_program_runs_total";
        metrics.measured([("tcp_sendmsg", ProgramStatistics::default())].into_iter());
        assert_eq!(value(&metrics, name), None);
        for (runs, millis) in [(3, 1500), (4, 2500)] {
            let statistics = ProgramStatistics {
                runs,
                run_time: Duration::from_millis(millis),
                misses: 0,
            };
            metrics.measured([("tcp_sendmsg", statistics)].into_iter());
        }
        assert_eq!(value(&metrics, name), Some(4));
        let text = metrics.text().unwrap();
        assert!(
            text.contains(
                "scope_http_statistics_bpf_program_run_time_seconds_total{program=\"tcp_sendmsg\"} 2.5\n"
            ),
            "{text}"
        );
    }

    #[test]
    fn older_readers_get_the_names_of_the_samples() {
        let open_metrics = "\
# HELP a Requests.
# TYPE a counter
a_total{b=\"# TYPE c d\"} 1
# HELP build The version.
# TYPE build info
build_info{version=\"1\"} 1
# HELP d_seconds Time.
# TYPE d_seconds histogram
# UNIT d_seconds seconds
d_seconds_sum 0.5
# EOF
";
        let expected = "\
# HELP a_total Requests.
# TYPE a_total counter
a_total{b=\"# TYPE c d\"} 1
# HELP build_info The version.
# TYPE build_info gauge
build_info{version=\"1\"} 1
# HELP d_seconds Time.
# TYPE d_seconds histogram
d_seconds_sum 0.5
";
        assert_eq!(classic(open_metrics), expected);
    }
}
