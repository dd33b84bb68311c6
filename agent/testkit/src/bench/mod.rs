//! What the benches share: how figures are summed up and printed, and a real agent with what it takes of the machine.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "benches print what they measured"
)]

mod process;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::{self, File};
use std::future::Future;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use agent::client::Client;
use agent::config::PluginDir;
use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;
use tokio::runtime::Builder;
use tokio::time::sleep;

pub use self::process::{PATIENCE, Process, stop_signal};

/// Runs a measurement. When it is cut short, what it holds is dropped, and with it everything it started.
pub fn run(measurement: impl Future<Output = Result<()>>) -> ExitCode {
    let outcome = Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start")
        .and_then(|runtime| {
            runtime.block_on(async {
                tokio::select! {
                    outcome = measurement => outcome,
                    stopped = stop_signal() => stopped,
                }
            })
        });
    exit_code(outcome)
}

/// Says what went wrong.
pub fn exit_code(outcome: Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Measurements of the same thing: the one in the middle, and how far apart they are.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    pub low: f64,
    pub median: f64,
    pub high: f64,
}

impl Spread {
    /// # Panics
    /// Without measurements.
    pub fn of(measurements: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = measurements.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        Self {
            low: sorted[0],
            median: sorted[sorted.len() / 2],
            high: sorted[sorted.len() - 1],
        }
    }

    /// `median (low to high)`, with so many decimals.
    pub fn show(self, decimals: usize) -> String {
        let Self { low, median, high } = self;
        format!("{median:.decimals$} ({low:.decimals$} to {high:.decimals$})")
    }
}

/// A table in Markdown, in columns. The first column is text, the others are figures.
pub fn print_table<const COLUMNS: usize>(
    headings: [&str; COLUMNS],
    rows: impl IntoIterator<Item = [String; COLUMNS]>,
) {
    let headings = headings.map(str::to_owned);
    let rows: Vec<_> = rows.into_iter().collect();
    let widths: [usize; COLUMNS] = std::array::from_fn(|column| {
        rows.iter()
            .chain([&headings])
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
            .max(3)
    });
    let line = |row: &[String; COLUMNS]| {
        let cells = std::array::from_fn::<_, COLUMNS, _>(|column| {
            let (cell, width) = (&row[column], widths[column]);
            if column == 0 {
                format!("{cell:<width$}")
            } else {
                format!("{cell:>width$}")
            }
        });
        println!("| {} |", cells.join(" | "));
    };
    line(&headings);
    line(&std::array::from_fn(|column| {
        let dashes = "-".repeat(widths[column] - 1);
        if column == 0 { dashes + "-" } else { dashes + ":" }
    }));
    rows.iter().for_each(line);
    println!();
}

/// A cell: a figure with so many decimals.
pub fn figure(value: f64, decimals: usize) -> String {
    format!("{value:.decimals$}")
}

/// A cell: a count, in groups of three digits.
pub fn count(value: impl Display) -> String {
    let digits = value.to_string();
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// What a process took of the machine for a while.
pub struct Usage {
    /// On a core, from the scheduler's nanoseconds.
    pub seconds: f64,
    /// The same in percent of one core, for as long as it was watched.
    pub cpu: f64,
    /// The same from the clock ticks (10 ms) of `utime` and `stime`, which count threads that ended too.
    pub ticks: f64,
    /// How often per second one of its threads was put on a core.
    pub switches: f64,
    /// The most of all looks, in megabytes (10^6 bytes).
    pub rss: f64,
}

/// Nanoseconds on a core, and how often it was put there, of one thread.
type Schedule = (u64, u64);

/// Watches one process.
///
/// The scheduler's figures are exact, but per thread, and gone with it: looks are taken often, and added up.
pub struct Meter {
    pid: u32,
    started: Instant,
    first_ticks: u64,
    threads: BTreeMap<u32, Schedule>,
    run: Schedule,
    rss: f64,
}

impl Meter {
    pub fn start(pid: u32) -> Result<Self> {
        Ok(Self {
            pid,
            started: Instant::now(),
            first_ticks: clock_ticks(pid)?,
            threads: schedules(pid)?,
            run: (0, 0),
            rss: 0.0,
        })
    }

    pub fn look(&mut self) -> Result<()> {
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
        reason = "an hour of nanoseconds and counts have less than 53 bits"
    )]
    pub fn finish(mut self) -> Result<Usage> {
        self.look()?;
        let ticks = clock_ticks(self.pid)? - self.first_ticks;
        let elapsed = self.started.elapsed().as_secs_f64();
        let seconds = self.run.0 as f64 / 1e9;
        Ok(Usage {
            seconds,
            cpu: seconds / elapsed * 100.0,
            // 100 ticks a second, in percent.
            ticks: ticks as f64 / elapsed,
            switches: self.run.1 as f64 / elapsed,
            rss: self.rss,
        })
    }
}

/// `utime` and `stime` together: fields 14 and 15 of `proc_pid_stat(5)`, in ticks of 10 ms.
pub fn clock_ticks(pid: u32) -> Result<u64> {
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

/// A line of `/proc/<pid>/status`, which are in KiB, in megabytes (10^6 bytes).
pub fn memory(pid: u32, name: &str) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("failed to read {path}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kibibytes = line.and_then(|line| line.split_whitespace().next());
    let kibibytes: f64 = kibibytes
        .with_context(|| format!("no {name} in {path}"))?
        .parse()?;
    Ok(kibibytes * 1024.0 / 1e6)
}

/// Starts a program that does not outlive us; setpriv(1) sees to that.
pub fn start(command: &Command, log: &Path) -> Result<Process> {
    let program = command.get_program();
    let child = Command::new("setpriv")
        .args(["--pdeathsig", "TERM"])
        .arg(program)
        .args(command.get_args())
        .stdin(Stdio::null())
        .stdout(File::create(log)?)
        .stderr(File::options().append(true).open(log)?)
        .spawn();
    Ok(Process(child.with_context(|| {
        format!("failed to start {} with setpriv", program.display())
    })?))
}

/// An agent with the hook that it chooses and a socket of its own.
pub struct Agent {
    // Dropped in this order.
    pub process: Process,
    pub client: Client,
    /// From its start until it could count and answered.
    pub ready_after: Duration,
    pub started: Instant,
    _directory: TempDir,
}

impl Agent {
    /// `program` is its path.
    pub async fn start(program: &Path) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let log = directory.path().join("agent.log");
        let plugins = directory.path().join("plugins");
        let plugin_dir: PluginDir = plugins.to_string_lossy().parse()?;
        let started = Instant::now();
        let mut command = Command::new(program);
        command.args(["run", "--plugin-dir"]).arg(&plugins);
        let mut process = start(&command, &log)?;
        let client = Client::new(plugin_dir.socket());
        while let Err(error) = client.get("/readyz").await {
            process.check(&log).context("no agent")?;
            ensure!(
                started.elapsed() < PATIENCE,
                "the agent does not get ready: {error}"
            );
            sleep(Duration::from_millis(10)).await;
        }
        Ok(Self {
            process,
            client,
            ready_after: started.elapsed(),
            started,
            _directory: directory,
        })
    }
}
