//! A piece of a stream, copied to where it can be looked at.

use core::hint::black_box;

/// Words of a window: a power of two, so that a mask keeps every access inside without a comparison that the eBPF
/// verifier would have to follow both ways.
const WORDS: usize = 128;

/// Bytes of stream a window holds at most: what is left of the words behind the [`LOOKBACK`], less one word, so that
/// the last byte may be read as the first of two words. Most heads fit, so that most calls need one copy.
pub const WINDOW: usize = WORDS * 8 - LOOKBACK - 8;

/// Bytes kept from before the window, for the one question that looks back: did a line end in ` HTTP/1.1`?
const LOOKBACK: usize = 16;

/// A window on a stream: up to [`WINDOW`] bytes, the [`LOOKBACK`] bytes before them, and how far they have been
/// scanned.
///
/// The bytes are held as words because the eBPF target has no unaligned loads.
#[repr(C)]
pub struct Window {
    words: [u64; WORDS],
    /// Bytes of stream in the window.
    len: u32,
    /// Bytes of these that have been scanned; at most `len`.
    position: u32,
}

impl Window {
    /// An empty window.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            words: [0; WORDS],
            len: 0,
            position: 0,
        }
    }

    /// Forgets the bytes held.
    #[inline(always)]
    pub fn clear(&mut self) {
        self.len = 0;
        self.position = 0;
    }

    /// Bytes of stream in the window.
    #[inline(always)]
    pub(super) fn len(&self) -> u32 {
        self.len
    }

    /// Bytes not scanned yet.
    #[inline(always)]
    #[must_use]
    pub fn left(&self) -> u32 {
        self.len.wrapping_sub(self.position)
    }

    /// Where the stream's bytes go: the caller writes up to [`WINDOW`] of them and calls [`Self::filled`].
    #[inline(always)]
    pub fn destination(&mut self) -> *mut u8 {
        (&raw mut self.words).cast::<u8>().wrapping_add(LOOKBACK)
    }

    /// Says that `len` bytes of stream, at most [`WINDOW`], were written to [`Self::destination`].
    #[inline(always)]
    pub fn filled(&mut self, len: u32) {
        self.len = len;
        self.position = 0;
        // What follows a line feed that is the last byte is not known yet: every search stops there, whatever it looks for.
        let end = LOOKBACK + len as usize;
        let shift = (end as u32 & 7) * 8;
        let word = self.word(end / 8) & !(0xff << shift);
        self.words[(end / 8) & (WORDS - 1)] = (word | (u64::from(b'\n') << shift)).to_le();
    }

    /// Moves `count` bytes ahead; no more than are [`left`](Self::left).
    #[inline(always)]
    pub(super) fn advance(&mut self, count: u32) {
        self.position = self.position.wrapping_add(count);
    }

    /// The eight bytes from `position`, first byte lowest. Bytes past the end of the stream are anything.
    #[inline(always)]
    fn word_at(&self, offset: usize) -> u64 {
        let shift = (offset as u32 & 7) * 8;
        let low = self.word(offset / 8);
        let high = self.word(offset / 8 + 1);
        // Two shifts, because a shift by 64 is not defined.
        (low >> shift) | ((high << 1) << (63 - shift))
    }

    /// The word with that index; the mask only tells the verifier what the callers make sure of.
    #[inline(always)]
    fn word(&self, index: usize) -> u64 {
        u64::from_le(self.words[index & (WORDS - 1)])
    }

    /// The byte with that index.
    #[inline(always)]
    fn byte(&self, index: usize) -> u8 {
        (self.word(index / 8) >> ((index as u32 & 7) * 8)) as u8
    }

    /// The next eight bytes, first byte lowest. Where fewer are left, those past the end are anything.
    #[inline(always)]
    pub(super) fn peek(&self) -> u64 {
        self.word_at(LOOKBACK + self.position as usize)
    }

    /// The eight bytes after those of [`Self::peek`].
    #[inline(always)]
    pub(super) fn peek_next(&self) -> u64 {
        self.word_at(LOOKBACK + self.position as usize + 8)
    }

    /// The sixteen bytes before the next one, as two words, the later ones second.
    #[inline(always)]
    pub(super) fn lookback(&self) -> (u64, u64) {
        let position = self.position as usize;
        (self.word_at(position), self.word_at(position + 8))
    }

    /// Puts back what [`Self::lookback`] gave at the end of the previous window.
    #[inline(always)]
    pub(super) fn set_lookback(&mut self, lookback: (u64, u64)) {
        self.words[0] = lookback.0.to_le();
        self.words[1] = lookback.1.to_le();
    }

    /// Moves to the next line feed that a byte of `before` follows, or to the end of the window, if that is not far:
    /// looks no more than `PAIRS_PER_SEARCH` times at two words. True if a line feed is the next byte now.
    #[inline(always)]
    pub(super) fn find_line_feed(&mut self, before: Bytes) -> bool {
        const PAIRS_PER_SEARCH: usize = 8;
        let start = LOOKBACK + self.position as usize;
        let mut index = start / 8;
        // What has been looked at of the first word is made unlike a line feed before the search, because only the lowest
        // mark is exact.
        let mut scanned = !(u64::MAX << ((start as u32 & 7) * 8));
        let mut at = start;
        for _ in 0..PAIRS_PER_SEARCH {
            let first = bytes_equal_to(b'\n', self.word(index) | scanned);
            let second = bytes_equal_to(b'\n', self.word(index + 1));
            if first | second == 0 {
                index += 2;
                scanned = 0;
                at = index * 8;
                continue;
            }
            // Calculated, and out of the compiler's sight: the verifier would follow both ways of a choice.
            let is_second = black_box((first | first.wrapping_neg()) >> 63) ^ 1;
            at = index * 8 + (lowest_byte(first) + is_second * (8 + lowest_byte(second))) as usize;
            if before.may_contain(self.byte(at + 1)) {
                break;
            }
            at += 1;
            index = at / 8;
            scanned = !(u64::MAX << ((at as u32 & 7) * 8));
        }
        self.position = (at - LOOKBACK) as u32;
        // Read anew, and the byte asked anew: the verifier would follow every way out of the loop on its own.
        // SAFETY: references are valid and aligned.
        let position = unsafe { (&raw const self.position).read_volatile() };
        if position >= self.len {
            self.position = self.len;
            return false;
        }
        self.peek() as u8 == b'\n'
    }
}

/// A set of bytes, told apart by their lowest five bits only.
#[derive(Clone, Copy)]
pub(super) struct Bytes(u32);

impl Bytes {
    /// All of them.
    pub(super) const ALL: Self = Self(u32::MAX);

    /// A set with `bytes` and those that have the same lowest five bits, such as the other case of a letter.
    pub(super) const fn with(bytes: &[u8]) -> Self {
        let mut set = 0;
        let mut index = 0;
        while index < bytes.len() {
            set |= 1 << (bytes[index] & 31);
            index += 1;
        }
        Self(set)
    }

    #[inline(always)]
    const fn may_contain(self, byte: u8) -> bool {
        (self.0 >> (byte & 31)) & 1 == 1
    }
}

impl Default for Window {
    fn default() -> Self {
        Self::new()
    }
}

/// Bit 7 of every byte.
pub(super) const HIGH_BITS: u64 = 0x8080_8080_8080_8080;

/// Bit 7 of every byte of `word` that equals `byte`. Bytes above the lowest that does may be marked without being
/// equal (the borrow runs upwards); the lowest is exact.
#[inline(always)]
const fn bytes_equal_to(byte: u8, word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let difference = word ^ (ONES * byte as u64);
    difference.wrapping_sub(ONES) & !difference & HIGH_BITS
}

/// Index of the lowest byte with bit 7, in a word that has no other bits; 0 if there is none. By multiplication: the eBPF
/// target cannot count zeros.
#[inline(always)]
pub(super) const fn lowest_byte(marked: u64) -> u64 {
    let lowest = (marked & marked.wrapping_neg()) >> 7;
    lowest.wrapping_mul(0x0001_0203_0405_0607) >> 56
}
