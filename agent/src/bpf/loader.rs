//! Loads the programs for the running kernel, and attaches them.

use std::{collections::BTreeSet, os::fd::AsFd as _};

use agent_ebpf::abi::{READERS, Setting, entries, globals, maps};
use aya::{
    Btf as AyaBtf, Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{Array, ProgramArray},
    programs::{ProbeKind, Program, ProgramError},
    util::nr_cpus,
};

use super::{
    Hook, HookChoice, MapSizes,
    attachments::Attachments,
    btf::Btf,
    counters::Counters,
    error::{AttachError, Error, Refusal},
    inodes, kernel,
    object::{self, OBJECT},
    programs::{Attach, Features, ProgramSpec, Role, optional_functions, programs_of},
    return_probes::ReturnProbes,
    settings::{Settings, is_preemptible, settings, syscalls},
};

/// What is known about the running kernel, and what the maps are to hold.
pub(super) struct Loader {
    sizes: MapSizes,
    settings: Settings,
    version: Option<(u32, u32)>,
    has_sock_length_tracepoints: bool,
    is_preemptible: bool,
    /// Since Linux 7.0 a tracepoint's callbacks run with preemption enabled. 6.19 is taken to do so too: its distributions
    /// may have the change, and entries that are not needed cost little.
    has_preemptible_tracepoints: bool,
    /// Those of [`optional_functions`] that this kernel has.
    functions: BTreeSet<&'static str>,
}

impl Features for Loader {
    fn has_function(&self, name: &str) -> bool {
        self.functions.contains(name)
    }

    fn has_socket_tracepoints(&self) -> bool {
        self.has_sock_length_tracepoints
    }

    fn needs_entries(&self, hook: Hook) -> bool {
        self.entries(hook) != entries::NONE
    }
}

impl Loader {
    /// Reads the kernel's type information.
    pub(super) fn examine(sizes: MapSizes) -> Result<Self, Error> {
        if OBJECT.is_empty() {
            return Err(Error::NoPrograms);
        }
        let btf = Btf::of_kernel().map_err(Error::NoBtf)?;
        if !kernel::may_load_programs() {
            return Err(Error::NotPermitted);
        }
        let version = kernel::version(&kernel::kernel_release());
        Ok(Self {
            sizes,
            settings: settings(&btf)?,
            version,
            has_sock_length_tracepoints: btf.has_tracepoint("sock_send_length"),
            is_preemptible: is_preemptible(),
            has_preemptible_tracepoints: version >= Some((6, 19)),
            functions: optional_functions()
                .filter(|name| btf.parameters(name).is_some())
                .collect(),
        })
    }

    /// Loads and attaches all programs of one hook.
    pub(super) fn attach(&self, hook: Hook) -> Result<(Counters, Attachments), AttachError> {
        let mut returns = match hook {
            Hook::Kprobe => ReturnProbes::open(),
            Hook::Fentry | Hook::Tracepoint => ReturnProbes::default(),
        };
        let mut ebpf = self.load(hook)?;
        let btf = kernel_btf(hook)?;
        let programs = programs_of(hook, self);
        let (ends, calls): (Vec<_>, Vec<_>) = programs
            .iter()
            .copied()
            .partition(|program| program.role == Role::SocketEnd);
        // What sees sockets go comes first: a socket that is seen and goes unseen leaves its state to the next one at
        // its address. Loading takes seconds, attaching does not; so all of the rest are loaded before one is attached.
        // Receivers then come before senders, lest answers are seen to requests that were not.
        let (senders, receivers): (Vec<_>, Vec<_>) =
            calls.into_iter().partition(|program| program.role == Role::Send);
        for group in [ends, [receivers, senders].concat()] {
            for program in &group {
                load_program(&mut ebpf, btf.as_ref(), program)?;
                make_callable(&mut ebpf, program)?;
            }
            for program in group.iter().filter(|program| !program.is_called) {
                attach_program(
                    program_mut(&mut ebpf, program.name)?,
                    program.attach,
                    &mut returns,
                )
                .map_err(|error| AttachError::Program {
                    program: program.name,
                    error,
                })?;
            }
        }
        // Only now: a socket made before may have moved bytes that no program saw.
        if let Some(first) = inodes::first_new() {
            let map = ebpf
                .map_mut(maps::FIRST_INODE)
                .ok_or(AttachError::NoMap(maps::FIRST_INODE))?;
            Array::try_from(map)?.set(0, first, 0)?;
        }
        let counters = Counters::take(&mut ebpf, hook, &programs)?;
        let attachments = Attachments {
            hook,
            rejected: Vec::new(),
            is_preemptible: self.is_preemptible,
            _programs: ebpf,
            returns,
        };
        Ok((counters, attachments))
    }

    /// Loads the object: creates the maps and tells the programs about this kernel.
    fn load(&self, hook: Hook) -> Result<Ebpf, AttachError> {
        raise_memlock_limit();
        let calls = syscalls();
        let mut settings = self.settings;
        let entries = self.entries(hook);
        settings[Setting::Entries as usize] = entries;
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
        if entries == entries::NONE {
            loader.map_max_entries(maps::HANDLED, 1);
        } else {
            loader.map_max_entries(maps::WORK, READERS * entries::COUNT);
        }
        Ok(loader.load(&object::for_kernel(self.version))?)
    }

    /// Whether a hook's programs need entries: where they may be interrupted, and so left out for another task.
    fn entries(&self, hook: Hook) -> u32 {
        match hook {
            Hook::Fentry if self.is_preemptible => entries::ANY_ORDER,
            // Callbacks of a tracepoint run in the order in which they were attached (`func_add`, kernel/tracepoint.c).
            Hook::Tracepoint if self.is_preemptible && self.has_preemptible_tracepoints => entries::IN_ORDER,
            // Kprobes, and tracepoints before Linux 7.0, run with preemption disabled.
            _ => entries::NONE,
        }
    }
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
            Err(error) => rejected.push(Refusal::new(*hook, error)),
        }
    }
    match (choice, rejected.pop()) {
        (HookChoice::Only(_), Some(refusal)) => Err(Error::Hook(refusal)),
        (_, last) => {
            rejected.extend(last);
            Err(Error::NoHook(rejected))
        }
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

/// Loads every program of every hook that this kernel can take, without attaching any. Returns each one's name and
/// how many instructions the verifier walked through, which the kernel tells since Linux 5.16.
///
/// # Errors
/// The first program that is refused, with the verifier's last words.
pub fn verify(hook: Hook) -> Result<Vec<(&'static str, Option<u32>)>, Error> {
    let loader = Loader::examine(MapSizes::DEFAULT)?;
    let refused = |error: AttachError| Error::Hook(Refusal::new(hook, error));
    let mut ebpf = loader.load(hook).map_err(refused)?;
    let btf = kernel_btf(hook).map_err(refused)?;
    programs_of(hook, &loader)
        .into_iter()
        .map(|spec| {
            load_program(&mut ebpf, btf.as_ref(), &spec).map_err(refused)?;
            let program = spec.name;
            let info = program_mut(&mut ebpf, program)
                .map_err(refused)?
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

fn load_program(ebpf: &mut Ebpf, btf: Option<&AyaBtf>, spec: &ProgramSpec) -> Result<(), AttachError> {
    let target = spec.attach.target();
    let loaded = match (program_mut(ebpf, spec.name)?, btf) {
        (Program::FExit(program), Some(btf)) => program.load(target, btf),
        (Program::FEntry(program), Some(btf)) => program.load(target, btf),
        (Program::KProbe(program), _) => program.load(),
        (Program::RawTracePoint(program), _) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    };
    loaded.map_err(|error| AttachError::Program {
        program: spec.name,
        error,
    })
}

fn attach_program(
    program: &mut Program,
    attach: Attach,
    returns: &mut ReturnProbes,
) -> Result<(), ProgramError> {
    match (program, attach) {
        (Program::FExit(program), Attach::Function(_)) => program.attach().map(drop),
        (Program::FEntry(program), Attach::Function(_)) => program.attach().map(drop),
        (Program::KProbe(program), Attach::Function(function)) => {
            let is_return = matches!(program.kind(), ProbeKind::Return);
            if is_return && returns.attach(program.fd()?.as_fd(), function) {
                return Ok(());
            }
            program.attach(function, 0).map(drop)
        }
        (Program::RawTracePoint(program), Attach::Tracepoint(tracepoint)) => {
            program.attach(tracepoint).map(drop)
        }
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

fn make_callable(ebpf: &mut Ebpf, spec: &ProgramSpec) -> Result<(), AttachError> {
    for (map, index) in spec.resume {
        let descriptor = program_mut(ebpf, spec.name)?
            .fd()
            .and_then(|descriptor| Ok(descriptor.try_clone()?))
            .map_err(|error| AttachError::Program {
                program: spec.name,
                error,
            })?;
        let map = ebpf.map_mut(map).ok_or(AttachError::NoMap(map))?;
        ProgramArray::try_from(map)?.set(*index, &descriptor, 0)?;
    }
    Ok(())
}

fn program_mut<'a>(ebpf: &'a mut Ebpf, program: &'static str) -> Result<&'a mut Program, AttachError> {
    ebpf.program_mut(program).ok_or(AttachError::NoProgram(program))
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
    fn a_map_keeps_half_of_its_entries_where_the_cpus_leave_that_many() {
        assert_eq!(kept_connections(65_536, 2), 32_768);
        assert_eq!(kept_connections(1024, 2), 512);
        assert_eq!(kept_connections(1024, 5), 256);
        assert_eq!(kept_connections(1024, 64), 0);
        assert_eq!(kept_connections(65_536, u32::MAX), 0);
    }
}
