//! A step: one program that tests something, and what it must have said at its end.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::results::{self, Outcome, Record};
use crate::compile::TestBinary;
use crate::workspace::output;

/// How a program tells its results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Harness {
    /// libtest, which prints events.
    Libtest,
    /// Writes records.
    Records,
    /// By its exit code alone: the step is its only test.
    ExitCode,
}

/// One program to run, on the host or in a guest.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// Unique in its tier, and a file's name: `table`.
    pub(crate) name: String,
    pub(crate) harness: Harness,
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) directory: PathBuf,
    /// Ten times what it takes where it is slowest: what takes longer hangs.
    pub(crate) patience: Duration,
    /// Names of the results that it must have; a missing one is a failure.
    pub(crate) expected: BTreeSet<String>,
}

impl Step {
    /// A binary of libtest's, of which all tests must run that `filter` names; all without one.
    pub(crate) fn libtest(binary: &TestBinary, filter: &[&str]) -> Result<Self> {
        let mut step = Self::of(binary, Harness::Libtest);
        step.arguments = filter.iter().map(|&it| it.to_owned()).collect();
        let listed = output(
            Command::new(&binary.path)
                .args(&step.arguments)
                .args(["--list", "--format", "terse"])
                .current_dir(&binary.directory),
        )?;
        step.expected = listed
            .lines()
            .filter_map(|line| line.strip_suffix(": test").map(str::to_owned))
            .collect();
        step.arguments
            .extend(["-Z", "unstable-options", "--format", "json", "--report-time"].map(str::to_owned));
        // What takes to let a stable test binary print events.
        step.environment
            .push(("RUSTC_BOOTSTRAP".to_owned(), "1".to_owned()));
        Ok(step)
    }

    /// A test binary that writes records.
    pub(crate) fn records(binary: &TestBinary, expected: impl IntoIterator<Item = String>) -> Self {
        let mut step = Self::of(binary, Harness::Records);
        step.expected = expected.into_iter().collect();
        step
    }

    /// A command that holds if its exit code is 0.
    pub(crate) fn command(
        name: &str,
        directory: &Path,
        program: impl Into<PathBuf>,
        arguments: &[&str],
    ) -> Self {
        Self {
            name: name.to_owned(),
            harness: Harness::ExitCode,
            program: program.into(),
            arguments: arguments.iter().map(|&it| it.to_owned()).collect(),
            environment: Vec::new(),
            directory: directory.to_owned(),
            patience: Duration::from_mins(20),
            expected: [name.to_owned()].into(),
        }
    }

    fn of(binary: &TestBinary, harness: Harness) -> Self {
        Self {
            name: binary.name.replace("::", "-"),
            harness,
            program: binary.path.clone(),
            arguments: Vec::new(),
            environment: vec![
                // As cargo has it for tests.
                (
                    "CARGO_MANIFEST_DIR".to_owned(),
                    binary.directory.display().to_string(),
                ),
            ],
            directory: binary.directory.clone(),
            patience: Duration::from_mins(20),
            expected: BTreeSet::new(),
        }
    }

    #[must_use]
    pub(crate) fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    #[must_use]
    pub(crate) fn with(mut self, variable: &str, value: impl Into<String>) -> Self {
        self.environment.push((variable.to_owned(), value.into()));
        self
    }

    /// Records that must be there beside libtest's results.
    #[must_use]
    pub(crate) fn expecting(mut self, records: impl IntoIterator<Item = String>) -> Self {
        self.expected.extend(records);
        self
    }

    #[must_use]
    pub(crate) fn within(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }
}

/// Where a step leaves what it has said: in a directory of its tier, or of its guest.
#[derive(Clone, Debug)]
pub(crate) struct Traces {
    directory: PathBuf,
    name: String,
}

impl Traces {
    pub(crate) fn new(directory: &Path, name: &str) -> Self {
        Self {
            directory: directory.to_owned(),
            name: name.to_owned(),
        }
    }

    fn file(&self, kind: &str) -> PathBuf {
        self.directory.join(format!("{}.{kind}", self.name))
    }

    /// Standard output: events, if it is libtest's.
    pub(crate) fn events(&self) -> PathBuf {
        self.file("stdout")
    }

    /// Standard error.
    pub(crate) fn log(&self) -> PathBuf {
        self.file("log")
    }

    /// `TEST_RESULTS`.
    pub(crate) fn records(&self) -> PathBuf {
        self.file("jsonl")
    }

    /// Exit code and seconds, when it has ended.
    pub(crate) fn end(&self) -> PathBuf {
        self.file("end")
    }
}

/// What came of a step.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) step: String,
    pub(crate) seconds: f64,
    pub(crate) passed: usize,
    pub(crate) skipped: usize,
    /// Why it failed, the name first; empty if it held.
    pub(crate) failures: Vec<(String, String)>,
    pub(crate) results: Vec<Record>,
}

/// Runs a step on this machine, with this niceness. It ends with its time.
pub(crate) fn run(step: &Step, directory: &Path, niceness: u8) -> Result<Verdict> {
    let traces = Traces::new(directory, &step.name);
    fs::create_dir_all(directory).with_context(|| format!("failed to make {}", directory.display()))?;
    let create =
        |path: &Path| File::create(path).with_context(|| format!("failed to make {}", path.display()));
    let (stdout, log) = (create(&traces.events())?, create(&traces.log())?);
    let begin = Instant::now();
    let status = Command::new("nice")
        .args(["-n", &niceness.to_string()])
        .args(["timeout", "--foreground", "--kill-after=10"])
        .arg(step.patience.as_secs().to_string())
        .arg(&step.program)
        .args(&step.arguments)
        .envs(step.environment.iter().map(|(name, value)| (name, value)))
        .env("TEST_RESULTS", traces.records())
        .current_dir(&step.directory)
        .stdin(Stdio::null())
        .stdout(if step.harness == Harness::ExitCode {
            // Its words in their order.
            log.try_clone().context("one log for both streams")?
        } else {
            stdout
        })
        .stderr(log)
        .status()
        .with_context(|| format!("failed to run {}", step.program.display()))?;
    let seconds = begin.elapsed().as_secs_f64();
    let mut verdict = judge(step, &traces, status.code(), seconds);
    if status.code().is_none() {
        let killed = format!("{status}; {}", tail(&traces.log()));
        verdict.failures.push((step.name.clone(), killed));
    }
    Ok(verdict)
}

/// timeout(1): the command has not ended in time, and has been killed.
const TIMED_OUT: [i32; 2] = [124, 137];

/// Holds what a step has said against what it must have said. `code` is none if it was killed, or never ended:
/// why, the caller adds as one more failure.
pub(crate) fn judge(step: &Step, traces: &Traces, code: Option<i32>, seconds: f64) -> Verdict {
    let mut verdict = Verdict {
        step: step.name.clone(),
        seconds,
        ..Verdict::default()
    };
    match results_of(step, traces, code, seconds) {
        Ok(results) => verdict.results = results,
        Err(error) => verdict.failures.push((step.name.clone(), format!("{error:#}"))),
    }
    let mut missing = step.expected.clone();
    let mut seen = BTreeSet::new();
    for record in &verdict.results {
        missing.remove(&record.name);
        match record.outcome {
            Outcome::Passed => verdict.passed += 1,
            Outcome::Skipped => verdict.skipped += 1,
            Outcome::Failed => verdict
                .failures
                .push((record.name.clone(), record.message.clone())),
        }
        if !seen.insert(&record.name) {
            let twice = "told its result twice: which one holds?".to_owned();
            verdict.failures.push((record.name.clone(), twice));
        }
    }
    if step.expected.is_empty() {
        let nothing = "declares no test that it must run".to_owned();
        verdict.failures.push((step.name.clone(), nothing));
    }
    // A step that died says so once, not for each test that it owes.
    match code {
        Some(0) => verdict.failures.extend(
            missing
                .into_iter()
                .map(|name| (name, "did not run: there is no result of it".to_owned())),
        ),
        Some(code) if TIMED_OUT.contains(&code) => {
            let late = format!(
                "not finished after {} s; {} results are missing, first of {:?}",
                step.patience.as_secs(),
                missing.len(),
                missing.first().map_or("none", String::as_str)
            );
            verdict.failures.push((step.name.clone(), late));
        }
        // Who knows why it never ended adds that: see `run`, and the guests.
        None => {}
        Some(_) if missing.is_empty() && !verdict.failures.is_empty() => {}
        Some(code) => {
            let died = format!(
                "exit code {code}; {} results are missing, first of {:?}; {}",
                missing.len(),
                missing.first().map_or("none", String::as_str),
                tail(&traces.log())
            );
            verdict.failures.push((step.name.clone(), died));
        }
    }
    verdict
}

fn results_of(step: &Step, traces: &Traces, code: Option<i32>, seconds: f64) -> Result<Vec<Record>> {
    let mut found = match step.harness {
        Harness::Libtest => results::libtest_events(&traces.events())?,
        Harness::Records => Vec::new(),
        Harness::ExitCode => vec![Record {
            name: step.name.clone(),
            outcome: if code == Some(0) {
                Outcome::Passed
            } else {
                Outcome::Failed
            },
            seconds,
            message: if code == Some(0) {
                String::new()
            } else {
                tail(&traces.log())
            },
        }],
    };
    found.extend(results::records(&traces.records())?);
    Ok(found)
}

/// The last lines of a log, for those who see nothing else.
fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(12)..];
    format!("its log ends with\n{}", last.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shell script that writes to the file of `TEST_RESULTS`, and must have these results.
    fn script(text: &str, expected: &[&str]) -> Verdict {
        let directory = tempfile::tempdir().unwrap();
        let mut step = Step::command("script", directory.path(), "/bin/sh", &["-c", text]);
        step.harness = Harness::Records;
        step.expected = expected.iter().map(|&it| it.to_owned()).collect();
        run(&step.within(Duration::from_secs(1)), directory.path(), 0).unwrap()
    }

    const A_PASSES: &str = r#"echo '{"name":"a","outcome":"passed"}' >>$TEST_RESULTS; "#;
    const B_FAILS: &str =
        r#"echo '{"name":"b","outcome":"failed","message":"2 is not 3"}' >>$TEST_RESULTS; "#;

    fn failures(verdict: &Verdict) -> Vec<&str> {
        verdict.failures.iter().map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn a_step_holds_if_it_has_all_its_results() {
        let verdict = script(A_PASSES, &["a"]);
        assert_eq!((verdict.passed, failures(&verdict)), (1, vec![]));
    }

    #[test]
    fn a_missing_result_is_a_failure_of_that_name() {
        assert_eq!(failures(&script(A_PASSES, &["a", "b"])), ["b"]);
    }

    #[test]
    fn a_step_that_runs_no_test_fails_whatever_its_exit_code() {
        assert_eq!(failures(&script("true", &[])), ["script"]);
        assert_eq!(failures(&script("true", &["a"])), ["a"]);
    }

    #[test]
    fn a_failed_result_fails_even_if_the_exit_code_is_0() {
        let verdict = script(&[A_PASSES, B_FAILS].concat(), &["a", "b"]);
        assert_eq!(verdict.failures, [("b".to_owned(), "2 is not 3".to_owned())]);
    }

    #[test]
    fn a_step_that_dies_is_one_failure_with_the_end_of_its_log() {
        let verdict = script(
            &[A_PASSES, "echo it broke >&2; exit 3"].concat(),
            &["a", "b", "c"],
        );
        assert_eq!(failures(&verdict), ["script"]);
        let why = &verdict.failures[0].1;
        assert!(
            why.starts_with("exit code 3; 2 results are missing, first of \"b\"") && why.contains("it broke"),
            "{why}"
        );
    }

    #[test]
    fn an_exit_code_fails_even_if_all_results_are_good() {
        assert_eq!(
            failures(&script(&[A_PASSES, "exit 1"].concat(), &["a"])),
            ["script"]
        );
    }

    #[test]
    fn a_step_that_hangs_is_ended_and_told() {
        let verdict = script(&[A_PASSES, "sleep 30"].concat(), &["a", "b"]);
        assert_eq!(failures(&verdict), ["script"]);
        assert!(verdict.failures[0].1.starts_with("not finished after 1 s"));
    }

    #[test]
    fn a_result_that_is_told_twice_is_a_failure() {
        assert_eq!(failures(&script(&[A_PASSES, A_PASSES].concat(), &["a"])), ["a"]);
    }

    #[test]
    fn a_command_is_its_own_test() {
        let directory = tempfile::tempdir().unwrap();
        let shell = |text| {
            let step = Step::command("fmt", directory.path(), "/bin/sh", &["-c", text]);
            run(&step, directory.path(), 0).unwrap()
        };
        let good = shell("true");
        assert_eq!((good.passed, failures(&good)), (1, vec![]));
        let bad = shell("echo wrong; exit 1");
        assert_eq!((bad.passed, failures(&bad)), (0, vec!["fmt"]));
        assert!(bad.failures[0].1.contains("wrong"));
    }
}
