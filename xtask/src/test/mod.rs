//! `cargo xtask test`: every check and test, on every tier, with one summary.
//!
//! Tiers are made of steps; a step declares what results it must have. While the tests are built, what needs nothing of that runs.
//! Then two lanes run beside each other: in the first, one at a time, what is tested on this kernel and mostly waits; in the
//! second, guests and what only computes, which leaves the processor to the first and is joined by its worker when that is
//! done. The agent's tests on this kernel run one at a time since each agent counts all of the machine.

mod guests;
mod lint;
mod progress;
mod results;
mod selection;
mod step;
mod tiers;

use std::collections::VecDeque;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde::Serialize;

use guests::Plan;
use progress::Progress;
use step::{Step, Verdict};
use tiers::{Depth, Tier, Tiers};

use crate::compile::{self, Built};
use crate::guest;
use crate::workspace::{Workspace, output};

/// Run all checks and tests
///
/// As root on Debian 12, after `.ci/setup test`. Results go to target/test-results: a directory for each tier, in it the
/// log of each step, and summary.json. Without --all it leaves out what is least likely to break, and says what.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Everything, instead of a choice by risk
    #[arg(long)]
    all: bool,
    /// Only these tiers
    #[arg(long = "tier", value_enum, value_name = "TIER")]
    tiers: Vec<Tier>,
    /// Only these kernels for guests, such as 6.1
    #[arg(long = "kernel", value_name = "SERIES")]
    kernels: Vec<String>,
    /// Steps or guests at once. One of them is tested on this kernel and mostly waits, as the cluster does
    #[arg(long, default_value_t = 3)]
    jobs: usize,
}

/// A piece of work, and what it makes.
struct Work<'a> {
    tier: Tier,
    name: String,
    /// How many results it is to have.
    expected: usize,
    task: Task<'a>,
}

enum Task<'a> {
    /// On this machine.
    Step(Box<dyn FnOnce() -> Result<Step> + Send + 'a>),
    /// In a guest.
    Guest(Plan),
}

/// The niceness of what only computes: it takes the processor time that the first lane leaves.
const BESIDE: u8 = 10;

/// Work with its lanes.
#[derive(Default)]
struct Lanes<'a> {
    /// One at a time.
    host: VecDeque<Work<'a>>,
    /// Several at a time.
    beside: VecDeque<Work<'a>>,
}

/// What came of a piece of work.
#[derive(Serialize)]
struct Done {
    tier: String,
    name: String,
    seconds: f64,
    passed: usize,
    skipped: usize,
    failures: Vec<Failure>,
}

#[derive(Serialize)]
struct Failure {
    name: String,
    why: String,
}

impl Arguments {
    /// Exit code 1 if anything failed.
    pub(crate) fn run(&self, workspace: &Workspace) -> Result<ExitCode> {
        let begin = Instant::now();
        let tiers = if self.tiers.is_empty() {
            Tier::ALL.to_vec()
        } else {
            self.tiers.clone()
        };
        ensure!(
            self.kernels.is_empty() || tiers.contains(&Tier::Guests),
            "--kernel names kernels for the tier `guests`, which is not among the tiers to run"
        );
        let needs_root = tiers.iter().find(|tier| tier.needs_root());
        if let (Some(tier), false) = (needs_root, is_root()?) {
            bail!(
                "the tier {tier} needs root, to load programs into the kernel and to make nodes; others run without: --tier lint"
            );
        }
        let depth = if self.all { Depth::Whole } else { Depth::Short };
        let results = workspace.target.join("test-results");
        let _ = fs::remove_dir_all(&results);
        fs::create_dir_all(&results).with_context(|| format!("failed to make {}", results.display()))?;

        let progress = Progress::new(begin);
        let turn = turn(workspace);
        let unbuilt = Built::default();
        let make = Tiers {
            workspace,
            built: &unbuilt,
            depth,
            kernels: &self.kernels,
            results: &results,
        };
        let early = early(&make, &tiers)?;
        progress.expect(early.len());
        let done = thread::scope(|scope| {
            let (results, progress) = (&results, &progress);
            let early = scope.spawn(move || {
                let done = early.into_iter();
                done.flat_map(|work| do_work(work, workspace, results, progress, BESIDE))
                    .collect::<Vec<Done>>()
            });
            let mut done = Vec::new();
            let built = build(workspace, &tiers, progress, &mut done)?;
            let make = Tiers {
                built: &built,
                ..make
            };
            let lanes = lanes(&make, &tiers, turn)?;
            done.extend(work(lanes, self.jobs.max(1), workspace, results, progress)?);
            done.extend(
                early
                    .join()
                    .map_err(|_panic| anyhow!("a worker panicked, see above"))?,
            );
            Ok::<_, anyhow::Error>(done)
        })?;
        let failed = summarize(
            &done,
            begin,
            &results,
            &left_out(depth, &tiers, &self.kernels, workspace, turn)?,
        )?;
        Ok(if failed {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    }
}

/// What needs nothing that is built here, and runs while that is built: at its end that leaves a processor idle.
fn early<'a>(make: &Tiers<'a>, tiers: &[Tier]) -> Result<Vec<Work<'a>>> {
    let mut early = Vec::new();
    if tiers.contains(&Tier::Lint) {
        let steps = lint::early(make.workspace)?;
        early.extend(steps.into_iter().map(|step| ready(Tier::Lint, step)));
    }
    if tiers.contains(&Tier::Fuzz) {
        early.push(ready(Tier::Fuzz, make.fuzz()?));
    }
    Ok(early)
}

/// Builds all tests, if one of these tiers needs them.
fn build(workspace: &Workspace, tiers: &[Tier], progress: &Progress, done: &mut Vec<Done>) -> Result<Built> {
    if !needs_build(tiers) {
        return Ok(Built::default());
    }
    progress.say("building all tests");
    let start = Instant::now();
    let built = compile::tests(workspace)?;
    let seconds = start.elapsed().as_secs_f64();
    progress.say(&format!(
        "built {} test binaries in {seconds:.0} s",
        built.tests.len()
    ));
    done.push(Done {
        tier: "build".to_owned(),
        name: "build".to_owned(),
        seconds,
        passed: 0,
        skipped: 0,
        failures: Vec::new(),
    });
    if tiers.contains(&Tier::Lint) {
        let verdict = lint::of_build(&built.warnings);
        done.push(report(Tier::Lint, verdict.step.clone(), verdict, progress));
    }
    Ok(built)
}

fn needs_build(tiers: &[Tier]) -> bool {
    tiers.iter().any(|tier| tier.needs_build())
}

fn ready<'a>(tier: Tier, step: Step) -> Work<'a> {
    Work {
        tier,
        name: step.name.clone(),
        expected: step.expected.len(),
        task: Task::Step(Box::new(|| Ok(step))),
    }
}

fn lanes<'a>(make: &'a Tiers<'a>, tiers: &[Tier], turn: usize) -> Result<Lanes<'a>> {
    let mut lanes = Lanes::default();
    let is_built = needs_build(tiers);
    for tier in Tier::ALL.into_iter().filter(|tier| tiers.contains(tier)) {
        match tier {
            Tier::Lint => lanes.beside.extend(
                lint::late(make.workspace, is_built, !is_built || make.depth == Depth::Whole)
                    .into_iter()
                    .map(|step| ready(tier, step)),
            ),
            Tier::Host => {
                let (alone, beside) = make.host()?;
                lanes.host.extend(alone.into_iter().map(|step| ready(tier, step)));
                lanes
                    .beside
                    .extend(beside.into_iter().map(|step| ready(tier, step)));
            }
            Tier::Fuzz => {}
            // All that it says is encrypted, or no HTTP/1: no agent counts it.
            Tier::Cluster => lanes.beside.push_back(ready(tier, make.cluster()?)),
            // It makes its images when it is its turn.
            Tier::E2e => lanes.host.push_back(Work {
                tier,
                name: "scenario".to_owned(),
                expected: 0,
                task: Task::Step(Box::new(|| make.e2e())),
            }),
            Tier::Guests => lanes
                .beside
                .extend(make.guests(turn)?.into_iter().map(|plan| Work {
                    tier,
                    name: plan.name.clone(),
                    expected: plan.steps.iter().map(|step| step.expected.len()).sum(),
                    task: Task::Guest(plan),
                })),
        }
    }
    Ok(lanes)
}

fn work(
    lanes: Lanes<'_>,
    jobs: usize,
    workspace: &Workspace,
    results: &Path,
    progress: &Progress,
) -> Result<Vec<Done>> {
    let done = Mutex::new(Vec::new());
    progress.expect(lanes.host.len() + lanes.beside.len());
    let (host, beside) = (Mutex::new(lanes.host), Mutex::new(lanes.beside));
    let worker = |queue: &Mutex<VecDeque<Work<'_>>>, niceness: u8| {
        loop {
            // In a statement of its own: the queue is free while there is work.
            let next = locked(queue).pop_front();
            let Some(next) = next else { return };
            let found = do_work(next, workspace, results, progress, niceness);
            locked(&done).extend(found);
        }
    };
    thread::scope(|scope| {
        let (worker, host, beside) = (&worker, &host, &beside);
        let workers: Vec<_> = (0..jobs)
            .map(|number| {
                scope.spawn(move || {
                    // When its own lane is done, the first helps out in the other.
                    if number == 0 {
                        worker(host, 0);
                    }
                    worker(beside, BESIDE);
                })
            })
            .collect();
        let heartbeat = scope.spawn(|| progress.beat());
        let ended: Vec<_> = workers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        progress.end();
        let _ = heartbeat.join();
        ensure!(
            ended.iter().all(std::result::Result::is_ok),
            "a worker panicked, see above"
        );
        Ok(())
    })?;
    Ok(done.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn do_work(
    work: Work<'_>,
    workspace: &Workspace,
    results: &Path,
    progress: &Progress,
    niceness: u8,
) -> Vec<Done> {
    let Work {
        tier,
        name,
        expected,
        task,
    } = work;
    let directory = results.join(tier.to_string());
    let begin = Instant::now();
    let watched = match &task {
        Task::Step(_) => directory.clone(),
        Task::Guest(plan) => directory.join(&plan.name),
    };
    let label = format!("{tier} {name}");
    progress.start(&label, watched, expected);
    let verdicts = match task {
        Task::Step(step) => step().and_then(|step| Ok(vec![step::run(&step, &directory, niceness)?])),
        Task::Guest(mut plan) => {
            plan.guest.niceness = niceness;
            plan.run(workspace, &directory, &|what| {
                progress.say(&format!("{label}: {what}"));
            })
        }
    };
    let verdicts = verdicts.unwrap_or_else(|error| {
        vec![Verdict {
            step: name.clone(),
            seconds: begin.elapsed().as_secs_f64(),
            failures: vec![(name.clone(), format!("{error:#}"))],
            ..Verdict::default()
        }]
    });
    progress.finish(&label);
    let seconds = begin.elapsed().as_secs_f64();
    let is_alone = verdicts.len() == 1 && verdicts[0].step == name;
    let mut done = Vec::new();
    for verdict in verdicts {
        let name = if is_alone {
            name.clone()
        } else {
            format!("{name} {}", verdict.step)
        };
        let seconds = if is_alone { seconds } else { verdict.seconds };
        done.push(report(tier, name, Verdict { seconds, ..verdict }, progress));
    }
    done
}

/// Says it too.
fn report(tier: Tier, name: String, verdict: Verdict, progress: &Progress) -> Done {
    let one = Done {
        tier: tier.to_string(),
        name,
        seconds: verdict.seconds,
        passed: verdict.passed,
        skipped: verdict.skipped,
        failures: verdict
            .failures
            .into_iter()
            .map(|(name, why)| Failure { name, why })
            .collect(),
    };
    progress.say(&format!(
        "{} {:7} {}: {} passed in {:.0} s",
        if one.failures.is_empty() {
            "ok    "
        } else {
            "FAILED"
        },
        one.tier,
        one.name,
        one.passed,
        one.seconds
    ));
    for failure in &one.failures {
        progress.say(&format!(
            "FAILED {} {}: {}: {}",
            one.tier, one.name, failure.name, failure.why
        ));
    }
    one
}

/// By the file system's eyes: the owner of what this process makes.
fn is_root() -> Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    Ok(fs::metadata("/proc/self").context("/proc is not mounted")?.uid() == 0)
}

/// Counted up with each commit; where the history is not there, of the commit's name.
fn turn(workspace: &Workspace) -> usize {
    let git = |arguments: &[&str]| output(workspace.command("git").args(arguments)).unwrap_or_default();
    if git(&["rev-parse", "--is-shallow-repository"]).trim() == "false" {
        git(&["rev-list", "--count", "HEAD"]).trim().parse().unwrap_or(0)
    } else {
        let name = git(&["rev-parse", "HEAD"]);
        usize::from_str_radix(name.get(..8).unwrap_or_default(), 16).unwrap_or(0)
    }
}

/// What this run does not do, in sentences.
fn left_out(
    depth: Depth,
    tiers: &[Tier],
    kernels: &[String],
    workspace: &Workspace,
    turn: usize,
) -> Result<Vec<String>> {
    let mut left: Vec<String> = Tier::ALL
        .into_iter()
        .filter(|tier| !tiers.contains(tier))
        .map(|tier| format!("the tier {tier}"))
        .collect();
    if !kernels.is_empty() {
        left.push(format!("guests with other kernels than {}", kernels.join(", ")));
    }
    if depth == Depth::Short {
        if tiers.contains(&Tier::Lint) && needs_build(tiers) {
            left.push("links in the documentation of the code (rustdoc)".to_owned());
        }
        if tiers.contains(&Tier::Guests) {
            let all = guest::kernels(workspace)?;
            let parts: Vec<String> = selection::cover(&all, &[], turn)
                .into_iter()
                .filter(|(_, it)| *it != selection::Selection::Whole)
                .map(|(kernel, _)| kernel)
                .collect();
            left.push(format!(
                "of the table: on {}, which take turns by commit with the one that ran all of it, each case with each \
                 hook and transport on one of them instead of on each",
                parts.join(" and ")
            ));
            left.push(
                "counts of verified instructions but for one hook on the newest kernel, in turn by commit"
                    .to_owned(),
            );
            left.push("tests of containers with cgroup v2 alone, but for one".to_owned());
            left.push("one of two kernels with preempt=full, in turn by commit".to_owned());
        }
        if tiers.contains(&Tier::Host) {
            left.push("140 of 200 pods that come and go on this kernel".to_owned());
            left.push("45 of 60 seconds in which all processors are busy".to_owned());
        }
        if tiers.contains(&Tier::Fuzz) {
            left.push("40 of 60 seconds of fuzzing".to_owned());
        }
        if tiers.contains(&Tier::Cluster) {
            left.push("1,800 of 2,000 nodes of a large cluster".to_owned());
        }
        if tiers.contains(&Tier::E2e) {
            left.push("images as they are shipped: those tested are of the tests' build".to_owned());
            left.push("of the scenario what e2e/checks.txt calls `whole`".to_owned());
        }
    }
    Ok(left)
}

/// Prints the table of tiers, what was left out, and last what failed; true if anything did.
fn summarize(done: &[Done], begin: Instant, results: &Path, left_out: &[String]) -> Result<bool> {
    #[derive(Serialize)]
    struct Summary<'a> {
        seconds: f64,
        passed: usize,
        failed: usize,
        left_out: &'a [String],
        steps: &'a [Done],
    }

    let mut lines = vec![format!(
        "\n{:8} {:>6} {:>7} {:>7} {:>8}",
        "tier", "s", "passed", "failed", "skipped"
    )];
    let mut tiers: Vec<&str> = Vec::new();
    for one in done {
        if !tiers.contains(&&*one.tier) {
            tiers.push(&one.tier);
        }
    }
    for tier in tiers {
        let steps: Vec<&Done> = done.iter().filter(|one| one.tier == tier).collect();
        let sum = |count: fn(&Done) -> usize| steps.iter().map(|one| count(one)).sum::<usize>();
        lines.push(format!(
            "{tier:8} {:6.0} {:7} {:7} {:8}",
            steps.iter().map(|one| one.seconds).sum::<f64>(),
            sum(|one| one.passed),
            sum(|one| one.failures.len()),
            sum(|one| one.skipped)
        ));
    }
    let seconds = begin.elapsed().as_secs_f64();
    lines.push(format!(
        "all of it took {seconds:.0} s; tiers run beside each other"
    ));
    if !left_out.is_empty() {
        lines.push("left out (`make test-all` runs everything):".to_owned());
        lines.extend(left_out.iter().map(|what| format!("  {what}")));
    }
    let passed: usize = done.iter().map(|one| one.passed).sum();
    let failed: usize = done.iter().map(|one| one.failures.len()).sum();
    for one in done {
        for failure in one.failures.iter().take(12) {
            let why: String = failure.why.chars().take(1500).collect();
            lines.push(format!(
                "FAILED {} {}: {}: {why}",
                one.tier, one.name, failure.name
            ));
        }
    }
    let path: PathBuf = results.join("summary.json");
    let summary = Summary {
        seconds,
        passed,
        failed,
        left_out,
        steps: done,
    };
    fs::write(
        &path,
        serde_json::to_string_pretty(&summary).context("a summary is JSON")?,
    )
    .with_context(|| format!("failed to write {}", path.display()))?;
    lines.push(format!("{passed} passed, {failed} failed"));
    let mut out = std::io::stdout().lock();
    for line in lines {
        writeln!(out, "{line}").context("failed to print the summary")?;
    }
    Ok(failed > 0 || passed == 0)
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
