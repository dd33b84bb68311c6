//! What a step of the engine found.

use crate::abi::Loss;

/// At most one request or response, or both, and at most one loss. One word, so that it is returned in a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Event(u32);

impl Event {
    /// Nothing to count.
    pub const NONE: Self = Self(0);
    /// A request line was received.
    pub const REQUEST: Self = Self(1);
    /// The bytes are not what HTTP has there: for [`super::connection::Connection::mismatch`], never handed out.
    pub(super) const MISMATCH: Self = Self(2);
    /// The empty line after a head: for the step's end, never handed out.
    pub(super) const HEAD_END: Self = Self(3);
    /// Beside a response: what it answers was not counted as a request before, and is now.
    pub const ANSWERED: Self = Self(1 << 15);
    const COUNTED: u32 = 0x7fff;

    /// A status line with this code was sent, or one with a code that could not be read
    /// ([`crate::abi::CODE_UNKNOWN`]).
    #[inline(always)]
    #[must_use]
    pub const fn response(code: u16) -> Self {
        Self(code as u32)
    }

    /// Something was lost, for that reason.
    #[inline(always)]
    #[must_use]
    pub const fn loss(loss: Loss) -> Self {
        Self((loss as u32 + 1) << 16)
    }

    /// Both.
    #[inline(always)]
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The [`crate::abi::CounterKey::code`] to count under, if there is something to count.
    #[inline(always)]
    #[must_use]
    pub const fn code(self) -> Option<u16> {
        match self.0 & Self::COUNTED {
            0 => None,
            1 => Some(crate::abi::REQUESTS),
            code => Some(code as u16),
        }
    }

    /// True if there is a request to count beside [`Self::code`]: see [`Self::ANSWERED`].
    #[inline(always)]
    #[must_use]
    pub const fn is_answered(self) -> bool {
        self.0 & Self::ANSWERED.0 != 0
    }

    /// Index of the loss, if there is one ([`crate::abi::maps::LOSSES`]).
    #[inline(always)]
    #[must_use]
    pub const fn loss_index(self) -> Option<u32> {
        match self.0 >> 16 {
            0 => None,
            index => Some(index - 1),
        }
    }

    /// True if there is nothing to do.
    #[inline(always)]
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}
