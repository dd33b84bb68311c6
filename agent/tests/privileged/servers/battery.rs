//! Odd clients, one kind at a time. The agent, the server's own log and what the client received must say the same.
//!
//! Part of the tests when `TEST_BATTERY` is 1, as `cargo xtask test --all` sets it.

use std::env;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::os::fd::AsRawFd as _;
use std::thread;
use std::time::{Duration, Instant};

use testkit::live::{Agent, Codes};

use super::Server;

/// What an odd client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Case {
    /// Five requests in one write.
    Pipeline,
    /// One byte at a time.
    Dripped,
    /// Half a head, then no more: once by half-closing, once by closing.
    CutHead,
    /// Half a body, in the same two ways.
    CutBody,
    /// Closes when it has the head of a large response.
    AbandonedResponse,
    /// Half-closes behind its request.
    HalfClosed,
    /// Waits for 100 before it sends the body, for a while.
    Expecting,
    /// One range, two, and one that is out of the page.
    Ranges,
    /// Asks for a protocol that nobody speaks, and goes on with HTTP.
    Upgrade,
    /// Resets the connection behind the response.
    Reset,
}

/// How long a client waits for a server.
const PATIENCE: Duration = Duration::from_secs(10);

const CASES: [Case; 10] = [
    Case::Pipeline,
    Case::Dripped,
    Case::CutHead,
    Case::CutBody,
    Case::AbandonedResponse,
    Case::HalfClosed,
    Case::Expecting,
    Case::Ranges,
    Case::Upgrade,
    Case::Reset,
];

/// What a client has sent and received.
#[derive(Default)]
struct Seen {
    /// Request lines that came to the server, and behind the first one only those that were answered.
    requests: u64,
    /// Final responses.
    codes: Codes,
}

impl Seen {
    fn add(&mut self, code: String) {
        *self.codes.entry(code).or_default() += 1;
    }
}

/// A response as far as a client needs to know it.
struct Response {
    code: String,
    closes: bool,
}

struct Client {
    stream: TcpStream,
    /// Received and not read yet.
    buffer: Vec<u8>,
}

impl Client {
    fn connect(port: u16) -> Self {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("a connection");
        stream.set_nodelay(true).expect("no delay");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let buffer = Vec::new();
        Self { stream, buffer }
    }

    fn send(&mut self, text: &str) {
        self.stream
            .write_all(text.as_bytes())
            .expect("a server that reads");
    }

    /// Receives more; false at the end of the connection, be it by a reset.
    fn receive(&mut self) -> bool {
        let mut bytes = vec![0; 1 << 16];
        match self.stream.read(&mut bytes) {
            Ok(0) => false,
            Ok(length) => {
                self.buffer.extend_from_slice(&bytes[..length]);
                true
            }
            Err(error) => {
                // A server that says nothing more has said all that counts.
                let ends = [ErrorKind::ConnectionReset, ErrorKind::WouldBlock];
                assert!(ends.contains(&error.kind()), "receiving: {error}");
                false
            }
        }
    }

    /// Takes what is in front of `end`, and `end`; nothing at the end of the connection.
    fn take_until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            let found = self.buffer.windows(end.len()).position(|it| it == end);
            if let Some(found) = found {
                return Some(self.buffer.drain(..found + end.len()).collect());
            }
            if !self.receive() {
                return None;
            }
        }
    }

    /// Takes so many bytes.
    fn take(&mut self, length: usize) -> Option<()> {
        while self.buffer.len() < length {
            if !self.receive() {
                return None;
            }
        }
        self.buffer.drain(..length);
        Some(())
    }

    /// Takes a head, of an interim response too: its code and its fields in lower case.
    fn head(&mut self) -> Option<(String, String)> {
        let head = self.take_until(b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let (line, fields) = head.split_once("\r\n")?;
        assert!(line.starts_with("http/1."), "no response: {head}");
        Some((line.get(9..12)?.to_owned(), format!("\r\n{fields}")))
    }

    /// Takes a whole final response to a request with this method, or what there is of it.
    fn response(&mut self, method: &str) -> Option<Response> {
        let (code, fields) = loop {
            let head = self.head()?;
            if !head.0.starts_with('1') {
                break head;
            }
        };
        let field = |name: &str| {
            let (_, rest) = fields.split_once(&format!("\r\n{name}:"))?;
            Some(rest.split("\r\n").next()?.trim().to_owned())
        };
        let mut closes = field("connection").as_deref() == Some("close");
        if method == "HEAD" || code == "204" || code == "304" {
        } else if field("transfer-encoding").as_deref() == Some("chunked") {
            self.take_chunks();
        } else if let Some(length) = field("content-length") {
            self.take(length.parse().expect("a length"));
        } else {
            while self.receive() {}
            closes = true;
        }
        Some(Response { code, closes })
    }

    fn take_chunks(&mut self) -> Option<()> {
        loop {
            let line = self.take_until(b"\r\n")?;
            let line = String::from_utf8_lossy(&line).into_owned();
            let size = usize::from_str_radix(line.trim(), 16).expect("a chunk's size");
            self.take(size + 2)?;
            if size == 0 {
                return Some(());
            }
        }
    }

    /// The rest of the connection: codes of the responses to requests with these methods.
    fn responses(&mut self, methods: &[&str], seen: &mut Seen) -> u64 {
        let mut count = 0;
        while let Some(response) = methods.get(count).and_then(|method| self.response(method)) {
            count += 1;
            seen.add(response.code);
        }
        count as u64
    }

    /// Closes with a reset.
    fn reset(self) {
        let linger = libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        // SAFETY: the option outlives the call and has the size given.
        let result = unsafe {
            libc::setsockopt(
                self.stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_LINGER,
                (&raw const linger).cast(),
                size_of_val(&linger).try_into().expect("a small size"),
            )
        };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
    }
}

/// A GET that ends the connection.
fn last(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: test\r\n{fields}Connection: close\r\n\r\n")
}

/// A request that does not.
fn request(method: &str, path: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: test\r\n\r\n")
}

impl Case {
    fn run(self, port: u16) -> Seen {
        let mut seen = Seen::default();
        // Opened where needed: a server of one connection at a time waits for what is opened first.
        let connect = || Client::connect(port);
        match self {
            Self::Pipeline => {
                let mut client = connect();
                let text = [
                    &request("GET", "/index.html"),
                    &request("HEAD", "/index.html"),
                    &request("GET", "/missing"),
                    &request("GET", "/large.bin"),
                    &last("/index.html", ""),
                ];
                client.send(&text.map(String::as_str).concat());
                seen.requests = client.responses(&["GET", "HEAD", "GET", "GET", "GET"], &mut seen);
            }
            Self::Dripped => {
                let mut client = connect();
                let text = last("/index.html", "");
                for at in 0..text.len() {
                    client.send(&text[at..=at]);
                    thread::sleep(Duration::from_millis(1));
                }
                seen.requests = 1;
                client.responses(&["GET"], &mut seen);
            }
            Self::CutHead => seen = cut(port, "GET /index.html HTTP/1.1\r\nHost: test\r\nAcc", "GET"),
            Self::CutBody => {
                let text = "POST /form HTTP/1.1\r\nHost: test\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\nGET / HTTP";
                seen = cut(port, text, "POST");
            }
            Self::AbandonedResponse => {
                let mut client = connect();
                client.send(&request("GET", "/large.bin"));
                seen.requests = 1;
                let (code, _) = client.head().expect("a head");
                seen.add(code);
            }
            Self::HalfClosed => {
                let mut client = connect();
                client.send(&last("/large.bin", ""));
                client
                    .stream
                    .shutdown(Shutdown::Write)
                    .expect("a half-closed connection");
                seen.requests = 1;
                client.responses(&["GET"], &mut seen);
            }
            Self::Expecting => {
                let mut client = connect();
                client.send(
                    "POST /form HTTP/1.1\r\nHost: test\r\nContent-Type: text/plain\r\nContent-Length: 16\r\n\
                     Expect: 100-continue\r\nConnection: close\r\n\r\n",
                );
                seen.requests = 1;
                // Not all say 100, and no client waits for long.
                let patience = |time| client.stream.set_read_timeout(Some(time)).expect("a timeout");
                patience(Duration::from_millis(500));
                let _ = client.stream.peek(&mut [0]);
                patience(PATIENCE);
                client.send("GET / HTTP/1.1\r\n");
                client.responses(&["POST"], &mut seen);
            }
            Self::Ranges => {
                for range in ["0-99", "0-1,5-6", "99999999-"] {
                    let mut client = Client::connect(port);
                    client.send(&last("/large.bin", &format!("Range: bytes={range}\r\n")));
                    seen.requests += 1;
                    client.responses(&["GET"], &mut seen);
                }
            }
            Self::Upgrade => {
                let mut client = connect();
                client.send(
                    "GET /index.html HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: example/1\r\n\r\n",
                );
                seen.requests = 1;
                let response = client.response("GET").expect("a response");
                seen.add(response.code);
                if !response.closes {
                    client.send(&last("/missing", ""));
                    seen.requests += client.responses(&["GET"], &mut seen);
                }
            }
            Self::Reset => {
                let mut client = connect();
                client.send(&request("GET", "/index.html"));
                seen.requests = 1;
                let response = client.response("GET").expect("a response");
                seen.add(response.code);
                client.reset();
            }
        }
        seen
    }
}

/// Sends this beginning of a request on two connections, half-closes the one and closes the other. To the server they look
/// the same until it answers, so what the first one receives, if anything, is what it sends to the second one.
fn cut(port: u16, text: &str, method: &str) -> Seen {
    let mut seen = Seen::default();
    let mut client = Client::connect(port);
    client.send(text);
    client
        .stream
        .shutdown(Shutdown::Write)
        .expect("a half-closed connection");
    client.responses(&[method], &mut seen);
    Client::connect(port).send(text);
    seen.requests = 2;
    for count in seen.codes.values_mut() {
        *count *= 2;
    }
    seen
}

fn difference(now: &Codes, before: &Codes) -> Codes {
    let of = |code: &String, count: &u64| count - before.get(code).copied().unwrap_or_default();
    now.iter()
        .map(|(code, count)| (code.clone(), of(code, count)))
        .filter(|(_, count)| *count > 0)
        .collect()
}

/// Runs all cases on this server if they are to be run.
#[track_caller]
pub(super) fn run(server: &Server, agent: &Agent, hook: &str) {
    if env::var("TEST_BATTERY").as_deref() != Ok("1") {
        return;
    }
    let name = server.kind.name;
    let mut failures = Vec::new();
    for case in CASES {
        let mix = server.kind.mix;
        if !mix.uploads && matches!(case, Case::CutBody | Case::Expecting) {
            continue;
        }
        if server.kind.left_out.contains(&case) {
            continue;
        }
        let exception = server.kind.odd.iter().find(|it| it.0 == case).map(|it| it.1);
        let (logged, counted) = (server.logged(), server.counted(agent));
        let seen = case.run(server.port);
        let look = || {
            let log = difference(&server.logged(), &logged);
            let (requests, codes) = server.counted(agent);
            let count = (requests - counted.0, difference(&codes, &counted.1));
            let as_logged = exception.map_or(log == seen.codes, |lines| log.values().sum::<u64>() == lines);
            let agrees = as_logged && count == (seen.requests, seen.codes.clone());
            (agrees, count, log)
        };
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut found = look();
        while !found.0 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
            found = look();
        }
        if !found.0 || !agent.totals().losses().is_empty() {
            failures.push(format!(
                "{case:?} ({exception:?}): counted {:?} with losses {:?}; logged {:?}; the client sent {} and received {:?}",
                found.1,
                agent.totals().losses(),
                found.2,
                seen.requests,
                seen.codes
            ));
        }
    }
    assert!(
        failures.is_empty(),
        "{hook}: {name}\n{}\nit said {}",
        failures.join("\n"),
        server.said()
    );
    reset_at_once(server, agent, hook);
}

/// Resets connections right behind their requests. Whether a response was sent is a race that the server wins or loses, and
/// mostly it logs one in either case; so its log is the most that may be counted, and the next request counts exactly.
#[track_caller]
fn reset_at_once(server: &Server, agent: &Agent, hook: &str) {
    let name = server.kind.name;
    let (logged, counted) = (server.logged(), server.counted(agent));
    for _ in 0..5 {
        let mut client = Client::connect(server.port);
        client.send(&request("GET", "/index.html"));
        client.reset();
    }
    let mut client = Client::connect(server.port);
    client.send(&last("/missing", ""));
    let mut seen = Seen::default();
    client.responses(&["GET"], &mut seen);
    let look = || {
        let log = difference(&server.logged(), &logged);
        let (requests, codes) = server.counted(agent);
        (requests - counted.0, difference(&codes, &counted.1), log)
    };
    let deadline = Instant::now() + Duration::from_secs(5);
    let agrees = |(requests, codes, log): &(u64, Codes, Codes)| {
        (1..=6).contains(requests)
            && codes.values().sum::<u64>() <= *requests
            && codes.iter().all(|(code, count)| log.get(code) >= Some(count))
            && seen
                .codes
                .iter()
                .all(|(code, count)| codes.get(code) >= Some(count))
    };
    while !agrees(&look()) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(20));
    }
    let found = look();
    assert!(
        agrees(&found) && agent.totals().losses().is_empty(),
        "{hook}: {name}: resets at once: counted and logged {found:?}, losses {:?}",
        agent.totals().losses()
    );
}
