//! Whether an agent can run here.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde::Serialize;

use super::table::{Align, Table};
use crate::bpf::{self, CheckState, HookChoice};
use crate::config::{PluginDir, Settings};
use crate::server::SocketState;

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
    let required = match settings.hook {
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
    checks.push(Row {
        check: "host id".to_owned(),
        state: State::Ok,
        detail: format!(
            "{} ({}); must be what Scope's probe calls this host, else set --host-id",
            settings.host_id,
            settings.host_id_source.describe()
        ),
    });
    let directory = plugin_dir(&settings.plugin_dir).await;
    let can_run = can_count && directory.state != State::Missing;
    checks.push(directory);
    Check { can_run, checks }
}

async fn plugin_dir(dir: &PluginDir) -> Row {
    let (state, detail) = match (SocketState::of(&dir.socket()).await, writable(&dir.socket_dir())) {
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
