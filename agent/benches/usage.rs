//! What an idle agent costs: processor time and memory, beside a process that only wakes once a second.
//!
//! `make bench` runs it. Needs root, stays on the loopback interface, takes a minute, and judges nothing: figures of a
//! busy machine are printed, not failed on. Three phases, each with the ones before still warm in memory: nobody asks
//! and nothing happens; a poller fetches the report every second, as Scope does; and a light load besides.
//!
//! Only the agent's own time is measured. What the programs in the kernel take is the time of those who call into it.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a measurement is there to be seen"
)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use agent::client::Client;
use agent::config::PluginDir;
use agent::totals::Totals;
use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

/// From the agent's first answer to the first measurement.
const SETTLE: Duration = Duration::from_secs(3);
/// Seconds of the phases without load.
const QUIET_SECONDS: u32 = 15;
/// Seconds of the phase with load.
const LOAD_SECONDS: u32 = 10;
/// Requests per second of the load.
const RATE: u32 = 200;
/// Start and stop take no longer.
const PATIENCE: Duration = Duration::from_mins(1);

/// The most an idle agent may take of one core, in percent.
const CPU_LIMIT: f64 = 0.5;
/// The most memory an idle agent may hold, in megabytes (10^6 bytes).
const RSS_LIMIT: f64 = 20.0;

/// First argument of the process to compare with: this program again.
const SLEEPER: &str = "sleeper";
/// It ends on its own should this one be killed.
const SLEEPER_SECONDS: u32 = 300;

fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|word| word == SLEEPER) {
        (0..SLEEPER_SECONDS).for_each(|_| thread::sleep(Duration::from_secs(1)));
        return ExitCode::SUCCESS;
    }
    let outcome = Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start")
        .and_then(|runtime| {
            // When it is cut short, what it holds is dropped, and with it everything it started.
            runtime.block_on(async {
                tokio::select! {
                    outcome = measure() => outcome,
                    stopped = stop_signal() => stopped,
                }
            })
        });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn stop_signal() -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    bail!("stopped before the end")
}

async fn measure() -> Result<()> {
    let (agent, ready_after) = Agent::start().await?;
    let sleeper = Command::new(std::env::current_exe()?)
        .arg(SLEEPER)
        .stdin(Stdio::null())
        .spawn();
    let sleeper = Process(sleeper.context("failed to start the process to compare with")?);
    sleep(SETTLE).await;

    let processes = [agent.process.pid(), sleeper.pid()];
    let idle = watch(processes, QUIET_SECONDS, None).await?;
    let polled = watch(processes, QUIET_SECONDS, Some(&agent.client)).await?;
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let load = Load::start(server)?;
    let loaded = watch(processes, LOAD_SECONDS, Some(&agent.client)).await?;
    let sent = load.finish()?;
    let totals: Totals = agent.client.get_json("/totals").await?;
    let counted: u64 = totals
        .processes
        .iter()
        .filter(|process| process.pid == std::process::id())
        .map(|process| process.counts.requests)
        .sum();

    println!(
        "hook {}, ready after {:.2} s, counted {counted} of the load's {sent} requests\n",
        totals.hook,
        ready_after.as_secs_f64()
    );
    print_row(["FIGURE", "AGENT", "LIMIT", "OF LIMIT", "SLEEPER", "OF SLEEPER"].map(str::to_owned));
    for (phase, [agent, sleeper], limited) in [
        ("idle", &idle, true),
        ("polled", &polled, true),
        ("polled, under load", &loaded, false),
    ] {
        let limit = |limit| limited.then_some(limit);
        let row = |figure: &str, unit, value: fn(&Usage) -> f64, limit| {
            print_figure(
                &format!("{phase}: {figure}"),
                unit,
                value(agent),
                value(sleeper),
                limit,
            );
        };
        row("CPU", "%", |usage| usage.cpu, limit(CPU_LIMIT));
        row("CPU by clock ticks", "%", |usage| usage.ticks, limit(CPU_LIMIT));
        row("wake-ups", "/s", |usage| usage.switches, None);
        row("RSS", "MB", |usage| usage.rss, limit(RSS_LIMIT));
    }
    let [agent, sleeper] = loaded.map(|usage| usage.peak_rss);
    print_figure("since the start: peak RSS", "MB", agent, sleeper, None);
    Ok(())
}

fn print_figure(figure: &str, unit: &str, value: f64, baseline: f64, limit: Option<f64>) {
    let ratio = |other: f64| {
        if other > 0.0 {
            format!("{:.2}", value / other)
        } else {
            "-".to_owned()
        }
    };
    print_row([
        figure.to_owned(),
        format!("{value:.3} {unit}"),
        limit.map_or_else(|| "-".to_owned(), |limit| format!("{limit} {unit}")),
        limit.map_or_else(|| "-".to_owned(), ratio),
        format!("{baseline:.3} {unit}"),
        ratio(baseline),
    ]);
}

fn print_row([figure, cells @ ..]: [String; 6]) {
    let cells: Vec<String> = cells.iter().map(|cell| format!("{cell:>11}")).collect();
    println!("{figure:<40}{}", cells.join(" "));
}

/// What a process took in one phase.
struct Usage {
    /// Percent of one core, from the scheduler's nanoseconds.
    cpu: f64,
    /// The same from the clock ticks (10 ms) of `utime` and `stime`, which count threads that ended too.
    ticks: f64,
    /// How often per second one of its threads was put on a core.
    switches: f64,
    /// The most of each second's looks, in megabytes.
    rss: f64,
    /// The most since it started, in megabytes.
    peak_rss: f64,
}

/// Looks at the processes every second, and with a `client` fetches the report each time.
async fn watch(processes: [u32; 2], seconds: u32, client: Option<&Client>) -> Result<[Usage; 2]> {
    let [agent, sleeper] = processes.map(Meter::start);
    let mut meters = [agent?, sleeper?];
    for _ in 0..seconds {
        sleep(Duration::from_secs(1)).await;
        if let Some(client) = client {
            client.get("/report").await?;
        }
        for meter in &mut meters {
            meter.look()?;
        }
    }
    let [agent, sleeper] = meters.map(Meter::finish);
    Ok([agent?, sleeper?])
}

/// Nanoseconds on a core, and how often it was put there, of one thread.
type Schedule = (u64, u64);

/// Watches one process.
///
/// The scheduler's figures are exact, but per thread, and gone with it: looks are taken often, and added up.
struct Meter {
    pid: u32,
    started: Instant,
    first_ticks: u64,
    threads: BTreeMap<u32, Schedule>,
    run: Schedule,
    rss: f64,
}

impl Meter {
    fn start(pid: u32) -> Result<Self> {
        Ok(Self {
            pid,
            started: Instant::now(),
            first_ticks: clock_ticks(pid)?,
            threads: schedules(pid)?,
            run: (0, 0),
            rss: 0.0,
        })
    }

    fn look(&mut self) -> Result<()> {
        let threads = schedules(self.pid)?;
        for (thread, (time, count)) in &threads {
            let (time_before, count_before) = self.threads.get(thread).copied().unwrap_or_default();
            // Less than before: another thread with a used id.
            self.run.0 += time.checked_sub(time_before).unwrap_or(*time);
            self.run.1 += count.checked_sub(count_before).unwrap_or(*count);
        }
        self.threads = threads;
        self.rss = self.rss.max(memory(self.pid, "VmRSS:")?);
        Ok(())
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "a minute of nanoseconds and counts have less than 53 bits"
    )]
    fn finish(self) -> Result<Usage> {
        let ticks = clock_ticks(self.pid)? - self.first_ticks;
        let seconds = self.started.elapsed().as_secs_f64();
        Ok(Usage {
            cpu: self.run.0 as f64 / 1e9 / seconds * 100.0,
            // 100 ticks a second, in percent.
            ticks: ticks as f64 / seconds,
            switches: self.run.1 as f64 / seconds,
            rss: self.rss,
            peak_rss: memory(self.pid, "VmHWM:")?,
        })
    }
}

/// `utime` and `stime` together: fields 14 and 15 of `proc_pid_stat(5)`.
fn clock_ticks(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let line = fs::read_to_string(&path).with_context(|| format!("failed to read {path}"))?;
    let (_, fields) = line.rsplit_once(')').context("no command in its stat")?;
    let times = fields.split_whitespace().skip(14 - 3).take(2);
    times.map(|ticks| Ok(ticks.parse::<u64>()?)).sum()
}

/// `/proc/<pid>/task/*/schedstat` by thread.
fn schedules(pid: u32) -> Result<BTreeMap<u32, Schedule>> {
    let mut threads = BTreeMap::new();
    let tasks = format!("/proc/{pid}/task");
    for task in fs::read_dir(&tasks).with_context(|| format!("failed to read {tasks}"))? {
        let task = task?;
        // Threads end between the two.
        let Ok(line) = fs::read_to_string(task.path().join("schedstat")) else {
            continue;
        };
        let mut numbers = line.split_whitespace().map(str::parse);
        let (Some(time), Some(_waited), Some(count)) = (numbers.next(), numbers.next(), numbers.next())
        else {
            bail!("this kernel has no schedstat (CONFIG_SCHED_INFO)");
        };
        threads.insert(task.file_name().to_string_lossy().parse()?, (time?, count?));
    }
    Ok(threads)
}

/// A line of `/proc/<pid>/status`, which are in KiB, in megabytes.
fn memory(pid: u32, name: &str) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("failed to read {path}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kibibytes = line.and_then(|line| line.split_whitespace().next());
    let kibibytes: f64 = kibibytes
        .with_context(|| format!("no {name} in {path}"))?
        .parse()?;
    Ok(kibibytes * 1024.0 / 1e6)
}

/// A child that is stopped politely when dropped.
struct Process(Child);

impl Process {
    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let pid = self.pid().to_string();
        let asked = Command::new("kill")
            .args(["-TERM", &pid])
            .stderr(Stdio::null())
            .status();
        let deadline = Instant::now() + PATIENCE;
        while asked.is_ok() && Instant::now() < deadline {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        let _killed = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// The agent that was built together with this program.
struct Agent {
    // Dropped in this order.
    process: Process,
    client: Client,
    _dir: TempDir,
}

impl Agent {
    /// Starts it; returns how long it took until it could count, too.
    async fn start() -> Result<(Self, Duration)> {
        let dir = tempfile::tempdir()?;
        let log = dir.path().join("agent.log");
        let plugins = dir.path().join("plugins");
        let plugin_dir: PluginDir = plugins.to_string_lossy().parse()?;
        let started = Instant::now();
        let child = Command::new(env!("CARGO_BIN_EXE_scope-http-statistics-agent"))
            .args(["run", "--plugin-dir"])
            .arg(&plugins)
            .stdin(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn();
        let mut process = Process(child.context("failed to start the agent")?);
        let client = Client::new(plugin_dir.socket());
        while let Err(error) = client.get("/readyz").await {
            if let Some(status) = process.0.try_wait()? {
                bail!("the agent ended with {status}: {}", read(&log));
            }
            ensure!(
                started.elapsed() < PATIENCE,
                "the agent does not get ready: {error}"
            );
            sleep(Duration::from_millis(10)).await;
        }
        let ready_after = started.elapsed();
        let agent = Self {
            process,
            client,
            _dir: dir,
        };
        Ok((agent, ready_after))
    }
}

fn read(log: &Path) -> String {
    fs::read_to_string(log).unwrap_or_default().trim().to_owned()
}

/// A tiny server and its only client, on a keep-alive connection, for [`LOAD_SECONDS`].
struct Load {
    server: thread::JoinHandle<io::Result<()>>,
    client: thread::JoinHandle<io::Result<u64>>,
}

impl Load {
    fn start(listener: TcpListener) -> io::Result<Self> {
        let address = listener.local_addr()?;
        Ok(Self {
            server: thread::spawn(move || serve(&listener)),
            client: thread::spawn(move || request(address)),
        })
    }

    /// Returns how many requests were answered.
    fn finish(self) -> Result<u64> {
        let ended = "a part of the load panicked";
        let sent = self.client.join().ok().context(ended)??;
        self.server.join().ok().context(ended)??;
        Ok(sent)
    }
}

/// Answers one connection until it is closed.
fn serve(listener: &TcpListener) -> io::Result<()> {
    let (stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut stream = BufReader::new(stream);
    while read_head(&mut stream)? {
        stream.get_mut().write_all(b"HTTP/1.1 204 No Content\r\n\r\n")?;
    }
    Ok(())
}

/// Sends [`RATE`] requests a second; returns how many were answered.
fn request(address: SocketAddr) -> io::Result<u64> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut stream = BufReader::new(stream);
    let started = Instant::now();
    let mut answered = 0;
    for number in 0..LOAD_SECONDS * RATE {
        let due = Duration::from_secs(1) * number / RATE;
        thread::sleep(due.saturating_sub(started.elapsed()));
        stream
            .get_mut()
            .write_all(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n")?;
        if !read_head(&mut stream)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        answered += 1;
    }
    Ok(answered)
}

/// Reads until an empty line; false if nothing came before the end.
fn read_head(stream: &mut BufReader<TcpStream>) -> io::Result<bool> {
    let mut line = String::new();
    while stream.read_line(&mut line)? > 0 {
        if line == "\r\n" {
            return Ok(true);
        }
        line.clear();
    }
    Ok(false)
}
