//! The counters and losses, which is all that user space reads.

use agent_ebpf::{
    abi::{CounterKey, Loss},
    http::Event,
};
use aya_ebpf::{
    bindings::BPF_NOEXIST,
    macros::map,
    maps::{Array, HashMap},
};
use core::arch::asm;

use super::attribution::counter_of_current;

#[map]
static COUNTERS: HashMap<CounterKey, u64> = HashMap::with_max_entries(16384, 0);

#[map]
static LOSSES: Array<u64> = Array::with_max_entries(Loss::ALL.len() as u32, 0);

/// Adds one to the current process's counter for `code`. Returns 0.
///
/// Global in the verifier's sense: it walks through this once for each program, and not again for each way to a call. A
/// global function has to return a number (until Linux 6.8).
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn count(code: u16) -> u32 {
    add_one(code);
    0
}

#[inline(always)]
fn add_one(code: u16) {
    let Some(key) = counter_of_current(code) else {
        return lose(Loss::ForeignProcess as u32);
    };
    if increment(&key) {
        return;
    }
    // Two CPUs may get here for the same key: the second finds it taken and increments after all.
    if COUNTERS.insert(&key, &1, u64::from(BPF_NOEXIST)).is_err() && !increment(&key) {
        lose(Loss::CountersFull as u32);
    }
}

/// Counts what an event tells.
#[inline(always)]
pub fn found(event: Event) {
    if let Some(code) = event.code() {
        count(code);
    }
    if let Some(cause) = event.loss_index() {
        lose(cause);
    }
}

#[inline(always)]
fn increment(key: &CounterKey) -> bool {
    let Some(counter) = COUNTERS.get_ptr_mut(key) else {
        return false;
    };
    add(counter, 1);
    true
}

/// Counts a loss; `cause` is a [`Loss`] as an index.
#[inline(always)]
pub fn lose(cause: u32) {
    if let Some(losses) = LOSSES.get_ptr_mut(cause) {
        add(losses, 1);
    }
}

/// Adds to a map value, atomically: several CPUs may be at it, or a program that interrupted another.
#[inline(always)]
pub fn add(value: *mut u64, what: i64) {
    // By hand, because `core` has no atomic addition for targets without compare-and-swap.
    // SAFETY: a map value of eight bytes, aligned, valid while the program runs.
    unsafe { asm!("lock *(u64 *)({value} + 0) += {what}", value = in(reg) value, what = in(reg) what) };
}
