//! The operator's process: parse the command line, run it, exit with its code.

use std::io;
use std::process::ExitCode;

use clap::Parser;
use operator::cli::{self, Cli};

fn main() -> ExitCode {
    cli::run(Cli::parse(), &mut io::stdout(), &mut io::stderr())
}
