//! `dialtone figures name-service`: how many resolutions and registrations a second one registrar answers and what each
//! costs, what it costs to keep elements alive, and what a million elements do to memory, to registrations, and to the
//! start of another registrar.
//!
//! | file | what |
//! |---|---|
//! | `rates` | resolutions and registrations a second |
//! | `load` | many elements: kept alive, registered, taken over |
//! | `elements`, `user` | who registers, who asks |
//! | `table` | lines for people |

mod elements;
mod load;
mod rates;
mod table;
mod user;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::value_parser;
use dialtone_transport::{ASAP_PORT, ENCAPSULATION_PORT, Link, Remote};
use serde::Serialize;

use super::{Conditions, Error, print};
use crate::launcher::{Launcher, Layout};

pub use load::{KeptAlive, Many, TakenOver};
pub use rates::Row;
pub use table::table;

/// How long a registrar may take to answer anything.
const ANSWER: Duration = Duration::from_secs(10);

/// Rates of one registrar, what keeping elements alive costs it, and what many elements do to it
///
/// Registrars run as processes in a loopback slice of their own. Pools are resolved over TCP and over SCTP on one
/// connection: one at a time, then 64 at a time; elements register on one association. Then elements on many
/// associations are kept alive at a period of 1 s. At last many elements register without keep-alives, one at a time on
/// each association, and a second registrar starts and takes everything over from the first. The asking side shares the
/// cores.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Seconds of each run
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = value_parser!(u32).range(1..=3600))]
    duration: u32,
    /// How often each rate is measured; 0: not
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = value_parser!(u32).range(0..=100))]
    runs: u32,
    /// Elements that are kept alive; 0: none
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = value_parser!(u32).range(0..=1_000_000))]
    kept_alive: u32,
    /// Elements that register and are taken over; 0: none
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = value_parser!(u32).range(0..=8_000_000))]
    elements: u32,
    /// Associations of these elements
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = value_parser!(u32).range(1..=1000))]
    associations: u32,
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Of each run.
    pub duration: Duration,
    pub runs: u32,
    pub kept_alive: u32,
    pub elements: u32,
    pub associations: u32,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    pub conditions: Conditions,
    pub rows: Vec<Row>,
    pub kept_alive: Option<KeptAlive>,
    pub many: Option<Many>,
}

pub(super) fn run(args: &Args) -> ExitCode {
    let plan = Plan {
        duration: Duration::from_secs(args.duration.into()),
        runs: args.runs,
        kept_alive: args.kept_alive,
        elements: args.elements,
        associations: args.associations,
    };
    let measured = std::env::current_exe()
        .map_err(Error::from)
        .and_then(|binary| measure(&binary, plan, |line| eprintln!("{line}")));
    print(measured, args.json, table)
}

/// Measures `plan` with registrars of `binary`; says what it is doing.
///
/// # Errors
/// When a registrar does not come into service, stops answering or refuses an element.
pub fn measure(
    binary: &Path,
    plan: Plan,
    mut progress: impl FnMut(&str),
) -> Result<Figures, Error> {
    let conditions = Conditions::begin();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let binary = binary.to_owned();
        let rows = match plan.runs {
            0 => Vec::new(),
            _ => rates::measure(&binary, plan, &mut progress).await?,
        };
        let kept_alive = match plan.kept_alive {
            0 => None,
            _ => Some(load::keep_alive(&binary, plan, &mut progress).await?),
        };
        let many = match plan.elements {
            0 => None,
            _ => Some(load::many(&binary, plan, &mut progress).await?),
        };
        Ok(Figures { conditions: conditions.end(), rows, kept_alive, many })
    })
}

/// Registrars without limits in a slice of their own; the first is in service.
fn start(
    binary: &PathBuf,
    registrars: u8,
    keep_alive: Option<Duration>,
) -> Result<Launcher, Error> {
    let layout = Layout {
        registrars,
        registrars_unlimited: true,
        registrars_keep_alive: keep_alive,
        ..Layout::default()
    };
    let mut launcher = Launcher::for_test(binary, layout)?;
    launcher.start_registrar(1)?;
    Ok(launcher)
}

/// A registrar, from 1, by SCTP or TCP.
fn remote(launcher: &Launcher, n: u8, link: Link) -> Remote {
    let (port, sctp_port) = match link {
        Link::Sctp => (ENCAPSULATION_PORT, ASAP_PORT),
        _ => (ASAP_PORT, 0),
    };
    Remote { link, addr: SocketAddr::new(launcher.slice().host(n), port), sctp_port }
}

/// Where elements and users are.
fn local(launcher: &Launcher, n: u8) -> SocketAddr {
    SocketAddr::new(launcher.slice().host(200 + n), 0)
}

/// What the launcher calls a registrar.
fn name(n: u8) -> String {
    format!("registrar-ns-{n}")
}
