//! The command line.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use crate::crd;
use crate::default_resource::{self, DefaultResource};
use crate::error_chain::error_chain;
use crate::run;

/// Runs the agents of scope-http-statistics on a cluster as its HttpStatistics resources say.
#[derive(Debug, Parser)]
#[command(name = "scope-http-statistics-operator", version, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    options: Options,
}

/// What to do.
#[derive(Clone, Copy, Debug, Subcommand)]
enum Command {
    /// Watch the cluster's resources until stopped (default)
    Run,
    /// Print the HttpStatistics custom resource definition as YAML
    Crd,
}

#[derive(Args, Debug)]
struct Options {
    /// Namespace of the agents [default: the operator's own]
    #[arg(long, global = true, env = "SCOPE_HTTP_STATISTICS_OPERATOR_NAMESPACE")]
    namespace: Option<String>,

    /// Where to serve /healthz, /readyz and /metrics
    #[arg(
        long,
        global = true,
        value_name = "ADDRESS",
        default_value = "0.0.0.0:8080",
        env = "SCOPE_HTTP_STATISTICS_OPERATOR_LISTEN"
    )]
    listen: SocketAddr,

    /// Work only while holding the Lease in the agents' namespace: for more than one replica
    #[arg(long, global = true, env = "SCOPE_HTTP_STATISTICS_OPERATOR_LEADER_ELECTION")]
    leader_election: bool,

    /// An HttpStatistics to apply at the start
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "SCOPE_HTTP_STATISTICS_OPERATOR_DEFAULT_RESOURCE"
    )]
    default_resource: Option<PathBuf>,

    /// The cluster role that owns it: when that is deleted, so is the resource
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        env = "SCOPE_HTTP_STATISTICS_OPERATOR_DEFAULT_RESOURCE_OWNER"
    )]
    default_resource_owner: Option<String>,

    /// What is logged: error, warn, info, debug or trace, also by module
    #[arg(
        long,
        global = true,
        value_name = "FILTER",
        default_value = "info",
        env = "SCOPE_HTTP_STATISTICS_OPERATOR_LOG"
    )]
    log: String,

    /// How log lines look
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        env = "SCOPE_HTTP_STATISTICS_OPERATOR_LOG_FORMAT"
    )]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum LogFormat {
    /// For people
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Crd(#[from] crd::Error),
    #[error(transparent)]
    DefaultResource(#[from] default_resource::Error),
    #[error(transparent)]
    Run(#[from] run::Error),
    #[error("`{filter}` is no log filter: write a level, as in info, or a list, as in info,kube=debug")]
    Log { filter: String, source: ParseError },
    #[error("failed to write to standard output")]
    Output(#[source] io::Error),
}

/// Runs the command: output goes to `out`, what went wrong to `err` in one line. Log lines go to standard error.
pub fn run(cli: Cli, out: &mut impl Write, err: &mut impl Write) -> ExitCode {
    let Cli { command, options } = cli;
    let result = match command.unwrap_or(Command::Run) {
        Command::Run => operate(options),
        Command::Crd => print_crd(out),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If standard error is gone as well, the exit code has to tell.
            let _ = writeln!(err, "error: {}", error_chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn operate(options: Options) -> Result<(), Error> {
    let Options {
        namespace,
        listen,
        leader_election,
        default_resource,
        default_resource_owner,
        log,
        log_format,
    } = options;
    let filter = EnvFilter::try_new(&log).map_err(|source| Error::Log { filter: log, source })?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(false);
    match log_format {
        LogFormat::Text => lines.init(),
        LogFormat::Json => lines.json().init(),
    }
    let default_resource = default_resource
        .map(|path| DefaultResource::read(&path, default_resource_owner))
        .transpose()?;
    Ok(run::run(
        namespace,
        listen,
        leader_election,
        default_resource.as_ref(),
    )?)
}

fn print_crd(out: &mut impl Write) -> Result<(), Error> {
    let definition = crd::yaml()?;
    out.write_all(definition.as_bytes())
        .and_then(|()| out.flush())
        .map_err(Error::Output)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the command line `args`; returns the exit code and what was written to either stream.
    fn run_with(args: &[&str]) -> (ExitCode, String, String) {
        let cli = Cli::parse_from([&["scope-http-statistics-operator"], args].concat());
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = run(cli, &mut out, &mut err);
        (
            code,
            String::from_utf8(out).unwrap(),
            String::from_utf8(err).unwrap(),
        )
    }

    #[test]
    fn a_log_filter_that_is_none_is_refused_with_what_would_be_one() {
        let (code, out, err) = run_with(&["--log", "info=loud=x"]);
        assert_eq!((code, out.as_str()), (ExitCode::FAILURE, ""));
        assert_eq!(
            err,
            "error: `info=loud=x` is no log filter: write a level, as in info, or a list, as in info,kube=debug: \
             error parsing level filter: expected one of \"off\", \"error\", \"warn\", \"info\", \"debug\", \"trace\", \
             or a number 0-5\n"
        );
    }

    #[test]
    fn crd_prints_the_definition_and_nothing_else() {
        let (code, out, err) = run_with(&["crd"]);
        assert_eq!(code, ExitCode::SUCCESS);
        assert_eq!(out, crd::yaml().unwrap());
        assert_eq!(err, "");
    }

    #[test]
    fn a_closed_output_is_an_error_that_names_its_cause() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut err = Vec::new();
        let code = run(
            Cli::parse_from(["scope-http-statistics-operator", "crd"]),
            &mut Closed,
            &mut err,
        );
        assert_eq!(code, ExitCode::FAILURE);
        assert_eq!(
            String::from_utf8(err).unwrap(),
            "error: failed to write to standard output: broken pipe\n"
        );
    }
}
