//! Whether an agent can run here.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde::Serialize;

use super::table::{Align, Table};
use crate::bpf::{self, CheckState, HookChoice};
use crate::client::Client;
use crate::config::{HostIdSource, PluginDir, Settings};
use crate::server::{PLUGIN_DIR, SocketState};
use crate::totals::{HostTotals, Totals};

/// What was found.
#[derive(Debug, Serialize)]
pub(super) struct Check {
    /// Whether an agent with these settings could run.
    pub(super) can_run: bool,
    checks: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    check: String,
    state: State,
    detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Missing,
    Warning,
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Missing => "missing",
            Self::Warning => "warning",
        }
    }
}

impl From<CheckState> for State {
    fn from(state: CheckState) -> Self {
        match state {
            CheckState::Ok => Self::Ok,
            CheckState::Missing => Self::Missing,
            CheckState::Warning => Self::Warning,
        }
    }
}

impl Check {
    pub(super) fn table(&self) -> String {
        let mut table = Table::new([
            ("CHECK", Align::Left),
            ("STATE", Align::Left),
            ("DETAIL", Align::Left),
        ]);
        for Row { check, state, detail } in &self.checks {
            table.row([check.clone(), state.name().to_owned(), detail.clone()]);
        }
        table.render()
    }
}

/// Looks at everything an agent with these settings needs. Leaves nothing attached and
/// writes nothing.
pub(super) async fn check(settings: &Settings) -> Check {
    let preflight = bpf::preflight();
    // What is no obstacle in itself is one when this hook and no other is asked for.
    let required = match settings.fixed.hook {
        HookChoice::Auto => None,
        HookChoice::Only(hook) => Some(format!("hook {hook}")),
    };
    let can_count = preflight.rows.iter().all(|row| match row.state {
        CheckState::Ok => true,
        CheckState::Warning => required.as_ref() != Some(&row.what),
        CheckState::Missing => false,
    });
    let mut checks: Vec<Row> = preflight
        .rows
        .into_iter()
        .map(|row| Row {
            check: row.what,
            state: row.state.into(),
            detail: row.detail,
        })
        .collect();
    checks.push(host_id(settings).await);
    let directory = plugin_dir(&settings.fixed.plugin_dir).await;
    let can_run = can_count && directory.state != State::Missing;
    checks.push(directory);
    Check { can_run, checks }
}

/// What a running agent goes by, or else what one would begin with.
async fn host_id(settings: &Settings) -> Row {
    let client = Client::new(settings.fixed.plugin_dir.socket());
    let running = client.get_json::<Totals>("/totals").await.ok();
    let (state, detail) = if let Some(Totals { host, .. }) = running {
        running_host_id(&host)
    } else {
        let detail = match settings.host_id_source {
            HostIdSource::Configured => "must be what Scope's probe calls this host",
            _ => "until Scope's probe polls and says what it calls this host",
        };
        let source = settings.host_id_source.describe();
        (State::Ok, format!("{} ({source}); {detail}", settings.host_id))
    };
    Row {
        check: "host id".to_owned(),
        state,
        detail,
    }
}

fn running_host_id(host: &HostTotals) -> (State, String) {
    let HostTotals { id, source, probes } = host;
    let other = probes
        .iter()
        .find(|probe| probe.host_id.as_ref().is_some_and(|called| called != id));
    let (state, detail) = match other {
        Some(probe) => (
            State::Warning,
            format!(
                "but probe {} calls this host {}, and will not show metrics of its processes: set --host-id, or \
                 the probe's SCOPE_HOSTNAME",
                probe.id,
                probe.host_id.as_deref().unwrap_or_default()
            ),
        ),
        None if probes.is_empty() => (State::Ok, "no probe of Scope polls it".to_owned()),
        None => {
            let ids: Vec<&str> = probes.iter().map(|probe| probe.id.as_str()).collect();
            (
                State::Ok,
                format!("polled by Scope's probe {}", ids.join(" and ")),
            )
        }
    };
    (state, format!("{id} ({source}) in the running agent; {detail}"))
}

async fn plugin_dir(dir: &PluginDir) -> Row {
    let (state, detail) = match (
        SocketState::of(&dir.socket(), PLUGIN_DIR).await,
        writable(&dir.socket_dir()),
    ) {
        (Err(error), _) => (State::Missing, error.to_string()),
        (Ok(SocketState::Live(pid)), _) => {
            let agent = pid.map_or_else(
                || "an agent".to_owned(),
                |pid| format!("an agent (process {pid})"),
            );
            (
                State::Warning,
                format!("{}: {agent} listens there already", dir.path().display()),
            )
        }
        (Ok(SocketState::Absent | SocketState::Stale), Err(obstacle)) => (State::Missing, obstacle),
        (Ok(SocketState::Stale), Ok(())) => (
            State::Ok,
            format!(
                "{}: with a stale socket, which will be replaced",
                dir.path().display()
            ),
        ),
        (Ok(SocketState::Absent), Ok(())) if dir.path().is_dir() => {
            (State::Ok, dir.path().display().to_string())
        }
        (Ok(SocketState::Absent), Ok(())) => (
            State::Warning,
            format!(
                "{} does not exist and will be created; Scope's probe must be started after that",
                dir.path().display()
            ),
        ),
    };
    Row {
        check: "plugin directory".to_owned(),
        state,
        detail,
    }
}

/// Whether the directory, or the nearest that exists above it, may be written to: by opening a file without a name,
/// which leaves nothing, and knows of capabilities, access lists and read-only mounts.
fn writable(dir: &Path) -> Result<(), String> {
    let Some(nearest) = dir.ancestors().find(|path| path.exists()) else {
        return Err(format!("{}: not found", dir.display()));
    };
    let opened = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_TMPFILE)
        .open(nearest);
    match opened {
        Ok(_) => Ok(()),
        // It may be written to, but has no files without names.
        Err(error) if error.kind() == ErrorKind::Unsupported => Ok(()),
        Err(error) => {
            let fix = match error.kind() {
                ErrorKind::NotADirectory => "remove it, or set --plugin-dir",
                ErrorKind::PermissionDenied => "run as root (sudo), or set --plugin-dir",
                _ => "set --plugin-dir",
            };
            Err(format!(
                "{} cannot be written to: {error}: {fix}",
                nearest.display()
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::totals::ProbeTotals;

    #[test]
    fn a_probe_that_calls_the_host_otherwise_is_told_of() {
        let host = |probes: &[Option<&str>]| HostTotals {
            id: "node-1".to_owned(),
            source: "as configured".to_owned(),
            probes: probes
                .iter()
                .map(|host_id| ProbeTotals {
                    id: "99f6914cc717fa5".to_owned(),
                    pid: Some(7),
                    host_id: host_id.map(str::to_owned),
                })
                .collect(),
        };
        for (probes, state, words) in [
            (&[][..], State::Ok, "no probe"),
            (&[Some("node-1")], State::Ok, "99f6914cc717fa5"),
            (&[None], State::Ok, "99f6914cc717fa5"),
            (&[None, Some("node-2")], State::Warning, "calls this host node-2"),
        ] {
            let (found, detail) = running_host_id(&host(probes));
            assert_eq!(found, state, "{detail}");
            assert!(
                detail.starts_with("node-1 (as configured)") && detail.contains(words),
                "{detail}"
            );
        }
    }
}
