//! What the kernel knows about a loaded program: how often it ran and for how long, and how often it was left out.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    time::Duration,
};

use aya_obj::generated::bpf_prog_info;

/// `BPF_OBJ_GET_INFO_BY_FD` and `BPF_ENABLE_STATS` (include/uapi/linux/bpf.h).
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_ENABLE_STATS: libc::c_long = 32;
/// `BPF_STATS_RUN_TIME`, which is all of `union bpf_attr` that the second uses.
static BPF_STATS_RUN_TIME: u32 = 0;

/// The part of `union bpf_attr` that the first of these uses.
#[repr(C)]
struct InfoAttributes {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// What the kernel has counted for one program since it was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProgramStatistics {
    /// How often it ran while [`measure_run_times`] was on.
    pub runs: u64,
    /// How long these took, two readings of the clock for each included.
    pub run_time: Duration,
    /// How often it was left out: because another task on the same CPU was interrupted in it, or for kprobes in any
    /// program or map (`bpf_prog_inc_misses_counter`). 0 before Linux 5.12, and for kprobes before 6.7.
    pub misses: u64,
}

/// Reads what the kernel has counted for a program.
pub(super) fn of_program(program: BorrowedFd<'_>) -> io::Result<ProgramStatistics> {
    // SAFETY: a structure of integers, for which 0 is a value; the kernel reads it for what else is wanted.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    let attributes = InfoAttributes {
        bpf_fd: u32::try_from(program.as_raw_fd()).unwrap_or(u32::MAX),
        info_len: u32::try_from(size_of::<bpf_prog_info>()).unwrap_or(u32::MAX),
        info: &raw mut info as u64,
    };
    // SAFETY: both addresses are those of live structures with the sizes given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_GET_INFO_BY_FD,
            &raw const attributes,
            size_of::<InfoAttributes>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(ProgramStatistics {
        runs: info.run_cnt,
        run_time: Duration::from_nanos(info.run_time_ns),
        misses: info.recursion_misses,
    })
}

/// Has the kernel measure how long programs run, all of them, until what comes back is dropped. Costs some 20 ns a run.
///
/// # Errors
/// Before Linux 5.8, and without `CAP_SYS_ADMIN`.
pub fn measure_run_times() -> io::Result<OwnedFd> {
    // SAFETY: the attribute outlives the call and has the size given; the descriptor that comes back is owned once.
    unsafe {
        let descriptor = libc::syscall(
            libc::SYS_bpf,
            BPF_ENABLE_STATS,
            &raw const BPF_STATS_RUN_TIME,
            size_of_val(&BPF_STATS_RUN_TIME),
        );
        match libc::c_int::try_from(descriptor) {
            Ok(descriptor @ 0..) => Ok(OwnedFd::from_raw_fd(descriptor)),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
