//! The programs' links into the kernel, for as long as they are to count.

use std::fmt;

use aya::Ebpf;

use super::{
    Hook, HookChoice, MapSizes,
    counters::Counters,
    error::{Error, reason},
    loader::{Loader, release_memory},
    return_probes::ReturnProbes,
};

/// Programs that are attached. Dropping this detaches them; what they counted can still be read.
pub struct Attachments {
    pub(super) hook: Hook,
    pub(super) rejected: Vec<(Hook, String)>,
    pub(super) is_preemptible: bool,
    // First, so that no call begins whose return no program is there to see.
    pub(super) _programs: Ebpf,
    pub(super) returns: ReturnProbes,
}

/// Loads the programs and attaches them.
///
/// # Errors
/// When the hook that `choice` asks for, or with [`HookChoice::Auto`] none of them, can be used. What had been
/// attached until then is detached.
pub fn attach(choice: HookChoice, sizes: MapSizes) -> Result<(Counters, Attachments), Error> {
    let loader = Loader::examine(sizes)?;
    let hooks = match &choice {
        HookChoice::Auto => &Hook::ALL[..],
        HookChoice::Only(hook) => std::slice::from_ref(hook),
    };
    let mut rejected = Vec::new();
    for hook in hooks {
        match loader.attach(*hook) {
            Ok((counters, attachments)) => {
                drop(loader);
                release_memory();
                return Ok((
                    counters,
                    Attachments {
                        rejected,
                        ..attachments
                    },
                ));
            }
            Err(error) => rejected.push((*hook, reason(*hook, &error))),
        }
    }
    match choice {
        HookChoice::Only(hook) => {
            let reason = rejected.pop().map(|(_, reason)| reason).unwrap_or_default();
            Err(Error::Hook { hook, reason })
        }
        HookChoice::Auto => {
            let reasons: Vec<_> = rejected
                .iter()
                .map(|(hook, reason)| format!("{hook}: {reason}"))
                .collect();
            Err(Error::NoHook {
                reasons: reasons.join("; "),
            })
        }
    }
}

impl Attachments {
    /// The hook in use.
    #[must_use]
    pub fn hook(&self) -> Hook {
        self.hook
    }

    /// The better hooks that were not taken, each with the reason.
    #[must_use]
    pub fn rejected(&self) -> &[(Hook, String)] {
        &self.rejected
    }

    /// Whether the kernel is taken to be preemptible, so that programs have entrances where they need them
    /// ([`agent_ebpf::abi::entrances`]).
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
