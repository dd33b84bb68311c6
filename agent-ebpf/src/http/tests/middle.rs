//! Connections that were open before they could be watched: row 15.

use super::conversation::{
    Call::{self, Receives, Sends, SendsPages},
    Conversation, assert_counted_joined, counted,
};

const GET: &[u8] = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const NOT_FOUND: &[u8] = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";

#[test]
fn counting_begins_with_the_next_message() {
    let before: [(&str, &[Call<'_>], &[u16]); 12] = [
        ("between messages", &[], &[]),
        ("before a response", &[Sends(OK)], &[200]),
        (
            "before an interim response",
            &[Sends(b"HTTP/1.1 100 Continue\r\n\r\n"), Sends(OK)],
            &[100, 200],
        ),
        (
            "in a request line",
            &[Receives(b"/a HTTP/1.1\r\nHost: a\r\n\r\n"), Sends(OK)],
            &[200],
        ),
        (
            "in a request head",
            &[Receives(b"st: a\r\nAccept: */*\r\n\r\n"), Sends(OK)],
            &[200],
        ),
        (
            "in a request body",
            &[
                Receives(b"a=b&c=d"),
                Receives(b"some text"),
                Receives(b"{\n}\n"),
                Sends(OK),
            ],
            &[200],
        ),
        (
            "in a chunked request",
            &[Receives(b"\r\n5\r\nhello\r\n0\r\n\r\n"), Sends(OK)],
            &[200],
        ),
        (
            "in a status line",
            &[Sends(b".1 200 OK\r\nContent-Length: 2\r\n\r\n"), Sends(b"ok")],
            &[],
        ),
        (
            "in a response head",
            &[Sends(b"Content-Length: 2\r\n\r\nok")],
            &[],
        ),
        (
            "in a response body",
            &[Sends(b"<html>\n"), Sends(b"\x00\xff\n"), Sends(b"\n</html>\n")],
            &[],
        ),
        (
            "in a chunked response",
            &[Sends(b"hello\r\n"), Sends(b"5\r\nhello\r\n"), Sends(b"0\r\n\r\n")],
            &[],
        ),
        (
            "in a response from pages",
            &[SendsPages(100_000), SendsPages(100_000)],
            &[],
        ),
    ];
    for (name, calls, codes) in before {
        let calls = [
            calls,
            &[Receives(GET), Sends(NOT_FOUND), Receives(GET), Sends(OK)],
        ]
        .concat();
        // A response implies a request, also one that came before.
        let requests = 2 + codes.iter().filter(|code| **code >= 200).count();
        assert_counted_joined(name, &calls, &counted(requests, &[codes, &[404, 200]].concat()));
    }
}

#[test]
fn a_request_that_was_counted_before_the_state_made_room_is_not_counted_again() {
    let after: [(&str, &[Call<'_>], &[u16]); 4] = [
        ("before the response", &[Sends(OK)], &[200]),
        ("in the response", &[Sends(b"rest of it\n")], &[]),
        (
            "before an interim response",
            &[Sends(b"HTTP/1.1 100 Continue\r\n\r\n"), Sends(OK)],
            &[100, 200],
        ),
        ("between messages", &[], &[]),
    ];
    for (name, calls, codes) in after {
        let mut conversation = Conversation::evicted();
        conversation.calls(calls);
        conversation.calls(&[Receives(GET), Sends(NOT_FOUND), Receives(GET), Sends(OK)]);
        let expected = counted(2, &[codes, &[404, 200]].concat());
        assert_eq!(conversation.counted, expected, "{name}");
    }
}

#[test]
fn a_long_transfer_does_not_make_a_server_forgotten() {
    let transfers: [(&str, Call<'_>); 3] = [
        ("download", Sends(&[0xfe; 16_384])),
        ("upload", Receives(&[0xfe; 16_384])),
        ("text", Sends(b"<p>text</p>\n")),
    ];
    for (name, transfer) in transfers {
        let mut calls = vec![transfer; 1000];
        calls.extend([Receives(GET), Sends(NOT_FOUND), Receives(GET), Sends(OK)]);
        assert_counted_joined(name, &calls, &counted(2, &[404, 200]));
    }
}

#[test]
fn text_before_the_first_request_does_not_swallow_it() {
    for text in [
        &b"a"[..],
        b"abc",
        b"some text",
        b"a HTTP/1.1",
        b"\r\n",
        b"x=1&y=2 ",
    ] {
        let calls = [Receives(text), Receives(GET), Sends(NOT_FOUND)];
        assert_counted_joined("the end of a body", &calls, &counted(1, &[404]));
    }
}

#[test]
fn bodies_are_not_searched_once_a_message_was_found() {
    let mut conversation = Conversation::joined();
    conversation.call(Sends(b"the end of something"));
    conversation.call(Receives(b"POST / HTTP/1.1\r\nContent-Length: 28\r\n\r\n"));
    conversation.call(Receives(GET));
    conversation.call(Sends(b"HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n"));
    conversation.call(Sends(b"HTTP/1.1 500 No\r\n"));
    conversation.call(Receives(GET));
    conversation.call(Sends(NOT_FOUND));
    assert_eq!(conversation.counted, counted(2, &[200, 404]));
}

#[test]
fn a_tunnel_is_one_on_a_joined_connection_too() {
    let calls = [
        Receives(b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"),
        Sends(b"HTTP/1.1 101 Switching Protocols\r\n\r\n"),
        Receives(GET),
        Sends(OK),
    ];
    assert_counted_joined("Upgrade", &calls, &counted(1, &[101]));
}
