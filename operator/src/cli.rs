//! The command line.

use std::error::Error as _;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::crd;

/// Exit code of a run without a command: the same as for a command line that clap refuses.
const EXIT_USAGE: u8 = 2;

const NO_CONTROLLER: &str = "scope-http-statistics-operator: this version has no controller yet, nothing was started; \
                             run the agents with `kubectl apply -f deployments/agent-daemonset.yaml`";

/// Prints the HttpStatistics custom resource definition. This version has no controller yet.
#[derive(Debug, Parser)]
#[command(name = "scope-http-statistics-operator", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

/// What to do.
#[derive(Clone, Copy, Debug, Subcommand)]
enum Command {
    /// Print the HttpStatistics custom resource definition as YAML.
    Crd,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Crd(#[from] crd::Error),
    #[error("failed to write to standard output")]
    Output(#[source] io::Error),
}

/// Runs the command: output goes to `out`, what went wrong to `err` in one line.
pub fn run(cli: &Cli, out: &mut impl Write, err: &mut impl Write) -> ExitCode {
    let (message, code) = match cli.command {
        None => (NO_CONTROLLER.to_owned(), ExitCode::from(EXIT_USAGE)),
        Some(Command::Crd) => match print_crd(out) {
            Ok(()) => return ExitCode::SUCCESS,
            Err(error) => (describe(&error), ExitCode::FAILURE),
        },
    };
    // With standard error gone as well, the exit code is all that is left to tell.
    let _ = writeln!(err, "{message}");
    code
}

fn print_crd(out: &mut impl Write) -> Result<(), Error> {
    let definition = crd::yaml()?;
    out.write_all(definition.as_bytes())
        .and_then(|()| out.flush())
        .map_err(Error::Output)
}

fn describe(error: &Error) -> String {
    match error.source() {
        Some(source) => format!("error: {error}: {source}"),
        None => format!("error: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the command line `args`; returns the exit code and what was written to either stream.
    fn run_with(args: &[&str]) -> (ExitCode, String, String) {
        let cli = Cli::parse_from([&["scope-http-statistics-operator"], args].concat());
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = run(&cli, &mut out, &mut err);
        (
            code,
            String::from_utf8(out).unwrap(),
            String::from_utf8(err).unwrap(),
        )
    }

    #[test]
    fn without_a_command_it_says_that_there_is_no_controller_and_fails() {
        let (code, out, err) = run_with(&[]);
        assert_eq!(code, ExitCode::from(2));
        assert_eq!(out, "");
        assert_eq!(err.lines().count(), 1, "{err}");
        assert!(
            err.contains("no controller yet") && err.contains("deployments/agent-daemonset.yaml"),
            "{err}"
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
            &Cli {
                command: Some(Command::Crd),
            },
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
