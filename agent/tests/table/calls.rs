//! Every way there is to receive and to send bytes over a socket, as the exact system calls.

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::thread;
use std::time::Duration;

use io_uring::{IoUring, opcode, squeue, types};
use libc::{c_int, iovec, mmsghdr, msghdr};

/// A way to receive.
#[derive(Clone, Debug)]
pub(crate) enum Receive {
    /// `read`, at most so many bytes at a time.
    Read(usize),
    /// `recvfrom`, asking for the address.
    Recvfrom,
    /// `readv` with iovecs of these sizes, and one for the rest.
    Readv(Vec<usize>),
    /// `preadv2` at the current position.
    Preadv2(Vec<usize>),
    /// `recvmsg`.
    Recvmsg(Vec<usize>),
    /// `recvmmsg`: a message of so many bytes, then one for the rest.
    Recvmmsg(usize),
    /// `recv` with `MSG_PEEK` for so many bytes, before each `recv`.
    Peek(usize),
    /// `recvmsg` with `MSG_PEEK`, before each `recvmsg`.
    PeekMessage(Vec<usize>),
    /// `recv` with `MSG_DONTWAIT` until there is something.
    DontWait,
    /// `O_NONBLOCK` and `poll`; an `EAGAIN` before each.
    Poll,
    /// `recv` with `MSG_WAITALL`.
    WaitAll,
    /// `recv` when all is there: not in pieces, as the other ways on TCP if the sender is slower.
    Whole,
    /// `recv` with `MSG_TRUNC`, which throws the bytes away on TCP.
    Discard,
    /// `splice` into a pipe.
    Splice,
    /// `io_uring`.
    Ring(Ring),
}

/// A way to send.
#[derive(Clone, Debug)]
pub(crate) enum Send {
    /// `write`, at most so many bytes at a time.
    Write(usize),
    /// `sendto`.
    Sendto,
    /// `writev` with iovecs of these sizes, and one for the rest.
    Writev(Vec<usize>),
    /// `pwritev2` at the current position.
    Pwritev2(Vec<usize>),
    /// `sendmsg`.
    Sendmsg(Vec<usize>),
    /// `sendmmsg` with messages of these sizes, and one for the rest.
    Sendmmsg(Vec<usize>),
    /// So many bytes with `MSG_MORE`, then the rest.
    More(usize),
    /// `O_NONBLOCK`, a small buffer and `poll`: partial writes.
    Poll,
    /// The head by `write`, the rest by `sendfile`.
    SendfileBody,
    /// All by `sendfile`.
    Sendfile,
    /// The head by `write`, the rest by `splice` from a pipe.
    SpliceBody,
    /// All by `splice` from a pipe.
    Splice,
    /// `send` with `MSG_ZEROCOPY`.
    ZeroCopy,
    /// `io_uring`.
    Ring(Ring),
}

/// An operation of `io_uring`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ring {
    /// `IORING_OP_READ`, `IORING_OP_WRITE`.
    Plain,
    /// `IORING_OP_READV`, `IORING_OP_WRITEV` with two iovecs.
    Vector,
    /// `IORING_OP_RECV`, `IORING_OP_SEND`.
    Socket,
    /// `IORING_OP_RECVMSG`, `IORING_OP_SENDMSG` with two iovecs.
    Message,
    /// As [`Ring::Socket`], by a worker of the kernel (`IOSQE_ASYNC`).
    Worker,
}

/// No limit.
pub(crate) const WHOLE: usize = usize::MAX;

/// What a system call returned, or the end of the process with its error.
#[track_caller]
pub(crate) fn check(call: &str, result: isize) -> usize {
    usize::try_from(result).unwrap_or_else(|_negative| panic!("{call}: {}", io::Error::last_os_error()))
}

#[track_caller]
fn check_int(call: &str, result: c_int) -> c_int {
    assert!(result >= 0, "{call}: {}", io::Error::last_os_error());
    result
}

fn would_block() -> bool {
    io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock
}

/// A pipe: where to read and where to write.
pub(crate) fn pipe() -> (OwnedFd, OwnedFd) {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors, which then are ours alone.
    unsafe {
        check_int("pipe2", libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC));
        (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1]))
    }
}

/// Two unix sockets, connected.
pub(crate) fn socketpair(kind: c_int) -> (OwnedFd, OwnedFd) {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors, which then are ours alone.
    unsafe {
        let result = libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr());
        check_int("socketpair", result);
        (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1]))
    }
}

/// A pipe with room for a large response.
fn wide_pipe() -> (OwnedFd, OwnedFd) {
    let (output, input) = pipe();
    // SAFETY: no pointers.
    let result = unsafe { libc::fcntl(input.as_raw_fd(), libc::F_SETPIPE_SZ, 1 << 20) };
    check_int("F_SETPIPE_SZ", result);
    (output, input)
}

/// A file in memory with this content, at its beginning.
pub(crate) fn file(content: &[u8]) -> OwnedFd {
    // SAFETY: the name is a C string, and the descriptor then ours alone; the content outlives the write.
    unsafe {
        let file = check_int("memfd_create", libc::memfd_create(c"response".as_ptr(), 0));
        let file = OwnedFd::from_raw_fd(file);
        write_all(file.as_raw_fd(), content);
        libc::lseek(file.as_raw_fd(), 0, libc::SEEK_SET);
        file
    }
}

/// One plain `write` after the other.
#[track_caller]
pub(crate) fn write_all(fd: RawFd, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        // SAFETY: the bytes outlive the call.
        let sent = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
        bytes = &bytes[check("write", sent)..];
    }
}

/// One plain `read`.
#[track_caller]
pub(crate) fn read_some(fd: RawFd, limit: usize) -> Vec<u8> {
    let mut bytes = vec![0; limit];
    // SAFETY: the buffer outlives the call.
    let got = unsafe { libc::read(fd, bytes.as_mut_ptr().cast(), bytes.len()) };
    bytes.truncate(check("read", got));
    bytes
}

pub(crate) fn set_option(fd: RawFd, level: c_int, option: c_int, value: c_int) -> bool {
    let size = libc::socklen_t::try_from(size_of::<c_int>()).expect("a small size");
    // SAFETY: the value outlives the call and has the size given.
    unsafe { libc::setsockopt(fd, level, option, (&raw const value).cast(), size) == 0 }
}

fn set_nonblocking(fd: RawFd, nonblocking: bool) {
    // SAFETY: no pointers.
    let result = unsafe { libc::fcntl(fd, libc::F_SETFL, if nonblocking { libc::O_NONBLOCK } else { 0 }) };
    check_int("F_SETFL", result);
}

fn wait_until(fd: RawFd, events: i16) {
    let mut poll = libc::pollfd {
        fd,
        events,
        revents: 0,
    };
    // SAFETY: one structure that outlives the call.
    check_int("poll", unsafe { libc::poll(&raw mut poll, 1, 30_000) });
}

/// The bytes in pieces of these sizes, and the rest.
fn iovecs(bytes: &mut [u8], sizes: &[usize]) -> Vec<iovec> {
    let mut rest = bytes;
    let mut vectors = Vec::new();
    for size in sizes.iter().copied().chain([WHOLE]) {
        let (part, behind) = rest.split_at_mut(size.min(rest.len()));
        vectors.push(iovec {
            iov_base: part.as_mut_ptr().cast(),
            iov_len: part.len(),
        });
        rest = behind;
        if rest.is_empty() {
            break;
        }
    }
    vectors
}

fn message(vectors: &mut [iovec]) -> msghdr {
    // SAFETY: all zero is a message of nothing.
    let mut message: msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = vectors.as_mut_ptr();
    message.msg_iovlen = vectors.len();
    message
}

fn count(vectors: &[iovec]) -> c_int {
    c_int::try_from(vectors.len()).expect("few")
}

/// Submits one operation and waits for its result.
#[track_caller]
fn run(operation: &squeue::Entry) -> usize {
    let mut ring = IoUring::new(4).expect("io_uring");
    // SAFETY: what the operation points to outlives it: its end is waited for.
    unsafe { ring.submission().push(operation).expect("room in the ring") };
    ring.submit_and_wait(1).expect("io_uring_enter");
    let result = ring.completion().next().expect("a completion").result();
    usize::try_from(result)
        .unwrap_or_else(|_negative| panic!("io_uring: {}", io::Error::from_raw_os_error(-result)))
}

impl Receive {
    /// Receives exactly so many bytes, in as many calls as it takes.
    #[track_caller]
    pub(crate) fn exactly(&self, fd: RawFd, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        let mut at = 0;
        while at < count {
            let got = self.once(fd, &mut bytes[at..]);
            assert!(got > 0, "{self:?}: the end after {at} of {count} bytes");
            at += got;
        }
        bytes
    }

    fn once(&self, fd: RawFd, bytes: &mut [u8]) -> usize {
        let (start, len) = (bytes.as_mut_ptr().cast::<c_void>(), bytes.len());
        let short = u32::try_from(len).expect("short");
        let fixed = types::Fd(fd);
        // SAFETY: as in all calls below, buffer, vectors and messages live until the call is over.
        let recv = |len, flags| unsafe { libc::recv(fd, start, len, flags) };
        let result = match self {
            // SAFETY: as above.
            Self::Read(limit) => unsafe { libc::read(fd, start, len.min(*limit)) },
            Self::Recvfrom => {
                let mut address = [0_u8; 128];
                let mut size: libc::socklen_t = 128;
                // SAFETY: as above.
                unsafe { libc::recvfrom(fd, start, len, 0, address.as_mut_ptr().cast(), &raw mut size) }
            }
            Self::Readv(sizes) => {
                let vectors = iovecs(bytes, sizes);
                // SAFETY: as above.
                unsafe { libc::readv(fd, vectors.as_ptr(), count(&vectors)) }
            }
            Self::Preadv2(sizes) => {
                let vectors = iovecs(bytes, sizes);
                // SAFETY: as above.
                unsafe { libc::preadv2(fd, vectors.as_ptr(), count(&vectors), -1, 0) }
            }
            Self::Recvmsg(sizes) => receive_message(fd, bytes, sizes, 0),
            Self::Recvmmsg(first) => receive_messages(fd, bytes, *first),
            Self::Peek(ahead) => {
                let peeked = check("recv", recv(len.min(*ahead), libc::MSG_PEEK));
                // As much as was seen, and what has come since.
                assert!(peeked > 0);
                recv(len, 0)
            }
            Self::PeekMessage(sizes) => {
                receive_message(fd, bytes, sizes, libc::MSG_PEEK);
                receive_message(fd, bytes, sizes, 0)
            }
            Self::DontWait => loop {
                let result = recv(len, libc::MSG_DONTWAIT);
                if result >= 0 || !would_block() {
                    break result;
                }
                thread::sleep(Duration::from_micros(200));
            },
            Self::Poll => {
                set_nonblocking(fd, true);
                let result = loop {
                    // SAFETY: as above.
                    let result = unsafe { libc::read(fd, start, len) };
                    if result >= 0 || !would_block() {
                        break result;
                    }
                    wait_until(fd, libc::POLLIN);
                };
                set_nonblocking(fd, false);
                result
            }
            Self::WaitAll => recv(len, libc::MSG_WAITALL),
            Self::Whole => {
                // Room for all, and for what the kernel keeps beside it.
                let room = c_int::try_from(len).expect("short").saturating_mul(4);
                assert!(set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, room));
                let mut there: c_int = 0;
                while usize::try_from(there).expect("a count") < len {
                    thread::sleep(Duration::from_millis(1));
                    // SAFETY: the count outlives the call.
                    check_int("ioctl", unsafe {
                        libc::ioctl(fd, libc::FIONREAD, &raw mut there)
                    });
                }
                recv(len, 0)
            }
            Self::Discard => recv(len, libc::MSG_TRUNC),
            Self::Splice => {
                let (output, input) = wide_pipe();
                // SAFETY: no pointers.
                let moved = unsafe {
                    libc::splice(
                        fd,
                        ptr::null_mut(),
                        input.as_raw_fd(),
                        ptr::null_mut(),
                        len.min(1 << 20),
                        0,
                    )
                };
                let moved = check("splice", moved);
                // SAFETY: as above.
                unsafe { libc::read(output.as_raw_fd(), start, moved) }
            }
            Self::Ring(ring) => {
                let mut vectors = iovecs(bytes, &[10]);
                let mut message = message(&mut vectors);
                return run(&match ring {
                    Ring::Plain => opcode::Read::new(fixed, start.cast(), short).build(),
                    Ring::Vector => {
                        let count = u32::try_from(vectors.len()).expect("few");
                        opcode::Readv::new(fixed, vectors.as_ptr(), count).build()
                    }
                    Ring::Socket => opcode::Recv::new(fixed, start.cast(), short).build(),
                    Ring::Message => opcode::RecvMsg::new(fixed, &raw mut message).build(),
                    Ring::Worker => opcode::Recv::new(fixed, start.cast(), short)
                        .build()
                        .flags(squeue::Flags::ASYNC),
                });
            }
        };
        // The end of a ring may interrupt the next call.
        if result < 0 && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted {
            return self.once(fd, bytes);
        }
        check("a receiving call", result)
    }
}

fn receive_message(fd: RawFd, bytes: &mut [u8], sizes: &[usize], flags: c_int) -> isize {
    let mut vectors = iovecs(bytes, sizes);
    let mut message = message(&mut vectors);
    // SAFETY: the message and what it points to outlive the call.
    unsafe { libc::recvmsg(fd, &raw mut message, flags) }
}

/// `recvmmsg` does not wait for a second message.
fn receive_messages(fd: RawFd, bytes: &mut [u8], first: usize) -> isize {
    let len = bytes.len();
    let mut vectors = iovecs(bytes, &[first]);
    let mut messages: Vec<mmsghdr> = vectors
        .iter_mut()
        .map(|vector| mmsghdr {
            msg_hdr: message(std::slice::from_mut(vector)),
            msg_len: 0,
        })
        .collect();
    let many = u32::try_from(messages.len()).expect("few");
    // SAFETY: the messages and what they point to outlive the call.
    let result = unsafe {
        libc::recvmmsg(
            fd,
            messages.as_mut_ptr(),
            many,
            libc::MSG_WAITFORONE,
            ptr::null_mut(),
        )
    };
    let done = check("recvmmsg", result as isize);
    let lengths: Vec<usize> = messages[..done].iter().map(|it| it.msg_len as usize).collect();
    // On a stream a message is filled before the next one, except at the end.
    assert!(
        lengths.len() < 2 || lengths[0] == first.min(len),
        "recvmmsg left a hole"
    );
    isize::try_from(lengths.iter().sum::<usize>()).expect("short")
}

impl Send {
    /// Sends all of it, in as many calls as it takes.
    #[track_caller]
    pub(crate) fn all(&self, fd: RawFd, bytes: &[u8]) {
        match self {
            Self::Write(limit) => bytes.chunks(*limit).for_each(|part| write_all(fd, part)),
            Self::SendfileBody | Self::SpliceBody => {
                let head = bytes.windows(4).position(|it| it == b"\r\n\r\n").expect("a head") + 4;
                write_all(fd, &bytes[..head]);
                if matches!(self, Self::SendfileBody) {
                    send_file(fd, &bytes[head..]);
                } else {
                    splice(fd, &bytes[head..]);
                }
            }
            Self::Sendfile => send_file(fd, bytes),
            Self::Splice => splice(fd, bytes),
            Self::More(first) => {
                let (now, later) = bytes.split_at(*first);
                assert_eq!(send(fd, now, libc::MSG_MORE), now.len());
                assert_eq!(send(fd, later, 0), later.len());
            }
            Self::Poll => {
                set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, 4096);
                set_nonblocking(fd, true);
                let mut rest = bytes;
                while !rest.is_empty() {
                    // SAFETY: the bytes outlive the call.
                    let sent = unsafe { libc::write(fd, rest.as_ptr().cast(), rest.len()) };
                    if sent < 0 && would_block() {
                        wait_until(fd, libc::POLLOUT);
                    } else {
                        rest = &rest[check("write", sent)..];
                    }
                }
                set_nonblocking(fd, false);
            }
            _ => {
                let mut bytes = bytes.to_vec();
                let mut at = 0;
                while at < bytes.len() {
                    at += self.once(fd, &mut bytes[at..]);
                }
            }
        }
    }

    fn once(&self, fd: RawFd, bytes: &mut [u8]) -> usize {
        let short = u32::try_from(bytes.len()).expect("short");
        let start = bytes.as_ptr();
        let fixed = types::Fd(fd);
        match self {
            Self::Sendto => send(fd, bytes, 0),
            Self::ZeroCopy => {
                assert!(
                    set_option(fd, libc::SOL_SOCKET, libc::SO_ZEROCOPY, 1),
                    "SO_ZEROCOPY"
                );
                send(fd, bytes, libc::MSG_ZEROCOPY)
            }
            Self::Writev(sizes) => {
                let vectors = iovecs(bytes, sizes);
                // SAFETY: the vectors and what they point to outlive the call.
                let sent = unsafe { libc::writev(fd, vectors.as_ptr(), count(&vectors)) };
                check("writev", sent)
            }
            Self::Pwritev2(sizes) => {
                let vectors = iovecs(bytes, sizes);
                // SAFETY: as above.
                let sent = unsafe { libc::pwritev2(fd, vectors.as_ptr(), count(&vectors), -1, 0) };
                check("pwritev2", sent)
            }
            Self::Sendmsg(sizes) => {
                let mut vectors = iovecs(bytes, sizes);
                let message = message(&mut vectors);
                // SAFETY: as above.
                check("sendmsg", unsafe { libc::sendmsg(fd, &raw const message, 0) })
            }
            Self::Sendmmsg(sizes) => {
                let mut vectors = iovecs(bytes, sizes);
                let mut messages: Vec<mmsghdr> = vectors
                    .iter_mut()
                    .map(|vector| mmsghdr {
                        msg_hdr: message(std::slice::from_mut(vector)),
                        msg_len: 0,
                    })
                    .collect();
                let many = u32::try_from(messages.len()).expect("few");
                // SAFETY: as above.
                let sent = unsafe { libc::sendmmsg(fd, messages.as_mut_ptr(), many, 0) };
                let sent = check("sendmmsg", sent as isize);
                messages[..sent].iter().map(|it| it.msg_len as usize).sum()
            }
            Self::Ring(ring) => {
                let mut vectors = iovecs(bytes, &[10]);
                let message = message(&mut vectors);
                run(&match ring {
                    Ring::Plain => opcode::Write::new(fixed, start, short).build(),
                    Ring::Vector => {
                        let count = u32::try_from(vectors.len()).expect("few");
                        opcode::Writev::new(fixed, vectors.as_ptr(), count).build()
                    }
                    Ring::Socket => opcode::Send::new(fixed, start, short).build(),
                    Ring::Message => opcode::SendMsg::new(fixed, &raw const message).build(),
                    Ring::Worker => opcode::Send::new(fixed, start, short)
                        .build()
                        .flags(squeue::Flags::ASYNC),
                })
            }
            other => unreachable!("{other:?} is sent by `all`"),
        }
    }
}

fn send(fd: RawFd, bytes: &[u8], flags: c_int) -> usize {
    // SAFETY: the bytes outlive the call; those sent without a copy are waited for by the peer's answer.
    check("send", unsafe {
        libc::send(fd, bytes.as_ptr().cast(), bytes.len(), flags)
    })
}

fn send_file(fd: RawFd, bytes: &[u8]) {
    let file = file(bytes);
    let mut left = bytes.len();
    while left > 0 {
        // SAFETY: no pointers but a null one.
        let sent = unsafe { libc::sendfile(fd, file.as_raw_fd(), ptr::null_mut(), left) };
        left -= check("sendfile", sent);
    }
}

fn splice(fd: RawFd, bytes: &[u8]) {
    let (output, input) = wide_pipe();
    write_all(input.as_raw_fd(), bytes);
    let mut left = bytes.len();
    while left > 0 {
        // SAFETY: no pointers but null ones.
        let sent = unsafe { libc::splice(output.as_raw_fd(), ptr::null_mut(), fd, ptr::null_mut(), left, 0) };
        left -= check("splice", sent);
    }
}

/// Passes a descriptor over a unix socket, with a message.
pub(crate) fn pass(over: RawFd, text: &[u8], descriptor: RawFd) {
    let mut text = text.to_vec();
    let mut vectors = iovecs(&mut text, &[]);
    let mut message = message(&mut vectors);
    let mut control = [0_u64; 3];
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: the control buffer is aligned and has room for one header with one descriptor (CMSG_SPACE(4) is 24).
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(4) as usize;
        libc::CMSG_DATA(header)
            .cast::<c_int>()
            .write_unaligned(descriptor);
        check("sendmsg", libc::sendmsg(over, &raw const message, 0));
    }
}

/// Takes what [`pass`] sent; nothing at the end.
pub(crate) fn take(over: RawFd) -> Option<(Vec<u8>, OwnedFd)> {
    let mut text = vec![0; 256];
    let mut vectors = iovecs(&mut text, &[]);
    let mut message = message(&mut vectors);
    let mut control = [0_u64; 3];
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: as in `pass`; the descriptor is ours alone.
    unsafe {
        let got = check("recvmsg", libc::recvmsg(over, &raw mut message, 0));
        if got == 0 {
            return None;
        }
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        assert!(!header.is_null(), "no descriptor came");
        let descriptor = libc::CMSG_DATA(header).cast::<c_int>().read_unaligned();
        text.truncate(got);
        Some((text, OwnedFd::from_raw_fd(descriptor)))
    }
}
