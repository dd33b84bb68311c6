//! The kernel half, seen from user space: preflight, field offsets from BTF, load, attach, read.
//!
//! The only module tree that imports `aya`.

use std::{fmt, str::FromStr};

use thiserror::Error;

mod attachments;
mod btf;
mod counters;
mod error;
mod inodes;
mod kernel;
mod loader;
mod object;
mod preflight;
mod priority;
mod programs;
mod return_probes;
mod settings;
mod statistics;

pub use attachments::Attachments;
pub use counters::Counters;
#[cfg(test)]
pub(crate) use error::AttachError;
pub use error::{Error, Refusal};
pub use kernel::kernel_release;
pub use loader::{attach, verify};
pub use preflight::{Check, CheckState, Preflight, preflight};
pub use statistics::{ProgramStatistics, measure_run_times};

pub use agent_ebpf::abi::{CODE_MAX, CODE_MIN, CODE_UNKNOWN, CounterKey, LOST, Loss, REQUESTS};

/// How the programs are attached to the kernel. All hooks share one engine and count alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    /// `fexit` on the protocols' send and receive functions: the cheapest. Needs BTF and BPF trampolines.
    Fentry,
    /// `kprobe` on the same functions and on `release_sock`. Needs `CONFIG_KPROBES`.
    Kprobe,
    /// Raw tracepoints `sock_send_length` and `sock_recv_length`, or `sys_exit` before Linux 6.3. Needs neither.
    Tracepoint,
}

impl Hook {
    /// Every hook, best first: the order in which `auto` tries them.
    pub const ALL: [Self; 3] = [Self::Fentry, Self::Kprobe, Self::Tracepoint];

    /// The hook's name on the command line and in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fentry => "fentry",
            Self::Kprobe => "kprobe",
            Self::Tracepoint => "tracepoint",
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which hook to attach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HookChoice {
    /// The best one that attaches.
    #[default]
    Auto,
    /// This one or none.
    Only(Hook),
}

impl fmt::Display for HookChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Only(hook) => hook.fmt(f),
        }
    }
}

/// A word that names no hook.
#[derive(Debug, Error)]
#[error("no such hook: use auto, fentry, kprobe or tracepoint")]
pub struct UnknownHook;

impl FromStr for HookChoice {
    type Err = UnknownHook;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        if word == "auto" {
            return Ok(Self::Auto);
        }
        Hook::ALL
            .into_iter()
            .find(|hook| hook.name() == word)
            .map(Self::Only)
            .ok_or(UnknownHook)
    }
}

/// Entries of the kernel's maps, all allocated at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSizes {
    /// Connections whose state is kept.
    pub connections: u32,
    /// Counters: one for requests and one for each status code, of each process.
    pub counters: u32,
}

impl MapSizes {
    /// Enough for 1,000 processes with a dozen codes each.
    pub const DEFAULT: Self = Self {
        connections: 65_536,
        counters: 16_384,
    };
}

/// How often each [`Loss`] happened since the programs were attached, indexed by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses(pub [u64; Loss::ALL.len()]);

/// One counter as read from the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter {
    /// What was counted, and for whom.
    pub key: CounterKey,
    /// How often since the programs were attached.
    pub value: u64,
}
