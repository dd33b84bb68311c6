//! Reading kernel and user memory at addresses that are only numbers here.

use agent_ebpf::abi::Setting;
use aya_ebpf::helpers::{bpf_probe_read_kernel, bpf_probe_read_user};

use super::settings::setting;

/// Reads a `T` in kernel memory.
#[inline(always)]
pub fn kernel<T>(address: u64) -> Option<T> {
    // SAFETY: the helper checks the address; a `T` here is an integer or an array of them.
    unsafe { bpf_probe_read_kernel(address as *const T).ok() }
}

/// Reads a field of a kernel structure.
#[inline(always)]
pub fn field<T>(structure: u64, offset: Setting) -> Option<T> {
    kernel(structure + u64::from(setting(offset)))
}

/// Reads a `T` in the current task's memory.
#[inline(always)]
pub fn user<T>(address: u64) -> Option<T> {
    // SAFETY: the helper checks the address; a `T` here is an integer or an array of them.
    unsafe { bpf_probe_read_user(address as *const T).ok() }
}
