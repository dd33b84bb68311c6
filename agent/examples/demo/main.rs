//! Shows the agent at work, and checks it: a real nginx under a mixed load, for 20 seconds side by side what the agent
//! counts in the kernel and what nginx writes to its own log, and at the end whether the two agree exactly.
//!
//! nginx is where kubelet and a container runtime put a pod, so that the agent names one; where cgroups cannot be made it
//! is a process of the host. `make demo` runs it. Needs root and nginx. Everything is temporary and is removed at the end.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a demonstration is there to be seen"
)]

mod pod;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, IsTerminal as _, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use agent::client::Client;
use agent::config::PluginDir;
use agent::report::model::{Node, Report};
use agent::report::{CONTAINER_ROW, MetricKind, NAMESPACE_ROW, POD_ROW};
use agent::totals::Totals;
use anyhow::{Context as _, Result, bail, ensure};
use pod::Pod;
use tempfile::TempDir;
use testkit::bench::{PATIENCE, Process, stop_signal};
use tokio::time::sleep;

/// How long the load runs.
const DURATION: Duration = Duration::from_secs(20);
/// Clients, each with a keep-alive connection.
const CLIENTS: u32 = 4;
/// Requests per second of each client.
const RATE: u32 = 100;

/// What the clients ask for, in turn: method, path, header.
const REQUESTS: [(&str, &str, &str); 8] = [
    ("GET", "/index.html", ""),
    ("GET", "/large.txt", ""),
    ("GET", "/missing", ""),
    ("GET", "/moved", ""),
    (
        "GET",
        "/index.html",
        "If-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT\r\n",
    ),
    ("HEAD", "/index.html", ""),
    ("POST", "/orders", "Content-Length: 7\r\n"),
    ("GET", "/index.html", ""),
];
/// The body of a POST.
const BODY: &str = "coffee\n";
/// The status codes this brings about.
const CODES: [u16; 5] = [200, 201, 301, 304, 404];

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    // When the demonstration is cut short, what it holds is dropped, and with it everything it started.
    let outcome = tokio::select! {
        outcome = demonstrate() => outcome,
        stopped = stop_signal() => stopped,
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn demonstrate() -> Result<ExitCode> {
    let pod = Pod::make();
    if let Err(error) = &pod {
        println!("nginx is in no pod here: {error:#}");
    }
    let nginx = Nginx::start(pod.ok())?;
    let agent = Agent::start(nginx.pod.as_ref()).await?;
    let workers = nginx.workers().await?;
    let hook = agent.totals().await?.hook;
    println!(
        "agent: process {}, hook {hook}, socket {}",
        agent.process.pid(),
        agent.client.socket().display()
    );
    println!(
        "nginx: process {}, {} workers, http://{}/",
        nginx.process.pid(),
        workers.len(),
        nginx.address
    );
    println!(
        "load:  {CLIENTS} keep-alive connections, {} requests per second\n",
        CLIENTS * RATE
    );

    let load = Load::start(nginx.address);
    let mut screen = Screen::default();
    let begin = Instant::now();
    let mut logged_before = nginx.logged()?;
    let mut second = 0;
    while begin.elapsed() < DURATION {
        sleep(Duration::from_secs(1)).await;
        second += 1;
        let report: Report = agent.client.get_json("/report").await?;
        let logged = nginx.logged()?;
        screen.show(&second_of(second, &report, &workers, &logged, &logged_before));
        logged_before = logged;
    }
    let requests = load.stop()?;

    // nginx writes its log after the client has the answer.
    let deadline = Instant::now() + PATIENCE;
    while nginx.logged()?.values().sum::<u64>() < requests && Instant::now() < deadline {
        sleep(Duration::from_millis(50)).await;
    }
    let agree = compare(&agent.totals().await?, &nginx, &workers, requests)?;
    Ok(if agree {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The table of one second: each worker as the agent reports it, and the sum in nginx's log.
fn second_of(
    second: u64,
    report: &Report,
    workers: &BTreeSet<u32>,
    logged: &BTreeMap<u16, u64>,
    before: &BTreeMap<u16, u64>,
) -> String {
    let kinds = [MetricKind::Requests]
        .into_iter()
        .chain(CODES.map(MetricKind::Code));
    let node_of = |pid: &u32| {
        let suffix = format!(";{pid}");
        let mut nodes = report.process.nodes.iter();
        nodes.find(|(id, _)| id.ends_with(&suffix)).map(|(_, node)| node)
    };
    let rates = |node: Option<&Node>| -> Vec<f64> {
        let latest = |kind: MetricKind| Some(node?.metrics.get(&kind)?.samples.last()?.value);
        kinds.clone().map(|kind| latest(kind).unwrap_or(0.0)).collect()
    };
    let new = |code: &u16| {
        let count = |counts: &BTreeMap<u16, u64>| counts.get(code).copied().unwrap_or(0);
        count(logged) - count(before)
    };

    let titles = ["REQ/S".to_owned()]
        .into_iter()
        .chain(CODES.map(|code| format!("{code}/S")));
    let mut lines = vec![line(&format!("SECOND {second}"), "PID", titles)];
    let mut sums = vec![0.0; kinds.clone().count()];
    for pid in workers {
        let node = node_of(pid);
        let rates = rates(node);
        sums.iter_mut().zip(&rates).for_each(|(sum, rate)| *sum += rate);
        let cells = rates.iter().map(|rate| format!("{rate:.1}"));
        let what = node.and_then(place).unwrap_or_else(|| "nginx worker".to_owned());
        lines.push(line(&format!("agent: {what}"), &pid.to_string(), cells));
    }
    lines.push(line(
        "agent: both workers",
        "",
        sums.iter().map(|sum| format!("{sum:.1}")),
    ));
    let all: u64 = logged.keys().map(new).sum();
    lines.push(line(
        "nginx's log",
        "",
        [all]
            .into_iter()
            .chain(CODES.map(|code| new(&code)))
            .map(|n| n.to_string()),
    ));
    lines.join("\n") + "\n"
}

/// `<namespace>/<pod> <container>`, as Scope shows it of a process.
fn place(node: &Node) -> Option<String> {
    let row = |key: &str| Some(node.latest.get(key)?.value.as_str());
    Some(format!(
        "{}/{} {}",
        row(NAMESPACE_ROW)?,
        row(POD_ROW)?,
        row(CONTAINER_ROW)?
    ))
}

fn line(what: &str, pid: &str, cells: impl Iterator<Item = String>) -> String {
    let cells: Vec<String> = cells.map(|cell| format!("{cell:>8}")).collect();
    format!("{what:<24}{pid:>8} {}", cells.join(" "))
}

/// Prints the exact totals side by side, and whether they agree.
fn compare(totals: &Totals, nginx: &Nginx, workers: &BTreeSet<u32>, requests: u64) -> Result<bool> {
    let mut counted: BTreeMap<String, u64> = BTreeMap::new();
    let mut lost: BTreeMap<&str, u64> = BTreeMap::new();
    let mut received = 0;
    for process in totals
        .processes
        .iter()
        .filter(|process| workers.contains(&process.pid))
    {
        received += process.counts.requests;
        for (code, count) in &process.counts.responses {
            *counted.entry(code.clone()).or_default() += count;
        }
        for (cause, count) in &process.counts.losses {
            *lost.entry(cause).or_default() += count;
        }
    }
    let logged: BTreeMap<String, u64> = nginx
        .logged()?
        .iter()
        .map(|(code, count)| (code.to_string(), *count))
        .collect();
    let mut rows = vec![
        ("requests".to_owned(), received, logged.values().sum()),
        ("sent by clients".to_owned(), received, requests),
    ];
    if let Some(pod) = &nginx.pod {
        let of_pod = totals
            .processes
            .iter()
            .filter(|process| process.place.pod_uid.as_deref() == Some(&pod.uid));
        let requests = of_pod.map(|process| process.counts.requests).sum();
        rows.push(("of the pod".to_owned(), requests, logged.values().sum()));
    }
    for code in counted.keys().chain(logged.keys()).collect::<BTreeSet<_>>() {
        let count = |counts: &BTreeMap<String, u64>| counts.get(code).copied().unwrap_or(0);
        rows.push((code.clone(), count(&counted), count(&logged)));
    }
    println!(
        "\n{:<16}{:>10}{:>12}{:>8}",
        "TOTALS", "AGENT", "NGINX'S LOG", "AGREE"
    );
    let mut agree = true;
    for (what, agent, truth) in rows {
        let same = agent == truth;
        agree &= same;
        println!(
            "{what:<16}{agent:>10}{truth:>12}{:>8}",
            if same { "yes" } else { "NO" }
        );
    }
    for (cause, count) in lost {
        println!("not counted of nginx: {cause} {count}");
    }
    let verdict = if agree { "agree exactly" } else { "DO NOT agree" };
    println!("\nThe agent's totals and nginx's log {verdict}.");
    Ok(agree)
}

/// Redraws in place on a terminal; elsewhere one table follows the other.
#[derive(Default)]
struct Screen {
    lines: usize,
}

impl Screen {
    fn show(&mut self, text: &str) {
        if io::stdout().is_terminal() && self.lines > 0 {
            // Up to the first line and clear from there.
            print!("\x1b[{}A\x1b[J", self.lines);
        } else if self.lines > 0 {
            println!();
        }
        self.lines = text.lines().count();
        print!("{text}");
        // Where nobody reads any more, the verdict still counts.
        let _flushed = io::stdout().flush();
    }
}

/// The agent that was built together with this example.
struct Agent {
    // Dropped in this order.
    process: Process,
    client: Client,
    _dir: TempDir,
}

impl Agent {
    /// `pod`: which it is to know.
    async fn start(pod: Option<&Pod>) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let log = dir.path().join("agent.log");
        let plugins = dir.path().join("plugins");
        let plugin_dir: PluginDir = plugins.to_string_lossy().parse()?;
        let binary = agent_binary()?;
        let codes: Vec<String> = CODES.iter().map(u16::to_string).collect();
        let mut process = Process(
            pod.map_or_else(|| Command::new(&binary), |pod| pod.seen_by(&binary))
                .args(["run", "--status-codes", &codes.join(","), "--plugin-dir"])
                .arg(&plugins)
                .stdin(Stdio::null())
                .stderr(File::create(&log)?)
                .spawn()
                .context("failed to start the agent")?,
        );
        let client = Client::new(plugin_dir.socket());
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = client.get("/readyz").await {
            process.check(&log).context("no agent")?;
            ensure!(Instant::now() < deadline, "the agent does not get ready: {error}");
            sleep(Duration::from_millis(50)).await;
        }
        Ok(Self {
            process,
            client,
            _dir: dir,
        })
    }

    async fn totals(&self) -> Result<Totals> {
        Ok(self.client.get_json("/totals").await?)
    }
}

/// `target/<profile>/scope-http-statistics-agent`, beside `target/<profile>/examples/demo`.
fn agent_binary() -> Result<PathBuf> {
    let this = std::env::current_exe()?;
    let profile = this
        .ancestors()
        .nth(2)
        .context("the demo is not in a target directory")?;
    let binary = profile.join("scope-http-statistics-agent");
    ensure!(
        binary.exists(),
        "{} is missing: build it with `make build`",
        binary.display()
    );
    Ok(binary)
}

const NGINX: &str = "nginx";

/// A real nginx on a free port of the loopback interface.
struct Nginx {
    // Dropped in this order.
    process: Process,
    address: SocketAddr,
    dir: TempDir,
    /// Where it is.
    pod: Option<Pod>,
}

impl Nginx {
    fn start(pod: Option<Pod>) -> Result<Self> {
        let version = Command::new(NGINX).arg("-v").stderr(Stdio::null()).status();
        ensure!(
            version.is_ok(),
            "nginx is missing: install it, on Debian with `apt-get install nginx-light`"
        );
        let dir = tempfile::tempdir()?;
        let prefix = dir.path();
        fs::write(prefix.join("index.html"), "hello\n")?;
        fs::write(prefix.join("large.txt"), "x".repeat(100_000))?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        fs::write(prefix.join("nginx.conf"), nginx_conf(address))?;
        let log = prefix.join("error.log");
        let mut command = pod
            .as_ref()
            .map_or_else(|| Command::new(NGINX), |pod| pod.inside(NGINX));
        let process = command
            .arg("-p")
            .arg(prefix)
            .args(["-c", "nginx.conf"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let mut nginx = Self {
            process: Process(process.context("failed to start nginx")?),
            address,
            dir,
            pod,
        };
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = TcpStream::connect(address) {
            nginx.process.check(&log).context("no nginx")?;
            ensure!(
                Instant::now() < deadline,
                "nginx does not listen on {address}: {error}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(nginx)
    }

    /// Pids of its workers.
    async fn workers(&self) -> Result<BTreeSet<u32>> {
        let pid = self.process.pid();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
            let workers: BTreeSet<u32> = children
                .split_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .collect();
            if workers.len() == 2 {
                return Ok(workers);
            }
            ensure!(Instant::now() < deadline, "nginx does not start its workers");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Answers in its log, by status code.
    fn logged(&self) -> Result<BTreeMap<u16, u64>> {
        let mut codes = BTreeMap::new();
        for line in BufReader::new(File::open(self.dir.path().join("access.log"))?).lines() {
            // The last line may be under way.
            if let Some(code) = line?.split(' ').next().and_then(|code| code.parse().ok()) {
                *codes.entry(code).or_default() += 1;
            }
        }
        Ok(codes)
    }
}

fn nginx_conf(address: SocketAddr) -> String {
    format!(
        "daemon off;
user root;
worker_processes 2;
pid nginx.pid;
error_log error.log;
events {{ worker_connections 256; }}
http {{
    log_format plain '$status $request_method';
    access_log access.log plain;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    sendfile on;
    server {{
        listen {address};
        root .;
        if_modified_since before;
        location = /moved {{ return 301 /index.html; }}
        location = /orders {{ return 201 \"thanks\\n\"; }}
    }}
}}
"
    )
}

/// Clients in threads of this process; they end when dropped.
struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Result<()>>>,
}

impl Load {
    fn start(server: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let clients = (0..CLIENTS)
            .map(|_| {
                let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
                std::thread::spawn(move || send_requests(server, &stop, &sent))
            })
            .collect();
        Self { stop, sent, clients }
    }

    /// Waits for the last answers and returns the number of requests.
    fn stop(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            match client.join() {
                Ok(outcome) => outcome?,
                // Its message is on stderr already.
                Err(_) => bail!("a client panicked"),
            }
        }
        Ok(self.sent.load(Ordering::Relaxed))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            let _ended = client.join();
        }
    }
}

/// One client: a request, its answer, a pause.
fn send_requests(server: SocketAddr, stop: &AtomicBool, sent: &AtomicU64) -> Result<()> {
    let mut connection: Option<BufReader<TcpStream>> = None;
    let mut next = Instant::now();
    for (method, path, header) in REQUESTS.iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let stream = if let Some(stream) = connection.take() {
            stream
        } else {
            let stream = TcpStream::connect(server)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            BufReader::new(stream)
        };
        let body = if *method == "POST" { BODY } else { "" };
        let request = format!("{method} {path} HTTP/1.1\r\nHost: demo\r\n{header}\r\n{body}");
        stream.get_ref().write_all(request.as_bytes())?;
        sent.fetch_add(1, Ordering::Relaxed);
        connection = read_answer(stream, *method == "HEAD")?;

        next += Duration::from_secs(1) / RATE;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

/// Reads an answer to its end. Returns the connection if it can be used again.
fn read_answer(mut stream: BufReader<TcpStream>, head_only: bool) -> Result<Option<BufReader<TcpStream>>> {
    let mut length = 0;
    let mut keep = true;
    let mut line = String::new();
    loop {
        line.clear();
        ensure!(
            stream.read_line(&mut line)? > 0,
            "nginx closed the connection before its answer"
        );
        let field = line.trim_end().to_ascii_lowercase();
        if field.is_empty() {
            break;
        }
        if let Some(value) = field.strip_prefix("content-length: ") {
            length = value.parse()?;
        }
        keep &= field != "connection: close";
    }
    if !head_only {
        io::copy(&mut stream.by_ref().take(length), &mut io::sink())?;
    }
    Ok(keep.then_some(stream))
}
