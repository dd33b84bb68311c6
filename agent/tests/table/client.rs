//! The client of a case, in the process of the tests, and the truth as the server tells it.

use std::net::TcpStream;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::thread;
use std::time::Duration;

use super::calls;
use super::case::{Truth, Turn};
use super::server::{DONE, LISTENING, RECEIVED, REQUEST, be_impatient, hear, say};

/// Longer than a server needs to see the first of two pieces as a call of its own.
const PAUSE: Duration = Duration::from_millis(20);

pub(crate) struct Client {
    control: OwnedFd,
    /// Of the server.
    pid: u32,
    address: String,
    socket: Option<OwnedFd>,
    truth: Truth,
    /// The server has come to the end of the case. What it has forked may not have.
    is_done: bool,
}

impl Client {
    /// Waits until the server listens.
    pub(crate) fn new(control: OwnedFd) -> Self {
        be_impatient(control.as_raw_fd());
        let address = hear(control.as_raw_fd()).expect("a server");
        let (pid, address) = address
            .strip_prefix(LISTENING)
            .and_then(|it| it.split_once(' '))
            .expect("pid and address first");
        Self {
            control,
            pid: pid.parse().expect("a pid"),
            address: address.to_owned(),
            socket: None,
            truth: Truth::new(),
            is_done: false,
        }
    }

    /// A new connection.
    pub(crate) fn connect(&self) -> OwnedFd {
        let socket: OwnedFd = if let Some(name) = self.address.strip_prefix('@') {
            let address = SocketAddr::from_abstract_name(name).expect("a short name");
            UnixStream::connect_addr(&address).expect("a connection").into()
        } else {
            let stream = TcpStream::connect(&self.address).expect("a connection");
            stream.set_nodelay(true).expect("a TCP socket");
            stream.into()
        };
        be_impatient(socket.as_raw_fd());
        socket
    }

    /// The connection of a conversation.
    pub(crate) fn socket(&mut self) -> &OwnedFd {
        if self.socket.is_none() {
            self.socket = Some(self.connect());
        }
        self.socket.as_ref().expect("just connected")
    }

    /// Closes the connection and opens a new one.
    pub(crate) fn reconnect(&mut self) {
        self.socket = None;
        self.socket();
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        calls::write_all(self.socket().as_raw_fd(), bytes);
    }

    /// The server must send exactly this next.
    #[track_caller]
    pub(crate) fn expect(&mut self, bytes: &[u8]) {
        let socket = self.socket().as_raw_fd();
        let got = calls::Receive::Read(1 << 16).exactly(socket, bytes.len());
        assert!(
            got == bytes,
            "the client received {:?}",
            got.escape_ascii().to_string()
        );
    }

    /// The server must close the connection.
    #[track_caller]
    pub(crate) fn expect_end(&mut self) {
        let got = calls::read_some(self.socket().as_raw_fd(), 1);
        assert!(got.is_empty(), "the client received more than expected");
        self.socket = None;
    }

    pub(crate) fn play(&mut self, turns: &[Turn]) {
        for turn in turns {
            match turn {
                Turn::In { pieces, .. } => {
                    for (index, piece) in pieces.iter().enumerate() {
                        if index > 0 {
                            thread::sleep(PAUSE);
                        }
                        self.send(piece);
                    }
                    self.wait_for(RECEIVED);
                }
                Turn::Out { bytes, .. } => self.expect(bytes),
                Turn::Reconnect => {
                    self.expect_end();
                    self.socket();
                }
                Turn::AgentStarts => say(self.control.as_raw_fd(), "the agent has started"),
            }
        }
    }

    /// Waits for the server to say this, and keeps what it says about requests and responses meanwhile.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, awaited: &str) {
        loop {
            let text = hear(self.control.as_raw_fd()).expect("the server lives");
            self.is_done |= text == DONE;
            if text == awaited {
                return;
            }
            if text == DONE {
                continue;
            }
            let (pid, what) = text.split_once(' ').expect("a pid and what it did");
            let counts = self.truth.entry(pid.parse().expect("a pid")).or_default();
            if what == REQUEST {
                counts.requests += 1;
            } else {
                *counts.codes.entry(what.to_owned()).or_default() += 1;
            }
        }
    }

    /// Waits for the end of the case. The server lives on until what is returned first is dropped. It is in the truth
    /// even if it did nothing.
    pub(crate) fn finish(mut self) -> (OwnedFd, Truth) {
        if !self.is_done {
            self.wait_for(DONE);
        }
        self.truth.entry(self.pid).or_default();
        (self.control, self.truth)
    }
}
