//! Why the programs are not in the kernel, or cannot be read, in words for people.

use std::io;

use aya::{EbpfError, maps::MapError, programs::ProgramError};
use thiserror::Error;

use super::{Hook, btf::BtfError, settings::SettingsError};

/// `ENOTSUPP` (include/linux/errno.h): the kernel's own, not for user space, but it gets here.
const ENOTSUPP: i32 = 524;

/// Why the programs are not in the kernel.
#[derive(Debug, Error)]
pub enum Error {
    /// Compiled without the BPF toolchain.
    #[error(
        "this binary was built without its eBPF programs, because the BPF toolchain was missing: \
         run .ci/setup, or install what the build's warning names, and build again"
    )]
    NoPrograms,
    /// No type information.
    #[error(
        "without the kernel's type information no field can be found; \
         use a kernel with CONFIG_DEBUG_INFO_BTF=y"
    )]
    NoBtf(#[source] BtfError),
    /// A kernel unlike any this version knows.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The agent may not load programs.
    #[error(
        "not allowed to load eBPF programs: run as root (sudo), or with the capabilities CAP_BPF and CAP_PERFMON"
    )]
    NotPermitted,
    /// The hook that was asked for does not work here.
    #[error("the {} hook cannot be used: {}; use --hook auto to let the agent choose", .0.hook, .0.reason())]
    Hook(Refusal),
    /// No hook works here.
    #[error("no hook can be used: {}", .0.iter().map(Refusal::to_string).collect::<Vec<_>>().join("; "))]
    NoHook(Vec<Refusal>),
    /// A map that was there is gone or refuses.
    #[error("failed to read the {map} map")]
    Read {
        /// The map's name.
        map: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// A map of the object that is not there.
    pub(super) fn missing(map: &'static str) -> Self {
        Self::Read {
            map,
            source: io::Error::new(io::ErrorKind::NotFound, "no such map in the eBPF object"),
        }
    }

    /// A map that the kernel does not let us read or change.
    pub(super) fn unreadable(map: &'static str, error: MapError) -> Self {
        let source = match error {
            MapError::SyscallError(error) => error.io_error,
            error => io::Error::other(error),
        };
        Self::Read { map, source }
    }
}

/// A hook that does not work here. In words it is one line, which holds what is worth knowing of the error behind it; that one's
/// own text may be all that the verifier said, so it is not told as a source.
#[derive(Debug, Error)]
#[error("{hook}: {}", self.reason())]
pub struct Refusal {
    /// The hook.
    pub hook: Hook,
    error: Box<AttachError>,
}

impl Refusal {
    pub(crate) fn new(hook: Hook, error: AttachError) -> Self {
        Self {
            hook,
            error: Box::new(error),
        }
    }

    /// What the error means for the person who wants the hook: one line.
    #[must_use]
    pub fn reason(&self) -> String {
        reason(self.hook, &self.error)
    }
}

/// Why one hook does not work: loading and attaching, as far as they are told apart.
#[derive(Debug, Error)]
pub(crate) enum AttachError {
    /// The object itself: maps, relocations.
    #[error("{0}")]
    Load(#[from] EbpfError),
    /// One program.
    #[error("{program}: {error}")]
    Program {
        program: &'static str,
        #[source]
        error: ProgramError,
    },
    /// A map.
    #[error("{0}")]
    Map(#[from] MapError),
    /// A program that is not in the object.
    #[error("the eBPF object has no program {0}")]
    NoProgram(&'static str),
    /// A map that is not in the object.
    #[error("the eBPF object has no map {0}")]
    NoMap(&'static str),
    /// What the programs have counted.
    #[error(transparent)]
    Counters(#[from] Error),
    /// The kernel's BTF, as `aya` reads it.
    #[error("{0}")]
    Btf(#[from] aya::BtfError),
}

fn reason(hook: Hook, error: &AttachError) -> String {
    if let AttachError::Program {
        error: ProgramError::SyscallError(error),
        ..
    } = error
        && error.call == "perf_event_open"
        && error.io_error.raw_os_error() == Some(libc::EACCES)
    {
        // Debian's and Ubuntu's kernels know levels above 2, and Debian's begin with 3.
        return "perf events are not permitted (kernel.perf_event_paranoid is above 2, and the agent lacks \
                CAP_SYS_ADMIN)"
            .to_owned();
    }
    match (hook, os_error(error)) {
        (Hook::Fentry, Some(libc::EPERM)) => {
            "the kernel refuses BPF trampolines (it is locked down, or the agent lacks CAP_PERFMON)"
                .to_owned()
        }
        (Hook::Fentry, Some(ENOTSUPP | libc::EOPNOTSUPP)) => {
            "the kernel has no BPF trampolines (CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS)".to_owned()
        }
        (Hook::Kprobe, Some(libc::ENOENT)) => "the kernel has no kprobes (CONFIG_KPROBE_EVENTS)".to_owned(),
        (_, Some(libc::EPERM)) => {
            "not permitted (the kernel is locked down, or the agent lacks CAP_BPF or CAP_PERFMON)".to_owned()
        }
        _ => last_words(&error.to_string()),
    }
}

/// An error in one line: its first, and the last the verifier said before its statistics, where there are any.
fn last_words(text: &str) -> String {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    let statistics = ["verification time", "stack depth", "processed "];
    match lines.rfind(|line| !statistics.iter().any(|start| line.starts_with(start))) {
        Some(last) => format!("{first} … {last}"),
        None => first.to_owned(),
    }
}

/// The error number behind an error, if there is one.
fn os_error(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(current) = next {
        if let Some(io_error) = current.downcast_ref::<io::Error>() {
            return io_error.raw_os_error();
        }
        next = current.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_with_the_verifiers_last_words() {
        assert_eq!(last_words("no such thing"), "no such thing");
        let log = "refused: log:\n0: R1=ctx()\n\nR2 !read_ok\nverification time 3 usec\nstack depth 0\nprocessed 1 insns\n";
        assert_eq!(last_words(log), "refused: log: … R2 !read_ok");
    }
}
