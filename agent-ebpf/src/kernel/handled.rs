//! Which thread's call on a unix socket has been handled, where programs have stand-ins (see [`super::fexit`]). TCP
//! sockets tell by their sequence numbers.

use agent_ebpf::abi::{Loss, Setting, stand_ins};
use aya_ebpf::{helpers::bpf_get_current_pid_tgid, macros::map, maps::LruHashMap};

use super::{call::Program, process::lose, settings::setting};

/// By thread, of its latest call: [`SEEN`] and [`SEEN_BY_STAND_IN`].
#[map]
static HANDLED: LruHashMap<u64, u8> = LruHashMap::with_max_entries(16384, 0);

/// The program has run for the call.
const SEEN: u8 = 1;
/// Its stand-in has.
const SEEN_BY_STAND_IN: u8 = 2;

/// A call begins. If neither of the two has run for the one before, that is lost.
#[inline(always)]
pub fn begin() {
    let thread = bpf_get_current_pid_tgid();
    match HANDLED.get_ptr_mut(&thread) {
        Some(seen) => {
            // SAFETY: only this thread uses its entry.
            let seen = unsafe { &mut *seen };
            if *seen == 0 {
                lose(Loss::ProgramMissed as u32);
            }
            *seen = 0;
        }
        None => {
            let _ = HANDLED.insert(&thread, &0, 0);
        }
    }
}

/// True if this thread's call, of which every program must ask, is handled by the other of the two programs.
#[inline(always)]
pub fn is_handled(program: Program) -> bool {
    let mine = if program.is_stand_in() {
        SEEN_BY_STAND_IN
    } else {
        SEEN
    };
    match setting(Setting::StandIns) {
        stand_ins::NONE => return false,
        // The stand-in runs second, and there is nothing to be told about the call's beginning: what the stand-in sees
        // of this call it forgets.
        stand_ins::SECOND if program.is_stand_in() => {
            return HANDLED.remove(&bpf_get_current_pid_tgid()).is_ok();
        }
        _ => {}
    }
    let thread = bpf_get_current_pid_tgid();
    if let Some(seen) = HANDLED.get_ptr_mut(&thread) {
        // SAFETY: only this thread uses its entry.
        let seen = unsafe { &mut *seen };
        // What this program has seen before was another call, whose end or whose successor's beginning was missed.
        let is_new = *seen == 0 || *seen & mine != 0;
        *seen = if is_new { mine } else { *seen | mine };
        return !is_new;
    }
    // If it cannot be noted, the call may be counted twice rather than not at all.
    let _ = HANDLED.insert(&thread, &mine, 0);
    false
}
