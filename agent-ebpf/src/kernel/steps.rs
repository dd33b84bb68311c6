//! The engine's steps as functions that the verifier checks on their own.
//!
//! They are global in its sense (`btf_func_linkage`): it walks through each once for a program, with any connection and
//! any bytes, instead of once for each step that a call may take. Before Linux 5.13 such functions cannot take
//! pointers; for those kernels the loader makes them static, and the verifier walks through them at every call.

use agent_ebpf::http::{Connection, Direction, Window, step};

use super::reader::Bytes;

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
