//! Keeping the CPU while a call is handled.
//!
//! A task that loses its CPU inside a program keeps that program from running for all other tasks there, for as long
//! as it waits. A stand-in (see [`super::fexit`]) would soon be in the same place.

use agent_ebpf::abi::calls;
use core::arch::asm;

/// Does `work` with preemption disabled, where the kernel can do that for programs (since Linux 6.10).
#[inline(always)]
pub fn disabled(work: impl FnOnce()) {
    call::<{ calls::PREEMPT_DISABLE }>();
    work();
    call::<{ calls::PREEMPT_ENABLE }>();
}

/// A call of a kernel function without arguments. User space puts the function's number on this kernel in the place of
/// the number here, or replaces the instruction by one that does nothing.
#[inline(always)]
fn call<const NUMBER: i32>() {
    // SAFETY: takes no arguments; the registers a call may change are named.
    unsafe {
        asm!(
            "call {number}",
            number = const NUMBER,
            out("r0") _, out("r1") _, out("r2") _, out("r3") _, out("r4") _, out("r5") _,
        );
    }
}
