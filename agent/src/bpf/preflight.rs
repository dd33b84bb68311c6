//! What this machine allows: each thing the agent needs, whether it is there, and what cannot be done without it.

use super::{
    Hook, MapSizes,
    btf::{Btf, VMLINUX},
    error::{Error, Refusal},
    kernel::{kernel_release, may_load_programs, version},
    loader::Loader,
};
use crate::error_chain::error_chain;

/// Whether something is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckState {
    /// It is.
    Ok,
    /// It is not, and something is the worse for it.
    Warning,
    /// It is not, and the agent cannot run.
    Missing,
}

/// One thing looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub what: String,
    /// Whether it is there.
    pub state: CheckState,
    /// What is there; or what is missing, what cannot be done without it, and what to do.
    pub detail: String,
}

/// Everything looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preflight {
    /// The kernel's release, as `uname -r` shows it.
    pub kernel: String,
    /// The checks, in the order they build on each other.
    pub rows: Vec<Check>,
}

/// Looks at the kernel, and tries every hook: loads its programs, attaches them, and detaches them again.
#[must_use]
pub fn preflight() -> Preflight {
    let kernel = kernel_release();
    let mut rows = vec![kernel_check(&kernel), btf_check(), capabilities_check()];
    rows.extend(hook_checks());
    Preflight { kernel, rows }
}

fn check(what: &str, state: CheckState, detail: impl Into<String>) -> Check {
    Check {
        what: what.to_owned(),
        state,
        detail: detail.into(),
    }
}

fn kernel_check(release: &str) -> Check {
    if version(release) < Some((5, 10)) {
        let detail =
            format!("{release}: older than 5.10, the oldest that is tested; counting may be refused");
        return check("kernel", CheckState::Warning, detail);
    }
    check("kernel", CheckState::Ok, release)
}

fn btf_check() -> Check {
    match Btf::of_kernel() {
        Ok(_) => check("BTF", CheckState::Ok, VMLINUX),
        Err(error) => {
            let cause = std::error::Error::source(&error)
                .map(|cause| format!(": {cause}"))
                .unwrap_or_default();
            let detail = format!(
                "{error}{cause}: without it no field of the kernel's structures can be found and nothing can be \
                 counted; use a kernel with CONFIG_DEBUG_INFO_BTF=y"
            );
            check("BTF", CheckState::Missing, detail)
        }
    }
}

fn capabilities_check() -> Check {
    if may_load_programs() {
        check(
            "capabilities",
            CheckState::Ok,
            "CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN",
        )
    } else {
        check(
            "capabilities",
            CheckState::Missing,
            "neither CAP_BPF with CAP_PERFMON nor CAP_SYS_ADMIN: no program can be loaded and nothing counted; \
             run as root (sudo)",
        )
    }
}

/// One row for each hook, and one that says which is taken.
fn hook_checks() -> Vec<Check> {
    let name = |hook: Hook| format!("hook {hook}");
    let loader = match Loader::examine(MapSizes::DEFAULT) {
        Ok(loader) => loader,
        Err(error) => {
            let why = match error {
                Error::NoBtf(_) => "needs BTF".to_owned(),
                Error::NotPermitted => "needs the capabilities above".to_owned(),
                error => error_chain(&error),
            };
            return Hook::ALL
                .map(|hook| check(&name(hook), CheckState::Missing, &*why))
                .to_vec();
        }
    };
    let found = Hook::ALL.map(|hook| {
        loader
            .attach(hook)
            .map(|(_, attachments)| attachments.few_return_probes().map(str::to_owned))
            .map_err(|error| Refusal::new(hook, error).reason())
    });
    let best = found.iter().position(Result::is_ok);
    Hook::ALL
        .into_iter()
        .zip(found)
        .enumerate()
        .map(|(index, (hook, result))| match result {
            Ok(few_return_probes) => {
                let taken = if Some(index) == best { "; auto takes it" } else { "" };
                let few = few_return_probes.map_or_else(String::new, |why| {
                    format!(
                        "; few return probes are ready ({why}), so calls of many threads on unix sockets may be missed"
                    )
                });
                let detail = format!("usable{taken}{few}");
                check(&name(hook), CheckState::Ok, detail)
            }
            Err(why) if best.is_some() => {
                check(&name(hook), CheckState::Warning, format!("not usable: {why}"))
            }
            Err(why) => check(
                &name(hook),
                CheckState::Missing,
                format!("not usable: {why}; nothing can be counted"),
            ),
        })
        .collect()
}
