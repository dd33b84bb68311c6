//! Reading the counters map: in batches, because one system call per counter is what makes an agent expensive.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use agent_ebpf::abi::CounterKey;

use super::Counter;

/// `BPF_MAP_LOOKUP_BATCH` (include/uapi/linux/bpf.h), since Linux 5.6.
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;

/// Counters asked for at a time, at least as many as one hash bucket may hold.
const BATCH: usize = 1024;

/// The part of `union bpf_attr` that batch commands use.
#[repr(C)]
struct BatchAttributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Reads every counter.
pub(super) fn read(map: BorrowedFd<'_>) -> io::Result<Vec<Counter>> {
    let empty = CounterKey {
        cgroup: 0,
        start_time: 0,
        pid: 0,
        code: 0,
        reserved: 0,
    };
    let mut keys = vec![empty; BATCH];
    let mut values = vec![0_u64; BATCH];
    let mut counters = Vec::new();
    let (mut position, mut next) = (0_u64, 0_u64);
    let mut first = true;
    loop {
        let mut attributes = BatchAttributes {
            in_batch: if first { 0 } else { &raw mut position as u64 },
            out_batch: &raw mut next as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: u32::try_from(keys.len()).unwrap_or(u32::MAX),
            map_fd: u32::try_from(map.as_raw_fd()).unwrap_or(u32::MAX),
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: every address in `attributes` is that of a live buffer of at least the size that the kernel fills:
        // `count` keys and values of the map's types, and four bytes of position.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_MAP_LOOKUP_BATCH,
                &raw mut attributes,
                size_of::<BatchAttributes>(),
            )
        };
        let error = (result < 0).then(io::Error::last_os_error);
        let ended = match error.as_ref().and_then(io::Error::raw_os_error) {
            None => false,
            Some(libc::ENOENT) => true,
            Some(libc::ENOSPC) => {
                // One bucket has more than fits.
                keys.resize(keys.len() * 2, empty);
                values.resize(keys.len(), 0);
                continue;
            }
            Some(_) => return Err(error.unwrap_or_else(io::Error::last_os_error)),
        };
        let count = (attributes.count as usize).min(keys.len());
        counters.extend(keys[..count].iter().zip(&values).map(|(key, value)| Counter {
            key: *key,
            value: *value,
        }));
        if ended {
            return Ok(counters);
        }
        position = next;
        first = false;
    }
}
