//! Malformed and hostile input: row 18.

use super::conversation::{
    Call::{Receives, Sends},
    Conversation, assert_counted, assert_counted_however_cut, counted,
};
use crate::abi::Loss;

const GET: &[u8] = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const BAD_REQUEST: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";

#[test]
fn a_request_that_is_none_counts_with_its_answer() {
    let lines = [
        "GET / HTTP/9.9",
        "GET / HTTP/2.0",
        "GET / HTTP/1",
        "GET / HTTP/1.",
        "GET / http/1.1",
        "GET / HTTP/1.x",
        "GET / HTTP/1.1x",
        "GET / HTTP/11.1",
        "GET / HTTP/.11",
        "GET / HTTP/1.1        ",
        "GET / HTTPS/1.1",
        "GET /HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET / XHTTP/1.1",
        "G\u{fc}T / HTTP/1.1",
        "GET, / HTTP/1.1",
        " GET / HTTP/1.1",
        "GET",
        "GET /",
        ":",
        "\u{1}\u{2}",
    ];
    for line in lines {
        let request = format!("{line}\r\n\r\n");
        let calls = [Receives(request.as_bytes()), Sends(BAD_REQUEST)];
        assert_counted_however_cut(line, &calls, &counted(1, &[400]));
        let calls = [
            Receives(request.as_bytes()),
            Sends(BAD_REQUEST),
            Receives(GET),
            Sends(OK),
        ];
        assert_counted(line, &calls, &counted(2, &[400, 200]));
    }
}

#[test]
fn what_servers_forgive_is_forgiven() {
    for line in [
        "GET / HTTP/1.1 ",
        "GET / HTTP/1.1   ",
        "GET / HTTP/1.10",
        "GET / HTTP/1.1\r",
        "GET  /  HTTP/1.1",
        "GET / a b HTTP/1.1",
    ] {
        let request = format!("{line}\r\nHost: a\r\n\r\n");
        let calls = [Receives(request.as_bytes()), Sends(OK), Receives(GET), Sends(OK)];
        assert_counted_however_cut(line, &calls, &counted(2, &[200, 200]));
    }
}

#[test]
fn eight_kibibytes_of_method_do_no_harm() {
    let method = "M".repeat(8 * 1024);
    for request in [method.clone(), format!("{method} / HTTP/1.1\r\n\r\n")] {
        let calls = [
            Receives(request.as_bytes()),
            Sends(BAD_REQUEST),
            Receives(GET),
            Sends(OK),
        ];
        assert_counted("first", &calls, &counted(2, &[400, 200]));
        let calls = [
            Receives(GET),
            Sends(OK),
            Receives(request.as_bytes()),
            Sends(BAD_REQUEST),
            Receives(GET),
            Sends(OK),
        ];
        assert_counted("later", &calls, &counted(3, &[200, 400, 200]));
    }
}

#[test]
fn a_bad_line_behind_a_good_one_is_a_request_if_it_is_answered() {
    for line in [
        "GET /a HTTP/2.x",
        "GET /a",
        "\0\x01\x02",
        "GET  HTTP/1",
        "G\u{e9}T / HTTP/1.1",
    ] {
        let bad = format!("{line}\r\nHost: a\r\n\r\n");
        let calls = [
            Receives(GET),
            Sends(OK),
            Receives(bad.as_bytes()),
            Sends(BAD_REQUEST),
            Receives(GET),
            Sends(OK),
        ];
        assert_counted(line, &calls, &counted(3, &[200, 400, 200]));
        let pipelined = [GET, bad.as_bytes()].concat();
        let calls = [Receives(&pipelined), Sends(OK), Sends(BAD_REQUEST)];
        assert_counted(line, &calls, &counted(2, &[200, 400]));
        let calls = [Receives(GET), Sends(OK), Receives(bad.as_bytes())];
        assert_counted(line, &calls, &counted(1, &[200]));
    }
}

#[test]
fn a_version_may_have_more_digits_and_a_code_no_space_behind_it() {
    for line in [
        "HTTP/1.10 200 OK",
        "HTTP/1.1 200OK",
        "HTTP/1.01 200",
        "HTTP/1.10 200OK",
    ] {
        let response = format!("{line}\r\nContent-Length: 0\r\n\r\n");
        let calls = [
            Receives(b"GET / HTTP/1.10\r\n\r\n"),
            Sends(response.as_bytes()),
            Receives(GET),
            Sends(OK),
        ];
        assert_counted_however_cut(line, &calls, &counted(2, &[200, 200]));
    }
}

#[test]
fn a_request_line_without_end_is_given_up() {
    let filler = vec![b'x'; 16 * 1024];
    let mut conversation = Conversation::opened();
    conversation.call(Receives(b"GET /"));
    for _ in 0..100 {
        conversation.call(Receives(&filler));
    }
    conversation.call(Receives(b" HTTP/1.1\r\n\r\n"));
    assert_eq!(conversation.counted, counted(0, &[]));
    conversation.call(Sends(BAD_REQUEST));
    conversation.call(Receives(GET));
    conversation.call(Sends(OK));
    assert_eq!(conversation.counted, counted(2, &[400, 200]));
}

#[test]
fn a_request_line_that_is_answered_before_its_end_counts_with_the_answer() {
    let line = format!("GET /{}", "a".repeat(8 * 1024));
    for line in [line.as_str(), "GE", "G", "GET /"] {
        let calls = [
            Receives(GET),
            Sends(OK),
            Receives(line.as_bytes()),
            Sends(BAD_REQUEST),
        ];
        assert_counted_however_cut("refused", &calls, &counted(2, &[200, 400]));
        let calls = [
            Receives(line.as_bytes()),
            Sends(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"),
        ];
        assert_counted_however_cut("timed out", &calls, &counted(0, &[408]));
    }
}

#[test]
fn a_header_without_end_is_skipped() {
    let filler = vec![b'x'; 8 * 1024];
    let mut conversation = Conversation::opened();
    conversation.call(Receives(b"GET / HTTP/1.1\r\nCookie: "));
    for _ in 0..1000 {
        conversation.call(Receives(&filler));
    }
    assert_eq!(conversation.counted, counted(1, &[]));
}

#[test]
fn after_a_length_that_is_none_counting_goes_on_with_the_next_call() {
    for header in [
        "Content-Length: -1",
        "Content-Length: +5",
        "Content-Length: ",
        "Content-Length: 5 5",
        "Content-Length: 5, 6",
        "Content-Length: 5,",
        "Content-Length: ,5",
        "Content-Length: 0x5",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: -1\r\nContent-Length: 5",
        "Content-Length: five",
        "Content-Length: 99999999999999999999",
        "Content-Length: 18446744073709551621",
        "Content-Length: 340282366920938463463374607431768211461",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunkedx",
        "Transfer-Encoding: ",
    ] {
        let request = format!("POST / HTTP/1.1\r\n{header}\r\n\r\n");
        let calls = [
            Receives(request.as_bytes()),
            Sends(BAD_REQUEST),
            Receives(GET),
            Sends(OK),
        ];
        assert_counted(header, &calls, &counted(2, &[400, 200]));
        // A request behind such a head in the same call is not one: the server refuses to guess, too.
        let request = [request.as_bytes(), GET].concat();
        let calls = [Receives(&request), Sends(BAD_REQUEST), Receives(GET), Sends(OK)];
        assert_counted(header, &calls, &counted(2, &[400, 200]));
    }
    for header in [
        "Content-Length: -1",
        "Content-Length: 5, 6",
        "Content-Length: 99999999999999999999",
    ] {
        let response = format!("HTTP/1.1 200 OK\r\n{header}\r\n\r\n");
        let calls = [
            Receives(GET),
            Sends(response.as_bytes()),
            Receives(GET),
            Sends(OK),
        ];
        assert_counted(header, &calls, &counted(2, &[200, 200]));
    }
}

#[test]
fn a_huge_length_is_taken_at_its_word() {
    for length in ["99999999999999", "576460752303423488"] {
        let request = format!("POST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n");
        let calls = [
            Receives(request.as_bytes()),
            Receives(GET),
            Sends(b"HTTP/1.1 413 Too Large\r\n\r\n"),
            Receives(GET),
        ];
        assert_counted_however_cut(length, &calls, &counted(1, &[413]));
    }
}

#[test]
fn a_chunk_size_that_is_none_loses_the_place_once() {
    for size in [
        "",
        "g",
        "-1",
        "+1",
        "0x5",
        " 5",
        "5g",
        "100000000000000",
        "ffffffffffffffff",
        "10000000000000000",
        "\r5",
        ";",
    ] {
        let request = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{size}\r\nhello\r\n");
        let calls = [
            Receives(request.as_bytes()),
            Sends(BAD_REQUEST),
            Receives(GET),
            Sends(OK),
        ];
        assert_counted(size, &calls, &counted(2, &[400, 200]).lost(&[Loss::OutOfSync]));
    }
    assert_counted(
        "data longer than its size",
        &[
            Receives(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n0\r\n\r\n"),
            Sends(BAD_REQUEST),
            Receives(GET),
            Sends(OK),
        ],
        &counted(2, &[400, 200]).lost(&[Loss::OutOfSync]),
    );
}

#[test]
fn folded_lines_are_part_of_their_header() {
    for fold in ["\r\n ", "\r\n\t", "\n ", "\r\n  \r\n "] {
        let request = format!(
            "POST / HTTP/1.1\r\nA: b{fold}Content-Length: 50{fold}Transfer-Encoding: chunked\r\n\r\n"
        );
        let response =
            format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nA:{fold}Content-Length: 50\r\n\r\nok");
        let calls = [
            Receives(request.as_bytes()),
            Sends(response.as_bytes()),
            Receives(GET),
            Sends(OK),
        ];
        assert_counted_however_cut(fold, &calls, &counted(2, &[200, 200]));
    }
}

#[test]
fn control_characters_at_a_line_start_are_no_line_end() {
    for byte in (0..=255).filter(|byte| !matches!(byte, b'\n' | b'\r')) {
        for before in 0..8 {
            let filler = "x".repeat(before);
            let tail = [
                &[byte][..],
                b"Content-Length: 50\r\n",
                &[byte],
                b"Content-Length: 60\r\n\r\n",
            ]
            .concat();
            let request = [format!("POST / HTTP/1.1\r\nA: {filler}\r\n").as_bytes(), &tail].concat();
            let response = [
                format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nA: {filler}\r\n").as_bytes(),
                &tail,
                b"ok",
            ]
            .concat();
            let calls = [Receives(&request), Sends(&response), Receives(GET), Sends(OK)];
            assert_counted(
                &format!("{byte:#04x} behind {before}"),
                &calls,
                &counted(2, &[200, 200]),
            );
        }
    }
}

#[test]
fn header_lines_that_are_none_do_no_harm() {
    for line in [
        ":",
        " ",
        "no colon",
        "\0",
        "\u{fc}: b",
        "A : b",
        "A:",
        "A:\rB",
        "\rA: b",
        "c",
        "t",
        "C:",
        "T:",
        "content-",
        "GET / HTTP/1.1",
    ] {
        let request = format!("GET / HTTP/1.1\r\n{line}\r\n\r\n");
        let response = format!("HTTP/1.1 200 OK\r\n{line}\r\nContent-Length: 4\r\n\r\nHTTP");
        let calls = [
            Receives(request.as_bytes()),
            Sends(response.as_bytes()),
            Receives(GET),
            Sends(OK),
        ];
        assert_counted_however_cut(line, &calls, &counted(2, &[200, 200]));
    }
}

#[test]
fn a_status_line_that_is_none_is_not_counted() {
    for line in [
        "HTTP/1.1 099 X",
        "HTTP/1.1 000 X",
        "HTTP/1.1 600 X",
        "HTTP/1.1 999 X",
        "HTTP/1.1 20 X",
        "HTTP/1.1 2000 X",
        "HTTP/2 200 OK",
        "HTTP/2.0 200 OK",
        "HTTP/1.1  200 OK",
        "HTTP/1.x 200 OK",
        "http/1.1 200 OK",
        "HTTP/1.1 -20 OK",
        "\r\nHTTP/1.1 200 OK",
        "ICY 200 OK",
    ] {
        let response = format!("{line}\r\nContent-Length: 0\r\n\r\n");
        let calls = [
            Receives(GET),
            Sends(response.as_bytes()),
            Receives(GET),
            Sends(OK),
        ];
        assert_counted(line, &calls, &counted(2, &[200]).lost(&[Loss::OutOfSync]));
    }
}

#[test]
fn a_body_where_there_is_none_loses_the_place_once() {
    let calls = [
        Receives(b"HEAD / HTTP/1.1\r\n\r\n"),
        Sends(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
        Receives(GET),
        Sends(OK),
        Receives(GET),
        Sends(b"HTTP/1.1 204 No Content\r\n\r\nhello"),
        Receives(GET),
        Sends(OK),
    ];
    assert_counted(
        "twice",
        &calls,
        &counted(4, &[200, 200, 204, 200]).lost(&[Loss::OutOfSync; 2]),
    );
}

#[test]
fn every_time_the_place_is_lost_counts() {
    let calls = [
        Receives(GET),
        Sends(OK),
        Receives(b"\0"),
        Receives(b"\0"),
        Sends(b"\0"),
        Sends(b"\0"),
    ];
    let mut twice = calls.repeat(2);
    twice.extend([Receives(GET), Sends(OK)]);
    assert_counted(
        "each way",
        &twice,
        // What is received and is no request line is one if it is answered.
        &counted(3, &[200; 3]).lost(&[Loss::OutOfSync; 2]),
    );
}

#[test]
fn an_unasked_answer_counts() {
    assert_counted_however_cut(
        "time-out",
        &[Sends(b"HTTP/1.1 408 Request Timeout\r\n\r\n")],
        &counted(0, &[408]),
    );
    assert_counted_however_cut(
        "time-out in a request line",
        &[
            Receives(b"GET /a"),
            Sends(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"),
        ],
        &counted(0, &[408]),
    );
    assert_counted_however_cut(
        "time-out in a body",
        &[
            Receives(b"POST /a HTTP/1.1\r\nContent-Length: 10\r\n\r\n"),
            Sends(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"),
        ],
        &counted(1, &[408]),
    );
}
