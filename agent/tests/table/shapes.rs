//! The same conversation by every system call that receives or sends: rows 6 to 8, and `io_uring` of row 9.

use std::os::fd::AsRawFd;

use super::calls::{Receive, Ring, Send, write_all};
use super::case::{
    ALL, BOTH, Case, Counts, Mode, Turn, dialogue, more, request, requests, response, responses, special,
};
use super::framing::{GET, NOT_FOUND, OK, all, and_plain};
use super::server::RECEIVED;

/// Longer than a socket's buffer.
const LARGE: usize = 300_000;

fn large() -> String {
    let text = "HTTP/1.1 500 Not a response\r\nContent-Length: 3\r\n\r\n";
    let body: String = text.chars().cycle().take(LARGE).collect();
    format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n{body}")
}

/// All the shapes a receiving call may find.
fn received() -> Vec<Turn> {
    let body = "GET /not/a/request HTTP/1.1\r\n\r\n".repeat(300);
    vec![
        request(GET),
        response(200, OK),
        request(format!(
            "POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )),
        more(body),
        response(404, NOT_FOUND),
        requests(2, GET.repeat(2)),
        responses(&[200, 404], format!("{OK}{NOT_FOUND}")),
        // The call has to wait for the second piece.
        Turn::In {
            pieces: vec![GET[..12].into(), GET[12..].into()],
            requests: 1,
            receive: None,
        },
        response(200, OK),
        request("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        response(204, "HTTP/1.1 204 No Content\r\n\r\n"),
    ]
}

/// And a sending call. The head is to leave by itself where `SendfileBody` and such are in use.
fn sent() -> Vec<Turn> {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
        19\r\nHTTP/1.1 500 Not a status\r\n0\r\n\r\n";
    and_plain(vec![
        request(GET),
        response(200, OK),
        request(GET),
        response(200, large()),
        requests(2, GET.repeat(2)),
        responses(&[200, 404], format!("{OK}{NOT_FOUND}")),
        request(GET),
        response(200, chunked),
    ])
}

/// Bytes that no hook can read.
const PAGES: &str = "sent from pages that cannot be read: a response without a code, unreadable_pages";
const NOT_AT_HAND: &str = "not at hand for this hook: responses without a code, unreadable_pages";
const REQUESTS_NOT_AT_HAND: &str =
    "not at hand for this hook: requests are known by their answers, unreadable_pages";
const KNOWN_BY_ANSWERS: &str =
    "received into pages that cannot be read: requests are known by their answers, unreadable_pages";
const UNSEEN: &str = "io_uring on unix sockets is not seen by this hook";

/// In [`sent`] the place is lost behind each of three responses; requests behind another one count with theirs.
fn three_unknown(counts: &mut Counts) {
    counts.requests = 3;
    counts.codes.clear();
    counts.unknown(3);
}

/// Nothing of what was sent was seen, so all further requests wait for their answers.
fn only_the_first(counts: &mut Counts) {
    counts.requests = 1;
    counts.codes.clear();
}

fn parts() -> Vec<(&'static str, Vec<usize>)> {
    vec![
        ("1 byte each", vec![1; 60]),
        ("3 bytes each", vec![3; 20]),
        ("8 bytes each", vec![8; 8]),
        ("empty ones among them", vec![2, 0, 3, 0, 0, 9]),
        ("one", Vec::new()),
    ]
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vectors();
    cases.extend(waiting());
    cases.extend(pages());
    cases.extend(rings());
    cases
}

fn vectors() -> Vec<Case> {
    let mut cases = vec![
        dialogue(6, "read", received()).over(ALL),
        dialogue(6, "write", sent()).over(ALL),
        dialogue(6, "recvfrom", received())
            .receiving(Receive::Recvfrom)
            .over(BOTH),
        dialogue(6, "sendto", sent()).sending(Send::Sendto).over(BOTH),
        dialogue(6, "write of 1000 bytes at a time", sent()).sending(Send::Write(1000)),
    ];
    for (name, sizes) in parts() {
        cases.push(
            dialogue(6, format!("readv, {name}"), received())
                .receiving(Receive::Readv(sizes.clone()))
                .over(BOTH),
        );
        cases.push(
            dialogue(6, format!("writev, {name}"), sent())
                .sending(Send::Writev(sizes.clone()))
                .over(BOTH),
        );
        cases.push(
            dialogue(6, format!("recvmsg, {name}"), received())
                .receiving(Receive::Recvmsg(sizes.clone()))
                .over(BOTH),
        );
        cases.push(
            dialogue(6, format!("sendmsg, {name}"), sent())
                .sending(Send::Sendmsg(sizes))
                .over(BOTH),
        );
    }
    for count in [200, 1000] {
        let sizes = vec![1; count];
        let head = format!("GET / HTTP/1.1\r\nCookie: {}\r\n\r\n", "c".repeat(1200));
        let answer = format!(
            "HTTP/1.1 200 OK\r\nSet-Cookie: {}\r\nContent-Length: 2\r\n\r\nok",
            "c".repeat(1200)
        );
        let turns = and_plain(vec![
            request(head.clone()),
            response(200, answer.clone()),
            request(head),
            response(200, answer),
        ]);
        cases.push(
            dialogue(6, format!("readv, {count} iovecs of 1 byte"), turns.clone())
                .receiving(Receive::Readv(sizes.clone()))
                .over(BOTH),
        );
        cases.push(
            dialogue(6, format!("writev, {count} iovecs of 1 byte"), turns)
                .sending(Send::Writev(sizes))
                .over(BOTH),
        );
    }
    // As an application server may do it: a response that is long ready, chunk by chunk.
    let chunks: String = (0..60).map(|_| "4\r\ntext\r\n").collect();
    let turns = |count: usize| {
        let chunked = format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n",
            &chunks[..count * 9]
        );
        let upload = format!(
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n",
            &chunks[..count * 9]
        );
        and_plain(vec![request(upload), response(200, chunked)])
    };
    let by_line: Vec<usize> = std::iter::repeat_n([3, 4, 2], 60).flatten().collect();
    cases.extend([
        dialogue(6, "preadv2", received()).receiving(Receive::Preadv2(vec![8; 8])),
        dialogue(6, "pwritev2", sent()).sending(Send::Pwritev2(vec![8; 8])),
        dialogue(6, "25 chunks in one call", turns(25)).over(BOTH),
        dialogue(6, "60 chunks in one call", turns(60)).over(BOTH),
        dialogue(6, "60 chunks in one call, three iovecs each", turns(60))
            .receiving(Receive::Readv(by_line.clone()))
            .sending(Send::Writev(by_line))
            .over(BOTH),
        dialogue(6, "recvmmsg", received())
            .receiving(Receive::Recvmmsg(10))
            .over(BOTH)
            .except(
                REQUESTS_NOT_AT_HAND,
                Mode::is_tracepoint,
                all,
                &[("unreadable_pages", 1)],
            ),
        dialogue(6, "sendmmsg, one message", sent())
            .sending(Send::Sendmmsg(Vec::new()))
            .over(BOTH)
            .except(
                NOT_AT_HAND,
                Mode::is_tracepoint,
                three_unknown,
                &[("unreadable_pages", 3)],
            ),
        dialogue(6, "sendmmsg, the line in two messages", sent())
            .sending(Send::Sendmmsg(vec![10]))
            .over(BOTH)
            .except(
                NOT_AT_HAND,
                Mode::is_tracepoint,
                three_unknown,
                &[("unreadable_pages", 3)],
            ),
        dialogue(6, "sendmmsg, ten messages", sent())
            .sending(Send::Sendmmsg(vec![8; 9]))
            .over(BOTH)
            .except(
                NOT_AT_HAND,
                Mode::is_tracepoint,
                three_unknown,
                &[("unreadable_pages", 3)],
            ),
    ]);
    cases
}

fn waiting() -> Vec<Case> {
    vec![
        dialogue(7, "MSG_PEEK for one byte before each recv", received())
            .receiving(Receive::Peek(1))
            .over(BOTH),
        dialogue(7, "MSG_PEEK for all before each recv", received())
            .receiving(Receive::Peek(1 << 16))
            .over(BOTH),
        dialogue(7, "recvmsg with MSG_PEEK before each recvmsg", received())
            .receiving(Receive::PeekMessage(vec![3; 5]))
            .over(BOTH),
        dialogue(7, "MSG_DONTWAIT until there is something", received())
            .receiving(Receive::DontWait)
            .over(BOTH),
        dialogue(7, "O_NONBLOCK and poll, reading", received())
            .receiving(Receive::Poll)
            .over(BOTH),
        dialogue(7, "MSG_WAITALL", received())
            .receiving(Receive::WaitAll)
            .over(BOTH),
        dialogue(7, "O_NONBLOCK and poll, partial writes", sent())
            .sending(Send::Poll)
            .over(BOTH),
        dialogue(
            7,
            "MSG_MORE inside the status line",
            and_plain(vec![request(GET), response(200, OK)]),
        )
        .sending(Send::More(10))
        .over(BOTH),
        dialogue(
            7,
            "a body thrown away with MSG_TRUNC",
            and_plain(vec![
                request("POST / HTTP/1.1\r\nContent-Length: 18\r\n\r\n"),
                more("GET / HTTP/1.1\r\n\r\n").receiving(Receive::Discard),
                response(200, OK),
            ]),
        ),
        dialogue(
            7,
            "bytes behind the last answer thrown away with MSG_TRUNC",
            vec![
                request(GET),
                response(200, OK),
                more(GET).receiving(Receive::Discard),
                more(GET.repeat(3)).receiving(Receive::Discard),
                Turn::Reconnect,
                request(GET),
                response(404, NOT_FOUND),
            ],
        ),
        dialogue(7, "MSG_ZEROCOPY", sent()).sending(Send::ZeroCopy),
    ]
}

fn pages() -> Vec<Case> {
    let alone = |body: &str| {
        and_plain(vec![
            request(GET),
            response(
                200,
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()),
            ),
        ])
    };
    let text = "HTTP/1.1 500 No\r\n\r\n";
    vec![
        dialogue(8, "head by write, body by sendfile", alone(&text.repeat(5000)))
            .sending(Send::SendfileBody)
            .over(BOTH),
        dialogue(8, "head by write, body by splice", alone(&text.repeat(5000)))
            .sending(Send::SpliceBody)
            .over(BOTH),
        dialogue(
            8,
            "a response by sendfile",
            and_plain(vec![
                request(GET),
                response(200, OK).sending(Send::Sendfile),
                request(GET),
                response(404, NOT_FOUND).sending(Send::Sendfile),
            ]),
        )
        .over(BOTH)
        .except(
            PAGES,
            Mode::is_any,
            |counts| {
                counts.without(200, 1);
                counts.without(404, 1);
                counts.unknown(2);
            },
            &[("unreadable_pages", 2)],
        ),
        dialogue(
            8,
            "a response by splice",
            and_plain(vec![request(GET), response(200, OK).sending(Send::Splice)]),
        )
        .over(BOTH)
        .except(
            PAGES,
            Mode::is_any,
            |counts| {
                counts.without(200, 1);
                counts.unknown(1);
            },
            &[("unreadable_pages", 1)],
        ),
        dialogue(
            8,
            "a request body by splice",
            and_plain(vec![
                request("POST / HTTP/1.1\r\nContent-Length: 18\r\n\r\n"),
                more("GET / HTTP/1.1\r\n\r\n").receiving(Receive::Splice),
                response(200, OK),
            ]),
        )
        .over(BOTH),
        dialogue(
            8,
            "a request by splice",
            and_plain(vec![
                request(GET).receiving(Receive::Splice),
                response(200, OK),
                request(GET),
                response(200, OK),
            ]),
        )
        .over(BOTH)
        .except(KNOWN_BY_ANSWERS, Mode::is_any, all, &[("unreadable_pages", 1)]),
        // Each is first looked at when its answer is sent, which is just when the client sends the next request.
        special(
            8,
            "50 connections: a request by splice, its answer, and another request at once",
            |server| {
                for _ in 0..50 {
                    let socket = server.accept();
                    for receive in [Receive::Splice, Receive::Read(4096)] {
                        let asked = receive.exactly(socket.as_raw_fd(), GET.len());
                        assert_eq!(asked, GET.as_bytes());
                        server.request();
                        write_all(socket.as_raw_fd(), OK.as_bytes());
                        server.response(200);
                    }
                }
                server.say(RECEIVED);
            },
            |client| {
                for _ in 0..50 {
                    for _ in 0..2 {
                        client.send(GET.as_bytes());
                        client.expect(OK.as_bytes());
                    }
                    client.expect_end();
                }
                client.wait_for(RECEIVED);
            },
        )
        .except(KNOWN_BY_ANSWERS, Mode::is_any, all, &[("unreadable_pages", 50)]),
    ]
}

fn rings() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, ring) in [
        ("IORING_OP_READ and WRITE", Ring::Plain),
        ("IORING_OP_READV and WRITEV", Ring::Vector),
        ("IORING_OP_RECV and SEND", Ring::Socket),
        ("IORING_OP_RECVMSG and SENDMSG", Ring::Message),
        ("IORING_OP_RECV and SEND by a worker", Ring::Worker),
    ] {
        cases.push(
            dialogue(9, format!("received by io_uring: {name}"), received())
                .receiving(Receive::Ring(ring))
                .over(BOTH)
                .except(
                    REQUESTS_NOT_AT_HAND,
                    Mode::is_tracepoint,
                    all,
                    &[("unreadable_pages", 1)],
                ),
        );
        cases.push(
            dialogue(9, format!("sent by io_uring: {name}"), sent())
                .sending(Send::Ring(ring))
                .over(BOTH)
                .except(
                    NOT_AT_HAND,
                    Mode::is_socket_tracepoint,
                    three_unknown,
                    &[("unreadable_pages", 3)],
                )
                .except(
                    UNSEEN,
                    |mode| mode.is_sys_exit() && mode.is_unix(),
                    only_the_first,
                    &[],
                )
                .except(
                    "io_uring is not seen by this hook: its bytes are missed at the connection's end, unreadable_pages",
                    Mode::is_sys_exit,
                    only_the_first,
                    &[("unreadable_pages", 1)],
                )
                .at_the_end(),
        );
    }
    cases
}
