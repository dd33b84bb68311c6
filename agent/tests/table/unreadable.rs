//! Connections of which no byte can be read, what passes them on, and who opened one: rows 22, 24 and 25.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::process::{self, Command};

use super::calls::{Receive, Ring, Send, read_some, write_all};
use super::case::{BOTH, Case, Counts, Mode, TCP, Turn, dialogue, request, response, special};
use super::framing::{GET, NOT_FOUND, OK};
use super::server::{self, RECEIVED, REQUEST, Server};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = rings();
    cases.push(thirty_two_bits());
    cases.extend(relays());
    cases.push(clients());
    cases
}

const NEITHER: &str = "neither direction can be read by this hook: connections_unreadable";
const NOT_SEEN: &str = "io_uring on unix sockets is not seen by this hook";

/// Nothing at all.
fn nothing(counts: &mut Counts) {
    *counts = Counts::default();
}

/// `io_uring` both ways, over two connections.
fn rings() -> Vec<Case> {
    let turns = || {
        vec![
            request(GET),
            response(200, OK),
            request(GET),
            response(404, NOT_FOUND),
            Turn::Reconnect,
            request(GET),
            response(200, OK),
            Turn::Reconnect,
        ]
    };
    let is_not_seen = |mode: &Mode| mode.is_sys_exit() && mode.is_unix();
    let mut cases = Vec::new();
    for (name, ring) in [
        ("IORING_OP_READ and WRITE", Ring::Plain),
        ("IORING_OP_RECV and SEND", Ring::Socket),
        ("IORING_OP_RECV and SEND by a worker", Ring::Worker),
        ("IORING_OP_RECV into provided buffers, and SEND", Ring::Provided),
    ] {
        cases.push(
            dialogue(22, format!("by io_uring both ways: {name}"), turns())
                .receiving(Receive::Ring(ring))
                .sending(Send::Ring(ring))
                .over(BOTH)
                .except(NOT_SEEN, is_not_seen, nothing, &[])
                .except(NEITHER, Mode::is_tracepoint, nothing, &[])
                .unreadable(|mode| {
                    let is_seen = !(mode.is_sys_exit() && mode.is_unix());
                    2 * u64::from(mode.is_tracepoint() && is_seen)
                }),
        );
    }
    cases.push(
        dialogue(22, "by io_uring both ways: registered buffers", turns())
            .receiving(Receive::Ring(Ring::Fixed))
            .sending(Send::Ring(Ring::Fixed))
            .over(BOTH)
            .except(NOT_SEEN, is_not_seen, nothing, &[])
            .except(NEITHER, Mode::is_any, nothing, &[])
            .unreadable(|mode| 2 * u64::from(!(mode.is_sys_exit() && mode.is_unix()))),
    );
    cases
}

/// A program of 32 bits, whose calls have numbers and layouts of their own.
fn thirty_two_bits() -> Case {
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    special(
        22,
        "a program of 32 bits",
        |server| {
            let program = std::env::temp_dir().join(format!("thirty-two-{}", process::id()));
            let built = Command::new("gcc")
                .args(
                    "-m32 -O1 -static -nostdlib -ffreestanding -fno-pie -no-pie -fno-stack-protector"
                        .split(' '),
                )
                .arg("-o")
                .arg(&program)
                .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/table/thirty_two.c"))
                .status();
            assert!(built.is_ok_and(|status| status.success()), "gcc -m32");
            let socket = server.accept();
            let child = server::fork(|| {
                // SAFETY: no pointers. It is not to outlive the server.
                unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
                let error = Command::new(&program)
                    .stdin(socket.try_clone().expect("a duplicate"))
                    .stdout(socket.try_clone().expect("a duplicate"))
                    .exec();
                panic!("{}: {error}", program.display());
            });
            drop(socket);
            for _ in 0..2 {
                server.say(&format!("{child} {REQUEST}"));
                server.say(&format!("{child} 200"));
            }
            server.say(RECEIVED);
            server.hear();
            fs::remove_file(&program).expect("the program");
        },
        |client| {
            for _ in 0..2 {
                client.send(GET.as_bytes());
                client.expect(ANSWER);
            }
            client.close();
            client.wait_for(RECEIVED);
            client.tell("the program has answered");
        },
    )
    .over(BOTH)
    .except(
        "calls of 32-bit programs on unix sockets are not seen by this hook",
        |mode| mode.is_sys_exit() && mode.is_unix(),
        nothing,
        &[],
    )
    .except(NEITHER, Mode::is_tracepoint, nothing, &[])
    .unreadable(|mode| u64::from(mode.is_tracepoint() && !(mode.is_sys_exit() && mode.is_unix())))
}

/// What answers behind a relay, in a process of its own: this many connections, of three requests each.
fn origin(server: &Server, connections: usize) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    server::fork(|| {
        for _ in 0..connections {
            let (socket, _) = listener.accept().expect("the relay");
            for _ in 0..3 {
                assert_eq!(
                    Receive::Read(4096).exactly(socket.as_raw_fd(), GET.len()),
                    GET.as_bytes()
                );
                server.request();
                write_all(socket.as_raw_fd(), OK.as_bytes());
                server.response(200);
            }
        }
        server.say(RECEIVED);
        server.hear();
    });
    TcpStream::connect(address).expect("the origin")
}

/// One that copies is the server of those who ask it; of one that splices nothing can be read.
fn relays() -> Vec<Case> {
    vec![
        special(
            25,
            "a relay that copies",
            |server| {
                let client = server.accept();
                let upstream = origin(server, 1);
                for _ in 0..3 {
                    let asked = Receive::Read(4096).exactly(client.as_raw_fd(), GET.len());
                    server.request();
                    write_all(upstream.as_raw_fd(), &asked);
                    let answer = Receive::Read(4096).exactly(upstream.as_raw_fd(), OK.len());
                    write_all(client.as_raw_fd(), &answer);
                    server.response(200);
                }
            },
            |client| {
                for _ in 0..3 {
                    client.send(GET.as_bytes());
                    client.expect(OK.as_bytes());
                }
                client.wait_for(RECEIVED);
            },
        )
        .over(BOTH),
        special(
            25,
            "a relay that splices",
            |server| {
                let client = server.accept();
                let upstream = origin(server, 1);
                for _ in 0..3 {
                    let asked = Receive::Splice.exactly(client.as_raw_fd(), GET.len());
                    Send::Splice.all(upstream.as_raw_fd(), &asked);
                    let answer = Receive::Splice.exactly(upstream.as_raw_fd(), OK.len());
                    Send::Splice.all(client.as_raw_fd(), &answer);
                }
            },
            |client| {
                for _ in 0..3 {
                    client.send(GET.as_bytes());
                    client.expect(OK.as_bytes());
                }
                client.wait_for(RECEIVED);
            },
        )
        .over(TCP)
        .unreadable(|_| 1),
    ]
}

/// The one that opened the connection reads first, and is sent what looks like requests.
fn are_asked(accepted: &OwnedFd, opened: &OwnedFd) {
    for _ in 0..3 {
        write_all(accepted.as_raw_fd(), GET.as_bytes());
        assert_eq!(read_some(opened.as_raw_fd(), 4096), GET.as_bytes());
        write_all(opened.as_raw_fd(), OK.as_bytes());
        assert_eq!(read_some(accepted.as_raw_fd(), 4096), OK.as_bytes());
    }
}

/// The process has both ends. Over that which it opened it is sent request lines, and answers them: it is the client there.
fn clients() -> Case {
    special(
        24,
        "a client that reads first and is sent request lines",
        |_| {
            for address in ["127.0.0.1:0", "[::1]:0"] {
                let listener = TcpListener::bind(address).expect("a port");
                let opened = TcpStream::connect(listener.local_addr().expect("an address")).expect("TCP");
                let (accepted, _) = listener.accept().expect("a connection");
                are_asked(&accepted.into(), &opened.into());
            }
            let name = format!("roles-{}", process::id());
            let address = SocketAddr::from_abstract_name(name).expect("a short name");
            let listener = UnixListener::bind_addr(&address).expect("a name");
            let opened = UnixStream::connect_addr(&address).expect("a unix socket");
            let (accepted, _) = listener.accept().expect("a connection");
            are_asked(&accepted.into(), &opened.into());
        },
        |_| {},
    )
}
