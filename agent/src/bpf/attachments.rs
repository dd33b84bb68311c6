//! The programs' links into the kernel, for as long as they are to count.

use std::fmt;

use aya::Ebpf;

use super::{Hook, Refusal, return_probes::ReturnProbes};

/// Programs that are attached. Dropping this detaches them; what they counted can still be read.
pub struct Attachments {
    pub(super) hook: Hook,
    pub(super) rejected: Vec<Refusal>,
    pub(super) is_preemptible: bool,
    // First, so that no call begins whose return no program is there to see.
    pub(super) _programs: Ebpf,
    pub(super) returns: ReturnProbes,
}

impl Attachments {
    /// The hook in use.
    #[must_use]
    pub fn hook(&self) -> Hook {
        self.hook
    }

    /// The better hooks that were not taken, each with the reason.
    #[must_use]
    pub fn rejected(&self) -> &[Refusal] {
        &self.rejected
    }

    /// Whether the kernel is taken to be preemptible, so that programs have entries where they need them
    /// ([`agent_ebpf::abi::entries`]).
    #[must_use]
    pub fn is_preemptible(&self) -> bool {
        self.is_preemptible
    }

    /// Why the kernel keeps fewer return probes ready than calls may be under way, if the hook has such probes and that
    /// is so: then some of many threads' calls on unix sockets are missed.
    #[must_use]
    pub fn few_return_probes(&self) -> Option<&str> {
        self.returns.refused()
    }
}

impl fmt::Debug for Attachments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attachments")
            .field("hook", &self.hook)
            .field("rejected", &self.rejected)
            .finish_non_exhaustive()
    }
}
