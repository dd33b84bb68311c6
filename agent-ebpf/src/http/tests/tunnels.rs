//! `CONNECT` and `Upgrade`: the second half of row 11.

use super::conversation::{
    Call::{Receives, ReceivesPages, Sends, SendsPages},
    Conversation, assert_counted, assert_counted_however_cut, counted,
};

const GET: &[u8] = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const CONNECT: &[u8] = b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n";
const UPGRADE: &[u8] = b"GET /chat HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const SWITCHING: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";

#[test]
fn nothing_counts_after_a_connection_became_a_tunnel() {
    for (name, request, response, code) in [
        (
            "CONNECT",
            CONNECT,
            &b"HTTP/1.1 200 Connection established\r\n\r\n"[..],
            200,
        ),
        ("CONNECT, any 2xx", CONNECT, b"HTTP/1.0 204 OK\r\n\r\n", 204),
        (
            "CONNECT, with a length that means nothing",
            CONNECT,
            b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",
            200,
        ),
        (
            "CONNECT, chunked, which means nothing",
            CONNECT,
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            200,
        ),
        ("Upgrade", UPGRADE, SWITCHING, 101),
    ] {
        let calls = [
            Receives(request),
            Sends(response),
            Receives(GET),
            Sends(OK),
            ReceivesPages(100),
            SendsPages(100),
            Receives(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
            Sends(b"HTTP/1.1 500 No\r\n\r\n"),
            Receives(CONNECT),
        ];
        assert_counted_however_cut(name, &calls, &counted(1, &[code]));

        let mut conversation = Conversation::opened();
        conversation.calls(&calls[..2]);
        assert!(conversation.is_ignored(), "{name}");
    }
}

#[test]
fn what_looks_like_a_request_behind_a_connect_is_none_if_that_succeeds() {
    let calls = [
        Receives(&[CONNECT, GET].concat()),
        Sends(b"HTTP/1.1 200 Connection established\r\n\r\n"),
        Receives(GET),
    ];
    assert_counted("in one call", &calls, &counted(1, &[200]));
}

#[test]
fn a_tunnel_may_begin_in_the_call_that_opens_it() {
    let opened = [SWITCHING, OK, b"\x81\x05hello"].concat();
    assert_counted_however_cut(
        "frames right behind 101",
        &[Receives(UPGRADE), Sends(&opened)],
        &counted(1, &[101]),
    );
}

#[test]
fn a_tunnel_may_come_after_other_requests() {
    let calls = [
        Receives(GET),
        Sends(OK),
        Receives(CONNECT),
        Sends(b"HTTP/1.1 200 OK\r\n\r\n"),
        Receives(GET),
        Sends(OK),
    ];
    assert_counted_however_cut("CONNECT", &calls, &counted(2, &[200, 200]));
    let pipelined = [GET, GET, UPGRADE].concat();
    let answers = [OK, OK, SWITCHING, OK].concat();
    assert_counted_however_cut(
        "Upgrade",
        &[Receives(&pipelined), Sends(&answers)],
        &counted(3, &[200, 200, 101]),
    );
}

#[test]
fn a_refused_tunnel_is_a_response_like_any_other() {
    for (name, request) in [("CONNECT", CONNECT), ("Upgrade", UPGRADE)] {
        let calls = [
            Receives(request),
            Sends(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 17\r\n\r\nHTTP/1.1 500 No\r\n"),
            Receives(GET),
            Sends(OK),
        ];
        assert_counted_however_cut(name, &calls, &counted(2, &[403, 200]));
    }
    let calls = [
        Receives(CONNECT),
        Sends(b"HTTP/1.1 407 Authenticate\r\nContent-Length: 0\r\n\r\n"),
        Receives(CONNECT),
        Sends(b"HTTP/1.1 200 OK\r\n\r\n"),
        Receives(GET),
    ];
    assert_counted_however_cut("refused, then accepted", &calls, &counted(2, &[407, 200]));
    assert_counted_however_cut(
        "ignored upgrade",
        &[Receives(UPGRADE), Sends(OK), Receives(GET), Sends(OK)],
        &counted(2, &[200, 200]),
    );
}

#[test]
fn an_interim_response_opens_no_tunnel() {
    let calls = [
        Receives(CONNECT),
        Sends(b"HTTP/1.1 100 Continue\r\n\r\n"),
        Sends(b"HTTP/1.1 502 No\r\nContent-Length: 0\r\n\r\n"),
        Receives(GET),
        Sends(OK),
    ];
    assert_counted_however_cut("100, then refused", &calls, &counted(2, &[100, 502, 200]));
}

#[test]
fn only_connect_itself_opens_a_tunnel() {
    for method in ["connect", "CONNECTX", "XCONNECT", "CONNEC"] {
        let request = format!("{method} / HTTP/1.1\r\n\r\n");
        let calls = [Receives(request.as_bytes()), Sends(OK), Receives(GET), Sends(OK)];
        assert_counted_however_cut(method, &calls, &counted(2, &[200, 200]));
    }
}

#[test]
fn early_bytes_of_a_tunnel_do_no_harm() {
    let hello = [CONNECT, b"\x16\x03\x01\x00\x05GET / HTTP/1.1\r\n"].concat();
    let mut conversation = Conversation::opened();
    conversation.call(Receives(&hello));
    conversation.call(Sends(b"HTTP/1.1 200 OK\r\n\r\n"));
    conversation.call(Receives(GET));
    assert_eq!(
        (conversation.counted.requests, &conversation.counted.responses[..]),
        (1, &[200][..])
    );
    assert_counted(
        "frames behind a switch",
        &[Receives(UPGRADE), Sends(SWITCHING), Receives(b"\x81\x85GET ")],
        &counted(1, &[101]),
    );
}
