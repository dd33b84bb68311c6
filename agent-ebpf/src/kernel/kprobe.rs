//! Hook `kprobe`: the same functions as [`super::fexit`], for kernels without BPF trampolines. A `kretprobe` sees
//! the result only, so a `kprobe` notes the arguments before.

use agent_ebpf::{
    abi::{Loss, Setting},
    http::Direction,
};
use aya_ebpf::{
    helpers::bpf_get_current_pid_tgid,
    macros::{kprobe, kretprobe, map},
    maps::HashMap,
    programs::{ProbeContext, RetProbeContext},
};

use core::hint::black_box;

use super::{
    call::{Data, Program, transferred},
    connections::{self, Socket},
    fexit::{MSG_PEEK, received},
    memory::field,
    process::lose,
    settings::setting,
};

/// The arguments of a call under way.
#[derive(Clone, Copy)]
#[repr(C)]
struct Call {
    sock: u64,
    message: u64,
    flags: u32,
    reserved: u32,
}

/// By thread: a thread is in one of the functions at a time. As many as there may be threads waiting for data.
#[map]
static CALLS: HashMap<u64, Call> = HashMap::with_max_entries(32768, 0);

#[inline(always)]
fn begin(sock: Option<u64>, message: Option<u64>, flags: u32) -> Option<()> {
    let call = Call { sock: sock?, message: message?, flags, reserved: 0 };
    if CALLS.insert(&bpf_get_current_pid_tgid(), &call, 0).is_err() {
        lose(Loss::CallsFull as u32);
    }
    Some(())
}

#[inline(always)]
fn end(program: Program, socket: Socket, direction: Direction, ctx: &RetProbeContext) {
    let thread = bpf_get_current_pid_tgid();
    // SAFETY: copied at once; only this thread writes its entry.
    let Some(call) = (unsafe { CALLS.get(&thread) }).copied() else {
        return;
    };
    let _ = CALLS.remove(&thread);
    let result: i32 = ctx.ret();
    if result > 0 && call.flags & MSG_PEEK == 0 {
        transferred(program, socket, direction, call.sock, result as u32, || match (socket, direction) {
            (Socket::Tcp, Direction::Received) => received(call.message, call.flags),
            _ => Data::Message(call.message),
        });
    }
}

/// See [`super::fexit::tcp_sendmsg`].
#[kprobe(function = "tcp_sendmsg")]
pub fn tcp_sendmsg_entry(ctx: ProbeContext) -> u32 {
    begin(ctx.arg(0), ctx.arg(1), 0);
    0
}

/// See [`super::fexit::tcp_sendmsg`].
#[kretprobe(function = "tcp_sendmsg")]
pub fn tcp_sendmsg_return(ctx: RetProbeContext) -> u32 {
    end(Program::TcpSend, Socket::Tcp, Direction::Sent, &ctx);
    0
}

/// See [`super::fexit::tcp_recvmsg`].
#[kprobe(function = "tcp_recvmsg")]
pub fn tcp_recvmsg_entry(ctx: ProbeContext) -> u32 {
    // Both are read before one is chosen: merged, the read would be at a changed context address, which the verifier
    // does not allow.
    let (fourth, fifth) = (black_box(ctx.arg(3)), black_box(ctx.arg(4)));
    let flags = if setting(Setting::TcpRecvmsgFlags) == 3 { fourth } else { fifth };
    begin(ctx.arg(0), ctx.arg(1), flags.unwrap_or(0));
    0
}

/// See [`super::fexit::tcp_recvmsg`].
#[kretprobe(function = "tcp_recvmsg")]
pub fn tcp_recvmsg_return(ctx: RetProbeContext) -> u32 {
    end(Program::TcpReceive, Socket::Tcp, Direction::Received, &ctx);
    0
}

/// See [`super::fexit::unix_stream_sendmsg`].
#[kprobe(function = "unix_stream_sendmsg")]
pub fn unix_stream_sendmsg_entry(ctx: ProbeContext) -> u32 {
    begin(socket_sock(&ctx), ctx.arg(1), 0);
    0
}

/// See [`super::fexit::unix_stream_sendmsg`].
#[kretprobe(function = "unix_stream_sendmsg")]
pub fn unix_stream_sendmsg_return(ctx: RetProbeContext) -> u32 {
    end(Program::UnixSend, Socket::Unix, Direction::Sent, &ctx);
    0
}

/// See [`super::fexit::unix_stream_recvmsg`].
#[kprobe(function = "unix_stream_recvmsg")]
pub fn unix_stream_recvmsg_entry(ctx: ProbeContext) -> u32 {
    begin(socket_sock(&ctx), ctx.arg(1), ctx.arg(3).unwrap_or(0));
    0
}

/// See [`super::fexit::unix_stream_recvmsg`].
#[kretprobe(function = "unix_stream_recvmsg")]
pub fn unix_stream_recvmsg_return(ctx: RetProbeContext) -> u32 {
    end(Program::UnixReceive, Socket::Unix, Direction::Received, &ctx);
    0
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
