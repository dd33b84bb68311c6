//! `cargo xtask vm`: any command in guests.

use std::collections::VecDeque;
use std::env;
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::{End, Guest, export, kernels, quote};
use crate::workspace::Workspace;

/// Run a command in an emulated machine for each kernel
///
/// The guest sees this machine's files, to read, and a layer of its own to write on, which is forgotten. In it are `PATH`, `HOME`,
/// `VM_COUNT`, all of `TEST_*`, `RUST_*`, `SCOPE_*`, `CARGO_*` and `LD_LIBRARY_PATH`, and `TEST_KERNEL=SERIES`. As a cargo runner
/// (.ci/vm-runner) it is told by the variables what it is not told by flags. Exit code: the highest of the guests'; 124 after
/// a timeout, 125 if one died.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Series of a kernel in the cache, or `all`
    #[arg(
        long = "kernel",
        env = "VM_KERNELS",
        value_delimiter = ' ',
        required = true,
        value_name = "SERIES"
    )]
    kernels: Vec<String>,
    /// Guests at once
    #[arg(long, env = "VM_JOBS", default_value_t = 1)]
    jobs: usize,
    /// Seconds that each may take
    #[arg(long, env = "VM_TIMEOUT", default_value_t = 600)]
    timeout: u64,
    /// MiB of memory for each
    #[arg(long, env = "VM_MEMORY", default_value_t = 1024)]
    memory: u32,
    /// More for the kernel's command line, such as `preempt=voluntary`
    #[arg(long, env = "VM_APPEND", default_value = "", allow_hyphen_values = true)]
    append: String,
    /// The guest's clocks count instructions, one for each nanosecond: times are the same on any machine. Slower
    #[arg(long, env = "VM_COUNT", value_parser = clap::builder::BoolishValueParser::new(), default_value = "false", num_args = 0..=1, default_missing_value = "true")]
    count: bool,
    /// Program and arguments
    #[arg(trailing_var_arg = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// timeout(1)'s.
const TIMED_OUT: u8 = 124;
const DIED: u8 = 125;

impl Arguments {
    /// The exit code is that of the command, see above.
    pub(crate) fn run(&self, workspace: &Workspace) -> Result<ExitCode> {
        let kernels = if self.kernels == ["all"] {
            kernels(workspace)?
        } else {
            self.kernels.clone()
        };
        ensure!(
            !kernels.is_empty(),
            "no kernel is named: --kernel 6.1, or --kernel all"
        );
        let job = self.job()?;
        let todo = Mutex::new(VecDeque::from(kernels));
        let codes = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..self.jobs.max(1) {
                scope.spawn(|| {
                    while let Some(kernel) = locked(&todo).pop_front() {
                        let code = self.run_on(workspace, &kernel, &job);
                        locked(&codes).push(code);
                    }
                });
            }
        });
        let codes = codes.into_inner().unwrap_or_else(PoisonError::into_inner);
        let worst = codes.into_iter().collect::<Result<Vec<u8>>>()?.into_iter().max();
        Ok(ExitCode::from(worst.unwrap_or(DIED)))
    }

    /// With this process's directory and what matters of its environment.
    fn job(&self) -> Result<String> {
        let mut job = String::new();
        for (name, value) in env::vars() {
            let is_passed = matches!(&*name, "PATH" | "HOME" | "LD_LIBRARY_PATH" | "VM_COUNT")
                || ["TEST_", "RUST_", "SCOPE_", "CARGO_"]
                    .iter()
                    .any(|start| name.starts_with(start));
            if is_passed {
                job += &export(&name, &value);
            }
        }
        let directory = env::current_dir().context("the working directory is gone")?;
        let _ = writeln!(job, "cd {} || exit", quote(&directory.display().to_string()));
        job.push_str("exec");
        for word in &self.command {
            let _ = write!(job, " {}", quote(word));
        }
        job.push('\n');
        Ok(job)
    }

    fn run_on(&self, workspace: &Workspace, kernel: &str, job: &str) -> Result<u8> {
        let guest = Guest {
            append: self.append.clone(),
            memory: self.memory,
            counts: self.count,
            patience: Duration::from_secs(self.timeout),
            ..Guest::new(kernel)
        };
        let results = tempfile::tempdir().context("failed to make a temporary directory")?;
        let run =
            |results: &Path| guest.run(workspace, job, results, &mut |line| println!("[{kernel}] {line}"));
        let mut end = run(results.path())?;
        if let End::Died(death) = &end
            && death.is_not_ours()
        {
            eprintln!("vm: kernel {kernel}: {death}: once more");
            end = run(results.path())?;
        }
        Ok(match end {
            End::Finished { release, code } => {
                eprintln!("vm: kernel {kernel} ({release}): exit code {code}");
                u8::try_from(code).unwrap_or(DIED)
            }
            End::TimedOut => {
                eprintln!("vm: kernel {kernel}: not finished after {} s", self.timeout);
                TIMED_OUT
            }
            End::Died(death) => {
                eprintln!("vm: kernel {kernel}: {death}");
                DIED
            }
        })
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
