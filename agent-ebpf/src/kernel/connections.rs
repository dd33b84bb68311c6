//! The framing state of every connection, by the address of its `struct sock`.

use agent_ebpf::{
    abi::{Loss, Setting},
    http::{Connection, Direction, advance_unseen},
};
use aya_ebpf::{
    bindings::BPF_NOEXIST,
    macros::map,
    maps::{Array, LruHashMap},
};

use super::{
    counters::{add, lose, lose_of_nobody},
    layout::setting,
    memory::{Helper, field},
    transport::socket::{
        Socket, inode_number, is_locked, is_made_after_attaching, is_shut_down, is_tcp, position,
        received_before,
    },
};

/// Least recently used ones make room: those are idle, and an idle connection mostly stands between two messages, where
/// starting afresh loses nothing. Where it does not, that is [`Loss::ConnectionEvicted`].
#[map]
static CONNECTIONS: LruHashMap<u64, Connection> = LruHashMap::with_max_entries(65536, 0);

/// How many connections are in [`CONNECTIONS`]. Once that is more than [`Setting::ConnectionsKept`] it only grows: some
/// may have made room since.
#[map]
static REMEMBERED: Array<u64> = Array::with_max_entries(1, 0);

/// The connection of a socket over which `transferred` bytes have just gone (0 if that is not known), with the sequence numbers taken to
/// before these bytes if it is new. Nothing if the socket is of a kind that is not counted.
#[inline(always)]
pub fn find(
    sock: u64,
    socket: Socket,
    direction: Direction,
    transferred: u32,
) -> Option<&'static mut Connection> {
    seen(sock).or_else(|| open(sock, socket, direction, transferred))
}

/// The connection that is known by this address, if it is the same one: the program that sees sockets go may have
/// been left out ([`super::hooks::fexit`]), and their memory is soon another socket's.
#[inline(always)]
pub fn seen(sock: u64) -> Option<&'static mut Connection> {
    // SAFETY: map values stay valid while the program runs; see `Connection` about other CPUs.
    let connection = unsafe { &mut *CONNECTIONS.get_ptr_mut(&sock)? };
    let ends_seen = if connection.has_positions() {
        Setting::TcpEndsSeen
    } else {
        Setting::UnixEndsSeen
    };
    // Two reads of kernel memory, of which most calls on sockets that are not HTTP would consist.
    if setting(ends_seen) == 0 && connection.identity != inode_number(sock)? {
        return None;
    }
    Some(connection)
}

#[inline(never)]
fn open(
    sock: u64,
    socket: Socket,
    direction: Direction,
    transferred: u32,
) -> Option<&'static mut Connection> {
    let identity = inode_number(sock)?;
    let tcp = match socket {
        Socket::Tcp => true,
        Socket::Unix => false,
        Socket::Any => is_tcp(sock)?,
    };
    let connection = if tcp {
        let mut received: u32 = field(sock, Setting::TcpCopiedSeq)?;
        let mut sent: u32 = field(sock, Setting::TcpWriteSeq)?;
        match direction {
            Direction::Received => received = received.wrapping_sub(transferred),
            Direction::Sent => sent = sent.wrapping_sub(transferred),
        }
        let from_start = is_from_start(sock, identity, direction, received)?;
        let mut connection = Connection::new(identity, from_start);
        if !from_start && direction == Direction::Sent && !are_all_remembered() {
            connection.begin_answering();
        }
        if !from_start && is_made_after_attaching(identity) {
            // Nothing is known of what was received before, or of how much this call receives. If it was seen, the
            // requests in it have been counted.
            if are_all_remembered()
                && (direction == Direction::Sent || (socket == Socket::Any && transferred == 0))
            {
                connection.begin_unread();
            } else {
                lose(Loss::ConnectionEvicted as u32);
            }
        }
        connection.set_positions(received, sent);
        connection
    } else {
        // There are no numbers to tell by.
        let mut connection = Connection::new(
            identity,
            is_made_after_attaching(identity) && are_all_remembered(),
        );
        if direction == Direction::Sent && !are_all_remembered() {
            connection.begin_answering();
        }
        // Accepted sockets have the name of the one that listened; MPTCP ones have a value in this place or not.
        if field::<u64>(sock, Setting::UnixAddress).is_some_and(|address| address != 0) {
            connection.set_accepted();
        }
        connection
    };
    remember(sock, &connection)?;
    seen(sock)
}

/// True if a TCP socket's process had received nothing before the sequence number `received`.
#[inline(always)]
fn is_from_start(sock: u64, identity: u32, direction: Direction, received: u32) -> Option<bool> {
    if received_before(sock, direction, received)? <= 1 {
        return Some(true);
    }
    if !is_made_after_attaching(identity) {
        return Some(false);
    }
    // What is arriving at this moment looks like that, too: `tcp_rcv_nxt_update` adds to the one number and then sets the
    // other, and what the kernel does between the two may take long. A new connection that has not been seen is more
    // likely. Before a send it is not: sockets are locked for each acknowledgement.
    let arriving = direction == Direction::Received && are_all_remembered() && is_locked(sock)?;
    Some(arriving || received_before(sock, direction, received)? <= 1)
}

#[inline(always)]
fn remember(sock: u64, connection: &Connection) -> Option<()> {
    if CONNECTIONS
        .insert(&sock, connection, u64::from(BPF_NOEXIST))
        .is_ok()
    {
        add(REMEMBERED.get_ptr_mut(0)?, 1);
    } else if CONNECTIONS.insert(&sock, connection, 0).is_err() {
        // In the second place there is that of another socket, whose end was not seen.
        lose(Loss::ConnectionsFull as u32);
        return None;
    }
    Some(())
}

/// True if no connection can have made room for another until now.
#[inline(always)]
fn are_all_remembered() -> bool {
    REMEMBERED
        .get(0)
        .is_some_and(|count| *count <= u64::from(setting(Setting::ConnectionsKept)))
}

/// Forgets a TCP socket that is no more. If bytes went last that no hook saw, there is no later call to tell.
#[inline(always)]
pub fn close_tcp(sock: u64) {
    // Its descriptor is gone, and with it the inode: the address has to do.
    if let Some(connection) = CONNECTIONS.get_ptr_mut(&sock) {
        // SAFETY: map values stay valid while the program runs; see `Connection` about other CPUs.
        let connection = unsafe { &mut *connection };
        if let Some(position) = position::<Helper>(sock, connection, Direction::Sent) {
            let unseen = connection.move_position(Direction::Sent, position, 0);
            // A FIN takes one. A connection that is reset jumps ahead, and is not shut down any more (`tcp_disconnect`).
            if unseen > 1 && is_shut_down(sock, Direction::Sent) {
                let cause = Loss::UnreadablePages;
                let event = advance_unseen(connection, Direction::Sent, u64::from(unseen - 1), cause);
                // The last segment comes in whatever task is interrupted.
                if let Some(cause) = event.loss_index() {
                    lose_of_nobody(cause);
                }
            }
        }
        close(sock);
    }
}

/// Forgets a socket that is no more.
#[inline(always)]
pub fn close(sock: u64) {
    // Most sockets that go were never looked at.
    if CONNECTIONS.remove(&sock).is_ok()
        && are_all_remembered()
        && let Some(count) = REMEMBERED.get_ptr_mut(0)
    {
        add(count, -1);
    }
}
