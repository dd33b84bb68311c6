//! Bodies are skipped, not searched: rows 10 and 11.

use super::conversation::{
    Call::{Receives, Sends, SendsPages, SendsPieces},
    Conversation,
    Piece::Bytes,
    WORK, assert_counted, assert_counted_however_cut, counted,
};

const GET: &[u8] = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
const NOT_FOUND: &[u8] = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";

/// What must not be counted in a body.
const REQUEST_TEXT: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const RESPONSE_TEXT: &[u8] = b"HTTP/1.1 500 No\r\nContent-Length: 3\r\n\r\n";

fn head(line: &str, header: &str) -> Vec<u8> {
    format!("{line}\r\n{header}\r\n\r\n").into_bytes()
}

#[test]
fn a_body_of_known_length_is_not_searched() {
    let request = head(
        "POST / HTTP/1.1",
        &format!("Content-Length: {}", REQUEST_TEXT.len() * 2),
    );
    let response = head(
        "HTTP/1.1 200 OK",
        &format!("Content-Length: {}", RESPONSE_TEXT.len() * 2),
    );
    let calls = [
        Receives(&request),
        Receives(REQUEST_TEXT),
        Receives(REQUEST_TEXT),
        Sends(&response),
        Sends(RESPONSE_TEXT),
        Sends(RESPONSE_TEXT),
        Receives(GET),
        Sends(NOT_FOUND),
    ];
    assert_counted_however_cut("each way", &calls, &counted(2, &[200, 404]));
}

#[test]
fn a_chunked_body_is_not_searched() {
    fn chunked(line: &str, text: &[u8], extension: &str, trailers: &str) -> Vec<Vec<u8>> {
        let size = format!("{:x}{extension}\r\n", text.len());
        vec![
            head(line, "Transfer-Encoding: chunked"),
            size.clone().into_bytes(),
            text.to_vec(),
            b"\r\n".to_vec(),
            size.to_uppercase().into_bytes(),
            text.to_vec(),
            format!("\r\n0{extension}\r\n{trailers}\r\n").into_bytes(),
        ]
    }
    for (extension, trailers) in [
        ("", ""),
        (";a=b", ""),
        (" ; a=\"GET / HTTP/1.1\"; b", "A: b\r\n"),
        (
            "\t",
            "Content-Length: 10\r\nTransfer-Encoding: chunked\r\nT: HTTP/1.1 500 No\r\n",
        ),
        ("  ", "GET / HTTP/1.1\r\nHTTP/1.1 500 No\r\n"),
    ] {
        let request = chunked("POST / HTTP/1.1", REQUEST_TEXT, extension, trailers);
        let response = chunked("HTTP/1.1 200 OK", RESPONSE_TEXT, extension, trailers);
        let mut calls: Vec<_> = request.iter().map(|part| Receives(part)).collect();
        calls.extend(response.iter().map(|part| Sends(part)));
        calls.extend([Receives(GET), Sends(NOT_FOUND)]);
        assert_counted_however_cut(extension, &calls, &counted(2, &[200, 404]));

        let (request, response) = (request.concat(), response.concat());
        let calls = [
            Receives(&request),
            Sends(&response),
            Receives(GET),
            Sends(NOT_FOUND),
        ];
        assert_counted_however_cut(extension, &calls, &counted(2, &[200, 404]));
    }
}

#[test]
fn trailers_may_begin_a_call() {
    let calls = [
        Receives(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"),
        Receives(b"GET / HTTP/1.1\r\n"),
        Receives(b"\r\n"),
        Sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"),
        Sends(b"HTTP/1.1 500 No\r\n"),
        Sends(b"\r\n"),
        Receives(GET),
        Sends(NOT_FOUND),
    ];
    assert_counted_however_cut("lines that look like messages", &calls, &counted(2, &[200, 404]));
}

#[test]
fn a_body_until_close_is_not_searched() {
    for header in [
        "Server: a",
        "Connection: close",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip",
    ] {
        let response = head("HTTP/1.1 200 OK", header);
        let calls = [
            Receives(GET),
            Sends(&response),
            Sends(RESPONSE_TEXT),
            Sends(RESPONSE_TEXT),
        ];
        assert_counted_however_cut(header, &calls, &counted(1, &[200]));
    }
}

#[test]
fn the_next_request_ends_a_body_that_had_no_length() {
    let calls = [
        Receives(GET),
        Sends(b"HTTP/1.1 200 OK\r\n\r\n"),
        Receives(GET),
        Sends(NOT_FOUND),
        Receives(GET),
        Sends(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"),
    ];
    assert_counted("a server that forgot it", &calls, &counted(3, &[200, 404, 503]));
}

#[test]
fn the_coding_goes_before_the_length() {
    for header in [
        "Content-Length: 500\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 500",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: gzip ,\tchunked ",
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding:\tx-a-coding-with-a-name-of-some-length,chunked",
        "Content-Length: nonsense\r\nTransfer-Encoding: chunked",
    ] {
        let chunks: &[u8] = b"4\r\nGET \r\n0\r\n\r\n";
        let request = [&head("POST / HTTP/1.1", header), chunks].concat();
        let response = [&head("HTTP/1.1 200 OK", header), chunks].concat();
        let calls = [
            Receives(&request),
            Sends(&response),
            Receives(GET),
            Sends(NOT_FOUND),
        ];
        assert_counted_however_cut(header, &calls, &counted(2, &[200, 404]));
    }
}

#[test]
fn equal_lengths_are_one_length() {
    for header in [
        "Content-Length: 5, 5",
        "Content-Length: 5,5",
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5\r\nA: b\r\ncontent-length:  5  ",
        "Content-Length: 005",
        "Content-Length:\t5\t",
    ] {
        let request = [&head("POST / HTTP/1.1", header)[..], b"GET /"].concat();
        let response = [&head("HTTP/1.1 200 OK", header)[..], b"HTTP/"].concat();
        let calls = [
            Receives(&request),
            Sends(&response),
            Receives(GET),
            Sends(NOT_FOUND),
        ];
        assert_counted_however_cut(header, &calls, &counted(2, &[200, 404]));
    }
}

#[test]
fn responses_without_a_body_have_none_whatever_their_header_says() {
    for header in ["Content-Length: 500", "Transfer-Encoding: chunked", "A: b"] {
        for (request, status) in [
            ("HEAD / HTTP/1.1", "HTTP/1.1 200 OK"),
            ("HEAD / HTTP/1.1", "HTTP/1.1 404 No"),
            ("HEAD / HTTP/1.0", "HTTP/1.0 200 OK"),
            ("GET / HTTP/1.1", "HTTP/1.1 204 No Content"),
            ("GET / HTTP/1.1", "HTTP/1.1 304 Not Modified"),
            ("POST / HTTP/1.1", "HTTP/1.1 304 Not Modified"),
        ] {
            let code = status[9..12].parse().unwrap();
            let (request, response) = (head(request, "A: b"), head(status, header));
            let calls = [
                Receives(&request),
                Sends(&response),
                Receives(GET),
                Sends(NOT_FOUND),
                Receives(&request),
                Sends(&response),
            ];
            assert_counted_however_cut(status, &calls, &counted(3, &[code, 404, code]));
        }
    }
}

#[test]
fn only_head_itself_is_answered_without_a_body() {
    for method in ["head", "HEADX", "XHEAD", "HEA", "GET"] {
        let request = format!("{method} / HTTP/1.1\r\n\r\n");
        let calls = [
            Receives(request.as_bytes()),
            Sends(b"HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n"),
            Sends(b"HTTP/1.1 500 No\r\n"),
            Receives(GET),
            Sends(NOT_FOUND),
        ];
        assert_counted_however_cut(method, &calls, &counted(2, &[200, 404]));
    }
}

#[test]
fn a_large_body_costs_nothing() {
    let response = head("HTTP/1.1 200 OK", "Content-Length: 10000000000");
    let body = vec![b'\n'; 1_000_000];
    let mut calls = vec![Receives(GET), Sends(&response)];
    calls.extend([Sends(&body[..]); 20]);
    assert_counted("not read to its end", &calls, &counted(1, &[200]));

    let chunk = [b"F4240\r\n", &body[..], b"\r\n"].concat();
    let head = head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked");
    let calls = [
        Receives(GET),
        Sends(&head),
        Sends(&chunk),
        Sends(&chunk),
        Sends(b"0\r\n\r\n"),
        Receives(GET),
        Sends(NOT_FOUND),
    ];
    assert_counted("chunks of a million bytes", &calls, &counted(2, &[200, 404]));
}

#[test]
fn many_small_chunks_in_one_call_are_followed() {
    let chunks = b"5\r\nHTTP/\r\n".repeat(WORK / 12);
    let response = [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        &chunks[..],
        b"0\r\n\r\n",
    ]
    .concat();
    let calls = [Receives(GET), Sends(&response), Receives(GET), Sends(NOT_FOUND)];
    assert_counted(
        "as many as are not too much work",
        &calls,
        &counted(2, &[200, 404]),
    );
}

const OK_CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
const OK_LENGTH: &str = "HTTP/1.1 200 OK\r\nContent-Length:";

/// Checks that a head, cut anywhere, is followed by a body of `size` bytes, and that by `end`.
#[track_caller]
fn assert_size(head: &str, size: u64, end: &[u8]) {
    for at in 0..head.len() {
        let (first, second) = head.as_bytes().split_at(at);
        let mut conversation = Conversation::opened();
        conversation.calls(&[
            Receives(GET),
            SendsPieces(&[Bytes(first), Bytes(second)]),
            SendsPages(size),
            Sends(end),
            Receives(GET),
            Sends(NOT_FOUND),
        ]);
        assert_eq!(
            conversation.counted,
            counted(2, &[200, 404]),
            "{head}, cut at {at}"
        );
    }
}

#[test]
fn sizes_of_any_width_are_read_wherever_they_are_cut() {
    let decimal = [7, 90, 123, 4567, 89_012, 345_678, 9_012_345];
    let hexadecimal = [0xf, 0xbc, 0xdef, 0xa1b2, 0xc_3d4e, 0xf5_a6b7, 0xc8d_9e0f];
    for size in decimal.into_iter().chain(hexadecimal) {
        for width in 0..10 {
            assert_size(&format!("{OK_LENGTH} {size:0width$}\r\n\r\n"), size, b"");
            for line in [
                format!("{size:0width$x}\r\n"),
                format!("{size:0width$X}\r\n"),
                format!("{size:0width$X};a\r\n"),
            ] {
                // A line feed alone: of CRLF a chunk that is one too long would take the CR, and nobody would notice.
                assert_size(&format!("{OK_CHUNKED}{line}"), size, b"\n00\r\n\r\n");
            }
        }
    }
}

#[test]
fn a_size_with_any_byte_in_it_is_read_as_it_is_byte_by_byte() {
    for (head, line) in [
        (OK_LENGTH, " 12345\r\n"),
        (OK_LENGTH, " 12,  12\r\n"),
        (OK_CHUNKED, "1a2F5\r\n"),
    ] {
        for at in 0..line.len() {
            for byte in 0..=u8::MAX {
                let mut response = [head, line, "\r\n"].concat().into_bytes();
                response[head.len() + at] = byte;
                let found = |segment| {
                    let mut conversation = Conversation::opened();
                    conversation.call(Receives(GET));
                    conversation.call_in_segments(Sends(&response), segment);
                    conversation.calls(&[SendsPages(0x1_a2f5), Receives(GET), Sends(NOT_FOUND)]);
                    conversation.counted
                };
                assert_eq!(found(usize::MAX), found(1), "{}", response.escape_ascii());
            }
        }
    }
}
