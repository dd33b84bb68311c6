//! Crowds: many connections at once, many short ones, busy CPUs and full maps. Totals must equal the server's log, or
//! what is missing must have been counted as lost.
//!
//! For this kernel, with the hook `tracepoint`, or those that `TEST_HOOKS` names.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::hint::spin_loop;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use testkit::live::{Agent, Codes, Nginx, Totals, end, for_each_hook, wait_for};
use testkit::turn::Turn;

/// One agent and one crowd at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone(test: impl Fn(&str)) {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    for_each_hook(|hook| test(hook));
}

/// A file beside this one.
fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/privileged/saturation")
        .join(name)
}

/// Totals and log must be equal, and nothing lost, when the log has so many lines.
#[track_caller]
fn assert_exact(agent: &Agent, nginx: &Nginx, hook: &str, what: &str, sent: u64) {
    let workers = nginx.workers();
    let logged = wait_for("nginx to log the last request", || {
        let logged = nginx.logged();
        (logged.values().sum::<u64>() >= sent).then_some(logged)
    });
    let counted = || agent.totals().of(&workers);
    let deadline = Instant::now() + Duration::from_secs(5);
    while counted() != (sent, logged.clone()) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(
        (counted(), agent.totals().losses()),
        ((sent, logged), Vec::new()),
        "{hook}: the agent with its losses (left) and nginx's log (right), {what}"
    );
}

const OPEN: usize = 10_000;

/// The connections at once that a process may have, as the system lets us.
fn raise_limit() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the structure outlives both calls.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
    }
    assert!(
        limit.rlim_max > OPEN as u64 + 1000,
        "{OPEN} connections take a higher limit: ulimit -Hn is {}",
        limit.rlim_max
    );
}

/// Sends a request, over a connection that nginx keeps.
fn ask(stream: &mut impl Write, path: &str) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("nginx listens");
}

/// Receives a response without or with a short body.
fn hear(stream: &mut impl Read) {
    let mut head = Vec::new();
    let mut bytes = [0; 2048];
    loop {
        let got = stream.read(&mut bytes).expect("nginx answers");
        assert!(got > 0, "nginx closed the connection");
        head.extend_from_slice(&bytes[..got]);
        let Some(end) = head.windows(4).position(|it| it == b"\r\n\r\n") else {
            continue;
        };
        let text = String::from_utf8_lossy(&head[..end]).to_ascii_lowercase();
        let length = text
            .split("content-length: ")
            .nth(1)
            .and_then(|it| it.split("\r\n").next()?.parse::<usize>().ok())
            .unwrap_or(0);
        if head.len() >= end + 4 + length {
            return;
        }
    }
}

#[test]
fn ten_thousand_connections_at_once() {
    let _turn = Turn::of(module_path!());
    alone(|hook| {
        raise_limit();
        let agent = Agent::start(hook);
        let nginx = Nginx::start();
        let mut connections: Vec<TcpStream> = (0..OPEN)
            .map(|number| {
                let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, nginx.port()))
                    .unwrap_or_else(|error| panic!("{number}: {error}"));
                stream.set_nodelay(true).expect("TCP");
                stream
            })
            .collect();
        for path in ["/index.html", "/missing", "/empty"] {
            for connection in &mut connections {
                ask(connection, path);
            }
            for connection in &mut connections {
                hear(connection);
            }
        }
        assert_exact(
            &agent,
            &nginx,
            hook,
            &format!("{OPEN} connections at once"),
            3 * OPEN as u64,
        );
        drop(connections);
        nginx.stop();
        agent.stop();
    });
}

#[test]
fn a_hundred_thousand_short_connections() {
    let _turn = Turn::of(module_path!());
    alone(|hook| {
        let agent = Agent::start(hook);
        let nginx = Nginx::start();
        for path in ["/index.html", "/missing"] {
            let output = Command::new("ab")
                .args(["-q", "-l", "-n", "50000", "-c", "64"])
                .arg(format!("http://127.0.0.1:{}{path}", nginx.port()))
                .output()
                .expect("ab is installed (.ci/setup)");
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(
                output.status.success() && text.contains("Complete requests:      50000"),
                "{text}{}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        assert_exact(&agent, &nginx, hook, "short connections", 100_000);
        nginx.stop();
        agent.stop();
    });
}

#[test]
fn all_cpus_busy() {
    let _turn = Turn::of(module_path!());
    let seconds: u64 = env::var("TEST_BUSY_SECONDS").map_or(60, |number| {
        number.parse().expect("TEST_BUSY_SECONDS is a number")
    });
    alone(|hook| {
        let agent = Agent::start(hook);
        let nginx = Nginx::start();
        let over = AtomicBool::new(false);
        let cpus = thread::available_parallelism().expect("CPUs").get();
        let requests = thread::scope(|scope| {
            for _ in 0..cpus {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        spin_loop();
                    }
                });
            }
            let output = Command::new("wrk")
                .args([
                    "--threads=16",
                    "--connections=16",
                    "--timeout=60s",
                    &format!("--duration={}s", seconds + 1),
                    "--script",
                ])
                .arg(source("until.lua"))
                .arg(format!("http://127.0.0.1:{}/", nginx.port()))
                .args(["--", &(seconds - 2).to_string()])
                .output();
            over.store(true, Ordering::Relaxed);
            let output = output.expect("wrk is installed (.ci/setup)");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(!text.contains("Socket errors"), "{text}");
            text.lines()
                .find_map(|line| line.trim().split_once(" requests in")?.0.parse().ok())
                .unwrap_or_else(|| panic!("no number of requests: {text}"))
        });
        assert!(
            requests > 16 * seconds,
            "{requests} requests in {seconds} s are no load"
        );
        assert_exact(&agent, &nginx, hook, "all CPUs busy", requests);
        nginx.stop();
        agent.stop();
    });
}

/// More connections than are remembered: those that had to make room were idle, between two messages, which loses
/// nothing, or inside one, which is counted.
#[test]
fn more_connections_than_are_remembered() {
    const IDLE: usize = 200;
    const INSIDE: usize = 50;
    const OTHERS: usize = 4000;
    let _turn = Turn::of(module_path!());
    alone(|hook| {
        let agent = Agent::start_with(hook, &["--max-connections", "1024"]);
        let nginx = Nginx::start();
        let open = || TcpStream::connect(("127.0.0.1", nginx.port())).expect("nginx listens");
        let mut idle: Vec<TcpStream> = (0..IDLE).map(|_| open()).collect();
        let mut inside: Vec<TcpStream> = (0..INSIDE).map(|_| open()).collect();
        for stream in &mut idle {
            ask(stream, "/index.html");
            hear(stream);
        }
        for stream in &mut inside {
            stream.write_all(b"GET /index.html HT").expect("nginx listens");
        }
        let mut others: Vec<TcpStream> = (0..OTHERS).map(|_| open()).collect();
        for stream in &mut others {
            ask(stream, "/empty");
            hear(stream);
        }
        for stream in &mut idle {
            ask(stream, "/missing");
            hear(stream);
        }
        for stream in &mut inside {
            stream
                .write_all(b"TP/1.1\r\nHost: test\r\n\r\n")
                .expect("nginx listens");
            hear(stream);
        }
        let sent = (OTHERS + 2 * IDLE + INSIDE) as u64;
        let logged = wait_for("nginx to log the last request", || {
            let logged = nginx.logged();
            (logged.values().sum::<u64>() == sent).then_some(logged)
        });
        let totals = agent.totals();
        let (requests, codes) = totals.of(&nginx.workers());
        let losses = totals.loss_counts();
        let evicted = losses["connection_evicted"];
        // Once for each side of each connection that went on, also where nothing was missing: the client's may have had
        // to make room too.
        assert!(
            codes == logged
                && requests <= sent
                && requests + evicted >= sent
                && evicted <= 2 * (IDLE + INSIDE) as u64
                && losses.values().sum::<u64>() == evicted,
            "{hook}: {requests} of {sent} requests, {codes:?} of {logged:?}, losses {losses:?}"
        );
        drop((idle, inside, others));
        nginx.stop();
        agent.stop();
    });
}

/// Connections that had to make room between a request and its answer, or inside an answer: the request has been counted
/// and is not counted again, and the next ones are.
#[test]
fn answers_on_connections_that_were_forgotten() {
    const WAITING: usize = 50;
    const OTHERS: usize = 2000;
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789";
    let _turn = Turn::of(module_path!());
    alone(|hook| {
        raise_limit();
        let agent = Agent::start_with(hook, &["--max-connections", "1024"]);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let pair = || {
            let client = TcpStream::connect(address).expect("we listen");
            (client, listener.accept().expect("a client").0)
        };
        let mut waiting: Vec<_> = (0..WAITING).map(|_| pair()).collect();
        let mut inside: Vec<_> = (0..WAITING)
            .map(|_| UnixStream::pair().expect("two sockets"))
            .collect();
        for (client, server) in &mut waiting {
            request(client, server);
        }
        for (client, server) in &mut inside {
            request(client, server);
            server.write_all(&ANSWER[..ANSWER.len() - 6]).expect("a client");
        }
        let mut others: Vec<_> = (0..OTHERS).map(|_| pair()).collect();
        for (client, server) in &mut others {
            client.write_all(b"{}").expect("we listen");
            server.read_exact(&mut [0; 2]).expect("a client");
        }
        for (client, server) in &mut waiting {
            server.write_all(ANSWER).expect("a client");
            hear(client);
            request(client, server);
            server.write_all(ANSWER).expect("a client");
        }
        for (client, server) in &mut inside {
            server.write_all(&ANSWER[ANSWER.len() - 6..]).expect("a client");
            hear(client);
            request(client, server);
            server.write_all(ANSWER).expect("a client");
        }
        let sent = 4 * WAITING as u64;
        let totals = agent.totals();
        let (requests, codes) = totals.of(&BTreeSet::from([process::id()]));
        let losses = totals.loss_counts();
        let evicted = losses["connection_evicted"];
        // Once at least for each that was forgotten before its answer; the client's side had to make room, too.
        assert!(
            requests == sent
                && codes == Codes::from([("200".to_owned(), sent)])
                && evicted >= WAITING as u64
                && losses.values().sum::<u64>() == evicted,
            "{hook}: {requests} of {sent} requests, {codes:?}, losses {losses:?}"
        );
        agent.stop();
    });
}

/// A request that has arrived.
fn request(client: &mut impl Write, server: &mut impl Read) {
    ask(client, "/");
    let got = server.read(&mut [0; 2048]).expect("a client");
    assert!(got > 0, "no request");
}

/// More processes between two samples than there is room for: every request and response is counted, or counted as
/// lost.
#[test]
fn more_processes_than_can_be_counted() {
    const PROCESSES: u64 = 2000;
    let _turn = Turn::of(module_path!());
    alone(|hook| {
        let directory = TempDir::new().expect("a temporary directory");
        // Samples make room.
        let agent = Agent::start_with(hook, &["--max-counters", "1024", "--interval", "60s"]);
        // Has room for everybody, and says what there was on this machine, others' traffic included.
        let witness = Agent::start_with(hook, &["--interval", "60s"]);
        let port = directory.path().join("port");
        let (before, witnessed_before) = (agent.totals(), witness.totals());
        let mut server = Command::new("/usr/bin/python3")
            .arg(source("forking.py"))
            .arg(&port)
            .stdin(Stdio::null())
            .spawn()
            .expect("python3 is installed (.ci/setup test)");
        let port: u16 = wait_for("the server to listen", || {
            fs::read_to_string(&port).ok()?.parse().ok()
        });
        for _ in 0..PROCESSES {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the server listens");
            ask(&mut stream, "/");
            hear(&mut stream);
        }
        end(&mut server);
        // Only now: asking for totals makes room, too. In this order each of the two sees one answer of the other.
        let (totals, witnessed) = (agent.totals(), witness.totals());
        let events = |totals: &Totals| {
            let (requests, codes) = totals.of_all();
            let lost = totals.loss_counts()["counters_full"];
            (requests + codes.values().sum::<u64>(), lost)
        };
        let since = |after: (u64, u64), before: (u64, u64)| (after.0 - before.0, after.1 - before.1);
        let (counted, lost) = since(events(&totals), events(&before));
        let (all, missed) = since(events(&witnessed), events(&witnessed_before));
        assert_eq!(missed, 0, "{hook}: the other agent has room for all");
        assert!(all >= 2 * PROCESSES, "{hook}: {all}");
        assert_eq!(
            counted + lost,
            all,
            "{hook}: counted {counted}, losses {:?}",
            totals.losses()
        );
        assert!(lost > 0, "{hook}: there was room for all");
        agent.stop();
        witness.stop();
    });
}
