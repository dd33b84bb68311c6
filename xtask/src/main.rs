//! `cargo xtask`: what a developer and the CI run. `cargo xtask --help` lists it.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line for people"
)]

mod compile;
mod dependencies;
mod fuzz;
mod guest;
mod images;
mod release;
mod test;
mod workflows;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use workspace::Workspace;

/// Tests on every tier, guests, images and release artefacts
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Test(test::Arguments),
    Vm(guest::Arguments),
    Fuzz(fuzz::Arguments),
    Images(images::Arguments),
    Static(images::StaticArguments),
    #[command(subcommand)]
    Release(release::Release),
    /// Check .github: schemas, security, and that each step calls what is here
    Workflows,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    let workspace = Workspace::find()?;
    match command {
        Command::Test(arguments) => arguments.run(&workspace),
        Command::Vm(arguments) => arguments.run(&workspace),
        Command::Fuzz(arguments) => arguments.run(&workspace).map(|()| ExitCode::SUCCESS),
        Command::Images(arguments) => arguments.run(&workspace).map(|()| ExitCode::SUCCESS),
        Command::Release(command) => release::run(&workspace, &command).map(|()| ExitCode::SUCCESS),
        Command::Workflows => workflows::check(&workspace, &<Arguments as clap::CommandFactory>::command())
            .map(|()| ExitCode::SUCCESS),
        Command::Static(arguments) => arguments.run(&workspace).map(|()| ExitCode::SUCCESS),
    }
}
