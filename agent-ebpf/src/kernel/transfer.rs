//! What a call has moved over a socket: the connection is taken over it.

use agent_ebpf::{
    abi::Loss,
    http::{Connection, Direction, advance_discarded, advance_unseen},
};
use aya_ebpf::EbpfContext;

use super::{
    connections,
    counters::found,
    dispatcher::run,
    iovec::Data,
    memory::{Access, Helper},
    program::Program,
    reader::Bytes,
    reentry,
    transport::socket::{self, Socket},
};

/// Bytes that a call has moved over a socket: a hook builds it once, and hands it on.
#[derive(Clone, Copy)]
pub struct Transfer {
    /// The program that takes it.
    pub program: Program,
    /// What the hook knows of the socket.
    pub socket: Socket,
    /// Which way the bytes went.
    pub direction: Direction,
    /// The socket, a `struct sock *`.
    pub sock: u64,
    /// How many bytes.
    pub count: u32,
}

impl Transfer {
    /// Takes the connection over the bytes, which are where `data` says. They and the connection's socket are read by `A`.
    #[inline(always)]
    pub fn read<A: Access>(self, ctx: &impl EbpfContext, data: impl FnOnce(&Connection) -> Data) {
        run(ctx, self.program, self.direction, self.sock, |bytes| {
            let connection = self.begin::<A>()?;
            let data = data(connection);
            locate::<A>(bytes, self.direction, connection, data, self.count)
        });
    }

    /// Takes the connection over the bytes, which no program can read because of `cause`.
    #[inline(always)]
    pub fn unseen(self, cause: Loss) {
        if let Some(connection) = self.begin::<Helper>() {
            found(advance_unseen(
                connection,
                self.direction,
                u64::from(self.count),
                cause,
            ));
        }
    }

    /// The connection to take over the bytes, unless there is nothing to be found in them or, on TCP, they have been handled.
    #[inline(always)]
    fn begin<A: Access>(self) -> Option<&'static mut Connection> {
        let Self {
            program,
            socket,
            direction,
            sock,
            count,
        } = self;
        let connection = connections::find(sock, socket, direction, count)?;
        reentry::see::<A>(program, direction, sock, connection);
        if connection.is_ignored(direction) {
            return None;
        }
        if let Some(position) = socket::position::<A>(sock, connection, direction) {
            // Less than the call moved: it was handled, by way of another entry.
            if connection.ahead(direction, position) < count {
                return None;
            }
            let gap = connection.move_position(direction, position, count);
            unseen(direction, sock, connection, gap);
        }
        Some(connection)
    }
}

/// A call has moved so many messages over `sock`, nobody knows of how many bytes; on TCP the sequence number tells.
#[inline(always)]
pub fn messages_unseen(direction: Direction, sock: u64, messages: u32) -> Option<()> {
    let connection = connections::find(sock, Socket::Any, direction, 0)?;
    if connection.is_ignored(direction) {
        return None;
    }
    match socket::position::<Helper>(sock, connection, direction) {
        Some(position) => {
            let count = connection.move_position(direction, position, 0);
            unseen(direction, sock, connection, count);
        }
        None => found(advance_unseen(
            connection,
            direction,
            u64::from(messages),
            Loss::UnreadablePages,
        )),
    }
    Some(())
}

/// A call on a TCP socket has moved bytes, as many as its sequence number is ahead of where it was last seen. Of these
/// the last `transferred` are where `data` says.
///
/// By direction, so that each program has its own, inlined: if two called one, `data` would go there by way of the stack,
/// where the verifier of Linux 5.10 prunes what it may not, and takes out the wrong half of the code.
#[inline(always)]
pub fn moved<const RECEIVES: bool>(
    ctx: &impl EbpfContext,
    program: Program,
    sock: u64,
    transferred: u32,
    data: Data,
) {
    let direction = if RECEIVES {
        Direction::Received
    } else {
        Direction::Sent
    };
    run(ctx, program, direction, sock, |bytes| {
        if RECEIVES && matches!(data, Data::Discarded) {
            discarded(sock);
            return None;
        }
        let (connection, transferred) = catch_up(direction, sock, transferred)?;
        if transferred == 0 {
            return None;
        }
        locate::<Helper>(bytes, direction, connection, data, transferred)
    });
}

/// Takes a TCP connection over what no hook has seen, but for the last `transferred` bytes. Returns how many of these
/// there are to be looked at.
#[inline(always)]
pub fn catch_up(direction: Direction, sock: u64, transferred: u32) -> Option<(&'static mut Connection, u32)> {
    let connection = connections::seen(sock)?;
    if connection.is_ignored(direction) {
        return None;
    }
    let position = socket::position::<Helper>(sock, connection, direction)?;
    let ahead = connection.move_position(direction, position, 0);
    // More than went cannot have been moved: then what is said to be there is of another call.
    let transferred = if transferred <= ahead { transferred } else { 0 };
    unseen(direction, sock, connection, ahead.wrapping_sub(transferred));
    Some((connection, transferred))
}

/// A call on a TCP socket has thrown away what it received. Its iterator does not tell how much that was.
#[inline(always)]
fn discarded(sock: u64) -> Option<()> {
    let connection = connections::seen(sock)?;
    let position = socket::position::<Helper>(sock, connection, Direction::Received)?;
    let count = connection.move_position(Direction::Received, position, 0);
    let is_end = count == 1 && socket::is_shut_down(sock, Direction::Received);
    if count > 0 && !is_end && !connection.is_ignored(Direction::Received) {
        advance_discarded(connection, u64::from(count));
    }
    Some(())
}

/// `count` bytes of a TCP stream have gone by that no hook saw, or the end of the stream, which counts as one.
#[inline(always)]
fn unseen(direction: Direction, sock: u64, connection: &mut Connection, count: u32) {
    if count == 0 || (count == 1 && socket::is_shut_down(sock, direction)) {
        return;
    }
    found(advance_unseen(
        connection,
        direction,
        u64::from(count),
        Loss::UnreadablePages,
    ));
}

/// Finds the first byte of a call.
#[inline(always)]
fn locate<'a, A: Access>(
    bytes: &mut Bytes,
    direction: Direction,
    connection: &'a mut Connection,
    data: Data,
    transferred: u32,
) -> Option<&'a mut Connection> {
    if let Data::Discarded = data {
        advance_discarded(connection, u64::from(transferred));
        return None;
    }
    match bytes.locate::<A>(data, u64::from(transferred)) {
        Ok(()) => Some(connection),
        Err(cause) => {
            found(advance_unseen(
                connection,
                direction,
                u64::from(transferred),
                cause,
            ));
            None
        }
    }
}
