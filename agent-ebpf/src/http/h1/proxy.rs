//! The PROXY protocol, version 2; version 1 is a line that a request line's stages take (`request.rs`).

use super::{message::stage, word};
use crate::http::{connection::Connection, event::Event, window::Window};

/// PROXY protocol v2: 12 bytes of signature, of which four were taken for empty lines; version and command;
/// address family; two bytes of length, most significant first.
#[inline(always)]
pub(super) fn proxy_v2(connection: &mut Connection, window: &mut Window, byte: u8) -> Event {
    const SIGNATURE: u64 = word(*b"\0\r\nQUIT\n");
    let stream = &mut connection.received;
    let at = stream.progress;
    window.advance(1);
    stream.progress = at.wrapping_add(1);
    match at {
        4..=11 if (SIGNATURE >> ((at - 4) * 8)) as u8 == byte => {}
        12 if byte >> 4 == 2 => {}
        13 => {}
        14 => stream.set_length(u64::from(byte) << 8),
        15 => {
            let len = stream.length() | u64::from(byte);
            stream.enter(if len == 0 { stage::START } else { stage::BODY });
            stream.set_length(len);
        }
        _ => return Event::MISMATCH,
    }
    Event::NONE
}
