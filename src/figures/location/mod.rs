//! `dialtone figures location`: how many bindings a second the location database commits, how much memory the copy of a
//! proxy needs and how fast it is loaded, and how many REGISTERs a second pass gateway and proxy.

mod database;
mod plain;
mod registers;
mod replica;

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::mpsc::channel,
    time::Duration,
};

use clap::value_parser;
use dialtone_location::WriterId;
use serde::Serialize;

use super::{
    Conditions, Error, median, print,
    usage::{Disk, cpu_seconds},
};
use crate::launcher::clock;

pub use database::Kind;
pub use registers::Row;
pub(super) use replica::Args as LoadArgs;
pub use replica::Loaded;

use database::Database;
use plain::Plain;

/// What is promised for each database: bindings committed per second, seconds to load a million contacts.
const COMMITTED_GALERA: f64 = 15_000.0;
const COMMITTED_SQLITE: f64 = 20_000.0;
const LOADED_WITHIN: f64 = 20.0;
const BYTES_PER_CONTACT: f64 = 400.0;

/// Bindings committed per second, memory and loading of a proxy's copy, REGISTERs per second
///
/// A database of its own is filled with contacts, each a save of its own, many of which wait at a time; then contacts are
/// refreshed in random order. A process of its own loads them as a proxy does. Last, two of everything run as processes
/// in a loopback slice of their own, and phones register through one gateway at each rate.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The database
    #[arg(long, value_enum, default_value = "sqlite")]
    store: Kind,
    /// Contacts that are saved and loaded
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = value_parser!(u32).range(1..=10_000_000))]
    contacts: u32,
    /// Contacts that are refreshed in each run
    #[arg(long, value_name = "N", default_value_t = 200_000, value_parser = value_parser!(u32).range(1..=10_000_000))]
    refreshed: u32,
    /// How often
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = value_parser!(u32).range(1..=100))]
    runs: u32,
    /// Saves that wait for their answers at a time
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = value_parser!(u32).range(1..=16_000))]
    outstanding: u32,
    /// REGISTERs per second, one rate after the other
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1000,2000,5000", value_parser = value_parser!(u32).range(1..=20_000))]
    register_rates: Vec<u32>,
    /// Seconds of REGISTERs at each rate; 0 leaves them out
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = value_parser!(u32).range(0..=3600))]
    duration: u32,
    /// Folder for SQLite's file, on the disk that is to be measured [default: the system's for temporary files, where
    /// nodes of a cluster always are]
    #[arg(long, value_name = "PATH")]
    folder: Option<PathBuf>,
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Plan {
    pub store: Kind,
    pub contacts: u32,
    pub refreshed: u32,
    pub runs: u32,
    pub outstanding: u32,
    /// Per second.
    pub register_rates: Vec<u32>,
    /// Of each of them.
    pub duration: Duration,
    /// Of the database.
    pub folder: PathBuf,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    pub conditions: Conditions,
    pub disk: Disk,
    /// What decides about durability, with its name.
    pub settings: Vec<(String, String)>,
    /// Committed per second while the database grew to its size.
    pub new_per_second: f64,
    /// CPU microseconds of this process for each of these, generating them included.
    pub new_cpu_us: f64,
    /// The same of contacts that were there already, run by run.
    pub refreshed_per_second: Vec<f64>,
    /// The same of these.
    pub refreshed_cpu_us: f64,
    /// What a plain client reaches that writes rows of the same kind to the same cluster, run by run.
    pub plain_per_second: Vec<f64>,
    /// When there was a fifth of the contacts, and all of them.
    pub loaded_fifth: Loaded,
    pub loaded: Loaded,
    pub registers: Vec<Row>,
}

impl Figures {
    /// The highest rate at which no REGISTER failed, with none below it that did.
    pub fn registers_without_failure(&self) -> u32 {
        let clean = self.registers.iter().take_while(|row| row.failed == 0);
        clean.map(|row| row.rate).max().unwrap_or_default()
    }
}

pub(super) fn run(args: &Args) -> ExitCode {
    let plan = Plan {
        store: args.store,
        contacts: args.contacts,
        refreshed: args.refreshed,
        runs: args.runs,
        outstanding: args.outstanding,
        register_rates: args.register_rates.clone(),
        duration: Duration::from_secs(args.duration.into()),
        folder: args.folder.clone().unwrap_or_else(std::env::temp_dir),
    };
    let measured = std::env::current_exe()
        .map_err(Error::from)
        .and_then(|binary| measure(&binary, &plan, |line| eprintln!("{line}")));
    print(measured, args.json, |figures| table(&plan, figures))
}

/// `dialtone figures load-replica`.
pub(super) fn load(args: &LoadArgs) -> ExitCode {
    replica::run(args)
}

/// Measures `plan` with processes of `binary`; says what it is doing.
///
/// # Errors
/// When the database cannot be opened or refuses, or the system does not come into service.
pub fn measure(
    binary: &Path,
    plan: &Plan,
    mut progress: impl FnMut(&str),
) -> Result<Figures, Error> {
    let conditions = Conditions::begin();
    let database = Database::new(binary, plan.store, &plan.folder)?;
    let disk = Disk::measure(&database.folder)?;
    let contacts = u64::from(plan.contacts);

    let (sender, events) = channel();
    let store = database.open(WriterId(1), move |batch| {
        // Whoever measures may have given up.
        let _ = sender.send(batch);
    })?;
    // A database with other tables only is not taken for ours.
    let mut plain = Plain::connect(&database)?;
    let settings = match &mut plain {
        Some(plain) => plain.settings()?,
        None => {
            vec![("SQLite".to_owned(), "write-ahead log, fsync before every answer".to_owned())]
        }
    };
    progress(&format!("saving {contacts} contacts"));
    let own = std::process::id();
    let (begun, cpu) = (clock(), cpu_seconds(own)?);
    let outstanding = plan.outstanding as usize;
    let mut users = (0..contacts).map(|n| (n * STRIDE) % contacts);
    let fifth = users.by_ref().take(contacts as usize / 5);
    database::save_all(&*store, &events, fifth, 1, outstanding)?;
    let paused = clock();
    let loaded_fifth = replica::measure(binary, &database)?;
    let paused = clock().saturating_duration_since(paused);
    database::save_all(&*store, &events, users, 1, outstanding)?;
    let saving = clock().saturating_duration_since(begun).saturating_sub(paused);
    let new_per_second = contacts as f64 / saving.as_secs_f64();
    let new_cpu_us = 1e6 * (cpu_seconds(own)? - cpu) / contacts as f64;

    let (mut refreshed_per_second, mut plain_per_second) = (Vec::new(), Vec::new());
    if let Some(plain) = &mut plain {
        progress("a plain client writes as many rows as are refreshed");
        plain.write(plan.refreshed.min(plan.contacts).into(), 0)?;
    }
    let mut cpu_us = Vec::new();
    for run in 1..=plan.runs {
        progress(&format!("run {run} of {}: refreshing {} of them", plan.runs, plan.refreshed));
        let count = u64::from(plan.refreshed.min(plan.contacts));
        let first = u64::from(run) * count;
        let users = (first..first + count).map(|n| (n % contacts * STRIDE) % contacts);
        let (begun, cpu) = (clock(), cpu_seconds(own)?);
        database::save_all(&*store, &events, users, run + 1, outstanding)?;
        let seconds = clock().saturating_duration_since(begun).as_secs_f64();
        refreshed_per_second.push(count as f64 / seconds);
        if let Some(plain) = &mut plain {
            plain_per_second.push(plain.write(count, run)?);
        }
        cpu_us.push(1e6 * (cpu_seconds(own)? - cpu) / count as f64);
    }
    drop(store);

    progress("loading them");
    let loaded = replica::measure(binary, &database)?;
    drop(database);
    let mut registers = Vec::new();
    if !plan.duration.is_zero() {
        registers = registers::measure(binary, plan, &mut progress)?;
    }
    Ok(Figures {
        conditions: conditions.end(),
        disk,
        settings,
        new_per_second,
        new_cpu_us,
        refreshed_per_second,
        refreshed_cpu_us: median(cpu_us),
        plain_per_second,
        loaded_fifth,
        loaded,
        registers,
    })
}

/// A prime above any number of contacts: multiples of it visit all of them in an order that no index likes.
const STRIDE: u64 = (1 << 31) - 1;

/// The figures as lines for people, with what is promised.
pub fn table(plan: &Plan, figures: &Figures) -> String {
    let Figures { conditions, disk, loaded, refreshed_per_second, .. } = figures;
    let mut text = format!("{conditions}\n{disk}\n");
    for (name, value) in &figures.settings {
        let _ = writeln!(text, "{name}: {value}");
    }
    let held = |held: bool| if held { "held" } else { "MISSED" };
    let _ = writeln!(text, "\nbindings committed per second, {} outstanding", plan.outstanding);
    let target = plan.store.committed();
    let _ = writeln!(
        text,
        "  {:<30}{:>10.0}  at least {target:.0}: {}; {:.1} us CPU each",
        format!("new, up to {} contacts", plan.contacts),
        figures.new_per_second,
        held(figures.new_per_second >= target),
        figures.new_cpu_us,
    );
    let middle = median(refreshed_per_second.iter().copied());
    let least = refreshed_per_second.iter().copied().fold(f64::INFINITY, f64::min);
    let _ = writeln!(
        text,
        "  {:<30}{middle:>10.0}  at least {target:.0}: {}; {} runs, {least:.0} in the slowest, {:.1} us CPU each",
        "refreshed",
        held(middle >= target),
        refreshed_per_second.len(),
        figures.refreshed_cpu_us,
    );
    if !figures.plain_per_second.is_empty() {
        let plain = median(figures.plain_per_second.iter().copied());
        let _ = writeln!(
            text,
            "  {:<30}{plain:>10.0}  {} rows of the same kind a transaction, one connection; ratio {:.2}",
            "a plain client's refreshed rows",
            plain::ROWS,
            middle / plain.max(1.0),
        );
    }
    let _ = writeln!(
        text,
        "\nreplica of {} contacts\n  {:<30}{:>10.0}  at most {BYTES_PER_CONTACT:.0}: {}; {:.0} by its own count",
        loaded.contacts,
        "bytes of memory a contact",
        loaded.bytes_per_contact(),
        held(loaded.bytes_per_contact() <= BYTES_PER_CONTACT),
        loaded.counted as f64 / loaded.contacts.max(1) as f64,
    );
    for loaded in [&figures.loaded_fifth, loaded] {
        let _ = writeln!(
            text,
            "  {:<30}{:>10.1}  at most {LOADED_WITHIN:.0} for a million: {}; {:.1} s CPU",
            format!("seconds to load {}", loaded.contacts),
            loaded.seconds,
            held(loaded.seconds_per_million() <= LOADED_WITHIN),
            loaded.cpu_seconds,
        );
    }
    if !figures.registers.is_empty() {
        text += &registers::table(&figures.registers);
        let _ = writeln!(
            text,
            "highest rate without a failure: {} REGISTER/s",
            figures.registers_without_failure()
        );
    }
    text
}
