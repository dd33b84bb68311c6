//! The HTTP/1 framing engine: finds the requests a process receives and the responses it sends in what goes over
//! one connection, and skips everything else.
//!
//! [`advance`] takes a connection, a direction and the bytes of one socket call, and never asks where the bytes
//! come from. Bodies are skipped, not searched, so text in them that looks like HTTP is not counted; that takes
//! RFC 9112 section 6 in both directions. Goals, in this order: count what a server's access log would count; be
//! resumable at any byte; do a bounded amount of work in a call; copy and look at as little as possible.

mod connection;
mod direction;
mod event;
mod exchange;
mod h1;
mod window;

pub use connection::Connection;
pub use direction::Direction;
pub use event::Event;
pub use window::{WINDOW, Window};

use crate::abi::Loss;
use direction::{RECEIVED, SENT};

/// Times that [`advance`] calls [`step`] at most: several times what a call takes that has one message.
///
/// On Linux before 5.13 the eBPF verifier walks through every one of them and must not pass one million instructions.
pub const STEPS: u32 = 64;

/// Things that one [`advance`] reports at most: a request takes two steps at least, a response three, and it may tell of a
/// request besides; and each may come with a loss.
pub const FOUND: usize = STEPS as usize + 2;

/// The bytes of one socket call, in order, and where to report what was found in them.
pub trait Source {
    /// Bytes not yet copied or skipped.
    fn left(&self) -> u64;
    /// Goes to where the next bytes are. The two below may be called after this only.
    ///
    /// # Errors
    /// The cause to count, if that cannot be told.
    fn seek(&mut self) -> Result<(), Loss>;
    /// Moves over up to `count` bytes without looking, and returns over how many, if only to the end of a segment.
    fn skip(&mut self, count: u64) -> u64;
    /// Copies the next bytes, if only to the end of a segment, or tells why they cannot be read.
    ///
    /// # Errors
    /// The cause to count.
    fn fill(&mut self, window: &mut Window) -> Result<(), Loss>;
    /// Something was found.
    fn found(&mut self, event: Event);
    /// Calls [`step`]. The eBPF programs do so by way of a function that the verifier checks on its own.
    #[inline(always)]
    fn step(&mut self, direction: Direction, connection: &mut Connection, window: &mut Window) -> bool {
        step(direction, connection, window, self)
    }
}

/// Takes the connection over the bytes of one call, after [`Connection::begin_call`] with a window that is clear. True
/// if that is done; if not, there was more work than one call of this function may do, and it is to be called again,
/// or what is left to be given up with [`advance_unseen`].
#[inline(always)]
#[must_use]
pub fn advance<S: Source>(
    connection: &mut Connection,
    direction: Direction,
    window: &mut Window,
    source: &mut S,
) -> bool {
    for _ in 0..STEPS {
        if !source.step(direction, connection, window) {
            return true;
        }
    }
    window.left() == 0 && source.left() == 0
}

/// Takes the connection over `count` bytes that cannot be looked at, because of `cause`. Harmless inside a body.
#[inline(always)]
#[must_use]
pub fn advance_unseen(connection: &mut Connection, direction: Direction, count: u64, cause: Loss) -> Event {
    match direction {
        Direction::Received => connection.unseen::<RECEIVED>(count, cause),
        Direction::Sent => connection.unseen::<SENT>(count, cause),
    }
}

/// Takes the connection over `count` bytes that the process received and threw away without looking at them (`MSG_TRUNC`).
#[inline(always)]
pub fn advance_discarded(connection: &mut Connection, count: u64) {
    connection.discarded(count);
}

/// Does one bounded piece of work: copies bytes into the window, moves over some, or looks at some. False if the call's
/// last byte is behind the connection.
#[inline(always)]
#[must_use]
pub fn step<S: Source + ?Sized>(
    direction: Direction,
    connection: &mut Connection,
    window: &mut Window,
    source: &mut S,
) -> bool {
    match direction {
        Direction::Received => step_in::<RECEIVED, S>(connection, window, source),
        Direction::Sent => step_in::<SENT, S>(connection, window, source),
    }
}

#[inline(always)]
fn step_in<const DIRECTION: bool, S: Source + ?Sized>(
    connection: &mut Connection,
    window: &mut Window,
    source: &mut S,
) -> bool {
    if window.left() == 0 {
        let left = source.left();
        if left == 0 {
            return false;
        }
        let mut result = source.seek();
        if result.is_ok() {
            let stream = connection.stream::<DIRECTION>();
            let skippable = stream.skippable();
            if skippable > 0 {
                let skipped = source.skip(skippable);
                stream.skip(skipped);
                return true;
            }
            stream.restore_lookback(window);
            result = source.fill(window);
        }
        if let Err(cause) = result {
            let event = connection.unseen::<DIRECTION>(left, cause);
            if !event.is_none() {
                source.found(event);
            }
            return false;
        }
        if window.left() == 0 {
            return true;
        }
    }
    let event = h1::step::<DIRECTION>(connection, window);
    if !event.is_none() {
        source.found(event);
    }
    true
}

#[cfg(test)]
mod tests;
