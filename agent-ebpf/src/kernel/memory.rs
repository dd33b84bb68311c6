//! Reading kernel and user memory.

use agent_ebpf::abi::Setting;
use aya_ebpf::helpers::{bpf_probe_read_kernel, bpf_probe_read_user, generated::bpf_skc_to_tcp_sock};

use super::layout::setting;

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

/// How fields of kernel structures are read.
pub trait Access {
    /// Reads a field.
    fn field<T: Copy>(structure: u64, offset: Setting) -> Option<T>;

    /// Reads a field of the `struct tcp_sock` that a TCP socket's `struct sock` is the beginning of.
    fn tcp_field<T: Copy>(sock: u64, offset: Setting) -> Option<T>;
}

/// By a helper, whatever the verifier knows of the address.
pub struct Helper;

impl Access for Helper {
    #[inline(always)]
    fn field<T: Copy>(structure: u64, offset: Setting) -> Option<T> {
        field(structure, offset)
    }

    #[inline(always)]
    fn tcp_field<T: Copy>(sock: u64, offset: Setting) -> Option<T> {
        field(sock, offset)
    }
}

/// By a load, of structures that the verifier knows to be what they are (`PTR_TO_BTF_ID`): a tenth of a helper's cost. A
/// fault reads as zeros.
pub struct Load;

impl Access for Load {
    #[inline(always)]
    fn field<T: Copy>(structure: u64, offset: Setting) -> Option<T> {
        Some(load(structure, setting(offset)))
    }

    #[inline(always)]
    fn tcp_field<T: Copy>(sock: u64, offset: Setting) -> Option<T> {
        // The verifier lets nobody past the end of `struct sock` otherwise. A small part of what a helper that copies takes.
        // SAFETY: the verifier knows that this is a socket; the helper gives null if it is not TCP.
        let tcp = unsafe { bpf_skc_to_tcp_sock(sock as *mut _) };
        (!tcp.is_null()).then(|| load(tcp as u64, setting(offset)))
    }
}

/// Reads a `T` at that offset of such a structure.
#[inline(always)]
pub fn load<T: Copy>(structure: u64, offset: u32) -> T {
    let field = (structure as *const u8).wrapping_add(offset as usize);
    // SAFETY: the verifier knows the structure's fields, and the kernel handles faults. Volatile, so that it stays one load.
    unsafe { field.cast::<T>().read_volatile() }
}

/// Reads a `T` in the current task's memory.
#[inline(always)]
pub fn user<T>(address: u64) -> Option<T> {
    // SAFETY: the helper checks the address; a `T` here is an integer or an array of them.
    unsafe { bpf_probe_read_user(address as *const T).ok() }
}
