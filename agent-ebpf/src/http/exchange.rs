//! Requests and the responses to them: which of those that were received are still to be answered, and what that means for how
//! the next response is framed.

use super::{
    connection::{Connection, Lost, Role},
    event::Event,
    h1::message::stage,
};
use crate::abi::Loss;

/// Outstanding requests whose method is remembered on one connection.
pub(super) const PIPELINE: u16 = 32;

/// `408 Request Timeout`: what some servers say before they close a connection on which nothing was asked.
const REQUEST_TIMEOUT: u16 = 408;

/// What a request's method means for the framing of its response (RFC 9112 section 6.3). Two bits.
pub(super) struct Method;

impl Method {
    /// Nothing.
    pub(super) const OTHER: u8 = 0;
    /// The response has no body.
    pub(super) const HEAD: u8 = 1;
    /// A successful response turns the connection into a tunnel.
    pub(super) const CONNECT: u8 = 2;
}

impl Connection {
    /// A request line was received.
    #[inline(always)]
    pub(super) fn request(&mut self, method: u8) -> Event {
        let outstanding = self.pushed.wrapping_sub(self.popped);
        // A client that sends another request has seen the end of the response before it: so that had one, and the
        // next thing to be sent is a response.
        if outstanding == 0 {
            self.methods = 0;
            if self.sent.stage == stage::UNTIL_CLOSE {
                self.sent.enter(stage::LOST);
            } else if self.sent.stage == stage::LOST {
                self.sent.enter(stage::START);
            }
        }
        // What is forgotten matters only among requests whose responses are framed differently.
        let too_deep = outstanding >= PIPELINE && (self.methods != 0 || method != Method::OTHER);
        let at = (self.pushed % PIPELINE) * 2;
        self.methods = (self.methods & !(3 << at)) | (u64::from(method) << at);
        self.pushed = self.pushed.wrapping_add(1);
        self.role = Role::SERVER;
        self.lost &= !(Lost::RECEIVING | Lost::REQUESTS);
        if too_deep {
            return Event::REQUEST.with(Event::loss(Loss::PipelineTooDeep));
        }
        Event::REQUEST
    }

    /// A final status line is sent: was what it answers no request line, or not a whole one, or could it not be read, or did
    /// no hook see it? What is answered was asked. That requests were not read is counted now, if the connection was not
    /// known to be HTTP before.
    #[inline(always)]
    pub(super) fn answered(&mut self, code: u16) -> Event {
        if self.pushed != self.popped || code == REQUEST_TIMEOUT {
            return Event::NONE;
        }
        // What was there before may have been the body of a request that was counted, or not.
        if self.seen_from_start == 1 {
            if matches!(
                self.received.stage,
                stage::REJECTED | stage::METHOD | stage::TARGET
            ) {
                self.received.enter(stage::LOST);
                return Event::ANSWERED;
            }
            if self.lost & (Lost::REQUESTS | Lost::RECEIVING) == 0 && self.is_accepted == 1 {
                // Without sequence numbers it shows only now that bytes went unseen.
                self.lost |= Lost::REQUESTS;
            }
        }
        if self.lost & Lost::REQUESTS == 0 {
            return Event::NONE;
        }
        if self.lost & Lost::RECEIVING != 0 {
            return Event::ANSWERED;
        }
        self.lost |= Lost::RECEIVING;
        Event::ANSWERED.with(Event::loss(Loss::UnreadablePages))
    }

    /// The connection becomes a tunnel: what looked like further requests was the tunnel's.
    #[inline(always)]
    pub(super) fn tunnelled(&self) -> Event {
        if self.pushed == self.popped {
            Event::NONE
        } else {
            Event::loss(Loss::OutOfSync)
        }
    }

    /// A final status line was sent: the method of the request it answers. Without one (the request came before
    /// this connection could be watched, or this is an unasked-for 408) nothing special.
    #[inline(always)]
    pub(super) fn take_method(&mut self) -> u8 {
        self.lost &= !Lost::SENDING;
        // What was not taken for a request was answered, so this is a server after all.
        if self.received.stage == stage::REJECTED {
            self.received.enter(stage::LOST);
        }
        if self.pushed == self.popped {
            return Method::OTHER;
        }
        let at = (self.popped % PIPELINE) * 2;
        self.popped = self.popped.wrapping_add(1);
        (self.methods >> at) as u8 & 3
    }
}
