//! Runs of a program: working memory, and going on with a call that takes more work than one run may do.

use agent_ebpf::{
    abi::{LOST, Loss, READERS, Setting, entries},
    http::{Direction, FOUND, Window, advance, advance_unseen},
};
use aya_ebpf::{EbpfContext, helpers::bpf_get_current_pid_tgid, macros::map, maps::PerCpuArray};

use core::arch::asm;

use super::{
    connections,
    counters::{count, found, lose},
    layout::setting,
    program::Program,
    reader::Bytes,
    transport::socket::is_shut_down,
};
use agent_ebpf::http::Connection;

/// Working memory: more than the eBPF stack holds.
#[repr(C)]
struct Work {
    window: Window,
    bytes: Bytes,
    /// The socket of a call that takes more work than one run of the program may do; 0 if there is none.
    unfinished: u64,
    /// The thread that came in by this memory's entry, where there are entries; 0 while there is none.
    thread: u64,
}

/// By CPU and program; by CPU, entry and program where programs have entries. Nothing interrupts an entry for
/// another task to come in by it.
#[map]
static WORK: PerCpuArray<Work> = PerCpuArray::with_max_entries(Program::COUNT, 0);

impl Program {
    /// Calls this program from an entry. Comes back only if that cannot be done.
    #[inline(always)]
    pub fn enter(self, ctx: &impl EbpfContext, entry: u32) {
        if let Some(work) = WORK.get_ptr_mut(entry * READERS + self as u32) {
            // SAFETY: this CPU's and this entry's own.
            let work = unsafe { &mut *work };
            work.unfinished = 0;
            work.thread = bpf_get_current_pid_tgid();
            self.call(ctx);
            work.thread = 0;
        }
    }
}

/// The socket of a call that the program has to go on with in this run; 0 if there is none. To be asked before anything
/// that may turn out otherwise than in the run before.
#[inline(always)]
pub fn unfinished(program: Program) -> u64 {
    // SAFETY: this CPU's and this program's own; see `Work`.
    WORK.get_ptr_mut(program as u32)
        .map_or(0, |work| unsafe { (*work).unfinished })
}

/// The program cannot find its call. If it has one to go on with, the next one must not be taken for it.
#[inline(always)]
pub fn abandon(program: Program, direction: Direction) {
    if let Some(work) = WORK.get_ptr_mut(program as u32) {
        // SAFETY: this CPU's and this program's own; see `Work`.
        let work = unsafe { &mut *work };
        if work.unfinished != 0 {
            work.give_up(direction);
        }
    }
}

/// One run of a program: begins with a call, or goes on with one that takes more work than one run may do; and if
/// there is work left, has the kernel run the program again (`bpf_tail_call`).
#[inline(always)]
pub fn run(
    ctx: &impl EbpfContext,
    program: Program,
    direction: Direction,
    sock: u64,
    begin: impl FnOnce(&mut Bytes) -> Option<&'static mut Connection>,
) {
    let Some(work) = working_memory(program) else {
        return;
    };
    work.go_on(direction, sock, begin);
    if work.unfinished != 0 {
        program.call(ctx);
        // Only reached if the kernel refuses to go on, as it does after 33 times.
        work.give_up(direction);
    }
    work.release();
}

/// Working memory for a call. Nothing interrupts a program that has no entries; else the entry has chosen.
#[inline(always)]
fn working_memory(program: Program) -> Option<&'static mut Work> {
    if setting(Setting::Entries) != entries::NONE {
        return chosen(program as u32);
    }
    // SAFETY: this CPU's and this program's own.
    WORK.get_ptr_mut(program as u32).map(|work| unsafe { &mut *work })
}

/// Calculated, not looked for: the verifier would walk through all that follows once for each that it may be.
#[inline(always)]
fn chosen(program: u32) -> Option<&'static mut Work> {
    let thread = bpf_get_current_pid_tgid();
    let mut index = program;
    for entry in 1..entries::COUNT {
        let work = WORK.get_ptr_mut(entry * READERS + program)?;
        // SAFETY: a field of a map value; only this thread's entry sets it to this thread.
        let other = unsafe { (*work).thread } ^ thread;
        let mut is_other = other | other.wrapping_neg();
        // In assembly, because the compiler would make a jump of it.
        // SAFETY: the highest bit of the register, and nothing else.
        unsafe { asm!("{is_other} >>= 63", is_other = inout(reg) is_other) };
        index += entry * READERS * (1 - is_other as u32);
    }
    // SAFETY: this CPU's and this call's own.
    WORK.get_ptr_mut(index).map(|work| unsafe { &mut *work })
}

impl Work {
    /// The call is over.
    #[inline(always)]
    fn release(&mut self) {
        if setting(Setting::Entries) != entries::NONE {
            self.thread = 0;
        }
    }

    #[inline(always)]
    fn go_on(
        &mut self,
        direction: Direction,
        sock: u64,
        begin: impl FnOnce(&mut Bytes) -> Option<&'static mut Connection>,
    ) {
        let unfinished = self.unfinished;
        let connection = if unfinished == 0 {
            begin(&mut self.bytes)
        } else {
            self.unfinished = 0;
            let connection = connections::seen(unfinished);
            if connection.is_none() {
                lose(Loss::ConnectionEvicted as u32);
            }
            connection
        };
        let Some(connection) = connection else { return };
        if unfinished == 0 {
            connection.begin_call(direction);
            self.window.clear();
        }
        self.bytes.found = 0;
        match self.bytes.rewind() {
            Some(true) => {}
            Some(false) => {
                self.unfinished = sock;
                return;
            }
            None => {
                let (count, cause) = (self.bytes.left, Loss::UnreadableMemory);
                return found(advance_unseen(connection, direction, count, cause));
            }
        }
        if !advance(connection, direction, &mut self.window, &mut self.bytes) {
            self.unfinished = sock;
        }
        // The process will answer nothing any more: it reads to the end only to be polite (RFC 9112 section 9.6).
        let is_over =
            direction == Direction::Received && self.bytes.found != 0 && is_shut_down(sock, Direction::Sent);
        for index in 0..FOUND {
            if index as u32 >= self.bytes.found {
                break;
            }
            let code = self.bytes.codes[index];
            if code >= LOST {
                lose(u32::from(code - LOST));
            } else if !is_over {
                count(code);
            }
        }
    }

    #[inline(always)]
    fn give_up(&mut self, direction: Direction) {
        let left = self.bytes.left + u64::from(self.window.left());
        if let Some(connection) = connections::seen(self.unfinished) {
            found(advance_unseen(connection, direction, left, Loss::GaveUp));
        }
        self.unfinished = 0;
    }
}
