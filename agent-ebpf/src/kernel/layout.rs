//! What user space found out about the running kernel.

use agent_ebpf::abi::{SYSCALLS_LEN, Setting};

#[unsafe(no_mangle)]
static SETTINGS: [u32; Setting::COUNT] = [0; Setting::COUNT];

#[unsafe(no_mangle)]
static SYSCALLS: [u8; SYSCALLS_LEN] = [0; SYSCALLS_LEN];

/// The value of a setting: a constant to the verifier, which leaves out what it makes unreachable.
#[inline(always)]
pub fn setting(setting: Setting) -> u32 {
    // SAFETY: in bounds by the array's type. Volatile, because user space replaces the value before loading.
    unsafe {
        (&raw const SETTINGS)
            .cast::<u32>()
            .add(setting as usize)
            .read_volatile()
    }
}

/// The description of a system call, 0 if it is of no interest.
#[inline(always)]
pub fn syscall(number: u64) -> u8 {
    if number >= SYSCALLS_LEN as u64 {
        return 0;
    }
    // SAFETY: just compared.
    unsafe {
        (&raw const SYSCALLS)
            .cast::<u8>()
            .add(number as usize)
            .read_volatile()
    }
}
