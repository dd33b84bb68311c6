//! What the kernel knows of a socket: its kind, its identity, and how far it is.

use agent_ebpf::{
    abi::Setting,
    http::{Connection, Direction},
};
use aya_ebpf::{macros::map, maps::Array};

use crate::kernel::memory::{Access, field};

const AF_UNIX: u16 = 1;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const SOCK_STREAM: u16 = 1;
const IPPROTO_TCP: u16 = 6;
const IPPROTO_MPTCP: u16 = 262;

/// See [`agent_ebpf::abi::maps::FIRST_INODE`].
#[map]
static FIRST_INODE: Array<u32> = Array::with_max_entries(1, 0);

/// What the hook knows about the socket.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Socket {
    /// TCP over IPv4 or IPv6.
    Tcp,
    /// A unix stream socket.
    Unix,
    /// Any.
    Any,
}

/// The TCP sequence number after the last byte that went in `direction`, if the socket has one.
#[inline(always)]
pub fn position<A: Access>(sock: u64, connection: &Connection, direction: Direction) -> Option<u32> {
    if !connection.has_positions() {
        return None;
    }
    sequence::<A>(sock, direction)
}

/// The same of a TCP socket.
#[inline(always)]
pub fn sequence<A: Access>(sock: u64, direction: Direction) -> Option<u32> {
    match direction {
        Direction::Received => A::tcp_field(sock, Setting::TcpCopiedSeq),
        Direction::Sent => A::tcp_field(sock, Setting::TcpWriteSeq),
    }
}

/// True if the last sequence number in that direction may be a FIN: the end of the stream takes one, but is no byte.
#[inline(always)]
pub fn is_shut_down(sock: u64, direction: Direction) -> bool {
    const RCV_SHUTDOWN: u8 = 1;
    const SEND_SHUTDOWN: u8 = 2;
    let wanted = match direction {
        Direction::Received => RCV_SHUTDOWN,
        Direction::Sent => SEND_SHUTDOWN,
    };
    field::<u8>(sock, Setting::SockShutdown).is_some_and(|shut_down| shut_down & wanted != 0)
}

/// True for TCP, false for other streams that may carry HTTP, nothing for the rest.
#[inline(always)]
pub fn is_tcp(sock: u64) -> Option<bool> {
    let family: u16 = field(sock, Setting::SockFamily)?;
    match family {
        AF_INET | AF_INET6 => match field(sock, Setting::SockProtocol)? {
            IPPROTO_TCP => Some(true),
            IPPROTO_MPTCP => Some(false),
            _ => None,
        },
        AF_UNIX if field::<u16>(sock, Setting::SockType)? == SOCK_STREAM => Some(false),
        _ => None,
    }
}

/// True if no byte of a socket with this inode number can have gone before the programs were attached.
#[inline(always)]
pub fn is_made_after_attaching(identity: u32) -> bool {
    match FIRST_INODE.get(0) {
        Some(&first) if first != 0 => identity.wrapping_sub(first) < 1 << 31,
        _ => false,
    }
}

/// The inode number of the socket in the socket file system: unique among the sockets there are (`get_next_ino`, 32
/// bits). Nothing for a socket that no descriptor leads to any more.
#[inline(always)]
pub fn inode_number(sock: u64) -> Option<u32> {
    field(field(sock, Setting::SockSocket)?, Setting::SocketInodeNumber)
}

/// Bytes that a TCP socket's process had received before the sequence number `received`. A FIN that it took counts as one.
///
/// What arrives between the two reads makes a connection that is first seen receiving look newer, never older. For one that
/// is first seen sending it is the other way round: right after the answer to a request that was not seen comes the next
/// one, mostly as long, which must not take that one's place.
#[inline(always)]
pub fn received_before(sock: u64, direction: Direction, received: u32) -> Option<i32> {
    let (in_all, next): (u32, u32) = match direction {
        Direction::Received => {
            let in_all = field(sock, Setting::TcpBytesReceived)?;
            (in_all, field(sock, Setting::TcpRcvNxt)?)
        }
        Direction::Sent => {
            let next = field(sock, Setting::TcpRcvNxt)?;
            (field(sock, Setting::TcpBytesReceived)?, next)
        }
    };
    Some(in_all.wrapping_sub(next.wrapping_sub(received)) as i32)
}

/// True while another CPU or task changes the socket (`lock_sock`, `bh_lock_sock`). On kernels for several CPUs a spinlock
/// is 0 while nobody has it; that of a kernel with `PREEMPT_RT` does not tell.
#[inline(always)]
pub fn is_locked(sock: u64) -> Option<bool> {
    let spinlock: u32 = field(sock, Setting::SockLock)?;
    let owned: u32 = field(sock, Setting::SockLockOwned)?;
    Some(spinlock != 0 || owned != 0)
}
