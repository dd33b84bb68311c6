//! Calls that no program saw, because the kernel left out the program and its stand-in.
//!
//! The kernel counts for each program how often it was left out, since Linux 5.12: because another task on the same CPU
//! was interrupted in it, or in any program, or in a map. Where a program has a stand-in, a call is lost only if both
//! were left out; how often that was is not known, but it cannot be more often than either of them.

use std::{
    collections::BTreeMap,
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

/// Adds up, from one look to the next, how many calls no program saw at most.
#[derive(Debug, Default)]
pub(super) struct Misses {
    /// By program: what the kernel said last.
    last: BTreeMap<&'static str, u64>,
    calls: u64,
}

impl Misses {
    /// Takes what the kernel says now, for every program attached that reads what went over sockets, and returns how
    /// many calls were lost since the first look, at most.
    pub(super) fn update(&mut self, misses: &BTreeMap<&'static str, u64>) -> u64 {
        let new = |program: &str| {
            let now = misses.get(program).copied()?;
            Some(now.saturating_sub(self.last.get(program).copied().unwrap_or(0)))
        };
        self.calls += misses
            .keys()
            .filter(|program| !program.ends_with(STAND_IN))
            .filter_map(|program| {
                let missed = new(program)?;
                Some(match new(&format!("{program}{STAND_IN}")) {
                    Some(by_stand_in) => missed.min(by_stand_in),
                    None => missed,
                })
            })
            .sum::<u64>();
        self.last.clone_from(misses);
        self.calls
    }
}

/// How the names of stand-ins end.
pub(super) const STAND_IN: &str = "_again";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_lost_if_the_program_and_its_stand_in_were_left_out() {
        let mut misses = Misses::default();
        let mut look = |all: &[(&'static str, u64)]| misses.update(&all.iter().copied().collect());
        assert_eq!(look(&[("send", 0), ("send_again", 0), ("begin", 0)]), 0);
        assert_eq!(look(&[("send", 5), ("send_again", 0), ("begin", 0)]), 0);
        assert_eq!(look(&[("send", 6), ("send_again", 3), ("begin", 0)]), 1);
        assert_eq!(look(&[("send", 6), ("send_again", 3), ("begin", 2)]), 3);
        assert_eq!(look(&[("send", 6), ("send_again", 3), ("begin", 2)]), 3);
    }
}
