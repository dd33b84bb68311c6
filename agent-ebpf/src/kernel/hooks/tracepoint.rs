//! Hook `tracepoint`: raw tracepoints only, for kernels that allow nothing else.
//!
//! The number and arguments of the system call under way, and so the user's buffer, come from the task's saved
//! registers. Everything is read after the call, so there is one program for each direction and nothing to
//! remember in between. Since Linux 6.3 `sock_send_length` and `sock_recv_length` fire for sockets only; before,
//! `sys_exit` fires for every system call and a descriptor counts if it is a socket.

use agent_ebpf::{
    abi::{Loss, Setting, syscall},
    http::{Connection, Direction},
};
use aya_ebpf::{
    helpers::bpf_get_current_task,
    macros::{map, raw_tracepoint},
    maps::ProgramArray,
    programs::RawTracePointContext,
};

use crate::kernel::{
    connections,
    dispatcher::unfinished,
    flags::{MSG_PEEK, MSG_TRUNC},
    iovec::Data,
    layout,
    memory::{Helper, field, kernel, user},
    program::Program,
    reentry,
    registers::{SystemCall, current_system_call, system_call},
    transfer::{Transfer, messages_unseen},
    transport::socket::{self, Socket},
};

const S_IFMT: u16 = 0o170_000;
const S_IFSOCK: u16 = 0o140_000;

/// `tcp_destroy_sock(struct sock *sk)`: the last look at a TCP socket, whatever the hook.
#[raw_tracepoint(tracepoint = "tcp_destroy_sock")]
pub fn tcp_destroy_sock(ctx: RawTracePointContext) -> i32 {
    connections::close_tcp(ctx.arg(0));
    0
}

/// `sock_send_length(struct sock *sk, int ret, int flags)`
#[raw_tracepoint(tracepoint = "sock_send_length")]
pub fn sock_send_length(ctx: RawTracePointContext) -> i32 {
    if let Some(count) = sent(&ctx) {
        Transfer {
            program: Program::TcpSend,
            socket: Socket::Any,
            direction: Direction::Sent,
            sock: ctx.arg(0),
            count,
        }
        .read::<Helper>(&ctx, |connection| {
            current_call_data(syscall::SENT, ctx.arg(0), connection)
        });
    }
    0
}

/// How many bytes a call sent, if any.
#[inline(always)]
fn sent(ctx: &RawTracePointContext) -> Option<u32> {
    let result: i32 = ctx.arg(1);
    (result > 0).then_some(result as u32)
}

/// Entries of a program: since Linux 7.0 tracepoints' programs may be interrupted too.
macro_rules! entries {
    ($tracepoint:literal, $moved:ident, $program:expr, $direction:expr, $($name:ident: $entry:literal),*) => {
        $(
            #[doc = concat!("An entry program of the one on `", $tracepoint, "`.")]
            #[raw_tracepoint(tracepoint = $tracepoint)]
            pub fn $name(ctx: RawTracePointContext) -> i32 {
                if $moved(&ctx).is_some() {
                    enter(&ctx, $program, $direction, $entry);
                }
                0
            }
        )*
    };
}

entries!("sock_send_length", sent, Program::TcpSend, Direction::Sent, sock_send_length_1: 0, sock_send_length_2: 1, sock_send_length_3: 2, sock_send_length_4: 3);
entries!("sock_recv_length", was_received, Program::TcpReceive, Direction::Received, sock_recv_length_1: 0, sock_recv_length_2: 1, sock_recv_length_3: 2, sock_recv_length_4: 3);

#[inline(always)]
fn enter(ctx: &RawTracePointContext, program: Program, direction: Direction, entry: u32) {
    let sock = ctx.arg(0);
    if reentry::is_seen::<Helper>(program, direction, sock) {
        return;
    }
    let is_handled = match socket::is_tcp(sock) {
        // The program itself knows.
        Some(true) => false,
        Some(false) => reentry::is_handled(entry),
        None => true,
    };
    if !is_handled {
        program.enter(ctx, entry);
    }
}

/// `sock_recv_length(struct sock *sk, int ret, int flags)`
#[raw_tracepoint(tracepoint = "sock_recv_length")]
pub fn sock_recv_length(ctx: RawTracePointContext) -> i32 {
    if let Some((flags, count)) = was_received(&ctx) {
        Transfer {
            program: Program::TcpReceive,
            socket: Socket::Any,
            direction: Direction::Received,
            sock: ctx.arg(0),
            count,
        }
        .read::<Helper>(&ctx, |connection| {
            if flags & MSG_TRUNC != 0 {
                Data::Discarded
            } else {
                current_call_data(0, ctx.arg(0), connection)
            }
        });
    }
    0
}

/// The flags of a call, and how many bytes it took off the socket, if any.
#[inline(always)]
fn was_received(ctx: &RawTracePointContext) -> Option<(u32, u32)> {
    let (result, flags): (i32, u32) = (ctx.arg(1), ctx.arg(2));
    (result > 0 && flags & MSG_PEEK == 0).then_some((flags, result as u32))
}

/// The second halves of [`sys_exit`], by direction: 0 received, 1 sent. Each is as large as the verifier allows.
#[map]
static SYS_EXIT: ProgramArray = ProgramArray::with_max_entries(2, 0);

/// `sys_exit(struct pt_regs *regs, long ret)`: only tells the few system calls of interest from the others.
#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn sys_exit(ctx: RawTracePointContext) -> i32 {
    let result: i64 = ctx.arg(1);
    if result > 0
        && let Some(call) = system_call(ctx.arg(0))
    {
        let description = layout::syscall(call.number);
        if description != 0 {
            let sent = if description & syscall::KIND == syscall::SPLICE {
                descriptor_sock(call.arguments[2] as u32).is_some()
            } else {
                description & syscall::SENT != 0
            };
            let direction = u32::from(sent);
            // SAFETY: the programs in the array are of this one's type.
            let _ = unsafe { SYS_EXIT.tail_call(&ctx, direction) };
        }
    }
    0
}

/// [`sys_exit`] of a call that sent.
#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn sys_exit_send(ctx: RawTracePointContext) -> i32 {
    exited::<true>(&ctx);
    0
}

/// [`sys_exit`] of a call that received.
#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn sys_exit_receive(ctx: RawTracePointContext) -> i32 {
    exited::<false>(&ctx);
    0
}

/// By direction, so that each program has its own, inlined: of one that both call the stack would be too deep.
#[inline(always)]
fn exited<const SENDS: bool>(ctx: &RawTracePointContext) -> Option<()> {
    let direction = if SENDS {
        Direction::Sent
    } else {
        Direction::Received
    };
    let call = system_call(ctx.arg(0))?;
    let result = ctx.arg::<i64>(1) as u32;
    let description = layout::syscall(call.number);
    let flags = if description & syscall::FLAGS_THIRD != 0 {
        call.arguments[2] as u32
    } else if description & syscall::FLAGS_FOURTH != 0 {
        call.fourth() as u32
    } else {
        0
    };
    if flags & MSG_PEEK != 0 {
        return None;
    }
    let descriptor = if description & syscall::KIND == syscall::SPLICE && direction == Direction::Sent {
        call.arguments[2]
    } else {
        call.arguments[0]
    };
    let program = match direction {
        Direction::Sent => Program::TcpSend,
        Direction::Received => Program::TcpReceive,
    };
    let sock = match unfinished(program) {
        0 => descriptor_sock(descriptor as u32)?,
        sock => sock,
    };
    if description & syscall::KIND == syscall::MESSAGES {
        return messages_unseen(direction, sock, result);
    }
    Transfer {
        program,
        socket: Socket::Any,
        direction,
        sock,
        count: result,
    }
    .read::<Helper>(ctx, |_| {
        if flags & MSG_TRUNC != 0 {
            Data::Discarded
        } else {
            data(&call, description)
        }
    });
    Some(())
}

/// The bytes of the system call that the current task is in, if it goes in the direction of `direction`, which is
/// [`syscall::SENT`] or 0, and over this socket.
#[inline(always)]
fn current_call_data(direction: u8, sock: u64, connection: &Connection) -> Data {
    match current_system_call() {
        Some(call) => match layout::syscall(call.number) {
            // A file on a network file system, say, is written by way of a socket that is the kernel's own. That of a
            // connection known to be HTTP is not.
            description
                if description & syscall::SENT == direction
                    && (connection.is_server()
                        || descriptor_sock(call.arguments[0] as u32) == Some(sock)) =>
            {
                data(&call, description)
            }
            // In-kernel work on behalf of another call, such as io_uring_enter.
            _ => Data::Unreadable(Loss::UnreadablePages),
        },
        None => Data::Unreadable(Loss::UnreadablePages),
    }
}

#[inline(always)]
fn data(call: &SystemCall, description: u8) -> Data {
    let argument = call.arguments[1];
    match description & syscall::KIND {
        syscall::BUFFER => Data::Buffer(argument),
        syscall::VECTOR => Data::Vector(argument),
        // struct user_msghdr: msg_name, msg_namelen, msg_iov.
        syscall::MESSAGE => match user(argument + 16) {
            Some(vector) => Data::Vector(vector),
            None => Data::Unreadable(Loss::UnreadableMemory),
        },
        _ => Data::Unreadable(Loss::UnreadablePages),
    }
}

/// The `struct sock` behind a descriptor of the current task, if it is a socket: what `fget` and
/// `sock_from_file` do. The descriptor may have been closed by another thread since; then this finds nothing or
/// another socket, whose sequence numbers tell that nothing moved.
#[inline(always)]
fn descriptor_sock(descriptor: u32) -> Option<u64> {
    // SAFETY: no arguments.
    let task = unsafe { bpf_get_current_task() };
    let files: u64 = field(task, Setting::TaskFiles)?;
    let table: u64 = field(files, Setting::FilesFdt)?;
    if descriptor >= field(table, Setting::FdtableMaxFds)? {
        return None;
    }
    let descriptors: u64 = field(table, Setting::FdtableFd)?;
    let file: u64 = kernel(descriptors + u64::from(descriptor) * 8)?;
    let inode: u64 = field(file, Setting::FileInode)?;
    let mode: u16 = field(inode, Setting::InodeMode)?;
    if mode & S_IFMT != S_IFSOCK {
        return None;
    }
    field(field(file, Setting::FilePrivateData)?, Setting::SocketSock)
}
