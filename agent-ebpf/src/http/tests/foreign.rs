//! What is not a server's HTTP: rows 13, 14 and 17.

use super::conversation::{
    Call::{self, Receives, Sends},
    Conversation, assert_counted, assert_counted_however_cut, assert_counted_joined, counted,
};

const GET: &[u8] = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

const CLIENT_HELLO: &[u8] =
    b"\x16\x03\x01\x00\x2f\x01\x00\x00\x2b\x03\x03GET / HTTP/1.1\r\nHTTP/1.1 200 OK\r\n\r\n";

/// Other protocols, as their servers see them.
const FOREIGN: [(&str, &[Call<'_>]); 16] = [
    (
        "HTTP/2",
        &[
            Receives(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x12\x04\x00\x00\x00\x00\x00"),
            Sends(b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x05\x00\x10\x00\x00"),
            Receives(b"\x00\x00\x00\x04\x01\x00\x00\x00\x00"),
        ],
    ),
    (
        "Redis, inline",
        &[
            Receives(b"PING\r\n"),
            Sends(b"+PONG\r\n"),
            Receives(b"SET a HTTP/1.1x\r\n"),
            Sends(b"+OK\r\n"),
        ],
    ),
    (
        "Redis",
        &[
            Receives(b"*1\r\n$4\r\nPING\r\n"),
            Sends(b"+PONG\r\n"),
            Receives(b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n"),
            Sends(b"$-1\r\n"),
        ],
    ),
    (
        "SMTP",
        &[
            Sends(b"220 mail.example ESMTP\r\n"),
            Receives(b"EHLO a.example\r\n"),
            Sends(b"250 HELP\r\n"),
            Receives(b"DATA\r\n"),
            Sends(b"354 go ahead\r\n"),
            Receives(b"GET / HTTP/1.1\r\n.\r\n"),
            Sends(b"HTTP/1.1 200 OK\r\n"),
        ],
    ),
    (
        "SSH",
        &[
            Sends(b"SSH-2.0-OpenSSH_9.6\r\n"),
            Receives(b"SSH-2.0-OpenSSH_9.7\r\n"),
            Receives(b"\x00\x00\x05\x14GET / HTTP/1.1\r\n"),
        ],
    ),
    (
        "MySQL",
        &[
            Sends(b"\x4a\x00\x00\x00\x0a8.0.36\x00"),
            Receives(b"\x20\x00\x00\x01\x85\xa6"),
            Receives(b"GET / HTTP/1.1\r\n"),
        ],
    ),
    (
        "PostgreSQL",
        &[
            Receives(b"\x00\x00\x00\x08\x04\xd2\x16\x2f"),
            Sends(b"N"),
            Receives(b"\x00\x00\x00\x29\x00\x03\x00\x00user\x00postgres\x00\x00"),
            Sends(b"R\x00\x00\x00\x08\x00\x00\x00\x00"),
            Receives(b"Q\x00\x00\x00\x13GET / HTTP/1.1\r\n\x00"),
        ],
    ),
    (
        "TLS",
        &[
            Receives(CLIENT_HELLO),
            Sends(b"\x16\x03\x03\x00\x7a\x02"),
            Receives(b"\x17\x03\x03"),
            Receives(GET),
            Sends(OK),
        ],
    ),
    (
        "memcached",
        &[
            Receives(b"get GET\r\n"),
            Sends(b"END\r\n"),
            Receives(b"set a 0 0 16\r\nGET / HTTP/1.1\r\n\r\n"),
            Sends(b"STORED\r\n"),
        ],
    ),
    (
        "RTSP",
        &[
            Receives(b"OPTIONS rtsp://a/ RTSP/1.0\r\nCSeq: 1\r\n\r\n"),
            Sends(b"RTSP/1.0 200 OK\r\n\r\n"),
        ],
    ),
    (
        "SIP",
        &[
            Receives(b"OPTIONS sip:a@b SIP/2.0\r\n\r\n"),
            Sends(b"SIP/2.0 200 OK\r\n\r\n"),
        ],
    ),
    (
        "IRC",
        &[
            Receives(b"NICK a\r\nUSER a 0 * :GET / HTTP/1.1 \r\n"),
            Sends(b":b 001 a :Welcome\r\n"),
        ],
    ),
    (
        "line feeds only",
        &[Receives(b"\r\n\r\n\r\n\r\n\n\n"), Sends(b"\r\n\r\n")],
    ),
    (
        "zeros",
        &[Receives(&[0; 3000]), Sends(&[0; 3000]), Receives(GET), Sends(OK)],
    ),
    ("one word", &[Receives(&[b'A'; 3000]), Sends(&[b'A'; 3000])]),
    ("silence", &[Receives(b""), Sends(b"")]),
];

#[test]
fn other_protocols_count_nothing() {
    for (name, calls) in FOREIGN {
        assert_counted(name, calls, &counted(0, &[]));
    }
}

#[test]
fn other_protocols_are_ignored_from_then_on() {
    for (name, calls) in FOREIGN {
        if matches!(name, "line feeds only" | "silence") {
            continue;
        }
        let mut conversation = Conversation::opened();
        conversation.calls(calls);
        assert!(
            conversation.is_ignored() || name == "one word" || !calls.iter().any(|it| matches!(it, Sends(_))),
            "{name}"
        );
    }
}

#[test]
fn other_protocols_count_nothing_when_they_are_joined() {
    for (name, calls) in FOREIGN {
        // Their text in front of a call is indistinguishable there.
        if matches!(name, "TLS" | "SMTP" | "MySQL" | "zeros") {
            continue;
        }
        assert_counted_joined(name, calls, &counted(0, &[]));
    }
}

#[test]
fn http_text_that_is_not_at_the_start_of_a_connection_counts_nothing() {
    for prefix in [
        &b"\x00"[..],
        b" ",
        b"\x80",
        b"(",
        b"a\r\n",
        b"220 ok\r\n",
        b"GET\t/ HTTP/1.1\r\n",
    ] {
        let request = [prefix, GET].concat();
        assert_counted_however_cut("received", &[Receives(&request)], &counted(0, &[]));
        let response = [prefix, OK].concat();
        assert_counted_however_cut("sent", &[Sends(&response), Sends(OK)], &counted(0, &[]));
    }
}

#[test]
fn a_client_counts_nothing() {
    let conversations: [(&str, &[Call<'_>]); 6] = [
        (
            "keep-alive",
            &[Sends(GET), Receives(OK), Sends(GET), Receives(OK)],
        ),
        (
            "HEAD, whose first byte is that of a status line",
            &[
                Sends(b"HEAD / HTTP/1.1\r\n\r\n"),
                Receives(b"HTTP/1.1 200 OK\r\n\r\n"),
            ],
        ),
        (
            "bodies that look like a server's",
            &[
                Sends(b"POST / HTTP/1.1\r\nContent-Length: 50\r\n\r\n"),
                Sends(b"HTTP/1.1 200 OK\r\n\r\n"),
                Receives(b"HTTP/1.1 200 OK\r\n\r\n"),
                Receives(GET),
            ],
        ),
        (
            "interim",
            &[
                Sends(GET),
                Receives(b"HTTP/1.1 100 Continue\r\n\r\n"),
                Sends(b"HTTP/1.1 body"),
                Receives(OK),
            ],
        ),
        (
            "with PROXY in front",
            &[
                Sends(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"),
                Sends(GET),
                Receives(OK),
                Sends(GET),
            ],
        ),
        (
            "with empty lines in front",
            &[Sends(b"\r\n"), Sends(GET), Receives(OK), Sends(OK)],
        ),
    ];
    for (name, calls) in conversations {
        assert_counted_however_cut(name, calls, &counted(0, &[]));
    }
    let mut conversation = Conversation::opened();
    conversation.call(Sends(b"G"));
    assert!(conversation.is_ignored());
}

#[test]
fn a_client_that_is_joined_counts_nothing() {
    let calls = [
        Receives(OK),
        Sends(GET),
        Receives(OK),
        Sends(b"POST / HTTP/1.0\r\n\r\n"),
        Receives(b"HTTP/1.1 500 No\r\n\r\n"),
    ];
    assert_counted_joined("between messages", &calls, &counted(0, &[]));
    assert_counted_joined(
        "in a response",
        &[Receives(b"some text"), Receives(b"<html>\n</html>"), Sends(GET)],
        &counted(0, &[]),
    );
    let mut conversation = Conversation::joined();
    for _ in 0..100 {
        conversation.call(Sends(GET));
        conversation.call(Receives(OK));
    }
    assert_eq!(conversation.counted, counted(0, &[]));
    assert!(conversation.is_ignored(), "doubts never end");
}

#[test]
fn a_proxy_counts_what_it_serves_once() {
    let mut server = Conversation::opened();
    let mut client = Conversation::opened();
    for _ in 0..3 {
        server.call(Receives(GET));
        client.call(Sends(GET));
        client.call(Receives(OK));
        server.call(Sends(OK));
    }
    assert_eq!(server.counted, counted(3, &[200, 200, 200]));
    assert_eq!(client.counted, counted(0, &[]));
}

#[test]
fn a_proxy_protocol_header_may_come_first() {
    const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
    let v2 = |rest: &[u8]| [SIGNATURE, rest].concat();
    let tlvs = [
        b"\x21\x11\x00\x1a\xc0\x00\x02\x01\xc0\x00\x02\x02\x00\x01\x00\x02",
        &b"\x04\x00\x0bGET / HTTP/"[..],
    ]
    .concat();
    let mut unix = b"\x21\x31\x00\xd8".to_vec();
    unix.resize(4 + 216, b'\n');
    let headers = [
        (
            "v1, IPv4",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n".to_vec(),
        ),
        (
            "v1, IPv6, as long as it gets",
            format!("PROXY UNKNOWN {0} {0} 65535 65535\r\n", ["ffff"; 8].join(":")).into_bytes(),
        ),
        ("v1, unknown", b"PROXY UNKNOWN\r\n".to_vec()),
        ("v2, LOCAL, no addresses", v2(b"\x20\x00\x00\x00")),
        (
            "v2, IPv4",
            v2(b"\x21\x11\x00\x0c\xc0\x00\x02\x01\xc0\x00\x02\x02\x00\x01\x00\x02"),
        ),
        ("v2, IPv4, with TLVs", v2(&tlvs)),
        ("v2, unix, 216 bytes", v2(&unix)),
    ];
    for (name, header) in headers {
        let calls = [
            Receives(&header),
            Receives(GET),
            Sends(OK),
            Receives(GET),
            Sends(OK),
        ];
        assert_counted_however_cut(name, &calls, &counted(2, &[200, 200]));
        let together = [&header[..], GET, GET].concat();
        assert_counted_however_cut(
            name,
            &[Receives(&together), Sends(OK), Sends(OK)],
            &counted(2, &[200, 200]),
        );
    }
}

#[test]
fn what_only_begins_like_a_proxy_protocol_header_is_refused() {
    for header in [
        &b"\r\n\r\n\0\r\nQUIX\n\x21\x11\x00\x00"[..],
        b"\r\n\r\n\0\r\nQUIT\n\x11\x11\x00\x00",
        b"\r\n\r\n\0",
        b"\r\n\0\r\nQUIT\n\x21\x11\x00\x00",
        b"PROXY\r\n",
        b"PROXX TCP4 192.0.2.1 192.0.2.2 56324 443\r\n",
    ] {
        let request = [header, GET].concat();
        assert_counted_however_cut("then a request", &[Receives(&request)], &counted(0, &[]));
    }
}
