//! What a well-known parser takes for a head is counted.
//!
//! Honest exceptions: methods of more than 32 bytes, codes outside 100 to 599 (RFC 9110 section 15), and empty lines
//! in front of a status line, which no server sends. The other way round the engine is the more lenient one: it
//! looks at the ends of a request line, and not at what is in other lines.

use proptest::{collection::vec, prelude::*, sample::select};

use super::conversation::{
    Call::{Receives, Sends},
    Conversation, counted,
};
use super::properties::config;
use crate::abi::{CODE_MAX, CODE_MIN};

/// Length of the head and its method, if it is one.
fn parse_request(bytes: &[u8]) -> Option<(usize, String)> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(len) = request.parse(bytes).ok()? else {
        return None;
    };
    Some((len, request.method?.to_owned()))
}

/// Length of the head and its code, if it is one.
fn parse_response(bytes: &[u8]) -> Option<(usize, u16)> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(len) = response.parse(bytes).ok()? else {
        return None;
    };
    Some((len, response.code?))
}

/// The codes counted after the head, which tell what its method was taken for.
fn codes_after(request: &[u8]) -> (usize, Vec<u16>) {
    let mut conversation = Conversation::opened();
    conversation.call(Receives(request));
    // Without a body this is two responses, with one it is one, and nothing counts in a tunnel.
    conversation.call(Sends(
        b"HTTP/1.1 200 OK\r\nContent-Length: 28\r\n\r\nHTTP/1.1 201 OK\r\nA: 4567\r\n\r\n",
    ));
    conversation.call(Sends(b"HTTP/1.1 202 OK\r\nContent-Length: 0\r\n\r\n"));
    (conversation.counted.requests, conversation.counted.responses)
}

fn expect_request(bytes: &[u8]) -> Result<bool, TestCaseError> {
    let Some((len, method)) = parse_request(bytes) else {
        return Ok(false);
    };
    if method.len() > 32 {
        return Ok(false);
    }
    let expected = match method.as_str() {
        "HEAD" => vec![200, 201],
        "CONNECT" => vec![200],
        _ => vec![200, 202],
    };
    prop_assert_eq!(
        codes_after(&bytes[..len]),
        (expected.len(), expected),
        "{}",
        bytes.escape_ascii()
    );
    Ok(true)
}

fn expect_response(bytes: &[u8]) -> Result<bool, TestCaseError> {
    let Some((len, code)) = parse_response(bytes) else {
        return Ok(false);
    };
    if !(CODE_MIN..=CODE_MAX).contains(&code) || bytes[0] == b'\r' || bytes[0] == b'\n' {
        return Ok(false);
    }
    let mut conversation = Conversation::opened();
    conversation.call(Receives(b"GET / HTTP/1.1\r\n\r\n"));
    conversation.call(Sends(&bytes[..len]));
    prop_assert_eq!(
        conversation.counted,
        counted(1, &[code]),
        "{}",
        bytes.escape_ascii()
    );
    Ok(true)
}

#[test]
fn heads_that_a_parser_takes_are_counted() {
    for line in [
        "GET / HTTP/1.1",
        "GET / HTTP/1.0",
        "HEAD /a HTTP/1.1",
        "CONNECT a:1 HTTP/1.1",
        "\r\n\nHEAD / HTTP/1.1",
        "GET HTTP/1.1 HTTP/1.1",
        "M-SEARCH * HTTP/1.1",
        "GET /\u{fc} HTTP/1.1",
        "GET /?\"<>{}|\\^` HTTP/1.0",
        "QUERY http://a/b HTTP/1.1",
    ] {
        for end in ["\r\n", "\n"] {
            let request = format!("{line}{end}Host: a{end}{end}");
            assert!(
                expect_request(request.as_bytes()).unwrap(),
                "{line:?} is not taken"
            );
        }
    }
    for line in [
        "HTTP/1.1 200 OK",
        "HTTP/1.0 404",
        "HTTP/1.1 599 ",
        "HTTP/1.1 100 \u{fc}",
        "HTTP/1.1 204 a\tb",
    ] {
        for end in ["\r\n", "\n"] {
            let response = format!("{line}{end}Server: a{end}{end}");
            assert!(
                expect_response(response.as_bytes()).unwrap(),
                "{line:?} is not taken"
            );
        }
    }
}

/// Words of which heads are made, right or wrong.
fn words(line: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let line = line.iter().map(|word| {
        prop_oneof![12 => Just(word.as_bytes().to_vec()), 1 => vec(any::<u8>(), 0..3), 1 => "[ -~]{0,40}".prop_map(String::into_bytes)]
    });
    let header = prop_oneof![
        Just(&b"A: b\r\n"[..]),
        Just(&b"Host:\r\n"[..]),
        Just(&b"C: d\n"[..]),
        Just(&b"T: \xfc\xff\r\n"[..]),
        Just(&b" folded\r\n"[..]),
        Just(&b"\x0b: a\r\n"[..]),
    ];
    let end = select(vec![&b"\r\n"[..], b"\n", b"\r\n\r\n"]);
    (line.collect::<Vec<_>>(), vec(header, 0..4), end)
        .prop_map(|(line, headers, end)| [line.concat(), headers.concat(), end.to_vec()].concat())
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_request_that_a_parser_takes_is_counted(
        empty in select(vec!["", "", "", "\r\n", "\n"]),
        method in prop_oneof![select(vec!["GET", "HEAD", "CONNECT"]).prop_map(str::to_owned), "[!-~]{1,34}"],
        rest in words(&[" ", "/", "a", " ", "HTTP/1.", "1", "\r\n"]),
    ) {
        expect_request(&[empty.as_bytes(), method.as_bytes(), &rest].concat())?;
    }

    #[test]
    fn a_response_that_a_parser_takes_is_counted(
        version in select(vec!["HTTP/1.1 ", "HTTP/1.0 "]),
        code in "[0-9]{3}",
        rest in words(&[" ", "OK", "\r\n"]),
    ) {
        expect_response(&[version.as_bytes(), code.as_bytes(), &rest].concat())?;
    }

    #[test]
    fn anything_that_a_parser_takes_is_counted(
        request in words(&["GET", " /", "a", " HTTP/1.1", "\r\n"]),
        response in words(&["HTTP/1.1 ", "200", " OK", "\r\n"]),
    ) {
        expect_request(&request)?;
        expect_response(&response)?;
    }
}
