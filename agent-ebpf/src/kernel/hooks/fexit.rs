//! Hook `fentry`: BPF trampolines at the end of the protocols' send and receive functions.
//!
//! On a preemptible kernel a program may be interrupted by a task that makes the same call; the kernel then leaves the
//! program out for that task (`bpf_prog->active`). So there every program has several entries, see
//! [`agent_ebpf::abi::entries`].
//!
//! At the end, because then the bytes are in the receiver's memory and it is known how many went; the message's
//! iterator has moved over them and is walked back.

use agent_ebpf::{
    abi::{Loss, Setting},
    http::Direction,
};
use aya_ebpf::{
    EbpfContext as _,
    macros::{fentry, fexit},
    programs::{FEntryContext, FExitContext},
};

use core::arch::asm;

use crate::kernel::{
    connections,
    flags::{MSG_PEEK, MSG_TRUNC},
    iovec::Data,
    layout::setting,
    memory::{Access as _, Load, field},
    program::Program,
    reentry,
    transfer::Transfer,
    transport::socket::Socket,
};

/// Entries of a program: `enter` is the function that decides whether it is called.
macro_rules! entries {
    ($function:literal, $enter:ident, $($name:ident: $entry:literal),*) => {
        $(
            #[doc = concat!("An entry program of the one on `", $function, "`.")]
            #[fexit(function = $function)]
            pub fn $name(ctx: FExitContext) -> u32 {
                $enter(&ctx, $entry);
                0
            }
        )*
    };
}

/// `int tcp_sendmsg(struct sock *sk, struct msghdr *msg, size_t size)`
#[fexit(function = "tcp_sendmsg")]
pub fn tcp_sendmsg(ctx: FExitContext) -> u32 {
    let result: i32 = ctx.arg(3);
    if result > 0 {
        let message = ctx.arg(1);
        Transfer {
            program: Program::TcpSend,
            socket: Socket::Tcp,
            direction: Direction::Sent,
            sock: ctx.arg(0),
            count: result as u32,
        }
        .read::<Load>(&ctx, |_| Data::Message(message));
    }
    0
}

entries!("tcp_sendmsg", enter_tcp_send, tcp_sendmsg_1: 0, tcp_sendmsg_2: 1, tcp_sendmsg_3: 2, tcp_sendmsg_4: 3);

#[inline(always)]
fn enter_tcp_send(ctx: &FExitContext, entry: u32) {
    let result: i32 = ctx.arg(3);
    if result > 0 && !reentry::is_seen::<Load>(Program::TcpSend, Direction::Sent, ctx.arg(0)) {
        Program::TcpSend.enter(ctx, entry);
    }
}

/// `int tcp_recvmsg(struct sock *sk, struct msghdr *msg, size_t len, int nonblock, int flags, int *addr_len)`;
/// without `nonblock` since Linux 5.19, without `addr_len` since 7.1.
#[fexit(function = "tcp_recvmsg")]
pub fn tcp_recvmsg(ctx: FExitContext) -> u32 {
    if let Some((flags, count)) = tcp_received(&ctx) {
        let message = ctx.arg(1);
        Transfer {
            program: Program::TcpReceive,
            socket: Socket::Tcp,
            direction: Direction::Received,
            sock: ctx.arg(0),
            count,
        }
        .read::<Load>(&ctx, |_| received(Data::Message(message), flags));
    }
    0
}

entries!("tcp_recvmsg", enter_tcp_receive, tcp_recvmsg_1: 0, tcp_recvmsg_2: 1, tcp_recvmsg_3: 2, tcp_recvmsg_4: 3);

#[inline(always)]
fn enter_tcp_receive(ctx: &FExitContext, entry: u32) {
    if tcp_received(ctx).is_some()
        && !reentry::is_seen::<Load>(Program::TcpReceive, Direction::Received, ctx.arg(0))
    {
        Program::TcpReceive.enter(ctx, entry);
    }
}

/// The flags of a call, and how many bytes it took off the socket, if any.
#[inline(always)]
fn tcp_received(ctx: &FExitContext) -> Option<(u32, u32)> {
    let (flags, result) = match (
        setting(Setting::TcpRecvmsgFlags),
        setting(Setting::TcpRecvmsgArgs),
    ) {
        (3, 4) => (argument::<24>(ctx), argument::<32>(ctx)),
        (3, 5) => (argument::<24>(ctx), argument::<40>(ctx)),
        (4, 6) => (argument::<32>(ctx), argument::<48>(ctx)),
        _ => return None,
    };
    let (flags, result) = (flags as u32, result as i32);
    (result > 0 && flags & MSG_PEEK == 0).then_some((flags, result as u32))
}

/// The argument at a byte offset. In assembly, because the compiler would merge the ways that lead here and add the
/// offset to the context first, which the verifier does not allow; and because it checks what is read against the
/// function's type, so that a read for another kernel's form must stay on a way of its own.
#[inline(always)]
fn argument<const OFFSET: i32>(ctx: &FExitContext) -> u64 {
    let value: u64;
    // SAFETY: reads eight bytes of the context, which the verifier checks.
    unsafe {
        asm!("{value} = *(u64 *)({ctx} + {offset})", value = out(reg) value, ctx = in(reg) ctx.as_ptr(), offset = const OFFSET);
    }
    value
}

/// `int unix_stream_sendmsg(struct socket *sock, struct msghdr *msg, size_t len)`
#[fexit(function = "unix_stream_sendmsg")]
pub fn unix_stream_sendmsg(ctx: FExitContext) -> u32 {
    let result: i32 = ctx.arg(3);
    if result > 0
        && let Some(sock) = Load::field(ctx.arg(0), Setting::SocketSock)
    {
        let message = ctx.arg(1);
        Transfer {
            program: Program::UnixSend,
            socket: Socket::Unix,
            direction: Direction::Sent,
            sock,
            count: result as u32,
        }
        .read::<Load>(&ctx, |_| Data::Message(message));
    }
    0
}

entries!("unix_stream_sendmsg", enter_unix_send, unix_stream_sendmsg_1: 0, unix_stream_sendmsg_2: 1, unix_stream_sendmsg_3: 2, unix_stream_sendmsg_4: 3);

#[inline(always)]
fn enter_unix_send(ctx: &FExitContext, entry: u32) {
    // Asked in every case: the answer is also a note.
    let is_handled = reentry::is_handled(entry);
    let result: i32 = ctx.arg(3);
    if result > 0 && !is_handled {
        Program::UnixSend.enter(ctx, entry);
    }
}

/// Before the entries of [`unix_stream_sendmsg`].
#[fentry(function = "unix_stream_sendmsg")]
pub fn unix_stream_sendmsg_begin(_: FEntryContext) -> u32 {
    reentry::begin();
    0
}

/// `int unix_stream_recvmsg(struct socket *sock, struct msghdr *msg, size_t size, int flags)`
#[fexit(function = "unix_stream_recvmsg")]
pub fn unix_stream_recvmsg(ctx: FExitContext) -> u32 {
    if let Some(count) = unix_received(&ctx)
        && let Some(sock) = Load::field(ctx.arg(0), Setting::SocketSock)
    {
        let message = ctx.arg(1);
        Transfer {
            program: Program::UnixReceive,
            socket: Socket::Unix,
            direction: Direction::Received,
            sock,
            count,
        }
        .read::<Load>(&ctx, |_| Data::Message(message));
    }
    0
}

entries!("unix_stream_recvmsg", enter_unix_receive, unix_stream_recvmsg_1: 0, unix_stream_recvmsg_2: 1, unix_stream_recvmsg_3: 2, unix_stream_recvmsg_4: 3);

#[inline(always)]
fn enter_unix_receive(ctx: &FExitContext, entry: u32) {
    let is_handled = reentry::is_handled(entry);
    if unix_received(ctx).is_some() && !is_handled {
        Program::UnixReceive.enter(ctx, entry);
    }
}

/// How many bytes a call took off the socket, if any.
#[inline(always)]
fn unix_received(ctx: &FExitContext) -> Option<u32> {
    let (flags, result): (u32, i32) = (ctx.arg(3), ctx.arg(4));
    (result > 0 && flags & MSG_PEEK == 0).then_some(result as u32)
}

/// Before the entries of [`unix_stream_recvmsg`].
#[fentry(function = "unix_stream_recvmsg")]
pub fn unix_stream_recvmsg_begin(_: FEntryContext) -> u32 {
    reentry::begin();
    0
}

/// `int tcp_sendpage(struct sock *sk, struct page *page, int offset, size_t size, int flags)`, until Linux 6.4: bytes
/// that are in no user memory.
#[fexit(function = "tcp_sendpage")]
pub fn tcp_sendpage(ctx: FExitContext) -> u32 {
    let result: i32 = ctx.arg(5);
    if result > 0 {
        Transfer {
            program: Program::TcpSend,
            socket: Socket::Tcp,
            direction: Direction::Sent,
            sock: ctx.arg(0),
            count: result as u32,
        }
        .unseen(Loss::UnreadablePages);
    }
    0
}

/// `ssize_t unix_stream_sendpage(struct socket *socket, struct page *page, int offset, size_t size, int flags)`,
/// until Linux 6.4: bytes that are in no user memory.
#[fexit(function = "unix_stream_sendpage")]
pub fn unix_stream_sendpage(ctx: FExitContext) -> u32 {
    pages(Program::UnixSend, Direction::Sent, &ctx);
    0
}

/// `ssize_t unix_stream_splice_read(struct socket *sock, loff_t *ppos, struct pipe_inode_info *pipe, size_t size,
/// unsigned int flags)`: bytes that go to no user memory.
#[fexit(function = "unix_stream_splice_read")]
pub fn unix_stream_splice_read(ctx: FExitContext) -> u32 {
    pages(Program::UnixReceive, Direction::Received, &ctx);
    0
}

#[inline(always)]
fn pages(program: Program, direction: Direction, ctx: &FExitContext) {
    let result: i32 = ctx.arg(5);
    if result > 0
        && let Some(sock) = field(ctx.arg(0), Setting::SocketSock)
    {
        Transfer {
            program,
            socket: Socket::Unix,
            direction,
            sock,
            count: result as u32,
        }
        .unseen(Loss::UnreadablePages);
    }
}

/// `int unix_release(struct socket *sock)`: the last look at a unix socket.
#[fentry(function = "unix_release")]
pub fn unix_release(ctx: FEntryContext) -> u32 {
    if let Some(sock) = field(ctx.arg(0), Setting::SocketSock) {
        connections::close(sock);
    }
    0
}

/// Where the bytes of a TCP receive call are, if it has not thrown them away.
#[inline(always)]
pub fn received(data: Data, flags: u32) -> Data {
    if flags & MSG_TRUNC != 0 {
        Data::Discarded
    } else {
        data
    }
}
