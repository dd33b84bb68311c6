//! Requests and responses as such: rows 1 to 6, 12 and the well-meant part of 18.

use super::conversation::{
    Call::{Receives, Sends},
    assert_counted, assert_counted_however_cut, counted,
};
use crate::http::WINDOW;

const GET: &[u8] = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const NOT_FOUND: &[u8] = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";

#[test]
fn every_request_of_a_connection_that_is_kept_alive_counts() {
    assert_counted_however_cut("one", &[Receives(GET), Sends(OK)], &counted(1, &[200]));
    assert_counted_however_cut(
        "three",
        &[
            Receives(GET),
            Sends(OK),
            Receives(GET),
            Sends(NOT_FOUND),
            Receives(GET),
            Sends(OK),
        ],
        &counted(3, &[200, 404, 200]),
    );
    assert_counted_however_cut(
        "HTTP/1.0, closed",
        &[
            Receives(b"GET / HTTP/1.0\r\n\r\n"),
            Sends(b"HTTP/1.0 200 OK\r\n\r\n"),
            Sends(b"HTTP/1.0 500 not a head"),
        ],
        &counted(1, &[200]),
    );
    let keep = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    let kept = b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello";
    assert_counted_however_cut(
        "HTTP/1.0, kept",
        &[Receives(keep), Sends(kept), Receives(keep), Sends(kept)],
        &counted(2, &[200, 200]),
    );
}

#[test]
fn a_request_counts_when_its_line_is_complete() {
    assert_counted("not yet", &[Receives(b"GET / HTTP/1.1")], &counted(0, &[]));
    assert_counted(
        "line feed still missing",
        &[Receives(b"GET / HTTP/1.1\r")],
        &counted(0, &[]),
    );
    assert_counted("complete", &[Receives(b"GET / HTTP/1.1\r\n")], &counted(1, &[]));
    assert_counted(
        "answered before the head is complete",
        &[Receives(b"GET / HTTP/1.1\r\nHost:"), Sends(NOT_FOUND)],
        &counted(1, &[404]),
    );
}

#[test]
fn interim_responses_count_under_their_own_code_and_do_not_stand_in_for_the_final_one() {
    assert_counted_however_cut(
        "100 then 201",
        &[
            Receives(b"PUT /x HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"),
            Sends(b"HTTP/1.1 100 Continue\r\n\r\n"),
            Receives(b"abc"),
            Sends(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"),
        ],
        &counted(1, &[100, 201]),
    );
    assert_counted_however_cut(
        "103 with headers, then 200, in one call",
        &[
            Receives(GET),
            Sends(
                b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n\
                HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            ),
            Receives(GET),
            Sends(NOT_FOUND),
        ],
        &counted(2, &[103, 103, 200, 404]),
    );
    assert_counted_however_cut(
        "102, then the response to HEAD",
        &[
            Receives(b"HEAD / HTTP/1.1\r\n\r\n"),
            Sends(b"HTTP/1.1 102 Processing\r\n\r\n"),
            Sends(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"),
            Receives(GET),
            Sends(NOT_FOUND),
        ],
        &counted(2, &[102, 200, 404]),
    );
    assert_counted_however_cut(
        "a Content-Length on an interim response is no body",
        &[
            Receives(GET),
            Sends(b"HTTP/1.1 103 Early Hints\r\nContent-Length: 50\r\n\r\n"),
            Sends(OK),
        ],
        &counted(1, &[103, 200]),
    );
}

#[test]
fn pipelined_messages_count_one_by_one() {
    let requests = GET.repeat(3);
    let responses = [OK, NOT_FOUND, OK].concat();
    let expected = counted(3, &[200, 404, 200]);
    assert_counted_however_cut(
        "one call each way",
        &[Receives(&requests), Sends(&responses)],
        &expected,
    );
    assert_counted_however_cut(
        "answered one by one",
        &[Receives(&requests), Sends(OK), Sends(NOT_FOUND), Sends(OK)],
        &expected,
    );
    assert_counted_however_cut(
        "asked one by one",
        &[Receives(GET), Receives(GET), Receives(GET), Sends(&responses)],
        &expected,
    );
    assert_counted_however_cut(
        "with bodies, methods and kinds mixed",
        &[
            Receives(
                b"POST /1 HTTP/1.1\r\nContent-Length: 4\r\n\r\nGET HEAD /2 HTTP/1.1\r\n\r\n\
                POST /3 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET /4 HTTP/1.1\r\n\r\n",
            ),
            Sends(
                b"HTTP/1.1 201 Created\r\nContent-Length: 1\r\n\r\n!HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n\
                HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n\
                HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n",
            ),
        ],
        &counted(4, &[201, 200, 202, 304]),
    );
}

#[test]
fn a_line_split_anywhere_counts_once() {
    for at in 1..GET.len() {
        let (first, second) = GET.split_at(at);
        assert_counted(
            "request",
            &[Receives(first), Receives(second), Sends(OK)],
            &counted(1, &[200]),
        );
    }
    for at in 1..OK.len() {
        let (first, second) = OK.split_at(at);
        assert_counted(
            "response",
            &[Receives(GET), Sends(first), Sends(second)],
            &counted(1, &[200]),
        );
    }
    assert_counted(
        "status line and code in two writes",
        &[
            Receives(GET),
            Sends(b"HTTP/1.1 "),
            Sends(b"200 OK\r\n"),
            Sends(b"Content-Length: 0\r\n"),
            Sends(b"\r\n"),
        ],
        &counted(1, &[200]),
    );
    assert_counted(
        "an empty call in between",
        &[
            Receives(b"GE"),
            Receives(b""),
            Receives(b"T / HTTP/1.1\r\n\r\n"),
            Sends(b""),
            Sends(OK),
        ],
        &counted(1, &[200]),
    );
}

#[test]
fn a_long_request_line_counts_however_it_is_read() {
    for len in [100, 120, 130, 300, 2000, 8000, 10 * 1024] {
        let line = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(len));
        let calls = [
            Receives(line.as_bytes()),
            Sends(OK),
            Receives(line.as_bytes()),
            Sends(NOT_FOUND),
        ];
        assert_counted_however_cut(&format!("{len} bytes"), &calls, &counted(2, &[200, 404]));
    }
}

#[test]
fn every_method_counts() {
    let methods = [
        "GET",
        "HEAD",
        "POST",
        "PUT",
        "DELETE",
        "CONNECT",
        "OPTIONS",
        "TRACE",
        "PATCH",
        "PROPFIND",
        "REPORT",
        "PURGE",
        "QUERY",
        "MKCALENDAR",
        "M-SEARCH",
        "UPDATEREDIRECTREF",
        "X",
        "get",
        "PROXY",
        "PRI",
        "!#$%&'*+-.^_`|~",
        "HTTP",
        "A-CUSTOM-ONE-OF-THIRTY-TWO-BYTES",
    ];
    for method in methods {
        let request = format!("{method} /a HTTP/1.1\r\nHost: a\r\n\r\n");
        let calls = [
            Receives(request.as_bytes()),
            Sends(b"HTTP/1.1 405 No\r\nContent-Length: 0\r\n\r\n"),
        ];
        assert_counted_however_cut(method, &calls, &counted(1, &[405]));
    }
}

#[test]
fn every_form_of_target_counts() {
    for target in [
        "/",
        "*",
        "http://a.example/b?c=d",
        "a.example:443",
        "/%20",
        "/\u{fc}",
        "/a b",
        "/ HTTP/1.1",
        "/HTTP/1.0",
        "//",
    ] {
        let request = format!("OPTIONS {target} HTTP/1.1\r\n\r\n");
        let calls = [Receives(request.as_bytes()), Sends(NOT_FOUND)];
        assert_counted_however_cut(target, &calls, &counted(1, &[404]));
    }
}

#[test]
fn every_code_counts_under_itself() {
    for code in (100..600).filter(|code| *code != 101) {
        let response = format!("HTTP/1.1 {code} X\r\nContent-Length: 0\r\n\r\n");
        let calls = [Receives(GET), Sends(response.as_bytes())];
        assert_counted("code", &calls, &counted(1, &[code]));
    }
}

#[test]
fn a_status_line_needs_no_reason() {
    for line in [
        "HTTP/1.1 200\r\n",
        "HTTP/1.1 200 \r\n",
        "HTTP/1.1 200\n",
        "HTTP/1.0 200 \u{e4}\r\n",
        "HTTP/1.1 200  \t\r\n",
    ] {
        let response = format!("{line}Content-Length: 4\r\n\r\nHTTP");
        let calls = [
            Receives(GET),
            Sends(response.as_bytes()),
            Receives(GET),
            Sends(NOT_FOUND),
        ];
        assert_counted_however_cut(line, &calls, &counted(2, &[200, 404]));
    }
}

#[test]
fn lines_may_end_in_a_line_feed_alone() {
    assert_counted_however_cut(
        "everything",
        &[
            Receives(b"POST / HTTP/1.1\nContent-Length: 3\n\nabcPOST / HTTP/1.1\nTransfer-Encoding: chunked\n\n3\nGET\n0\nA: b\n\n"),
            Sends(b"HTTP/1.1 200 OK\nContent-Length: 3\n\nabcHTTP/1.1 201 OK\nTransfer-Encoding: chunked\n\n3;x\nHTT\n0\n\n"),
            Receives(GET),
            Sends(NOT_FOUND),
        ],
        &counted(3, &[200, 201, 404]),
    );
}

#[test]
fn empty_lines_before_a_request_are_skipped() {
    for empty in ["\r\n", "\n", "\r\n\r\n", "\n\n\n\n\n\n", "\r\r\n"] {
        let request = format!("{empty}HEAD / HTTP/1.1\r\n\r\n");
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 70\r\n\r\n";
        let calls = [
            Receives(request.as_bytes()),
            Sends(head),
            Receives(request.as_bytes()),
            Sends(head),
        ];
        assert_counted_however_cut(empty, &calls, &counted(2, &[200, 200]));
    }
    assert_counted_however_cut(
        "the one old browsers put behind a form",
        &[
            Receives(b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\na=b\r\n"),
            Sends(OK),
            Receives(GET),
            Sends(NOT_FOUND),
        ],
        &counted(2, &[200, 404]),
    );
}

#[test]
fn header_names_and_codings_have_no_case() {
    for (length, encoding) in [
        ("content-length", "transfer-encoding: CHUNKED"),
        ("CONTENT-LENGTH", "TRANSFER-ENCODING:chunked"),
        ("cOnTeNt-LeNgTh", "tRaNsFeR-eNcOdInG: \tChunked  "),
    ] {
        let requests = format!(
            "POST / HTTP/1.1\r\n{length}: 8\r\n\r\nGET /a HPOST / HTTP/1.1\r\n{encoding}\r\n\r\n3\r\nGET\r\n0\r\n\r\n"
        );
        let responses = format!(
            "HTTP/1.1 200 OK\r\n{length}:8\t\r\n\r\nHTTP/1.1HTTP/1.1 201 OK\r\n{encoding}\r\n\r\n4\r\nHTTP\r\n0\r\n\r\n"
        );
        let calls = [
            Receives(requests.as_bytes()),
            Sends(responses.as_bytes()),
            Receives(GET),
            Sends(NOT_FOUND),
        ];
        assert_counted_however_cut(length, &calls, &counted(3, &[200, 201, 404]));
    }
}

#[test]
fn header_names_that_only_begin_alike_say_nothing() {
    for name in [
        "Content-Lengt",
        "Content-Length-X",
        "Content-Lengthy",
        "Content-Type",
        "Content",
        "C",
        "Cookie",
        "X-Content-Length",
        "Transfer-Encodin",
        "Transfer-Encodings",
        "Transfer",
        "T",
        "TE",
        "Trailer",
        "X-Transfer-Encoding",
        "Access-Control-Expose-Headers",
        // Bit 5 is all that tells these from a hyphen and a colon.
        "Content\rLength",
        "Content-Length\x1a",
        "Transfer\rEncoding",
        "Transfer-Encoding\x1a",
    ] {
        let request = format!("GET / HTTP/1.1\r\n{name}: 50\r\n\r\n");
        let response =
            format!("HTTP/1.1 200 OK\r\n{name}: 50\r\nContent-Length: 1\r\n{name}: chunked\r\n\r\n!");
        let calls = [
            Receives(request.as_bytes()),
            Sends(response.as_bytes()),
            Receives(request.as_bytes()),
            Sends(response.as_bytes()),
        ];
        assert_counted_however_cut(name, &calls, &counted(2, &[200, 200]));
    }
}

#[test]
fn any_other_byte_in_a_header_name_makes_it_another() {
    for (name, value) in [("Content-Length:", "50"), ("Transfer-Encoding:", "chunked")] {
        // The first byte tells lines from the end of the head.
        for at in 1..name.len() {
            for byte in 0..=u8::MAX {
                let mut line = name.as_bytes().to_vec();
                if line[at].eq_ignore_ascii_case(&byte) {
                    continue;
                }
                line[at] = byte;
                let request = [
                    b"GET / HTTP/1.1\r\n",
                    line.as_slice(),
                    value.as_bytes(),
                    b"\r\n\r\n",
                ]
                .concat();
                let calls = [
                    Receives(&request),
                    Sends(NOT_FOUND),
                    Receives(GET),
                    Sends(NOT_FOUND),
                ];
                let name = String::from_utf8_lossy(&line);
                assert_counted(&name, &calls, &counted(2, &[404, 404]));
            }
        }
    }
}

#[test]
fn a_header_longer_than_the_window_is_skipped() {
    for len in [WINDOW - 20, WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW, 8000] {
        let filler = "c".repeat(len);
        let request = format!("POST / HTTP/1.1\r\nCookie: {filler}\r\nContent-Length: 4\r\n\r\nGET ");
        let response = format!("HTTP/1.1 200 OK\r\nSet-Cookie: {filler}\r\nContent-Length: 4\r\n\r\nHTTP");
        let calls = [
            Receives(request.as_bytes()),
            Sends(response.as_bytes()),
            Receives(GET),
            Sends(NOT_FOUND),
        ];
        assert_counted_however_cut(&format!("{len} bytes"), &calls, &counted(2, &[200, 404]));
    }
}

#[test]
fn framing_headers_anywhere_in_the_window_are_found() {
    for len in WINDOW - 100..WINDOW + 10 {
        let filler = "x".repeat(len);
        let request = format!("POST / HTTP/1.1\r\nA: {filler}\r\nContent-Length: 4\r\n\r\nGET ");
        let response = format!(
            "HTTP/1.1 200 OK\r\nA: {filler}\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nHTTP\r\n0\r\n\r\n"
        );
        let calls = [
            Receives(request.as_bytes()),
            Sends(response.as_bytes()),
            Receives(GET),
            Sends(NOT_FOUND),
        ];
        assert_counted(&format!("{len} bytes"), &calls, &counted(2, &[200, 404]));
    }
}
