//! The real things of the integration tests: the agent, an nginx, a load, and what the kernel still holds.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// Long enough for an emulated machine on a busy one; nothing waits for it unless something is broken.
const PATIENCE: Duration = Duration::from_mins(3);

/// Responses by status code; `unknown` where the agent could not read it, which nginx never logs.
pub type Codes = BTreeMap<String, u64>;

/// Asks until there is an answer, and fails when there is none.
#[track_caller]
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            Instant::now() < deadline,
            "waited {PATIENCE:?} in vain for {what}{}",
            stuck_tasks()
        );
        thread::sleep(Duration::from_millis(50));
    }
}

/// The tasks that wait uninterruptibly and what for, each on lines of its own: whether a test waits for this machine's disk, say,
/// or for what is tested.
fn stuck_tasks() -> String {
    let mut text = String::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let stat = fs::read_to_string(process.path().join("stat")).unwrap_or_default();
        let is_stuck = stat
            .rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with('D'));
        if is_stuck {
            let stack = fs::read_to_string(process.path().join("stack")).unwrap_or_default();
            let _infallible = write!(text, "\n{}\n{}", stat.trim(), stack.trim());
        }
    }
    text
}

/// Runs a test for each hook that is to be tested: all in a guest (`cargo xtask vm` sets `TEST_KERNEL`), where all must
/// attach, else `tracepoint`, or those that `TEST_HOOKS` names.
pub fn for_each_hook(mut test: impl FnMut(&str)) {
    let default = if env::var_os("TEST_KERNEL").is_some() {
        "fentry kprobe tracepoint"
    } else {
        "tracepoint"
    };
    let hooks = env::var("TEST_HOOKS").unwrap_or_else(|_| default.to_owned());
    assert!(!hooks.trim().is_empty(), "TEST_HOOKS names no hook");
    for hook in hooks.split_whitespace() {
        test(hook);
    }
}

/// The agent of this build: cargo puts it one directory above test binaries.
fn program() -> PathBuf {
    let this = env::current_exe().expect("this binary has a file");
    let directory = this.ancestors().nth(2).expect("cargo's directories");
    directory.join("scope-http-statistics-agent")
}

/// A running agent with a plugin directory of its own. Killed when dropped, stopped politely by [`Agent::stop`].
pub struct Agent {
    child: Child,
    directory: Arc<TempDir>,
    /// Of its own: its log, and its own socket if it has one.
    place: TempDir,
    asked_at: PathBuf,
}

impl Agent {
    /// Starts `run --hook <hook>` and waits until it answers, which it does once its programs are attached.
    #[track_caller]
    pub fn start(hook: &str) -> Self {
        Self::start_with(hook, &[])
    }

    /// The same, with more arguments.
    #[track_caller]
    pub fn start_with(hook: &str, arguments: &[&str]) -> Self {
        let directory = Arc::new(temporary());
        let (place, asked_at) = (temporary(), socket_in(&directory));
        Self::start_at(directory, place, asked_at, hook, arguments)
    }

    /// Starts another one on the same plugin directory, which stands by, and waits until that answers on its own socket.
    #[track_caller]
    pub fn start_standby(&self, hook: &str, arguments: &[&str]) -> Self {
        let place = temporary();
        let own = place.path().join("agent/own.sock");
        let mut all = vec!["--standby-socket", own.to_str().expect("a path that is text")];
        all.extend(arguments);
        Self::start_at(Arc::clone(&self.directory), place, own.clone(), hook, &all)
    }

    #[track_caller]
    fn start_at(
        directory: Arc<TempDir>,
        place: TempDir,
        asked_at: PathBuf,
        hook: &str,
        arguments: &[&str],
    ) -> Self {
        let log = fs::File::create(place.path().join("agent.log")).expect("a log for the agent");
        let child = Command::new(program())
            .args(["run", "--hook", hook, "--plugin-dir"])
            .arg(directory.path())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("one log for both streams"))
            .stderr(log)
            .spawn()
            .expect("the agent starts");
        let mut agent = Self {
            child,
            directory,
            place,
            asked_at,
        };
        wait_for("the agent's first answer", || {
            let ended = agent.child.try_wait().expect("the agent is our child");
            assert!(ended.is_none(), "the agent ended at its start, {ended:?}");
            agent.get("/totals").ok()
        });
        agent
    }

    /// Where it serves Scope.
    pub fn socket(&self) -> PathBuf {
        socket_in(&self.directory)
    }

    /// Where it can be asked: its own socket if it has one, else where it serves Scope.
    pub fn asked_at(&self) -> &Path {
        &self.asked_at
    }

    /// Its plugin directory.
    pub fn directory(&self) -> Arc<TempDir> {
        Arc::clone(&self.directory)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.place.path().join("agent.log")).unwrap_or_default()
    }

    /// `GET /totals`.
    #[track_caller]
    pub fn totals(&self) -> Totals {
        Totals(self.get("/totals").expect("the agent answers"))
    }

    /// `GET /report`.
    #[track_caller]
    pub fn report(&self) -> Value {
        self.get("/report").expect("the agent answers")
    }

    fn get(&self, path: &str) -> io::Result<Value> {
        get(&self.asked_at, path)
    }

    /// The ids of the programs and links that it holds.
    pub fn programs(&self) -> BTreeSet<u32> {
        let descriptors = format!("/proc/{}/fdinfo", self.child.id());
        fs::read_dir(descriptors)
            .expect("the agent runs")
            .flatten()
            .filter_map(|descriptor| fs::read_to_string(descriptor.path()).ok())
            .filter_map(|info| {
                info.lines()
                    .find_map(|line| line.strip_prefix("prog_id:")?.trim().parse().ok())
            })
            .collect()
    }

    /// SIGKILL, and waits for its end.
    pub fn kill(mut self) {
        self.child.kill().expect("the agent is our child");
        self.child.wait().expect("the agent is our child");
    }

    /// SIGTERM; then the exit code must be 0. Returns what it has said.
    #[track_caller]
    pub fn leave(mut self) -> String {
        let status = terminate(&mut self.child);
        assert!(status.success(), "the agent ended with {status}:\n{}", self.log());
        self.log()
    }

    /// The same, and its socket and its programs must be gone.
    #[track_caller]
    pub fn stop(self) {
        let programs = self.programs();
        assert!(!programs.is_empty(), "the agent holds no program");
        // Its directories go with it.
        let (_directory, socket) = (self.directory(), self.socket());
        self.leave();
        assert!(!socket.exists(), "the agent left its socket");
        // The kernel frees programs some time after their last user is gone.
        wait_for("the kernel to forget the agent's programs", || {
            programs.iter().all(|id| !is_loaded(*id)).then_some(())
        });
    }
}

fn temporary() -> TempDir {
    TempDir::new().expect("a temporary directory")
}

fn socket_in(plugin_dir: &TempDir) -> PathBuf {
    plugin_dir.path().join("http-statistics/http-statistics.sock")
}

/// What whoever listens at `socket` answers to `GET path`; an error if that is no 200.
pub fn get(socket: &Path, path: &str) -> io::Result<Value> {
    let mut socket = UnixStream::connect(socket)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    write!(
        socket,
        "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
    )?;
    let mut socket = BufReader::new(socket);
    let head = read_head(&mut socket)?;
    let mut body = vec![0; head.length];
    socket.read_exact(&mut body)?;
    if head.code != 200 {
        let words = String::from_utf8_lossy(&body);
        return Err(io::Error::other(format!("GET {path}: {} {words}", head.code)));
    }
    Ok(serde_json::from_slice(&body)?)
}

impl Drop for Agent {
    fn drop(&mut self) {
        end(&mut self.child);
        if thread::panicking() {
            let _ = writeln!(io::stderr(), "the agent said:\n{}", self.log());
        }
    }
}

/// The answer to `GET /totals`:
/// `{"processes":[{"pid":1,"command":"nginx","requests":2,"responses":{"200":1}}],"exited":[…],"losses":{…}}`.
#[derive(Debug)]
pub struct Totals(Value);

impl Totals {
    /// Requests and responses of the processes with these pids together.
    pub fn of(&self, pids: &BTreeSet<u32>) -> (u64, Codes) {
        sum(self.entries("processes").filter(|process| {
            process["pid"]
                .as_u64()
                .is_some_and(|pid| pids.iter().any(|wanted| u64::from(*wanted) == pid))
        }))
    }

    /// Requests and responses of all processes that are gone.
    pub fn of_exited(&self) -> (u64, Codes) {
        sum(self.entries("exited"))
    }

    /// Requests and responses of all processes, those that are gone among them.
    pub fn of_all(&self) -> (u64, Codes) {
        sum(self.entries("processes").chain(self.entries("exited")))
    }

    /// Requests and responses of the processes of this cgroup together, those that are gone among them.
    pub fn of_cgroup(&self, cgroup: &str) -> (u64, Codes) {
        self.of_place("cgroup", cgroup)
    }

    /// The same of all whose `field` is `value`, as in `pod_uid`.
    pub fn of_place(&self, field: &str, value: &str) -> (u64, Codes) {
        sum(["processes", "exited"]
            .into_iter()
            .flat_map(|list| self.entries(list))
            .filter(|entry| entry[field] == value))
    }

    /// Requests of which nobody knows whose they were.
    pub fn unlabelled(&self) -> u64 {
        self.0["unlabelled"].as_u64().expect("a count")
    }

    /// Losses by cause.
    pub fn loss_counts(&self) -> BTreeMap<String, u64> {
        let losses = self.0["losses"].as_object().expect("`losses` is an object");
        losses
            .iter()
            .map(|(name, count)| (name.clone(), count.as_u64().expect("a count")))
            .collect()
    }

    /// Losses of those processes, and of all in that cgroup, by cause.
    pub fn losses_of(&self, pids: &BTreeSet<u32>, cgroup: Option<&str>) -> BTreeMap<String, u64> {
        let mut losses = BTreeMap::new();
        let is_wanted = |entry: &&Value| {
            let pid = entry["pid"].as_u64().and_then(|pid| pid.try_into().ok());
            pid.is_some_and(|pid| pids.contains(&pid)) || cgroup.is_some_and(|it| entry["cgroup"] == it)
        };
        for entry in ["processes", "exited"]
            .into_iter()
            .flat_map(|list| self.entries(list))
            .filter(is_wanted)
        {
            for (cause, count) in entry["losses"].as_object().into_iter().flatten() {
                *losses.entry(cause.clone()).or_default() += count.as_u64().expect("a count");
            }
        }
        losses
    }

    /// Connections that could not be read, of those processes.
    pub fn connections_unreadable(&self, pids: &BTreeSet<u32>) -> u64 {
        self.entries("processes")
            .filter(|entry| {
                let pid = entry["pid"].as_u64().and_then(|pid| pid.try_into().ok());
                pid.is_some_and(|pid| pids.contains(&pid))
            })
            .filter_map(|entry| entry["connections_unreadable"].as_u64())
            .sum()
    }

    /// Losses that are not zero.
    pub fn losses(&self) -> Vec<String> {
        self.loss_counts()
            .iter()
            .filter(|(_, count)| **count != 0)
            .map(|(name, count)| format!("{name}: {count}"))
            .collect()
    }

    fn entries(&self, list: &str) -> impl Iterator<Item = &Value> {
        self.0[list]
            .as_array()
            .expect("`processes` and `exited` are arrays")
            .iter()
    }
}

fn sum<'a>(entries: impl Iterator<Item = &'a Value>) -> (u64, Codes) {
    let mut requests = 0;
    let mut codes = Codes::new();
    for entry in entries {
        requests += entry["requests"].as_u64().expect("`requests` is a count");
        for (code, count) in entry["responses"].as_object().expect("`responses` is an object") {
            *codes.entry(code.clone()).or_default() += count.as_u64().expect("a response count");
        }
    }
    (requests, codes)
}

/// A real nginx with two workers: on IPv4, IPv6 and a unix socket, with a second server behind it as its own upstream.
pub struct Nginx {
    child: Child,
    prefix: TempDir,
    port: u16,
}

/// Larger than a socket's buffer, so that it leaves in more than one call.
const LARGE: usize = 512 * 1024;

impl Nginx {
    /// Starts it and waits until it listens.
    #[track_caller]
    pub fn start() -> Self {
        Self::start_program("nginx".as_ref())
    }

    /// The same, of a copy of the program, so that its processes are called `name` and nobody else's are.
    #[track_caller]
    pub fn start_as(name: &str) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let program = directory.path().join(name);
        let path = env::var_os("PATH").expect("a search path");
        let installed = env::split_paths(&path)
            .map(|directory| directory.join("nginx"))
            .find(|path| path.is_file())
            .expect("nginx is installed (.ci/setup)");
        fs::copy(installed, &program).expect("a copy of nginx");
        Self::start_program(&program)
    }

    fn start_program(program: &Path) -> Self {
        let prefix = TempDir::new().expect("a temporary directory");
        fs::write(prefix.path().join("index.html"), "hello\n").expect("a page");
        fs::write(prefix.path().join("large.bin"), vec![b'x'; LARGE]).expect("a large page");
        let (port, upstream) = (free_port(), free_port());
        let configuration = prefix.path().join("nginx.conf");
        fs::write(&configuration, configure(prefix.path(), port, upstream)).expect("a configuration");
        let child = Command::new(program)
            .arg("-p")
            .arg(prefix.path())
            .arg("-c")
            .arg(configuration)
            .stdin(Stdio::null())
            .stderr(Stdio::null()) // it repeats its error log
            .spawn()
            .expect("nginx is installed (.ci/setup)");
        let nginx = Self { child, prefix, port };
        // By connecting only: a request would have to be expected in all the counts.
        wait_for("nginx to listen", || nginx.connect(0).ok());
        wait_for("nginx's workers", || (nginx.workers().len() == 2).then_some(()));
        nginx
    }

    /// The pids of its workers.
    pub fn workers(&self) -> BTreeSet<u32> {
        children_of(self.child.id())
    }

    /// The pid of its master, which serves nobody.
    pub fn master(&self) -> u32 {
        self.child.id()
    }

    /// Responses by code as its access log has them.
    pub fn logged(&self) -> Codes {
        let mut codes = Codes::new();
        for line in fs::read_to_string(self.prefix.path().join("access.log"))
            .expect("an access log")
            .lines()
        {
            let code = line.split(' ').next().expect("a code in each line");
            *codes.entry(code.to_owned()).or_default() += 1;
        }
        codes
    }

    /// Drives `connections` keep-alive connections at once with `requests` requests each, returns the number of lines
    /// that the access log gets from that.
    #[track_caller]
    pub fn load(&self, connections: usize, requests: usize) -> u64 {
        let logged = || self.logged().values().sum::<u64>();
        let before = logged();
        let lines: u64 = thread::scope(|scope| {
            let clients: Vec<_> = (0..connections)
                .map(|client| {
                    scope.spawn(move || self.drive(client, requests).expect("a connection that lasts"))
                })
                .collect();
            clients
                .into_iter()
                .map(|client| client.join().expect("a client"))
                .sum()
        });
        wait_for("nginx to log the last request", || {
            let logged = logged() - before;
            assert!(logged <= lines, "nginx logs {logged} requests, {lines} were sent");
            (logged == lines).then_some(())
        });
        lines
    }

    /// One client: works its way round [`REQUESTS`], beginning at its own number.
    fn drive(&self, client: usize, requests: usize) -> io::Result<u64> {
        let mut stream = BufReader::new(self.connect(client)?);
        let mut lines = 0;
        for request in REQUESTS.iter().cycle().skip(client).take(requests) {
            let body = vec![b'b'; request.body];
            let length = match request.body {
                0 => String::new(),
                length => format!("Content-Length: {length}\r\n"),
            };
            let head = format!(
                "{} {} HTTP/1.1\r\nHost: test\r\n{length}\r\n",
                request.method, request.path
            );
            stream.get_mut().write_all(&[head.as_bytes(), &body].concat())?;
            let head = read_head(&mut stream)?;
            assert_eq!(head.code, request.code, "{} {}", request.method, request.path);
            if request.method != "HEAD" {
                io::copy(&mut stream.by_ref().take(head.length as u64), &mut io::sink())?;
            }
            lines += request.lines;
            // nginx does so after a 500, and never otherwise.
            if head.closes {
                stream = BufReader::new(self.connect(client)?);
            }
        }
        Ok(lines)
    }

    /// Where it listens, on IPv4 and IPv6.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A connection over its unix socket.
    pub fn connect_unix(&self) -> io::Result<UnixStream> {
        let stream = UnixStream::connect(self.prefix.path().join("socket"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// Clients take turns at the three kinds of socket.
    fn connect(&self, client: usize) -> io::Result<Box<dyn Stream>> {
        let tcp = |address: SocketAddr| -> io::Result<Box<dyn Stream>> {
            let stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            Ok(Box::new(stream))
        };
        match client % 3 {
            0 => tcp((Ipv4Addr::LOCALHOST, self.port).into()),
            1 => tcp((Ipv6Addr::LOCALHOST, self.port).into()),
            _ => Ok(Box::new(self.connect_unix()?)),
        }
    }

    /// Ends it and its workers.
    #[track_caller]
    pub fn stop(mut self) {
        let status = terminate(&mut self.child);
        assert!(status.success(), "nginx ended with {status}");
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// A request and what comes of it.
struct Request {
    method: &'static str,
    path: &'static str,
    /// Length of its body.
    body: usize,
    code: u16,
    /// How many lines it leaves in the access log: two when it goes to the upstream, which is nginx again.
    lines: u64,
}

const fn request(method: &'static str, path: &'static str, code: u16) -> Request {
    Request {
        method,
        path,
        body: 0,
        code,
        lines: 1,
    }
}

const REQUESTS: &[Request] = &[
    request("GET", "/index.html", 200),
    request("GET", "/missing", 404),
    request("GET", "/moved", 301),
    request("HEAD", "/index.html", 200),
    request("GET", "/empty", 204),
    request("GET", "/broken", 500),
    Request {
        body: 5,
        ..request("POST", "/form", 201)
    },
    request("GET", "/large.bin", 200),
    Request {
        body: 20_000,
        ..request("POST", "/form", 201)
    },
    request("DELETE", "/empty", 204),
    // As a client of its upstream nginx must not be counted a second time.
    Request {
        lines: 2,
        ..request("GET", "/upstream", 200)
    },
    request("HEAD", "/missing", 404),
];

fn configure(prefix: &Path, port: u16, upstream: u16) -> String {
    let prefix = prefix.display();
    format!(
        "daemon off; user root; worker_processes 2; pid {prefix}/pid; error_log {prefix}/error.log;
        events {{ worker_connections 11000; }}
        http {{
            log_format codes '$status $request_method';
            access_log {prefix}/access.log codes;
            sendfile on; tcp_nopush on; keepalive_requests 1000000; keepalive_timeout 600;
            client_body_temp_path {prefix}/body; proxy_temp_path {prefix}/proxy; fastcgi_temp_path {prefix}/fastcgi;
            uwsgi_temp_path {prefix}/uwsgi; scgi_temp_path {prefix}/scgi;
            server {{
                listen 127.0.0.1:{port}; listen [::1]:{port}; listen unix:{prefix}/socket;
                root {prefix};
                location = /moved {{ return 301 /index.html; }}
                location = /empty {{ return 204; }}
                location = /broken {{ return 500; }}
                location = /form {{ return 201 'taken'; }}
                location = /upstream {{ proxy_pass http://127.0.0.1:{upstream}/index.html; }}
            }}
            server {{ listen 127.0.0.1:{upstream}; root {prefix}; }}
        }}"
    )
}

/// What a client needs to know of a response.
struct Head {
    code: u16,
    /// Length of the body, 0 where there is none.
    length: usize,
    /// The connection ends with this response.
    closes: bool,
}

fn read_head(stream: &mut impl BufRead) -> io::Result<Head> {
    let malformed = |line: &str| io::Error::new(io::ErrorKind::InvalidData, format!("not HTTP: {line:?}"));
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let code = line
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| malformed(&line))?;
    let mut head = Head {
        code,
        length: 0,
        closes: false,
    };
    loop {
        line.clear();
        stream.read_line(&mut line)?;
        if line == "\r\n" {
            return Ok(head);
        }
        let (name, value) = line.split_once(':').ok_or_else(|| malformed(&line))?;
        match name.to_ascii_lowercase().as_str() {
            "content-length" => {
                head.length = value.trim().parse().map_err(|_not_a_number| malformed(&line))?;
            }
            "connection" => head.closes = value.trim() == "close",
            _ => {}
        }
    }
}

pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("a bound socket").port()
}

pub fn children_of(parent: u32) -> BTreeSet<u32> {
    let parent_of = |pid: u32| -> Option<u32> {
        // "pid (command) state ppid …"; the command may hold anything.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    fs::read_dir("/proc")
        .expect("/proc")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| parent_of(*pid) == Some(parent))
        .collect()
}

#[track_caller]
fn terminate(child: &mut Child) -> ExitStatus {
    signal(child, libc::SIGTERM);
    wait_for("a process to end", || child.try_wait().expect("our child"))
}

/// For the end of a test that failed half-way: politely first, since nginx's master must end its workers.
pub fn end(child: &mut Child) {
    if matches!(child.try_wait(), Ok(None)) {
        signal(child, libc::SIGTERM);
        thread::sleep(Duration::from_millis(500));
        let _ = child.kill();
        let _ = child.wait();
    }
}

pub fn signal(child: &Child, number: libc::c_int) {
    let pid = child.id().try_into().expect("a pid is positive");
    // SAFETY: kill takes no pointers, and the child is not reaped, so the pid is still its own.
    unsafe { libc::kill(pid, number) };
}

/// Does the kernel still know the program with this id?
fn is_loaded(id: u32) -> bool {
    const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
    // The part of `union bpf_attr` that this command reads: the id, a field for iteration, flags.
    let attribute: [u32; 3] = [id, 0, 0];
    // SAFETY: the attribute outlives the call and has the size given; the descriptor that comes back is closed once.
    unsafe {
        let descriptor = libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_GET_FD_BY_ID,
            attribute.as_ptr(),
            size_of_val(&attribute),
        );
        let Ok(descriptor @ 0..) = libc::c_int::try_from(descriptor) else {
            return false;
        };
        libc::close(descriptor);
        true
    }
}
