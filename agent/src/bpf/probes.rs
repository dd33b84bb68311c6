//! The attached programs.

use std::{io, iter, os::fd::AsFd as _};

use agent_ebpf::abi::{READERS, Setting, entrances, globals, maps};
use aya::{
    Btf as AyaBtf, Ebpf, EbpfError, EbpfLoader, VerifierLogLevel,
    maps::{Array, HashMap, MapData, MapError, ProgramArray},
    programs::{ProbeKind, Program, ProgramError},
    util::nr_cpus,
};
use thiserror::Error;

use super::{
    Counter, CounterKey, Hook, HookChoice, Loss, Losses, MapSizes,
    btf::{Btf, BtfError},
    counters, inodes,
    object::OBJECT,
    preflight,
    priority::RealTime,
    return_probes::ReturnProbes,
    settings::{Settings, SettingsError, is_preemptible, settings, syscalls},
    statistics::{self, ProgramStatistics},
};

/// `ENOTSUPP` (include/linux/errno.h): the kernel's own, not for user space, but it gets here.
const ENOTSUPP: i32 = 524;

/// Functions that are hooked where they exist. Linux 6.5 replaced `sendpage` by `MSG_SPLICE_PAGES` (dc97391e6610).
const OPTIONAL_FUNCTIONS: [&str; 4] = [
    "tcp_sendpage",
    "unix_stream_sendpage",
    "unix_stream_splice_read",
    "unix_stream_splice_actor",
];

/// Functions and tracepoints that are the last of a socket.
const SOCKET_ENDS: [&str; 2] = ["tcp_destroy_sock", "unix_release"];

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
        "{error}: without the kernel's type information no field can be found; \
         use a kernel with CONFIG_DEBUG_INFO_BTF=y"
    )]
    NoBtf {
        /// What is wrong with it.
        error: String,
    },
    /// A kernel unlike any this version knows.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The agent may not load programs.
    #[error(
        "not allowed to load eBPF programs: run as root (sudo), or with the capabilities CAP_BPF and CAP_PERFMON"
    )]
    NotPermitted,
    /// The hook that was asked for does not work here.
    #[error("the {hook} hook cannot be used: {reason}; use --hook auto to let the agent choose")]
    Hook {
        /// The hook.
        hook: Hook,
        /// Why.
        reason: String,
    },
    /// No hook works here.
    #[error("no hook can be used: {reasons}")]
    NoHook {
        /// Each hook with its reason.
        reasons: String,
    },
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

/// A [`CounterKey`] as `aya` takes it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Key(CounterKey);

// SAFETY: `CounterKey` is `repr(C)`, made of integers, and has no padding (asserted where it is defined).
unsafe impl aya::Pod for Key {}

/// Why one hook does not work: loading and attaching, as far as they are told apart.
#[derive(Debug, Error)]
pub(super) enum AttachError {
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
    /// The kernel's BTF, as `aya` reads it.
    #[error("{0}")]
    Btf(#[from] aya::BtfError),
}

/// A way into the kernel that is open: programs attached, counting. Dropping it detaches and unloads everything.
pub struct Probes {
    hook: Hook,
    rejected: Vec<(Hook, String)>,
    is_preemptible: bool,
    // First, so that no call begins whose return no program is there to see.
    ebpf: Ebpf,
    returns: ReturnProbes,
    /// The programs whose being left out loses calls.
    watched: Vec<&'static str>,
}

impl Probes {
    /// Loads the programs and attaches them.
    ///
    /// # Errors
    /// When the hook that `choice` asks for, or with [`HookChoice::Auto`] none of them, can be used. What had been
    /// attached until then is detached.
    pub fn attach(choice: HookChoice, sizes: MapSizes) -> Result<Self, Error> {
        let kernel = Kernel::examine(sizes)?;
        let hooks = match &choice {
            HookChoice::Auto => &Hook::ALL[..],
            HookChoice::Only(hook) => std::slice::from_ref(hook),
        };
        let mut rejected = Vec::new();
        for hook in hooks {
            match kernel.attach(*hook) {
                Ok((ebpf, returns)) => {
                    let watched = kernel.watched(*hook);
                    let is_preemptible = kernel.is_preemptible;
                    drop(kernel);
                    release_memory();
                    return Ok(Self {
                        hook: *hook,
                        rejected,
                        is_preemptible,
                        ebpf,
                        returns,
                        watched,
                    });
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

    /// Reads all counters: how often each thing happened since the programs were attached.
    ///
    /// # Errors
    /// When the kernel refuses to read the map.
    pub fn counters(&mut self) -> Result<Vec<Counter>, Error> {
        let _uninterrupted = self.uninterrupted();
        let map = self.counter_map()?;
        counters::read(map.fd().as_fd()).map_err(|source| Error::Read {
            map: maps::COUNTERS,
            source,
        })
    }

    /// Deletes counters. A process that counts again later starts at zero.
    ///
    /// # Errors
    /// When the kernel refuses; a counter that is not there is no error.
    pub fn forget(&mut self, keys: &[CounterKey]) -> Result<(), Error> {
        let _uninterrupted = self.uninterrupted();
        let mut map: HashMap<_, Key, u64> =
            HashMap::try_from(self.counter_map_mut()?).map_err(|error| unreadable(maps::COUNTERS, &error))?;
        for key in keys {
            match map.remove(&Key(*key)) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => {
                }
                Err(error) => return Err(unreadable(maps::COUNTERS, &error)),
            }
        }
        Ok(())
    }

    /// Reads how much was not counted, by cause, since the programs were attached.
    ///
    /// # Errors
    /// When the kernel refuses to read the map.
    pub fn losses(&mut self) -> Result<Losses, Error> {
        let _uninterrupted = self.uninterrupted();
        let map = self.ebpf.map(maps::LOSSES).ok_or_else(|| missing(maps::LOSSES))?;
        let map: Array<_, u64> = Array::try_from(map).map_err(|error| unreadable(maps::LOSSES, &error))?;
        let mut losses = Losses::default();
        for cause in Loss::ALL {
            let value = map
                .get(&(cause as u32), 0)
                .map_err(|error| unreadable(maps::LOSSES, &error))?;
            losses.0[cause as usize] = value;
        }
        losses.0[Loss::ProgramMissed as usize] += self.missed();
        self.renew_first_inode()?;
        Ok(losses)
    }

    /// Keeps the first new inode number less than half of all numbers behind: they start again after the last.
    fn renew_first_inode(&mut self) -> Result<(), Error> {
        const BEHIND: u32 = 1 << 30;
        // Less is behind `first`: this CPU has numbers left of an older batch.
        const AHEAD: std::ops::Range<u32> = BEHIND + 1..1 << 31;
        let map = self
            .ebpf
            .map_mut(maps::FIRST_INODE)
            .ok_or_else(|| missing(maps::FIRST_INODE))?;
        let mut map: Array<_, u32> =
            Array::try_from(map).map_err(|error| unreadable(maps::FIRST_INODE, &error))?;
        let first = map
            .get(&0, 0)
            .map_err(|error| unreadable(maps::FIRST_INODE, &error))?;
        // If no pipe can be had, the next time will do.
        if let Ok(next) = inodes::next()
            && first != 0
            && AHEAD.contains(&next.wrapping_sub(first))
        {
            map.set(0, next.wrapping_sub(BEHIND), 0)
                .map_err(|error| unreadable(maps::FIRST_INODE, &error))?;
        }
        Ok(())
    }

    /// Calls that no program saw, at most. What the programs themselves notice is in the map.
    fn missed(&self) -> u64 {
        let watched = self.statistics().filter(|(name, _)| self.watched.contains(name));
        watched.map(|(_, statistics)| statistics.misses).sum()
    }

    /// What the kernel has counted for each program, by name.
    pub fn statistics(&self) -> impl Iterator<Item = (&str, ProgramStatistics)> {
        self.ebpf.programs().filter_map(|(name, program)| {
            // Programs of other hooks are not loaded.
            let descriptor = program.fd().ok()?;
            Some((name, statistics::of_program(descriptor.as_fd()).ok()?))
        })
    }

    fn uninterrupted(&self) -> RealTime {
        match self.hook {
            Hook::Kprobe => RealTime::take(),
            Hook::Fentry | Hook::Tracepoint => RealTime::not_needed(),
        }
    }

    fn counter_map(&self) -> Result<&MapData, Error> {
        match self.ebpf.map(maps::COUNTERS) {
            Some(aya::maps::Map::HashMap(map)) => Ok(map),
            _ => Err(missing(maps::COUNTERS)),
        }
    }

    fn counter_map_mut(&mut self) -> Result<&mut aya::maps::Map, Error> {
        self.ebpf
            .map_mut(maps::COUNTERS)
            .ok_or_else(|| missing(maps::COUNTERS))
    }
}

impl std::fmt::Debug for Probes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Probes")
            .field("hook", &self.hook)
            .field("rejected", &self.rejected)
            .finish_non_exhaustive()
    }
}

fn missing(map: &'static str) -> Error {
    Error::Read {
        map,
        source: io::Error::new(io::ErrorKind::NotFound, "no such map in the eBPF object"),
    }
}

fn unreadable(map: &'static str, error: &MapError) -> Error {
    Error::Read {
        map,
        source: io::Error::other(error.to_string()),
    }
}

/// What is known about the running kernel.
pub(super) struct Kernel {
    sizes: MapSizes,
    settings: Settings,
    has_sock_length_tracepoints: bool,
    is_preemptible: bool,
    /// Since Linux 7.0 a tracepoint's callbacks run with preemption enabled.
    has_preemptible_tracepoints: bool,
    /// Functions of [`OPTIONAL_FUNCTIONS`] that this kernel has.
    functions: Vec<&'static str>,
}

impl Kernel {
    /// Reads the kernel's type information.
    pub(super) fn examine(sizes: MapSizes) -> Result<Self, Error> {
        if OBJECT.is_empty() {
            return Err(Error::NoPrograms);
        }
        let btf = Btf::of_kernel().map_err(|error| {
            let cause = match &error {
                BtfError::Read(source) => format!("{error}: {source}"),
                BtfError::Malformed(_) => error.to_string(),
            };
            Error::NoBtf { error: cause }
        })?;
        if !preflight::may_load_programs() {
            return Err(Error::NotPermitted);
        }
        Ok(Self {
            sizes,
            settings: settings(&btf)?,
            has_sock_length_tracepoints: btf.has_tracepoint("sock_send_length"),
            is_preemptible: is_preemptible(),
            has_preemptible_tracepoints: preflight::kernel_version() >= Some((6, 19)),
            functions: OPTIONAL_FUNCTIONS
                .into_iter()
                .filter(|name| btf.parameters(name).is_some())
                .collect(),
        })
    }

    /// Loads and attaches all programs of one hook.
    pub(super) fn attach(&self, hook: Hook) -> Result<(Ebpf, ReturnProbes), AttachError> {
        let mut returns = match hook {
            Hook::Kprobe => ReturnProbes::open(),
            Hook::Fentry | Hook::Tracepoint => ReturnProbes::default(),
        };
        let mut ebpf = self.load(hook)?;
        let btf = kernel_btf(hook)?;
        let (ends, calls): (Vec<_>, Vec<_>) = self
            .attachments(hook)
            .into_iter()
            .partition(|attachment| SOCKET_ENDS.contains(&attachment.to));
        // What sees sockets go comes first: a socket that is seen and goes unseen leaves its state to the next one at
        // its address. Loading takes seconds, attaching does not; so all of the rest are loaded before one is attached.
        // Receivers then come before senders, lest answers are seen to requests that were not.
        let is_sender = |attachment: &Attachment| attachment.program.contains("send");
        let (senders, receivers): (Vec<_>, Vec<_>) = calls.into_iter().partition(is_sender);
        for group in [vec![ends], vec![receivers, senders]] {
            let group: Vec<_> = group.into_iter().flatten().collect();
            for Attachment { program, to, .. } in &group {
                load_program(&mut ebpf, btf.as_ref(), program, to)?;
                make_callable(&mut ebpf, program)?;
            }
            for Attachment { program, to, .. } in group.into_iter().filter(|attachment| !attachment.is_called)
            {
                attach_program(program_mut(&mut ebpf, program)?, to, &mut returns)
                    .map_err(|error| AttachError::Program { program, error })?;
            }
        }
        // Only now: a socket made before may have moved bytes that no program saw.
        if let Some(first) = inodes::first_new() {
            let map = ebpf
                .map_mut(maps::FIRST_INODE)
                .ok_or(AttachError::NoMap(maps::FIRST_INODE))?;
            Array::try_from(map)?.set(0, first, 0)?;
        }
        Ok((ebpf, returns))
    }

    /// The programs of a hook whose being left out loses calls for good: not entrances, and not those for TCP alone,
    /// where the next call shows the gap.
    fn watched(&self, hook: Hook) -> Vec<&'static str> {
        self.attachments(hook)
            .into_iter()
            .filter(|Attachment { to, is_called, .. }| {
                !is_called && !to.starts_with("tcp_") && *to != "release_sock" && !SOCKET_ENDS.contains(to)
            })
            .map(|attachment| attachment.program)
            // What runs at a call's beginning notices that what should at its end was left out.
            .filter(|program| !program.ends_with("_return") && !program.ends_with("_begin"))
            .filter(|program| !ENTRANCES.iter().any(|(_, entrances)| entrances.contains(program)))
            .collect()
    }

    /// Loads the object: creates the maps and tells the programs about this kernel.
    fn load(&self, hook: Hook) -> Result<Ebpf, AttachError> {
        raise_memlock_limit();
        let calls = syscalls();
        let mut settings = self.settings;
        let entrances = self.entrances(hook);
        settings[Setting::Entrances as usize] = entrances;
        let is_interrupted = self.is_preemptible && self.has_preemptible_tracepoints;
        settings[Setting::TcpEndsSeen as usize] = u32::from(!is_interrupted);
        // Kprobe programs are left out while their CPU is in a map; the tracepoint hook does not look.
        settings[Setting::UnixEndsSeen as usize] = u32::from(hook == Hook::Fentry && !self.is_preemptible);
        settings[Setting::ConnectionsKept as usize] =
            kept_connections(self.sizes.connections, possible_cpus());
        let mut loader = EbpfLoader::new();
        loader
            .btf(None)
            .verifier_log_level(VerifierLogLevel::STATS)
            .override_global(globals::SETTINGS, &settings[..], true)
            .override_global(globals::SYSCALLS, &calls[..], true)
            .map_max_entries(maps::CONNECTIONS, self.sizes.connections)
            .map_max_entries(maps::COUNTERS, self.sizes.counters);
        if hook != Hook::Kprobe {
            // Only that hook notes calls under way.
            loader.map_max_entries(maps::CALLS, 1);
        }
        if entrances == entrances::NONE {
            loader.map_max_entries(maps::HANDLED, 1);
        } else {
            loader.map_max_entries(maps::WORK, READERS * entrances::COUNT);
        }
        Ok(loader.load(OBJECT)?)
    }

    /// Whether a hook's programs need entrances: where they may be interrupted, and so left out for another task.
    fn entrances(&self, hook: Hook) -> u32 {
        match hook {
            Hook::Fentry if self.is_preemptible => entrances::ANY_ORDER,
            // Callbacks of a tracepoint run in the order in which they were attached (`func_add`, kernel/tracepoint.c).
            Hook::Tracepoint if self.is_preemptible && self.has_preemptible_tracepoints => {
                entrances::IN_ORDER
            }
            // Kprobes, and tracepoints before Linux 7.0, run with preemption disabled.
            _ => entrances::NONE,
        }
    }

    /// The programs of a hook on this kernel. What takes stock of a call comes before what begins one.
    fn attachments(&self, hook: Hook) -> Vec<Attachment> {
        let attachments: &[(&'static str, &'static str)] = match hook {
            Hook::Fentry => &[
                ("tcp_sendmsg", "tcp_sendmsg"),
                ("tcp_recvmsg", "tcp_recvmsg"),
                ("unix_stream_sendmsg", "unix_stream_sendmsg"),
                ("unix_stream_recvmsg", "unix_stream_recvmsg"),
                ("tcp_sendpage", "tcp_sendpage"),
                ("unix_stream_sendpage", "unix_stream_sendpage"),
                ("unix_stream_splice_read", "unix_stream_splice_read"),
                ("unix_release", "unix_release"),
                ("unix_stream_sendmsg_begin", "unix_stream_sendmsg"),
                ("unix_stream_recvmsg_begin", "unix_stream_recvmsg"),
            ],
            // The smallest first: where kprobes cannot be attached, that shows before the large ones are loaded.
            Hook::Kprobe => &[
                ("unix_release_entry", "unix_release"),
                ("release_sock_send", "release_sock"),
                ("release_sock_receive", "release_sock"),
                ("tcp_sendmsg_entry", "tcp_sendmsg"),
                ("tcp_recvmsg_entry", "tcp_recvmsg"),
                ("tcp_sendpage_entry", "tcp_sendpage"),
                ("tcp_splice_read_entry", "tcp_splice_read"),
                ("unix_stream_sendmsg_return", "unix_stream_sendmsg"),
                ("unix_stream_sendmsg_entry", "unix_stream_sendmsg"),
                ("unix_stream_read_actor_return", "unix_stream_read_actor"),
                ("unix_stream_read_actor_entry", "unix_stream_read_actor"),
                ("unix_stream_splice_actor_return", "unix_stream_splice_actor"),
                ("unix_stream_splice_actor_entry", "unix_stream_splice_actor"),
                ("unix_stream_sendpage_return", "unix_stream_sendpage"),
                ("unix_stream_sendpage_entry", "unix_stream_sendpage"),
            ],
            Hook::Tracepoint if self.has_sock_length_tracepoints => &[
                ("sock_send_length", "sock_send_length"),
                ("sock_recv_length", "sock_recv_length"),
            ],
            Hook::Tracepoint => &[
                ("sys_exit_receive", ""),
                ("sys_exit_send", ""),
                ("sys_exit", "sys_exit"),
            ],
        };
        let has_entrances = self.entrances(hook) != entrances::NONE;
        attachments
            .iter()
            .chain(&[("tcp_destroy_sock", "tcp_destroy_sock")])
            .filter(|(program, _)| has_entrances || !program.ends_with("_begin"))
            .filter(|(_, to)| !OPTIONAL_FUNCTIONS.contains(to) || self.functions.contains(to))
            .flat_map(|&(program, to)| {
                let entrances = ENTRANCES
                    .iter()
                    .find(|(entered, _)| has_entrances && *entered == program)
                    .map_or(&[][..], |(_, entrances)| &entrances[..]);
                let called = Attachment {
                    program,
                    to,
                    is_called: to.is_empty() || !entrances.is_empty(),
                };
                let attached = entrances.iter().map(move |program| Attachment {
                    program,
                    to,
                    is_called: false,
                });
                iter::once(called).chain(attached)
            })
            .collect()
    }
}

/// Entries that an LRU map of this size keeps for certain: the kernel deals free ones out to CPUs in batches of at most 128
/// (`LOCAL_FREE_TARGET`, `kernel/bpf/bpf_lru_list.c`) and begins to evict when there is not one batch left. At most half,
/// which is far from all.
fn kept_connections(size: u32, cpus: u32) -> u32 {
    const BATCH: u32 = 128;
    let dealt_out = BATCH.saturating_mul(cpus.saturating_add(1));
    size.saturating_sub(dealt_out).min(size / 2)
}

/// CPUs that the kernel may ever have, which is what per-CPU data is made for; as many as can be if it does not tell.
fn possible_cpus() -> u32 {
    nr_cpus()
        .ok()
        .and_then(|count| u32::try_from(count).ok())
        .unwrap_or(u32::MAX)
}

/// A program and the kernel function or tracepoint it is made for.
struct Attachment {
    program: &'static str,
    to: &'static str,
    /// It is not attached there: another program calls it.
    is_called: bool,
}

macro_rules! with_entrances {
    ($program:literal) => {
        (
            $program,
            &[
                concat!($program, "_1"),
                concat!($program, "_2"),
                concat!($program, "_3"),
                concat!($program, "_4"),
            ],
        )
    };
}

/// Programs with their entrances, in order.
const ENTRANCES: [(&str, &[&str; entrances::COUNT as usize]); 6] = [
    with_entrances!("tcp_sendmsg"),
    with_entrances!("tcp_recvmsg"),
    with_entrances!("unix_stream_sendmsg"),
    with_entrances!("unix_stream_recvmsg"),
    with_entrances!("sock_send_length"),
    with_entrances!("sock_recv_length"),
];

/// Loads every program of every hook that this kernel can take, without attaching any. Returns each one's name and
/// how many instructions the verifier walked through, which the kernel tells since Linux 5.16.
///
/// # Errors
/// The first program that is refused, with the verifier's last words.
pub fn verify(hook: Hook) -> Result<Vec<(&'static str, Option<u32>)>, Error> {
    let kernel = Kernel::examine(MapSizes::default())?;
    let refused = |error: AttachError| Error::Hook {
        hook,
        reason: reason(hook, &error),
    };
    let mut ebpf = kernel.load(hook).map_err(refused)?;
    let btf = kernel_btf(hook).map_err(refused)?;
    kernel
        .attachments(hook)
        .into_iter()
        .map(|Attachment { program, to, .. }| {
            load_program(&mut ebpf, btf.as_ref(), program, to).map_err(refused)?;
            let loaded = program_mut(&mut ebpf, program).map_err(refused)?;
            let info = loaded
                .info()
                .map_err(|error| refused(AttachError::Program { program, error }))?;
            Ok((program, info.verified_instruction_count()))
        })
        .collect()
}

/// The kernel's type information as `aya` reads it, if the hook needs that: it takes tens of megabytes while it lives.
fn kernel_btf(hook: Hook) -> Result<Option<AyaBtf>, AttachError> {
    Ok(if hook == Hook::Fentry {
        Some(AyaBtf::from_sys_fs()?)
    } else {
        None
    })
}

fn load_program(
    ebpf: &mut Ebpf,
    btf: Option<&AyaBtf>,
    program: &'static str,
    to: &str,
) -> Result<(), AttachError> {
    let loaded = match (program_mut(ebpf, program)?, btf) {
        (Program::FExit(program), Some(btf)) => program.load(to, btf),
        (Program::FEntry(program), Some(btf)) => program.load(to, btf),
        (Program::KProbe(program), _) => program.load(),
        (Program::RawTracePoint(program), _) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    };
    loaded.map_err(|error| AttachError::Program { program, error })
}

fn attach_program(program: &mut Program, to: &str, returns: &mut ReturnProbes) -> Result<(), ProgramError> {
    match program {
        Program::FExit(program) => program.attach().map(drop),
        Program::FEntry(program) => program.attach().map(drop),
        Program::KProbe(program) => {
            let is_return = matches!(program.kind(), ProbeKind::Return);
            if is_return && returns.attach(program.fd()?.as_fd(), to) {
                return Ok(());
            }
            program.attach(to, 0).map(drop)
        }
        Program::RawTracePoint(program) => program.attach(to).map(drop),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// Program arrays and indices in which programs are looked for by those that call them (`bpf_tail_call`): mostly
/// themselves, to go on.
fn callable_at(program: &str) -> &'static [(&'static str, u32)] {
    match program {
        "tcp_sendmsg" | "release_sock_send" | "sock_send_length" => &[(maps::TCP_SEND, 0)],
        "tcp_recvmsg" | "release_sock_receive" | "sock_recv_length" => &[(maps::TCP_RECEIVE, 0)],
        "unix_stream_sendmsg" | "unix_stream_sendmsg_return" => &[(maps::UNIX_SEND, 0)],
        "unix_stream_recvmsg" | "unix_stream_read_actor_return" => &[(maps::UNIX_RECEIVE, 0)],
        "sys_exit_receive" => &[(maps::SYS_EXIT, 0), (maps::TCP_RECEIVE, 0)],
        "sys_exit_send" => &[(maps::SYS_EXIT, 1), (maps::TCP_SEND, 0)],
        _ => &[],
    }
}

fn make_callable(ebpf: &mut Ebpf, program: &'static str) -> Result<(), AttachError> {
    for (map, index) in callable_at(program) {
        let descriptor = program_mut(ebpf, program)?
            .fd()
            .and_then(|descriptor| Ok(descriptor.try_clone()?))
            .map_err(|error| AttachError::Program { program, error })?;
        let map = ebpf.map_mut(map).ok_or(AttachError::NoMap(map))?;
        ProgramArray::try_from(map)?.set(*index, &descriptor, 0)?;
    }
    Ok(())
}

fn program_mut<'a>(ebpf: &'a mut Ebpf, program: &'static str) -> Result<&'a mut Program, AttachError> {
    ebpf.program_mut(program).ok_or(AttachError::NoProgram(program))
}

/// What an error means for the person who wants the hook: one line.
pub(super) fn reason(hook: Hook, error: &AttachError) -> String {
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

/// Before Linux 5.11 maps count against the limit of locked memory, and the default is 64 KiB. Later kernels ignore
/// it, and some sandboxes refuse: no reason to stop.
fn raise_memlock_limit() {
    let limit = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: the pointer is to a live `rlimit`.
    unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) };
}

/// Gives back what reading the type information took: tens of megabytes, once.
fn release_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no arguments that could be wrong.
    unsafe {
        libc::malloc_trim(0);
    }
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

    #[test]
    fn a_map_keeps_half_of_its_entries_where_the_cpus_leave_that_many() {
        assert_eq!(kept_connections(65_536, 2), 32_768);
        assert_eq!(kept_connections(1024, 2), 512);
        assert_eq!(kept_connections(1024, 5), 256);
        assert_eq!(kept_connections(1024, 64), 0);
        assert_eq!(kept_connections(65_536, u32::MAX), 0);
    }

    #[test]
    fn functions_that_the_kernel_does_not_have_are_not_attached() {
        let kernel = Kernel {
            sizes: MapSizes::default(),
            settings: [0; Setting::COUNT],
            has_sock_length_tracepoints: true,
            is_preemptible: false,
            has_preemptible_tracepoints: false,
            functions: vec!["unix_stream_splice_read"],
        };
        let names = |hook| {
            kernel
                .attachments(hook)
                .into_iter()
                .map(|attachment| attachment.program)
                .collect::<Vec<_>>()
        };
        let fentry = names(Hook::Fentry);
        assert!(
            fentry.contains(&"unix_stream_splice_read") && fentry.contains(&"tcp_destroy_sock"),
            "{fentry:?}"
        );
        assert!(
            !fentry
                .iter()
                .any(|name| name.ends_with("sendpage") || name.ends_with("_1")),
            "{fentry:?}"
        );
        assert_eq!(
            names(Hook::Tracepoint),
            ["sock_send_length", "sock_recv_length", "tcp_destroy_sock"]
        );
    }

    #[test]
    fn preemptible_kernels_get_entrances_where_programs_may_be_interrupted() {
        let kernel = Kernel {
            sizes: MapSizes::default(),
            settings: [0; Setting::COUNT],
            has_sock_length_tracepoints: true,
            is_preemptible: true,
            has_preemptible_tracepoints: false,
            functions: vec![],
        };
        let entrances = |kernel: &Kernel, hook| {
            let attachments = kernel.attachments(hook);
            // Who has some is called by them only, and loaded before.
            for (program, entrances) in &ENTRANCES {
                let at = |name: &str| attachments.iter().position(|other| other.program == name);
                let Some(called) = at(program) else { continue };
                let are_there = entrances.iter().all(|entrance| at(entrance) > Some(called));
                assert_eq!(attachments[called].is_called, are_there, "{program}");
            }
            attachments
                .iter()
                .filter(|attachment| attachment.program.ends_with("_4"))
                .count()
        };
        assert_eq!(entrances(&kernel, Hook::Fentry), 4);
        assert_eq!(entrances(&kernel, Hook::Tracepoint), 0);
        assert_eq!(entrances(&kernel, Hook::Kprobe), 0);
        let kernel = Kernel {
            has_preemptible_tracepoints: true,
            ..kernel
        };
        assert_eq!(entrances(&kernel, Hook::Tracepoint), 2);
    }
}
