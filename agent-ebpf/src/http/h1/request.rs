//! Request lines (RFC 9112 section 3), and what may be before one.

use super::{
    message::{Stream, flag, stage},
    word,
};
use crate::http::{connection::Connection, event::Event, exchange::Method, window::Window};

/// Longest method token that is taken for one. The longest registered one, `UPDATEREDIRECTREF`, has 17 bytes.
const METHOD_MAX: u16 = 32;

/// Bytes between the version in a request line and the line feed, at most: what the window's lookback has room for.
const LINE_END_MAX: usize = 6;

/// Longest request line in bytes: twice what the most generous common server takes.
const REQUEST_LINE_MAX: u32 = 0xffff;

/// RFC 9110 section 5.6.2: the characters of a token, as one bit per ASCII code.
pub(in crate::http) const fn is_token(byte: u8) -> bool {
    const LOW: u64 = 0x03ff_6cfa_0000_0000;
    const HIGH: u64 = 0x57ff_ffff_c7ff_fffe;
    let set = if byte < 64 { LOW } else { HIGH };
    byte < 128 && (set >> (byte & 63)) & 1 == 1
}

impl Stream {
    /// Leaves the method of most requests behind, so that the same step goes on with the target.
    #[inline(always)]
    pub(in crate::http) fn skip_get(&mut self, ahead: u64, window: &mut Window) {
        const GET: u64 = word(*b"GET \0\0\0\0");
        if self.stage() == stage::METHOD
            && self.progress == 0
            && ahead & 0xffff_ffff == GET
            && window.left() >= 4
        {
            self.enter(stage::TARGET);
            window.advance(4);
        }
    }
}

/// What comes before a request instead of a method: an empty line, or a PROXY protocol header.
#[inline(always)]
pub(in crate::http) fn empty_line(connection: &mut Connection, window: &mut Window, byte: u8) -> Event {
    let is_new = connection.is_new();
    let stream = &mut connection.received;
    if byte == b'\r' || byte == b'\n' {
        if stream.progress < 8 {
            stream.progress += 1;
        }
        window.advance(1);
    } else if byte == 0 && stream.progress == 4 && is_new {
        // The signature's first four bytes look like two empty lines.
        stream.stage = stage::PROXY_V2;
    } else {
        return Event::MISMATCH;
    }
    Event::NONE
}

/// A method token and the space behind it (RFC 9112 section 3.1).
#[inline(always)]
pub(in crate::http) fn method(connection: &mut Connection, window: &mut Window, ahead: u64) -> Event {
    let byte = ahead as u8;
    let stream = &mut connection.received;
    if is_token(byte) && stream.progress < METHOD_MAX {
        stream.push_token(byte);
        stream.progress += 1;
        window.advance(1);
        return Event::NONE;
    }
    if byte != b' ' {
        return Event::MISMATCH;
    }
    let (name, len) = (stream.token(), stream.progress);
    stream.enter(stage::TARGET);
    stream.flags = if len == 4 && name == 0x4845_4144 {
        Method::HEAD
    } else if len == 7 && name == 0x0043_4f4e_4e45_4354 {
        Method::CONNECT
    } else if len == 5 && name == 0x50_524f_5859 {
        flag::PROXY
    } else {
        Method::OTHER
    };
    Event::NONE
}

/// The rest of a request line: it is one if a version ends it (RFC 9112 section 3).
#[inline(always)]
pub(in crate::http) fn target(connection: &mut Connection, window: &mut Window, ended: bool) -> Event {
    const VERSION: u64 = word(*b"HTTP/1.\0");
    if !ended {
        if window.left() == 0 {
            let stream = &mut connection.received;
            stream.set_lookback(window.lookback());
            let seen = u32::from(stream.progress) + window.len();
            if seen > REQUEST_LINE_MAX {
                return Event::MISMATCH;
            }
            stream.progress = seen as u16;
        }
        return Event::NONE;
    }
    let (mut earlier, mut later) = window.lookback();
    window.advance(1);
    // Behind the version a carriage return, and blanks that servers forgive; a second digit of the minor version.
    for _ in 0..LINE_END_MAX {
        let (last, previous) = ((later >> 56) as u8, (later >> 48) as u8);
        let is_second_digit = last.is_ascii_digit() && previous.is_ascii_digit();
        if !(is_second_digit || matches!(last, b'\r' | b' ')) {
            break;
        }
        later = (later << 8) | (earlier >> 56);
        earlier <<= 8;
    }
    let (before, digit) = ((earlier >> 56) as u8, (later >> 56) as u8);
    let flags = connection.received.flags;
    if before == b' ' && later & (u64::MAX >> 8) == VERSION && digit.is_ascii_digit() {
        connection.received.enter(stage::LINE);
        return connection.request(flags & flag::METHOD);
    }
    if flags & flag::PROXY != 0 && connection.is_new() {
        connection.received.enter(stage::START);
        return Event::NONE;
    }
    Event::MISMATCH
}
