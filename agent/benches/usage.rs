//! What the agent itself takes: processor time and memory, idle, with many processes that serve, and at high rates.
//!
//! `make bench` runs it. Needs root, makes no connection beyond this machine, takes four minutes, and judges nothing. The
//! load is one process for each that serves, which talks to itself over a unix socket: request, response, in batches
//! where the rate is high. The baseline is the agent without load, and a process that only wakes once a second.
//!
//! Only the agent's own time is measured. What the programs in the kernel take is the time of those who call into it
//! (bench `cost`).
//!
//! `SOAK_SECONDS=3600` watches it for so long instead, with 1,000 processes that serve.
#![expect(clippy::print_stdout, reason = "a measurement is there to be seen")]

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use agent::totals::Totals;
use anyhow::{Context as _, Result, ensure};
use testkit::bench::{self, Agent, Meter, PATIENCE, Spread, Usage, count, figure, memory, print_table};
use tokio::time::sleep;

/// From a change of the load to the measurement: the agent has met all processes.
const SETTLE: Duration = Duration::from_secs(4);
/// The same where reports are large: they grow until the history is full.
const SETTLE_LARGE: Duration = Duration::from_mins(1);
/// Seconds of each phase.
const SECONDS: u32 = 10;
/// Processes that serve, and requests per second of each.
const LOADS: [(u32, u32); 6] = [(1, 1), (100, 1), (1_000, 1), (2_000, 1), (1, 100), (1, 50_000)];
/// The load of a soak.
const SOAK: (u32, u32) = (1_000, 1);

/// First argument of the process to compare with: this program again.
const SLEEPER: &str = "sleeper";
/// First argument of the process that makes the load.
const FARM: &str = "farm";
/// The sleeper ends on its own should this one be killed.
const SLEEPER_SECONDS: u32 = 300;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().collect();
    match &arguments[1..] {
        [word] if word == SLEEPER => {
            (0..SLEEPER_SECONDS).for_each(|_| thread::sleep(Duration::from_secs(1)));
            ExitCode::SUCCESS
        }
        [word, processes, rate] if word == FARM => bench::exit_code(farm(processes, rate)),
        _ => match env::var("SOAK_SECONDS") {
            Ok(seconds) => bench::run(soak(seconds)),
            Err(_) => bench::run(measure()),
        },
    }
}

async fn measure() -> Result<()> {
    // Something to report from the start.
    let first = Farm::start(1, 100)?;
    let agent = Agent::start(Path::new(env!("CARGO_BIN_EXE_scope-http-statistics-agent"))).await?;
    while !agent
        .client
        .get("/report")
        .await?
        .windows(b"\"date\"".len())
        .any(|it| it == b"\"date\"")
    {
        ensure!(agent.started.elapsed() < PATIENCE, "there is no first sample");
        sleep(Duration::from_millis(10)).await;
    }
    let first_sample = agent.started.elapsed();
    let hook = agent.client.get_json::<Totals>("/totals").await?.hook;
    println!(
        "Hook `{hook}`. From its start the agent was ready after {:.2} s and had its first sample after {:.2} s \
         (interval 1 s).\n",
        agent.ready_after.as_secs_f64(),
        first_sample.as_secs_f64()
    );
    drop(first);

    let mut sleeper = Command::new(env::current_exe()?);
    sleeper.arg(SLEEPER);
    let log = tempfile::NamedTempFile::new()?;
    let sleeper = bench::start(&sleeper, log.path())?;
    let mut rows = Vec::new();
    sleep(SETTLE).await;
    let mut meter = Meter::start(sleeper.pid())?;
    let idle = watch(&agent, SECONDS, false).await?;
    meter.look()?;
    rows.push(("a process that only sleeps".to_owned(), meter.finish()?, None));
    rows.push(("idle".to_owned(), idle, None));
    rows.push((
        "idle, polled".to_owned(),
        watch(&agent, SECONDS, true).await?,
        None,
    ));
    for (processes, rate) in LOADS {
        let mut farm = Farm::start(processes, rate)?;
        sleep(if processes < 1_000 { SETTLE } else { SETTLE_LARGE }).await;
        if processes >= 1_000 {
            let usage = watch(&agent, SECONDS, false).await?;
            rows.push((format!("{} active, not polled", count(processes)), usage, None));
        }
        let usage = watch(&agent, SECONDS, true).await?;
        let counted = farm.compare(&agent).await?;
        rows.push((
            format!(
                "{} active, {}/s in all",
                count(processes),
                count(u64::from(processes) * u64::from(rate))
            ),
            usage,
            Some(counted),
        ));
        drop(farm);
        sleep(Duration::from_secs(2)).await;
    }
    let baseline = rows[2].1.cpu;
    print_table(
        [
            "agent, polled once a second unless idle",
            "CPU, % of a core",
            "by clock ticks",
            "of idle, polled",
            "wake-ups/s",
            "RSS, MB",
            "requests counted of sent",
        ],
        rows.into_iter().map(|(phase, usage, counted)| {
            [
                phase,
                figure(usage.cpu, 3),
                figure(usage.ticks, 2),
                figure(usage.cpu / baseline, 2),
                figure(usage.switches, 1),
                figure(usage.rss, 1),
                counted.map_or_else(
                    || "-".to_owned(),
                    |(counted, sent)| format!("{} of {}", count(counted), count(sent)),
                ),
            ]
        }),
    );
    println!(
        "Peak RSS {:.1} MB. The programs' maps:\n",
        memory(agent.process.pid(), "VmHWM:")?
    );
    print_maps(agent.process.pid())
}

/// An hour, or however long: figures of each of sixty parts.
async fn soak(seconds: String) -> Result<()> {
    let seconds: u32 = seconds.parse().context("SOAK_SECONDS is no number of seconds")?;
    ensure!(
        (60..=7 * 24 * 3600).contains(&seconds),
        "SOAK_SECONDS is from 60 to a week"
    );
    let agent = Agent::start(Path::new(env!("CARGO_BIN_EXE_scope-http-statistics-agent"))).await?;
    let mut farm = Farm::start(SOAK.0, SOAK.1)?;
    sleep(SETTLE).await;
    println!(
        "{} processes that serve {} request/s each, polled once a second.\n",
        count(SOAK.0),
        SOAK.1
    );
    let part = (seconds / 60).max(10);
    let mut parts = Vec::new();
    let begin = Instant::now();
    while begin.elapsed().as_secs() < u64::from(seconds) {
        let usage = watch(&agent, part, true).await?;
        println!(
            "after {:>6.0} s: CPU {:.3} %, RSS {:.1} MB",
            begin.elapsed().as_secs_f64(),
            usage.cpu,
            usage.rss
        );
        parts.push(usage);
    }
    println!();
    let (first, last) = parts.split_at(parts.len() / 2);
    let row = |name: &str, parts: &[Usage]| {
        [
            name.to_owned(),
            Spread::of(parts.iter().map(|part| part.cpu)).show(3),
            Spread::of(parts.iter().map(|part| part.rss)).show(1),
        ]
    };
    if !first.is_empty() {
        print_table(
            [
                &format!("{seconds} s of soak"),
                "CPU, %: median (range)",
                "RSS, MB: median (range)",
            ],
            [row("first half", first), row("second half", last)],
        );
    }
    let (counted, sent) = farm.compare(&agent).await?;
    println!("{} of {} requests counted.", count(counted), count(sent));
    Ok(())
}

/// Looks at the agent every second, and fetches the report each time if it is polled: as often as Scope's probe does,
/// and with the same answer, for few pollers get it as it is.
async fn watch(agent: &Agent, seconds: u32, polled: bool) -> Result<Usage> {
    let mut meter = Meter::start(agent.process.pid())?;
    for _ in 0..seconds {
        sleep(Duration::from_secs(1)).await;
        if polled {
            agent.client.get("/report").await?;
        }
        meter.look()?;
    }
    meter.finish()
}

/// The maps that the process holds, with the memory that the kernel says they take.
fn print_maps(pid: u32) -> Result<()> {
    let mut seen = BTreeSet::new();
    let mut maps: Vec<(u64, [String; 4])> = Vec::new();
    for file in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        let Ok(info) = fs::read_to_string(file?.path()) else {
            continue;
        };
        let field = |name: &str| {
            info.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .and_then(|value| value.trim().parse::<u64>().ok())
        };
        let (Some(id), Some(memory), Some(entries)) =
            (field("map_id"), field("memlock"), field("max_entries"))
        else {
            continue;
        };
        if !seen.insert(id) {
            continue;
        }
        let kind = match field("map_type") {
            // enum bpf_map_type
            Some(1) => "hash".to_owned(),
            Some(2) => "array".to_owned(),
            Some(3) => "programs".to_owned(),
            Some(6) => "array per CPU".to_owned(),
            Some(9) => "LRU hash".to_owned(),
            Some(24) => "socket storage".to_owned(),
            other => format!("type {}", other.unwrap_or_default()),
        };
        let sizes = [field("key_size"), field("value_size")].map(Option::unwrap_or_default);
        let row = [
            kind,
            count(entries),
            count(sizes[0] + sizes[1]),
            count(memory / 1024),
        ];
        maps.push((memory, row));
    }
    let all: u64 = maps.iter().map(|(memory, _)| memory).sum();
    maps.sort_by(|one, other| other.cmp(one));
    let rest = maps.split_off(maps.len().min(4));
    let others = [
        format!("{} others", rest.len()),
        "-".to_owned(),
        "-".to_owned(),
        count(rest.iter().map(|(memory, _)| memory).sum::<u64>() / 1024),
    ];
    let total = [
        "all".to_owned(),
        "-".to_owned(),
        "-".to_owned(),
        count(all / 1024),
    ];
    print_table(
        ["map", "entries", "bytes of key and value", "KiB"],
        maps.into_iter().map(|(_, row)| row).chain([others, total]),
    );
    Ok(())
}

/// Processes that serve. They end with it.
struct Farm {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
    pids: BTreeSet<u32>,
}

impl Farm {
    fn start(processes: u32, rate: u32) -> Result<Self> {
        let mut child = Command::new(env::current_exe()?)
            .args([FARM, &processes.to_string(), &rate.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("failed to start the load")?;
        let mut output = BufReader::new(child.stdout.take().context("no output")?);
        let mut line = String::new();
        output.read_line(&mut line)?;
        let pids = line
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        let farm = Self { child, output, pids };
        ensure!(
            farm.pids.len() == processes as usize,
            "failed to start {processes} processes (ulimit -u?)"
        );
        Ok(farm)
    }

    /// Ends the load but not its processes; returns how many requests the agent counted, and how many there were.
    async fn compare(&mut self, agent: &Agent) -> Result<(u64, u64)> {
        let mut input = self.child.stdin.as_ref().context("no input")?;
        input.write_all(b"\n")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        let sent = line
            .trim()
            .parse()
            .with_context(|| format!("the load said {line:?}"))?;
        sleep(Duration::from_millis(1500)).await;
        let totals: Totals = agent.client.get_json("/totals").await?;
        let counted = totals
            .processes
            .iter()
            .filter(|process| self.pids.contains(&process.pid))
            .map(|process| process.counts.requests)
            .sum();
        Ok((counted, sent))
    }
}

impl Drop for Farm {
    fn drop(&mut self) {
        // It ends with its standard input, and its processes with it.
        drop(self.child.stdin.take());
        let _ended = self.child.wait();
    }
}

/// What the load's processes share.
struct Shared {
    is_over: AtomicBool,
    sent: AtomicU64,
}

/// Memory that forked processes share, zeroed, until the last of them ends.
fn share() -> Result<&'static Shared> {
    // SAFETY: a mapping of its own, never unmapped, large enough and aligned to a page; zeros are a valid value.
    unsafe {
        let memory = libc::mmap(
            ptr::null_mut(),
            size_of::<Shared>(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        ensure!(memory != libc::MAP_FAILED, "failed to map memory");
        Ok(&*memory.cast::<Shared>())
    }
}

/// The load. Prints the pids of its processes; after a line of input ends the load and prints how many requests there
/// were; ends with its input.
fn farm(processes: &str, rate: &str) -> Result<()> {
    let (processes, rate): (u32, u32) = (processes.parse()?, rate.parse()?);
    let shared = share()?;
    let mut pids = Vec::new();
    for number in 0..processes {
        // Not all at the same moment.
        let first = Duration::from_secs(1) * number / processes;
        // SAFETY: this process has one thread, so all is usable in the new one.
        match unsafe { libc::fork() } {
            0 => {
                // SAFETY: neither takes pointers.
                unsafe {
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                    let served = serve(shared, rate, first);
                    libc::_exit(i32::from(served.is_err()));
                }
            }
            pid @ 1.. => pids.push(pid),
            _ => break,
        }
    }
    let line: Vec<String> = pids.iter().map(ToString::to_string).collect();
    println!("{}", line.join(" "));
    let mut input = io::stdin().lock();
    if input.read_line(&mut String::new())? > 0 {
        shared.is_over.store(true, Ordering::Relaxed);
        // Each of them looks once a second at least.
        thread::sleep(Duration::from_millis(1500));
        println!("{}", shared.sent.load(Ordering::Relaxed));
        input.read_to_end(&mut Vec::new())?;
    }
    for pid in &pids {
        // SAFETY: kill takes no pointers, and the child is not reaped, so the pid is still its own.
        unsafe { libc::kill(*pid, libc::SIGKILL) };
    }
    for pid in pids {
        // SAFETY: the status may be null.
        unsafe { libc::waitpid(pid, ptr::null_mut(), 0) };
    }
    Ok(())
}

/// Messages that go in one call, at most: as many as a busy client pipelines.
const BATCH: usize = 16;
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

/// A process of the load, client and server. Stays when the load is over.
fn serve(shared: &Shared, rate: u32, first: Duration) -> io::Result<()> {
    let (mut client, mut server) = UnixStream::pair()?;
    let ticks = rate.min(100);
    let begin = Instant::now() + first;
    let (requests, responses) = (REQUEST.repeat(BATCH), RESPONSE.repeat(BATCH));
    let mut buffer = vec![0; requests.len().max(responses.len())];
    for tick in 0.. {
        let due = begin + Duration::from_secs(1) * tick / ticks;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if shared.is_over.load(Ordering::Relaxed) {
            break;
        }
        let mut left = (rate / ticks) as usize;
        while left > 0 {
            let batch = left.min(BATCH);
            let [request, response] = [batch * REQUEST.len(), batch * RESPONSE.len()];
            client.write_all(&requests[..request])?;
            server.read_exact(&mut buffer[..request])?;
            server.write_all(&responses[..response])?;
            client.read_exact(&mut buffer[..response])?;
            shared.sent.fetch_add(batch as u64, Ordering::Relaxed);
            left -= batch;
        }
    }
    loop {
        thread::sleep(Duration::from_mins(1));
    }
}
