//! Where messages begin and end: rows 1 to 5, 12, 14, 15, 18.

use std::fmt::Write as _;
use std::os::fd::AsRawFd;

use super::calls::{self, Receive};
use super::case::{
    ALL, BOTH, Case, Counts, Mode, Turn, dialogue, more, request, requests, response, responses, rest,
    special,
};

pub(crate) const GET: &str = "GET /a?b=c HTTP/1.1\r\nHost: test\r\nAccept: */*\r\n\r\n";
pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok";
pub(crate) const NOT_FOUND: &str =
    "HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\ngone";
pub(crate) const EMPTY: &str = "HTTP/1.1 204 No Content\r\nServer: test\r\n\r\n";

/// A plain request and its answer: what must still be counted after whatever came before.
pub(crate) fn plain() -> Vec<Turn> {
    vec![request(GET), response(404, NOT_FOUND)]
}

/// `turns`, and then a plain request.
pub(crate) fn and_plain(mut turns: Vec<Turn>) -> Vec<Turn> {
    turns.extend(plain());
    turns
}

/// A request received in these pieces, each by calls of its own: it is there with the end of its first line.
pub(crate) fn request_in(pieces: &[&[u8]]) -> Vec<Turn> {
    let mut line = Vec::new();
    let mut is_there = false;
    let mut turns = Vec::new();
    for piece in pieces {
        line.extend_from_slice(piece);
        let ends = line.windows(8).any(|it| it.starts_with(b"HTTP/1.")) && line.contains(&b'\n');
        turns.push(requests(u64::from(ends && !is_there), *piece));
        is_there |= ends;
    }
    turns
}

/// A response sent in these pieces: its code is there with the byte behind it.
pub(crate) fn response_in(code: u16, pieces: &[&[u8]]) -> Vec<Turn> {
    let mut sent = 0;
    let mut turns = Vec::new();
    for piece in pieces {
        let is_there = sent > 12;
        sent += piece.len();
        turns.push(if sent > 12 && !is_there {
            response(code, *piece)
        } else {
            rest(*piece)
        });
    }
    turns
}

fn every_byte(text: &str) -> Vec<&[u8]> {
    text.as_bytes().chunks(1).collect()
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = plain_ones();
    cases.extend(interim_and_pipelined());
    cases.extend(split());
    cases.extend(methods());
    cases.extend(proxy_protocol());
    cases.extend(opened_before());
    cases.extend(malformed());
    cases
}

fn plain_ones() -> Vec<Case> {
    const OLD: &str = "GET / HTTP/1.0\r\nHost: test\r\n\r\n";
    const OLD_KEPT: &str = "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    let kept = vec![
        request(GET),
        response(200, OK),
        request(GET),
        response(404, NOT_FOUND),
        request("POST /form HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nbody"),
        response(
            201,
            "HTTP/1.1 201 Created\r\nLocation: /1\r\nContent-Length: 0\r\n\r\n",
        ),
    ];
    let old = vec![
        request(OLD),
        response(
            200,
            "HTTP/1.0 200 OK\r\n\r\nuntil the end, GET / HTTP/1.1\r\n\r\nHTTP/1.1 500 No\r\n",
        ),
        Turn::Reconnect,
        request(OLD),
        response(404, "HTTP/1.0 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
        Turn::Reconnect,
        request(OLD_KEPT),
        response(
            200,
            "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
        ),
        request(OLD_KEPT),
        response(
            302,
            "HTTP/1.0 302 Found\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n",
        ),
    ];
    vec![
        dialogue(1, "a plain GET", vec![request(GET), response(200, OK)]).over(ALL),
        dialogue(1, "three requests on one connection", kept).over(ALL),
        dialogue(1, "HTTP/1.0 with and without keep-alive", old).over(ALL),
        dialogue(
            1,
            "a status line without a reason",
            and_plain(vec![
                request(GET),
                response(200, "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n"),
                request(GET),
                response(299, "HTTP/1.1 299 \r\nContent-Length: 0\r\n\r\n"),
            ]),
        ),
        dialogue(
            1,
            "every code from 200 to 599",
            (200..=599)
                .flat_map(|code| {
                    let answer = format!("HTTP/1.1 {code} A reason\r\nContent-Length: 0\r\n\r\n");
                    [request(GET), response(code, answer)]
                })
                .collect(),
        ),
        special(
            1,
            "a pair of connected unix sockets",
            |server| {
                let (ours, theirs) = calls::socketpair(libc::SOCK_STREAM);
                // The client is this process as well, and counts nothing for that.
                calls::write_all(theirs.as_raw_fd(), GET.as_bytes());
                assert_eq!(
                    Receive::Read(4096).exactly(ours.as_raw_fd(), GET.len()),
                    GET.as_bytes()
                );
                server.request();
                calls::write_all(ours.as_raw_fd(), OK.as_bytes());
                server.response(200);
                assert_eq!(
                    Receive::Read(4096).exactly(theirs.as_raw_fd(), OK.len()),
                    OK.as_bytes()
                );
            },
            |_client| {},
        ),
    ]
}

fn interim_and_pipelined() -> Vec<Case> {
    const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";
    const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n";
    const CREATED: &str = "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n";
    let expects = "POST / HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    let many = |count: usize| -> (String, String, Vec<u16>) {
        let codes: Vec<u16> = [200, 404, 200, 500].into_iter().cycle().take(count).collect();
        let answers = codes.iter().fold(String::new(), |mut all, code| {
            let _ = write!(
                all,
                "HTTP/1.1 {code} Reason\r\nContent-Length: 2\r\nServer: test\r\n\r\nok"
            );
            all
        });
        (GET.repeat(count), answers, codes)
    };
    let together = |count: usize| {
        let (asked, answered, codes) = many(count);
        and_plain(vec![requests(count as u64, asked), responses(&codes, answered)])
    };
    vec![
        dialogue(
            2,
            "100 Continue, then 201",
            and_plain(vec![
                request(expects),
                response(100, CONTINUE),
                more("hello"),
                response(201, CREATED),
            ]),
        )
        .over(BOTH),
        dialogue(
            2,
            "103 Early Hints, then 200",
            and_plain(vec![request(GET), response(103, HINTS), response(200, OK)]),
        )
        .over(BOTH),
        dialogue(
            2,
            "100, two 103 and the final response in one write",
            and_plain(vec![
                request(expects),
                more("hello"),
                responses(&[100, 103, 103, 201], [CONTINUE, HINTS, HINTS, CREATED].concat()),
            ]),
        ),
        dialogue(
            2,
            "102 Processing with a Content-Length",
            and_plain(vec![
                request(GET),
                response(102, "HTTP/1.1 102 Processing\r\nContent-Length: 9\r\n\r\n"),
                response(200, OK),
            ]),
        ),
        dialogue(
            2,
            "the final response before the body has come",
            and_plain(vec![
                request(expects),
                response(413, "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n"),
                more("hello"),
            ]),
        ),
        dialogue(
            3,
            "three requests in one segment, three responses in one write",
            together(3),
        )
        .over(BOTH),
        dialogue(
            3,
            "three requests in one segment, three responses in three writes",
            and_plain(vec![
                requests(3, GET.repeat(3)),
                response(200, OK),
                response(404, NOT_FOUND),
                response(204, EMPTY),
            ]),
        ),
        dialogue(
            3,
            "two requests in separate segments before the first response",
            vec![
                request(GET),
                request(GET),
                response(200, OK),
                response(404, NOT_FOUND),
            ],
        ),
        dialogue(
            3,
            "a POST with a body and a GET in one segment",
            and_plain(vec![
                requests(
                    2,
                    format!(
                        "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 27\r\n\r\nGET /in/a/body HTTP/1.1\r\n\r\n{GET}"
                    ),
                ),
                responses(&[200, 404], format!("{OK}{NOT_FOUND}")),
            ]),
        ),
        dialogue(
            3,
            "a segment that ends inside the second of two requests",
            and_plain(vec![
                request(format!("{GET}{}", &GET[..7])),
                request(&GET[7..]),
                response(200, format!("{OK}{}", &NOT_FOUND[..11])),
                response(404, &NOT_FOUND[11..]),
            ]),
        ),
        dialogue(
            3,
            "10 requests in one read, 10 responses in one write",
            together(10),
        )
        .over(BOTH),
        dialogue(
            3,
            "25 requests in one read, 25 responses in one write",
            together(25),
        )
        .over(BOTH),
        dialogue(3, "100 requests in one read, 100 responses in 100 writes", {
            let (asked, _, codes) = many(100);
            let mut turns = vec![requests(100, asked)];
            turns.extend(codes.iter().map(|code| {
                response(
                    *code,
                    format!("HTTP/1.1 {code} Reason\r\nContent-Length: 2\r\n\r\nok"),
                )
            }));
            and_plain(turns)
        })
        .over(BOTH),
        dialogue(
            3,
            "100 requests in one read, 100 responses in one write",
            together(100),
        )
        .over(BOTH),
    ]
}

fn split() -> Vec<Case> {
    let get = GET.as_bytes();
    let post = b"POST /form?q=1 HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n\
        5;x=y\r\nhello\r\n0\r\nTrailer: x\r\n\r\n";
    let answer = b"HTTP/1.1 418 I'm a teapot\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let mut twice_request = Vec::new();
    let mut twice_response = Vec::new();
    for at in 1..post.len() {
        twice_request.extend(request_in(&[&post[..at], &post[at..]]));
        twice_request.push(response(200, OK));
    }
    for at in 1..answer.len() {
        twice_response.push(request(GET));
        twice_response.extend(response_in(418, &[&answer[..at], &answer[at..]]));
    }
    let answered = |turns: Vec<Turn>| {
        let mut turns = turns;
        turns.push(response(200, OK));
        and_plain(turns)
    };
    let asked = |turns: Vec<Turn>| {
        let mut all = vec![request(GET)];
        all.extend(turns);
        and_plain(all)
    };
    let long = format!("GET /{} HTTP/1.1\r\nHost: test\r\n\r\n", "x".repeat(6000));
    let cookie = |length: usize| {
        format!(
            "GET / HTTP/1.1\r\nCookie: {}\r\nContent-Length: 0\r\n\r\n",
            "y".repeat(length)
        )
    };
    vec![
        dialogue(
            4,
            "a request line in `GE` and the rest",
            answered(request_in(&[&get[..2], &get[2..]])),
        )
        .over(BOTH),
        dialogue(
            4,
            "a request line cut after 10 bytes",
            answered(request_in(&[&get[..10], &get[10..]])),
        )
        .over(BOTH),
        dialogue(
            4,
            "a request byte by byte",
            answered(request_in(&every_byte(GET))),
        )
        .over(BOTH),
        dialogue(4, "a request in two parts, cut at every byte", twice_request),
        dialogue(4, "a server that reads one byte at a time", {
            let mut turns = answered(vec![request(GET)]);
            turns.extend(answered(vec![request(post.as_slice())]));
            turns
        })
        .receiving(Receive::Read(1))
        .over(BOTH),
        dialogue(
            4,
            "a server that reads seven bytes at a time",
            answered(vec![requests(2, GET.repeat(2)), response(200, OK)]),
        )
        .receiving(Receive::Read(7)),
        dialogue(4, "a request line of 6 KB", answered(vec![request(long)])).over(BOTH),
        dialogue(
            4,
            "a head of 15 KiB in one read",
            answered(vec![request(cookie(15 * 1024))]),
        )
        .over(BOTH),
        dialogue(
            4,
            "a head of 60 KiB in one read",
            answered(vec![request(cookie(60 * 1024))]),
        )
        .over(BOTH),
        dialogue(
            4,
            "a head of 600 KiB in one read",
            answered(vec![request(cookie(600 * 1024))]),
        )
        .receiving(Receive::Whole)
        .except(
            "more in one call than the programs may do: gave_up",
            Mode::is_any,
            all,
            &[("gave_up", 1)],
        ),
        dialogue(
            4,
            "a head of 60 KiB, 8 KiB at a time",
            answered(vec![request(cookie(60 * 1024))]),
        )
        .receiving(Receive::Read(8192)),
        dialogue(4, "a head of 300 short lines in one read", {
            let lines = (0..300).fold(String::new(), |mut all, index| {
                let _ = write!(all, "X-{index}: c\r\n");
                all
            });
            answered(vec![request(format!("GET / HTTP/1.1\r\n{lines}\r\n"))])
        }),
        dialogue(
            5,
            "a status line in `HTTP/1.1 ` and `200 OK`",
            asked(response_in(200, &[&OK.as_bytes()[..9], &OK.as_bytes()[9..]])),
        )
        .over(BOTH),
        dialogue(
            5,
            "a status line cut after 4 bytes",
            asked(response_in(200, &[&OK.as_bytes()[..4], &OK.as_bytes()[4..]])),
        )
        .over(BOTH),
        dialogue(
            5,
            "a head in several writes",
            asked(vec![
                response(200, "HTTP/1.1 200 OK\r\n"),
                rest("Content-Type: text/plain\r\n"),
                rest("Content-"),
                rest("Length: 2\r\n"),
                rest("\r\n"),
                rest("ok"),
            ]),
        )
        .over(BOTH),
        dialogue(
            5,
            "a response byte by byte",
            asked(response_in(200, &every_byte(OK))),
        )
        .over(BOTH),
        dialogue(5, "a response in two parts, cut at every byte", twice_response),
        dialogue(
            5,
            "a response head of 15 KiB in one write",
            asked(vec![response(
                200,
                format!(
                    "HTTP/1.1 200 OK\r\nSet-Cookie: {}\r\nContent-Length: 2\r\n\r\nok",
                    "z".repeat(15 * 1024)
                ),
            )]),
        )
        .over(BOTH),
    ]
}

fn methods() -> Vec<Case> {
    let bodiless = [
        "GET",
        "DELETE",
        "OPTIONS",
        "TRACE",
        "PROPFIND",
        "REPORT",
        "PURGE",
        "QUERY",
        "MKCOL",
        "LOCK",
        "M-SEARCH",
        "BASELINE-CONTROL",
        "UPDATEREDIRECTREF",
        "X",
        "!#$%&'*+-.^_`|~",
    ];
    let mut turns = Vec::new();
    for method in bodiless {
        turns.push(request(format!("{method} /x HTTP/1.1\r\nHost: test\r\n\r\n")));
        turns.push(response(
            207,
            "HTTP/1.1 207 Multi-Status\r\nContent-Length: 2\r\n\r\nok",
        ));
    }
    for method in ["PUT", "PATCH", "POST", "SEARCH", "CUSTOM"] {
        turns.push(request(format!(
            "{method} /x HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\nok"
        )));
        turns.push(response(200, OK));
    }
    let targets = [
        "*",
        "http://test/absolute?a=b HTTP/1.0",
        "/with spaces in it",
        "/%00",
        "//",
        "/é",
    ];
    let odd = targets
        .into_iter()
        .flat_map(|target| {
            [
                request(format!("OPTIONS {target} HTTP/1.1\r\nHost: test\r\n\r\n")),
                response(200, OK),
            ]
        })
        .collect();
    vec![
        dialogue(12, "every method", and_plain(turns)).over(BOTH),
        dialogue(12, "targets of every form", and_plain(odd)),
    ]
}

fn proxy_protocol() -> Vec<Case> {
    fn v2(command: u8, addresses: &[u8]) -> Vec<u8> {
        let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
        header.extend([0x20 | command, if addresses.is_empty() { 0 } else { 0x11 }]);
        header.extend(u16::try_from(addresses.len()).expect("short").to_be_bytes());
        header.extend(addresses);
        header
    }
    let addresses = [127, 0, 0, 1, 127, 0, 0, 1, 0x10, 0x00, 0x00, 0x50];
    let long = [&addresses[..], &b"GET / HTTP/1.1\r\n\r\n".repeat(40)].concat();
    let headers: [(&str, Vec<u8>); 6] = [
        ("v1", b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n".to_vec()),
        (
            "v1, version 6",
            b"PROXY TCP6 2001:db8::1 2001:db8::2 4124 443\r\n".to_vec(),
        ),
        ("v1, unknown", b"PROXY UNKNOWN\r\n".to_vec()),
        ("v2", v2(1, &addresses)),
        ("v2, local", v2(0, &[])),
        ("v2 with 700 bytes behind the addresses", v2(1, &long)),
    ];
    let mut cases = Vec::new();
    for (name, header) in headers {
        let whole = [&header, GET.as_bytes()].concat();
        let byte_by_byte = header.chunks(1).map(more);
        let mut turns = vec![request(whole), response(200, OK)];
        turns.extend(plain());
        turns.push(Turn::Reconnect);
        turns.extend([more(header.clone()), request(GET), response(200, OK)]);
        if header.len() < 60 {
            turns.push(Turn::Reconnect);
            turns.extend(byte_by_byte);
            turns.extend([request(GET), response(200, OK)]);
        }
        cases.push(dialogue(14, format!("PROXY protocol {name}"), turns).over(BOTH));
    }
    cases
}

fn opened_before() -> Vec<Case> {
    let long = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n{}",
        "0123456789".repeat(4)
    );
    vec![
        dialogue(
            15,
            "a connection opened before, without a request",
            vec![Turn::AgentStarts],
        )
        .over(ALL),
        dialogue(
            15,
            "the first request on a connection opened before",
            and_plain(vec![Turn::AgentStarts]),
        )
        .over(ALL),
        dialogue(
            15,
            "the second request on a connection opened before",
            and_plain(vec![
                request(GET),
                response(200, OK),
                Turn::AgentStarts,
                request(GET),
                response(200, OK),
            ]),
        )
        .over(ALL),
        dialogue(
            15,
            "the agent starts between request and response",
            and_plain(vec![
                request(GET),
                Turn::AgentStarts,
                response(200, OK),
                request(GET),
                response(200, OK),
            ]),
        )
        .over(ALL),
        dialogue(
            15,
            "the agent starts inside a body that is received",
            and_plain(vec![
                request("POST / HTTP/1.1\r\nContent-Length: 20\r\n\r\n0123456789"),
                Turn::AgentStarts,
                more("0123456789"),
                response(200, OK),
                request(GET),
                response(200, OK),
            ]),
        )
        .over(ALL),
        dialogue(
            15,
            "the agent starts inside a body that is sent",
            and_plain(vec![
                request(GET),
                response(200, &long[..60]),
                Turn::AgentStarts,
                rest(&long[60..]),
                request(GET),
                response(200, OK),
            ]),
        )
        .over(ALL),
        dialogue(
            15,
            "the agent starts inside a request's head",
            and_plain(vec![
                request("GET / HTTP/1.1\r\nHost: t"),
                Turn::AgentStarts,
                more("est\r\n\r\n"),
                response(200, OK),
            ]),
        )
        .over(ALL),
        dialogue(
            15,
            "pipelined requests on a connection opened before",
            vec![
                request(GET),
                Turn::AgentStarts,
                requests(2, GET.repeat(2)),
                response(200, OK),
                responses(&[200, 404], format!("{OK}{NOT_FOUND}")),
            ],
        )
        .over(BOTH),
    ]
}

/// The request line is not taken for one; the answer counts.
fn no_request(counts: &mut Counts) {
    counts.requests -= 1;
}

/// All is counted.
pub(crate) fn all(_: &mut Counts) {}

fn malformed() -> Vec<Case> {
    const BAD: &str = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    let refused = |asked: String| and_plain(vec![request(asked), response(400, BAD), Turn::Reconnect]);
    vec![
        dialogue(
            18,
            "an unknown version, refused with 505",
            and_plain(vec![
                request("GET / HTTP/9.9\r\n\r\n"),
                response(
                    505,
                    "HTTP/1.1 505 HTTP Version Not Supported\r\nContent-Length: 0\r\n\r\n",
                ),
                Turn::Reconnect,
            ]),
        ),
        dialogue(
            18,
            "8 KiB of method bytes, refused with 400",
            refused("A".repeat(8192)),
        )
        .over(BOTH),
        dialogue(
            18,
            "a request line of 8 KiB, refused before its end",
            refused(format!("GET /{}", "a".repeat(8192))),
        )
        .over(BOTH),
        dialogue(
            18,
            "HTTP/0.9",
            and_plain(vec![request("GET /\r\n"), rest("<html>"), Turn::Reconnect]),
        )
        .except("HTTP/0.9 is not counted", Mode::is_any, no_request, &[]),
        dialogue(
            18,
            "lines that end in LF only",
            and_plain(vec![
                request("GET / HTTP/1.1\nHost: test\n\n"),
                response(200, "HTTP/1.1 200 OK\nContent-Length: 2\n\nok"),
                request("POST / HTTP/1.1\nContent-Length: 2\n\nok"),
                response(
                    201,
                    "HTTP/1.1 201 Created\nTransfer-Encoding: chunked\n\n2\nok\n0\n\n",
                ),
            ]),
        )
        .over(BOTH),
        dialogue(
            18,
            "empty lines before a request",
            and_plain(vec![
                request(format!("\r\n\r\n{GET}")),
                response(200, OK),
                request(format!("\n\n\n\n\n\n\n\n{GET}")),
                response(200, OK),
                more("\r\n"),
                request(GET),
                response(200, OK),
            ]),
        )
        .over(BOTH),
        dialogue(
            18,
            "a blank behind the version",
            and_plain(vec![
                request("GET / HTTP/1.1 \r\nHost: test\r\n\r\n"),
                response(200, OK),
            ]),
        ),
        dialogue(
            18,
            "a negative Content-Length",
            refused("POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\nhello".to_owned()),
        )
        .over(BOTH),
        dialogue(
            18,
            "a Content-Length of 30 digits",
            refused(format!(
                "POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\nhello",
                "9".repeat(30)
            )),
        ),
        dialogue(
            18,
            "a Content-Length of 2^63-1 that is not sent",
            refused(format!(
                "POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\nhello",
                i64::MAX
            )),
        ),
        dialogue(
            18,
            "two different Content-Lengths",
            refused("POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello".to_owned()),
        ),
        dialogue(
            18,
            "two equal Content-Lengths",
            and_plain(vec![
                request("POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
                response(200, OK),
            ]),
        ),
        dialogue(
            18,
            "Content-Length and Transfer-Encoding",
            and_plain(vec![
                request(
                    "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
                ),
                response(200, OK),
            ]),
        ),
        dialogue(
            18,
            "a chunk size that is no number",
            refused("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\nhello\r\n".to_owned()),
        )
        .except(
            "a broken chunked body is out_of_sync",
            Mode::is_any,
            all,
            &[("out_of_sync", 1)],
        ),
        dialogue(
            18,
            "header lines without a colon, and folded ones",
            and_plain(vec![
                request("GET / HTTP/1.1\r\nno colon here\r\nX: a\r\n Content-Length: 5\r\n\r\n"),
                response(200, OK),
            ]),
        ),
        dialogue(18, "a request that is never finished", {
            let mut turns = vec![
                request(&GET[..30]),
                response(408, "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"),
                Turn::Reconnect,
            ];
            turns.extend([
                more("GE"),
                response(408, "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"),
                Turn::Reconnect,
            ]);
            turns.extend([
                response(408, "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"),
                Turn::Reconnect,
            ]);
            and_plain(turns)
        }),
        dialogue(
            18,
            "binary before a request, refused with 400",
            and_plain(vec![
                more("\x16\x03\x01\x02\x00\x01\x00\x01\u{fc}\x03\x03"),
                response(400, BAD),
                Turn::Reconnect,
            ]),
        )
        .except(
            "what is answered was asked, whatever it was",
            Mode::is_any,
            |counts| counts.requests += 1,
            &[],
        )
        .over(BOTH),
        dialogue(
            18,
            "an absurd status code",
            and_plain(vec![
                request(GET),
                rest("HTTP/1.1 999 Request denied\r\nContent-Length: 0\r\n\r\n"),
            ]),
        )
        .except(
            "a status outside 100-599 is out_of_sync",
            Mode::is_any,
            all,
            &[("out_of_sync", 1)],
        ),
    ]
}
