//! The user registers of a system call under way: its number and arguments.

/// The number and the first four arguments of a system call.
pub struct SystemCall {
    pub number: u64,
    pub arguments: [u64; 4],
}

/// Reads them from the kernel's `struct pt_regs` at that address, if it belongs to a native call.
#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
pub fn system_call(registers: u64) -> Option<SystemCall> {
    /// `__USER_CS`: anything else is a kernel thread or 32-bit code, whose numbers mean other calls.
    const USER_CS: u64 = 0x33;
    // From r10 on: r10 r9 r8 ax cx dx si di orig_ax ip cs (arch/x86/include/asm/ptrace.h).
    let [r10, _, _, _, _, dx, si, di, number, _, cs] = super::memory::kernel::<[u64; 11]>(registers + 7 * 8)?;
    (cs & 0xffff == USER_CS).then_some(SystemCall {
        number,
        arguments: [di, si, dx, r10],
    })
}

/// Reads them from the kernel's `struct pt_regs` at that address, if it belongs to a native call.
#[cfg(bpf_target_arch = "aarch64")]
#[inline(always)]
pub fn system_call(registers: u64) -> Option<SystemCall> {
    /// `PSR_MODE32_BIT`: 32-bit code, whose numbers mean other calls.
    const MODE_32_BIT: u64 = 0x10;
    let [_, second, third, fourth] = super::memory::kernel::<[u64; 4]>(registers)?;
    // After 31 registers: sp pc pstate orig_x0 syscallno (arch/arm64/include/asm/ptrace.h). The first register has
    // the result by now, its value before is kept in orig_x0.
    let [_, _, pstate, first, number] = super::memory::kernel::<[u64; 5]>(registers + 31 * 8)?;
    (pstate & MODE_32_BIT == 0).then_some(SystemCall {
        number: u64::from(number as u32),
        arguments: [first, second, third, fourth],
    })
}
