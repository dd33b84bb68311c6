//! HTTP/1, step by step: a file for each part of a message.
//!
//! [`step`] does one bounded piece of work at a time: it looks at a few bytes of a [`Window`] and moves on. It can
//! stop and go on at any byte, so how the application cut its calls cannot change what is counted. Where enough
//! bytes are at hand it takes eight at once; the byte-wise paths beside it are what happens at a window's end.

mod body;
mod headers;
pub(super) mod message;
mod proxy;
mod request;
mod status;

use super::{
    connection::Connection,
    direction::{RECEIVED, SENT},
    event::Event,
    window::{Bytes, Window},
};
use headers::head_end;
use message::{Stream, flag, stage};
use proxy::proxy_v2;
use request::{empty_line, is_token, method, target};
use status::status;

/// An end of a line, as the lowest bytes of a word.
const CRLF: u16 = u16::from_le_bytes(*b"\r\n");

/// Eight bytes as they are in memory.
pub(super) const fn word(text: [u8; 8]) -> u64 {
    u64::from_le_bytes(text)
}

/// What a header line that matters begins with: the names that are looked for, or the end of the head.
const INTERESTING: Bytes = Bytes::with(b"ct\r\n");

impl Stream {
    /// Leaves the stages before a line for the one that takes it, so that the same step goes on there.
    #[inline(always)]
    fn begin<const DIRECTION: bool>(&mut self, byte: u8) {
        if self.stage() == stage::LINE {
            // Most lines are of no interest: this step goes on with their rest.
            let name = byte | 0x20;
            self.progress = 0;
            self.stage = if byte == b'\r' || byte == b'\n' {
                stage::HEAD_END
            } else if name == b'c' && self.flags & flag::TRAILER == 0 {
                stage::LENGTH_NAME
            } else if name == b't' && self.flags & flag::TRAILER == 0 {
                stage::ENCODING_NAME
            } else {
                stage::LINE_REST
            };
        } else if self.stage() == stage::START && (DIRECTION == SENT || is_token(byte)) {
            self.enter(if DIRECTION == SENT {
                stage::STATUS
            } else {
                stage::METHOD
            });
        }
    }
}

/// Looks at the bytes ahead in `window`, of which there must be at least one, and moves on.
#[inline(always)]
pub(super) fn step<const DIRECTION: bool>(connection: &mut Connection, window: &mut Window) -> Event {
    // Both are dealt with once, here, not wherever they are found: the verifier pays for every copy of the code.
    match look::<DIRECTION>(connection, window) {
        Event::MISMATCH => connection.mismatch::<DIRECTION>(),
        Event::HEAD_END => head_end::<DIRECTION>(connection),
        event => event,
    }
}

#[inline(always)]
fn look<const DIRECTION: bool>(connection: &mut Connection, window: &mut Window) -> Event {
    let stream = connection.stream::<DIRECTION>();
    let ahead = window.peek();
    let byte = ahead as u8;
    stream.begin::<DIRECTION>(byte);
    if DIRECTION == RECEIVED {
        stream.skip_get(ahead, window);
    }
    match stream.stage() {
        stage::START if DIRECTION == RECEIVED => empty_line(connection, window, byte),
        stage::METHOD if DIRECTION == RECEIVED => method(connection, window, ahead),
        stage::PROXY_V2 if DIRECTION == RECEIVED => proxy_v2(connection, window, byte),
        stage::STATUS if DIRECTION == SENT => status(connection, window, ahead),
        stage::TARGET | stage::LINE_REST | stage::CHUNK_EXTENSION => {
            let before = if stream.stage() == stage::LINE_REST {
                INTERESTING
            } else {
                Bytes::ALL
            };
            let found = window.find_line_feed(before);
            if DIRECTION == RECEIVED && stream.stage() == stage::TARGET {
                return target(connection, window, found);
            }
            if found {
                window.advance(1);
                if stream.stage() == stage::LINE_REST {
                    stream.stage = stage::LINE;
                } else {
                    stream.begin_chunk();
                }
            }
            Event::NONE
        }
        stage::HEAD_END => {
            if stream.progress == 0 && ahead as u16 == CRLF && window.left() > 1 {
                window.advance(2);
                return Event::HEAD_END;
            }
            window.advance(1);
            if byte == b'\n' {
                return Event::HEAD_END;
            }
            if byte != b'\r' || stream.progress > 0 {
                stream.stage = stage::LINE_REST;
            }
            stream.progress = 1;
            Event::NONE
        }
        stage::LENGTH_NAME..=stage::ENCODING_NAME => {
            let name = stream.stage().wrapping_sub(stage::LENGTH_NAME);
            if stream.match_name(name as usize, ahead, window) {
                // The stages of the values are in the same order.
                stream.stage = stage::LENGTH.wrapping_add(name);
                stream.progress = 0;
                stream.set_value(0);
            }
            Event::NONE
        }
        stage::LENGTH => {
            if !stream.length_value(ahead, window) {
                window.advance(1);
                stream.length_byte(byte);
            }
            Event::NONE
        }
        stage::ENCODING => {
            window.advance(1);
            stream.encoding_byte(byte);
            Event::NONE
        }
        stage::CHUNK_SIZE => {
            if stream.chunk_line(ahead, window) {
                return Event::NONE;
            }
            if !stream.chunk_size_byte(byte) {
                return Event::MISMATCH;
            }
            // The extension stage finds the line feed itself.
            if stream.stage == stage::CHUNK_SIZE {
                window.advance(1);
            }
            Event::NONE
        }
        stage::CHUNK_END => {
            let is_whole = ahead as u16 == CRLF && window.left() > 1;
            if is_whole || byte == b'\n' {
                stream.enter(stage::CHUNK_SIZE);
            } else if byte != b'\r' {
                return Event::MISMATCH;
            }
            window.advance(1 + u32::from(is_whole));
            Event::NONE
        }
        _ => {
            let left = u64::from(window.left());
            let skippable = stream.skippable();
            let count = if skippable < left { skippable } else { left };
            stream.skip(count);
            window.advance(count as u32);
            Event::NONE
        }
    }
}
