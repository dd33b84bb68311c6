//! The command line.

mod check;
mod hook;
mod report;
mod table;
mod top;
mod totals;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand, ValueEnum};
use tokio::runtime::{Builder, Runtime};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, fmt, reload};

use crate::client::{Client, ClientError};
use crate::config::{ConfigError, LogFormat, LogLevel, Overrides, Settings};
use crate::error_chain::error_chain;
use crate::reload::ConfigFile;
use crate::run::{self, RunError};
use crate::sampler::Unavailable;
use crate::server::STANDING_BY;

/// Counts the HTTP requests of every process on this host in the kernel and shows them in Weave Scope.
#[derive(Debug, Parser)]
#[command(name = "scope-http-statistics-agent", version, max_term_width = 110)]
struct Cli {
    #[command(flatten)]
    overrides: Overrides,

    /// YAML file with the options' names in camelCase; flags and environment come first
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "SCOPE_HTTP_STATISTICS_CONFIG"
    )]
    config: Option<PathBuf>,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Count and serve until stopped (default)
    Run,
    /// Show whether an agent can run here, and what is missing
    Check {
        /// How to print it
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Show which hook an agent takes here, or `none`, and why no better one
    Hook {
        /// Where to write it instead
        #[arg(long, value_name = "FILE")]
        into: Option<PathBuf>,
    },
    /// Watch requests and responses live, by process, container or pod; of a running agent, else attached itself
    Top(#[command(flatten)] top::Options),
    /// Show what a running agent has counted since it started
    Totals {
        /// How to print it
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Show what a running agent tells Scope
    Report {
        /// As a table of the latest rates instead of JSON
        #[arg(long)]
        table: bool,
    },
    /// Exit with 0 if a running agent is well
    Healthcheck {
        /// Also require that it can read its counters
        #[arg(long)]
        ready: bool,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    #[default]
    Table,
    Json,
}

/// Why a command failed. Each message is one line that names the fix.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("failed to start: raise the limits of processes and open files (ulimit -u, ulimit -n)")]
    Runtime(#[source] io::Error),
    #[error("failed to print")]
    Print(#[source] io::Error),
    #[error("failed to print")]
    Json(#[source] serde_json::Error),
    #[error("failed to write {}: give --into the path of a file that can be written", .path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("failed to count")]
    Counting(#[from] Unavailable),
    #[error("failed to use the terminal: is TERM right? `--once` and `--output` need none")]
    Screen(#[source] io::Error),
}

/// Runs the command line `args`, the program's name first. The exit code is 0, 1 if the command failed, and 2 if it
/// was not understood.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match dispatch(cli) {
        Ok(code) => code,
        // Who reads our output has read enough, as `head` does.
        Err(Error::Print(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error_chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// One line on stderr.
#[expect(clippy::print_stderr, reason = "how commands say why they failed")]
fn complain(message: &str) {
    eprintln!("error: {}", one_line(message));
}

fn one_line(message: &str) -> String {
    message
        .split('\n')
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join("; ")
}

/// Help and version go to stdout; errors are made one line.
fn usage(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return match error.print() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let reason = text.split("\nUsage:").next().unwrap_or(text);
    let reason = reason.split("\nFor more information").next().unwrap_or(reason);
    complain(&format!("{}; see --help", one_line(reason)));
    ExitCode::from(2)
}

fn dispatch(cli: Cli) -> Result<ExitCode, Error> {
    let Cli {
        overrides,
        config,
        command,
    } = cli;
    let (settings, file) = match config {
        Some(path) => ConfigFile::open(path, overrides)?,
        None => (Settings::new(overrides)?, None),
    };
    match command.unwrap_or(Command::Run) {
        Command::Run => {
            let set_log_level = start_log(settings.live.log_level, settings.fixed.log_format);
            // Sampling and serving do not wait for each other; more threads would only cost memory.
            let runtime = runtime(Builder::new_multi_thread().worker_threads(2))?;
            runtime.block_on(run::run(&settings, file, set_log_level))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Check { output } => {
            let check = runtime(&mut Builder::new_current_thread())?.block_on(check::check(&settings));
            print(&match output {
                Output::Table => check.table(),
                Output::Json => pretty(&check)?,
            })?;
            Ok(if check.can_run {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
        Command::Hook { into } => {
            let answer = hook::answer(&settings);
            match into {
                Some(path) => {
                    std::fs::write(&path, answer).map_err(|source| Error::Write { path, source })?;
                }
                None => print(&answer)?,
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Top(options) => {
            top::run(&settings, &options)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Totals { output } => {
            let totals = ask(&settings, async |client| client.get_json("/totals").await)?;
            print(&match output {
                Output::Table => totals::table(&totals),
                Output::Json => pretty(&totals)?,
            })?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Report { table } => {
            if table {
                let (report, totals) = ask(&settings, async |client| {
                    Ok((
                        client.get_json("/report").await?,
                        client.get_json("/totals").await?,
                    ))
                })?;
                print(&report::table(&report, &totals))?;
            } else {
                let report: serde_json::Value =
                    ask(&settings, async |client| client.get_json("/report").await)?;
                print(&pretty(&report)?)?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Healthcheck { ready } => {
            let path = if ready { "/readyz" } else { "/healthz" };
            let said = ask(&settings, async |client| client.get(path).await)?;
            // Who serves Scope must be well where Scope asks.
            if settings.fixed.standby_socket.is_some() && said != STANDING_BY {
                let plugin = Client::new(settings.fixed.plugin_dir.socket());
                ask_client(plugin, async |client| client.get(path).await)?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn runtime(builder: &mut Builder) -> Result<Runtime, Error> {
    builder.enable_all().build().map_err(Error::Runtime)
}

/// The agent to ask: who has a socket of its own is told from others by it.
fn client(settings: &Settings) -> Client {
    Client::new(match &settings.fixed.standby_socket {
        Some(own) => own.path().to_owned(),
        None => settings.fixed.plugin_dir.socket(),
    })
}

fn ask<T>(
    settings: &Settings,
    request: impl AsyncFnOnce(Client) -> Result<T, ClientError>,
) -> Result<T, Error> {
    ask_client(client(settings), request)
}

fn ask_client<T>(
    client: Client,
    request: impl AsyncFnOnce(Client) -> Result<T, ClientError>,
) -> Result<T, Error> {
    let runtime = runtime(&mut Builder::new_current_thread())?;
    Ok(runtime.block_on(request(client))?)
}

fn pretty(value: &impl serde::Serialize) -> Result<String, Error> {
    serde_json::to_string_pretty(value)
        .map(|text| text + "\n")
        .map_err(Error::Json)
}

fn print(text: &str) -> Result<(), Error> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(Error::Print)
}

/// Logs go to stderr: stdout is for what commands are asked for. Returns what changes the level.
fn start_log(level: LogLevel, format: LogFormat) -> impl Fn(LogLevel) + Send + 'static {
    let (filter, handle) = reload::Layer::new(log_filter(level));
    let lines = fmt::layer().with_writer(io::stderr).with_target(false);
    let lines = match format {
        LogFormat::Text => lines
            .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
            .boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).init();
    move |level| {
        // It fails only where there is no log any more.
        let _no_log = handle.reload(log_filter(level));
    }
}

fn log_filter(level: LogLevel) -> EnvFilter {
    // Every failure that kube logs is logged by us, once.
    EnvFilter::new(match level {
        LogLevel::Error => "error,kube_client=off,kube_runtime=off",
        LogLevel::Warn => "warn,kube_client=off,kube_runtime=off",
        LogLevel::Info => "info,kube_client=off,kube_runtime=off",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_may_stand_before_and_after_the_command() {
        for args in [
            ["agent", "--interval", "2s", "run"],
            ["agent", "run", "--interval", "2s"],
        ] {
            let cli = Cli::try_parse_from(args).unwrap();
            assert_eq!(cli.overrides.interval, Some("2s".parse().unwrap()), "{args:?}");
        }
    }
}
