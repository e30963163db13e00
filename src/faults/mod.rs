//! `dialtone faults`: starts a system of its own on this machine, kills and freezes parts of it, and measures what
//! others notice.

pub mod abuse;
pub mod calls;
pub mod database;
mod echo;
mod explain;
pub mod media;
pub mod name_service;
mod observe;
mod service;
pub mod table;
mod traffic;

use std::process::ExitCode;

/// Kill and freeze parts of a system on this machine, and measure how long others notice
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Abuse(abuse::Args),
    Calls(calls::Args),
    Database(database::Args),
    EchoServer(echo::Args),
    Media(media::Args),
    NameService(name_service::Args),
}

/// Runs the command.
pub fn run(args: Args) -> ExitCode {
    match args.command {
        Command::Abuse(args) => abuse::run(&args),
        Command::Calls(args) => calls::run(&args),
        Command::Database(args) => database::run(&args),
        Command::EchoServer(args) => echo::run(&args),
        Command::Media(args) => media::run(&args),
        Command::NameService(args) => name_service::run(&args),
    }
}
