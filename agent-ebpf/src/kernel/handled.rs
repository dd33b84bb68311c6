//! Which thread's call on a unix socket has been handled, where programs have stand-ins (see [`super::fexit`]). TCP
//! sockets tell by their sequence numbers.

use agent_ebpf::abi::{Setting, stand_ins};
use aya_ebpf::{helpers::bpf_get_current_pid_tgid, macros::map, maps::LruHashMap};

use super::{call::Program, settings::setting};

/// By thread; only from the end of a call to the beginning of the next.
#[map]
static HANDLED: LruHashMap<u64, u8> = LruHashMap::with_max_entries(16384, 0);

/// A call begins.
#[inline(always)]
pub fn forget() {
    // Mostly there is nothing to forget.
    let _ = HANDLED.remove(&bpf_get_current_pid_tgid());
}

/// True if this thread's call has been handled by the other of the two programs. If not, it is from now on.
#[inline(always)]
pub fn is_handled(program: Program) -> bool {
    let thread = bpf_get_current_pid_tgid();
    match setting(Setting::StandIns) {
        0 => return false,
        // The stand-in runs second; so there is nothing to be told about the call's beginning.
        stand_ins::SECOND if program.is_stand_in() => return HANDLED.remove(&thread).is_ok(),
        stand_ins::SECOND => {}
        _ if HANDLED.get_ptr(&thread).is_some() => return true,
        _ => {}
    }
    // If it cannot be noted, the call may be counted twice rather than not at all.
    let _ = HANDLED.insert(&thread, &1, 0);
    false
}
