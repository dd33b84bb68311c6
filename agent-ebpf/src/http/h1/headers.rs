//! Header and trailer lines: of two names the values, and what the end of a head means for the body (RFC 9112 section 6.3).

use super::{
    CRLF,
    message::{Stream, flag, stage},
    word,
};
use crate::http::{
    connection::Connection,
    direction::SENT,
    event::Event,
    window::{HIGH_BITS, Window, lowest_byte},
};

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

impl Stream {
    /// Moves through the name of a header line while it matches; true when its colon has been passed.
    #[inline(always)]
    pub(in crate::http) fn match_name(&mut self, name: usize, ahead: u64, window: &mut Window) -> bool {
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
    pub(in crate::http) fn length_value(&mut self, ahead: u64, window: &mut Window) -> bool {
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
        self.set_value((value & 0x0000_ffff_0000_ffff).wrapping_mul(42_949_672_960_001) >> 32);
        self.progress = 1;
        self.length_byte(b'\n');
        true
    }

    /// Takes one byte of a `Content-Length` value (RFC 9110 section 8.6). `progress`: 0 before the digits, 1 in
    /// them, 2 behind them. A list of equal numbers is one number.
    #[inline(always)]
    pub(in crate::http) fn length_byte(&mut self, byte: u8) {
        match byte {
            b'0'..=b'9' => {
                // More than this no body has; and it keeps the multiplication from overflowing.
                if self.progress == 2 || self.value() >> 56 != 0 {
                    self.flags |= flag::INVALID;
                }
                self.set_value(self.value().wrapping_mul(10).wrapping_add(u64::from(byte - b'0')));
                self.progress = 1;
            }
            b'\n' | b',' => {
                if self.progress == 0 || (self.flags & flag::LENGTH != 0 && self.length() != self.value()) {
                    self.flags |= flag::INVALID;
                }
                self.flags |= flag::LENGTH;
                self.set_length(self.value());
                self.set_value(0);
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
    pub(in crate::http) fn encoding_byte(&mut self, byte: u8) {
        match byte {
            b'\n' => {
                const CHUNKED: u64 = u64::from_be_bytes(*b"\0chunked");
                self.flags |= flag::ENCODING;
                if self.value() == CHUNKED {
                    self.flags |= flag::CHUNKED;
                } else {
                    self.flags &= !flag::CHUNKED;
                }
                self.set_value(0);
                self.stage = stage::LINE;
            }
            b',' => self.set_value(0),
            b' ' | b'\t' | b'\r' => {}
            _ => self.set_value((self.value() << 8) | u64::from(byte | 0x20)),
        }
    }
}

/// The empty line after a head, or after trailers: what follows? (RFC 9112 section 6.3)
#[inline(always)]
pub(in crate::http) fn head_end<const DIRECTION: bool>(connection: &mut Connection) -> Event {
    let stream = connection.stream::<DIRECTION>();
    let (flags, length) = (stream.flags, stream.length());
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
        stream.set_length(length);
    }
    Event::NONE
}
