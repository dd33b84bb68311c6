//! The counters and losses, which is all that user space reads.

use agent_ebpf::{
    abi::{self, CounterKey, Loss, REQUESTS},
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

/// The losses that are some process's. A map of its own, so that losses take no room of what can be counted.
#[map]
static LOST: HashMap<CounterKey, u64> = HashMap::with_max_entries(4096, 0);

/// Adds one to the current process's counter for `code`. Returns 0.
///
/// Global in the verifier's sense: it walks through this once for each program, and not again for each way to a call. A
/// global function has to return a number (until Linux 6.8).
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn count(code: u16) -> u32 {
    match counter_of_current(code) {
        None => lose_of_nobody(Loss::ForeignProcess as u32),
        Some(key) if !add_one(&COUNTERS, &key) => lose(Loss::CountersFull as u32),
        Some(_) => {}
    }
    0
}

/// Adds one to what the current process has lost because of `cause`, a [`Loss`] as an index. Returns 0. Global as [`count`] is.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn blame(cause: u16) -> u32 {
    if let Some(key) = counter_of_current(abi::LOST.wrapping_add(cause)) {
        // Where there is no room the sum has it all the same.
        let _is_full = add_one(&LOST, &key);
    }
    0
}

/// Adds one to a counter; false if it is not there and there is no room for it.
#[inline(always)]
fn add_one(map: &HashMap<CounterKey, u64>, key: &CounterKey) -> bool {
    // Two CPUs may get here for the same key: the second finds it taken and increments after all.
    increment(map, key) || map.insert(key, &1, u64::from(BPF_NOEXIST)).is_ok() || increment(map, key)
}

/// Counts what an event tells.
#[inline(always)]
pub fn found(event: Event) {
    if let Some(code) = event.code() {
        count(code);
    }
    if event.is_answered() {
        count(REQUESTS);
    }
    if let Some(cause) = event.loss_index() {
        lose(cause);
    }
}

#[inline(always)]
fn increment(map: &HashMap<CounterKey, u64>, key: &CounterKey) -> bool {
    let Some(counter) = map.get_ptr_mut(key) else {
        return false;
    };
    add(counter, 1);
    true
}

/// Counts a loss of the current process; `cause` is a [`Loss`] as an index.
#[inline(always)]
pub fn lose(cause: u32) {
    lose_of_nobody(cause);
    blame(cause as u16);
}

/// Counts a loss where the current process is not the one that has lost something.
#[inline(always)]
pub fn lose_of_nobody(cause: u32) {
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
