//! The programs of the object: what each is attached to, what it sees, and what the loader has to know of it. A new source of
//! bytes is a few more lines here.

use agent_ebpf::abi::{entries, maps};

use super::Hook;

/// One program, by its name in the object.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProgramSpec {
    /// As the object has it.
    pub(super) name: &'static str,
    pub(super) attach: Attach,
    /// It is made for that place and not attached there: other programs call it.
    pub(super) is_called: bool,
    pub(super) role: Role,
    pub(super) requires: Requires,
    /// Program arrays and indices at which those that call it find it (`bpf_tail_call`): mostly itself, to go on.
    pub(super) resume: &'static [(&'static str, u32)],
    /// The programs that are attached in its place, and call it, where it could be left out because it may be interrupted
    /// ([`entries`]).
    pub(super) entries: Option<[&'static str; entries::COUNT as usize]>,
    /// A run that the kernel leaves out loses a call for good: nothing later shows the gap.
    pub(super) counts_misses: bool,
}

/// What a program is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attach {
    /// A kernel function; its entry or return, as the program's type says.
    Function(&'static str),
    /// A raw tracepoint.
    Tracepoint(&'static str),
}

impl Attach {
    /// The function or the tracepoint.
    pub(super) fn target(self) -> &'static str {
        match self {
            Self::Function(name) | Self::Tracepoint(name) => name,
        }
    }
}

/// What a program sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The last of a socket.
    SocketEnd,
    /// Bytes received; or both directions, told apart in the program.
    Receive,
    /// Bytes sent.
    Send,
}

/// Kernels on which a program is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Requires {
    /// All.
    Nothing,
    /// Those that have the function. Linux 6.5 replaced `sendpage` by `MSG_SPLICE_PAGES` (dc97391e6610).
    Function,
    /// Those on which the hook's programs have entries.
    Entries,
    /// Those with the tracepoints `sock_send_length` and `sock_recv_length` (Linux 6.3).
    SocketTracepoints,
    /// Those without.
    NoSocketTracepoints,
}

/// What of a kernel decides which programs are used.
pub(super) trait Features {
    fn has_function(&self, name: &str) -> bool;
    fn has_socket_tracepoints(&self) -> bool;
    /// Whether programs of that hook may be interrupted, and so left out for another task.
    fn needs_entries(&self, hook: Hook) -> bool;
}

impl ProgramSpec {
    const fn new(name: &'static str, attach: Attach, role: Role) -> Self {
        Self {
            name,
            attach,
            is_called: false,
            role,
            requires: Requires::Nothing,
            resume: &[],
            entries: None,
            counts_misses: false,
        }
    }

    const fn resumes(mut self, at: &'static [(&'static str, u32)]) -> Self {
        self.resume = at;
        self
    }

    const fn requires(mut self, requires: Requires) -> Self {
        self.requires = requires;
        self
    }

    const fn entered_by(mut self, entries: [&'static str; entries::COUNT as usize]) -> Self {
        self.entries = Some(entries);
        self
    }

    const fn is_called(mut self) -> Self {
        self.is_called = true;
        self
    }

    const fn counts_misses(mut self) -> Self {
        self.counts_misses = true;
        self
    }

    fn is_used(&self, hook: Hook, kernel: &impl Features) -> bool {
        match self.requires {
            Requires::Nothing => true,
            Requires::Function => kernel.has_function(self.attach.target()),
            Requires::Entries => kernel.needs_entries(hook),
            Requires::SocketTracepoints => kernel.has_socket_tracepoints(),
            Requires::NoSocketTracepoints => !kernel.has_socket_tracepoints(),
        }
    }
}

/// The programs of a hook on a kernel, in the order in which they are loaded. One with entries comes before them, and is not
/// attached itself.
pub(super) fn programs_of(hook: Hook, kernel: &impl Features) -> Vec<ProgramSpec> {
    let specs: &[ProgramSpec] = match hook {
        Hook::Fentry => FENTRY,
        Hook::Kprobe => KPROBE,
        Hook::Tracepoint => TRACEPOINT,
    };
    let mut programs = Vec::new();
    for spec in specs.iter().chain([&TCP_END]) {
        if !spec.is_used(hook, kernel) {
            continue;
        }
        let Some(entries) = spec.entries.filter(|_| kernel.needs_entries(hook)) else {
            programs.push(*spec);
            continue;
        };
        programs.push(ProgramSpec {
            is_called: true,
            counts_misses: false,
            ..*spec
        });
        programs.extend(entries.map(|name| ProgramSpec::new(name, spec.attach, spec.role)));
    }
    programs
}

/// Functions that not every kernel has, and that programs are made for.
pub(super) fn optional_functions() -> impl Iterator<Item = &'static str> {
    let all = FENTRY.iter().chain(KPROBE);
    all.filter(|spec| spec.requires == Requires::Function)
        .map(|spec| spec.attach.target())
}

/// Every hook's: the last look at a TCP socket.
const TCP_END: ProgramSpec = ProgramSpec::new(
    "tcp_destroy_sock",
    Attach::Tracepoint("tcp_destroy_sock"),
    Role::SocketEnd,
);

macro_rules! entries {
    ($program:literal) => {
        [
            concat!($program, "_1"),
            concat!($program, "_2"),
            concat!($program, "_3"),
            concat!($program, "_4"),
        ]
    };
}

/// A program at a function, entry or return as its type says.
const fn function(name: &'static str, function: &'static str, role: Role) -> ProgramSpec {
    ProgramSpec::new(name, Attach::Function(function), role)
}

/// `fexit`, mostly. What takes stock of a call comes before what begins one.
const FENTRY: &[ProgramSpec] = &[
    function("tcp_sendmsg", "tcp_sendmsg", Role::Send)
        .resumes(&[(maps::TCP_SEND, 0)])
        .entered_by(entries!("tcp_sendmsg")),
    function("tcp_recvmsg", "tcp_recvmsg", Role::Receive)
        .resumes(&[(maps::TCP_RECEIVE, 0)])
        .entered_by(entries!("tcp_recvmsg")),
    function("unix_stream_sendmsg", "unix_stream_sendmsg", Role::Send)
        .resumes(&[(maps::UNIX_SEND, 0)])
        .entered_by(entries!("unix_stream_sendmsg"))
        .counts_misses(),
    function("unix_stream_recvmsg", "unix_stream_recvmsg", Role::Receive)
        .resumes(&[(maps::UNIX_RECEIVE, 0)])
        .entered_by(entries!("unix_stream_recvmsg"))
        .counts_misses(),
    function("tcp_sendpage", "tcp_sendpage", Role::Send).requires(Requires::Function),
    function("unix_stream_sendpage", "unix_stream_sendpage", Role::Send)
        .requires(Requires::Function)
        .counts_misses(),
    function(
        "unix_stream_splice_read",
        "unix_stream_splice_read",
        Role::Receive,
    )
    .requires(Requires::Function)
    .counts_misses(),
    function("unix_release", "unix_release", Role::SocketEnd),
    function("unix_stream_sendmsg_begin", "unix_stream_sendmsg", Role::Send).requires(Requires::Entries),
    function("unix_stream_recvmsg_begin", "unix_stream_recvmsg", Role::Receive).requires(Requires::Entries),
];

/// The smallest first: where kprobes cannot be attached, that shows before the large ones are loaded. What runs at a call's
/// beginning notices that what should at its end was left out, so misses of those do not count.
const KPROBE: &[ProgramSpec] = &[
    function("unix_release_entry", "unix_release", Role::SocketEnd),
    function("release_sock_send", "release_sock", Role::Send).resumes(&[(maps::TCP_SEND, 0)]),
    function("release_sock_receive", "release_sock", Role::Receive).resumes(&[(maps::TCP_RECEIVE, 0)]),
    function("tcp_sendmsg_entry", "tcp_sendmsg", Role::Send),
    function("tcp_recvmsg_entry", "tcp_recvmsg", Role::Receive),
    function("tcp_sendpage_entry", "tcp_sendpage", Role::Send).requires(Requires::Function),
    function("tcp_splice_read_entry", "tcp_splice_read", Role::Receive),
    function("unix_stream_sendmsg_return", "unix_stream_sendmsg", Role::Send)
        .resumes(&[(maps::UNIX_SEND, 0)]),
    function("unix_stream_sendmsg_entry", "unix_stream_sendmsg", Role::Send).counts_misses(),
    function(
        "unix_stream_read_actor_return",
        "unix_stream_read_actor",
        Role::Receive,
    )
    .resumes(&[(maps::UNIX_RECEIVE, 0)]),
    function(
        "unix_stream_read_actor_entry",
        "unix_stream_read_actor",
        Role::Receive,
    )
    .counts_misses(),
    function(
        "unix_stream_splice_actor_return",
        "unix_stream_splice_actor",
        Role::Receive,
    )
    .requires(Requires::Function),
    function(
        "unix_stream_splice_actor_entry",
        "unix_stream_splice_actor",
        Role::Receive,
    )
    .requires(Requires::Function)
    .counts_misses(),
    function("unix_stream_sendpage_return", "unix_stream_sendpage", Role::Send).requires(Requires::Function),
    function("unix_stream_sendpage_entry", "unix_stream_sendpage", Role::Send)
        .requires(Requires::Function)
        .counts_misses(),
];

/// After the call, one program for each direction; without the tracepoints of sockets, at the end of every system call.
const TRACEPOINT: &[ProgramSpec] = &[
    ProgramSpec::new(
        "sock_send_length",
        Attach::Tracepoint("sock_send_length"),
        Role::Send,
    )
    .requires(Requires::SocketTracepoints)
    .resumes(&[(maps::TCP_SEND, 0)])
    .entered_by(entries!("sock_send_length"))
    .counts_misses(),
    ProgramSpec::new(
        "sock_recv_length",
        Attach::Tracepoint("sock_recv_length"),
        Role::Receive,
    )
    .requires(Requires::SocketTracepoints)
    .resumes(&[(maps::TCP_RECEIVE, 0)])
    .entered_by(entries!("sock_recv_length"))
    .counts_misses(),
    ProgramSpec::new("sys_exit_receive", Attach::Tracepoint("sys_exit"), Role::Receive)
        .is_called()
        .requires(Requires::NoSocketTracepoints)
        .resumes(&[(maps::SYS_EXIT, 0), (maps::TCP_RECEIVE, 0)]),
    ProgramSpec::new("sys_exit_send", Attach::Tracepoint("sys_exit"), Role::Send)
        .is_called()
        .requires(Requires::NoSocketTracepoints)
        .resumes(&[(maps::SYS_EXIT, 1), (maps::TCP_SEND, 0)]),
    ProgramSpec::new("sys_exit", Attach::Tracepoint("sys_exit"), Role::Receive)
        .requires(Requires::NoSocketTracepoints)
        .counts_misses(),
];

#[cfg(test)]
mod tests {
    use super::*;

    struct Kernel {
        functions: &'static [&'static str],
        socket_tracepoints: bool,
        entries: &'static [Hook],
    }

    impl Features for Kernel {
        fn has_function(&self, name: &str) -> bool {
            self.functions.contains(&name)
        }

        fn has_socket_tracepoints(&self) -> bool {
            self.socket_tracepoints
        }

        fn needs_entries(&self, hook: Hook) -> bool {
            self.entries.contains(&hook)
        }
    }

    /// Linux 6.12.
    const RECENT: Kernel = Kernel {
        functions: &["unix_stream_splice_read"],
        socket_tracepoints: true,
        entries: &[],
    };
    /// Linux 5.10.
    const OLD: Kernel = Kernel {
        functions: &[
            "tcp_sendpage",
            "unix_stream_sendpage",
            "unix_stream_splice_read",
            "unix_stream_splice_actor",
        ],
        socket_tracepoints: false,
        entries: &[],
    };

    fn names(hook: Hook, kernel: &Kernel) -> Vec<&'static str> {
        programs_of(hook, kernel)
            .into_iter()
            .map(|spec| spec.name)
            .collect()
    }

    #[test]
    fn functions_that_the_kernel_does_not_have_are_not_attached() {
        let fentry = names(Hook::Fentry, &RECENT);
        assert!(
            fentry.contains(&"unix_stream_splice_read") && fentry.contains(&"tcp_destroy_sock"),
            "{fentry:?}"
        );
        let is_odd =
            |name: &&str| name.ends_with("sendpage") || name.ends_with("_1") || name.ends_with("_begin");
        assert!(!fentry.iter().any(is_odd), "{fentry:?}");
        assert_eq!(
            names(Hook::Tracepoint, &RECENT),
            ["sock_send_length", "sock_recv_length", "tcp_destroy_sock"]
        );
        assert_eq!(
            names(Hook::Tracepoint, &OLD),
            [
                "sys_exit_receive",
                "sys_exit_send",
                "sys_exit",
                "tcp_destroy_sock"
            ]
        );
        assert_eq!(
            (names(Hook::Fentry, &OLD).len(), names(Hook::Kprobe, &OLD).len()),
            (9, 16)
        );
    }

    #[test]
    fn misses_count_where_nothing_later_shows_the_gap() {
        let counted = |hook, kernel: &Kernel| {
            let programs = programs_of(hook, kernel).into_iter();
            programs
                .filter(|spec| spec.counts_misses)
                .map(|spec| spec.name)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            counted(Hook::Fentry, &OLD),
            [
                "unix_stream_sendmsg",
                "unix_stream_recvmsg",
                "unix_stream_sendpage",
                "unix_stream_splice_read"
            ]
        );
        assert_eq!(
            counted(Hook::Kprobe, &OLD),
            [
                "unix_stream_sendmsg_entry",
                "unix_stream_read_actor_entry",
                "unix_stream_splice_actor_entry",
                "unix_stream_sendpage_entry"
            ]
        );
        assert_eq!(counted(Hook::Tracepoint, &OLD), ["sys_exit"]);
        let preemptible = Kernel {
            entries: &[Hook::Fentry],
            ..RECENT
        };
        assert_eq!(counted(Hook::Fentry, &preemptible), ["unix_stream_splice_read"]);
    }

    #[test]
    fn programs_with_entries_are_loaded_before_them_and_not_attached() {
        let kernel = Kernel {
            entries: &[Hook::Fentry, Hook::Tracepoint],
            ..RECENT
        };
        for (hook, count) in [(Hook::Fentry, 4), (Hook::Tracepoint, 2), (Hook::Kprobe, 0)] {
            let programs = programs_of(hook, &kernel);
            let entered: Vec<usize> = (0..programs.len()).filter(|at| programs[*at].is_called).collect();
            assert_eq!(entered.len(), count, "{hook}");
            for at in entered {
                let entries = programs[at].entries.expect("it has entries");
                assert_eq!(programs[at].attach, programs[at + 1].attach, "{hook}");
                let next = programs[at + 1..][..entries.len()].iter().map(|spec| spec.name);
                assert!(next.eq(entries), "{hook}: {}", programs[at].name);
            }
        }
        assert!(names(Hook::Fentry, &kernel).contains(&"unix_stream_sendmsg_begin"));
    }
}
