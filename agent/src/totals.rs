//! Totals since the agent started: the answer to `GET /totals`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::bpf::{Hook, Loss, Losses};
use crate::config::HostId;
use crate::host::HostIdentity;
use crate::stats::{Event, Ledger};
use crate::workload::{Directory, Place, PodUid};

/// In place of a status code that could not be read.
pub const UNKNOWN: &str = "unknown";

/// Everything that was counted, and what could not be.
///
/// ```json
/// {"hook":"tracepoint",
///  "host":{"id":"node-1","source":"SCOPE_HOSTNAME of Scope's probe","probes":[{"id":"99f6914cc717fa5","pid":7,"host_id":"node-1"}]},
///  "processes":[{"pid":1,"command":"nginx","cgroup":"/","requests":2,"responses":{"200":1,"404":1},"losses":{"gave_up":1}}],
///  "exited":[{"cgroup":"/system.slice/cgi.service","requests":1,"responses":{"200":1}}],
///  "unlabelled":0,
///  "losses":{"counters_full":0,"gave_up":1}}
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// The hook in use.
    pub hook: String,
    /// This host.
    pub host: HostTotals,
    /// Live processes, by pid. One that moved to another cgroup is there once for each.
    pub processes: Vec<ProcessTotals>,
    /// All processes of a cgroup that are gone.
    pub exited: Vec<ExitedTotals>,
    /// Requests of these that lack a pod's name ([`Directory::lacks_label`]) as things are known now.
    #[serde(default)]
    pub unlabelled: u64,
    /// What could not be counted, by cause ([`Loss::name`]): all of it, also what is no process's.
    pub losses: BTreeMap<String, u64>,
}

/// Which host this is, and who asked for reports lately.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostTotals {
    /// Its id in reports.
    pub id: String,
    /// Where that comes from ([`HostIdSource::describe`](crate::config::HostIdSource::describe)).
    pub source: String,
    /// Probes of Scope that poll.
    pub probes: Vec<ProbeTotals>,
}

/// A probe of Scope that polls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeTotals {
    /// What it calls itself.
    pub id: String,
    /// Its process; null if it is not in our PID namespace.
    pub pid: Option<u32>,
    /// What it calls this host; null if that cannot be told.
    pub host_id: Option<String>,
}

/// What one live process did in one cgroup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessTotals {
    /// Process id in the agent's PID namespace.
    pub pid: u32,
    /// Its command name; null if it could not be read.
    pub command: Option<String>,
    /// Where it is.
    #[serde(flatten)]
    pub place: PlaceTotals,
    /// What it did.
    #[serde(flatten)]
    pub counts: Counts,
}

/// What the processes of one cgroup did that are gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitedTotals {
    /// Where they were.
    #[serde(flatten)]
    pub place: PlaceTotals,
    /// What they did.
    #[serde(flatten)]
    pub counts: Counts,
}

/// A cgroup, and what is known of it. All but the first are there only if known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlaceTotals {
    /// Its path; null for cgroups that were gone before their path could be read.
    pub cgroup: Option<String>,
    /// The container's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// The container's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The pod's UID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    /// The pod's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The pod's namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

impl PlaceTotals {
    /// What is known of a place.
    #[must_use]
    pub fn new(place: &Place, directory: &Directory) -> Self {
        let uid = directory.pod_of(place);
        let pod = uid.and_then(|uid| directory.pods.get(uid));
        let container = place.container.and_then(|id| directory.containers.get(&id));
        Self {
            cgroup: place.cgroup.as_deref().map(str::to_owned),
            container_id: place.container.map(|id| id.to_string()),
            container: container.map(|container| container.name.clone()),
            pod_uid: uid.map(PodUid::to_string),
            pod: pod.map(|pod| pod.name.clone()),
            namespace: pod.map(|pod| pod.namespace.clone()),
        }
    }
}

/// Requests received, responses sent, and what could not be counted of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Requests received.
    pub requests: u64,
    /// Responses sent, by status code; `unknown` where the code could not be read.
    pub responses: BTreeMap<String, u64>,
    /// What could not be counted, by cause ([`Loss::name`]).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub losses: BTreeMap<String, u64>,
}

impl FromIterator<(Event, u64)> for Counts {
    fn from_iter<I: IntoIterator<Item = (Event, u64)>>(events: I) -> Self {
        let mut counts = Self::default();
        for (event, count) in events {
            let (map, key) = match event {
                Event::Request => {
                    counts.requests += count;
                    continue;
                }
                Event::Response(code) => (&mut counts.responses, code.to_string()),
                Event::UnknownResponse => (&mut counts.responses, UNKNOWN.to_owned()),
                Event::Lost(loss) => (&mut counts.losses, loss.name().to_owned()),
            };
            *map.entry(key).or_default() += count;
        }
        counts
    }
}

impl Totals {
    /// The totals of a ledger.
    #[must_use]
    pub fn new(
        hook: Hook,
        host: &HostIdentity,
        ledger: &Ledger,
        directory: &Directory,
        losses: &Losses,
    ) -> Self {
        let (host_id, source) = host.current();
        let host = HostTotals {
            id: host_id.to_string(),
            source: source.describe().to_owned(),
            probes: host
                .probes()
                .map(|(poll, host_id)| ProbeTotals {
                    id: poll.probe.to_string(),
                    pid: poll.pid,
                    host_id: host_id.map(HostId::to_string),
                })
                .collect(),
        };
        let mut unlabelled = 0;
        let mut label = |place: &Place, counts: &Counts| {
            if directory.lacks_label(place) {
                unlabelled += counts.requests;
            }
            PlaceTotals::new(place, directory)
        };
        let processes = ledger
            .processes()
            .into_iter()
            .map(|(owner, account)| {
                let counts = account.totals().collect();
                ProcessTotals {
                    pid: owner.pid,
                    command: account.command().map(str::to_owned),
                    place: label(account.place(), &counts),
                    counts,
                }
            })
            .collect();
        let exited = ledger
            .exited()
            .into_iter()
            .map(|(place, counts)| {
                let counts = counts.into_iter().collect();
                ExitedTotals {
                    place: label(&place, &counts),
                    counts,
                }
            })
            .collect();
        let losses = Loss::ALL
            .iter()
            .zip(losses.0)
            .map(|(loss, count)| (loss.name().to_owned(), count))
            .collect();
        Self {
            hook: hook.name().to_owned(),
            host,
            processes,
            exited,
            unlabelled,
            losses,
        }
    }
}
