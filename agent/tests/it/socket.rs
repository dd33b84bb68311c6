//! The plugin's socket: its life on disk, what is served on it, and clients that do not behave.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener as StdListener, UnixStream};
use std::path::Path;
use std::pin::pin;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use agent::client::{Client, ClientError};
use agent::config::PluginDir;
use agent::sampler::View;
use agent::server::{PluginSocket, SocketError};
use agent::stats::Event;
use flate2::read::GzDecoder;
use serde_json::Value;
use tempfile::TempDir;
use testkit::world::{Agent, World, settings};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Nothing waits for it unless something is broken.
const PATIENCE: Duration = Duration::from_mins(1);

/// An agent without traffic.
struct Server {
    agent: Agent,
}

impl Server {
    async fn start() -> Self {
        let agent = Agent::start(
            &World::new(),
            &settings(&[("interval", "1s"), ("history", "60s")]),
        )
        .await;
        Self { agent }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.agent.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    fn client(&self) -> Client {
        Client::new(self.agent.socket())
    }

    /// One request on a connection of its own; the whole answer.
    fn exchange(&self, request: &str) -> String {
        let mut stream = self.connect();
        write!(
            stream,
            "{request} HTTP/1.1\r\nHost: plugin\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// How long it takes to stop.
    async fn stop(self) -> Duration {
        self.agent.stop().await.0
    }
}

fn plugin_dir(dir: &TempDir) -> PluginDir {
    dir.path().to_str().unwrap().parse().unwrap()
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_answer_as_documented() {
    let server = Server::start().await;
    let cases = [
        ("GET /report?api_version=1&probe_id=99f6914cc717fa5", "200"),
        ("GET /report", "200"),
        ("HEAD /report", "200"),
        ("GET /totals", "200"),
        ("GET /healthz", "200"),
        ("GET /readyz", "200"),
        ("POST /report", "405"),
        ("DELETE /totals", "405"),
        ("GET /", "404"),
        ("GET /control", "404"),
        ("POST /nothing", "404"),
        ("GET /report/", "404"),
    ];
    for (request, expected) in cases {
        let answer = server.exchange(request);
        assert_eq!(status(&answer), expected, "{request}: {answer}");
    }
    let answer = server.exchange("GET /report").to_lowercase();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("content-type: application/json"), "{head}");
    assert!(
        head.contains(&format!("content-length: {}", body.len())),
        "{head}"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_keep_alive_pollers_see_the_same_report() {
    let server = Server::start().await;
    let mut pollers = [server.connect(), server.connect()];
    for _ in 0..3 {
        let bodies: Vec<Value> = pollers
            .iter_mut()
            .map(|poller| {
                write!(
                    poller,
                    "GET /report?api_version=1 HTTP/1.1\r\nHost: plugin\r\n\r\n"
                )
                .unwrap();
                let mut answer = Vec::new();
                let mut chunk = [0; 4096];
                loop {
                    let read = poller.read(&mut chunk).unwrap();
                    assert!(read > 0, "the connection is kept alive");
                    answer.extend_from_slice(&chunk[..read]);
                    let text = String::from_utf8_lossy(&answer);
                    if let Some((_, body)) = text.split_once("\r\n\r\n")
                        && let Ok(json) = serde_json::from_str(body)
                    {
                        return json;
                    }
                }
            })
            .collect();
        assert_eq!(bodies[0], bodies[1]);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_reads_reports_and_totals() {
    let server = Server::start().await;
    let report: Value = server.client().get_json("/report").await.unwrap();
    assert_eq!(report["Plugins"][0]["id"], "http-statistics");
    let totals: agent::totals::Totals = server.client().get_json("/totals").await.unwrap();
    assert_eq!(totals.hook, "tracepoint");
    let error = server.client().get("/nothing").await.unwrap_err();
    assert!(matches!(error, ClientError::Status { .. }), "{error}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_hang_do_not_hold_up_the_end() {
    let server = Server::start().await;
    let idle = server.connect();
    let mut half = server.connect();
    write!(half, "GET /report HTT").unwrap();
    let mut keep_alive = server.connect();
    write!(keep_alive, "GET /report HTTP/1.1\r\nHost: plugin\r\n\r\n").unwrap();
    assert_eq!(status(&server.exchange("GET /healthz")), "200");
    let elapsed = server.stop().await;
    assert!(elapsed < Duration::from_secs(4), "{elapsed:?}");
    drop((idle, half, keep_alive));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_and_huge_heads_are_refused() {
    let server = Server::start().await;
    let huge = format!("GET /report HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    for bytes in ["\0\u{1}\u{2}garbage\r\n\r\n", "GET\r\n\r\n", huge.as_str()] {
        let mut stream = server.connect();
        // The server may have closed before it was all sent.
        let _sent = stream.write_all(bytes.as_bytes());
        let mut answer = Vec::new();
        let _closed = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.is_empty() || status(&answer).starts_with('4'), "{answer}");
    }
    assert_eq!(status(&server.exchange("GET /report")), "200");
    server.stop().await;
}

/// Asks for the report as Scope does; head and body of the answer.
fn poll(server: &Server) -> (String, Vec<u8>) {
    let mut stream = server.connect();
    let head = "HTTP/1.1\r\nHost: plugin\r\nAccept-Encoding: gzip\r\nConnection: close";
    write!(stream, "GET /report {head}\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .unwrap();
    let body = answer.split_off(end + 4);
    let head = String::from_utf8_lossy(&answer).to_lowercase();
    assert!(
        head.contains(&format!("content-length: {}", body.len())),
        "{head}"
    );
    (head, body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_few_pollers_get_the_report_as_it_is_and_a_crowd_the_same_compressed() {
    let server = Server::start().await;
    let plain: Value = server.client().get_json("/report").await.unwrap();
    let (head, body) = poll(&server);
    assert!(!head.contains("content-encoding"), "{head}");
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), plain);

    let deadline = Instant::now() + PATIENCE;
    let packed = loop {
        assert!(Instant::now() < deadline, "it is never compressed");
        let (head, body) = poll(&server);
        if head.contains("content-encoding: gzip") {
            break body;
        }
    };
    let unpacked: Value = serde_json::from_reader(GzDecoder::new(&packed[..])).unwrap();
    assert_eq!(unpacked, plain);
    server.stop().await;
}

/// Clients that only sit there, as many as a queue of connections takes.
const FLOOD: usize = 1000;

/// Room for a flood beside what is open already.
fn allow_many_files() {
    let own = std::process::id().to_string();
    let allowed = Command::new("prlimit")
        .args(["--pid", &own, "--nofile=4096:"])
        .status();
    assert!(allowed.unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_clients_that_sit_there_do_not_get_in_the_way_of_a_poller() {
    allow_many_files();
    let server = Server::start().await;
    let mut poller = server.connect();
    let mut poll = move || {
        write!(poller, "GET /healthz HTTP/1.1\r\nHost: plugin\r\n\r\n").unwrap();
        let mut answer = vec![0; 4096];
        let count = poller.read(&mut answer).unwrap();
        assert!(
            answer[..count].starts_with(b"HTTP/1.1 200 "),
            "the connection is kept"
        );
    };
    poll();
    let mut flood = Vec::new();
    for number in 0..FLOOD {
        let mut client = server.connect();
        match number % 5 {
            0 => {}
            1 => write!(client, "GET /rep").unwrap(),
            // Displaced as they are, some cannot say what they want.
            2 => drop(client.write_all(b"GET /report HTTP/1.1\r\nHost: plugin\r\n")),
            3 => drop(client.write_all(b"GET /report HTTP/1.1\r\nHost: plugin\r\n\r\n")),
            _ => drop(client.write_all(b"\0\x01garbage")),
        }
        flood.push(client);
        if number % 100 == 0 {
            poll();
            assert_eq!(
                status(&server.exchange("GET /report")),
                "200",
                "new ones come through as well"
            );
        }
    }
    poll();
    assert_eq!(status(&server.exchange("GET /report")), "200");
    drop(flood);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_read_the_answer_is_dropped() {
    let world = World::new();
    for pid in 1..=200 {
        let owner = world.start(pid, "server", "/server.service");
        world.counters.hit(owner, Event::Request, 1);
    }
    let agent = Agent::start(&world, &settings(&[])).await;
    let server = Server { agent };
    let long = 100_000;
    let deadline = Instant::now() + PATIENCE;
    while server.agent.feed.view(View::Report).await.unwrap().plain().len() < 4 * long {
        assert!(Instant::now() < deadline, "the report does not grow");
        sleep(Duration::from_millis(50)).await;
    }
    let mut lazy = server.connect();
    write!(lazy, "GET /report HTTP/1.1\r\nHost: plugin\r\n\r\n").unwrap();
    while lazy.write_all(b"\r\n").is_ok() {
        assert!(Instant::now() < deadline, "the connection is never closed");
        sleep(Duration::from_millis(50)).await;
    }
    let mut rest = Vec::new();
    let _reset = lazy.read_to_end(&mut rest);
    assert!(rest.len() < 4 * long, "{} bytes: all of it", rest.len());
    server.stop().await;
}

/// Until somebody listens at the socket's place.
async fn until_served(socket: &Path) {
    let deadline = Instant::now() + PATIENCE;
    let client = Client::new(socket.to_owned());
    while let Err(error) = client.get("/healthz").await {
        assert!(Instant::now() < deadline, "{error}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_whose_directory_is_removed_or_replaced_comes_again() {
    let server = Server::start().await;
    let (socket, plugins) = (server.agent.socket(), server.agent.root.path().join("plugins"));
    let mut old = server.connect();
    fs::remove_dir_all(&plugins).unwrap();
    until_served(&socket).await;

    let moved = server.agent.root.path().join("moved");
    fs::rename(&plugins, &moved).unwrap();
    fs::create_dir(&plugins).unwrap();
    until_served(&socket).await;
    let mode = fs::metadata(socket.parent().unwrap())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);

    fs::remove_file(&socket).unwrap();
    until_served(&socket).await;

    write!(
        old,
        "GET /healthz HTTP/1.1\r\nHost: plugin\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    old.read_to_string(&mut answer).unwrap();
    assert_eq!(status(&answer), "200", "whoever was connected still is");

    let (_, root) = server.agent.stop().await;
    assert_eq!(
        fs::read_dir(&plugins).unwrap().count(),
        0,
        "what others made stays, what we made goes"
    );
    assert!(root.path().join("moved").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_another_agent_has_its_place_a_socket_waits() {
    let server = Server::start().await;
    let socket = server.agent.socket();
    fs::remove_file(&socket).unwrap();
    let other = StdListener::bind(&socket).unwrap();
    let ours = fs::metadata(&socket).unwrap().ino();
    // Longer than the agent takes to look; nothing may happen, whenever it does.
    sleep(Duration::from_secs(3)).await;
    assert_eq!(fs::metadata(&socket).unwrap().ino(), ours, "it is not touched");
    drop(other);
    until_served(&socket).await;
    server.stop().await;
}

#[tokio::test]
async fn the_directory_is_ours_alone_and_all_is_removed_at_the_end() {
    let root = tempfile::tempdir().unwrap();
    let dir: PluginDir = root
        .path()
        .join("run/scope/plugins")
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    let (socket, listener) = PluginSocket::claim(&dir).await.unwrap();
    assert!(dir.socket().ends_with("http-statistics/http-statistics.sock"));
    assert!(dir.socket().exists());
    let mode = fs::metadata(dir.socket_dir()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    drop(listener);
    drop(socket);
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0, "nothing is left");
}

#[tokio::test]
async fn directories_that_were_there_or_are_used_stay() {
    let root = tempfile::tempdir().unwrap();
    let dir = plugin_dir(&root);
    fs::create_dir(dir.socket_dir()).unwrap();
    drop(PluginSocket::claim(&dir).await.unwrap());
    assert!(dir.socket_dir().exists());
    assert!(!dir.socket().exists());

    let shared: PluginDir = root.path().join("plugins").to_str().unwrap().parse().unwrap();
    let claimed = PluginSocket::claim(&shared).await.unwrap();
    fs::write(shared.path().join("other.sock"), "").unwrap();
    drop(claimed);
    assert!(!shared.socket_dir().exists());
    assert!(shared.path().join("other.sock").exists());
}

#[tokio::test]
async fn a_stale_socket_is_replaced() {
    let root = tempfile::tempdir().unwrap();
    let dir = plugin_dir(&root);
    fs::create_dir(dir.socket_dir()).unwrap();
    drop(StdListener::bind(dir.socket()).unwrap());
    assert!(
        dir.socket().exists(),
        "an agent that was killed leaves its socket"
    );
    let claimed = PluginSocket::claim(&dir).await.unwrap();
    UnixStream::connect(dir.socket()).unwrap();
    drop(claimed);
    assert!(
        !dir.socket_dir().exists(),
        "nor could it remove its directory; now that is done for it"
    );
}

#[tokio::test]
async fn a_live_socket_is_refused_by_its_owners_pid() {
    let root = tempfile::tempdir().unwrap();
    let dir = plugin_dir(&root);
    let (_socket, _listener) = PluginSocket::claim(&dir).await.unwrap();
    let before = fs::metadata(dir.socket()).unwrap().ino();
    let error = PluginSocket::claim(&dir).await.unwrap_err();
    assert!(matches!(error, SocketError::InUse { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains(&format!("process {} ", std::process::id())),
        "{error}"
    );
    assert_eq!(
        fs::metadata(dir.socket()).unwrap().ino(),
        before,
        "the other's socket is untouched"
    );
    UnixStream::connect(dir.socket()).unwrap();
}

#[tokio::test]
async fn a_socket_that_became_anothers_stays() {
    let root = tempfile::tempdir().unwrap();
    let dir = plugin_dir(&root);
    let claimed = PluginSocket::claim(&dir).await.unwrap();
    // Keeps the inode number from being used again.
    fs::rename(dir.socket(), root.path().join("moved")).unwrap();
    let _other = StdListener::bind(dir.socket()).unwrap();
    drop(claimed);
    UnixStream::connect(dir.socket()).unwrap();
}

/// Most file systems give the inode that has just become free to who comes next.
#[tokio::test]
async fn a_socket_in_the_place_of_ours_stays_also_if_it_has_our_inode() {
    let dir = TempDir::new().unwrap();
    for _ in 0..5 {
        let (socket, listener) = PluginSocket::claim(&plugin_dir(&dir)).await.unwrap();
        let path = plugin_dir(&dir).socket();
        sleep(Duration::from_millis(20)).await;
        drop(listener);
        fs::remove_file(&path).unwrap();
        let other = StdListener::bind(&path).unwrap();
        drop(socket);
        assert!(UnixStream::connect(&path).is_ok(), "the other is still there");
        drop(other);
        fs::remove_file(&path).unwrap();
    }
}

#[tokio::test]
async fn what_is_no_socket_is_not_touched() {
    let root = tempfile::tempdir().unwrap();
    let dir = plugin_dir(&root);
    fs::create_dir(dir.socket_dir()).unwrap();
    fs::write(dir.socket(), "precious").unwrap();
    let error = PluginSocket::claim(&dir).await.unwrap_err();
    assert!(matches!(error, SocketError::NotASocket { .. }), "{error}");
    assert_eq!(fs::read_to_string(dir.socket()).unwrap(), "precious");
}

#[tokio::test]
async fn a_plugin_directory_that_is_a_file_is_refused() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("file"), "").unwrap();
    let dir: PluginDir = root.path().join("file").to_str().unwrap().parse().unwrap();
    let error = PluginSocket::claim(&dir).await.unwrap_err();
    assert!(matches!(error, SocketError::CreateDir { .. }), "{error}");
}

#[tokio::test]
async fn of_two_agents_that_start_at_once_one_wins() {
    for _ in 0..20 {
        let root = tempfile::tempdir().unwrap();
        let dir = plugin_dir(&root);
        fs::create_dir(dir.socket_dir()).unwrap();
        drop(StdListener::bind(dir.socket()).unwrap());
        let (one, two) = tokio::join!(PluginSocket::claim(&dir), PluginSocket::claim(&dir));
        assert!(one.is_ok() != two.is_ok(), "{one:?} {two:?}");
        UnixStream::connect(dir.socket()).unwrap();
    }
}

#[tokio::test]
async fn who_stands_by_comes_when_the_other_leaves_and_cleans_up_after_both() {
    for left in ["politely", "killed"] {
        let root = tempfile::tempdir().unwrap();
        let dir = plugin_dir(&root);
        let (first, listener) = if left == "killed" {
            fs::create_dir(dir.socket_dir()).unwrap();
            (None, tokio::net::UnixListener::bind(dir.socket()).unwrap())
        } else {
            let (socket, listener) = PluginSocket::claim(&dir).await.unwrap();
            (Some(socket), listener)
        };
        let mut coming = pin!(PluginSocket::take_over(&dir));
        let waited = timeout(Duration::from_millis(300), &mut coming).await;
        assert!(waited.is_err(), "{left}: not while the other one is there");
        drop(listener);
        drop(first);
        let second = timeout(PATIENCE, coming).await.unwrap().unwrap();
        UnixStream::connect(dir.socket()).unwrap();
        drop(second);
        assert_eq!(
            fs::read_dir(root.path()).unwrap().count(),
            0,
            "{left}: nothing is left"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_that_stand_by_one_serves_at_a_time() {
    let root = tempfile::tempdir().unwrap();
    let dir = plugin_dir(&root);
    let (serving, turns) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut agents = JoinSet::new();
    for number in 0..40 {
        let (dir, serving, turns) = (dir.clone(), Arc::clone(&serving), Arc::clone(&turns));
        agents.spawn(async move {
            let (socket, listener) = PluginSocket::take_over(&dir).await.unwrap();
            assert_eq!(serving.fetch_add(1, Ordering::SeqCst), 0, "two serve");
            UnixStream::connect(dir.socket()).unwrap();
            turns.fetch_add(1, Ordering::SeqCst);
            serving.fetch_sub(1, Ordering::SeqCst);
            // In both orders, as an agent's parts end.
            if number % 2 == 0 {
                drop(listener);
                drop(socket);
            } else {
                drop(socket);
                drop(listener);
            }
        });
    }
    agents.join_all().await;
    assert_eq!(turns.load(Ordering::SeqCst), 40);
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0, "nothing is left");
}

#[tokio::test]
async fn clients_say_when_there_is_no_agent() {
    let root = tempfile::tempdir().unwrap();
    let dir = plugin_dir(&root);
    let error = Client::new(dir.socket()).get("/report").await.unwrap_err();
    assert!(matches!(error, ClientError::NoAgent { .. }), "{error:?}");
    fs::create_dir(dir.socket_dir()).unwrap();
    drop(StdListener::bind(dir.socket()).unwrap());
    let error = Client::new(dir.socket()).get("/report").await.unwrap_err();
    assert!(matches!(error, ClientError::NoAgent { .. }), "{error:?}");
}

#[tokio::test]
async fn clients_do_not_wait_for_ever() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("silent.sock");
    let _silent = StdListener::bind(&path).unwrap();
    let client = Client::new(path);
    let error = client.get("/report").await.unwrap_err();
    assert!(matches!(error, ClientError::Timeout { .. }), "{error:?}");
}
