//! What each tier runs, in either depth, and what it must have run.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::guests::Plan;
use super::selection::{Selection, cover, hook_of};
use super::step::Step;
use crate::compile::{Built, TestBinary};
use crate::guest::{self, Guest};
use crate::images;
use crate::workspace::{Workspace, output};

/// What is tested together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Tier {
    /// Everything that reads the code and does not run it
    Lint,
    /// All tests of the workspace on this kernel, as root
    Host,
    /// The framing engine under libFuzzer
    Fuzz,
    /// Every hook on other kernels, in emulated machines
    Guests,
    /// The operator on a real API server
    Cluster,
    /// Chart and images on a real node, from installation to uninstallation
    E2e,
}

impl Tier {
    /// In their order. Guests come late: by then few tests of this kernel are left, of which one keeps all processors busy.
    pub(crate) const ALL: [Self; 6] = [
        Self::Lint,
        Self::Host,
        Self::Fuzz,
        Self::Cluster,
        Self::Guests,
        Self::E2e,
    ];

    /// Whether it makes what only root may: programs in the kernel, namespaces, guests that see this machine's files.
    pub(crate) fn needs_root(self) -> bool {
        matches!(self, Self::Host | Self::Guests | Self::E2e)
    }

    /// Whether it runs what [`crate::compile::tests`] builds.
    pub(crate) fn needs_build(self) -> bool {
        matches!(self, Self::Host | Self::Guests | Self::Cluster | Self::E2e)
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Lint => "lint",
            Self::Host => "host",
            Self::Fuzz => "fuzz",
            Self::Guests => "guests",
            Self::Cluster => "cluster",
            Self::E2e => "e2e",
        })
    }
}

/// How much of a tier runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// By risk.
    Short,
    /// Everything.
    Whole,
}

/// The three ways to attach.
const HOOKS: [&str; 3] = ["fentry", "kprobe", "tracepoint"];

/// Of the kernels for guests these could be preemptible and mostly are not; with `preempt=full` programs have other entries.
const PREEMPTIBLE: [&str; 2] = ["6.1", "6.12"];

/// A kernel without cgroup v1, for tests of pods: the host of a CI often has both.
const UNIFIED: &str = "6.12";

/// The test binary of the agent with what needs root.
const PRIVILEGED: &str = "privileged";

/// The operator's integration tests.
const OPERATOR_TESTS: &str = "scope-http-statistics-operator::it";

/// Test binaries, and modules of the operator's tests, in which nobody speaks HTTP over sockets: agents that run at the same
/// time count nothing of them.
const WITHOUT_HTTP: [&str; 5] = ["agent_ebpf", "crd", "manifests", "objects", "xtask"];

/// Cgroup layouts of agent/tests/privileged/containers.rs, which each have a result.
const LAYOUTS: [&str; 7] = [
    "containerd-cgroupfs",
    "crio-cgroupfs",
    "static-cgroupfs",
    "containerd-systemd",
    "crio-systemd",
    "docker-systemd",
    "kind",
];

/// All that tiers are made of.
pub(crate) struct Tiers<'a> {
    pub(crate) workspace: &'a Workspace,
    pub(crate) built: &'a Built,
    pub(crate) depth: Depth,
    /// Series for guests; all if there is none.
    pub(crate) kernels: &'a [String],
    /// Where results go.
    pub(crate) results: &'a Path,
}

impl Tiers<'_> {
    /// Every test of this kernel: those that count all of the machine, or would be counted, and the others.
    pub(crate) fn host(&self) -> Result<(Vec<Step>, Vec<Step>)> {
        let (mut alone, mut beside) = (Vec::new(), Vec::new());
        for binary in &self.built.tests {
            match binary.target.as_str() {
                "cluster" => {}
                "table" => alone.push(Step::records(
                    binary,
                    table_results(&self.table_cases()?, &["tracepoint"]),
                )),
                PRIVILEGED => {
                    for module in modules(binary)? {
                        alone.push(self.privileged(&module)?);
                    }
                }
                _ if binary.name == OPERATOR_TESTS => {
                    for module in modules(binary)? {
                        let step = Step::libtest(binary, &[&format!("{module}::")])?;
                        let side = if WITHOUT_HTTP.contains(&module.as_str()) {
                            &mut beside
                        } else {
                            &mut alone
                        };
                        side.push(step.named(&format!("operator-{module}")));
                    }
                }
                target if WITHOUT_HTTP.contains(&target) => beside.push(Step::libtest(binary, &[])?),
                _ => alone.push(Step::libtest(binary, &[])?),
            }
        }
        let cache = self.workspace.cache.display().to_string();
        for step in alone.iter_mut().chain(&mut beside) {
            step.environment
                .push(("SCOPE_HTTP_STATISTICS_CACHE".to_owned(), cache.clone()));
        }
        Ok((alone, beside))
    }

    /// The tests of one module of the agent's privileged tests.
    fn privileged(&self, module: &str) -> Result<Step> {
        let step = self.part(module, &[""])?;
        Ok(match module {
            "containers" => {
                let pods = match self.depth {
                    Depth::Short => "60",
                    Depth::Whole => "200",
                };
                step.with("TEST_PODS", pods)
                    .with("TEST_PODS_PER_SECOND", "2")
                    .expecting(LAYOUTS.map(str::to_owned))
            }
            "saturation" => step.with(
                "TEST_BUSY_SECONDS",
                match self.depth {
                    Depth::Short => "15",
                    Depth::Whole => "60",
                },
            ),
            "hooks" => step.expecting([1, 64].map(|count| format!("tracepoint, {count} connections"))),
            _ => step,
        })
    }

    /// Those tests of a module of the agent's privileged tests whose names begin like one of `names`.
    fn part(&self, module: &str, names: &[&str]) -> Result<Step> {
        let filter: Vec<String> = names.iter().map(|name| format!("{module}::{name}")).collect();
        let filter: Vec<&str> = filter.iter().map(String::as_str).collect();
        Ok(Step::libtest(self.built.test(PRIVILEGED)?, &filter)?.named(module))
    }

    pub(crate) fn fuzz(&self) -> Result<Step> {
        let xtask = std::env::current_exe().context("this program has no file")?;
        let seconds = match self.depth {
            Depth::Short => "20",
            Depth::Whole => "60",
        };
        Ok(Step::command(
            "framing",
            &self.workspace.root,
            xtask,
            &["fuzz", seconds],
        ))
    }

    /// The operator's tests.
    pub(crate) fn cluster(&self) -> Result<Step> {
        let binary = self.built.test("cluster")?;
        let listed = output(Command::new(&binary.path).arg("--list"))?;
        let nodes = match self.depth {
            Depth::Short => "200",
            Depth::Whole => "2000",
        };
        Ok(Step::records(binary, listed.lines().map(str::to_owned))
            .with("TEST_NODES", nodes)
            .with(
                "SCOPE_HTTP_STATISTICS_CACHE",
                self.workspace.cache.display().to_string(),
            )
            .with("SCOPE_HTTP_STATISTICS_TEST_KUBECONFIG", ""))
    }

    /// The scenario, with images of what was built for the tests; in the whole depth, of what is shipped.
    pub(crate) fn e2e(&self) -> Result<Step> {
        let directory = self.results.join("images");
        let (depth, directory) = match self.depth {
            Depth::Short => {
                let version = Workspace::version();
                images::make(
                    self.workspace,
                    &self.built.programs,
                    &directory,
                    "registry.example",
                    version,
                )?;
                ("short", directory)
            }
            Depth::Whole => (
                "whole",
                images::release(self.workspace, "registry.example", Workspace::version())?,
            ),
        };
        let mut list = self.workspace.command("python3");
        list.args(["-m", "e2e", "--list", "--depth", depth, "--on", "node"]);
        let mut step = Step::command("scenario", &self.workspace.root, ".ci/e2e", &[])
            .with("E2E_DEPTH", depth)
            .with("E2E_IMAGES", directory.display().to_string())
            .with("E2E_SKIP_IMAGES", "1")
            .with("E2E_SKIP_SETUP", "1")
            .with("E2E_KUBECONFIG", "")
            .within(Duration::from_mins(40));
        step.harness = super::step::Harness::Records;
        step.expected = output(&mut list)?.lines().map(str::to_owned).collect();
        Ok(step)
    }

    /// The cases of the table, each over one transport.
    fn table_cases(&self) -> Result<Vec<String>> {
        let listed = output(Command::new(&self.built.test("table")?.path).arg("--list"))?;
        Ok(listed.lines().map(str::to_owned).collect())
    }

    /// What each guest runs.
    pub(crate) fn guests(&self, turn: usize) -> Result<Vec<Plan>> {
        let all = guest::kernels(self.workspace)?;
        let chosen = if self.kernels.is_empty() {
            &all
        } else {
            self.kernels
        };
        for kernel in chosen {
            ensure!(
                all.contains(kernel),
                "there is no kernel {kernel}; the cache has {}",
                all.join(", ")
            );
        }
        let cases = self.table_cases()?;
        let selections = match self.depth {
            Depth::Short => cover(&all, &of_cases(&cases, &HOOKS), turn),
            Depth::Whole => all
                .iter()
                .map(|kernel| (kernel.clone(), Selection::Whole))
                .collect(),
        };
        let mut plans = Vec::new();
        for kernel in chosen {
            let selection = &selections[kernel];
            let mut steps = vec![self.table(kernel, selection, &cases)?];
            // All programs are verified where they are attached. Their counts of instructions differ little between kernels
            // that tell them, and between hooks.
            match self.depth {
                Depth::Whole => steps.push(self.verifier(kernel, &HOOKS)?),
                Depth::Short if all.last() == Some(kernel) => {
                    steps.push(self.verifier(kernel, &[HOOKS[turn % HOOKS.len()]])?);
                }
                Depth::Short => {}
            }
            if kernel == UNIFIED {
                // Each of its tests attaches an agent.
                let names: &[&str] = match self.depth {
                    Depth::Short => &["every_container_gets"],
                    Depth::Whole => &[""],
                };
                steps.push(
                    self.part("containers", names)?
                        .with("TEST_PODS", "12")
                        .with("TEST_PODS_PER_SECOND", "1")
                        .expecting(LAYOUTS.map(str::to_owned)),
                );
            }
            plans.push(Plan {
                name: kernel.clone(),
                guest: Guest::new(kernel),
                steps,
            });
            let is_preemptible = PREEMPTIBLE.iter().position(|it| it == kernel);
            if is_preemptible.is_some_and(|it| self.depth == Depth::Whole || it == turn % PREEMPTIBLE.len()) {
                plans.push(Plan {
                    name: format!("{kernel}-preempt"),
                    guest: Guest {
                        append: "preempt=full".to_owned(),
                        ..Guest::new(kernel)
                    },
                    steps: vec![self.totals(&["fentry"])?],
                });
            }
        }
        // The longest first, so that none is left over at the end.
        plans.sort_by_key(|plan| {
            std::cmp::Reverse(plan.steps.iter().map(|step| step.expected.len()).sum::<usize>())
        });
        Ok(plans)
    }

    fn table(&self, kernel: &str, selection: &Selection, cases: &[String]) -> Result<Step> {
        let mut step = Step::records(self.built.test("table")?, table_results(cases, &HOOKS)).named("table");
        let mut hooks = HOOKS.to_vec();
        if let Selection::Part(part) = selection {
            fs::create_dir_all(self.results)
                .with_context(|| format!("failed to make {}", self.results.display()))?;
            let file = self.results.join(format!("table-{kernel}.cases"));
            let lines: Vec<&str> = part.iter().map(String::as_str).collect();
            fs::write(&file, lines.join("\n"))
                .with_context(|| format!("failed to write {}", file.display()))?;
            hooks.retain(|hook| part.iter().any(|name| hook_of(name) == *hook));
            step.expected = part.iter().cloned().chain(at_the_end(&hooks)).collect();
            step = step.with("TEST_CASES", file.display().to_string());
        }
        Ok(step.with("TEST_HOOKS", hooks.join(" ")))
    }

    /// A mixed load on a real nginx; the rest of that test runs on the host.
    fn totals(&self, hooks: &[&str]) -> Result<Step> {
        Ok(self
            .part("hooks", &["totals_equal_the_access_log_on_64"])?
            .with("TEST_HOOKS", hooks.join(" "))
            .expecting(hooks.iter().map(|hook| format!("{hook}, 64 connections"))))
    }

    /// Each program that the recorded counts name for this kernel.
    fn verifier(&self, kernel: &str, hooks: &[&str]) -> Result<Step> {
        let golden = self
            .built
            .test(PRIVILEGED)?
            .directory
            .join("tests/golden/verified-instructions.txt");
        let recorded =
            fs::read_to_string(&golden).with_context(|| format!("failed to read {}", golden.display()))?;
        let programs: Vec<String> = recorded
            .lines()
            .filter_map(|line| line.strip_prefix(&format!("{kernel} "))?.rsplit_once(' '))
            .filter(|(program, _)| hooks.iter().any(|hook| program.starts_with(hook)))
            .map(|(program, _)| program.to_owned())
            .collect();
        ensure!(
            !programs.is_empty(),
            "{} has no program for {kernel}",
            golden.display()
        );
        Ok(self
            .part("verifier", &["every_program"])?
            .with("TEST_HOOKS", hooks.join(" "))
            .expecting(programs))
    }
}

/// The modules that a test binary has tests in.
fn modules(binary: &TestBinary) -> Result<BTreeSet<String>> {
    let tests = Step::libtest(binary, &[])?.expected;
    Ok(tests
        .iter()
        .filter_map(|test| test.split_once("::"))
        .map(|(module, _)| module.to_owned())
        .collect())
}

/// Names of the results of these cases with these hooks.
fn table_results(cases: &[String], hooks: &[&str]) -> BTreeSet<String> {
    of_cases(cases, hooks)
        .into_iter()
        .chain(at_the_end(hooks))
        .collect()
}

fn of_cases(cases: &[String], hooks: &[&str]) -> Vec<String> {
    let with_hooks = |case: &String| {
        hooks
            .iter()
            .map(|hook| format!("{case}, {hook}"))
            .collect::<Vec<_>>()
    };
    cases.iter().flat_map(with_hooks).collect()
}

/// What the table does when all its cases are through.
fn at_the_end(hooks: &[&str]) -> Vec<String> {
    let each = |hook: &&str| ["64 connections to nginx", "at the end"].map(|what| format!("{hook}, {what}"));
    hooks.iter().flat_map(each).collect()
}
