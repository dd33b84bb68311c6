//! Bodies: how much of one is left, and chunks (RFC 9112 section 7.1).

use super::{
    CRLF,
    message::{Stream, flag, stage},
};
use crate::http::window::{HIGH_BITS, Window, lowest_byte};

impl Stream {
    /// Bytes that need not be looked at: what is left of a body, or everything.
    #[inline(always)]
    #[must_use]
    pub(in crate::http) fn skippable(&self) -> u64 {
        match self.stage() {
            stage::BODY | stage::CHUNK_DATA => self.length(),
            stage::UNTIL_CLOSE.. => u64::MAX,
            _ => 0,
        }
    }

    /// Moves over `count` bytes, at most [`Self::skippable`].
    #[inline(always)]
    pub(in crate::http) fn skip(&mut self, count: u64) {
        if self.stage == stage::BODY || self.stage == stage::CHUNK_DATA {
            self.set_length(self.length().wrapping_sub(count));
            if self.length() == 0 {
                self.enter(if self.stage == stage::BODY {
                    stage::START
                } else {
                    stage::CHUNK_END
                });
            }
        }
    }

    /// Takes the whole first line of a chunk, if it is at hand and has one to six digits and nothing else.
    #[inline(always)]
    pub(in crate::http) fn chunk_line(&mut self, ahead: u64, window: &mut Window) -> bool {
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
        self.set_length(((value << 16) | (value >> 32)) & 0xffff_ffff);
        self.begin_chunk();
        true
    }

    /// Takes one byte of a chunk's size (RFC 9112 section 7.1); false if it cannot be one.
    #[inline(always)]
    pub(in crate::http) fn chunk_size_byte(&mut self, byte: u8) -> bool {
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
        self.set_length((self.length() << 4) | u64::from(digit));
        self.length() >> 56 == 0
    }

    /// The first line of a chunk has ended.
    #[inline(always)]
    pub(in crate::http) fn begin_chunk(&mut self) {
        if self.length() == 0 {
            self.enter(stage::LINE);
            self.flags = flag::TRAILER;
        } else {
            self.stage = stage::CHUNK_DATA;
        }
    }
}
