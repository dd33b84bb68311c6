//! Totals since the agent started: the answer to `GET /totals`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::bpf::{Hook, Loss, Losses};
use crate::stats::{Event, Ledger};

/// Everything that was counted, and what could not be.
///
/// ```json
/// {"hook":"tracepoint",
///  "processes":[{"pid":1,"command":"nginx","cgroup":"/","requests":2,"responses":{"200":1,"404":1}}],
///  "exited":[{"cgroup":"/system.slice/cgi.service","requests":1,"responses":{"200":1}}],
///  "losses":{"counters_full":0}}
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// The hook in use.
    pub hook: String,
    /// Live processes, by pid. One that moved to another cgroup is there once for each.
    pub processes: Vec<ProcessTotals>,
    /// All processes of a cgroup that are gone.
    pub exited: Vec<ExitedTotals>,
    /// What could not be counted, by cause ([`Loss::name`]).
    pub losses: BTreeMap<String, u64>,
}

/// What one live process did in one cgroup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessTotals {
    /// Process id in the agent's PID namespace.
    pub pid: u32,
    /// Its command name; null if it could not be read.
    pub command: Option<String>,
    /// Path of its cgroup; null if it could not be found.
    pub cgroup: Option<String>,
    /// What it did.
    #[serde(flatten)]
    pub counts: Counts,
}

/// What the processes of one cgroup did that are gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitedTotals {
    /// Path of the cgroup; null for cgroups that were gone before their path could be read.
    pub cgroup: Option<String>,
    /// What they did.
    #[serde(flatten)]
    pub counts: Counts,
}

/// Requests received and responses sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Requests received.
    pub requests: u64,
    /// Responses sent, by status code; `unknown` where the code could not be read.
    pub responses: BTreeMap<String, u64>,
}

impl FromIterator<(Event, u64)> for Counts {
    fn from_iter<I: IntoIterator<Item = (Event, u64)>>(events: I) -> Self {
        let mut counts = Self::default();
        for (event, count) in events {
            let code = match event {
                Event::Request => {
                    counts.requests += count;
                    continue;
                }
                Event::Response(code) => code.to_string(),
                Event::UnknownResponse => "unknown".to_owned(),
            };
            *counts.responses.entry(code).or_default() += count;
        }
        counts
    }
}

impl Totals {
    /// The totals of a ledger.
    #[must_use]
    pub fn new(hook: Hook, ledger: &Ledger, losses: &Losses) -> Self {
        let processes = ledger
            .processes()
            .into_iter()
            .map(|(owner, account)| ProcessTotals {
                pid: owner.pid,
                command: account.command().map(str::to_owned),
                cgroup: account.place().cgroup.as_deref().map(str::to_owned),
                counts: account.totals().collect(),
            })
            .collect();
        let exited = ledger
            .exited()
            .into_iter()
            .map(|(place, counts)| ExitedTotals {
                cgroup: place.cgroup.as_deref().map(str::to_owned),
                counts: counts.into_iter().collect(),
            })
            .collect();
        let losses = Loss::ALL
            .iter()
            .zip(losses.0)
            .map(|(loss, count)| (loss.name().to_owned(), count))
            .collect();
        Self {
            hook: hook.name().to_owned(),
            processes,
            exited,
            losses,
        }
    }
}
