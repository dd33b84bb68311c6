//! What follows the end of a connection, a bad line or a length that means nothing: rows 21, 23 and 24.

use std::os::fd::AsRawFd as _;

use super::calls::{Receive, write_all};
use super::case::{ALL, BOTH, Case, Turn, dialogue, more, request, requests, response, responses, special};
use super::framing::{GET, NOT_FOUND, OK, and_plain};
use super::server::RECEIVED;

const GET_1_0: &str = "GET /old HTTP/1.0\r\nHost: test\r\n\r\n";
const GET_CLOSE: &str = "GET /last HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
const OK_CLOSE: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
const BAD: &str = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
const TOO_LONG: &str = "HTTP/1.1 414 URI Too Long\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = behind_the_close();
    cases.push(lingering());
    cases.extend(bad_lines());
    cases.extend(lengths());
    cases
}

/// A server counts what it answers: of these requests it never looks at those behind the last one.
fn behind_the_close() -> Vec<Case> {
    let answered = |asked: Turn| and_plain(vec![asked, response(200, OK_CLOSE), Turn::Reconnect]);
    vec![
        dialogue(
            21,
            "HTTP/1.0, three requests at once",
            answered(request(GET_1_0.repeat(3))),
        )
        .over(ALL),
        dialogue(
            21,
            "Connection: close, and two more requests",
            answered(request(format!("{GET_CLOSE}{GET}{GET}"))),
        )
        .over(BOTH),
        dialogue(
            21,
            "Connection: close, and two more requests received by calls of their own",
            and_plain(vec![
                request(GET_CLOSE),
                more(GET),
                more(GET),
                response(200, OK_CLOSE),
                Turn::Reconnect,
            ]),
        )
        .over(BOTH),
        dialogue(
            21,
            "refused with 400, and two more requests",
            and_plain(vec![
                request(format!("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n{GET}{GET}")),
                response(400, BAD),
                Turn::Reconnect,
            ]),
        )
        .over(BOTH),
        dialogue(
            21,
            "five requests at once, of which the server takes three",
            and_plain(vec![
                requests(3, GET.repeat(5)),
                responses(&[200, 404, 200], format!("{OK}{NOT_FOUND}{OK_CLOSE}")),
                Turn::Reconnect,
            ]),
        )
        .over(BOTH),
        dialogue(
            21,
            "a pipeline that is never empty, until the server has enough",
            {
                let mut turns = vec![requests(1, GET.repeat(2))];
                for _ in 0..40 {
                    turns.extend([response(200, OK), request(GET)]);
                }
                // Of the two that wait one is answered.
                turns.extend([response(200, OK_CLOSE), Turn::Reconnect]);
                and_plain(turns)
            },
        )
        .over(BOTH),
    ]
}

/// What arrives when the server has shut its sending side down; it reads on, as all do that linger.
fn lingering() -> Case {
    special(
        21,
        "requests read after the server has shut its sending side",
        |server| {
            let socket = server.accept();
            let fd = socket.as_raw_fd();
            assert_eq!(Receive::Read(4096).exactly(fd, GET.len()), GET.as_bytes());
            server.request();
            write_all(fd, OK_CLOSE.as_bytes());
            server.response(200);
            // SAFETY: no pointers.
            assert_eq!(unsafe { libc::shutdown(fd, libc::SHUT_WR) }, 0);
            server.say("shut");
            for _ in 0..2 {
                assert_eq!(Receive::Read(4096).exactly(fd, GET.len()), GET.as_bytes());
            }
            server.say(RECEIVED);
        },
        |client| {
            client.send(GET.as_bytes());
            client.expect(OK_CLOSE.as_bytes());
            client.wait_for("shut");
            client.send(GET.as_bytes());
            client.send(GET.as_bytes());
            client.wait_for(RECEIVED);
        },
    )
    .over(BOTH)
}

/// A line that is none counts when it is answered, wherever it is.
fn bad_lines() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, bad, answer, code) in [
        ("no version", "GET /a\r\n\r\n".to_owned(), BAD, 400),
        (
            "a version that there is not",
            "GET /a HTTP/9.9\r\n\r\n".to_owned(),
            BAD,
            400,
        ),
        ("binary", "\u{1}\u{2}\u{3}\0\r\n\r\n".to_owned(), BAD, 400),
        (
            "a target that is too long",
            format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(70_000)),
            TOO_LONG,
            414,
        ),
    ] {
        let turns = and_plain(vec![
            request(GET),
            response(200, OK),
            request(bad),
            response(code, answer),
            Turn::Reconnect,
        ]);
        cases.push(dialogue(23, format!("a bad line behind a good one: {name}"), turns).over(BOTH));
    }
    for (name, answer) in [
        ("HTTP/1.10", "HTTP/1.10 200 OK\r\nContent-Length: 0\r\n\r\n"),
        (
            "no space behind the code",
            "HTTP/1.1 200OK\r\nContent-Length: 0\r\n\r\n",
        ),
    ] {
        let turns = and_plain(vec![
            request("GET / HTTP/1.10\r\nHost: test\r\n\r\n"),
            response(200, answer),
            request(GET),
            response(200, answer),
        ]);
        cases.push(dialogue(23, format!("an answer with {name}"), turns).over(BOTH));
    }
    cases
}

/// A length that the server takes no notice of hides what follows.
fn lengths() -> Vec<Case> {
    let mut turns = vec![
        request("GET /odd HTTP/1.1\r\nHost: test\r\nContent-Length: 5000\r\n\r\n"),
        response(200, OK),
    ];
    for _ in 0..10 {
        turns.extend([request(GET), response(200, OK)]);
    }
    vec![dialogue(24, "a length that the server ignores", and_plain(turns)).over(BOTH)]
}
