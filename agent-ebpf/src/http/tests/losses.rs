//! Bytes that cannot be read, and more than can be kept up with: rows 8, 18 and 19.

use super::conversation::{
    Call::{
        self, Receives, ReceivesAndDiscards, ReceivesPages, ReceivesPieces, Sends, SendsPages, SendsPieces,
    },
    Conversation, Counted,
    Piece::{self, Bytes, Unreachable, Unreadable},
    assert_counted, counted,
};
use crate::abi::{CODE_UNKNOWN, Loss};

const GET: &[u8] = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
const HEAD: &[u8] = b"HEAD /a HTTP/1.1\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const OK_1000: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n";
const OK_CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n";
const POST_1000: &[u8] = b"POST / HTTP/1.1\r\nContent-Length: 1000\r\n\r\n";
const NOT_FOUND: &[u8] = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";

#[test]
fn without_sequence_numbers_an_answer_tells_of_a_request_that_no_hook_saw() {
    let mut conversation = Conversation::opened_on_unix();
    conversation.calls(&[Sends(OK), Sends(NOT_FOUND), Receives(GET), Sends(OK)]);
    assert_eq!(
        conversation.counted,
        counted(3, &[200, 404, 200]).lost(&[Loss::UnreadablePages])
    );

    // What is taken for a body and answered was none.
    for mut conversation in [Conversation::opened(), Conversation::opened_on_unix()] {
        conversation.calls(&[Receives(POST_1000), Sends(OK)]);
        for _ in 0..3 {
            conversation.calls(&[Receives(GET), Sends(OK)]);
        }
        assert_eq!(conversation.counted, counted(4, &[200; 4]));
    }

    let mut conversation = Conversation::opened_on_unix();
    conversation.calls(&[Receives(GET), Sends(OK), Sends(b"HTTP/1.1 408 Late\r\n\r\n")]);
    assert_eq!(conversation.counted, counted(1, &[200, 408]));

    for mut conversation in [Conversation::opened(), Conversation::of_a_pair()] {
        conversation.calls(&[Receives(GET), Sends(OK), Sends(NOT_FOUND)]);
        assert_eq!(conversation.counted, counted(2, &[200, 404]));
    }
}

#[test]
fn what_is_behind_the_end_of_a_connection_is_no_request() {
    let three = GET.repeat(3);
    for received in [&[Receives(&three)][..], &[Receives(GET); 3]] {
        let calls = [received, &[Sends(OK)]].concat();
        assert_counted("never looked at", &calls, &counted(1, &[200]));
        let calls = [received, &[Sends(OK), Sends(NOT_FOUND)]].concat();
        assert_counted("one of them answered", &calls, &counted(2, &[200, 404]));
    }
    // The second answer ends the connection, and the third request has come before it.
    let calls = [
        Receives(GET),
        Sends(OK),
        Receives(&three),
        Sends(OK),
        Receives(GET),
    ];
    assert_counted("a full pipeline", &calls, &counted(2, &[200, 200]));
}

#[test]
fn what_is_thrown_away_is_no_loss_unless_it_is_answered() {
    let calls = [
        Receives(GET),
        Sends(OK),
        ReceivesAndDiscards(1000),
        ReceivesAndDiscards(7),
    ];
    assert_counted("behind the last answer", &calls, &counted(1, &[200]));
    let calls = [&calls[..], &[Sends(OK), Receives(GET), Sends(NOT_FOUND)]].concat();
    assert_counted(
        "answered all the same",
        &calls,
        &counted(3, &[200, 200, 404]).lost(&[Loss::UnreadablePages]),
    );
    let calls = [
        Receives(POST_1000),
        ReceivesAndDiscards(1000),
        Sends(OK),
        Receives(GET),
        Sends(OK),
    ];
    assert_counted("a body", &calls, &counted(2, &[200, 200]));
    let calls = [
        ReceivesAndDiscards(1000),
        Sends(b"+OK\r\n"),
        Receives(b"PING\r\n"),
    ];
    assert_counted("no HTTP", &calls, &counted(0, &[]));
}

#[test]
fn a_body_need_not_be_readable() {
    let head_and_body = [Bytes(OK_1000), Unreadable(1000)];
    let unreachable = [Bytes(OK_1000), Bytes(b"x"), Unreachable(999)];
    for (name, body) in [
        ("pages", &[Sends(OK_1000), SendsPages(1000)][..]),
        (
            "pages in parts",
            &[Sends(OK_1000), SendsPages(1), SendsPages(999)],
        ),
        (
            "half of it readable",
            &[Sends(OK_1000), Sends(&[b'\n'; 500]), SendsPages(500)],
        ),
        ("memory", &[SendsPieces(&head_and_body)]),
        ("addresses", &[SendsPieces(&unreachable)]),
        (
            "a chunk",
            &[
                Sends(OK_CHUNKED),
                SendsPages(1000),
                Sends(b"\r\n3E8;\r\n"),
                SendsPages(1000),
                Sends(b"\r\n0\r\n\r\n"),
            ],
        ),
    ] {
        let mut calls = vec![Receives(GET)];
        calls.extend(body);
        calls.extend([Receives(GET), Sends(NOT_FOUND)]);
        assert_counted(name, &calls, &counted(2, &[200, 404]));
    }
    let calls = [
        Receives(GET),
        Sends(b"HTTP/1.0 200 OK\r\n\r\n"),
        SendsPages(1 << 40),
        SendsPages(1 << 40),
    ];
    assert_counted("until close", &calls, &counted(1, &[200]));
    let calls = [
        Receives(POST_1000),
        ReceivesPages(1000),
        Sends(OK),
        Receives(GET),
        Sends(NOT_FOUND),
    ];
    assert_counted("of a request", &calls, &counted(2, &[200, 404]));
}

#[test]
fn a_response_that_cannot_be_read_counts_under_no_code() {
    let unread = |cause| counted(2, &[CODE_UNKNOWN, 404]).lost(&[cause]);
    for (name, response, cause) in [
        ("pages", SendsPages(1000), Loss::UnreadablePages),
        ("memory", SendsPieces(&[Unreadable(1000)]), Loss::UnreadableMemory),
        (
            "addresses",
            SendsPieces(&[Unreachable(1000)]),
            Loss::UnreadableMemory,
        ),
        (
            "memory, then more",
            SendsPieces(&[Unreadable(1000), Bytes(OK)]),
            Loss::UnreadableMemory,
        ),
    ] {
        assert_counted(
            name,
            &[Receives(GET), response, Receives(GET), Sends(NOT_FOUND)],
            &unread(cause),
        );
    }
    let calls = [
        Receives(GET),
        SendsPages(1000),
        SendsPages(1000),
        SendsPages(1000),
        Receives(GET),
        Sends(NOT_FOUND),
    ];
    assert_counted("in several calls", &calls, &unread(Loss::UnreadablePages));
    let calls = [
        Receives(GET),
        SendsPages(1000),
        Sends(b"readable end"),
        Receives(GET),
        Sends(NOT_FOUND),
    ];
    assert_counted("with a readable end", &calls, &unread(Loss::UnreadablePages));
}

#[test]
fn every_response_that_cannot_be_read_counts_under_no_code() {
    let calls = [Receives(GET), SendsPages(1000)].repeat(3);
    let mut conversation = Conversation::opened();
    conversation.calls(&calls);
    let Counted {
        requests,
        responses,
        losses,
    } = conversation.counted;
    assert_eq!((requests, responses), (3, vec![CODE_UNKNOWN; 3]));
    assert!(losses.iter().all(|loss| *loss == Loss::UnreadablePages) && !losses.is_empty());
}

#[test]
fn a_response_behind_a_body_that_cannot_be_read_counts_under_no_code() {
    let calls = [
        Receives(GET),
        Receives(GET),
        Sends(OK_1000),
        SendsPages(1500),
        Receives(GET),
        Sends(NOT_FOUND),
    ];
    assert_counted(
        "pipelined",
        &calls,
        &counted(3, &[200, CODE_UNKNOWN, 404]).lost(&[Loss::UnreadablePages]),
    );
}

#[test]
fn a_head_that_cannot_be_read_to_its_end_loses_the_place_once() {
    for (name, response, cause) in [
        (
            "pages",
            &[
                Sends(b"HTTP/1.1 200 OK\r\nContent-"),
                SendsPages(10),
                SendsPages(10),
            ][..],
            Loss::UnreadablePages,
        ),
        (
            "memory",
            &[SendsPieces(&[
                Bytes(b"HTTP/1.1 200 OK\r\nContent-"),
                Unreadable(10),
            ])],
            Loss::UnreadableMemory,
        ),
        (
            "chunk size",
            &[
                Sends(OK_CHUNKED),
                SendsPages(1001),
                Sends(b"3\r\nabc\r\n0\r\n\r\n"),
            ],
            Loss::UnreadablePages,
        ),
    ] {
        let mut calls = vec![Receives(GET)];
        calls.extend(response);
        calls.extend([Receives(GET), Sends(NOT_FOUND)]);
        assert_counted(name, &calls, &counted(2, &[200, 404]).lost(&[cause]));
    }
}

#[test]
fn a_request_that_cannot_be_read_is_known_by_its_answer_and_its_loss_is_counted() {
    for (name, request, cause) in [
        ("pages", ReceivesPages(100), Loss::UnreadablePages),
        (
            "memory",
            ReceivesPieces(&[Unreadable(100)]),
            Loss::UnreadableMemory,
        ),
        (
            "half a line",
            ReceivesPieces(&[Bytes(b"GET /"), Unreadable(100)]),
            Loss::UnreadableMemory,
        ),
    ] {
        let calls = [
            Receives(GET),
            Sends(OK),
            request,
            Sends(OK),
            Receives(HEAD),
            Sends(OK_1000),
            Receives(GET),
            Sends(NOT_FOUND),
        ];
        assert_counted(name, &calls, &counted(4, &[200, 200, 200, 404]).lost(&[cause]));
    }
    let half = ReceivesPieces(&[Bytes(b"GET / HTTP/1.1\r\nHost:"), Unreadable(100)]);
    let calls = [half, Sends(OK), Receives(GET), Sends(NOT_FOUND)];
    assert_counted(
        "half a head",
        &calls,
        &counted(2, &[200, 404]).lost(&[Loss::UnreadableMemory]),
    );
}

#[test]
fn a_connection_whose_first_bytes_cannot_be_read_is_a_servers_if_it_answers() {
    for first in [ReceivesPages(100), ReceivesPieces(&[Unreadable(100)])] {
        let calls = [first, Sends(OK), Receives(GET), Sends(NOT_FOUND)];
        assert_counted(
            "answered",
            &calls,
            &counted(2, &[200, 404]).lost(&[Loss::UnreadablePages]),
        );
    }
    for first in [SendsPages(100), SendsPieces(&[Unreadable(100)])] {
        let calls = [first, Receives(OK), Sends(GET), Receives(OK)];
        assert_counted("a client", &calls, &counted(0, &[]));
    }
}

#[test]
fn nothing_unseen_is_nothing_lost() {
    let calls = [
        ReceivesPages(0),
        SendsPages(0),
        Receives(b"GET / HTTP/1.1\r\nHo"),
        ReceivesPages(0),
        Receives(b"st: a\r\n\r\n"),
        SendsPages(0),
        Sends(OK),
    ];
    assert_counted("zero bytes", &calls, &counted(1, &[200]));
}

/// The methods of this many requests are remembered.
const PIPELINE: usize = 32;

#[test]
fn the_deepest_pipeline_is_followed() {
    let mut conversation = Conversation::opened();
    for round in 0..3 {
        for index in 0..PIPELINE {
            conversation.call(Receives(if (index + round) % 3 == 0 { HEAD } else { GET }));
        }
        for index in 0..PIPELINE {
            conversation.call(Sends(if (index + round) % 3 == 0 { OK_1000 } else { OK }));
        }
    }
    assert_eq!(conversation.counted, counted(3 * PIPELINE, &[200; 3 * PIPELINE]));
}

#[test]
fn a_deeper_pipeline_of_ordinary_requests_is_followed() {
    let mut conversation = Conversation::opened();
    conversation.calls(&[Receives(HEAD), Sends(OK_1000)]);
    for _ in 0..10 * PIPELINE {
        conversation.call(Receives(GET));
    }
    for _ in 0..10 * PIPELINE {
        conversation.call(Sends(OK));
    }
    let all = 10 * PIPELINE + 1;
    assert_eq!(conversation.counted, counted(all, &vec![200; all]));
}

#[test]
fn a_deeper_pipeline_with_another_method_in_it_is_counted_and_the_loss_is_too() {
    let mut conversation = Conversation::opened();
    for _ in 0..PIPELINE + 8 {
        conversation.call(Receives(GET));
    }
    conversation.call(Receives(HEAD));
    conversation.call(Receives(GET));
    for _ in 0..PIPELINE + 10 {
        conversation.call(Sends(OK));
    }
    let all = PIPELINE + 10;
    let expected =
        counted(all, &vec![200; all]).lost(&[Loss::PipelineTooDeep, Loss::PipelineTooDeep, Loss::OutOfSync]);
    assert_eq!(conversation.counted, expected);
}

#[test]
fn a_pipeline_that_is_never_answered_does_no_harm() {
    let mut conversation = Conversation::opened();
    for _ in 0..70_000 {
        conversation.call(Receives(GET));
    }
    assert_eq!(conversation.counted, counted(1, &[]));
    for _ in 0..70_000 {
        conversation.call(Sends(OK));
    }
    assert_eq!(conversation.counted, counted(70_000, &vec![200; 70_000]));
}

#[test]
fn a_pipeline_that_never_runs_dry_is_counted_however_long_it_is() {
    let mut conversation = Conversation::opened();
    conversation.call(Receives(GET));
    for _ in 0..200_000 {
        conversation.call(Receives(GET));
        conversation.call(Sends(OK));
    }
    assert_eq!(conversation.counted, counted(200_000, &vec![200; 200_000]));
}

#[test]
fn the_count_of_requests_may_wrap() {
    let mut conversation = Conversation::opened();
    for index in 0..70_000_u32 {
        conversation.call(Receives(if index % 2 == 0 { HEAD } else { GET }));
        conversation.call(Sends(if index % 2 == 0 { OK_1000 } else { OK }));
    }
    assert_eq!(conversation.counted, counted(70_000, &vec![200; 70_000]));
}

/// More pieces of work than are done for one call.
fn too_much(message: &[u8]) -> Vec<u8> {
    message.repeat(2000)
}

#[test]
fn counting_goes_on_after_a_call_that_was_too_much() {
    let requests = too_much(GET);
    let mut conversation = Conversation::opened();
    conversation.call(Receives(&requests));
    let losses = [Loss::GaveUp];
    assert_eq!(conversation.counted, counted(1, &[]).lost(&losses));
    // Those that were not found any more, too.
    for _ in 0..2000 {
        conversation.call(Sends(OK));
    }
    assert_eq!(conversation.counted, counted(2000, &[200; 2000]).lost(&losses));
    conversation.call(Receives(GET));
    conversation.call(Sends(NOT_FOUND));
    let codes = [vec![200; 2000], vec![404]].concat();
    assert_eq!(conversation.counted, counted(2001, &codes).lost(&losses));
}

#[test]
fn all_that_one_run_may_find_is_reported() {
    let mut conversation = Conversation::opened();
    let answers = b"HTTP/1.1 204\r\n\r\n".repeat(40);
    conversation.calls(&[Receives(GET), Sends(OK), ReceivesPages(40), Sends(&answers)]);
    assert_eq!(conversation.counted.requests, 41);
    assert_eq!(conversation.counted.responses.len(), 41);
}

#[test]
fn more_than_a_hundred_requests_fit_into_one_call() {
    let post = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".repeat(150);
    let mut conversation = Conversation::opened();
    conversation.call(Receives(&post));
    for _ in 0..150 {
        conversation.call(Sends(OK));
    }
    assert_eq!(conversation.counted, counted(150, &[200; 150]));
}

#[test]
fn responses_of_a_call_that_was_too_much_are_counted_or_lost() {
    let small_chunks = [
        &OK_CHUNKED[..OK_CHUNKED.len() - 5],
        &too_much(b"1\r\na\r\n"),
        b"0\r\n\r\n",
    ]
    .concat();
    let calls = [
        Receives(GET),
        Sends(&small_chunks),
        Receives(GET),
        Sends(NOT_FOUND),
    ];
    let mut conversation = Conversation::opened();
    conversation.calls(&calls);
    assert_eq!(
        conversation.counted,
        counted(2, &[200, 404]).lost(&[Loss::GaveUp])
    );
}

#[test]
fn a_head_that_is_too_much_for_one_call_still_counts() {
    let header = format!("GET / HTTP/1.1\r\nCookie: {}\r\n\r\n", "x".repeat(600_000));
    let calls = [
        Receives(header.as_bytes()),
        Sends(OK),
        Receives(GET),
        Sends(NOT_FOUND),
    ];
    assert_counted(
        "600 kB of cookie",
        &calls,
        &counted(2, &[200, 404]).lost(&[Loss::GaveUp]),
    );
}

#[test]
fn a_long_head_is_not_too_much() {
    let header = format!("GET / HTTP/1.1\r\nCookie: {}\r\n\r\n", "x".repeat(60_000));
    let calls = [
        Receives(header.as_bytes()),
        Sends(OK),
        Receives(GET),
        Sends(NOT_FOUND),
    ];
    assert_counted("60 kB of cookie", &calls, &counted(2, &[200, 404]));
}

#[test]
fn many_segments_of_a_body_are_not_too_much() {
    let body: Vec<Piece<'_>> = vec![Bytes(b"x"); 1000];
    let calls: [Call<'_>; 5] = [
        Receives(GET),
        Sends(OK_1000),
        SendsPieces(&body),
        Receives(GET),
        Sends(NOT_FOUND),
    ];
    assert_counted("as many as an iovec may have", &calls, &counted(2, &[200, 404]));
}

#[test]
fn a_head_in_segments_of_one_byte_counts() {
    let pieces: Vec<_> = GET.chunks(1).map(Bytes).collect();
    let answer: Vec<_> = OK.chunks(1).flat_map(|byte| [Bytes(b""), Bytes(byte)]).collect();
    let calls = [
        ReceivesPieces(&pieces),
        SendsPieces(&answer),
        ReceivesPieces(&pieces),
        SendsPieces(&answer),
    ];
    assert_counted("with empty ones between", &calls, &counted(2, &[200, 200]));
}

#[test]
fn requests_that_cannot_be_read_are_known_by_their_answers() {
    let mut conversation = Conversation::opened();
    for _ in 0..3 {
        conversation.calls(&[ReceivesPages(40), Sends(OK)]);
    }
    conversation.calls(&[Receives(GET), Sends(OK)]);
    // Nothing was received: a response implies a request.
    conversation.call(Sends(NOT_FOUND));
    let expected = counted(5, &[200, 200, 200, 200, 404]).lost(&[Loss::UnreadablePages]);
    assert_eq!(conversation.counted, expected);

    let mut conversation = Conversation::opened();
    conversation.calls(&[
        Receives(GET),
        Sends(OK),
        ReceivesPages(40),
        ReceivesPages(40),
        Sends(OK),
    ]);
    let expected = counted(2, &[200, 200]).lost(&[Loss::UnreadablePages]);
    assert_eq!(conversation.counted, expected);
}

#[test]
fn a_connection_that_is_never_read_and_is_no_http_loses_nothing() {
    let mut conversation = Conversation::opened();
    for _ in 0..3 {
        conversation.calls(&[ReceivesPages(40), Sends(b"+OK\r\n"), SendsPages(100)]);
    }
    assert_eq!(conversation.counted, counted(0, &[]));
}
