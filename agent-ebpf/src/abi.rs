//! The contract between the eBPF programs and user space: map names, layouts and limits.
//!
//! Both sides compile this file, so a layout cannot differ between them; the assertions at its end pin the
//! layouts against accidental padding, which the kernel would otherwise hash as part of a key.

/// Names of the maps, as the loader looks them up. At most 15 characters (`BPF_OBJ_NAME_LEN`).
pub mod maps {
    /// Hash map of [`super::CounterKey`] to `u64`: how often it happened since the programs were attached.
    pub const COUNTERS: &str = "COUNTERS";
    /// Per-CPU array indexed by [`super::Loss`] of `u64`: what could not be counted, by cause.
    pub const LOSSES: &str = "LOSSES";
    /// LRU hash map of `struct sock *` to [`crate::http::Connection`].
    pub const CONNECTIONS: &str = "CONNECTIONS";
    /// Hash map of task to the arguments of its socket call under way; used by the kprobe hook only.
    pub const CALLS: &str = "CALLS";
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

/// What is counted: requests received by, or responses of one status code sent by, one process in one cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct CounterKey {
    /// Id of the process's cgroup in the cgroup v2 hierarchy (`bpf_get_current_cgroup_id`); the inode number of
    /// its directory in the cgroup2 mount.
    pub cgroup: u64,
    /// When the process started: `task_struct.start_boottime` of the thread group leader, in nanoseconds since
    /// boot. Tells processes apart that had the same [`pid`](Self::pid) one after the other.
    pub start_time: u64,
    /// Process id (thread group id) in the agent's own PID namespace.
    pub pid: u32,
    /// [`REQUESTS`], or a status code from [`CODE_MIN`] to [`CODE_MAX`], or [`CODE_UNKNOWN`].
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
    /// The map of calls under way was full (kprobe hook): one socket call not seen.
    CallsFull = 2,
    /// User memory with the call's data could not be read (not resident): one socket call whose bytes were
    /// needed for framing and could not be seen.
    UnreadableMemory = 3,
    /// The data was never in user memory (`sendfile`, `splice`, `io_uring` where the hook cannot follow it): one
    /// socket call whose bytes were needed for framing and could not be seen.
    UnreadablePages = 4,
    /// More work in one socket call than the programs may do: the rest of the call was not framed.
    GaveUp = 5,
    /// The stream on an HTTP connection could not be followed; counting goes on at the next message that is
    /// recognised.
    OutOfSync = 6,
    /// More requests outstanding on one connection than are remembered: a later response's framing may be wrong.
    PipelineTooDeep = 7,
    /// The process could not be identified in the agent's PID namespace; its requests are not ours to count.
    ForeignProcess = 8,
}

impl Loss {
    /// Every cause, in the order of the map's indices.
    pub const ALL: [Self; 9] = [
        Self::CountersFull,
        Self::ConnectionsFull,
        Self::CallsFull,
        Self::UnreadableMemory,
        Self::UnreadablePages,
        Self::GaveUp,
        Self::OutOfSync,
        Self::PipelineTooDeep,
        Self::ForeignProcess,
    ];

    /// The cause's name in reports, logs and metrics: `snake_case`, stable.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CountersFull => "counters_full",
            Self::ConnectionsFull => "connections_full",
            Self::CallsFull => "calls_full",
            Self::UnreadableMemory => "unreadable_memory",
            Self::UnreadablePages => "unreadable_pages",
            Self::GaveUp => "gave_up",
            Self::OutOfSync => "out_of_sync",
            Self::PipelineTooDeep => "pipeline_too_deep",
            Self::ForeignProcess => "foreign_process",
        }
    }
}

const _: () = {
    assert!(size_of::<CounterKey>() == 24);
    assert!(align_of::<CounterKey>() == 8);
};
