//! Which host this is in Scope.
//!
//! Ids of processes begin with the host's (`<host id>;<pid>`), and Scope drops what it is told of a host that it calls
//! otherwise. Its probe takes `SCOPE_HOSTNAME` from its environment or else its host name, so if nobody has configured
//! an id, the probe that polls us is asked: it is at the other end of the socket, and `/proc` shows its environment.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::config::{HostId, HostIdSource};

/// A probe that has not polled for this long is gone: it polls every second or two.
const PROBE_PATIENCE: Duration = Duration::from_secs(30);
/// How many probes are remembered. Two are normal: the node's and the cluster's.
const MAX_PROBES: usize = 16;
/// Longest id of a probe. Scope's have 16 digits.
const MAX_PROBE_ID: usize = 64;

/// Why a probe does not say what it calls this host.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// It is outside our PID namespace.
    #[error("it is in another PID namespace, so its processes are not ours")]
    OtherPidNamespace,
    /// Its environment cannot be looked at.
    #[error(
        "failed to read {}: run the agent as root (sudo) and with CAP_SYS_PTRACE, or set --host-id",
        .path.display()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It has neither `SCOPE_HOSTNAME` nor a host name that can be seen from here.
    #[error("its environment has no host name: set --host-id to what Scope shows for this host")]
    Unnamed,
}

/// One poll by a probe of Scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Poll {
    /// What it calls itself in its requests.
    pub probe: ProbeId,
    /// Its process, if it is in our PID namespace or below.
    pub pid: Option<u32>,
}

/// What a probe calls itself: `probe_id` in its requests.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ProbeId(String);

impl ProbeId {
    /// From the query of a request. `None` if there is no id such as probes have.
    #[must_use]
    pub fn from_query(query: &str) -> Option<Self> {
        let id = query.split('&').find_map(|pair| pair.strip_prefix("probe_id="))?;
        let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let is_id = (1..=MAX_PROBE_ID).contains(&id.len()) && id.bytes().all(known);
        is_id.then(|| Self(id.to_owned()))
    }
}

impl fmt::Display for ProbeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ProbeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What the process `pid` calls this host if it is a probe of Scope, from the `/proc` mounted at `proc`.
///
/// # Errors
/// When that cannot be told.
pub fn of_probe(proc: &Path, pid: u32) -> Result<(HostId, HostIdSource), ProbeError> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |source| ProbeError::Unreadable { path, source }
    };
    let probe = proc.join(pid.to_string());
    let shared = |namespace: &str| {
        let path = probe.join("ns").join(namespace);
        let theirs = fs::read_link(&path).map_err(unreadable(&path))?;
        let path = proc.join("self/ns").join(namespace);
        let ours = fs::read_link(&path).map_err(unreadable(&path))?;
        Ok(theirs == ours)
    };
    if !shared("pid")? {
        return Err(ProbeError::OtherPidNamespace);
    }
    let path = probe.join("environ");
    let environment = fs::read(&path).map_err(unreadable(&path))?;
    if let Some(id) = variable(&environment, "SCOPE_HOSTNAME") {
        return Ok((id, HostIdSource::ProbeVariable));
    }
    let name = if shared("uts")? {
        let path = proc.join("sys/kernel/hostname");
        let name = fs::read_to_string(&path).map_err(unreadable(&path))?;
        name.trim().parse().ok()
    } else {
        // Container runtimes set it to the host name of each container.
        variable(&environment, "HOSTNAME")
    };
    name.map(|id| (id, HostIdSource::ProbeHostName))
        .ok_or(ProbeError::Unnamed)
}

/// A variable of an environment as in `/proc/<pid>/environ`, if it can be a host id.
fn variable(environment: &[u8], name: &str) -> Option<HostId> {
    let value = environment.split(|byte| *byte == 0).find_map(|pair| {
        let value = pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        str::from_utf8(value).ok()
    });
    value?.parse().ok()
}

/// A probe that polls us.
#[derive(Clone, Debug)]
struct Probe {
    poll: Poll,
    last: Instant,
    /// What it calls this host, if that is known.
    host: Option<(HostId, HostIdSource)>,
}

/// The host's id, following the probe that polls us unless one is configured.
#[derive(Debug)]
pub struct HostIdentity {
    /// What is configured, or else taken while no probe says better.
    given: (HostId, HostIdSource),
    /// Most recent last. The first one that names the host is followed for as long as it polls, so that two that do
    /// not agree cannot make reports change to and fro.
    probes: Vec<Probe>,
}

impl HostIdentity {
    /// The host that is `given` by configuration or by the host itself.
    #[must_use]
    pub fn new(given: (HostId, HostIdSource)) -> Self {
        Self {
            given,
            probes: Vec::new(),
        }
    }

    /// The id, and where it comes from.
    #[must_use]
    pub fn current(&self) -> &(HostId, HostIdSource) {
        if self.given.1 == HostIdSource::Configured {
            return &self.given;
        }
        let named = self.probes.iter().find_map(|probe| probe.host.as_ref());
        named.unwrap_or(&self.given)
    }

    /// Probes that poll us, and what they call this host.
    pub fn probes(&self) -> impl Iterator<Item = (&Poll, Option<&HostId>)> {
        self.probes
            .iter()
            .map(|probe| (&probe.poll, probe.host.as_ref().map(|(id, _)| id)))
    }

    /// Takes what was polled since the last call. `ask` is asked once for each new probe.
    pub fn update(
        &mut self,
        polls: Vec<Poll>,
        now: Instant,
        ask: impl Fn(u32) -> Result<(HostId, HostIdSource), ProbeError>,
    ) {
        let before = self.current().clone();
        for poll in polls {
            if let Some(probe) = self.probes.iter_mut().find(|probe| probe.poll == poll) {
                probe.last = now;
            } else if self.probes.len() < MAX_PROBES {
                let host = self.meet(&poll, &ask);
                self.probes.push(Probe {
                    poll,
                    last: now,
                    host,
                });
            }
        }
        self.probes
            .retain(|probe| now.duration_since(probe.last) < PROBE_PATIENCE);
        let (host_id, source) = self.current();
        if *host_id != before.0 {
            info!(%host_id, source = source.describe(), before = %before.0, "this host has another id in Scope");
        }
    }

    /// A probe polls for the first time.
    fn meet(
        &self,
        poll: &Poll,
        ask: impl Fn(u32) -> Result<(HostId, HostIdSource), ProbeError>,
    ) -> Option<(HostId, HostIdSource)> {
        let Poll { probe, pid } = poll;
        let answer = pid.map_or(Err(ProbeError::OtherPidNamespace), ask);
        let (current, source) = self.current();
        match answer {
            Ok((host_id, host_source)) => {
                info!(%probe, pid, %host_id, source = host_source.describe(), "a probe of Scope polls");
                let follows = *source != HostIdSource::Configured
                    && self.probes.iter().all(|probe| probe.host.is_none());
                if host_id != *current && !follows {
                    warn!(
                        %probe, %host_id, ours = %current, source = source.describe(),
                        "the probe calls this host otherwise and will show no HTTP metrics of its processes: \
                         set --host-id to what it is called in Scope, or the probe's SCOPE_HOSTNAME"
                    );
                }
                Some((host_id, host_source))
            }
            Err(error) => {
                info!(%probe, pid, reason = %error, ours = %current, "a probe of Scope polls; it is not asked for the host's id");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    fn given(source: HostIdSource) -> HostIdentity {
        HostIdentity::new(("given".parse().unwrap(), source))
    }

    fn poll(probe: &str, pid: u32) -> Poll {
        Poll {
            probe: ProbeId(probe.to_owned()),
            pid: Some(pid),
        }
    }

    /// Probes are called by their pids; 9 says nothing.
    fn ask(pid: u32) -> Result<(HostId, HostIdSource), ProbeError> {
        match pid {
            9 => Err(ProbeError::Unnamed),
            _ => Ok((
                format!("host-of-{pid}").parse().unwrap(),
                HostIdSource::ProbeVariable,
            )),
        }
    }

    #[test]
    fn the_first_probe_that_names_the_host_is_followed_for_as_long_as_it_polls() {
        let start = Instant::now();
        let mut host = given(HostIdSource::NodeName);
        let mut after = |seconds: u64, polls: &[(&str, u32)]| {
            let polls = polls.iter().map(|(probe, pid)| poll(probe, *pid)).collect();
            host.update(polls, start + Duration::from_secs(seconds), ask);
            host.current().0.to_string()
        };
        assert_eq!(after(0, &[]), "given");
        assert_eq!(after(1, &[("silent", 9)]), "given");
        assert_eq!(after(2, &[("a", 1)]), "host-of-1");
        assert_eq!(after(3, &[("b", 2), ("a", 1)]), "host-of-1");
        assert_eq!(after(30, &[("b", 2)]), "host-of-1");
        assert_eq!(after(33, &[("b", 2)]), "host-of-2", "a is gone");
        assert_eq!(
            after(34, &[("a", 3), ("b", 2)]),
            "host-of-2",
            "a is back, as another process"
        );
        assert_eq!(after(70, &[]), "given");
    }

    #[test]
    fn what_is_configured_stays() {
        let mut host = given(HostIdSource::Configured);
        host.update(vec![poll("a", 1)], Instant::now(), ask);
        assert_eq!(host.current().0.to_string(), "given");
        let seen: Vec<_> = host.probes().map(|(_, host)| host.unwrap().to_string()).collect();
        assert_eq!(seen, ["host-of-1"], "it is shown all the same");
    }

    #[test]
    fn each_probe_is_asked_once_and_few_are_remembered() {
        let asked = std::cell::Cell::new(0);
        let mut host = given(HostIdSource::HostName);
        let now = Instant::now();
        for _ in 0..3 {
            let polls = (0..100).map(|pid| poll("a", pid)).collect();
            host.update(polls, now, |pid| {
                asked.set(asked.get() + 1);
                ask(pid)
            });
        }
        assert_eq!((asked.get(), host.probes().count()), (MAX_PROBES, MAX_PROBES));
    }

    #[test]
    fn probes_are_known_by_their_query() {
        let id = |query| ProbeId::from_query(query).map(|id| id.to_string());
        assert_eq!(
            id("api_version=1&probe_id=99f6914cc717fa5").as_deref(),
            Some("99f6914cc717fa5")
        );
        for query in ["", "api_version=1", "probe_id=", "probe_id=a%0ab", "xprobe_id=a"] {
            assert_eq!(id(query), None, "{query}");
        }
        assert_eq!(id(&format!("probe_id={}", "a".repeat(65))), None);
    }

    /// A `/proc` in which process 7 polls process `self`.
    fn proc(environ: &str, pid_namespace: &str, uts_namespace: &str) -> TempDir {
        let proc = tempfile::tempdir().unwrap();
        for (process, pid, uts) in [
            ("self", "pid:[1]", "uts:[1]"),
            ("7", pid_namespace, uts_namespace),
        ] {
            let namespaces = proc.path().join(process).join("ns");
            fs::create_dir_all(&namespaces).unwrap();
            symlink(pid, namespaces.join("pid")).unwrap();
            symlink(uts, namespaces.join("uts")).unwrap();
        }
        fs::write(proc.path().join("7/environ"), environ).unwrap();
        fs::create_dir_all(proc.path().join("sys/kernel")).unwrap();
        fs::write(proc.path().join("sys/kernel/hostname"), "kernel-name\n").unwrap();
        proc
    }

    #[test]
    fn a_probe_is_believed_as_it_names_the_host_itself() {
        let (ours, other) = ("uts:[1]", "uts:[2]");
        let variable = HostIdSource::ProbeVariable;
        let name = HostIdSource::ProbeHostName;
        for (environ, uts, expected, source) in [
            (
                "A=b\0SCOPE_HOSTNAME=node-1\0HOSTNAME=x\0",
                ours,
                "node-1",
                variable,
            ),
            (
                "XSCOPE_HOSTNAME=x\0SCOPE_HOSTNAME=node-1",
                other,
                "node-1",
                variable,
            ),
            ("HOSTNAME=pod-1\0", other, "pod-1", name),
            ("HOSTNAME=stale\0", ours, "kernel-name", name),
            ("SCOPE_HOSTNAME=\0", ours, "kernel-name", name),
            ("", ours, "kernel-name", name),
        ] {
            let proc = proc(environ, "pid:[1]", uts);
            let (id, found) = of_probe(proc.path(), 7).unwrap();
            assert_eq!(
                (id.to_string().as_str(), found),
                (expected, source),
                "{environ:?} {uts}"
            );
        }
        let nameless = proc("A=b\0", "pid:[1]", other);
        assert!(matches!(of_probe(nameless.path(), 7), Err(ProbeError::Unnamed)));
        let elsewhere = proc("SCOPE_HOSTNAME=cluster-agent\0", "pid:[2]", ours);
        assert!(matches!(
            of_probe(elsewhere.path(), 7),
            Err(ProbeError::OtherPidNamespace)
        ));
        assert!(matches!(
            of_probe(elsewhere.path(), 8),
            Err(ProbeError::Unreadable { .. })
        ));
    }
}
