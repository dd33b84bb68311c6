//! What the programs have to be told about the running kernel, found in its BTF.

use std::{fs, io, os::linux::fs::MetadataExt as _};

use agent_ebpf::abi::{SYSCALLS_LEN, Setting, syscall};
use thiserror::Error;

use super::btf::Btf;

/// Inode number of the initial PID namespace (`PROC_PID_INIT_INO`, `include/linux/proc_ns.h`).
const INITIAL_PID_NAMESPACE: u64 = 0xefff_fffc;

/// Why the settings cannot be found.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// A field the programs read does not exist in this kernel.
    #[error(
        "this kernel's {structure} has no field {field}, which this version has to read; please report the kernel version"
    )]
    NoField {
        /// The structure.
        structure: &'static str,
        /// The field, with the path to it.
        field: &'static str,
    },
    /// A function has other parameters than this version knows.
    #[error("this kernel's {function} has no parameter {parameter}; please report the kernel version")]
    NoParameter {
        /// The function.
        function: &'static str,
        /// The parameter.
        parameter: &'static str,
    },
    /// The agent cannot see which PID namespace it is in.
    #[error("failed to read /proc/self/ns/pid")]
    PidNamespace(#[source] io::Error),
}

/// Values of `SETTINGS`, by [`Setting`].
pub(super) type Settings = [u32; Setting::COUNT];

/// Fields by structure. Where a field was renamed, the newer name comes first.
const FIELDS: &[(Setting, &str, &[&str])] = &[
    (Setting::SockFamily, "sock", &["__sk_common.skc_family"]),
    (Setting::SockProtocol, "sock", &["sk_protocol"]),
    (Setting::SockType, "sock", &["sk_type"]),
    (Setting::SockSocket, "sock", &["sk_socket"]),
    (Setting::SockShutdown, "sock", &["sk_shutdown"]),
    (Setting::SockLock, "sock", &["sk_lock.slock"]),
    (Setting::SockLockOwned, "sock", &["sk_lock.owned"]),
    (Setting::TcpCopiedSeq, "tcp_sock", &["copied_seq"]),
    (Setting::TcpWriteSeq, "tcp_sock", &["write_seq"]),
    (Setting::TcpRcvNxt, "tcp_sock", &["rcv_nxt"]),
    (Setting::TcpBytesReceived, "tcp_sock", &["bytes_received"]),
    (Setting::SocketSock, "socket", &["sk"]),
    (Setting::MsgIter, "msghdr", &["msg_iter"]),
    (Setting::IterType, "iov_iter", &["iter_type", "type"]),
    (Setting::IterOffset, "iov_iter", &["iov_offset"]),
    (Setting::IterCount, "iov_iter", &["count"]),
    (Setting::IterIov, "iov_iter", &["__iov", "iov"]),
    (Setting::TaskGroupLeader, "task_struct", &["group_leader"]),
    (Setting::TaskStartBoottime, "task_struct", &["start_boottime"]),
    (Setting::TaskThreadPid, "task_struct", &["thread_pid"]),
    (Setting::PidLevel, "pid", &["level"]),
    (Setting::PidNumbers, "pid", &["numbers"]),
    (Setting::UpidNr, "upid", &["nr"]),
    (Setting::UpidNs, "upid", &["ns"]),
    (Setting::PidNamespaceInum, "pid_namespace", &["ns.inum"]),
    (Setting::TaskFiles, "task_struct", &["files"]),
    (Setting::FilesFdt, "files_struct", &["fdt"]),
    (Setting::FdtableMaxFds, "fdtable", &["max_fds"]),
    (Setting::FdtableFd, "fdtable", &["fd"]),
    (Setting::FileInode, "file", &["f_inode"]),
    (Setting::FilePrivateData, "file", &["private_data"]),
    (Setting::InodeMode, "inode", &["i_mode"]),
    (Setting::UnixAddress, "unix_sock", &["addr"]),
    (Setting::UnixReadSocket, "unix_stream_read_state", &["socket"]),
    (Setting::UnixReadMessage, "unix_stream_read_state", &["msg"]),
    (Setting::UnixReadFlags, "unix_stream_read_state", &["flags"]),
];

/// Finds all settings.
pub(super) fn settings(btf: &Btf) -> Result<Settings, SettingsError> {
    let mut settings = [Setting::NONE; Setting::COUNT];
    let mut set = |setting: Setting, value| settings[setting as usize] = value;
    for (setting, structure, names) in FIELDS {
        let offset = names.iter().find_map(|name| btf.offset(structure, name));
        set(
            *setting,
            offset.ok_or(SettingsError::NoField {
                structure,
                field: names[0],
            })?,
        );
    }
    let field = |structure, field| {
        btf.offset(structure, field)
            .ok_or(SettingsError::NoField { structure, field })
    };
    let to_inode = field("socket_alloc", "vfs_inode.i_ino")?;
    set(
        Setting::SocketInodeNumber,
        to_inode.wrapping_sub(field("socket_alloc", "socket")?),
    );
    set(
        Setting::UpidSize,
        btf.size("upid").ok_or(SettingsError::NoField {
            structure: "upid",
            field: "nr",
        })?,
    );

    // Before Linux 5.14 (8cd54c1c8480) the type and the direction shared a field, with the direction in bit 0.
    let with_direction = btf.offset("iov_iter", "iter_type").is_none();
    set(Setting::IterTypeMask, if with_direction { 0xfe } else { 0xff });
    let no_type = SettingsError::NoField {
        structure: "iter_type",
        field: "ITER_IOVEC",
    };
    set(
        Setting::IterTypeIovec,
        btf.enumerator("iter_type", "ITER_IOVEC").ok_or(no_type)?,
    );
    set(
        Setting::IterTypeUbuf,
        btf.enumerator("iter_type", "ITER_UBUF").unwrap_or(Setting::NONE),
    );

    // A kernel unlike this asks a helper for the cgroup, and goes without those of v1: processes that are alive when they are
    // looked at have a path.
    let cgroups = cgroups(btf);
    for (setting, offset) in cgroups.into_iter().flatten() {
        set(setting, offset);
    }
    if cgroups.is_some() && has_v1_pids() {
        set(Setting::CssSetPids, pids_state(btf).unwrap_or(Setting::NONE));
    }
    let typed_task = btf.enumerator("bpf_func_id", "BPF_FUNC_get_current_task_btf");
    set(
        Setting::TypedTask,
        u32::from(cgroups.is_some() && typed_task.is_some()),
    );

    let parameters = btf.parameters("tcp_recvmsg").unwrap_or_default();
    let flags = parameters.iter().position(|name| name == "flags");
    match (flags, u32::try_from(parameters.len())) {
        (Some(flags @ 3..=4), Ok(count)) => {
            set(Setting::TcpRecvmsgFlags, if flags == 3 { 3 } else { 4 });
            set(Setting::TcpRecvmsgArgs, count);
        }
        _ => {
            return Err(SettingsError::NoParameter {
                function: "tcp_recvmsg",
                parameter: "flags",
            });
        }
    }
    set(
        Setting::PidNamespace,
        pid_namespace().map_err(SettingsError::PidNamespace)?,
    );
    Ok(settings)
}

/// Where the kernel tells how it preempts (since Linux 5.13), if debugfs is mounted: in this mount namespace or, for pods have it
/// not, in that of the host's first process, which takes `CAP_SYS_PTRACE`.
const PREEMPTION_MODE: [&str; 2] = [
    "/sys/kernel/debug/sched/preempt",
    "/proc/1/root/sys/kernel/debug/sched/preempt",
];

/// True if the kernel may take the CPU from a task inside the kernel, as far as it tells: `PREEMPT` in its version,
/// and no milder mode, of its configuration or chosen at boot (`preempt=`), where that can be read.
pub(super) fn is_preemptible() -> bool {
    let version = fs::read_to_string("/proc/sys/kernel/version").unwrap_or_default();
    let mode = PREEMPTION_MODE
        .iter()
        .find_map(|path| fs::read_to_string(path).ok());
    version.contains("PREEMPT") && !mode.is_some_and(|mode| is_mild(&mode))
}

/// Whether the kernel takes the CPU only from tasks that offer it; of a line such as `none (voluntary) full lazy`.
fn is_mild(mode: &str) -> bool {
    mode.contains("(none)") || mode.contains("(voluntary)")
}

/// True if processes are in a v1 hierarchy of the controller `pids`: its number is not 0 then (`cgroups(7)`).
fn has_v1_pids() -> bool {
    let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    cgroups.lines().any(|line| {
        let mut parts = line.split(':');
        let hierarchy = parts.next();
        let mut controllers = parts.next().unwrap_or_default().split(',');
        hierarchy != Some("0") && controllers.any(|controller| controller == "pids")
    })
}

/// The ways from a task to the ids of its cgroups.
fn cgroups(btf: &Btf) -> Option<[(Setting, u32); 5]> {
    Some([
        (Setting::TaskCgroups, btf.offset("task_struct", "cgroups")?),
        (Setting::CssSetDefault, btf.offset("css_set", "dfl_cgrp")?),
        (Setting::CssCgroup, btf.offset("cgroup_subsys_state", "cgroup")?),
        (Setting::CgroupNode, btf.offset("cgroup", "kn")?),
        (Setting::NodeId, btf.offset("kernfs_node", "id")?),
    ])
}

/// Where a task's `css_set` has its state in the hierarchy of `pids`.
fn pids_state(btf: &Btf) -> Option<u32> {
    let pids = btf.enumerator("cgroup_subsys_id", "pids_cgrp_id")?;
    // An array of pointers.
    Some(btf.offset("css_set", "subsys")? + 8 * pids)
}

/// Inode number of this process's PID namespace, 0 if it is the initial one.
fn pid_namespace() -> io::Result<u32> {
    let inode = fs::metadata("/proc/self/ns/pid")?.st_ino();
    Ok(if inode == INITIAL_PID_NAMESPACE {
        0
    } else {
        u32::try_from(inode).unwrap_or(u32::MAX)
    })
}

/// Describes the system calls that move bytes over sockets, by their number on this architecture.
pub(super) fn syscalls() -> [u8; SYSCALLS_LEN] {
    use syscall::{BUFFER, FLAGS_FOURTH, FLAGS_THIRD, MESSAGE, MESSAGES, PAGES, SENT, SPLICE, VECTOR};
    let calls = [
        (libc::SYS_read, BUFFER),
        (libc::SYS_recvfrom, BUFFER | FLAGS_FOURTH),
        (libc::SYS_readv, VECTOR),
        (libc::SYS_preadv2, VECTOR),
        (libc::SYS_recvmsg, MESSAGE | FLAGS_THIRD),
        (libc::SYS_recvmmsg, MESSAGES | FLAGS_FOURTH),
        (libc::SYS_write, BUFFER | SENT),
        (libc::SYS_sendto, BUFFER | SENT),
        (libc::SYS_writev, VECTOR | SENT),
        (libc::SYS_pwritev2, VECTOR | SENT),
        (libc::SYS_sendmsg, MESSAGE | SENT),
        (libc::SYS_sendmmsg, MESSAGES | SENT),
        (libc::SYS_sendfile, PAGES | SENT),
        (libc::SYS_splice, SPLICE),
    ];
    let mut table = [0; SYSCALLS_LEN];
    for (number, description) in calls {
        if let Some(entry) = usize::try_from(number)
            .ok()
            .and_then(|number| table.get_mut(number))
        {
            *entry = description;
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_in_parentheses_decides() {
        for (line, mild) in [
            ("none (voluntary) full\n", true),
            ("(none) voluntary full\n", true),
            ("none voluntary (full)\n", false),
            ("full (lazy)\n", false),
            ("", false),
        ] {
            assert_eq!(is_mild(line), mild, "{line}");
        }
    }
}
