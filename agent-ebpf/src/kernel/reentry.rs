//! Which calls have been handled, where programs have entries (see [`agent_ebpf::abi::entries`]).

use agent_ebpf::{
    abi::{Loss, Setting, entries},
    http::{Connection, Direction},
};
use aya_ebpf::{
    helpers::bpf_get_current_pid_tgid,
    macros::map,
    maps::{LruHashMap, PerCpuArray},
};

use super::{counters::lose, layout::setting, memory::Access, program::Program, transport::socket};

/// How far a TCP socket was in the program's direction when the program last looked. Of any socket, and tasks may
/// change places: what is not found here may have been handled all the same, and the program itself finds that.
#[repr(C)]
struct Seen {
    sock: u64,
    position: u32,
    reserved: u32,
}

/// By CPU and program.
#[map]
static SEEN: PerCpuArray<Seen> = PerCpuArray::with_max_entries(Program::COUNT, 0);

/// The program looks at a connection.
#[inline(always)]
pub fn see<A: Access>(program: Program, direction: Direction, sock: u64, connection: &Connection) {
    if setting(Setting::Entries) != entries::NONE {
        see_one::<A>(program as u32, direction, sock, connection);
    }
}

// Not inlined, so that the verifier forgets what was there.
#[inline(never)]
fn see_one<A: Access>(program: u32, direction: Direction, sock: u64, connection: &Connection) {
    if let Some(position) = socket::position::<A>(sock, connection, direction)
        && let Some(seen) = SEEN.get_ptr_mut(program)
    {
        // SAFETY: this CPU's own. If another task comes between the two, a socket has another's position, which it
        // is not at, or is in 1 of 2^32 cases.
        let seen = unsafe { &mut *seen };
        seen.sock = sock;
        seen.position = position;
    }
}

/// True if nothing has gone over a TCP socket since the program last looked.
#[inline(always)]
pub fn is_seen<A: Access>(program: Program, direction: Direction, sock: u64) -> bool {
    SEEN.get(program as u32).is_some_and(|seen| {
        seen.sock == sock && socket::sequence::<A>(sock, direction) == Some(seen.position)
    })
}

/// By thread, of its latest call on a unix socket, which has no such positions: a bit for each entry that has run.
#[map]
static HANDLED: LruHashMap<u64, u8> = LruHashMap::with_max_entries(16384, 0);

/// A call begins. If no entry has run for the one before, that is lost.
#[inline(always)]
pub fn begin() {
    let thread = bpf_get_current_pid_tgid();
    match HANDLED.get_ptr_mut(&thread) {
        Some(entered) => {
            // SAFETY: only this thread uses its entry.
            let entered = unsafe { &mut *entered };
            if *entered == 0 {
                lose(Loss::ProgramMissed as u32);
            }
            *entered = 0;
        }
        None => {
            let _ = HANDLED.insert(&thread, &0, 0);
        }
    }
}

/// True if this thread's call, of which every entry must ask, has come in by another one.
#[inline(always)]
pub fn is_handled(entry: u32) -> bool {
    let thread = bpf_get_current_pid_tgid();
    // Where they run in order there is nothing to be told about the call's beginning: what the others noted of this call
    // the last one forgets.
    if setting(Setting::Entries) == entries::IN_ORDER && entry == entries::COUNT - 1 {
        return HANDLED.remove(&thread).is_ok();
    }
    let mine = 1 << entry;
    if let Some(entered) = HANDLED.get_ptr_mut(&thread) {
        // SAFETY: only this thread uses its entry.
        let entered = unsafe { &mut *entered };
        // What came in here before was another call, whose end or whose successor's beginning was missed.
        let is_new = *entered == 0 || *entered & mine != 0;
        *entered = if is_new { mine } else { *entered | mine };
        return !is_new;
    }
    // If it cannot be noted, the call may be counted twice rather than not at all.
    let _ = HANDLED.insert(&thread, &mine, 0);
    false
}
