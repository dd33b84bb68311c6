//! The user registers of a system call under way: its number and arguments.

use aya_ebpf::helpers::{bpf_get_current_task_btf, bpf_task_pt_regs};

use super::memory::{kernel, load};

/// The number and the first arguments of a system call. The fourth is only read where it is needed: the stack is short.
pub struct SystemCall {
    registers: u64,
    pub number: u64,
    pub arguments: [u64; 3],
}

/// Reads them from the kernel's `struct pt_regs` at that address, if it belongs to a native call.
#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
pub fn system_call(registers: u64) -> Option<SystemCall> {
    // From dx on: dx si di orig_ax ip cs (arch/x86/include/asm/ptrace.h).
    let [dx, si, di, number, _, cs] = kernel::<[u64; 6]>(registers + 12 * 8)?;
    (cs as u16 == USER_CS).then_some(SystemCall {
        registers,
        number,
        arguments: [di, si, dx],
    })
}

/// The same of the current task.
#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
pub fn current_system_call() -> Option<SystemCall> {
    let registers = current_registers();
    (load::<u16>(registers, 17 * 8) == USER_CS).then(|| SystemCall {
        registers,
        number: load(registers, 15 * 8),
        arguments: [
            load(registers, 14 * 8),
            load(registers, 13 * 8),
            load(registers, 12 * 8),
        ],
    })
}

/// `__USER_CS`: anything else is a kernel thread or 32-bit code, whose numbers mean other calls.
#[cfg(bpf_target_arch = "x86_64")]
const USER_CS: u16 = 0x33;

/// Reads them from the kernel's `struct pt_regs` at that address, if it belongs to a native call.
#[cfg(bpf_target_arch = "aarch64")]
#[inline(always)]
pub fn system_call(registers: u64) -> Option<SystemCall> {
    let [_, second, third] = kernel::<[u64; 3]>(registers)?;
    // After 31 registers: sp pc pstate orig_x0 syscallno (arch/arm64/include/asm/ptrace.h). The first register has
    // the result by now, its value before is kept in orig_x0.
    let [_, _, pstate, first, number] = kernel::<[u64; 5]>(registers + 31 * 8)?;
    (pstate & MODE_32_BIT == 0).then_some(SystemCall {
        registers,
        number: u64::from(number as u32),
        arguments: [first, second, third],
    })
}

/// The same of the current task.
#[cfg(bpf_target_arch = "aarch64")]
#[inline(always)]
pub fn current_system_call() -> Option<SystemCall> {
    let registers = current_registers();
    (load::<u64>(registers, 33 * 8) & MODE_32_BIT == 0).then(|| SystemCall {
        registers,
        number: u64::from(load::<u32>(registers, 35 * 8)),
        arguments: [load(registers, 34 * 8), load(registers, 8), load(registers, 16)],
    })
}

/// `PSR_MODE32_BIT`: 32-bit code, whose numbers mean other calls.
#[cfg(bpf_target_arch = "aarch64")]
const MODE_32_BIT: u64 = 0x10;

/// Since Linux 5.15.
#[inline(always)]
fn current_registers() -> u64 {
    // SAFETY: no arguments; the task is the current one.
    unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) as u64 }
}

impl SystemCall {
    /// The fourth argument: r10 on x86, x3 on arm64.
    #[inline(always)]
    pub fn fourth(&self) -> u64 {
        #[cfg(bpf_target_arch = "x86_64")]
        const PLACE: u64 = 7 * 8;
        #[cfg(bpf_target_arch = "aarch64")]
        const PLACE: u64 = 3 * 8;
        kernel(self.registers + PLACE).unwrap_or(0)
    }
}
