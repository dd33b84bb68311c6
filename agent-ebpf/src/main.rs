//! The eBPF programs: thin entry points per hook, all calling the same handlers.
//!
//! Built for `bpfel-unknown-none` (see `agent/build.rs`). For the host this is an empty program, so that one
//! `cargo check` covers the workspace.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
// One instruction that `core` does not offer; see `kernel::counters`.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
#[expect(
    unreachable_pub,
    reason = "a program has no callers outside; `pub` is what its modules share"
)]
mod kernel;

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // Never reached: the verifier refuses programs that could get here.
    loop {}
}

/// The programs use helpers that the kernel gives to GPL-compatible programs only.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(target_arch = "bpf"))]
fn main() {}
