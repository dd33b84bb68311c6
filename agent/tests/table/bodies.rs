//! What follows a head: rows 10 and 11.

use super::case::{BOTH, Case, Turn, dialogue, more, request, requests, response, responses, rest};
use super::framing::{GET, OK, and_plain};

const REQUEST_TEXT: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const RESPONSE_TEXT: &str = "HTTP/1.1 500 No\r\nContent-Length: 3\r\n\r\n";

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = bodies();
    cases.extend(no_bodies());
    cases.extend(tunnels());
    cases
}

fn bodies() -> Vec<Case> {
    let length = REQUEST_TEXT.len() * 2;
    let post = format!("POST / HTTP/1.1\r\nHost: test\r\ncontent-length:  {length} \r\n\r\n");
    let found = format!(
        "HTTP/1.1 200 OK\r\nCONTENT-LENGTH:{}\r\n\r\n",
        RESPONSE_TEXT.len() * 2
    );
    let chunk = |text: &str, extension: &str| format!("{:X}{extension}\r\n{text}\r\n", text.len());
    let size = |text: &str| format!("{:x} ; a=\"GET / HTTP/1.1\"\r\n", text.len());
    let trailers = "Content-Length: 5\r\nGET / HTTP/1.1\r\nHTTP/1.1 500 No\r\n";
    let post_chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n";
    let found_chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\nContent-Length: 3\r\n\r\n";
    vec![
        dialogue(
            10,
            "Content-Length, the text at the beginning of a call",
            and_plain(vec![
                request(post.clone()),
                more(REQUEST_TEXT),
                more(REQUEST_TEXT),
                response(200, found.clone()),
                rest(RESPONSE_TEXT),
                rest(RESPONSE_TEXT),
            ]),
        )
        .over(BOTH),
        dialogue(
            10,
            "Content-Length, text and next message in one call",
            and_plain(vec![
                requests(2, format!("{post}{REQUEST_TEXT}{REQUEST_TEXT}{GET}")),
                responses(&[200, 200], format!("{found}{RESPONSE_TEXT}{RESPONSE_TEXT}{OK}")),
            ]),
        )
        .over(BOTH),
        dialogue(
            10,
            "chunked with extensions and trailers, each part in a call",
            and_plain(vec![
                request(post_chunked),
                more(size(REQUEST_TEXT)),
                more(REQUEST_TEXT),
                more("\r\n"),
                more(chunk(REQUEST_TEXT, ";a=b")),
                more("0\r\n"),
                more(trailers),
                more("\r\n"),
                response(200, found_chunked),
                rest(size(RESPONSE_TEXT)),
                rest(RESPONSE_TEXT),
                rest("\r\n"),
                rest(chunk(RESPONSE_TEXT, "")),
                rest("000;last\r\n"),
                rest(trailers),
                rest("\r\n"),
            ]),
        )
        .over(BOTH),
        dialogue(
            10,
            "chunked with extensions and trailers in one call",
            and_plain(vec![
                requests(
                    2,
                    format!(
                        "{post_chunked}{}{}0\r\n{trailers}\r\n{GET}",
                        chunk(REQUEST_TEXT, ";a=\"b\""),
                        chunk(REQUEST_TEXT, " ")
                    ),
                ),
                responses(
                    &[200, 200],
                    format!(
                        "{found_chunked}{}{}0 ; x\r\n{trailers}\r\n{OK}",
                        chunk(RESPONSE_TEXT, ""),
                        chunk(RESPONSE_TEXT, "\t;y")
                    ),
                ),
            ]),
        )
        .over(BOTH),
        dialogue(10, "chunks of 1 byte to 4 KiB, each in a call", {
            let mut turns = vec![request(post_chunked)];
            for size in [1, 2, 15, 16, 100, 255, 256, 4096] {
                let text: String = REQUEST_TEXT.chars().cycle().take(size).collect();
                turns.push(more(chunk(&text, "")));
            }
            turns.extend([more("0\r\n\r\n"), response(200, OK)]);
            and_plain(turns)
        }),
        dialogue(
            10,
            "a response until close",
            and_plain(vec![
                request(GET),
                response(200, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n"),
                rest(RESPONSE_TEXT),
                rest(OK),
                Turn::Reconnect,
            ]),
        )
        .over(BOTH),
        dialogue(
            10,
            "server-sent events",
            and_plain(vec![
                request(GET),
                response(200, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"),
                rest("data: HTTP/1.1 500 No\r\n\r\n"),
                rest("HTTP/1.1 500 No\r\n\r\n"),
                Turn::Reconnect,
            ]),
        ),
        dialogue(
            10,
            "a body in a GET",
            and_plain(vec![
                request(format!(
                    "GET / HTTP/1.1\r\nContent-Length: {}\r\n\r\n",
                    REQUEST_TEXT.len()
                )),
                more(REQUEST_TEXT),
                response(200, OK),
            ]),
        ),
        dialogue(
            10,
            "an unknown transfer coding, until close",
            and_plain(vec![
                request(GET),
                response(
                    200,
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok",
                ),
                rest(RESPONSE_TEXT),
                Turn::Reconnect,
            ]),
        ),
    ]
}

fn no_bodies() -> Vec<Case> {
    let head = "HEAD / HTTP/1.1\r\nHost: test\r\n\r\n";
    let length = "Content-Length: 50\r\n\r\n";
    vec![
        dialogue(
            11,
            "HEAD, 204 and 304 with a Content-Length",
            and_plain(vec![
                request(head),
                response(200, format!("HTTP/1.1 200 OK\r\n{length}")),
                request(GET),
                response(304, format!("HTTP/1.1 304 Not Modified\r\n{length}")),
                request(GET),
                response(204, format!("HTTP/1.1 204 No Content\r\n{length}")),
                request(head),
                response(
                    404,
                    "HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n",
                ),
            ]),
        )
        .over(BOTH),
        dialogue(
            11,
            "HEAD between GETs, pipelined",
            and_plain(vec![
                requests(5, format!("{GET}{head}{GET}{head}{GET}")),
                responses(
                    &[200, 200, 200, 404, 200],
                    format!("{OK}HTTP/1.1 200 OK\r\n{length}{OK}HTTP/1.1 404 Not Found\r\n{length}{OK}"),
                ),
            ]),
        ),
        dialogue(
            11,
            "100 and HEAD",
            and_plain(vec![
                request(head),
                response(103, "HTTP/1.1 103 Early Hints\r\n\r\n"),
                response(200, format!("HTTP/1.1 200 OK\r\n{length}")),
            ]),
        ),
    ]
}

fn tunnels() -> Vec<Case> {
    let connect = "CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n";
    let upgrade = "GET /chat HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    vec![
        dialogue(
            11,
            "CONNECT",
            vec![
                request(connect),
                response(200, "HTTP/1.1 200 Connection established\r\n\r\n"),
                more(REQUEST_TEXT),
                rest(RESPONSE_TEXT),
                more(REQUEST_TEXT),
                rest(RESPONSE_TEXT),
            ],
        )
        .over(BOTH),
        dialogue(
            11,
            "CONNECT with bytes of the tunnel in the same calls",
            vec![
                request(format!("{connect}{REQUEST_TEXT}")),
                response(
                    200,
                    format!(
                        "HTTP/1.1 200 Connection established\r\nContent-Length: 5\r\n\r\n{RESPONSE_TEXT}"
                    ),
                ),
                more(REQUEST_TEXT),
                rest(RESPONSE_TEXT),
            ],
        ),
        dialogue(
            11,
            "CONNECT refused",
            and_plain(vec![
                request(connect),
                response(
                    405,
                    "HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n",
                ),
            ]),
        ),
        dialogue(
            11,
            "websocket frames that look like HTTP",
            vec![
                request(upgrade),
                response(101, switched),
                more(format!("\x01\x1a{REQUEST_TEXT}")),
                more(REQUEST_TEXT),
                rest(RESPONSE_TEXT),
                more(REQUEST_TEXT),
                rest(RESPONSE_TEXT),
            ],
        )
        .over(BOTH),
        dialogue(
            11,
            "an upgrade refused",
            and_plain(vec![request(upgrade), response(200, OK)]),
        ),
        dialogue(
            11,
            "frames in the call of the 101",
            vec![
                request(upgrade),
                response(101, format!("{switched}{RESPONSE_TEXT}")),
                rest(RESPONSE_TEXT),
            ],
        ),
    ]
}
