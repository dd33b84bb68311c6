//! Status lines (RFC 9112 section 4).

use super::{
    message::{flag, stage},
    word,
};
use crate::{
    abi::{CODE_MAX, CODE_MIN},
    http::{
        connection::{Connection, Role},
        event::Event,
        exchange::Method,
        window::Window,
    },
};

/// True if the lowest three bytes are digits.
#[inline(always)]
const fn are_three_digits(bytes: u64) -> bool {
    let bytes = bytes & 0xff_ffff;
    // Bit 7 of a byte is set in the sum above `9`, and in the difference below `0`, where the lowest such byte is exact.
    ((bytes + 0x46_4646) | bytes.wrapping_sub(0x30_3030) | bytes) & 0x80_8080 == 0
}

/// A status line up to its code: `HTTP/1.1 200`, then a space or the end of the line (RFC 9112 section 4; in practice the
/// space is missing where there is no reason phrase, or even where there is one). As in requests, the version may have more
/// digits.
#[inline(always)]
pub(in crate::http) fn status(connection: &mut Connection, window: &mut Window, ahead: u64) -> Event {
    const VERSION: u64 = word(*b"HTTP/1.\0");
    let mut byte = ahead as u8;
    let stream = &mut connection.sent;
    let mut at = stream.progress;
    // Most responses, in one step.
    let next = window.peek_next();
    if at == 0 && window.left() > 12 && next as u8 == b' ' {
        let code = next >> 8;
        if ahead & (u64::MAX >> 8) != VERSION
            || !((ahead >> 56) as u8).is_ascii_digit()
            || !are_three_digits(code)
        {
            return Event::MISMATCH;
        }
        stream.set_code((code & 15) * 100 + (code >> 8 & 15) * 10 + (code >> 16 & 15));
        window.advance(12);
        byte = (next >> 32) as u8;
        at = 12;
    }
    let fits = match at {
        0..=6 => (VERSION >> (at * 8)) as u8 == byte,
        8 => byte == b' ' || byte.is_ascii_digit(),
        12 => !byte.is_ascii_digit(),
        _ => byte.is_ascii_digit(),
    };
    if !fits {
        return Event::MISMATCH;
    }
    if at < 12 {
        if at > 8 {
            stream.set_code(stream.code() * 10 + u64::from(byte & 15));
        }
        if at != 8 || byte == b' ' {
            stream.progress = at.wrapping_add(1);
        }
        window.advance(1);
        return Event::NONE;
    }
    let code = stream.code() as u16;
    if !(CODE_MIN..=CODE_MAX).contains(&code) {
        return Event::MISMATCH;
    }
    // The line feed may be the next byte: it is left for the next stage.
    stream.enter(stage::LINE_REST);
    let interim = code < 200 && code != 101;
    if interim {
        stream.flags = flag::NO_BODY;
        connection.role = Role::SERVER;
        return Event::response(code);
    }
    let event = Event::response(code).with(connection.answered(code));
    let method = connection.take_method();
    connection.sent.flags = if code == 101 || (method == Method::CONNECT && code < 300) {
        flag::TUNNEL
    } else if method == Method::HEAD || code == 204 || code == 304 {
        flag::NO_BODY
    } else {
        0
    };
    connection.role = Role::SERVER;
    event
}
