//! The programs that read what went over sockets, and how they are called.

use agent_ebpf::abi::READERS;
use aya_ebpf::{EbpfContext, macros::map, maps::ProgramArray};

/// The programs that read what went over sockets, to be called by themselves and by their entries. One map for each,
/// because the kernel lets trampolines' programs call only programs of the same function.
#[map]
static TCP_SEND: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
static TCP_RECEIVE: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
static UNIX_SEND: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
static UNIX_RECEIVE: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// The programs, as indices of their working memory ([`super::dispatcher`]).
#[derive(Clone, Copy)]
#[repr(u32)]
pub enum Program {
    TcpSend,
    TcpReceive,
    UnixSend,
    UnixReceive,
}

impl Program {
    pub const COUNT: u32 = READERS;

    /// Calls this program. Comes back only if that cannot be done.
    #[inline(always)]
    pub fn call(self, ctx: &impl EbpfContext) {
        let programs = match self {
            Self::TcpSend => &TCP_SEND,
            Self::TcpReceive => &TCP_RECEIVE,
            Self::UnixSend => &UNIX_SEND,
            Self::UnixReceive => &UNIX_RECEIVE,
        };
        // SAFETY: the programs in the array are of this one's type.
        let _refused = unsafe { programs.tail_call(ctx, 0) };
    }
}
