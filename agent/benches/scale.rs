//! A busy node: 2,000 processes in 200 pods, all with traffic, polled by 50 clients at once (`make bench`).
//!
//! The agent is a process of its own without its kernel half: what is measured is reading `/proc`, keeping the books, and
//! building and serving reports. Limits are printed beside what was found; a machine that does other work at the time
//! takes longer.
#![expect(clippy::print_stdout, reason = "a measurement is there to be seen")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use agent::report::MAX_REPORT;
use agent::report::model::Report;
use agent::stats::Event;
use anyhow::{Context as _, Result, ensure};
use testkit::bench::{clock_ticks, count, figure, memory, print_table};
use testkit::world::{Agent, World, settings};

const PODS: u32 = 200;
const PROCESSES: u32 = 2000;
const CLIENTS: usize = 50;
/// Until the window is full, and then some.
const WARM_UP: Duration = Duration::from_secs(65);
const SECONDS: u32 = 20;
/// First argument of the process that serves.
const SERVER: &str = "serve";

/// 99 % of polls are answered within it.
const LATENCY_LIMIT: f64 = 20.0;
/// Megabytes (10^6 bytes).
const RSS_LIMIT: f64 = 40.0;
/// Of the interval, in percent.
const LATENESS_LIMIT: f64 = 5.0;

fn main() -> Result<()> {
    if std::env::args().nth(1).is_some_and(|word| word == SERVER) {
        return serve();
    }
    let server = Server::start()?;
    thread::sleep(WARM_UP);
    let mut rows = Vec::new();
    for (phase, clients, gzip) in [
        ("one poller, plain", 1, false),
        ("one poller that takes gzip", 1, true),
        ("50 at once, plain", CLIENTS, false),
        ("50 at once that take gzip", CLIENTS, true),
    ] {
        let before = clock_ticks(server.child.id())?;
        let begin = Instant::now();
        let (mut latencies, late) = measure(&server.socket, clients, gzip)?;
        // 100 ticks a second, in percent.
        let cpu = f64::from(u32::try_from(clock_ticks(server.child.id())? - before)?)
            / begin.elapsed().as_secs_f64();
        latencies.sort_by(f64::total_cmp);
        let rank = |percent: usize| latencies[(latencies.len() - 1) * percent / 100];
        rows.push([
            phase.to_owned(),
            count(latencies.len()),
            figure(rank(50), 1),
            figure(rank(99), 1),
            figure(late, 2),
            figure(cpu, 1),
            figure(memory(server.child.id(), "VmRSS:")?, 1),
        ]);
    }
    let limits = [
        "limit".to_owned(),
        "-".to_owned(),
        "-".to_owned(),
        figure(LATENCY_LIMIT, 0),
        figure(LATENESS_LIMIT, 0),
        "-".to_owned(),
        figure(RSS_LIMIT, 0),
    ];
    rows.push(limits);
    print_table(
        [
            "pollers, each once a second",
            "polls",
            "p50, ms",
            "p99, ms",
            "samples late at most, %",
            "CPU, % of a core",
            "RSS, MB",
        ],
        rows,
    );
    let (mut plain, mut packed) = (Vec::new(), Vec::new());
    let body = poll(&mut connect(&server.socket)?, false, &mut plain)?;
    let packed = poll(&mut connect(&server.socket)?, true, &mut packed)?.len();
    let report: Report = serde_json::from_slice(body)?;
    let nodes = [&report.process, &report.container, &report.pod].map(|topology| topology.nodes.len());
    ensure!(nodes == [2000, 200, 200], "not everything is reported: {nodes:?}");
    let node = report.process.nodes.values().next().context("no process")?;
    let metric = node.metrics.values().next().context("no metric")?;
    println!(
        "{PROCESSES} processes in {PODS} pods, all with traffic: {} samples each, {} bytes plain (limit {}), {} gzip. \
         Peak RSS {:.1} MB.\n",
        metric.samples.len(),
        count(body.len()),
        count(MAX_REPORT),
        count(packed),
        memory(server.child.id(), "VmHWM:")?
    );
    Ok(())
}

/// When the newest sample in a body was measured.
fn newest(body: &[u8]) -> Result<jiff::Timestamp> {
    let text = str::from_utf8(body)?;
    let (_, rest) = text.rsplit_once("\"date\":\"").context("no sample")?;
    let (date, _) = rest.split_once('"').context("no date")?;
    Ok(date.parse()?)
}

/// By how many percent of a second the times between successive samples differ from the interval at most.
fn lateness(mut dates: Vec<jiff::Timestamp>) -> f64 {
    dates.dedup();
    dates
        .windows(2)
        .map(|pair| {
            let seconds = pair[1].duration_since(pair[0]).as_secs_f64();
            // A poll may have come too late for one, and seen the next.
            (seconds - seconds.round().max(1.0)).abs() * 100.0
        })
        .fold(0.0, f64::max)
}

/// Polls of all clients, every second, all at the same moment. Milliseconds each, and how late samples were.
fn measure(socket: &Path, clients: usize, gzip: bool) -> Result<(Vec<f64>, f64)> {
    let begin = Instant::now() + Duration::from_secs(1);
    let threads: Vec<_> = (0..clients)
        .map(|_| {
            let socket = socket.to_owned();
            thread::spawn(move || -> Result<Vec<f64>> {
                let (mut stream, mut body) = (connect(&socket)?, Vec::new());
                // The first makes room for the body.
                poll(&mut stream, gzip, &mut body)?;
                (0..SECONDS)
                    .map(|second| {
                        let due = begin + Duration::from_secs(1) * second;
                        thread::sleep(due.saturating_duration_since(Instant::now()));
                        let asked = Instant::now();
                        poll(&mut stream, gzip, &mut body)?;
                        Ok(asked.elapsed().as_secs_f64() * 1e3)
                    })
                    .collect()
            })
        })
        .collect();
    // One more, between the others, that looks at dates.
    let (mut stream, mut body) = (connect(socket)?, Vec::new());
    let dates: Vec<jiff::Timestamp> = (0..SECONDS)
        .map(|second| {
            let due = begin + Duration::from_millis(500) + Duration::from_secs(1) * second;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            newest(poll(&mut stream, false, &mut body)?)
        })
        .collect::<Result<_>>()?;
    let mut all = Vec::new();
    for thread in threads {
        all.extend(thread.join().ok().context("a client panicked")??);
    }
    Ok((all, lateness(dates)))
}

fn connect(socket: &Path) -> Result<BufReader<UnixStream>> {
    Ok(BufReader::with_capacity(1 << 20, UnixStream::connect(socket)?))
}

/// One request on a kept connection; the body, in memory that is used again and again: a client's page faults are not
/// the agent's.
fn poll<'a>(stream: &mut BufReader<UnixStream>, gzip: bool, body: &'a mut Vec<u8>) -> Result<&'a [u8]> {
    let encoding = if gzip { "Accept-Encoding: gzip\r\n" } else { "" };
    write!(
        stream.get_mut(),
        "GET /report?api_version=1&probe_id=1 HTTP/1.1\r\nHost: plugin\r\n{encoding}\r\n"
    )?;
    let mut length = None;
    let mut line = String::new();
    while stream.read_line(&mut line)? > 2 {
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = Some(value.trim().parse()?);
        }
        line.clear();
    }
    body.resize(length.context("an answer without length")?, 0);
    stream.read_exact(body)?;
    Ok(body)
}

/// The agent, as a process. Killed when dropped.
struct Server {
    child: Child,
    socket: PathBuf,
}

impl Server {
    fn start() -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(SERVER)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut socket = String::new();
        BufReader::new(child.stdout.take().context("no output")?).read_line(&mut socket)?;
        let socket = PathBuf::from(socket.trim());
        Ok(Self { child, socket })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It ends with its standard input, and removes what it made.
        drop(self.child.stdin.take());
        let _ended = self.child.wait();
    }
}

/// Serves until standard input ends. Prints the socket.
fn serve() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let world = World::new();
        let owners: Vec<_> = (0..PROCESSES)
            .map(|number| {
                let pod = number % PODS;
                let cgroup = format!("/kubepods/pod00000000-0000-0000-0000-{pod:012x}/{pod:064x}");
                // No process of this machine has such an id, so none is the agent itself.
                world.start(5_000_000 + number, "server", &cgroup)
            })
            .collect();
        world.directory.send_replace(directory()?.into());
        let agent = Agent::start(&world, &settings(&[("interval", "1s"), ("history", "60s")])).await;
        let counters = world.counters.clone();
        thread::spawn(move || {
            for round in 0_u64.. {
                for (number, owner) in (0_u64..).zip(&owners) {
                    let count = 1 + (number * 7 + round * 13) % 50;
                    counters.hit(*owner, Event::Request, count);
                    counters.hit(*owner, Event::Response(200), count);
                }
                thread::sleep(Duration::from_millis(500));
            }
        });
        println!("{}", agent.socket().display());
        tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
        agent.stop().await;
        Ok(())
    })
}

fn directory() -> Result<agent::workload::Directory> {
    use agent::workload::{Container, Directory, Pod, PodUid};

    let mut directory = Directory::default();
    for pod in 0..PODS {
        let uid: PodUid = format!("00000000-0000-0000-0000-{pod:012x}").parse()?;
        let container = Container {
            name: "server".to_owned(),
            pod: Some(uid.clone()),
        };
        directory
            .containers
            .insert(format!("{pod:064x}").parse()?, container);
        let known = Pod {
            name: format!("shop-frontend-7d9c6b5f4-{pod:05}"),
            namespace: "production".to_owned(),
            controllers: Vec::new(),
        };
        directory.pods.insert(uid, known);
    }
    Ok(directory)
}
