//! Hook `kprobe`: the same functions as [`super::fexit`], for kernels without BPF trampolines.
//!
//! A `kretprobe` would be simpler and would lose calls: a kernel keeps so many of them ready, and every thread
//! that waits for data holds one. So for TCP a `kprobe` notes the call at its start, and one on `release_sock`, with
//! which every call ends and begins to wait, takes stock: the socket's sequence numbers tell how far it got. Unix
//! sockets have no such numbers. There `kretprobe`s are on functions that do not wait for data.

use agent_ebpf::{
    abi::{Loss, Setting},
    http::Direction,
};
use aya_ebpf::{
    helpers::bpf_get_current_pid_tgid,
    macros::{kprobe, kretprobe, map},
    maps::LruHashMap,
    programs::{ProbeContext, RetProbeContext},
};
use core::hint::black_box;

use crate::kernel::{
    connections,
    counters::lose,
    dispatcher::abandon,
    flags::MSG_PEEK,
    hooks::fexit::received,
    iovec::Data,
    layout::setting,
    memory::{Helper, field},
    program::Program,
    transfer::{Transfer, catch_up, moved},
    transport::socket::{self, Socket},
};

/// A call under way, or the last one of a thread.
#[derive(Clone, Copy)]
#[repr(C)]
struct Call {
    sock: u64,
    /// The `struct msghdr`; 0 if the call's bytes are in no user memory.
    message: u64,
    flags: u32,
    /// 1 if it receives.
    receives: u32,
    /// 1 if a program is to run when it returns, and has not.
    returns: u32,
    reserved: u32,
    /// Bytes that the message's iterator had to go when it was last looked at.
    left: u64,
}

/// By thread. The least recently used make room: those of threads that are gone.
#[map]
static CALLS: LruHashMap<u64, Call> = LruHashMap::with_max_entries(32768, 0);

#[inline(always)]
fn note(sock: u64, message: u64, flags: u32, direction: Direction, returns: bool) {
    let thread = bpf_get_current_pid_tgid();
    let receives = u32::from(direction == Direction::Received);
    let call = Call {
        sock,
        message,
        flags,
        receives,
        returns: u32::from(returns),
        reserved: 0,
        left: left(message),
    };
    if let Some(last) = CALLS.get_ptr_mut(&thread) {
        // SAFETY: only this thread uses its entry.
        let last = unsafe { &mut *last };
        if last.returns == 1 {
            // It has returned, and the kernel had no `kretprobe` left for it.
            lose(Loss::ProgramMissed as u32);
        }
        *last = call;
        return;
    }
    // An LRU map finds room, if need be another thread's; what that loses shows as a gap in sequence numbers.
    let _ = CALLS.insert(&thread, &call, 0);
}

/// Bytes that the iterator of a `struct msghdr` has to go.
#[inline(always)]
fn left(message: u64) -> u64 {
    match message {
        0 => 0,
        message => field(message + u64::from(setting(Setting::MsgIter)), Setting::IterCount).unwrap_or(0),
    }
}

/// A call on a TCP socket begins. From here on the sequence numbers are watched, also on a connection not seen before.
#[inline(always)]
fn begin_tcp(sock: Option<u64>, message: u64, flags: u32, direction: Direction) -> Option<()> {
    let sock = sock?;
    let connection = connections::find(sock, Socket::Tcp, direction, 0)?;
    if connection.is_ignored(direction) {
        return None;
    }
    // What went unseen until now must not be taken for this call's.
    note(sock, message, flags, direction, false);
    catch_up(direction, sock, 0).map(drop)
}

/// See [`super::fexit::tcp_sendmsg`].
#[kprobe(function = "tcp_sendmsg")]
pub fn tcp_sendmsg_entry(ctx: ProbeContext) -> u32 {
    begin_tcp(ctx.arg(0), ctx.arg(1).unwrap_or(0), 0, Direction::Sent);
    0
}

/// See [`super::fexit::tcp_recvmsg`].
#[kprobe(function = "tcp_recvmsg")]
pub fn tcp_recvmsg_entry(ctx: ProbeContext) -> u32 {
    // Both are read before one is chosen: merged, the read would be at a changed context address, which the verifier
    // does not allow.
    let (fourth, fifth) = (black_box(ctx.arg(3)), black_box(ctx.arg(4)));
    let flags = if setting(Setting::TcpRecvmsgFlags) == 3 {
        fourth
    } else {
        fifth
    };
    begin_tcp(
        ctx.arg(0),
        ctx.arg(1).unwrap_or(0),
        flags.unwrap_or(0),
        Direction::Received,
    );
    0
}

/// `int tcp_sendpage(struct sock *sk, struct page *page, …)`, until Linux 6.4: bytes that are in no user memory.
#[kprobe(function = "tcp_sendpage")]
pub fn tcp_sendpage_entry(ctx: ProbeContext) -> u32 {
    begin_tcp(ctx.arg(0), 0, 0, Direction::Sent);
    0
}

/// `ssize_t tcp_splice_read(struct socket *sock, …)`: bytes that go to no user memory.
#[kprobe(function = "tcp_splice_read")]
pub fn tcp_splice_read_entry(ctx: ProbeContext) -> u32 {
    begin_tcp(socket_sock(&ctx), 0, 0, Direction::Received);
    0
}

/// `void release_sock(struct sock *sk)` in a call that sends. Called for all kinds of sockets and reasons: what
/// matters is whether this thread has a call noted on this one.
#[kprobe(function = "release_sock")]
pub fn release_sock_send(ctx: ProbeContext) -> u32 {
    release::<false>(&ctx);
    0
}

/// See [`release_sock_send`]: in a call that receives.
#[kprobe(function = "release_sock")]
pub fn release_sock_receive(ctx: ProbeContext) -> u32 {
    release::<true>(&ctx);
    0
}

#[inline(always)]
fn release<const RECEIVES: bool>(ctx: &ProbeContext) -> Option<()> {
    let (program, direction) = if RECEIVES {
        (Program::TcpReceive, Direction::Received)
    } else {
        (Program::TcpSend, Direction::Sent)
    };
    let Some(call) = CALLS.get_ptr_mut(&bpf_get_current_pid_tgid()) else {
        abandon(program, direction);
        return None;
    };
    // SAFETY: only this thread uses its entry.
    let call = unsafe { &mut *call };
    if call.sock != ctx.arg(0)? || (call.receives == 1) != RECEIVES || call.flags & MSG_PEEK != 0 {
        return None;
    }
    // The iterator has moved over the call's bytes.
    let left = left(call.message);
    let mut transferred = call.left.wrapping_sub(left) as u32;
    call.left = left;
    // Nothing is sent on a socket that is shut down: it is being closed, and the call that is noted is over. In the place
    // of its message may be anything, such as an interrupt's -1, by which one byte has gone; and one has: the FIN.
    if !RECEIVES && socket::is_shut_down(call.sock, direction) {
        transferred = 0;
    }
    let data = match call.message {
        0 => Data::Unreadable(Loss::UnreadablePages),
        message if RECEIVES => received(Data::Message(message), call.flags),
        message => Data::Message(message),
    };
    moved::<RECEIVES>(ctx, program, call.sock, transferred, data);
    Some(())
}

/// See [`super::fexit::unix_stream_sendmsg`]. It waits only where the receiver is slow.
#[kprobe(function = "unix_stream_sendmsg")]
pub fn unix_stream_sendmsg_entry(ctx: ProbeContext) -> u32 {
    begin_unix(socket_sock(&ctx), ctx.arg(1).unwrap_or(0), Direction::Sent);
    0
}

/// See [`super::fexit::unix_stream_sendmsg`].
#[kretprobe(function = "unix_stream_sendmsg")]
pub fn unix_stream_sendmsg_return(ctx: RetProbeContext) -> u32 {
    end_unix(Program::UnixSend, Direction::Sent, &ctx);
    0
}

/// `int unix_stream_read_actor(struct sk_buff *skb, int skip, int chunk, struct unix_stream_read_state *state)`:
/// copies what a receiving call found, after it has waited for it.
#[kprobe(function = "unix_stream_read_actor")]
pub fn unix_stream_read_actor_entry(ctx: ProbeContext) -> u32 {
    begin_unix_read(&ctx);
    0
}

#[inline(always)]
fn begin_unix_read(ctx: &ProbeContext) -> Option<()> {
    let state: u64 = ctx.arg(3)?;
    let flags: u32 = field(state, Setting::UnixReadFlags)?;
    let message = if flags & MSG_PEEK != 0 {
        0
    } else {
        field(state, Setting::UnixReadMessage)?
    };
    let socket: u64 = field(state, Setting::UnixReadSocket)?;
    // Peeked bytes are noted as on no socket, so that the return finds nothing.
    let sock = if flags & MSG_PEEK != 0 {
        0
    } else {
        field(socket, Setting::SocketSock)?
    };
    begin_unix(Some(sock), message, Direction::Received)
}

/// See [`unix_stream_read_actor_entry`].
#[kretprobe(function = "unix_stream_read_actor")]
pub fn unix_stream_read_actor_return(ctx: RetProbeContext) -> u32 {
    end_unix(Program::UnixReceive, Direction::Received, &ctx);
    0
}

/// `int unix_stream_splice_actor(struct sk_buff *skb, int skip, int chunk, struct unix_stream_read_state *state)`: the
/// same for bytes that go to no user memory.
#[kprobe(function = "unix_stream_splice_actor")]
pub fn unix_stream_splice_actor_entry(ctx: ProbeContext) -> u32 {
    begin_unix_splice(&ctx);
    0
}

#[inline(always)]
fn begin_unix_splice(ctx: &ProbeContext) -> Option<()> {
    let socket: u64 = field(ctx.arg(3)?, Setting::UnixReadSocket)?;
    begin_unix(field(socket, Setting::SocketSock), 0, Direction::Received)
}

/// See [`unix_stream_splice_actor_entry`].
#[kretprobe(function = "unix_stream_splice_actor")]
pub fn unix_stream_splice_actor_return(ctx: RetProbeContext) -> u32 {
    end_unix_unseen(Program::UnixReceive, Direction::Received, &ctx);
    0
}

/// `ssize_t unix_stream_sendpage(struct socket *socket, struct page *page, …)`, until Linux 6.4.
#[kprobe(function = "unix_stream_sendpage")]
pub fn unix_stream_sendpage_entry(ctx: ProbeContext) -> u32 {
    begin_unix(socket_sock(&ctx), 0, Direction::Sent);
    0
}

/// See [`unix_stream_sendpage_entry`].
#[kretprobe(function = "unix_stream_sendpage")]
pub fn unix_stream_sendpage_return(ctx: RetProbeContext) -> u32 {
    end_unix_unseen(Program::UnixSend, Direction::Sent, &ctx);
    0
}

#[inline(always)]
fn end_unix_unseen(program: Program, direction: Direction, ctx: &RetProbeContext) {
    if let Some((sock, transferred, _)) = ended(ctx) {
        Transfer {
            program,
            socket: Socket::Unix,
            direction,
            sock,
            count: transferred,
        }
        .unseen(Loss::UnreadablePages);
    }
    returned();
}

#[inline(always)]
fn begin_unix(sock: Option<u64>, message: u64, direction: Direction) -> Option<()> {
    note(sock?, message, 0, direction, true);
    Some(())
}

#[inline(always)]
fn end_unix(program: Program, direction: Direction, ctx: &RetProbeContext) {
    match ended(ctx) {
        Some((sock, count, message)) => {
            Transfer {
                program,
                socket: Socket::Unix,
                direction,
                sock,
                count,
            }
            .read::<Helper>(ctx, |_| Data::Message(message));
        }
        None => abandon(program, direction),
    }
    // Not before: what takes several runs ends several times.
    returned();
}

/// Notes that the thread's call has returned.
#[inline(always)]
fn returned() {
    if let Some(call) = CALLS.get_ptr_mut(&bpf_get_current_pid_tgid()) {
        // SAFETY: only this thread uses its entry.
        unsafe { (*call).returns = 0 };
    }
}

/// The socket, the count of bytes and the `struct msghdr` of a call that ends and has moved something.
#[inline(always)]
fn ended(ctx: &RetProbeContext) -> Option<(u64, u32, u64)> {
    // SAFETY: only this thread uses its entry.
    let call = unsafe { &*CALLS.get_ptr_mut(&bpf_get_current_pid_tgid())? };
    if call.returns == 0 {
        return None;
    }
    let result: i32 = ctx.ret();
    (result > 0 && call.sock != 0).then_some((call.sock, result as u32, call.message))
}

/// See [`super::fexit::unix_release`].
#[kprobe(function = "unix_release")]
pub fn unix_release_entry(ctx: ProbeContext) -> u32 {
    if let Some(sock) = socket_sock(&ctx) {
        connections::close(sock);
    }
    0
}

/// The `struct sock` of the `struct socket` that is the first argument.
#[inline(always)]
fn socket_sock(ctx: &ProbeContext) -> Option<u64> {
    field(ctx.arg(0)?, Setting::SocketSock)
}
