//! Steps in a guest: one boot runs all of its steps, each with results and a time of its own.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::step::{self, Harness, Step, Traces, Verdict};
use crate::guest::{End, Guest, RESULTS, export, quote};
use crate::workspace::Workspace;

/// A guest and what it runs.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Unique, and a directory's name: the series of its kernel, and what is special about it.
    pub(crate) name: String,
    pub(crate) guest: Guest,
    pub(crate) steps: Vec<Step>,
}

/// Variables that guests get from here.
const PASSED: [&str; 3] = ["PATH", "HOME", "RUST_BACKTRACE"];

impl Plan {
    /// Runs it. A guest of which it is proven that it did not die of us is booted once more, if nothing had failed in it;
    /// `told` hears of that.
    pub(crate) fn run(
        mut self,
        workspace: &Workspace,
        results: &Path,
        told: &dyn Fn(&str),
    ) -> Result<Vec<Verdict>> {
        let patience: Duration = self.steps.iter().map(|step| step.patience).sum();
        self.guest.patience = patience + Duration::from_mins(3);
        let first = results.join(&self.name);
        let (verdicts, end) = self.once(workspace, &first)?;
        let End::Died(death) = &end else {
            return Ok(verdicts);
        };
        // What has failed has failed, whatever killed the guest afterwards.
        let had_failed = verdicts
            .iter()
            .any(|verdict| verdict.failures.iter().any(|(_, why)| !why.starts_with(GONE)));
        if had_failed || !death.is_not_ours() {
            return Ok(verdicts);
        }
        let again = results.join(format!("{}-again", self.name));
        told(&format!(
            "{death}; once more, the first console is {}",
            console(&first)
        ));
        Ok(self.once(workspace, &again)?.0)
    }

    fn once(&self, workspace: &Workspace, directory: &Path) -> Result<(Vec<Verdict>, End)> {
        fs::create_dir_all(directory).with_context(|| format!("failed to make {}", directory.display()))?;
        let path = directory.join("console");
        let mut file = File::create(&path).with_context(|| format!("failed to make {}", path.display()))?;
        let end = self.guest.run(workspace, &self.job(), directory, &mut |line| {
            let _ = writeln!(file, "{line}");
        })?;
        Ok((self.judge(directory, &end), end))
    }

    /// For bash, in the guest.
    fn job(&self) -> String {
        let mut job = String::new();
        for name in PASSED {
            if let Ok(value) = std::env::var(name) {
                job += &export(name, &value);
            }
        }
        let cache = std::env::var("SCOPE_HTTP_STATISTICS_CACHE").unwrap_or_default();
        if !cache.is_empty() {
            job += &export("SCOPE_HTTP_STATISTICS_CACHE", &cache);
        }
        let _ = writeln!(job, "cut -d' ' -f1 /proc/uptime >{RESULTS}/{BEGIN}");
        for step in &self.steps {
            let traces = Traces::new(Path::new(RESULTS), &step.name);
            let path = |path: &Path| quote(&path.display().to_string());
            let _ = writeln!(job, "(");
            for (name, value) in &step.environment {
                job += &export(name, value);
            }
            job += &export("TEST_RESULTS", &traces.records().display().to_string());
            let _ = write!(
                job,
                "cd {} && exec timeout --foreground --kill-after=10 {}",
                path(&step.directory),
                step.patience.as_secs()
            );
            let _ = write!(job, " {}", path(&step.program));
            for argument in &step.arguments {
                let _ = write!(job, " {}", quote(argument));
            }
            // Only in this order both streams of a plain command are one log.
            let streams = match step.harness {
                Harness::ExitCode => format!(">{} 2>&1", path(&traces.log())),
                Harness::Libtest | Harness::Records => {
                    format!(">{} 2>{}", path(&traces.events()), path(&traces.log()))
                }
            };
            let _ = writeln!(job, "\n) {streams} </dev/null");
            // Bash's SECONDS is whole; the guest's own clock is what its tests see.
            let _ = writeln!(
                job,
                "echo \"$? $(cut -d' ' -f1 /proc/uptime)\" >{}",
                path(&traces.end())
            );
        }
        job
    }

    fn judge(&self, directory: &Path, end: &End) -> Vec<Verdict> {
        let begin = fs::read_to_string(directory.join(BEGIN)).unwrap_or_default();
        let mut before = begin.trim().parse().ok();
        self.steps
            .iter()
            .map(|step| {
                let traces = Traces::new(directory, &step.name);
                let (code, at) = ended(&traces);
                let took = at.map_or(0.0, |at: f64| at - before.unwrap_or(at));
                before = at.or(before);
                let mut verdict = step::judge(step, &traces, code, took);
                // Not in place of what has failed before: that must not be tried again.
                if code.is_none() {
                    let why = match end {
                        End::Died(death) => death.to_string(),
                        End::TimedOut => "the guest hangs".to_owned(),
                        End::Finished { code, .. } => format!("the guest ended before it, with code {code}"),
                    };
                    let why = format!("{GONE}{why}; {}", console(directory));
                    verdict.failures.push((step.name.clone(), why));
                }
                verdict
            })
            .collect()
    }
}

/// Has the guest's uptime when its first step began.
const BEGIN: &str = "begin";

/// How the failure of a step begins that has not ended.
const GONE: &str = "never ended: ";

fn console(directory: &Path) -> String {
    directory.join("console").display().to_string()
}

/// Exit code, and the guest's uptime at the end, in seconds.
fn ended(traces: &Traces) -> (Option<i32>, Option<f64>) {
    let text = fs::read_to_string(traces.end()).unwrap_or_default();
    let (code, at) = text.trim().split_once(' ').unwrap_or_default();
    (code.parse().ok(), at.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::Death;

    /// A guest that died after its only step had told this result.
    fn died_after(result: &str) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let mut step = Step::command("table", directory.path(), "/bin/true", &[]);
        step.harness = Harness::Records;
        step.expected = ["a".to_owned()].into();
        let plan = Plan {
            name: "6.1".to_owned(),
            guest: Guest::new("6.1"),
            steps: vec![step],
        };
        fs::write(directory.path().join("table.jsonl"), result).unwrap();
        let end = End::Died(Death::Kernel("int3".to_owned()));
        let verdicts = plan.judge(directory.path(), &end);
        let failures = verdicts.iter().flat_map(|verdict| &verdict.failures);
        failures.map(|(_, why)| why.clone()).collect()
    }

    #[test]
    fn what_failed_before_a_guest_died_stays_a_failure() {
        let failures = died_after("{\"name\":\"a\",\"outcome\":\"failed\",\"message\":\"2 is not 3\"}\n");
        assert_eq!(failures.len(), 2, "{failures:?}");
        assert_eq!(failures[0], "2 is not 3");
    }

    #[test]
    fn a_guest_that_dies_is_one_failure_of_its_step() {
        for result in ["", "{\"name\":\"a\",\"outcome\":\"passed\"}\n"] {
            let failures = died_after(result);
            assert_eq!(failures.len(), 1, "{failures:?}");
            assert!(failures[0].starts_with(GONE), "{failures:?}");
        }
    }
}
