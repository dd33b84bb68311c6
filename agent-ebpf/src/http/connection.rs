//! Both directions of one connection, and what one has to know about the other.

use super::{
    direction::{Direction, RECEIVED, SENT},
    event::Event,
    h1::message::{Stream, stage},
};
use crate::abi::{CODE_UNKNOWN, Loss};

/// Which side of the connection the process is, as far as is known.
pub(super) struct Role;

impl Role {
    /// Not known yet.
    pub(super) const UNKNOWN: u8 = 0;
    /// It received a request line or sent a status line.
    pub(super) const SERVER: u8 = 1;
}

/// What went wrong on the connection and is not over yet.
pub(super) struct Lost;

impl Lost {
    /// Receiving lost its place, and that was counted.
    pub(super) const RECEIVING: u8 = 1;
    /// The same for sending.
    pub(super) const SENDING: u8 = 2;
    /// There may have been requests in what was received and could not be read.
    pub(super) const REQUESTS: u8 = 4;
}

/// What the eBPF programs remember of a connection: 72 bytes, fixed.
///
/// Each direction's program writes its own [`Stream`]. Of the rest, `methods` and `pushed` belong to the receiving
/// side and `popped` to the sending side, so that a process that receives on one CPU and sends on another at the
/// same time loses nothing. The other fields are written at moments when mostly only one side is at work; what could get
/// lost is a mark in `lost`, which a later message sets right.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Connection {
    pub(super) received: Stream,
    pub(super) sent: Stream,
    /// Methods of the outstanding requests: a ring of [`PIPELINE`](super::exchange::PIPELINE) times two bits.
    pub(super) methods: u64,
    /// Tells two sockets apart that had the same address one after the other.
    pub identity: u32,
    /// 1 if the connection has sequence numbers.
    has_positions: u8,
    /// 1 if it has none, and some client has opened it; see [`Self::set_accepted`].
    pub(super) is_accepted: u8,
    /// [`Self::pushed`] at the request that was counted when it arrived, the last one of those; the receiving side's.
    pub(super) counted: u16,
    /// Requests received, modulo 2^16.
    pub(super) pushed: u16,
    /// Final responses sent, modulo 2^16.
    pub(super) popped: u16,
    /// One of [`Role`].
    pub(super) role: u8,
    /// 1 if the connection was seen from its first byte, 0 if it was open before.
    pub(super) seen_from_start: u8,
    /// How often a connection of unknown role looked like something else: received in the lower four bits, sent in
    /// the upper four.
    doubts: u8,
    /// Bits of [`Lost`].
    pub(super) lost: u8,
}

impl Connection {
    /// A connection first seen now: `seen_from_start` tells whether this is its first byte.
    #[inline(always)]
    #[must_use]
    pub fn new(identity: u32, seen_from_start: bool) -> Self {
        Self {
            identity,
            seen_from_start: u8::from(seen_from_start),
            ..Self::default()
        }
    }

    /// True if nothing that goes that way will ever be counted: the caller can stop here.
    #[inline(always)]
    #[must_use]
    pub fn is_ignored(&self, direction: Direction) -> bool {
        let stage = match direction {
            Direction::Received => self.received.stage,
            Direction::Sent => self.sent.stage,
        };
        stage == stage::REJECTED || stage == stage::TUNNEL
    }

    /// Sets the TCP sequence number of the byte after the last one seen in each direction.
    #[inline(always)]
    pub fn set_positions(&mut self, received: u32, sent: u32) {
        self.received.position = received;
        self.sent.position = sent;
        self.has_positions = 1;
    }

    /// Notes that a socket without sequence numbers was accepted from a listener. Others are mostly pairs, over which a
    /// program may write a response as it may into a pipe.
    #[inline(always)]
    pub fn set_accepted(&mut self) {
        self.is_accepted = 1;
    }

    /// True if [`Self::set_positions`] was called: the connection is TCP.
    #[inline(always)]
    #[must_use]
    pub fn has_positions(&self) -> bool {
        self.has_positions == 1
    }

    /// How far a sequence number is ahead of where the stream was last seen; 0 if it is behind.
    #[inline(always)]
    #[must_use]
    pub fn ahead(&self, direction: Direction, position: u32) -> u32 {
        let ahead = match direction {
            Direction::Received => position.wrapping_sub(self.received.position),
            Direction::Sent => position.wrapping_sub(self.sent.position),
        };
        if ahead < 1 << 31 { ahead } else { 0 }
    }

    /// Notes that a call took the stream from sequence number `end - len` to `end`, and returns how many bytes
    /// before that no hook saw: spliced or sent from pages, or moved by a call that was missed.
    #[inline(always)]
    pub fn move_position(&mut self, direction: Direction, end: u32, len: u32) -> u32 {
        let stream = match direction {
            Direction::Received => &mut self.received,
            Direction::Sent => &mut self.sent,
        };
        let gap = end.wrapping_sub(len).wrapping_sub(stream.position);
        stream.position = end;
        // Two threads on one socket may be seen in the other order than they ran: then the difference is negative.
        if gap < 1 << 31 { gap } else { 0 }
    }

    /// Notes that there may have been requests in what was received before the connection was first seen.
    #[inline(always)]
    pub fn begin_unread(&mut self) {
        self.lost |= Lost::REQUESTS;
    }

    /// Notes that the first thing to be seen may be the response to a request that was counted, before the connection's state
    /// had to make room.
    #[inline(always)]
    pub fn begin_answering(&mut self) {
        self.pushed = 1;
    }

    /// True once a message has shown that the process is a server here.
    #[inline(always)]
    #[must_use]
    pub fn is_server(&self) -> bool {
        self.role == Role::SERVER
    }

    /// True until the first message.
    #[inline(always)]
    pub(super) fn is_new(&self) -> bool {
        self.role == Role::UNKNOWN
    }

    /// A call begins: where the place in the stream is unknown, a message may begin with it.
    #[inline(always)]
    pub fn begin_call(&mut self, direction: Direction) {
        let stream = match direction {
            Direction::Received => &mut self.received,
            Direction::Sent => &mut self.sent,
        };
        if stream.stage == stage::LOST {
            stream.enter(stage::START);
        }
    }

    #[inline(always)]
    pub(super) fn stream<const DIRECTION: bool>(&mut self) -> &mut Stream {
        if DIRECTION == RECEIVED {
            &mut self.received
        } else {
            &mut self.sent
        }
    }

    /// The bytes ahead are not what HTTP has there.
    #[inline(always)]
    pub(super) fn mismatch<const DIRECTION: bool>(&mut self) -> Event {
        if self.role == Role::SERVER {
            if DIRECTION == RECEIVED && self.received.stage <= stage::TARGET {
                // A bad request line, or what follows one. If it is answered, it counts.
                self.received.enter(stage::LOST);
                return Event::NONE;
            }
            if DIRECTION == SENT {
                // Whatever it is, no other answer comes to what was asked. If one does, it counts as one.
                self.popped = self.pushed;
            }
            return self.lose_place::<DIRECTION>(Loss::OutOfSync);
        }
        // A connection that was open before it could be watched may be in the middle of a body, so one look proves
        // nothing, nor do many at a long transfer: other protocols are known by talking both ways.
        let doubts = self.doubts;
        if self.seen_from_start == 0 && doubts != u8::MAX {
            let (all, one) = if DIRECTION == RECEIVED {
                (0x0f, 0x01)
            } else {
                (0xf0, 0x10)
            };
            if doubts & all != all {
                self.doubts = doubts + one;
            }
            self.stream::<DIRECTION>().enter(stage::LOST);
            return Event::NONE;
        }
        self.stream::<DIRECTION>().enter(stage::REJECTED);
        // Who sends anything else than a status line is a client, or speaks another protocol. Who receives
        // something else may still answer it with 400.
        if DIRECTION == SENT {
            self.received.enter(stage::REJECTED);
        }
        Event::NONE
    }

    /// The place in the stream is unknown from here on. Counted once, until it is found again.
    #[inline(always)]
    pub(super) fn lose_place<const DIRECTION: bool>(&mut self, cause: Loss) -> Event {
        self.stream::<DIRECTION>().enter(stage::LOST);
        let bit = if DIRECTION == RECEIVED {
            Lost::RECEIVING
        } else {
            Lost::SENDING
        };
        if self.lost & bit != 0 {
            return Event::NONE;
        }
        self.lost |= bit;
        Event::loss(cause)
    }

    /// The process threw `count` bytes away that it received. It knew why: what was in them counts if it is answered.
    #[inline(always)]
    pub(super) fn discarded(&mut self, count: u64) {
        if !self.unseen::<RECEIVED>(count, Loss::UnreadablePages).is_none() {
            // No loss, unless there is an answer.
            self.lost &= !Lost::RECEIVING;
        }
    }

    /// `count` bytes went by that could not be looked at, because of `cause`.
    #[inline(always)]
    pub(super) fn unseen<const DIRECTION: bool>(&mut self, count: u64, cause: Loss) -> Event {
        let stream = self.stream::<DIRECTION>();
        let skippable = stream.skippable();
        let skipped = if skippable < count { skippable } else { count };
        stream.skip(skipped);
        let stage = stream.stage;
        if skipped == count && stage != stage::LOST {
            return Event::NONE;
        }
        if DIRECTION == RECEIVED {
            self.lost |= Lost::REQUESTS;
        }
        if skipped == count {
            return Event::NONE;
        }
        let between_messages = stage == stage::START;
        if self.role == Role::UNKNOWN {
            self.seen_from_start = 0;
            self.stream::<DIRECTION>().enter(stage::LOST);
            return Event::NONE;
        }
        if DIRECTION == SENT && between_messages && self.pushed != self.popped {
            let event = Event::response(CODE_UNKNOWN).with(self.answered(CODE_UNKNOWN));
            self.take_method();
            return event.with(self.lose_place::<SENT>(cause));
        }
        self.lose_place::<DIRECTION>(cause)
    }
}

const _: () = assert!(size_of::<Connection>() == 72);
