//! Who is counted: the process that made the call. Rows 9, 16 and 17.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;

use super::calls::{self, Receive, write_all};
use super::case::{Case, dialogue, special};
use super::client::Client;
use super::framing::{GET, NOT_FOUND, OK, plain};
use super::server::{self, RECEIVED, Server};
use super::slow_arrival::SlowArrival;

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = shared();
    cases.extend(short_lived());
    cases.extend(proxied());
    cases
}

/// Receives a request and answers it, as the calling process.
fn serve(server: &Server, socket: RawFd) {
    assert_eq!(Receive::Read(4096).exactly(socket, GET.len()), GET.as_bytes());
    server.request();
    write_all(socket, OK.as_bytes());
    server.response(200);
}

/// One request, answered.
fn ask(client: &mut Client) {
    client.send(GET.as_bytes());
    client.expect(OK.as_bytes());
}

fn ask_twice(client: &mut Client) {
    ask(client);
    ask(client);
}

/// A connection of its own for each request.
fn ask_anew(client: &mut Client, times: usize) {
    for _ in 0..times {
        ask(client);
        client.expect_end();
    }
}

/// A hundred times so many connections, each closed with its answer.
fn serve_hundreds(server: &mut Server, hundreds: usize) {
    for _ in 0..hundreds {
        for _ in 0..100 {
            let socket = server.accept();
            serve(server, socket.as_raw_fd());
        }
        // What it has said so far is to be heard: there is no room for all of it.
        server.say(RECEIVED);
    }
}

fn ask_hundreds(client: &mut Client, hundreds: usize) {
    for _ in 0..hundreds {
        ask_anew(client, 100);
        client.wait_for(RECEIVED);
    }
}

fn shared() -> Vec<Case> {
    vec![
        special(
            9,
            "threads that share a connection",
            |server| {
                let server: &Server = server;
                let socket = server.accept();
                let socket = socket.as_raw_fd();
                for _ in 0..2 {
                    thread::scope(|scope| {
                        scope.spawn(|| {
                            assert_eq!(Receive::Read(7).exactly(socket, GET.len()), GET.as_bytes());
                            server.request();
                        });
                    });
                    thread::scope(|scope| {
                        scope.spawn(|| {
                            write_all(socket, &OK.as_bytes()[..10]);
                        });
                    });
                    write_all(socket, &OK.as_bytes()[10..]);
                    server.response(200);
                }
            },
            ask_twice,
        ),
        special(
            9,
            "accepted by the parent, served by a forked child",
            |server| {
                for _ in 0..2 {
                    let socket = server.accept();
                    let child = server::fork(|| {
                        serve(server, socket.as_raw_fd());
                        serve(server, socket.as_raw_fd());
                        // Seen alive: the parent says when it may end.
                        server.say(RECEIVED);
                        server.hear();
                    });
                    let _: libc::pid_t = child;
                }
            },
            |client| {
                for _ in 0..2 {
                    ask_twice(client);
                    client.wait_for(RECEIVED);
                    client.reconnect();
                }
            },
        ),
        special(
            9,
            "forked before accepting",
            |server| {
                for _ in 0..2 {
                    server::fork(|| {
                        let socket = server.accept();
                        serve(server, socket.as_raw_fd());
                        server.say(RECEIVED);
                        server.hear();
                    });
                }
            },
            |client| {
                for _ in 0..2 {
                    ask(client);
                    client.wait_for(RECEIVED);
                    client.reconnect();
                }
            },
        ),
        special(
            9,
            "received by the parent, answered by a forked child",
            |server| {
                let socket = server.accept();
                assert_eq!(
                    Receive::Read(4096).exactly(socket.as_raw_fd(), GET.len()),
                    GET.as_bytes()
                );
                server.request();
                server::fork(|| {
                    write_all(socket.as_raw_fd(), OK.as_bytes());
                    server.response(200);
                    server.say(RECEIVED);
                    server.hear();
                });
            },
            |client| {
                ask(client);
                client.wait_for(RECEIVED);
            },
        ),
        special(
            9,
            "dup()ed descriptors",
            |server| {
                let socket = server.accept();
                let other = socket.try_clone().expect("a duplicate");
                let half = GET.len() / 2;
                Receive::Read(4096).exactly(socket.as_raw_fd(), half);
                Receive::Read(4096).exactly(other.as_raw_fd(), GET.len() - half);
                server.request();
                write_all(socket.as_raw_fd(), &OK.as_bytes()[..11]);
                drop(socket);
                write_all(other.as_raw_fd(), &OK.as_bytes()[11..]);
                server.response(200);
                serve(server, other.as_raw_fd());
            },
            ask_twice,
        ),
        special(
            9,
            "descriptors passed to another process",
            |server| {
                let (ours, theirs) = calls::socketpair(libc::SOCK_SEQPACKET);
                server::fork(|| {
                    for _ in 0..2 {
                        let (read, socket) = calls::take(theirs.as_raw_fd()).expect("a descriptor");
                        let left = GET.len() - read.len() + 1;
                        Receive::Read(4096).exactly(socket.as_raw_fd(), left);
                        server.request();
                        write_all(socket.as_raw_fd(), NOT_FOUND.as_bytes());
                        server.response(404);
                    }
                    server.say(RECEIVED);
                    server.hear();
                });
                // The first one whole, of the second the first ten bytes have been read.
                for already in [0, 10] {
                    let socket = server.accept();
                    let mut text = b"+".to_vec();
                    text.extend(Receive::Read(4096).exactly(socket.as_raw_fd(), already));
                    calls::pass(ours.as_raw_fd(), &text, socket.as_raw_fd());
                }
            },
            |client| {
                for _ in 0..2 {
                    client.send(GET.as_bytes());
                    client.expect(NOT_FOUND.as_bytes());
                    client.reconnect();
                }
                client.wait_for(RECEIVED);
            },
        ),
        dialogue(9, "a connection that is not closed at the end", plain()),
    ]
}

fn short_lived() -> Vec<Case> {
    vec![
        special(16, "a process for each connection, which exits after answering", |server| {
            for _ in 0..20 {
                let socket = server.accept();
                let child = server::fork(|| serve(server, socket.as_raw_fd()));
                drop(socket);
                server::wait(child);
            }
        }, |client| ask_anew(client, 20))
        .exits(),
        special(16, "a program for each connection (inetd, CGI)", |server| {
            for _ in 0..10 {
                let socket = server.accept();
                // A program that was there before, with the connection as its input and output: it reads the head and
                // answers. Its process is one of those that are gone.
                let script = "read -r line; while read -r header && [ \"$header\" != \"$(printf '\\r')\" ]; do :; done; \
                    printf 'HTTP/1.1 200 OK\\r\\nContent-Type: text/plain\\r\\nContent-Length: 2\\r\\n\\r\\nok'";
                let mut child = Command::new("/bin/sh");
                child
                    .args(["-c", script])
                    .stdin(Stdio::from(socket.try_clone().expect("a duplicate")))
                    .stdout(Stdio::from(socket));
                // SAFETY: nothing is done between fork and exec but what std does.
                unsafe { child.pre_exec(|| Ok(())) };
                assert!(child.status().expect("a shell").success());
                server.request();
                server.response(200);
            }
        }, |client| ask_anew(client, 10))
        .exits(),
        special(16, "a thread for each connection", |server| {
            for _ in 0..20 {
                let server: &Server = server;
                let socket = server.accept();
                thread::scope(|scope| {
                    scope.spawn(|| serve(server, socket.as_raw_fd()));
                });
            }
        }, |client| ask_anew(client, 20)),
        special(
            16,
            "300 connections, each closed with its answer",
            |server| serve_hundreds(server, 3),
            |client| ask_hundreds(client, 3),
        ),
        special(
            16,
            "requests that arrive just as their connections are first looked at",
            |server| serve_hundreds(server, 10),
            |client| {
                let slow = SlowArrival::where_possible();
                ask_hundreds(client, 10);
                assert!(slow.is_none_or(|slow| slow.has_happened()), "nothing was slowed down");
            },
        ),
        special(16, "a process that is killed with its connection open", |server| {
            let socket = server.accept();
            let child = server::fork(|| {
                serve(server, socket.as_raw_fd());
                server.say(RECEIVED);
                // SAFETY: no memory is touched.
                unsafe { libc::raise(libc::SIGKILL) };
            });
            let mut status = 0;
            // SAFETY: the status outlives the call.
            unsafe { libc::waitpid(child, &raw mut status, 0) };
        }, |client| {
            ask(client);
            client.wait_for(RECEIVED);
        })
        .exits(),
    ]
}

fn proxied() -> Vec<Case> {
    vec![special(
        17,
        "a proxy in the middle",
        |server| {
            // The application: another process behind a socket of its own.
            let application = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
            let address = application.local_addr().expect("an address");
            server::fork(|| {
                let (socket, _) = application.accept().expect("the proxy");
                for _ in 0..3 {
                    serve(server, socket.as_raw_fd());
                }
                server.say(RECEIVED);
                server.hear();
            });
            let client = server.accept();
            let upstream = std::net::TcpStream::connect(address).expect("the application");
            for _ in 0..3 {
                let asked = Receive::Read(4096).exactly(client.as_raw_fd(), GET.len());
                server.request();
                write_all(upstream.as_raw_fd(), &asked);
                let answer = Receive::Read(4096).exactly(upstream.as_raw_fd(), OK.len());
                write_all(client.as_raw_fd(), &answer);
                server.response(200);
            }
            // SAFETY: the descriptor is given up by its owner.
            drop(unsafe { OwnedFd::from_raw_fd(std::os::fd::IntoRawFd::into_raw_fd(client)) });
        },
        |client| {
            ask_twice(client);
            ask(client);
            client.wait_for(RECEIVED);
        },
    )]
}
