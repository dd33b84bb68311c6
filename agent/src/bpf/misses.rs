//! How often the kernel left out a program: because another task on the same CPU was interrupted in it, or for kprobes
//! in any program or map (`bpf_prog_inc_misses_counter`, since Linux 5.12).

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use aya_obj::generated::bpf_prog_info;

/// `BPF_OBJ_GET_INFO_BY_FD` (include/uapi/linux/bpf.h).
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;

/// The part of `union bpf_attr` that the command uses.
#[repr(C)]
struct InfoAttributes {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// How often the kernel has left out a program since it was loaded; 0 before Linux 5.12.
pub(super) fn of_program(program: BorrowedFd<'_>) -> io::Result<u64> {
    // SAFETY: a structure of integers, for which 0 is a value; the kernel reads it for what else is wanted.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    let mut attributes = InfoAttributes {
        bpf_fd: u32::try_from(program.as_raw_fd()).unwrap_or(u32::MAX),
        info_len: u32::try_from(size_of::<bpf_prog_info>()).unwrap_or(u32::MAX),
        info: &raw mut info as u64,
    };
    // SAFETY: both addresses are those of live structures with the sizes given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_GET_INFO_BY_FD,
            &raw mut attributes,
            size_of::<InfoAttributes>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(info.recursion_misses)
}
