//! Of what a guest died: of what is tested, or of the machine that it is emulated on.
//!
//! Only a death of which the guest's last words or the emulator's end prove that nothing of ours took part in it may be
//! tried again. A silent death, and one in whose words there is a BPF program or a probe, is a failure.

use std::fmt;
use std::process::ExitStatus;

use std::os::unix::process::ExitStatusExt as _;

/// Why a guest died.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Death {
    /// It had not come to its first process: nothing of ours was there yet.
    NotBooted(String),
    /// The emulator died of itself.
    Emulator(String),
    /// The kernel died, and what it says has nothing of ours.
    Kernel(String),
    /// What it says has something of ours, or it says nothing.
    Ours(String),
}

impl Death {
    /// Whether it is proven that what is tested had no part in it.
    pub(crate) fn is_not_ours(&self) -> bool {
        !matches!(self, Self::Ours(_))
    }
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotBooted(why) => write!(f, "did not boot: {why}"),
            Self::Emulator(why) => write!(f, "the emulator died: {why}"),
            Self::Kernel(why) => write!(f, "the kernel died, of nothing that is tested: {why}"),
            Self::Ours(why) => write!(f, "the guest died: {why}"),
        }
    }
}

/// What begins a kernel's last words.
const LAST_WORDS: [&str; 8] = [
    "Kernel panic",
    "BUG: ",
    "Oops: ",
    "int3: ",
    "general protection fault",
    "kernel BUG at",
    "double fault",
    "stack-protector:",
];

/// What takes part where a kernel dies of us: our programs, the trampolines and probes that call them, too much memory.
const OURS: [&str; 8] = [
    "bpf",
    "kprobe",
    "kretprobe",
    "rethook",
    "fprobe",
    "trampoline",
    "memory: ",
    "on memory",
];

/// Of a guest that was up, and is gone without its result.
pub(super) fn cause(console: &str, status: ExitStatus) -> Death {
    let words: Vec<&str> = console
        .lines()
        .skip_while(|line| !LAST_WORDS.iter().any(|words| line.contains(words)))
        .collect();
    if words.is_empty() {
        return match (status.signal(), status.code()) {
            (Some(signal), _) => Death::Emulator(format!("by signal {signal}")),
            (None, Some(0) | None) => Death::Ours("without a word".to_owned()),
            (None, Some(code)) => Death::Emulator(format!("with exit code {code}")),
        };
    }
    let telling = |line: &&&str| {
        LAST_WORDS.iter().any(|words| line.contains(words))
            || line.contains("RIP: ")
            || line.contains("Comm: ")
    };
    let said: Vec<&str> = words.iter().filter(telling).take(6).copied().collect();
    let said = said.join(" | ");
    if words
        .iter()
        .any(|line| OURS.iter().any(|ours| line.contains(ours)))
    {
        Death::Ours(said)
    } else {
        Death::Kernel(said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn died(console: &str) -> Death {
        cause(console, ExitStatus::from_raw(0))
    }

    #[test]
    fn a_panic_without_anything_of_ours_is_told_apart() {
        let death = died(
            "a test ran\n[   31.2] int3: 0000 [#1] SMP\n[   31.2] CPU: 0 PID: 9 Comm: kworker Not tainted\n\
             [   31.2] RIP: 0010:__schedule+0x1\n[   31.2] Kernel panic - not syncing: Fatal exception in interrupt\n",
        );
        assert!(death.is_not_ours(), "{death}");
        assert!(death.to_string().contains("RIP: 0010:__schedule"), "{death}");
    }

    #[test]
    fn a_panic_in_a_program_is_ours() {
        let death = died("BUG: unable to handle page fault\n RIP: 0010:bpf_prog_1_sock_recv+0x9\n");
        assert!(!death.is_not_ours(), "{death}");
        let death =
            died("BUG: unable to handle page fault\n RIP: 0010:tcp_recvmsg\n ? kprobe_ftrace_handler+0x1\n");
        assert!(!death.is_not_ours(), "{death}");
    }

    #[test]
    fn a_silent_end_is_ours() {
        assert_eq!(died("all was well\n"), Death::Ours("without a word".to_owned()));
    }

    #[test]
    fn what_was_said_before_the_last_words_is_no_evidence() {
        assert!(
            died("loaded bpf programs\nKernel panic - not syncing: IO-APIC + timer doesn't work\n")
                .is_not_ours()
        );
    }

    #[test]
    fn an_emulator_that_crashes_is_told_apart() {
        assert!(cause("", ExitStatus::from_raw(11)).is_not_ours());
        assert!(cause("", ExitStatus::from_raw(1 << 8)).is_not_ours());
    }
}
