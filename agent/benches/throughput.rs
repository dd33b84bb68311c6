//! What counting costs a real server: nginx with all cores, saturated by wrk, with and without a running agent.
//!
//! `make bench` runs it. Needs root, nginx and wrk (`.ci/setup`), stays on the loopback interface, takes two minutes, and
//! judges nothing. A static file of 1 KiB over keep-alive connections. Rounds without and with the agent take turns; of
//! each pair the ratio counts. The agent is a process of its own, which is started and ready before its round begins,
//! and what it counted is compared with what nginx has logged.
#![expect(clippy::print_stdout, reason = "a measurement is there to be seen")]

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use agent::totals::Totals;
use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;
use testkit::bench::{self, Agent, Meter, PATIENCE, Process, Spread, count, print_table};
use tokio::time::sleep;

/// Pairs of rounds.
const PAIRS: usize = 8;
/// Of load in each round.
const SECONDS: u32 = 5;
/// Keep-alive connections for each core.
const CONNECTIONS: usize = 16;
/// More than nginx keeps its log to itself, and two of the agent's intervals.
const SETTLE: Duration = Duration::from_millis(2500);

fn main() -> ExitCode {
    bench::run(measure())
}

async fn measure() -> Result<()> {
    let cores = thread::available_parallelism()?.get();
    let nginx = Nginx::start().await?;
    nginx.load(cores).await?; // caches are warm
    let (mut without, mut with) = (Vec::new(), Vec::new());
    let mut agents = Vec::new();
    let (mut counted, mut logged) = ([0; 2], 0);
    let mut hook = String::new();
    for pair in 0..PAIRS {
        // In turns, so that a machine that gets slower or faster favours neither.
        for attached in [pair.is_multiple_of(2), !pair.is_multiple_of(2)] {
            if !attached {
                without.push(nginx.load(cores).await?);
                continue;
            }
            let agent = Agent::start(Path::new(env!("CARGO_BIN_EXE_scope-http-statistics-agent"))).await?;
            sleep(SETTLE).await;
            let lines_before = nginx.log_lines()?;
            let mut meter = Meter::start(agent.process.pid())?;
            with.push(nginx.load(cores).await?);
            meter.look()?;
            agents.push(meter.finish()?);
            sleep(SETTLE).await;
            let totals: Totals = agent.client.get_json("/totals").await?;
            logged += nginx.log_lines()? - lines_before;
            for process in totals
                .processes
                .iter()
                .filter(|it| nginx.workers.contains(&it.pid))
            {
                counted[0] += process.counts.requests;
                counted[1] += process.counts.responses.values().sum::<u64>();
            }
            hook = totals.hook;
        }
    }
    println!(
        "Hook `{hook}`, {cores} cores and workers, {} connections, {PAIRS} pairs of rounds of {SECONDS} s:\n",
        CONNECTIONS * cores
    );
    print_figures(&without, &with);
    let cpu = Spread::of(agents.iter().map(|usage| usage.cpu));
    let rss = Spread::of(agents.iter().map(|usage| usage.rss));
    println!(
        "The agent itself, during the rounds: CPU {} % of a core, RSS {} MB.\n\nIn the rounds with the agent nginx \
         logged {} requests; counted: {} requests, {} responses.\n",
        cpu.show(2),
        rss.show(1),
        count(logged),
        count(counted[0]),
        count(counted[1])
    );
    Ok(())
}

/// Its name, where it is, and its decimals.
type Figure = (&'static str, fn(&Round) -> f64, usize);

fn print_figures(without: &[Round], with: &[Round]) {
    let figures: [Figure; 4] = [
        ("requests/s", |round| round.rate, 0),
        ("CPU of nginx and wrk, µs a request", |round| round.cpu, 2),
        ("latency p50, ms", |round| round.p50, 3),
        ("latency p99, ms", |round| round.p99, 3),
    ];
    print_table(
        [
            "figure",
            "without: median (range)",
            "with",
            "ratio of pairs: median (range)",
        ],
        figures.map(|(name, value, decimals)| {
            let all = |rounds: &[Round]| Spread::of(rounds.iter().map(value)).show(decimals);
            let ratio = Spread::of(
                with.iter()
                    .zip(without)
                    .map(|(with, without)| value(with) / value(without)),
            );
            [name.to_owned(), all(without), all(with), ratio.show(3)]
        }),
    );
}

/// What wrk says of one round.
struct Round {
    /// Requests per second.
    rate: f64,
    /// Microseconds on a processor for each request, of server and load together: what limits the rate where they have all
    /// cores for themselves, and does not depend on others as much as the rate does where they have not.
    cpu: f64,
    /// Latencies in milliseconds.
    p50: f64,
    p99: f64,
}

/// A real nginx with a worker for each core.
struct Nginx {
    _process: Process,
    workers: Vec<u32>,
    port: u16,
    directory: TempDir,
}

impl Nginx {
    async fn start() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let path = directory.path();
        fs::write(path.join("file"), [b'x'; 1024])?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        fs::write(path.join("nginx.conf"), configuration(path, port))?;
        let mut command = Command::new("nginx");
        command.arg("-p").arg(path).arg("-c").arg(path.join("nginx.conf"));
        let log = path.join("nginx.log");
        let mut process = bench::start(&command, &log)?;
        let started = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            process
                .check(&log)
                .context("no nginx (.ci/setup installs nginx-light)")?;
            ensure!(started.elapsed() < PATIENCE, "nginx does not listen");
            sleep(Duration::from_millis(20)).await;
        }
        // They come one after the other.
        sleep(Duration::from_millis(500)).await;
        let pid = process.pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        let workers: Vec<u32> = children
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        ensure!(!workers.is_empty(), "nginx has no workers");
        Ok(Self {
            _process: process,
            workers,
            port,
            directory,
        })
    }

    /// One round of wrk.
    async fn load(&self, cores: usize) -> Result<Round> {
        let output = self.directory.path().join("wrk.log");
        let mut command = Command::new("wrk");
        command.args([
            format!("--threads={cores}"),
            format!("--connections={}", CONNECTIONS * cores),
            format!("--duration={SECONDS}s"),
            "--latency".to_owned(),
            format!("http://127.0.0.1:{}/file", self.port),
        ]);
        let meters: Vec<Meter> = self
            .workers
            .iter()
            .map(|worker| Meter::start(*worker))
            .collect::<Result<_>>()?;
        let children_before = children_time();
        let mut wrk = bench::start(&command, &output)?;
        let started = Instant::now();
        while wrk.check(&output).is_ok() {
            ensure!(started.elapsed() < PATIENCE, "wrk does not end");
            sleep(Duration::from_millis(20)).await;
        }
        let mut seconds = children_time() - children_before;
        for meter in meters {
            seconds += meter.finish()?.seconds;
        }
        round(&fs::read_to_string(output)?, seconds)
    }

    /// Lines in the access log: its length, for all are of the same.
    fn log_lines(&self) -> Result<u64> {
        Ok(fs::metadata(self.log())?.len() / 4)
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("access.log")
    }
}

/// Seconds that children of ours were on a processor which have ended and been waited for.
#[expect(clippy::cast_precision_loss, reason = "minutes in microseconds")]
fn children_time() -> f64 {
    // SAFETY: a structure of integers, for which 0 is a value; it outlives the call, which cannot fail.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage);
        usage
    };
    [usage.ru_utime, usage.ru_stime]
        .iter()
        .map(|time| time.tv_sec as f64 + time.tv_usec as f64 / 1e6)
        .sum()
}

/// Buffers its log, as busy servers do; the lines are "200\n".
fn configuration(prefix: &Path, port: u16) -> String {
    let prefix = prefix.display();
    format!(
        "daemon off; user root; worker_processes auto; pid {prefix}/pid; error_log {prefix}/error.log;
        events {{ worker_connections 4096; }}
        http {{
            log_format codes '$status';
            access_log {prefix}/access.log codes buffer=256k flush=1s;
            sendfile on; tcp_nopush on; keepalive_requests 1000000000;
            client_body_temp_path {prefix}/body; proxy_temp_path {prefix}/proxy; fastcgi_temp_path {prefix}/fastcgi;
            uwsgi_temp_path {prefix}/uwsgi; scgi_temp_path {prefix}/scgi;
            server {{ listen 127.0.0.1:{port}; root {prefix}; }}
        }}"
    )
}

/// Reads what wrk wrote, and takes the seconds on a processor.
fn round(text: &str, seconds: f64) -> Result<Round> {
    if !text.contains("Requests/sec:") {
        bail!("no wrk (.ci/setup installs it): {}", text.trim());
    }
    ensure!(
        !text.contains("Non-2xx") && !text.contains("Socket errors"),
        "not everything was answered: {text}"
    );
    let value = |name: &str| {
        let line = text
            .lines()
            .find_map(|line| line.trim().strip_prefix(name))
            .with_context(|| format!("wrk tells no {name}: {text}"));
        line.map(str::trim)
    };
    let requests: f64 = text
        .lines()
        .find_map(|line| line.trim().split_once(" requests in")?.0.parse().ok())
        .with_context(|| format!("wrk tells no number of requests: {text}"))?;
    Ok(Round {
        rate: value("Requests/sec:")?.parse()?,
        cpu: seconds * 1e6 / requests,
        p50: milliseconds(value("50%")?)?,
        p99: milliseconds(value("99%")?)?,
    })
}

/// As wrk writes them: `62.00us`, `1.20ms`, `1.00s`.
fn milliseconds(text: &str) -> Result<f64> {
    for (unit, factor) in [("us", 1e-3), ("ms", 1.0), ("s", 1e3)] {
        if let Some(number) = text.strip_suffix(unit) {
            return Ok(number.parse::<f64>()? * factor);
        }
    }
    bail!("no time: {text}")
}
