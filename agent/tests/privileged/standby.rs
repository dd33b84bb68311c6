//! One real agent takes the place of another: the second stands by, is well, and takes the plugin's socket over when the
//! first leaves it, politely or not.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use testkit::live::{Agent, Nginx, for_each_hook, free_port, get, wait_for};
use testkit::turn::Turn;

/// Of the agents, and how often the poller polls.
const INTERVAL: Duration = Duration::from_secs(1);

/// The process that serves Scope, as it says itself.
fn owner(socket: &Path) -> Option<u64> {
    get(socket, "/overview").ok()?["pid"].as_u64()
}

/// How many sockets listen at a path, as the kernel sees it: the last one bound has the name, others may still listen.
fn listeners(socket: &Path) -> usize {
    let path = socket.to_str().unwrap();
    let all = fs::read_to_string("/proc/net/unix").unwrap();
    // `__SO_ACCEPTCON` is the flag of those that listen.
    all.lines()
        .filter(|line| line.ends_with(path) && line.split_whitespace().nth(3) == Some("00010000"))
        .count()
}

/// The dates of all samples of a report.
fn dates(report: &Value) -> BTreeSet<String> {
    let nodes = report["Process"]["nodes"].as_object().unwrap();
    nodes
        .values()
        .flat_map(|node| node["metrics"].as_object().unwrap().values())
        .flat_map(|metric| metric["samples"].as_array().unwrap())
        .map(|sample| sample["date"].as_str().unwrap().to_owned())
        .collect()
}

/// `healthcheck` as kubelet runs it in the agent's container.
fn is_well(agent: &Agent, ready: &[&str]) -> bool {
    let mut healthcheck = Command::new(env!("CARGO_BIN_EXE_scope-http-statistics-agent"));
    healthcheck
        .arg("healthcheck")
        .args(ready)
        .arg("--plugin-dir")
        .arg(agent.directory().path())
        .arg("--standby-socket")
        .arg(agent.asked_at());
    healthcheck.output().unwrap().status.success()
}

/// What a poller as Scope's saw.
#[derive(Default)]
struct Polled {
    /// Times that nobody answered.
    unanswered: usize,
    /// Dates in the answers of the agents, by process.
    dates: BTreeMap<Option<u64>, BTreeSet<String>>,
}

/// Polls every interval until `over`, and once more.
fn poll(socket: &Path, over: &AtomicBool) -> Polled {
    let mut polled = Polled::default();
    let mut next = Instant::now();
    loop {
        let last = over.load(Ordering::Relaxed);
        let before = owner(socket);
        match (get(socket, "/report"), before == owner(socket)) {
            (Err(_), _) => polled.unanswered += 1,
            (Ok(report), true) => polled.dates.entry(before).or_default().extend(dates(&report)),
            // There is no telling whose answer it was.
            (Ok(_), false) => {}
        }
        if last {
            return polled;
        }
        next += INTERVAL;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

fn hand_over(hook: &str, leave: impl FnOnce(Agent)) {
    let nginx = Nginx::start();
    let workers = nginx.workers();
    let first = Agent::start(hook);
    let socket = first.socket();
    let bound = fs::metadata(&socket).unwrap().ino();

    let second = first.start_standby(hook, &[]);
    wait_for("the second to be ready", || {
        is_well(&second, &["--ready"]).then_some(())
    });
    assert!(is_well(&second, &[]), "it is alive");
    assert!(second.log().contains("standing by"), "{}", second.log());
    assert!(
        second.log().contains(&first.pid().to_string()),
        "it names the owner"
    );
    assert_eq!(owner(&socket), Some(first.pid().into()), "the first serves");
    assert_eq!(fs::metadata(&socket).unwrap().ino(), bound, "on the same socket");
    assert_eq!(owner(second.asked_at()), Some(second.pid().into()));
    let mode = fs::metadata(second.asked_at()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "its own socket is its own");

    // From here on both count; the second must have counted all of it in the end.
    let over = AtomicBool::new(false);
    let most_listeners = || {
        let mut most = 0;
        while !over.load(Ordering::Relaxed) {
            most = most.max(listeners(&socket));
            thread::sleep(Duration::from_millis(1));
        }
        most
    };
    let [first_pid, second_pid] = [&first, &second].map(|agent| Some(u64::from(agent.pid())));
    let (polled, most) = thread::scope(|scope| {
        let polling = scope.spawn(|| poll(&socket, &over));
        let counting = scope.spawn(most_listeners);
        let loading = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                nginx.load(2, 12);
            }
        });
        // Two samples of the second are as old as samples of the first.
        wait_for("the second to have sampled", || {
            (dates(&second.report()).len() > 2).then_some(())
        });
        leave(first);
        wait_for("the second to serve", || {
            (owner(&socket) == second_pid).then_some(())
        });
        assert!(is_well(&second, &["--ready"]), "it is well where Scope asks");
        thread::sleep(2 * INTERVAL);
        over.store(true, Ordering::Relaxed);
        loading.join().unwrap();
        (polling.join().unwrap(), counting.join().unwrap())
    });

    assert_eq!(most, 1, "one owner at a time");
    assert!(
        polled.unanswered <= 1,
        "{} polls without an answer",
        polled.unanswered
    );
    let (of_first, of_second) = (&polled.dates[&first_pid], &polled.dates[&second_pid]);
    assert!(
        of_second.first() < of_first.last(),
        "what the poller gets has no gap: {of_first:?} {of_second:?}"
    );
    wait_for("the second to have counted what nginx logged", || {
        let (requests, codes) = second.totals().of(&workers);
        (requests == nginx.logged().values().sum::<u64>() && codes == nginx.logged()).then_some(())
    });
    assert!(second.log().contains("taken over"), "{}", second.log());
    nginx.stop();
    let directory = second.directory();
    second.stop();
    assert_eq!(
        fs::read_dir(directory.path()).unwrap().count(),
        0,
        "nothing is left"
    );
}

#[test]
fn an_agent_that_stops_is_replaced_without_a_gap() {
    let _turn = Turn::of(module_path!());
    for_each_hook(|hook| hand_over(hook, |first| drop(first.leave())));
}

#[test]
fn an_agent_that_is_killed_is_replaced_without_a_gap() {
    let _turn = Turn::of(module_path!());
    for_each_hook(|hook| hand_over(hook, Agent::kill));
}

#[test]
fn an_agent_that_stands_by_stops_without_touching_the_other() {
    let _turn = Turn::of(module_path!());
    for_each_hook(|hook| {
        let first = Agent::start(hook);
        let bound = fs::metadata(first.socket()).unwrap().ino();
        let second = first.start_standby(hook, &[]);
        let directory = second.asked_at().parent().unwrap().to_owned();
        let log = second.leave();
        assert!(!directory.exists(), "what was made for its own socket is gone");
        assert!(!log.contains("taken over"), "{log}");
        assert_eq!(fs::metadata(first.socket()).unwrap().ino(), bound);
        assert_eq!(owner(&first.socket()), Some(first.pid().into()));
        first.stop();
    });
}

/// `GET /metrics` on a port of this host.
fn scrape(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    write!(
        stream,
        "GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
    )
    .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// Prometheus would count the same requests twice, and on one network there is one port.
#[test]
fn the_port_for_metrics_is_opened_when_it_is_its_turn() {
    let _turn = Turn::of(module_path!());
    for_each_hook(|hook| {
        let port = free_port();
        let first = Agent::start(hook);
        let second = first.start_standby(hook, &["--metrics-address", &port.to_string()]);
        assert_eq!(scrape(port), None, "it stands by");
        first.leave();
        let answer = wait_for("metrics", || scrape(port));
        assert!(answer.contains("scope_http_statistics_build_info"), "{answer}");
        second.stop();
    });
}

/// The agent before it served in another plugin directory, and goes when this one is ready.
#[test]
fn the_port_for_metrics_may_be_taken_for_a_while() {
    let _turn = Turn::of(module_path!());
    for_each_hook(|hook| {
        let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let place = TempDir::new().unwrap();
        let own = place.path().join("own.sock");
        let arguments = [
            "--standby-socket",
            own.to_str().unwrap(),
            "--metrics-address",
            &port.to_string(),
        ];
        let agent = Agent::start_with(hook, &arguments);
        wait_for("the log to tell", || {
            agent.log().contains("another --metrics-address").then_some(())
        });
        drop(taken);
        let answer = wait_for("metrics", || scrape(port));
        assert!(answer.contains("scope_http_statistics_build_info"), "{answer}");
        agent.stop();
    });
}
