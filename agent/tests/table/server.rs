//! The servers: processes of this binary, forked from one that has no threads. Each knows one case, and says over a
//! socket of its own what it has received and sent. That is the truth.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process;

use super::calls;
use super::case::{Case, Play, Transport, Turn};

/// The first message: the server's pid and its address.
pub(crate) const LISTENING: &str = "listening ";
/// All bytes of a turn are received.
pub(crate) const RECEIVED: &str = "received";
/// The case is over.
pub(crate) const DONE: &str = "done";
/// A request line was received, by the pid before it.
pub(crate) const REQUEST: &str = "request";

/// Seconds after which a call that nobody answers fails.
pub(crate) const PATIENCE: i64 = 30;

/// Calls that wait longer than [`PATIENCE`] fail.
pub(crate) fn be_impatient(fd: RawFd) {
    let time = libc::timeval {
        tv_sec: PATIENCE,
        tv_usec: 0,
    };
    for option in [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO] {
        // SAFETY: the value outlives the call and has the size given.
        unsafe {
            libc::setsockopt(
                fd,
                libc::SOL_SOCKET,
                option,
                (&raw const time).cast(),
                size_of_val(&time).try_into().expect("small"),
            );
        }
    }
}

/// One message over a `SOCK_SEQPACKET` socket.
pub(crate) fn say(control: RawFd, text: &str) {
    // SAFETY: the text outlives the call.
    let sent = unsafe { libc::send(control, text.as_ptr().cast(), text.len(), libc::MSG_NOSIGNAL) };
    calls::check("send", sent);
}

/// The next message; nothing when the other side is gone.
pub(crate) fn hear(control: RawFd) -> Option<String> {
    let text = calls::read_some(control, 256);
    (!text.is_empty()).then(|| String::from_utf8(text).expect("text"))
}

/// Forks a process that does `child` and ends. Only in processes without threads.
pub(crate) fn fork(child: impl FnOnce()) -> libc::pid_t {
    // SAFETY: there are no other threads, so the child may do anything.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
    if pid == 0 {
        let code = match catch_unwind(AssertUnwindSafe(child)) {
            Ok(()) => 0,
            Err(_panic) => 101,
        };
        // SAFETY: ends the process, without what its parent has to clean up.
        unsafe { libc::_exit(code) };
    }
    pid
}

/// Waits for a child and fails with it.
pub(crate) fn wait(pid: libc::pid_t) {
    let mut status = 0;
    // SAFETY: the status outlives the call.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert_eq!((waited, status), (pid, 0), "a process of the server failed");
}

/// The process that the servers are forked from. Orders are messages "index transport cgroup" with the server's
/// control socket.
pub(crate) fn fork_servers(cases: &[Case]) {
    // SAFETY: whoever started this gave it a socket as its standard input; nobody else uses it.
    let orders = unsafe { OwnedFd::from_raw_fd(0) };
    // SAFETY: no handler is installed; the servers that have ended need not be waited for.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    while let Some((order, control)) = calls::take(orders.as_raw_fd()) {
        let order = String::from_utf8(order).expect("text");
        let words: Vec<&str> = order.split(' ').collect();
        let [index, transport, cgroup] = words[..] else {
            panic!("an order of three words, not {order}");
        };
        let case = &cases[index.parse::<usize>().expect("an index")];
        let transport = match transport {
            "Tcp4" => Transport::Tcp4,
            "Tcp6" => Transport::Tcp6,
            _ => Transport::Unix,
        };
        fork(|| {
            // SAFETY: no pointers; the case may have children of its own, and none of them outlives the tests.
            unsafe {
                libc::signal(libc::SIGCHLD, libc::SIG_DFL);
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            }
            if !cgroup.is_empty() {
                let file = format!("{cgroup}/cgroup.procs");
                fs::write(file, process::id().to_string()).expect("a cgroup of its own");
            }
            let mut server = Server::new(transport, control);
            match &case.play {
                Play::Dialogue { turns, .. } => server.play(case, turns),
                Play::Special { serve, .. } => serve(&mut server),
            }
            server.say(DONE);
            // Lives on, so that it is found by its pid.
            let _ = server.hear();
        });
    }
}

/// One server process.
pub(crate) struct Server {
    control: OwnedFd,
    listener: OwnedFd,
}

impl Server {
    fn new(transport: Transport, control: OwnedFd) -> Self {
        let (listener, address) = listen(transport);
        be_impatient(listener.as_raw_fd());
        say(
            control.as_raw_fd(),
            &format!("{LISTENING}{} {address}", process::id()),
        );
        Self { control, listener }
    }

    pub(crate) fn say(&self, text: &str) {
        say(self.control.as_raw_fd(), text);
    }

    pub(crate) fn hear(&self) -> Option<String> {
        hear(self.control.as_raw_fd())
    }

    /// This process has received a request line.
    pub(crate) fn request(&self) {
        self.say(&format!("{} {REQUEST}", process::id()));
    }

    /// This process has sent a status line.
    pub(crate) fn response(&self, code: u16) {
        self.say(&format!("{} {code}", process::id()));
    }

    pub(crate) fn accept(&self) -> OwnedFd {
        // SAFETY: null pointers ask for no address; the descriptor is ours alone.
        unsafe {
            let socket = libc::accept4(
                self.listener.as_raw_fd(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                libc::SOCK_CLOEXEC,
            );
            assert!(socket >= 0, "accept: {}", std::io::Error::last_os_error());
            be_impatient(socket);
            calls::set_option(socket, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
            OwnedFd::from_raw_fd(socket)
        }
    }

    fn play(&self, case: &Case, turns: &[Turn]) {
        let mut socket = self.accept();
        for turn in turns {
            if matches!(turn, Turn::Reconnect) {
                // Closed before the next one is awaited.
                drop(socket);
                socket = self.accept();
            } else {
                self.turn(case, turn, socket.as_raw_fd());
            }
        }
    }

    /// One turn over a connection, by this process.
    pub(crate) fn turn(&self, case: &Case, turn: &Turn, socket: RawFd) {
        let Play::Dialogue {
            receive: receives,
            send: sends,
            ..
        } = &case.play
        else {
            return;
        };
        match turn {
            Turn::In {
                pieces,
                requests,
                receive,
            } => {
                let expected = pieces.concat();
                let way = receive.as_ref().unwrap_or(receives);
                let bytes = way.exactly(socket, expected.len());
                assert!(
                    bytes == expected || matches!(way, calls::Receive::Discard),
                    "{}: received {:?}",
                    case.name,
                    bytes.escape_ascii().to_string()
                );
                for _ in 0..*requests {
                    self.request();
                }
                self.say(RECEIVED);
            }
            Turn::Out { bytes, codes, send } => {
                send.as_ref().unwrap_or(sends).all(socket, bytes);
                for code in codes {
                    self.response(*code);
                }
            }
            // Told by the client.
            Turn::AgentStarts => assert!(self.hear().is_some(), "the agent did not start"),
            Turn::Reconnect => {}
        }
    }
}

fn listen(transport: Transport) -> (OwnedFd, String) {
    let tcp = |listener: TcpListener| {
        let address = listener.local_addr().expect("an address").to_string();
        (listener.into(), address)
    };
    match transport {
        Transport::Tcp4 => tcp(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port")),
        Transport::Tcp6 => tcp(TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).expect("a port")),
        Transport::Unix => {
            let name = format!("accuracy-{}", process::id());
            let address = SocketAddr::from_abstract_name(&name).expect("a short name");
            (
                UnixListener::bind_addr(&address).expect("a name").into(),
                format!("@{name}"),
            )
        }
    }
}
