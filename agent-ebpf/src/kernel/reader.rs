//! The bytes of one call, in order, as the engine takes them.

use agent_ebpf::{
    abi::{LOST, Loss, REQUESTS},
    http::{Connection, Direction, Event, FOUND, Source, WINDOW, Window, step},
};
use aya_ebpf::helpers::generated::bpf_probe_read_user;

use super::memory::{kernel, user};

/// The bytes of a call in the calling task's memory.
#[repr(C)]
pub struct Bytes {
    /// Bytes of the call not copied or skipped yet.
    pub(super) left: u64,
    /// Where the current segment goes on.
    pub(super) address: u64,
    /// Bytes left of the current segment.
    pub(super) segment: u64,
    /// The `struct iovec` of the next one; while [`Self::back`] is not 0, of one before which the call's first byte is.
    pub(super) next: u64,
    /// How many bytes before `segment` bytes into that one; 0 once the first byte is found.
    pub(super) back: u64,
    /// 1 if that is in user memory.
    pub(super) next_in_user: u32,
    /// What was found in this run, as in [`CounterKey::code`](agent_ebpf::abi::CounterKey::code). It is counted at its end: a
    /// step has no stack left for that.
    pub(super) found: u32,
    pub(super) codes: [u16; FOUND],
}

impl Bytes {
    #[inline(always)]
    fn take(&mut self, count: u64) {
        self.address = self.address.wrapping_add(count);
        self.segment = self.segment.wrapping_sub(count);
        self.left = self.left.wrapping_sub(count);
    }

    #[inline(always)]
    fn push(&mut self, code: u16) {
        let index = self.found as usize;
        if index < FOUND {
            self.codes[index] = code;
            self.found += 1;
        }
    }
}

impl Source for Bytes {
    #[inline(always)]
    fn left(&self) -> u64 {
        self.left
    }

    #[inline(always)]
    fn seek(&mut self) -> Result<(), Loss> {
        if self.segment == 0 {
            let segment: Option<[u64; 2]> = if self.next_in_user == 1 {
                user(self.next)
            } else {
                kernel(self.next)
            };
            let [base, len] = segment.ok_or(Loss::UnreadableMemory)?;
            self.address = base;
            self.segment = len;
            self.next += 16;
        }
        if self.segment > self.left {
            self.segment = self.left;
        }
        Ok(())
    }

    #[inline(always)]
    fn skip(&mut self, count: u64) -> u64 {
        let count = if count < self.segment { count } else { self.segment };
        self.take(count);
        count
    }

    #[inline(always)]
    fn fill(&mut self, window: &mut Window) -> Result<(), Loss> {
        let count = if self.segment < WINDOW as u64 {
            self.segment
        } else {
            WINDOW as u64
        };
        // SAFETY: the window holds `WINDOW` bytes; the helper checks the address.
        let result = unsafe {
            bpf_probe_read_user(
                window.destination().cast(),
                count as u32,
                self.address as *const _,
            )
        };
        if result < 0 {
            return Err(Loss::UnreadableMemory);
        }
        window.filled(count as u32);
        self.take(count);
        Ok(())
    }

    #[inline(always)]
    fn step(&mut self, direction: Direction, connection: &mut Connection, window: &mut Window) -> bool {
        checked_once(direction, connection, window, self)
    }

    #[inline(always)]
    fn found(&mut self, event: Event) {
        if let Some(code) = event.code() {
            self.push(code);
        }
        if event.is_answered() {
            self.push(REQUESTS);
        }
        if let Some(cause) = event.loss_index() {
            self.push(LOST.wrapping_add(cause as u16));
        }
    }
}

// The engine's steps as functions that the verifier checks on their own. They are global in its sense (`btf_func_linkage`): it
// walks through each once for a program, with any connection and any bytes, instead of once for each step that a call may
// take. Before Linux 5.13 such functions cannot take pointers; for those kernels the loader makes them static, and the
// verifier walks through them at every call.

/// Does one step; 0 if there was nothing to do. To the verifier each pointer may be null.
#[inline(always)]
fn checked(direction: Direction, connection: *mut Connection, window: *mut Window, bytes: *mut Bytes) -> u32 {
    // SAFETY: the caller below has them from references.
    match unsafe { (connection.as_mut(), window.as_mut(), bytes.as_mut()) } {
        (Some(connection), Some(window), Some(bytes)) => {
            u32::from(step(direction, connection, window, bytes))
        }
        _ => 0,
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn step_received(connection: *mut Connection, window: *mut Window, bytes: *mut Bytes) -> u32 {
    checked(Direction::Received, connection, window, bytes)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn step_sent(connection: *mut Connection, window: *mut Window, bytes: *mut Bytes) -> u32 {
    checked(Direction::Sent, connection, window, bytes)
}

/// [`step`], by way of one of these functions.
#[inline(always)]
pub fn checked_once(
    direction: Direction,
    connection: &mut Connection,
    window: &mut Window,
    bytes: &mut Bytes,
) -> bool {
    0 != match direction {
        Direction::Received => step_received(connection, window, bytes),
        Direction::Sent => step_sent(connection, window, bytes),
    }
}
