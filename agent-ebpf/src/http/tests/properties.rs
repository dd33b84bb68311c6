//! Conversations made up at random: what is counted does not depend on how the application cut its calls, and is
//! what took place.

use proptest::{collection::vec, option, prelude::*, sample::select};

use super::conversation::{
    Call::{self, Receives, ReceivesPages, Sends, SendsPages},
    Conversation, Counted,
    Piece::{self, Bytes, Unreachable, Unreadable},
    WORK, counted,
};
use crate::{
    abi::{CODE_MAX, CODE_MIN, CODE_UNKNOWN, Loss},
    http::Direction,
};

// What takes place.

#[derive(Clone, Debug)]
enum Body {
    None,
    Length(Vec<u8>),
    /// Chunks that are not empty, an extension for each, and trailers.
    Chunked(Vec<Vec<u8>>, &'static str, &'static str),
}

#[derive(Clone, Debug)]
struct Exchange {
    method: &'static str,
    target: String,
    headers: Vec<String>,
    request_body: Body,
    interim: Vec<u16>,
    /// The client waits for the interim responses before it sends the body.
    expects: bool,
    /// Sent before the response to the one before.
    pipelined: bool,
    code: u16,
    response_body: Body,
    line_end: &'static str,
}

/// How a connection ends.
#[derive(Clone, Debug)]
enum End {
    Kept,
    /// With a body until close.
    Closed(Vec<u8>),
    /// After `101 Switching Protocols`, or `CONNECT`, with whatever bytes in both directions.
    Tunnel(&'static str, Vec<u8>, Vec<u8>),
}

impl Exchange {
    fn has_response_body(&self) -> bool {
        self.method != "HEAD" && self.code != 204 && self.code != 304
    }

    /// Makes it one that has to be framed by its header.
    fn ordinary(mut self) -> Self {
        if self.code < 200 || (self.method == "CONNECT" && self.code < 300) {
            self.code += 300;
        }
        self
    }
}

// The bytes of it.

/// Bytes that are sent in one go, at the earliest when the other side has got that far.
struct Part {
    direction: Direction,
    bytes: Vec<u8>,
    /// Content, which is skipped and not scanned.
    content: bool,
    /// Bytes that must have gone the other way before.
    after: usize,
    /// Parts of one message have the same number.
    message: usize,
}

#[derive(Default)]
struct Script {
    parts: Vec<Part>,
    received: usize,
    sent: usize,
    truth: Counted,
    message: usize,
    /// What is received next waits for that many bytes sent, and the other way round.
    receive_after: usize,
    send_after: usize,
}

impl Script {
    fn new(exchanges: &[Exchange], end: &End) -> Self {
        let mut script = Self::default();
        for exchange in exchanges {
            script.exchange(exchange, false);
        }
        match end {
            End::Kept => {}
            End::Closed(body) => {
                let last = Exchange {
                    code: 200,
                    response_body: Body::None,
                    ..plain()
                };
                script.exchange(&last, true);
                script.push(Direction::Sent, body.clone(), true);
            }
            End::Tunnel(method, received, sent) => {
                let code = if *method == "CONNECT" { 200 } else { 101 };
                script.exchange(
                    &Exchange {
                        method,
                        code,
                        ..plain()
                    },
                    true,
                );
                script.receive_after = script.sent;
                script.push(Direction::Received, received.clone(), true);
                script.push(Direction::Sent, sent.clone(), true);
            }
        }
        script
    }

    fn exchange(&mut self, it: &Exchange, last: bool) {
        let end = it.line_end;
        self.message += 1;
        if !it.pipelined {
            self.receive_after = self.sent;
        }
        let headers = it.headers.join(end) + if it.headers.is_empty() { "" } else { end };
        let head = format!("{} {} HTTP/1.1{end}{headers}", it.method, it.target);
        self.head(Direction::Received, &head, &it.request_body, end);
        self.truth.requests += 1;
        self.send_after = self.received;
        if it.expects {
            self.interim(it);
            self.receive_after = self.sent;
        }
        self.body(Direction::Received, &it.request_body, end);
        self.send_after = self.received;
        if !it.expects {
            self.interim(it);
        }
        self.message += 1;
        let head = format!("HTTP/1.1 {} Reason{end}{headers}", it.code);
        if last {
            self.push(Direction::Sent, format!("{head}{end}").into_bytes(), false);
        } else {
            self.head(Direction::Sent, &head, &it.response_body, end);
            if it.has_response_body() {
                self.body(Direction::Sent, &it.response_body, end);
            }
        }
        self.truth.responses.push(it.code);
    }

    fn interim(&mut self, it: &Exchange) {
        for code in &it.interim {
            self.message += 1;
            self.push(
                Direction::Sent,
                format!("HTTP/1.1 {code} X\r\nLink: </a>\r\n\r\n").into_bytes(),
                false,
            );
            self.truth.responses.push(*code);
        }
        self.message += 1;
    }

    fn head(&mut self, direction: Direction, head: &str, body: &Body, end: &str) {
        let framing = match body {
            // A request without a body need not say so; a response must.
            Body::None if direction == Direction::Received => String::new(),
            Body::None => format!("Content-Length: 0{end}"),
            // With a blank as most write it, and without.
            Body::Length(content) => {
                let blank = if content.len() % 3 > 0 { " " } else { "" };
                format!("content-length:{blank}{}{end}", content.len())
            }
            Body::Chunked(..) => format!("Content-Length: 7{end}Transfer-Encoding: gzip, Chunked{end}"),
        };
        self.push(direction, format!("{head}{framing}{end}").into_bytes(), false);
    }

    fn body(&mut self, direction: Direction, body: &Body, end: &str) {
        match body {
            Body::None => {}
            Body::Length(content) => self.push(direction, content.clone(), true),
            Body::Chunked(chunks, extension, trailers) => {
                for chunk in chunks {
                    self.push(
                        direction,
                        format!("{:x}{extension}{end}", chunk.len()).into_bytes(),
                        false,
                    );
                    self.push(direction, chunk.clone(), true);
                    self.push(direction, end.as_bytes().to_vec(), false);
                }
                self.push(
                    direction,
                    format!("000{extension}{end}{trailers}{end}").into_bytes(),
                    false,
                );
            }
        }
    }

    fn push(&mut self, direction: Direction, bytes: Vec<u8>, content: bool) {
        let (count, after) = match direction {
            Direction::Received => (&mut self.received, self.receive_after),
            Direction::Sent => (&mut self.sent, self.send_after),
        };
        *count += bytes.len();
        self.parts.push(Part {
            direction,
            bytes,
            content,
            after,
            message: self.message,
        });
    }

    /// One call for every message.
    fn calls(&self) -> Vec<(Direction, Vec<u8>)> {
        let mut calls: Vec<(usize, Direction, Vec<u8>)> = Vec::new();
        for part in &self.parts {
            match calls.last_mut() {
                Some((message, direction, bytes))
                    if *message == part.message && *direction == part.direction =>
                {
                    bytes.extend(&part.bytes);
                }
                _ => calls.push((part.message, part.direction, part.bytes.clone())),
            }
        }
        calls
            .into_iter()
            .map(|(_, direction, bytes)| (direction, bytes))
            .collect()
    }

    /// Calls cut anywhere, in any order that is possible.
    fn cut(&self, dice: &mut Dice) -> Vec<(Direction, Vec<u8>)> {
        let mut flows = [
            Flow::new(self, Direction::Received),
            Flow::new(self, Direction::Sent),
        ];
        let mut calls = Vec::new();
        while flows.iter().any(|flow| flow.at < flow.bytes.len()) {
            let mut chosen = dice.below(2);
            if flows[chosen].available(flows[1 - chosen].at) == 0 {
                chosen = 1 - chosen;
            }
            let available = flows[chosen].available(flows[1 - chosen].at);
            assert!(available > 0, "nobody may go on");
            let size = [1, 4, 20, 100, 1000, 100_000][dice.below(6)];
            let size = flows[chosen].affordable(available.min(1 + dice.below(size)));
            let flow = &mut flows[chosen];
            calls.push((flow.direction, flow.bytes[flow.at..flow.at + size].to_vec()));
            flow.at += size;
        }
        calls
    }
}

/// One direction of a script, and how far it has got.
struct Flow {
    direction: Direction,
    bytes: Vec<u8>,
    content: Vec<bool>,
    /// From which offset on how many bytes must have gone the other way.
    after: Vec<(usize, usize)>,
    at: usize,
}

/// So many bytes of heads are never too much for one call.
const MAX_SCANNED: usize = WORK / 3;

impl Flow {
    fn new(script: &Script, direction: Direction) -> Self {
        let mut flow = Self {
            direction,
            bytes: Vec::new(),
            content: Vec::new(),
            after: Vec::new(),
            at: 0,
        };
        for part in script.parts.iter().filter(|part| part.direction == direction) {
            flow.after.push((flow.bytes.len(), part.after));
            flow.bytes.extend(&part.bytes);
            flow.content.resize(flow.bytes.len(), part.content);
        }
        flow
    }

    fn available(&self, other: usize) -> usize {
        let end = self
            .after
            .iter()
            .find(|(_, after)| *after > other)
            .map_or(self.bytes.len(), |(offset, _)| *offset);
        end.saturating_sub(self.at)
    }

    fn affordable(&self, size: usize) -> usize {
        let scanned = self.content[self.at..self.at + size]
            .iter()
            .enumerate()
            .filter(|(_, content)| !**content);
        scanned.map(|(index, _)| index).nth(MAX_SCANNED).unwrap_or(size)
    }
}

/// A source of numbers that are random enough, seeded so that a failure can be repeated.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }

    /// Cuts a call into not too many segments, some of them empty.
    fn segments<'a>(&mut self, mut bytes: &'a [u8]) -> Vec<Piece<'a>> {
        let size = [2, 10, 600, usize::MAX / 2][self.below(4)];
        let mut pieces = Vec::new();
        while !bytes.is_empty() && pieces.len() < WORK / 6 {
            let (piece, rest) = bytes.split_at(self.below(size).min(bytes.len()));
            pieces.push(Bytes(piece));
            bytes = rest;
        }
        pieces.push(Bytes(bytes));
        pieces
    }
}

fn play(mut conversation: Conversation, calls: &[(Direction, Vec<u8>)], dice: Option<&mut Dice>) -> Counted {
    if let Some(dice) = dice {
        for (direction, bytes) in calls {
            conversation.pieces(*direction, dice.segments(bytes));
        }
    } else {
        for (direction, bytes) in calls {
            conversation.pieces(*direction, vec![Bytes(bytes)]);
        }
    }
    conversation.counted
}

fn flipped(calls: &[(Direction, Vec<u8>)]) -> Vec<(Direction, Vec<u8>)> {
    let flip = |direction| match direction {
        Direction::Received => Direction::Sent,
        Direction::Sent => Direction::Received,
    };
    calls
        .iter()
        .map(|(direction, bytes)| (flip(*direction), bytes.clone()))
        .collect()
}

// Strategies.

const METHODS: [&str; 10] = [
    "GET",
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "CONNECT",
    "OPTIONS",
    "PROXY",
    "UPDATEREDIRECTREF",
    "X-CUSTOM",
];

/// What must not be taken for what it looks like.
const TEXTS: [&[u8]; 12] = [
    b"GET / HTTP/1.1\r\n\r\n",
    b"HEAD / HTTP/1.0\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 500 No\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    b"0\r\n\r\n",
    b"\r\n",
    b"\n",
    b" HTTP/1.1",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n",
];

fn content() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(any::<u8>(), 1..40),
        vec(select(&TEXTS[..]), 1..8).prop_map(|texts| texts.concat()),
        (1_usize..5000).prop_map(|len| TEXTS.concat().into_iter().cycle().take(len).collect()),
    ]
}

fn body() -> impl Strategy<Value = Body> {
    let extension = select(vec!["", ";a", "; a=\"GET / HTTP/1.1\"", " "]);
    let trailers = select(vec![
        "",
        "A: b\r\n",
        "Content-Length: 5\r\nGET / HTTP/1.1\r\n",
        "HTTP/1.1 500 No\n",
    ]);
    prop_oneof![
        Just(Body::None),
        Just(Body::Length(Vec::new())),
        content().prop_map(Body::Length),
        (vec(content(), 0..8), extension, trailers)
            .prop_map(|(chunks, extension, trailers)| Body::Chunked(chunks, extension, trailers)),
    ]
}

fn header() -> impl Strategy<Value = String> {
    prop_oneof![
        "(Cookie|Content-Type|X|c|t|Transfer-E|Content-Length-X|Trailer): [ -~]{0,60}",
        Just("X: GET / HTTP/1.1".to_owned()),
        Just("X-Long: ".to_owned() + &"content-length: 5 ".repeat(80)),
        Just(" folded: Content-Length: 5".to_owned()),
    ]
}

fn code() -> impl Strategy<Value = u16> {
    prop_oneof![select(vec![200, 204, 301, 304, 404, 500]), 200..=CODE_MAX]
}

fn plain() -> Exchange {
    Exchange {
        method: "GET",
        target: "/".to_owned(),
        headers: Vec::new(),
        request_body: Body::None,
        interim: Vec::new(),
        expects: false,
        pipelined: false,
        code: 200,
        response_body: Body::None,
        line_end: "\r\n",
    }
}

fn exchange() -> impl Strategy<Value = Exchange> {
    let interim = vec(select(vec![100, 102, 103]), 0..3);
    let line_end = prop_oneof![9 => Just("\r\n"), 1 => Just("\n")];
    let request = (select(&METHODS[..]), "/[!-~]{0,200}", vec(header(), 0..5), body());
    let response = (interim, any::<bool>(), any::<bool>(), code(), body(), line_end);
    (request, response).prop_map(
        |(
            (method, target, headers, request_body),
            (interim, expects, pipelined, code, response_body, line_end),
        )| {
            Exchange {
                method,
                target,
                headers,
                request_body,
                interim,
                expects,
                pipelined,
                code,
                response_body,
                line_end,
            }
            .ordinary()
        },
    )
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        2 => Just(End::Kept),
        1 => content().prop_map(End::Closed),
        1 => (select(vec!["GET", "CONNECT"]), content(), content())
            .prop_map(|(method, received, sent)| End::Tunnel(method, received, sent)),
    ]
}

fn script() -> impl Strategy<Value = Script> {
    (vec(exchange(), 0..6), end()).prop_map(|(exchanges, end)| Script::new(&exchanges, &end))
}

impl std::fmt::Debug for Script {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for part in &self.parts {
            let arrow = if part.direction == Direction::Received {
                "->"
            } else {
                "<-"
            };
            let shown = &part.bytes[..part.bytes.len().min(300)];
            writeln!(f, "{arrow} {}, {} bytes", shown.escape_ascii(), part.bytes.len())?;
        }
        Ok(())
    }
}

/// Failures are repeated from their shrunk input, as a test with a name, not from a file of seeds.
pub(super) fn config() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn what_took_place_is_counted(script in script()) {
        prop_assert_eq!(play(Conversation::opened(), &script.calls(), None), script.truth);
    }

    #[test]
    fn it_does_not_matter_how_calls_are_cut(script in script(), seed: u64) {
        let mut dice = Dice(seed);
        for _ in 0..8 {
            let calls = script.cut(&mut dice);
            prop_assert_eq!(&play(Conversation::opened(), &calls, Some(&mut dice)), &script.truth);
        }
    }

    #[test]
    fn every_byte_may_be_a_call(script in script()) {
        let calls: Vec<_> = script
            .calls()
            .into_iter()
            .flat_map(|(direction, bytes)| bytes.into_iter().map(move |byte| (direction, vec![byte])))
            .collect();
        prop_assert_eq!(play(Conversation::opened(), &calls, None), script.truth);
    }

    #[test]
    fn the_client_of_it_counts_nothing(script in script(), seed: u64) {
        let mut dice = Dice(seed);
        let calls = flipped(&script.cut(&mut dice));
        prop_assert_eq!(play(Conversation::opened(), &calls, Some(&mut dice)), Counted::default());
    }

    #[test]
    fn joined_between_messages_all_that_follows_is_counted(script in script(), seed: u64) {
        let mut dice = Dice(seed);
        prop_assert_eq!(&play(Conversation::joined(), &script.calls(), Some(&mut dice)), &script.truth);
        let calls = script.cut(&mut dice);
        // Only whole first lines can be told from other things there.
        if calls.iter().take(2).all(|(_, bytes)| bytes.len() > 300) {
            prop_assert_eq!(&play(Conversation::joined(), &calls, Some(&mut dice)), &script.truth);
        }
    }

    #[test]
    fn joined_inside_a_message_all_that_follows_is_counted(
        first in exchange(),
        script in script(),
        seed: u64,
    ) {
        // What was HEAD or CONNECT, and what looks like HTTP, cannot be known by one who came late.
        let opaque = |body| match body {
            Body::None => Body::None,
            Body::Length(content) => Body::Length(vec![0x80; content.len()]),
            Body::Chunked(chunks, ..) => Body::Chunked(vec![vec![0xff; 16]; chunks.len()], "", ""),
        };
        let first = Exchange {
            method: "POST",
            request_body: opaque(first.request_body),
            response_body: opaque(first.response_body),
            interim: Vec::new(),
            ..first
        };
        let before = Script::new(std::slice::from_ref(&first), &End::Kept).calls();
        let mut calls = [before, script.calls()].concat();
        let mut missed = 1 + Dice(seed).below(calls[0].1.len() + calls[1].1.len());
        while missed > 0 {
            let count = missed.min(calls[0].1.len());
            calls[0].1.drain(..count);
            missed -= count;
            if calls[0].1.is_empty() {
                calls.remove(0);
            }
        }
        let found = play(Conversation::joined(), &calls, None);
        // The end of a request line may be enough to count it.
        prop_assert!((script.truth.requests..=script.truth.requests + 1).contains(&found.requests), "{found:?}");
        let late = found.responses.strip_prefix(&[first.code]).unwrap_or(&found.responses);
        prop_assert!(late == script.truth.responses || found.responses == script.truth.responses, "{found:?}");
        prop_assert_eq!(found.losses, vec![]);
    }
}

// Anything at all.

#[derive(Clone, Debug)]
enum Chaos {
    Bytes(bool, Vec<u8>),
    Unreadable(bool, Vec<u8>, u64, bool),
    Pages(bool, u64),
}

fn soup() -> impl Strategy<Value = Vec<u8>> {
    const MORE: [&[u8]; 10] = [
        b"GET ",
        b"HTTP/1.1 ",
        b"200",
        b"POST / HTTP/1.1\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"content-length:",
        b"ffffffffffffff\r\n",
        b"999999999999999999999",
        b"a",
        b"\r\n\r\n",
    ];
    let word = prop_oneof![
        select(&TEXTS[..]).prop_map(<[u8]>::to_vec),
        select(&MORE[..]).prop_map(<[u8]>::to_vec),
        vec(any::<u8>(), 1..4)
    ];
    prop_oneof![
        vec(word, 0..10).prop_map(|words| words.concat()),
        vec(any::<u8>(), 0..300)
    ]
}

fn chaos() -> impl Strategy<Value = Chaos> {
    prop_oneof![
        8 => (any::<bool>(), soup()).prop_map(|(sent, bytes)| Chaos::Bytes(sent, bytes)),
        1 => (any::<bool>(), soup(), 0..2000_u64, any::<bool>())
            .prop_map(|(sent, bytes, count, reachable)| Chaos::Unreadable(sent, bytes, count, reachable)),
        1 => (any::<bool>(), prop_oneof![0..2000_u64, any::<u64>()]).prop_map(|(sent, count)| Chaos::Pages(sent, count)),
    ]
}

fn endure(mut conversation: Conversation, calls: &[Chaos], dice: &mut Dice) -> Counted {
    let direction = |sent| {
        if sent {
            Direction::Sent
        } else {
            Direction::Received
        }
    };
    for call in calls {
        match call {
            Chaos::Bytes(sent, bytes) => conversation.pieces(direction(*sent), dice.segments(bytes)),
            Chaos::Unreadable(sent, bytes, count, reachable) => {
                let mut pieces = dice.segments(bytes);
                pieces.push(if *reachable {
                    Unreadable(*count)
                } else {
                    Unreachable(*count)
                });
                pieces.push(Bytes(b"GET / HTTP/1.1\r\n"));
                conversation.pieces(direction(*sent), pieces);
            }
            Chaos::Pages(true, count) => conversation.call(SendsPages(*count)),
            Chaos::Pages(false, count) => conversation.call(ReceivesPages(*count)),
        }
    }
    conversation.counted
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn anything_is_survived_and_counts_no_more_than_it_can_hold(
        calls in vec(chaos(), 0..20),
        opened: bool,
        serving: bool,
        seed: u64,
    ) {
        let start = || {
            let mut conversation = if opened { Conversation::opened() } else { Conversation::joined() };
            if serving {
                conversation.call(Receives(b"GET / HTTP/1.1\r\n\r\n"));
                conversation.call(Sends(b"HTTP/1.1 204 OK\r\n\r\n"));
                conversation.counted = Counted::default();
            }
            conversation
        };
        let mut dice = Dice(seed);
        let found = endure(start(), &calls, &mut dice);

        let bytes = |which: bool| {
            calls.iter().map(|call| match call {
                Chaos::Bytes(sent, bytes) if *sent == which => bytes.len(),
                Chaos::Unreadable(sent, bytes, ..) if *sent == which => bytes.len() + 16,
                _ => 0,
            }).sum::<usize>()
        };
        let (unknown, known): (Vec<u16>, Vec<u16>) = found.responses.iter().partition(|code| **code == CODE_UNKNOWN);
        // A request that could not be read is known by its answer.
        prop_assert!(found.requests <= bytes(false) / "A HTTP/1.1\n".len() + known.len());
        prop_assert!(known.len() <= bytes(true) / "HTTP/1.1 200\n".len());
        prop_assert!(known.iter().all(|code| (CODE_MIN..=CODE_MAX).contains(code)));
        prop_assert!(unknown.len() <= calls.len());
        prop_assert!(found.losses.len() <= 2 * calls.len());

        let recut = endure(start(), &calls, &mut dice);
        // More segments are more work.
        if !recut.losses.contains(&Loss::GaveUp) && !found.losses.contains(&Loss::GaveUp) {
            prop_assert_eq!(recut, found, "other segments");
        }
    }

    #[test]
    fn anything_at_once_is_survived(bytes in vec(soup(), 0..600), sent: bool, opened: bool) {
        let bytes = bytes.concat();
        let mut conversation = if opened { Conversation::opened() } else { Conversation::joined() };
        let call: Call<'_> = if sent { Sends(&bytes) } else { Receives(&bytes) };
        conversation.call(call);
        prop_assert!(conversation.counted.requests + conversation.counted.responses.len() <= bytes.len() / 11);
    }

    #[test]
    fn after_anything_that_is_no_message_the_next_one_counts(
        received in option::of(vec(any::<u8>(), 1..3000)),
        sent in option::of(vec(any::<u8>(), 1..3000)),
        responds_first: bool,
        code in code(),
    ) {
        let response = format!("HTTP/1.1 {code} X\r\nContent-Length: 0\r\n\r\n");
        let mut conversation = Conversation::opened();
        conversation.call(Receives(b"GET / HTTP/1.1\r\n\r\n"));
        if responds_first {
            conversation.call(Sends(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
        }
        // Of three requests two are answered, and the first one counts when it comes. Whatever is sent is its answer.
        let requests = if responds_first || sent.is_some() { 3 } else { 2 };
        let mut expected = counted(requests, if responds_first { &[200] } else { &[] });
        expected.responses.extend([code; 2]);
        if let Some(received) = &received {
            conversation.call(Receives(received));
        }
        if let Some(sent) = &sent {
            conversation.call(Sends(sent));
        }
        for _ in 0..2 {
            conversation.call(Receives(b"GET / HTTP/1.1\r\n\r\n"));
            conversation.call(Sends(response.as_bytes()));
        }
        let Counted { requests, responses, losses } = conversation.counted;
        prop_assert_eq!((requests, responses), (expected.requests, expected.responses));
        prop_assert!(losses.len() <= 2 && losses.iter().all(|loss| matches!(loss, Loss::OutOfSync | Loss::GaveUp)));
    }
}
