//! Loading a database as a proxy does, in a process of its own: what it needs is measured as the growth of its memory,
//! and nothing that was there before can be used for it.

use std::{
    path::Path,
    process::{Command, ExitCode, Stdio},
    sync::mpsc::sync_channel,
};

use dialtone_daemon::exit;
use dialtone_location::{
    Replica, StoreEvent,
    cli::{StoreArgs, TOOL},
};
use serde::{Deserialize, Serialize};

use super::{
    super::{
        Error,
        usage::{cpu_seconds, memory},
    },
    database::{self, Database},
};
use crate::launcher::clock;

/// Load a location database into memory as a proxy does; time and memory as JSON
#[derive(Debug, clap::Args)]
pub(in super::super) struct Args {
    #[command(flatten)]
    store: StoreArgs,
}

/// A replica that was loaded.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Loaded {
    pub contacts: usize,
    /// From opening the database until the last record was in the replica.
    pub seconds: f64,
    /// Of the process meanwhile.
    pub cpu_seconds: f64,
    /// By how much the memory of the process grew, bytes.
    pub memory: u64,
    /// What the replica says of itself, bytes.
    pub counted: usize,
}

impl Loaded {
    /// Resident memory.
    pub fn bytes_per_contact(&self) -> f64 {
        self.memory as f64 / self.contacts.max(1) as f64
    }

    pub fn seconds_per_million(&self) -> f64 {
        self.seconds * 1e6 / self.contacts.max(1) as f64
    }
}

pub(super) fn run(args: &Args) -> ExitCode {
    match load(&args.store) {
        Ok(loaded) => {
            println!("{}", serde_json::to_string(&loaded).unwrap_or_default());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(exit::UNAVAILABLE)
        }
    }
}

fn load(store: &StoreArgs) -> Result<Loaded, Error> {
    let own = std::process::id();
    let (before, begun, cpu) = (memory(own)?, clock(), cpu_seconds(own)?);
    // Bounded: what is read faster than it is taken in would be memory that is never given back.
    let (sender, events) = sync_channel(16);
    let store = database::open(store, TOOL, move |batch| drop(sender.send(batch)))?;
    let mut replica = Replica::new();
    'loading: loop {
        let batch = events.recv().map_err(|_| Error::Service("the store ended".to_owned()))?;
        for event in batch {
            match event {
                StoreEvent::Changes(records) => {
                    records.iter().for_each(|record| _ = replica.apply(record));
                }
                StoreEvent::Loaded => break 'loading,
                StoreEvent::Behind(reason) => return Err(Error::Service(reason.to_string())),
                _ => {}
            }
        }
    }
    let seconds = clock().saturating_duration_since(begun).as_secs_f64();
    let cpu_seconds = cpu_seconds(own)? - cpu;
    let memory = memory(own)?.saturating_sub(before);
    let stats = replica.stats();
    drop(store);
    Ok(Loaded { contacts: stats.contacts, seconds, cpu_seconds, memory, counted: stats.bytes })
}

/// Has `binary` load it.
pub(super) fn measure(binary: &Path, database: &Database) -> Result<Loaded, Error> {
    let mut command = Command::new(binary);
    command.args(["figures", "load-replica"]).stdin(Stdio::null()).stderr(Stdio::inherit());
    database.name_to(&mut command);
    let output = command.output()?;
    serde_json::from_slice(&output.stdout)
        .map_err(|_| Error::Service(format!("loading failed: {}", output.status)))
}
