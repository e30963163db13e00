//! `dialtone pool-user`: what is in a pool, asked over ASAP or read from a registrar's admin interface.

use std::process::ExitCode;

/// Placeholder.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(args: Args) -> ExitCode {
    let Args {} = args;
    ExitCode::SUCCESS
}
