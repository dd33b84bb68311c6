//! What a case is: a row of docs/reference/accuracy.md, what the two sides do, and what is known not to be exact.

use std::collections::BTreeMap;
use std::fmt;

use super::calls::{Receive, Send, WHOLE};
use super::client::Client;
use super::server::Server;
use testkit::live::Codes;

/// What a connection goes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp4,
    Tcp6,
    Unix,
}

pub(crate) use Transport::{Tcp4, Tcp6, Unix};

/// All three.
pub(crate) const ALL: &[Transport] = &[Tcp4, Tcp6, Unix];
/// The two that differ to the hooks.
pub(crate) const BOTH: &[Transport] = &[Tcp4, Unix];
/// One is enough.
pub(crate) const TCP: &[Transport] = &[Tcp4];

/// Requests received and responses sent, by code.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) requests: u64,
    pub(crate) codes: Codes,
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        for (code, count) in &other.codes {
            *self.codes.entry(code.clone()).or_default() += count;
        }
    }

    /// Takes away responses of this code.
    pub(crate) fn without(&mut self, code: u16, count: u64) {
        let left = self.codes.get_mut(&code.to_string()).expect("the code was sent");
        *left -= count;
        self.codes.retain(|_, count| *count > 0);
    }

    /// Responses without a code.
    pub(crate) fn unknown(&mut self, count: u64) {
        *self.codes.entry("unknown".to_owned()).or_default() += count;
    }
}

impl fmt::Debug for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} requests, responses {:?}", self.requests, self.codes)
    }
}

/// By pid.
pub(crate) type Truth = BTreeMap<u32, Counts>;

/// What a case runs on.
#[derive(Clone, Debug)]
pub(crate) struct Mode {
    pub(crate) hook: String,
    /// Major and minor version.
    pub(crate) kernel: (u32, u32),
    pub(crate) transport: Transport,
}

impl Mode {
    pub(crate) fn is_any(&self) -> bool {
        let _ = self;
        true
    }

    pub(crate) fn is_tracepoint(&self) -> bool {
        self.hook == "tracepoint"
    }

    /// The hook `tracepoint` where it has tracepoints for sockets only.
    pub(crate) fn is_socket_tracepoint(&self) -> bool {
        self.is_tracepoint() && self.kernel >= (6, 3)
    }

    /// The hook `tracepoint` where it sees the ends of system calls.
    pub(crate) fn is_sys_exit(&self) -> bool {
        self.is_tracepoint() && self.kernel < (6, 3)
    }

    pub(crate) fn is_unix(&self) -> bool {
        self.transport == Unix
    }
}

/// A limitation.
pub(crate) struct Exception {
    /// As docs/reference/limitations.md has it.
    pub(crate) reason: &'static str,
    /// Where.
    pub(crate) holds: fn(&Mode) -> bool,
    /// What is counted instead.
    pub(crate) counted: fn(&mut Counts),
    /// What is counted as lost, no more and no less.
    pub(crate) losses: &'static [(&'static str, u64)],
    /// Whether the losses are its processes'. At a connection's end nobody knows whose it was.
    pub(crate) have_owner: bool,
}

/// A step of a conversation over one connection.
#[derive(Clone, Debug)]
pub(crate) enum Turn {
    /// The client sends these, the server receives them and has then got so many whole request lines.
    In {
        /// One write each, with a pause between them.
        pieces: Vec<Vec<u8>>,
        requests: u64,
        receive: Option<Receive>,
    },
    /// The server sends these, and with them the status lines of these codes.
    Out {
        bytes: Vec<u8>,
        codes: Vec<u16>,
        send: Option<Send>,
    },
    /// The connection is closed by the server, and there is a new one.
    Reconnect,
    /// The agent starts here.
    AgentStarts,
}

impl Turn {
    pub(crate) fn receiving(mut self, way: Receive) -> Self {
        if let Self::In { receive, .. } = &mut self {
            *receive = Some(way);
        }
        self
    }

    pub(crate) fn sending(mut self, way: Send) -> Self {
        if let Self::Out { send, .. } = &mut self {
            *send = Some(way);
        }
        self
    }
}

/// Bytes with so many request lines in them.
pub(crate) fn requests(count: u64, bytes: impl Into<Vec<u8>>) -> Turn {
    Turn::In {
        pieces: vec![bytes.into()],
        requests: count,
        receive: None,
    }
}

/// Bytes with a request line in them, or its end.
pub(crate) fn request(bytes: impl Into<Vec<u8>>) -> Turn {
    requests(1, bytes)
}

/// Received bytes that end no request line.
pub(crate) fn more(bytes: impl Into<Vec<u8>>) -> Turn {
    requests(0, bytes)
}

/// Bytes with status lines of these codes in them.
pub(crate) fn responses(codes: &[u16], bytes: impl Into<Vec<u8>>) -> Turn {
    Turn::Out {
        bytes: bytes.into(),
        codes: codes.to_vec(),
        send: None,
    }
}

/// Bytes with a status line in them, or its end.
pub(crate) fn response(code: u16, bytes: impl Into<Vec<u8>>) -> Turn {
    responses(&[code], bytes)
}

/// Sent bytes that end no status line.
pub(crate) fn rest(bytes: impl Into<Vec<u8>>) -> Turn {
    responses(&[], bytes)
}

/// What the two sides do.
pub(crate) enum Play {
    Dialogue {
        turns: Vec<Turn>,
        receive: Receive,
        send: Send,
    },
    Special {
        serve: fn(&mut Server),
        ask: fn(&mut Client),
    },
}

pub(crate) struct Case {
    pub(crate) row: u8,
    pub(crate) name: String,
    pub(crate) over: &'static [Transport],
    pub(crate) play: Play,
    pub(crate) exceptions: Vec<Exception>,
    /// Its processes exit before they are looked at: they are known by their cgroup.
    pub(crate) exits: bool,
}

/// A case of one conversation, by plain calls over TCP.
pub(crate) fn dialogue(row: u8, name: impl Into<String>, turns: Vec<Turn>) -> Case {
    Case {
        row,
        name: name.into(),
        over: TCP,
        play: Play::Dialogue {
            turns,
            receive: Receive::Read(WHOLE),
            send: Send::Write(WHOLE),
        },
        exceptions: Vec::new(),
        exits: false,
    }
}

/// A case that no conversation over one connection tells.
pub(crate) fn special(row: u8, name: &str, serve: fn(&mut Server), ask: fn(&mut Client)) -> Case {
    Case {
        play: Play::Special { serve, ask },
        ..dialogue(row, name, Vec::new())
    }
}

impl Case {
    pub(crate) fn over(mut self, over: &'static [Transport]) -> Self {
        self.over = over;
        self
    }

    pub(crate) fn receiving(mut self, way: Receive) -> Self {
        if let Play::Dialogue { receive, .. } = &mut self.play {
            *receive = way;
        }
        self
    }

    pub(crate) fn sending(mut self, way: Send) -> Self {
        if let Play::Dialogue { send, .. } = &mut self.play {
            *send = way;
        }
        self
    }

    /// A limitation where `holds` says so.
    pub(crate) fn except(
        mut self,
        reason: &'static str,
        holds: fn(&Mode) -> bool,
        counted: fn(&mut Counts),
        losses: &'static [(&'static str, u64)],
    ) -> Self {
        self.exceptions.push(Exception {
            reason,
            holds,
            counted,
            losses,
            have_owner: true,
        });
        self
    }

    /// The losses of the exception before this are noticed at the connection's end.
    pub(crate) fn at_the_end(mut self) -> Self {
        if let Some(exception) = self.exceptions.last_mut() {
            exception.have_owner = false;
        }
        self
    }

    pub(crate) fn exits(mut self) -> Self {
        self.exits = true;
        self
    }
}
