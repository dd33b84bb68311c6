//! Flags of socket calls (include/linux/socket.h) that change what a call means.

/// The bytes will be received again.
pub const MSG_PEEK: u32 = 2;
/// TCP throws the bytes away instead of copying them.
pub const MSG_TRUNC: u32 = 0x20;
