//! One direction of one connection: where in which message its next byte stands.
//!
//! [`step`] does one bounded piece of work at a time: it looks at a few bytes of a [`Window`] and moves on. It can
//! stop and go on at any byte, so how the application cut its calls cannot change what is counted. Where enough
//! bytes are at hand it takes eight at once; the byte-wise paths beside it are what happens at a window's end.

use crate::abi::{CODE_MAX, CODE_MIN};

use super::{
    connection::{Connection, Method, Role},
    event::Event,
    window::{Bytes, HIGH_BITS, Window, lowest_byte},
};

/// Which way bytes go, as the process that makes the call sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Bytes the process received: requests, if it is a server.
    Received,
    /// Bytes the process sent: responses, if it is a server.
    Sent,
}

/// [`Direction::Received`] as a constant argument: every program handles one direction only, and what it never
/// handles should not cost it instructions.
pub(super) const RECEIVED: bool = true;
/// [`Direction::Sent`] as a constant argument.
pub(super) const SENT: bool = false;

/// Longest method token that is taken for one. The longest registered one, `UPDATEREDIRECTREF`, has 17 bytes.
const METHOD_MAX: u16 = 32;

/// Bytes between the version in a request line and the line feed, at most: what the window's lookback has room for.
const LINE_END_MAX: usize = 6;

/// Longest request line in bytes: twice what the most generous common server takes.
const REQUEST_LINE_MAX: u32 = 0xffff;

/// Where in a message a stream is. Kept as `u8` constants, because the value lives in a map where any bit pattern
/// has to be harmless.
pub(super) mod stage {
    /// Before the first byte of a message; empty lines are skipped (RFC 9112 section 2.2).
    pub(in super::super) const START: u8 = 0;
    /// In a request's method token.
    pub(in super::super) const METHOD: u8 = 1;
    /// In the rest of a request line.
    pub(in super::super) const TARGET: u8 = 2;
    /// In a status line, up to the byte after the status code.
    pub(in super::super) const STATUS: u8 = 3;
    /// At the first byte of a header line, of a trailer line or of the empty line that ends them.
    pub(in super::super) const LINE: u8 = 4;
    /// In a line of no interest.
    pub(in super::super) const LINE_REST: u8 = 5;
    /// In the empty line that ends a head.
    pub(in super::super) const HEAD_END: u8 = 6;
    /// In what may be the name `Content-Length`.
    pub(in super::super) const LENGTH_NAME: u8 = 7;
    /// In what may be the name `Transfer-Encoding`.
    pub(in super::super) const ENCODING_NAME: u8 = 8;
    /// In the value of `Content-Length`.
    pub(in super::super) const LENGTH: u8 = 9;
    /// In the value of `Transfer-Encoding`.
    pub(in super::super) const ENCODING: u8 = 10;
    /// In a chunk's size.
    pub(in super::super) const CHUNK_SIZE: u8 = 11;
    /// In a chunk's extensions, or at the end of its first line.
    pub(in super::super) const CHUNK_EXTENSION: u8 = 12;
    /// At the end of a chunk's data.
    pub(in super::super) const CHUNK_END: u8 = 13;
    /// In the fixed part of a PROXY protocol v2 header.
    pub(in super::super) const PROXY_V2: u8 = 14;
    /// From here on nothing needs to be looked at; this first one: a body of known length.
    pub(in super::super) const BODY: u8 = 15;
    /// In the data of a chunk.
    pub(in super::super) const CHUNK_DATA: u8 = 16;
    /// In a response body that ends with the connection.
    pub(in super::super) const UNTIL_CLOSE: u8 = 17;
    /// After `101 Switching Protocols` or a successful `CONNECT`: no HTTP any more.
    pub(in super::super) const TUNNEL: u8 = 18;
    /// Somewhere unknown: waits for a call that begins with a message.
    pub(in super::super) const LOST: u8 = 19;
    /// Not HTTP, or not a server's side of it; final.
    pub(in super::super) const REJECTED: u8 = 20;
}

/// What the head read so far said about the body (`Stream::flags`).
mod flag {
    /// A valid `Content-Length` was seen.
    pub(super) const LENGTH: u8 = 1;
    /// A `Transfer-Encoding` was seen.
    pub(super) const ENCODING: u8 = 2;
    /// Its last coding is `chunked`.
    pub(super) const CHUNKED: u8 = 4;
    /// The length is not a number, or there are two different ones.
    pub(super) const INVALID: u8 = 8;
    /// The response has no body whatever its header says (RFC 9112 section 6.3, rules 1 and 2), or is interim.
    pub(super) const NO_BODY: u8 = 16;
    /// The connection becomes a tunnel after this response.
    pub(super) const TUNNEL: u8 = 32;
    /// The lines are trailers: they say nothing about a body.
    pub(super) const TRAILER: u8 = 64;
    /// The first line may be a PROXY protocol v1 header.
    pub(super) const PROXY: u8 = 128;
    /// Bits 0-1 while in a request line: the [`super::Method`].
    pub(super) const METHOD: u8 = 3;
}

/// The state of one direction: 24 bytes that the eBPF programs keep for every connection, twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Stream {
    /// One of [`stage`].
    pub(super) stage: u8,
    /// [`flag`]s.
    flags: u8,
    /// How far into a token of fixed or limited length.
    progress: u16,
    /// TCP sequence number of the byte after the last one seen; 0 where there are none.
    pub(super) position: u32,
    /// The number that matters most: body or chunk bytes left, status code so far; in a request line, the eight
    /// bytes before `b`'s.
    a: u64,
    /// The value in the making; in a request line, the last eight bytes before the window.
    b: u64,
}

/// An end of a line, as the lowest bytes of a word.
const CRLF: u16 = u16::from_le_bytes(*b"\r\n");

const fn word(text: [u8; 8]) -> u64 {
    u64::from_le_bytes(text)
}

/// A header name with its colon, in lower case and in words.
struct Name {
    words: [u64; 4],
    masks: [u64; 4],
    /// What makes letters lower case, and leaves alone what else is in the name.
    cases: [u64; 4],
    len: u64,
}

impl Name {
    /// A name in words, filled up with zeros.
    const fn new(text: [[u8; 8]; 3], len: u64) -> Self {
        /// The difference between upper and lower case.
        const CASE: u8 = 0x20;
        let mut name = Self {
            words: [0; 4],
            masks: [0; 4],
            cases: [0; 4],
            len,
        };
        let mut index = 0;
        while index < text.len() {
            let (mut mask, mut case) = ([0; 8], [0; 8]);
            let mut at = 0;
            while at < 8 {
                let byte = text[index][at];
                mask[at] = if byte == 0 { 0 } else { u8::MAX };
                case[at] = if byte.is_ascii_lowercase() { CASE } else { 0 };
                at += 1;
            }
            name.words[index] = word(text[index]);
            name.masks[index] = word(mask);
            name.cases[index] = word(case);
            index += 1;
        }
        name
    }
}

/// The names that are looked for, in the order of [`stage::LENGTH_NAME`] and [`stage::ENCODING_NAME`].
static NAMES: [Name; 2] = [
    Name::new([*b"content-", *b"length:\0", [0; 8]], 15),
    Name::new([*b"transfer", *b"-encodin", *b"g:\0\0\0\0\0\0"], 18),
];

/// What a header line that matters begins with: the names above, or the end of the head.
const INTERESTING: Bytes = Bytes::with(b"ct\r\n");

/// RFC 9110 section 5.6.2: the characters of a token, as one bit per ASCII code.
const fn is_token(byte: u8) -> bool {
    const LOW: u64 = 0x03ff_6cfa_0000_0000;
    const HIGH: u64 = 0x57ff_ffff_c7ff_fffe;
    let set = if byte < 64 { LOW } else { HIGH };
    byte < 128 && (set >> (byte & 63)) & 1 == 1
}

impl Stream {
    /// Where the stream is, read anew. Volatile: a value that stays in a register makes the verifier follow each of
    /// the stages it may be on its own, past the place where their ways have met again.
    #[inline(always)]
    fn stage(&self) -> u8 {
        // SAFETY: references are valid and aligned.
        unsafe { (&raw const self.stage).read_volatile() }
    }

    /// Bytes that need not be looked at: what is left of a body, or everything.
    #[inline(always)]
    #[must_use]
    pub(super) fn skippable(&self) -> u64 {
        match self.stage() {
            stage::BODY | stage::CHUNK_DATA => self.a,
            stage::UNTIL_CLOSE.. => u64::MAX,
            _ => 0,
        }
    }

    /// Moves over `count` bytes, at most [`Self::skippable`].
    #[inline(always)]
    pub(super) fn skip(&mut self, count: u64) {
        if self.stage == stage::BODY || self.stage == stage::CHUNK_DATA {
            self.a = self.a.wrapping_sub(count);
            if self.a == 0 {
                self.enter(if self.stage == stage::BODY {
                    stage::START
                } else {
                    stage::CHUNK_END
                });
            }
        }
    }

    /// Goes to `stage` and forgets what belonged to the one before.
    #[inline(always)]
    pub(super) fn enter(&mut self, stage: u8) {
        self.stage = stage;
        self.flags = 0;
        self.progress = 0;
        // Volatile, because for the eBPF target the compiler would make this a call of `memset`, byte by byte, and
        // the verifier would walk through every byte of it in every step.
        // SAFETY: references are valid and aligned.
        unsafe {
            (&raw mut self.a).write_volatile(0);
            (&raw mut self.b).write_volatile(0);
        }
    }

    /// Puts the end of the previous window in front of this one, where a request line goes on.
    #[inline(always)]
    pub(super) fn restore_lookback(&self, window: &mut Window) {
        window.set_lookback((self.a, self.b));
    }

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

    /// Leaves the method of most requests behind, so that the same step goes on with the target.
    #[inline(always)]
    fn skip_get(&mut self, ahead: u64, window: &mut Window) {
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

    /// Moves through the name of a header line while it matches; true when its colon has been passed.
    #[inline(always)]
    fn match_name(&mut self, name: usize, ahead: u64, window: &mut Window) -> bool {
        let name = &NAMES[name & 1];
        let progress = self.progress;
        let index = (progress >> 3) as usize & 3;
        let difference = ((ahead | name.cases[index]) ^ name.words[index]) & name.masks[index];
        let left = (name.len as u16).wrapping_sub(progress);
        let (matches, taken) = if progress.is_multiple_of(8) && window.left() >= 8 {
            (difference == 0, if left < 8 { left } else { 8 })
        } else {
            let shift = (progress & 7) * 8;
            let difference = (ahead | (name.cases[index] >> shift)) ^ (name.words[index] >> shift);
            (difference as u8 == 0, 1)
        };
        if !matches {
            self.stage = stage::LINE_REST;
            return false;
        }
        window.advance(u32::from(taken));
        self.progress = progress.wrapping_add(taken);
        taken == left
    }

    /// Takes a whole `Content-Length` value with the end of its line, if it is at hand and of the usual form: a blank and one
    /// to six digits.
    #[inline(always)]
    fn length_value(&mut self, ahead: u64, window: &mut Window) -> bool {
        let word = (ahead >> 8) | (window.peek_next() << 56);
        let values = word ^ 0x3030_3030_3030_3030;
        let others = (((values & !HIGH_BITS) + 0x7676_7676_7676_7676) | values) & HIGH_BITS;
        let digits = lowest_byte(others) as u32 & 7;
        let is_usual = ahead as u8 == b' '
            && self.progress == 0
            && matches!(digits, 1..=6)
            && (word >> (digits * 8)) as u16 == CRLF
            && window.left() >= digits + 3;
        if !is_usual {
            return false;
        }
        window.advance(digits + 3);
        // As eight digits: neighbours are put together, then pairs of them, then both halves.
        let mut value = values << (64 - digits * 8);
        value = (value & 0x0f0f_0f0f_0f0f_0f0f).wrapping_mul(2561) >> 8;
        value = (value & 0x00ff_00ff_00ff_00ff).wrapping_mul(6_553_601) >> 16;
        self.b = (value & 0x0000_ffff_0000_ffff).wrapping_mul(42_949_672_960_001) >> 32;
        self.progress = 1;
        self.length_byte(b'\n');
        true
    }

    /// Takes one byte of a `Content-Length` value (RFC 9110 section 8.6). `progress`: 0 before the digits, 1 in
    /// them, 2 behind them. A list of equal numbers is one number.
    #[inline(always)]
    fn length_byte(&mut self, byte: u8) {
        match byte {
            b'0'..=b'9' => {
                // More than this no body has; and it keeps the multiplication from overflowing.
                if self.progress == 2 || self.b >> 56 != 0 {
                    self.flags |= flag::INVALID;
                }
                self.b = self.b.wrapping_mul(10).wrapping_add(u64::from(byte - b'0'));
                self.progress = 1;
            }
            b'\n' | b',' => {
                if self.progress == 0 || (self.flags & flag::LENGTH != 0 && self.a != self.b) {
                    self.flags |= flag::INVALID;
                }
                self.flags |= flag::LENGTH;
                self.a = self.b;
                self.b = 0;
                self.progress = 0;
                if byte == b'\n' {
                    self.stage = stage::LINE;
                }
            }
            b' ' | b'\t' | b'\r' => {
                if self.progress == 1 {
                    self.progress = 2;
                }
            }
            _ => self.flags |= flag::INVALID,
        }
    }

    /// Takes one byte of a `Transfer-Encoding` value: only the last coding matters (RFC 9112 section 6.3, rule 4).
    #[inline(always)]
    fn encoding_byte(&mut self, byte: u8) {
        match byte {
            b'\n' => {
                const CHUNKED: u64 = u64::from_be_bytes(*b"\0chunked");
                self.flags |= flag::ENCODING;
                if self.b == CHUNKED {
                    self.flags |= flag::CHUNKED;
                } else {
                    self.flags &= !flag::CHUNKED;
                }
                self.b = 0;
                self.stage = stage::LINE;
            }
            b',' => self.b = 0,
            b' ' | b'\t' | b'\r' => {}
            _ => self.b = (self.b << 8) | u64::from(byte | 0x20),
        }
    }

    /// Takes the whole first line of a chunk, if it is at hand and has one to six digits and nothing else.
    #[inline(always)]
    fn chunk_line(&mut self, ahead: u64, window: &mut Window) -> bool {
        const fn every(byte: u8) -> u64 {
            0x0101_0101_0101_0101 * byte as u64
        }
        // Bit 7 of what is at least as large as the byte that makes 0x80 of it.
        let (bytes, letters) = (ahead & !HIGH_BITS, (ahead & !HIGH_BITS) | every(0x20));
        let are_digits = (bytes + every(0x80 - b'0')) & !(bytes + every(0x7f - b'9'));
        let are_letters = (letters + every(0x80 - b'a')) & !(letters + every(0x7f - b'f')) & HIGH_BITS;
        let others = (!(are_digits | are_letters) | ahead) & HIGH_BITS;
        let digits = lowest_byte(others) as u32 & 7;
        let is_usual = self.progress == 0
            && matches!(digits, 1..=6)
            && (ahead >> (digits * 8)) as u16 == CRLF
            && window.left() >= digits + 2;
        if !is_usual {
            return false;
        }
        window.advance(digits + 2);
        let mut value = (ahead & every(0x0f)) + (are_letters >> 7) * 9;
        value <<= 64 - digits * 8;
        value = ((value << 4) | (value >> 8)) & 0x00ff_00ff_00ff_00ff;
        value = ((value << 8) | (value >> 16)) & 0x0000_ffff_0000_ffff;
        self.a = ((value << 16) | (value >> 32)) & 0xffff_ffff;
        self.begin_chunk();
        true
    }

    /// Takes one byte of a chunk's size (RFC 9112 section 7.1); false if it cannot be one.
    #[inline(always)]
    fn chunk_size_byte(&mut self, byte: u8) -> bool {
        let lower = byte | 0x20;
        let digit = if byte.is_ascii_digit() {
            byte - b'0'
        } else if matches!(lower, b'a'..=b'f') {
            lower - b'a' + 10
        } else {
            self.stage = stage::CHUNK_EXTENSION;
            return self.progress > 0 && matches!(byte, b';' | b' ' | b'\t' | b'\r' | b'\n');
        };
        self.progress = 1;
        self.a = (self.a << 4) | u64::from(digit);
        self.a >> 56 == 0
    }

    /// The first line of a chunk has ended.
    #[inline(always)]
    fn begin_chunk(&mut self) {
        if self.a == 0 {
            self.enter(stage::LINE);
            self.flags = flag::TRAILER;
        } else {
            self.stage = stage::CHUNK_DATA;
        }
    }
}

/// Does one piece of work on the bytes ahead in `window`, of which there must be at least one.
///
/// Not inlined: the eBPF verifier then forgets, from one step to the next, what it knew about the state, and so
/// walks through this code once per step instead of once per step and history.
#[inline(never)]
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
                stream.b = 0;
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

/// What comes before a request instead of a method: an empty line, or a PROXY protocol header.
#[inline(always)]
fn empty_line(connection: &mut Connection, window: &mut Window, byte: u8) -> Event {
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

#[inline(always)]
fn method(connection: &mut Connection, window: &mut Window, ahead: u64) -> Event {
    let byte = ahead as u8;
    let stream = &mut connection.received;
    if is_token(byte) && stream.progress < METHOD_MAX {
        stream.a = (stream.a << 8) | u64::from(byte);
        stream.progress += 1;
        window.advance(1);
        return Event::NONE;
    }
    if byte != b' ' {
        return Event::MISMATCH;
    }
    let (name, len) = (stream.a, stream.progress);
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

#[inline(always)]
fn target(connection: &mut Connection, window: &mut Window, ended: bool) -> Event {
    const VERSION: u64 = word(*b"HTTP/1.\0");
    if !ended {
        if window.left() == 0 {
            let stream = &mut connection.received;
            (stream.a, stream.b) = window.lookback();
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

/// PROXY protocol v2: 12 bytes of signature, of which four were taken for empty lines; version and command;
/// address family; two bytes of length, most significant first.
#[inline(always)]
fn proxy_v2(connection: &mut Connection, window: &mut Window, byte: u8) -> Event {
    const SIGNATURE: u64 = word(*b"\0\r\nQUIT\n");
    let stream = &mut connection.received;
    let at = stream.progress;
    window.advance(1);
    stream.progress = at.wrapping_add(1);
    match at {
        4..=11 if (SIGNATURE >> ((at - 4) * 8)) as u8 == byte => {}
        12 if byte >> 4 == 2 => {}
        13 => {}
        14 => stream.a = u64::from(byte) << 8,
        15 => {
            let len = stream.a | u64::from(byte);
            stream.enter(if len == 0 { stage::START } else { stage::BODY });
            stream.a = len;
        }
        _ => return Event::MISMATCH,
    }
    Event::NONE
}

/// True if the lowest three bytes are digits.
#[inline(always)]
const fn are_three_digits(bytes: u64) -> bool {
    let bytes = bytes & 0xff_ffff;
    // Bit 7 of a byte is set in the sum above `9`, and in the difference below `0`, where the lowest such byte is exact.
    ((bytes + 0x46_4646) | bytes.wrapping_sub(0x30_3030) | bytes) & 0x80_8080 == 0
}

/// A status line up to its code: `HTTP/1.1 200`, then a space or the end of the line (RFC 9112 section 4; the space
/// is missing in practice where there is no reason phrase).
#[inline(always)]
fn status(connection: &mut Connection, window: &mut Window, ahead: u64) -> Event {
    const VERSION: u64 = word(*b"HTTP/1.\0");
    let mut byte = ahead as u8;
    let stream = &mut connection.sent;
    let mut at = stream.progress;
    // Most responses, in one step.
    if at == 0 && window.left() > 12 {
        let next = window.peek_next();
        let code = next >> 8;
        if ahead & (u64::MAX >> 8) != VERSION
            || !((ahead >> 56) as u8).is_ascii_digit()
            || next as u8 != b' '
            || !are_three_digits(code)
        {
            return Event::MISMATCH;
        }
        stream.a = (code & 15) * 100 + (code >> 8 & 15) * 10 + (code >> 16 & 15);
        window.advance(12);
        byte = (next >> 32) as u8;
        at = 12;
    }
    let fits = match at {
        0..=6 => (VERSION >> (at * 8)) as u8 == byte,
        8 => byte == b' ',
        12 => matches!(byte, b' ' | b'\r' | b'\n'),
        _ => byte.is_ascii_digit(),
    };
    if !fits {
        return Event::MISMATCH;
    }
    if at < 12 {
        if at > 8 {
            stream.a = stream.a * 10 + u64::from(byte & 15);
        }
        stream.progress = at.wrapping_add(1);
        window.advance(1);
        return Event::NONE;
    }
    let code = stream.a as u16;
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
    let mut event = Event::response(code).with(connection.answered(code));
    let method = connection.take_method();
    connection.sent.flags = if code == 101 || (method == Method::CONNECT && code < 300) {
        event = event.with(connection.tunnelled());
        flag::TUNNEL
    } else if method == Method::HEAD || code == 204 || code == 304 {
        flag::NO_BODY
    } else {
        0
    };
    connection.role = Role::SERVER;
    event
}

/// The empty line after a head, or after trailers: what follows? (RFC 9112 section 6.3)
#[inline(always)]
fn head_end<const DIRECTION: bool>(connection: &mut Connection) -> Event {
    let stream = connection.stream::<DIRECTION>();
    let (flags, length) = (stream.flags, stream.a);
    if DIRECTION == SENT && flags & flag::TUNNEL != 0 {
        connection.sent.enter(stage::TUNNEL);
        connection.received.enter(stage::TUNNEL);
        return Event::NONE;
    }
    let next = if flags & (flag::TRAILER | flag::NO_BODY) != 0 {
        stage::START
    } else if flags & flag::CHUNKED != 0 {
        stage::CHUNK_SIZE
    } else if flags & flag::ENCODING != 0 {
        // A request like this is refused, and the connection closed.
        if DIRECTION == SENT {
            stage::UNTIL_CLOSE
        } else {
            stage::LOST
        }
    } else if flags & flag::INVALID != 0 {
        stage::LOST
    } else if flags & flag::LENGTH != 0 {
        if length == 0 { stage::START } else { stage::BODY }
    } else if DIRECTION == SENT {
        stage::UNTIL_CLOSE
    } else {
        stage::START
    };
    stream.enter(next);
    if next == stage::BODY {
        stream.a = length;
    }
    Event::NONE
}
