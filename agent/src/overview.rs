//! What the live table shows: the answer to `GET /overview`.

use std::collections::{BTreeMap, HashMap};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::bpf::{Hook, Loss, Losses};
use crate::config::HostId;
use crate::stats::{Event, Ledger, Owner, Series, Subject, Window};
use crate::totals::{Counts, PlaceTotals, UNKNOWN};
use crate::workload::{Directory, Place};

/// How much of the past it has.
const PAST: SignedDuration = SignedDuration::from_secs(60);

/// Everyone who was counted, with totals and the rates of the last minute.
///
/// ```json
/// {"host":"node-1","hook":"tracepoint","pid":900,"date":"2026-11-22T16:16:40Z","failure":null,"ticks":2,
///  "processes":[{"pid":7,"command":"nginx","cgroup":"/nginx.service","requests":9,"responses":{"200":9},
///                "request_rates":[3.0,6.0],"response_rates":{"200":6.0}}],
///  "exited":[],"losses":{"counters_full":0}}
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Overview {
    /// This host, in Scope.
    pub host: String,
    /// The hook in use.
    pub hook: String,
    /// The agent's process.
    pub pid: u32,
    /// When the latest tick was; null before the first.
    pub date: Option<Timestamp>,
    /// Why the counters cannot be read, if so.
    pub failure: Option<String>,
    /// How many ticks the last minute has.
    pub ticks: usize,
    /// Live processes, by pid. One that moved to another cgroup is there once for each.
    pub processes: Vec<ProcessActivity>,
    /// All processes of a cgroup that are gone.
    pub exited: Vec<ExitedActivity>,
    /// What could not be counted, by cause ([`Loss::name`]).
    pub losses: BTreeMap<String, u64>,
}

/// What one live process does in one cgroup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProcessActivity {
    /// Process id in the agent's PID namespace.
    pub pid: u32,
    /// Its command name; null if it could not be read.
    pub command: Option<String>,
    /// Where it is.
    #[serde(flatten)]
    pub place: PlaceTotals,
    /// What it does.
    #[serde(flatten)]
    pub activity: Activity,
}

/// What the processes of one cgroup did that are gone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExitedActivity {
    /// Where they were.
    #[serde(flatten)]
    pub place: PlaceTotals,
    /// What they did.
    #[serde(flatten)]
    pub activity: Activity,
}

/// Totals and rates.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Activity {
    /// Since the agent started, up to the latest tick.
    #[serde(flatten)]
    pub counts: Counts,
    /// Requests per second in the latest ticks, oldest first; at most as many as there are, 0 before.
    pub request_rates: Vec<f64>,
    /// Responses per second in the latest tick, by status code; `unknown` where it could not be read.
    pub response_rates: BTreeMap<String, f64>,
}

/// What an overview is made of.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a> {
    /// This host, in Scope.
    pub host: &'a HostId,
    /// The hook in use.
    pub hook: Hook,
    /// What happened lately.
    pub window: &'a Window,
    /// To whom.
    pub ledger: &'a Ledger,
    /// What containers and pods are called.
    pub directory: &'a Directory,
    /// What could not be counted.
    pub losses: &'a Losses,
    /// Why the counters cannot be read, if so.
    pub failure: Option<&'a str>,
}

/// The series of one row, which it is the sum of.
type Parts<'a> = BTreeMap<Event, Vec<&'a Series>>;

impl Overview {
    /// The overview of a window and the accounts behind it.
    #[must_use]
    pub fn new(sources: &Sources<'_>) -> Self {
        let Sources {
            host,
            hook,
            window,
            ledger,
            directory,
            losses,
            failure,
        } = *sources;
        let date = window.dates().next_back();
        let recent = |then: &Timestamp| date.is_some_and(|date| date.duration_since(*then) < PAST);
        let ticks = window.dates().filter(recent).count();
        let (mut live, mut gone) = (HashMap::<Owner, Parts>::new(), HashMap::<&Place, Parts>::new());
        for (subject, series) in window.series() {
            let parts = match subject {
                Subject::Process(owner) if ledger.is_live(owner) => live.entry(*owner).or_default(),
                Subject::Process(owner) => match ledger.account(owner) {
                    Some(account) => gone.entry(account.place()).or_default(),
                    None => continue,
                },
                Subject::Exited(place) => gone.entry(place).or_default(),
            };
            for (event, series) in series {
                parts.entry(*event).or_default().push(series);
            }
        }
        let activity = |counts: Counts, parts: Option<Parts>| {
            let mut activity = Activity {
                counts,
                ..Activity::default()
            };
            for (event, series) in parts.unwrap_or_default() {
                let code = match event {
                    Event::Request => {
                        let rates = window.rates_of_sum(&series, ticks);
                        activity.request_rates = rates.map(hundredths).collect();
                        continue;
                    }
                    Event::Response(code) => code.to_string(),
                    Event::UnknownResponse => UNKNOWN.to_owned(),
                    Event::Lost(_) => continue,
                };
                let rate = window.rates_of_sum(&series, 1).next().unwrap_or(0.0);
                activity.response_rates.insert(code, hundredths(rate));
            }
            activity
        };
        let processes = ledger
            .processes()
            .into_iter()
            .map(|(owner, account)| ProcessActivity {
                pid: owner.pid,
                command: account.command().map(str::to_owned),
                place: PlaceTotals::new(account.place(), directory),
                activity: activity(account.totals().collect(), live.remove(&owner)),
            });
        let processes = processes.collect();
        let exited = ledger.exited().into_iter().map(|(place, counts)| ExitedActivity {
            place: PlaceTotals::new(&place, directory),
            activity: activity(counts.into_iter().collect(), gone.remove(&place)),
        });
        Self {
            host: host.to_string(),
            hook: hook.name().to_owned(),
            pid: std::process::id(),
            date,
            failure: failure.map(str::to_owned),
            ticks,
            processes,
            exited: exited.collect(),
            losses: Loss::ALL
                .iter()
                .zip(losses.0)
                .map(|(loss, count)| (loss.name().to_owned(), count))
                .collect(),
        }
    }
}

/// Nobody sees more, and it would be most of the answer.
fn hundredths(rate: f64) -> f64 {
    (rate * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bpf::Counter;
    use crate::stats::Identity;

    const fn owner(pid: u32) -> Owner {
        Owner {
            pid,
            start_time: 1,
            cgroup: 1,
        }
    }

    #[test]
    fn every_process_has_its_rates_and_exited_ones_share_theirs() {
        let (mut ledger, mut window) = (Ledger::default(), Window::new(Duration::from_mins(5), 600));
        let begin: Timestamp = "2026-11-22T16:00:00Z".parse().unwrap();
        let mut counts: BTreeMap<(u32, Event), u64> = BTreeMap::new();
        for tick in 1..=70_u32 {
            *counts.entry((7, Event::Request)).or_default() += 2;
            *counts.entry((7, Event::Response(418))).or_default() += 1;
            if tick < 65 {
                *counts.entry((8, Event::Request)).or_default() += 4;
                *counts.entry((9, Event::UnknownResponse)).or_default() += 4;
            }
            let counters: Vec<Counter> = counts
                .iter()
                .map(|((pid, event), value)| Counter {
                    key: owner(*pid).key(*event),
                    value: *value,
                })
                .collect();
            ledger.read(&counters, |owner| Identity {
                gone: false,
                command: Some(format!("server-{}", owner.pid)),
                place: Place {
                    cgroup: Some("/a".into()),
                    ..Place::default()
                },
            });
            let date = begin + SignedDuration::from_secs(tick.into());
            window.push(date, Duration::from_secs(1), &ledger.take_deltas());
        }
        // One that is retired, and one that is only known to be gone.
        ledger.mark_gone(owner(9));
        let place = ledger.retire(&owner(9)).unwrap();
        window.retire(owner(9), place);
        ledger.mark_gone(owner(8));

        let mut losses = Losses::default();
        losses.0[0] = 3;
        let overview = Overview::new(&Sources {
            host: &"node-1".parse().unwrap(),
            hook: Hook::Kprobe,
            window: &window,
            ledger: &ledger,
            directory: &Directory::default(),
            losses: &losses,
            failure: None,
        });
        assert_eq!(overview.ticks, 60);
        assert_eq!(overview.losses[Loss::ALL[0].name()], 3);
        let [process] = &overview.processes[..] else {
            panic!("{:?}", overview.processes)
        };
        assert_eq!((process.pid, process.activity.counts.requests), (7, 140));
        assert_eq!(process.activity.request_rates, [2.0; 60]);
        assert_eq!(process.activity.response_rates, [("418".to_owned(), 1.0)].into());
        let [exited] = &overview.exited[..] else {
            panic!("{:?}", overview.exited)
        };
        assert_eq!(exited.activity.counts.requests, 256);
        assert_eq!(exited.activity.counts.responses["unknown"], 256);
        let rates = &exited.activity.request_rates;
        assert_eq!(rates.len(), 60);
        assert_eq!(rates[53..55], [4.0, 0.0]);
        assert_eq!(
            exited.activity.response_rates,
            [("unknown".to_owned(), 0.0)].into()
        );

        let text = serde_json::to_string(&overview).unwrap();
        assert_eq!(serde_json::from_str::<Overview>(&text).unwrap(), overview);
    }
}
