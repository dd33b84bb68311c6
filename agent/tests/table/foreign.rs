//! What is not HTTP, or not over a stream socket: row 13. Nothing is counted and nothing is lost.

use std::ffi::CString;
use std::fs::{self, File};
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::process;

use super::calls::{self, Receive, read_some, write_all};
use super::case::{BOTH, Case, Turn, dialogue, more, rest, special};
use super::framing::{GET, OK};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = protocols();
    cases.extend(no_sockets());
    cases
}

/// A conversation in another protocol; whoever speaks first is the first in it.
fn protocol(name: &str, turns: Vec<Turn>) -> Case {
    dialogue(13, name, turns).over(BOTH)
}

fn protocols() -> Vec<Case> {
    let hello = b"\x16\x03\x01\x00\xc4\x01\x00\x00\xc0\x03\x03GET / HTTP/1.1\r\n\r\n".as_slice();
    let server_hello = b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03HTTP/1.1 200 OK\r\n\r\n".as_slice();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".as_slice();
    vec![
        protocol(
            "the preface of HTTP/2",
            vec![
                more(preface),
                rest(b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64".as_slice()),
                rest(OK),
                more(GET),
            ],
        ),
        protocol("TLS", vec![more(hello), rest(server_hello), more(GET), rest(OK)]),
        protocol(
            "PROXY protocol before TLS",
            vec![
                more("PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n"),
                more(hello),
                rest(server_hello),
            ],
        ),
        protocol(
            "Redis",
            vec![
                more("PING\r\n"),
                rest("+PONG\r\n"),
                more("*3\r\n$3\r\nSET\r\n$1\r\na\r\n$18\r\nGET / HTTP/1.1\r\n\r\n\r\n"),
                rest("+OK\r\n"),
                more("GET a\r\n"),
                rest("$15\r\nHTTP/1.1 200 OK\r\n"),
            ],
        ),
        protocol(
            "PostgreSQL",
            vec![
                more(b"\0\0\0\x08\x04\xd2\x16\x2f".as_slice()),
                rest("N"),
                more(b"\0\0\0\x1f\0\x03\0\0user\0GET / HTTP/1.1\0\0".as_slice()),
                rest(b"R\0\0\0\x08\0\0\0\0".as_slice()),
                rest(OK),
            ],
        ),
        protocol(
            "SMTP",
            vec![
                rest("220 mail.example.org ESMTP\r\n"),
                more("EHLO test\r\n"),
                rest("250 OK\r\n"),
                more("DATA\r\n"),
                rest("354 Go ahead\r\n"),
                more("GET / HTTP/1.1\r\nHost: a\r\n\r\n.\r\n"),
                rest(OK),
            ],
        ),
        protocol(
            "SSH",
            vec![
                rest("SSH-2.0-OpenSSH_9.2\r\n"),
                more("SSH-2.0-OpenSSH_9.2\r\n"),
                rest(OK),
                more(GET),
            ],
        ),
        protocol(
            "memcached",
            vec![
                more("get a\r\n"),
                rest("VALUE a 0 15\r\nHTTP/1.1 200 OK\r\nEND\r\n"),
                more(GET),
                rest("ERROR\r\n"),
            ],
        ),
    ]
}

/// Writes both messages at one end, reads them at the other.
fn exchange(write: RawFd, read: RawFd) {
    for text in [GET, OK] {
        write_all(write, text.as_bytes());
        assert_eq!(Receive::Read(4096).exactly(read, text.len()).len(), text.len());
    }
}

fn no_sockets() -> Vec<Case> {
    vec![
        special(
            13,
            "a regular file",
            |_| {
                let path = std::env::temp_dir().join(format!("accuracy-file-{}", process::id()));
                let write = File::create(&path).expect("a file");
                let read = File::open(&path).expect("the file");
                exchange(write.as_raw_fd(), read.as_raw_fd());
                fs::remove_file(path).expect("the file");
            },
            |_| {},
        ),
        special(
            13,
            "a pipe",
            |_| {
                let (output, input) = calls::pipe();
                exchange(input.as_raw_fd(), output.as_raw_fd());
            },
            |_| {},
        ),
        special(
            13,
            "a named pipe",
            |_| {
                let path = std::env::temp_dir().join(format!("accuracy-fifo-{}", process::id()));
                let name = CString::new(path.as_os_str().as_encoded_bytes()).expect("no zero in it");
                // SAFETY: a C string.
                assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
                let both = File::options()
                    .read(true)
                    .write(true)
                    .open(&path)
                    .expect("the pipe");
                exchange(both.as_raw_fd(), both.as_raw_fd());
                fs::remove_file(path).expect("the pipe");
            },
            |_| {},
        ),
        special(
            13,
            "a terminal",
            |_| {
                let (mut ours, mut theirs) = (0, 0);
                // SAFETY: room for two descriptors, which then are ours alone; no name and no settings are asked for.
                let (ours, theirs) = unsafe {
                    let opened = libc::openpty(
                        &raw mut ours,
                        &raw mut theirs,
                        std::ptr::null_mut(),
                        std::ptr::null_mut(),
                        std::ptr::null_mut(),
                    );
                    assert_eq!(opened, 0, "openpty");
                    (OwnedFd::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs))
                };
                for text in [GET, OK] {
                    write_all(ours.as_raw_fd(), text.as_bytes());
                    assert!(!read_some(theirs.as_raw_fd(), 4096).is_empty());
                    write_all(theirs.as_raw_fd(), text.as_bytes());
                    assert!(!read_some(ours.as_raw_fd(), 4096).is_empty());
                }
            },
            |_| {},
        ),
        special(
            13,
            "UDP",
            |_| {
                for address in ["127.0.0.1:0", "[::1]:0"] {
                    let one = UdpSocket::bind(address).expect("a port");
                    let other = UdpSocket::bind(address).expect("a port");
                    one.connect(other.local_addr().expect("an address")).expect("UDP");
                    other.connect(one.local_addr().expect("an address")).expect("UDP");
                    for (text, from, to) in [(GET, &one, &other), (OK, &other, &one)] {
                        write_all(from.as_raw_fd(), text.as_bytes());
                        assert_eq!(read_some(to.as_raw_fd(), 4096), text.as_bytes());
                    }
                }
            },
            |_| {},
        ),
        special(
            13,
            "unix datagrams",
            |_| {
                let (one, other) = UnixDatagram::pair().expect("two sockets");
                for (text, from, to) in [(GET, &one, &other), (OK, &other, &one)] {
                    write_all(from.as_raw_fd(), text.as_bytes());
                    assert_eq!(read_some(to.as_raw_fd(), 4096), text.as_bytes());
                }
            },
            |_| {},
        ),
        special(
            13,
            "unix packets",
            |_| {
                let (one, other) = calls::socketpair(libc::SOCK_SEQPACKET);
                for (text, from, to) in [(GET, &one, &other), (OK, &other, &one)] {
                    write_all(from.as_raw_fd(), text.as_bytes());
                    assert_eq!(read_some(to.as_raw_fd(), 4096), text.as_bytes());
                }
            },
            |_| {},
        ),
    ]
}
