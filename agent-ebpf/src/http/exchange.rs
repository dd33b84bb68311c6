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

/// Outstanding requests at most; more are not noted, and count with their answers all the same.
const OUTSTANDING_MAX: u16 = (1 << 15) - 1;

impl Connection {
    /// A request line was received. It counts now if it is the only one without an answer: then the process has to do with
    /// it. One behind another may never be looked at, because the connection ends with the one before (RFC 9112 sections 9.3
    /// and 9.6): it counts with its answer.
    #[inline(always)]
    pub(super) fn request(&mut self, method: u8) -> Event {
        if self.is_new() {
            // What was taken to be outstanding was none; see `begin_answering`.
            self.pushed = self.popped;
        }
        let outstanding = self.pushed.wrapping_sub(self.popped);
        let mut event = Event::NONE;
        if outstanding == 0 {
            self.methods = 0;
            // A client that sends another request has seen the end of the response before it: so that had one, and the
            // next thing to be sent is a response.
            if self.sent.stage == stage::UNTIL_CLOSE {
                self.sent.enter(stage::LOST);
            } else if self.sent.stage == stage::LOST {
                self.sent.enter(stage::START);
            }
            self.counted = self.pushed;
            event = Event::REQUEST;
        } else if self.pushed.wrapping_sub(self.counted) > OUTSTANDING_MAX {
            // Or its number would come up again.
            self.counted = self.pushed.wrapping_sub(OUTSTANDING_MAX + 1);
        }
        // What is forgotten matters only among requests whose responses are framed differently.
        let too_deep = outstanding >= PIPELINE && (self.methods != 0 || method != Method::OTHER);
        let at = (self.pushed % PIPELINE) * 2;
        self.methods = (self.methods & !(3 << at)) | (u64::from(method) << at);
        if outstanding < OUTSTANDING_MAX {
            self.pushed = self.pushed.wrapping_add(1);
        }
        self.role = Role::SERVER;
        self.lost &= !(Lost::RECEIVING | Lost::REQUESTS);
        if too_deep {
            return event.with(Event::loss(Loss::PipelineTooDeep));
        }
        event
    }

    /// A final status line is sent. What it answers counts now if it did not when it arrived: because it was behind another
    /// one, was no request line or not a whole one, could not be read, was taken for a body, or came before the
    /// connection could be watched. A response implies a request.
    #[inline(always)]
    pub(super) fn answered(&mut self, code: u16) -> Event {
        if self.pushed != self.popped {
            let is_counted = self.counted == self.popped;
            return if is_counted { Event::NONE } else { Event::ANSWERED };
        }
        if code == REQUEST_TIMEOUT {
            return Event::NONE;
        }
        // Without sequence numbers it shows only now that bytes went unseen.
        let is_unseen =
            self.received.stage == stage::START && self.seen_from_start == 1 && self.is_accepted == 1;
        if self.received.stage != stage::START {
            // What is answered is not to come, and where the next one begins is not known.
            self.received.enter(stage::LOST);
        }
        let unread = self.lost & (Lost::REQUESTS | Lost::RECEIVING);
        if unread == Lost::REQUESTS || (unread == 0 && is_unseen) {
            self.lost |= Lost::REQUESTS | Lost::RECEIVING;
            return Event::ANSWERED.with(Event::loss(Loss::UnreadablePages));
        }
        Event::ANSWERED
    }

    /// A final status line was sent: the method of the request it answers. Without one (the request came before
    /// this connection could be watched, or this is an unasked-for 408) nothing special.
    #[inline(always)]
    pub(super) fn take_method(&mut self) -> u8 {
        self.lost &= !Lost::SENDING;
        if self.pushed == self.popped {
            return Method::OTHER;
        }
        let at = (self.popped % PIPELINE) * 2;
        self.popped = self.popped.wrapping_add(1);
        (self.methods >> at) as u8 & 3
    }
}
