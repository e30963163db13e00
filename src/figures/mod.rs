//! `dialtone figures`: what the system costs on this machine: CPU time for what it does, memory for what it keeps, how
//! fast registrars answer, how its media relay compares with rtpengine, and how many a conference server mixes.
//!
//! Each starts a system of its own in a loopback slice of its own. Whoever plays phones and pool users runs in this
//! process and is not counted, but uses the same cores: rates are lower bounds.

pub mod conference;
pub mod location;
pub mod media;
pub mod name_service;
pub mod sip;
mod usage;

use std::process::ExitCode;

use dialtone_daemon::exit;
use serde::Serialize;

pub use usage::{Conditions, Disk};

use crate::launcher;

/// Measure CPU time per registration, call and packet, rates of the name service and of the database, and memory
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Conference(conference::Args),
    #[command(hide = true)]
    LoadReplica(location::LoadArgs),
    Location(location::Args),
    Media(media::Args),
    NameService(name_service::Args),
    Sip(sip::Args),
}

/// The measurement could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("the registrar does not answer")]
    NoAnswer,
    #[error(transparent)]
    Launcher(#[from] launcher::Error),
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Service(String),
}

/// Runs the command.
pub fn run(args: Args) -> ExitCode {
    match args.command {
        Command::Conference(args) => conference::run(&args),
        Command::LoadReplica(args) => location::load(&args),
        Command::Location(args) => location::run(&args),
        Command::Media(args) => media::run(&args),
        Command::NameService(args) => name_service::run(&args),
        Command::Sip(args) => sip::run(&args),
    }
}

/// Prints a measurement, as JSON or as lines for people.
fn print<F: Serialize>(
    measured: Result<F, Error>,
    json: bool,
    table: impl FnOnce(&F) -> String,
) -> ExitCode {
    match measured {
        Ok(figures) => {
            match serde_json::to_string_pretty(&figures) {
                Ok(text) if json => println!("{text}"),
                _ => print!("{}", table(&figures)),
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(exit::UNAVAILABLE)
        }
    }
}

/// The middle one; 0 of none.
fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
