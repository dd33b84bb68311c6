//! The contract between the eBPF programs and user space: map names, layouts and limits.
//!
//! Both sides compile this file, so a layout cannot differ between them; the assertions at its end pin the
//! layouts against accidental padding, which the kernel would otherwise hash as part of a key.

/// Names of the maps, as the loader looks them up. At most 15 characters (`BPF_OBJ_NAME_LEN`).
pub mod maps {
    /// Hash map of [`super::CounterKey`] to `u64`: how often it happened since the programs were attached.
    pub const COUNTERS: &str = "COUNTERS";
    /// Array indexed by [`super::Loss`] of `u64`: what could not be counted, by cause.
    pub const LOSSES: &str = "LOSSES";
    /// Hash map of [`super::CounterKey`] to `u64`: the same by process, as far as there is room and a process is known to have
    /// lost it.
    pub const LOST: &str = "LOST";
    /// LRU hash map of `struct sock *` to [`crate::http::Connection`].
    pub const CONNECTIONS: &str = "CONNECTIONS";
    /// LRU hash map of thread to its latest socket call; used by the kprobe hook only.
    pub const CALLS: &str = "CALLS";
    /// LRU hash map of thread to the entries that have seen its latest call on a unix socket; see [`super::entries`].
    pub const HANDLED: &str = "HANDLED";
    /// Per-CPU array of the programs' working memory; [`super::entries::COUNT`] times as long where there are entries.
    pub const WORK: &str = "WORK";
    /// Array of one `u32`: a socket with an inode number from this one on (modulo 2^32) was made after the programs had
    /// been attached. 0 while that is not known.
    pub const FIRST_INODE: &str = "FIRST_INODE";
    /// Program array: the second halves of the `sys_exit` program, by direction; 0 received, 1 sent.
    pub const SYS_EXIT: &str = "SYS_EXIT";
    /// Program arrays of one: the programs that read what went over sockets.
    pub const TCP_SEND: &str = "TCP_SEND";
    /// See [`TCP_SEND`].
    pub const TCP_RECEIVE: &str = "TCP_RECEIVE";
    /// See [`TCP_SEND`].
    pub const UNIX_SEND: &str = "UNIX_SEND";
    /// See [`TCP_SEND`].
    pub const UNIX_RECEIVE: &str = "UNIX_RECEIVE";
}

/// Value of [`CounterKey::code`] that counts requests received instead of responses sent.
pub const REQUESTS: u16 = 0;
/// Lowest status code that is counted under itself (RFC 9110 section 15).
pub const CODE_MIN: u16 = 100;
/// Highest status code that is counted under itself. Outside this range a status line is not one (RFC 9110
/// section 15: "values outside the range 100..599 are invalid").
pub const CODE_MAX: u16 = 599;
/// Value of [`CounterKey::code`] for a response whose status line was sent but could not be read, such as one sent
/// by `sendfile(2)`: there was a response, its code is unknown.
pub const CODE_UNKNOWN: u16 = 999;

/// Values of [`CounterKey::code`] from this one on count what was lost: it and a [`Loss`].
pub const LOST: u16 = 1000;

/// Marks the id of a cgroup of v1: both kinds of hierarchies number their cgroups from 1 on. The kernel's own ids are far
/// from having this bit.
pub const CGROUP_V1: u64 = 1 << 63;

/// Id of the root of the cgroup v2 hierarchy.
pub const CGROUP_ROOT: u64 = 1;

/// What is counted: requests received by, or responses of one status code sent by, one process in one cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct CounterKey {
    /// Id of the process's cgroup in the cgroup v2 hierarchy (`bpf_get_current_cgroup_id`); the inode number of
    /// its directory in the cgroup2 mount. In the root of that one the id in the v1 hierarchy of `pids`, if there is one,
    /// marked with [`CGROUP_V1`].
    pub cgroup: u64,
    /// When the process started: `task_struct.start_boottime` of the thread group leader, in nanoseconds since
    /// boot. Tells processes apart that had the same [`pid`](Self::pid) one after the other.
    pub start_time: u64,
    /// Process id (thread group id) in the agent's own PID namespace.
    pub pid: u32,
    /// [`REQUESTS`], or a status code from [`CODE_MIN`] to [`CODE_MAX`], or [`CODE_UNKNOWN`]; in [`maps::LOST`] a [`LOST`].
    pub code: u16,
    /// Always 0; keeps the key free of padding.
    pub reserved: u16,
}

/// Why something was not counted. The discriminant is the index into [`maps::LOSSES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Loss {
    /// The counters map was full: one request or response not counted.
    CountersFull = 0,
    /// The connections map refused an entry: one socket call not seen.
    ConnectionsFull = 1,
    /// User memory with the call's data could not be read (not resident): one socket call whose bytes were
    /// needed for framing and could not be seen.
    UnreadableMemory = 2,
    /// The data was never in user memory (`sendfile`, `splice`, `io_uring` where the hook cannot follow it): one
    /// socket call whose bytes were needed for framing and could not be seen.
    UnreadablePages = 3,
    /// More work in one socket call than the programs may do: the rest of the call was not framed.
    GaveUp = 4,
    /// The stream on an HTTP connection could not be followed; counting goes on at the next message that is
    /// recognised.
    OutOfSync = 5,
    /// More requests outstanding on one connection than are remembered: a later response's framing may be wrong.
    PipelineTooDeep = 6,
    /// The process could not be identified in the agent's PID namespace; its requests are not ours to count.
    ForeignProcess = 7,
    /// A connection's state had to make room for another's and was needed again: at most the message it was in.
    ConnectionEvicted = 8,
    /// The kernel left out the program, or all of its entries where it has some: one socket call not seen, at most. Where
    /// there are no entries user space adds what the kernel tells (`bpf_prog_info.recursion_misses`).
    ProgramMissed = 9,
}

impl Loss {
    /// Every cause, in the order of the map's indices.
    pub const ALL: [Self; 10] = [
        Self::CountersFull,
        Self::ConnectionsFull,
        Self::UnreadableMemory,
        Self::UnreadablePages,
        Self::GaveUp,
        Self::OutOfSync,
        Self::PipelineTooDeep,
        Self::ForeignProcess,
        Self::ConnectionEvicted,
        Self::ProgramMissed,
    ];

    /// The cause's name in reports, logs and metrics: `snake_case`, stable.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CountersFull => "counters_full",
            Self::ConnectionsFull => "connections_full",
            Self::UnreadableMemory => "unreadable_memory",
            Self::UnreadablePages => "unreadable_pages",
            Self::GaveUp => "gave_up",
            Self::OutOfSync => "out_of_sync",
            Self::PipelineTooDeep => "pipeline_too_deep",
            Self::ForeignProcess => "foreign_process",
            Self::ConnectionEvicted => "connection_evicted",
            Self::ProgramMissed => "program_missed",
        }
    }
}

/// Names of the global variables that user space sets before the programs are loaded.
pub mod globals {
    /// `[u32; Setting::COUNT]`, indexed by [`super::Setting`].
    pub const SETTINGS: &str = "SETTINGS";
    /// `[u8; SYSCALLS_LEN]`, indexed by system call number: a [`super::syscall`] description, or 0.
    pub const SYSCALLS: &str = "SYSCALLS";
}

/// What the programs have to be told about the running kernel. Rust has no CO-RE relocations, so user space reads
/// this from the kernel's BTF; the values sit in a frozen read-only map, where the verifier sees constants.
///
/// Unless said otherwise a byte offset of a field in its structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Setting {
    /// `sock.__sk_common.skc_family`, two bytes.
    SockFamily,
    /// `sock.sk_protocol`, two bytes.
    SockProtocol,
    /// `sock.sk_type`, two bytes.
    SockType,
    /// `sock.sk_socket`.
    SockSocket,
    /// `sock.sk_shutdown`, one byte.
    SockShutdown,
    /// `sock.sk_lock.slock`, of which four bytes are looked at.
    SockLock,
    /// `sock.sk_lock.owned`, four bytes.
    SockLockOwned,
    /// `tcp_sock.copied_seq`, four bytes.
    TcpCopiedSeq,
    /// `tcp_sock.write_seq`, four bytes.
    TcpWriteSeq,
    /// `tcp_sock.rcv_nxt`, four bytes.
    TcpRcvNxt,
    /// `tcp_sock.bytes_received`, eight bytes.
    TcpBytesReceived,
    /// `socket.sk`.
    SocketSock,
    /// From a `struct socket` to the `i_ino` of the inode it is allocated with (`struct socket_alloc`).
    SocketInodeNumber,
    /// `msghdr.msg_iter`.
    MsgIter,
    /// `iov_iter.iter_type`, one byte; before Linux 5.14 `iov_iter.type`.
    IterType,
    /// `iov_iter.iov_offset`.
    IterOffset,
    /// `iov_iter.count`.
    IterCount,
    /// `iov_iter.__iov` (before Linux 6.4 `iov`), which shares its place with `ubuf`.
    IterIov,
    /// Value, not an offset: `ITER_IOVEC`.
    IterTypeIovec,
    /// Value: `ITER_UBUF`, or [`Setting::NONE`] before Linux 6.0.
    IterTypeUbuf,
    /// Value: the bits of `IterType` that hold the type. Before Linux 5.14 bit 0 is the direction.
    IterTypeMask,
    /// Value: index of the `flags` argument of `tcp_recvmsg`.
    TcpRecvmsgFlags,
    /// Value: how many arguments `tcp_recvmsg` has; the return value comes after them.
    TcpRecvmsgArgs,
    /// `task_struct.group_leader`.
    TaskGroupLeader,
    /// `task_struct.start_boottime`.
    TaskStartBoottime,
    /// `task_struct.thread_pid`.
    TaskThreadPid,
    /// `pid.level`, four bytes.
    PidLevel,
    /// `pid.numbers`.
    PidNumbers,
    /// `upid.nr`, four bytes.
    UpidNr,
    /// `upid.ns`.
    UpidNs,
    /// Size of `struct upid`.
    UpidSize,
    /// `pid_namespace.ns.inum`, four bytes.
    PidNamespaceInum,
    /// Value: inode number of the agent's PID namespace, or 0 if that is the initial one.
    PidNamespace,
    /// `task_struct.files`.
    TaskFiles,
    /// `files_struct.fdt`.
    FilesFdt,
    /// `fdtable.max_fds`, four bytes.
    FdtableMaxFds,
    /// `fdtable.fd`.
    FdtableFd,
    /// `file.f_inode`.
    FileInode,
    /// `file.private_data`.
    FilePrivateData,
    /// `inode.i_mode`, two bytes.
    InodeMode,
    /// `unix_stream_read_state.socket`.
    UnixReadSocket,
    /// `unix_stream_read_state.msg`.
    UnixReadMessage,
    /// `unix_stream_read_state.flags`, four bytes.
    UnixReadFlags,
    /// `task_struct.cgroups`; this and the next five are [`Self::NONE`] where the kernel lacks one of them.
    TaskCgroups,
    /// `css_set.dfl_cgrp`.
    CssSetDefault,
    /// `css_set.subsys[pids_cgrp_id]`, if there is a v1 hierarchy of `pids`; else [`Self::NONE`].
    CssSetPids,
    /// `cgroup_subsys_state.cgroup`.
    CssCgroup,
    /// `cgroup.kn`.
    CgroupNode,
    /// `kernfs_node.id`, eight bytes.
    NodeId,
    /// `unix_sock.addr`
    UnixAddress,
    /// Value: 1 if the verifier may know the current task for what it is (`bpf_get_current_task_btf`, since Linux 5.11), and its
    /// cgroup can be found from there.
    TypedTask,
    /// Value: one of [`entries`].
    Entries,
    /// Value: 1 if no TCP socket goes without being seen, 0 if that may happen.
    TcpEndsSeen,
    /// The same for unix sockets.
    UnixEndsSeen,
    /// Value: as long as no more connections than this are remembered, none has to make room for another.
    ConnectionsKept,
}

impl Setting {
    /// How many there are.
    pub const COUNT: usize = Self::ConnectionsKept as usize + 1;
    /// Value of a setting that this kernel does not have.
    pub const NONE: u32 = u32::MAX;
}

/// How many programs of a hook, at most, read what went over sockets: for each kind of socket and direction one.
pub const READERS: u32 = 4;

/// How the programs that read what went over sockets come to run. Where the kernel may interrupt a program, it leaves
/// that program out for other tasks on the same CPU until the interrupted one goes on. So there each has several
/// entries: small programs attached beside each other, of which the first that is not left out calls it.
pub mod entries {
    /// They are attached themselves.
    pub const NONE: u32 = 0;
    /// By entries, any of which may run first; another program runs when a call begins.
    pub const ANY_ORDER: u32 = 1;
    /// By entries, which run in order.
    pub const IN_ORDER: u32 = 2;
    /// How many a program has. All are left out only if on one CPU as many tasks wait, each interrupted in another one.
    pub const COUNT: u32 = 4;
}

/// System call numbers known to [`globals::SYSCALLS`].
pub const SYSCALLS_LEN: usize = 512;

/// How a system call moves bytes over a socket: one byte per call number. Calls with the descriptor first and the
/// data second, which makes it small.
pub mod syscall {
    /// Mask of the kind.
    pub const KIND: u8 = 0x0f;
    /// The second argument is a buffer.
    pub const BUFFER: u8 = 1;
    /// The second argument is an array of `struct iovec`.
    pub const VECTOR: u8 = 2;
    /// The second argument is a `struct msghdr`.
    pub const MESSAGE: u8 = 3;
    /// The data is not in user memory: `sendfile`.
    pub const PAGES: u8 = 4;
    /// As [`PAGES`]; the first argument is a descriptor that is read, the third one that is written: `splice`.
    pub const SPLICE: u8 = 5;
    /// The second argument is an array of `struct mmsghdr`, and the result says how many of them went, not how many
    /// bytes.
    pub const MESSAGES: u8 = 6;
    /// Set if bytes are sent, clear if they are received.
    pub const SENT: u8 = 0x10;
    /// Set if the third argument has `MSG_*` flags.
    pub const FLAGS_THIRD: u8 = 0x20;
    /// Set if the fourth argument has `MSG_*` flags.
    pub const FLAGS_FOURTH: u8 = 0x40;
}

const _: () = {
    assert!(size_of::<CounterKey>() == 24);
    assert!(align_of::<CounterKey>() == 8);
};
