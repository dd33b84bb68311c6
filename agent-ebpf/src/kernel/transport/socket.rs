//! What the kernel knows of a socket: its kind, its identity, and how far it is.
//!
//! # What is read while the kernel goes on
//!
//! A TCP socket's fields change under its spinlock, and while a task owns it (`lock_sock`). Hook `kprobe` reads in
//! `release_sock`, when its own task still owns the socket; `fentry` and `tracepoint` read when the call is over and anybody may
//! have the socket. Where two readings belong together, this is what may come between them:
//!
//! | readings | what may come between | what it looks like |
//! |---|---|---|
//! | `write_seq` after a call, and the bytes it sent | another thread's send | bytes that no hook saw, before these: a loss; the other call finds its own behind it and is left out. Servers do not send parts of one HTTP/1 response from two threads at once |
//! | `copied_seq` after a call, and the bytes it took | another thread's receive | the same |
//! | `bytes_received` and `rcv_nxt` | a segment that arrives, also half of it | [`received_before`] has both orders, each for the direction in which it errs on the right side |
//! | `snd_una`, `bytes_acked`, `snd_nxt`, `bytes_sent` | an acknowledgement, a segment that leaves | [`tcp_opener`] takes no answer unless nothing came between |
//! | the bytes received, and `sk_shutdown` | a `shutdown` by another thread | a request that came before it and will not be answered is not counted |
//! | a descriptor, and its socket (`sys_exit`) | another thread's `close` and `accept` | another socket: if it is known, nothing of it moved; if not, it is first seen with these bytes, which count once in any case |
//! | the connection's state, and that of the socket at its address | the socket's end, and another at its address | the inode number differs ([`inode_number`]), where an end may go unseen |

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
/// `include/net/tcp_states.h`.
pub const TCP_ESTABLISHED: u8 = 1;
/// See [`TCP_ESTABLISHED`].
pub const TCP_CLOSE_WAIT: u8 = 8;
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

/// Who opened a connection.
pub enum Opener {
    /// The process whose socket this is: it is the client.
    Process,
    /// The other side: the socket was accepted.
    Peer,
    /// Cannot be told: a pair of sockets, say.
    Unknown,
}

/// Who opened a TCP connection. Nothing in a socket says so, but its counters do: a SYN that was acknowledged is in `bytes_acked`
/// (`tcp_snd_una_update`), and not in `bytes_sent`; the SYN of the other side's answer is in neither (`tcp_rcv_state_process`).
pub fn tcp_opener(sock: u64) -> Option<Opener> {
    // They change under the spinlock, or while the socket is owned, as it is by this very call with hook `kprobe`. A look while
    // somebody has the spinlock, or had it meanwhile, proves nothing.
    for _ in 0..2 {
        let unacknowledged: u32 = field(sock, Setting::TcpSndUna)?;
        let next: u32 = field(sock, Setting::TcpSndNxt)?;
        let acknowledged: u32 = field(sock, Setting::TcpBytesAcked)?;
        let sent: u32 = field(sock, Setting::TcpBytesSent)?;
        let again: u32 = field(sock, Setting::TcpBytesRetrans)?;
        if is_spinning(sock)?
            || field::<u32>(sock, Setting::TcpSndUna)? != unacknowledged
            || field::<u32>(sock, Setting::TcpBytesAcked)? != acknowledged
            || field::<u32>(sock, Setting::TcpSndNxt)? != next
        {
            continue;
        }
        // Later there may be a FIN, which takes a number, too.
        if !matches!(
            field::<u8>(sock, Setting::SockState)?,
            TCP_ESTABLISHED | TCP_CLOSE_WAIT
        ) {
            break;
        }
        let under_way = next.wrapping_sub(unacknowledged);
        return Some(
            match acknowledged
                .wrapping_add(under_way)
                .wrapping_sub(sent.wrapping_sub(again))
            {
                0 => Opener::Peer,
                1 => Opener::Process,
                _ => Opener::Unknown,
            },
        );
    }
    Some(Opener::Unknown)
}

/// Who opened a connection of unix sockets. An accepted one has the name of the listener; clients mostly have none. Of an MPTCP
/// socket it is not known.
pub fn unix_opener(sock: u64) -> Option<Opener> {
    if field::<u16>(sock, Setting::SockFamily)? != AF_UNIX {
        return Some(Opener::Unknown);
    }
    if field::<u64>(sock, Setting::UnixAddress)? != 0 {
        return Some(Opener::Peer);
    }
    let peer: u64 = field(sock, Setting::UnixPeer)?;
    if peer != 0 && field::<u64>(peer, Setting::UnixAddress)? != 0 {
        return Some(Opener::Process);
    }
    Some(Opener::Unknown)
}

/// True while another CPU or task changes the socket (`lock_sock`, `bh_lock_sock`). On kernels for several CPUs a spinlock
/// is 0 while nobody has it; that of a kernel with `PREEMPT_RT` does not tell.
#[inline(always)]
pub fn is_locked(sock: u64) -> Option<bool> {
    Some(is_spinning(sock)? || field::<u32>(sock, Setting::SockLockOwned)? != 0)
}

#[inline(always)]
fn is_spinning(sock: u64) -> Option<bool> {
    Some(field::<u32>(sock, Setting::SockLock)? != 0)
}
