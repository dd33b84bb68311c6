//! An agent in a PID namespace of its own: it knows processes by the ids that its own /proc shows, tells two apart that
//! had the same id, and counts what processes outside do as lost.
//!
//! On the host as root, with the hook `tracepoint`, or in a virtual machine (.ci/vm-runner) with all.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;

use testkit::live::{Agent, Codes, end, for_each_hook, wait_for};
use testkit::turn::Turn;

/// Set for this test when it runs inside the namespace.
const INSIDE: &str = "PID_NAMESPACE_TEST_INSIDE";
/// What the two sides say to each other, a line each.
const SERVE: &str = "serve one request outside";
const SERVED: &str = "served";

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

#[test]
fn processes_are_known_by_the_ids_of_the_agents_own_namespace() {
    let _turn = Turn::of(module_path!());
    if env::var_os(INSIDE).is_some() {
        return for_each_hook(inside);
    }
    let mut inside = Command::new("unshare")
        .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(env::current_exe().expect("this binary"))
        .args(["--exact", "--nocapture"])
        .arg("pid_namespace::processes_are_known_by_the_ids_of_the_agents_own_namespace")
        .env(INSIDE, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("unshare is of util-linux");
    let mut input = inside.stdin.take().expect("a pipe");
    let mut asked = 0;
    for line in BufReader::new(inside.stdout.take().expect("a pipe")).lines() {
        if line.expect("text").ends_with(SERVE) {
            serve_one();
            asked += 1;
            writeln!(input, "{SERVED}").expect("the other side hears");
        }
    }
    let status = inside.wait().expect("our child");
    assert!(status.success(), "inside the namespace: {status}");
    assert!(asked > 0, "nothing was tested inside the namespace");
}

/// Receives a request and answers it, as this process.
fn serve_one() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    thread::scope(|scope| {
        scope.spawn(|| ask(port));
        let (mut socket, _) = listener.accept().expect("a client");
        socket.read_exact(&mut [0; REQUEST.len()]).expect("a request");
        socket.write_all(RESPONSE).expect("a client");
    });
}

fn ask(port: u16) {
    let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("a server");
    socket.write_all(REQUEST).expect("a server");
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).expect("an answer");
    assert_eq!(answer, RESPONSE);
}

fn inside(hook: &str) {
    let agent = Agent::start(hook);
    let count = |pid: u32| agent.totals().of(&BTreeSet::from([pid]));
    let times = |count: u64| (count, Codes::from([("200".to_owned(), count)]));

    let first = Server::start();
    let pid = first.process.id();
    for _ in 0..3 {
        ask(first.port);
    }
    wait_for("the first server's counts", || {
        (count(pid) == times(3)).then_some(())
    });
    first.end();

    // The agent has not looked at /proc since.
    let second = Server::start_as(pid);
    for _ in 0..2 {
        ask(second.port);
    }
    wait_for("the second server's counts, without the first one's", || {
        (count(pid) == times(2)).then_some(())
    });
    assert_eq!(
        agent.totals().of_exited(),
        times(3),
        "{hook}: what the first one did is not forgotten"
    );

    let lost = || agent.totals().loss_counts()["foreign_process"];
    let before = lost();
    let mut line = String::new();
    writeln!(io::stdout(), "\n{SERVE}").expect("the other side hears");
    io::stdin().read_line(&mut line).expect("the other side speaks");
    assert_eq!(line.trim_end(), SERVED);
    // A request and a response. Others outside may serve at the same time.
    wait_for("what happened outside to be counted as lost", || {
        (lost() >= before + 2).then_some(())
    });
    let totals = agent.totals();
    assert_eq!(
        totals.of_all(),
        times(5),
        "{hook}: all that happened inside, {totals:?}"
    );
    second.end();
    agent.stop();
}

/// A server that closes each connection with its answer.
struct Server {
    process: Child,
    port: u16,
}

impl Server {
    fn start() -> Self {
        const PROGRAM: &str = "
import socket, sys
listener = socket.create_server(('127.0.0.1', 0))
print(listener.getsockname()[1], flush=True)
while True:
    connection, _ = listener.accept()
    connection.recv(4096)
    connection.sendall(sys.argv[1].encode())
    connection.close()
";
        let response = str::from_utf8(RESPONSE).expect("text");
        let mut process = Command::new("/usr/bin/python3")
            .args(["-c", PROGRAM, response])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is installed (.ci/setup test)");
        let mut port = String::new();
        BufReader::new(process.stdout.take().expect("a pipe"))
            .read_line(&mut port)
            .expect("a line");
        let port = port.trim_end().parse().expect("a port");
        Self { process, port }
    }

    /// With this process id.
    fn start_as(pid: u32) -> Self {
        wait_for("a process with a used id", || {
            fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).expect("CAP_CHECKPOINT_RESTORE");
            let server = Self::start();
            if server.process.id() == pid {
                return Some(server);
            }
            // Another process or thread was faster.
            server.end();
            None
        })
    }

    fn end(mut self) {
        end(&mut self.process);
    }
}
