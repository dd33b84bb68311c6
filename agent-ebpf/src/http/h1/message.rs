//! One direction of a connection: where in which message its next byte stands.
//!
//! `first` and `second` mean what the stage says; each meaning has accessors of its own:
//!
//! | stage | `first` | `second` | `progress` |
//! |---|---|---|---|
//! | `START` | | | line ends before the message |
//! | `METHOD` | [`token`](Stream::token): its last bytes | | its length |
//! | `TARGET` | [`lookback`](Stream::set_lookback): the eight bytes before those | the last eight before the window | bytes of the line so far |
//! | `STATUS` | [`code`](Stream::code) so far | | bytes of the line so far |
//! | `LINE`, `LINE_REST`, `HEAD_END` | [`length`](Stream::length) of the body, if a line told it | | |
//! | `LENGTH_NAME`, `ENCODING_NAME` | the same | | bytes of the name so far |
//! | `LENGTH` | the same | [`value`](Stream::value): digits so far | 0 before them, 1 in them, 2 behind them |
//! | `ENCODING` | the same | [`value`](Stream::value): the coding's last bytes | |
//! | `CHUNK_SIZE` | [`length`](Stream::length) of the chunk so far | | 1 after a digit |
//! | `CHUNK_EXTENSION` | the chunk's length | | |
//! | `PROXY_V2` | [`length`](Stream::length) of what follows so far | | bytes of the header so far |
//! | `BODY`, `CHUNK_DATA` | [`length`](Stream::length): bytes left | | |
//!
//! In `CHUNK_END` and from `UNTIL_CLOSE` on there is nothing more to know.

use crate::http::window::Window;

/// Where in a message a stream is. Kept as `u8` constants, because the value lives in a map where any bit pattern
/// has to be harmless.
pub(in crate::http) mod stage {
    /// Before the first byte of a message; empty lines are skipped (RFC 9112 section 2.2).
    pub(in crate::http) const START: u8 = 0;
    /// In a request's method token.
    pub(in crate::http) const METHOD: u8 = 1;
    /// In the rest of a request line.
    pub(in crate::http) const TARGET: u8 = 2;
    /// In a status line, up to the byte after the status code.
    pub(in crate::http) const STATUS: u8 = 3;
    /// At the first byte of a header line, of a trailer line or of the empty line that ends them.
    pub(in crate::http) const LINE: u8 = 4;
    /// In a line of no interest.
    pub(in crate::http) const LINE_REST: u8 = 5;
    /// In the empty line that ends a head.
    pub(in crate::http) const HEAD_END: u8 = 6;
    /// In what may be the name `Content-Length`.
    pub(in crate::http) const LENGTH_NAME: u8 = 7;
    /// In what may be the name `Transfer-Encoding`.
    pub(in crate::http) const ENCODING_NAME: u8 = 8;
    /// In the value of `Content-Length`.
    pub(in crate::http) const LENGTH: u8 = 9;
    /// In the value of `Transfer-Encoding`.
    pub(in crate::http) const ENCODING: u8 = 10;
    /// In a chunk's size.
    pub(in crate::http) const CHUNK_SIZE: u8 = 11;
    /// In a chunk's extensions, or at the end of its first line.
    pub(in crate::http) const CHUNK_EXTENSION: u8 = 12;
    /// At the end of a chunk's data.
    pub(in crate::http) const CHUNK_END: u8 = 13;
    /// In the fixed part of a PROXY protocol v2 header.
    pub(in crate::http) const PROXY_V2: u8 = 14;
    /// From here on nothing needs to be looked at; this first one: a body of known length.
    pub(in crate::http) const BODY: u8 = 15;
    /// In the data of a chunk.
    pub(in crate::http) const CHUNK_DATA: u8 = 16;
    /// In a response body that ends with the connection.
    pub(in crate::http) const UNTIL_CLOSE: u8 = 17;
    /// After `101 Switching Protocols` or a successful `CONNECT`: no HTTP any more.
    pub(in crate::http) const TUNNEL: u8 = 18;
    /// Somewhere unknown: waits for a call that begins with a message.
    pub(in crate::http) const LOST: u8 = 19;
    /// Not HTTP, or not a server's side of it; final.
    pub(in crate::http) const REJECTED: u8 = 20;
}

/// What the head read so far said about the body (`Stream::flags`).
pub(in crate::http) mod flag {
    /// A valid `Content-Length` was seen.
    pub(in crate::http) const LENGTH: u8 = 1;
    /// A `Transfer-Encoding` was seen.
    pub(in crate::http) const ENCODING: u8 = 2;
    /// Its last coding is `chunked`.
    pub(in crate::http) const CHUNKED: u8 = 4;
    /// The length is not a number, or there are two different ones.
    pub(in crate::http) const INVALID: u8 = 8;
    /// The response has no body whatever its header says (RFC 9112 section 6.3, rules 1 and 2), or is interim.
    pub(in crate::http) const NO_BODY: u8 = 16;
    /// The connection becomes a tunnel after this response.
    pub(in crate::http) const TUNNEL: u8 = 32;
    /// The lines are trailers: they say nothing about a body.
    pub(in crate::http) const TRAILER: u8 = 64;
    /// The first line may be a PROXY protocol v1 header.
    pub(in crate::http) const PROXY: u8 = 128;
    /// Bits 0-1 while in a request line: the [`Method`](crate::http::exchange::Method).
    pub(in crate::http) const METHOD: u8 = 3;
}

/// The state of one direction: 24 bytes that the eBPF programs keep for every connection, twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(in crate::http) struct Stream {
    /// One of [`stage`].
    pub(in crate::http) stage: u8,
    /// [`flag`]s.
    pub(in crate::http) flags: u8,
    /// How far into a token of fixed or limited length.
    pub(in crate::http) progress: u16,
    /// TCP sequence number of the byte after the last one seen; 0 where there are none.
    pub(in crate::http) position: u32,
    /// The number that matters most.
    first: u64,
    /// The value in the making.
    second: u64,
}

impl Stream {
    /// Where the stream is, read anew. Volatile: a value that stays in a register makes the verifier follow each of
    /// the stages it may be on its own, past the place where their ways have met again.
    #[inline(always)]
    pub(in crate::http) fn stage(&self) -> u8 {
        // SAFETY: references are valid and aligned.
        unsafe { (&raw const self.stage).read_volatile() }
    }

    /// Goes to `stage` and forgets what belonged to the one before.
    #[inline(always)]
    pub(in crate::http) fn enter(&mut self, stage: u8) {
        self.stage = stage;
        self.flags = 0;
        self.progress = 0;
        // Volatile, because for the eBPF target the compiler would make this a call of `memset`, byte by byte, and
        // the verifier would walk through every byte of it in every step.
        // SAFETY: references are valid and aligned.
        unsafe {
            (&raw mut self.first).write_volatile(0);
            (&raw mut self.second).write_volatile(0);
        }
    }

    /// Bytes of a body or a chunk, or of what a PROXY protocol header announces: those that are left.
    #[inline(always)]
    pub(in crate::http) fn length(&self) -> u64 {
        self.first
    }

    #[inline(always)]
    pub(in crate::http) fn set_length(&mut self, length: u64) {
        self.first = length;
    }

    /// The last bytes of a method token, the last one lowest.
    #[inline(always)]
    pub(in crate::http) fn token(&self) -> u64 {
        self.first
    }

    #[inline(always)]
    pub(in crate::http) fn push_token(&mut self, byte: u8) {
        self.first = (self.first << 8) | u64::from(byte);
    }

    /// A status code, as far as it was read.
    #[inline(always)]
    pub(in crate::http) fn code(&self) -> u64 {
        self.first
    }

    #[inline(always)]
    pub(in crate::http) fn set_code(&mut self, code: u64) {
        self.first = code;
    }

    /// A header's value, as far as it was read.
    #[inline(always)]
    pub(in crate::http) fn value(&self) -> u64 {
        self.second
    }

    #[inline(always)]
    pub(in crate::http) fn set_value(&mut self, value: u64) {
        self.second = value;
    }

    /// Keeps the end of a window in which a request line has not ended.
    #[inline(always)]
    pub(in crate::http) fn set_lookback(&mut self, lookback: (u64, u64)) {
        (self.first, self.second) = lookback;
    }

    /// Puts the end of the previous window in front of this one, where a request line goes on.
    #[inline(always)]
    pub(in crate::http) fn restore_lookback(&self, window: &mut Window) {
        window.set_lookback((self.first, self.second));
    }
}
