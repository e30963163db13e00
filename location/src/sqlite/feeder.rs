//! The thread that hands out the whole table at start, then what other writers changed.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};

use crate::record::{Record, Vector, WriterId};
use crate::sqlite::{Config, OwnCommits, rows, users};
use crate::store::{Sink, StoreEvent};

/// Records per event, so that the receiver is never busy for long.
const CHUNK: usize = 500;
/// When nothing changes, the pause between two looks doubles up to so many times the configured one: waking up is what
/// an idle process spends its time on.
const QUIET: u32 = 4;

pub(crate) struct Feeder {
    connection: Connection,
    writer: WriterId,
    own: OwnCommits,
    sink: Arc<dyn Sink>,
    poll: Duration,
    seen: Vector,
    /// The last change of credentials that was handed out.
    revision: u64,
    data_version: Option<i64>,
    /// When it was known last that nothing is missing.
    looked: Instant,
    missed_after: Duration,
    loaded: bool,
    behind: bool,
}

impl Feeder {
    pub(crate) fn new(
        connection: Connection,
        config: &Config,
        own: OwnCommits,
        sink: Arc<dyn Sink>,
    ) -> Self {
        Self {
            connection,
            writer: config.writer,
            own,
            sink,
            poll: config.poll,
            seen: Vector::default(),
            revision: 0,
            data_version: None,
            looked: clock(),
            missed_after: config.missed_after,
            loaded: false,
            behind: false,
        }
    }

    pub(crate) fn run(mut self, stopped: &Receiver<()>) {
        let mut pause = self.poll;
        loop {
            let before = self.data_version;
            match self.step() {
                Ok(()) if self.behind => {
                    self.behind = false;
                    (self.sink)(vec![StoreEvent::Recovered]);
                }
                Ok(()) => {}
                Err(error) => {
                    // Read everything since the last known vector again.
                    self.data_version = None;
                    if !self.behind {
                        self.behind = true;
                        (self.sink)(vec![StoreEvent::Behind(error.to_string().into())]);
                    }
                }
            }
            let quiet = self.data_version == before && !self.behind;
            pause = if quiet { (pause * 2).min(self.poll * QUIET) } else { self.poll };
            if stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }

    fn step(&mut self) -> rusqlite::Result<()> {
        let version: i64 = self
            .connection
            .prepare_cached("PRAGMA data_version")?
            .query_row([], |row| row.get(0))?;
        let looked = clock();
        if self.data_version == Some(version) {
            self.looked = looked;
            return Ok(());
        }
        if self.loaded && looked.saturating_duration_since(self.looked) > self.missed_after {
            self.loaded = false;
            (self.sink)(vec![StoreEvent::Reloading]);
        }
        if self.loaded {
            self.skip_own();
            let (changes, seen) = changes_since(&self.connection, &self.seen)?;
            self.hand_out(changes);
            self.seen = seen;
            let revision = users::revision(&self.connection)?;
            if revision != self.revision {
                self.revision = self.hand_out_credentials(true)?;
            }
        } else {
            self.load()?;
            self.loaded = true;
            (self.sink)(vec![StoreEvent::Loaded]);
        }
        self.data_version = Some(version);
        self.looked = looked;
        Ok(())
    }

    /// Steps over what this process committed and has already told its owner.
    fn skip_own(&mut self) {
        let mut own = self.own.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        own.retain(|&(before, after)| {
            let seen = self.seen.get(self.writer);
            if seen == before {
                self.seen.advance(self.writer, after);
            }
            // A gap before it: somebody else wrote under our name, so the range is read like any other.
            seen < before
        });
    }

    fn load(&mut self) -> rusqlite::Result<()> {
        let transaction = self.connection.unchecked_transaction()?;
        let seen = writers(&transaction)?;
        let mut statement =
            transaction.prepare(&format!("SELECT {} FROM bindings", rows::COLUMNS))?;
        let mut chunk = Vec::with_capacity(CHUNK);
        for record in statement.query_map([], rows::read)? {
            chunk.push(record?);
            if chunk.len() == CHUNK {
                (self.sink)(vec![StoreEvent::Changes(std::mem::replace(
                    &mut chunk,
                    Vec::with_capacity(CHUNK),
                ))]);
            }
        }
        self.hand_out(chunk);
        self.seen = seen;
        // Removed users, who are left out, have revisions as well.
        let revision = users::revision(&transaction)?;
        self.hand_out_credentials(false)?;
        drop(statement);
        drop(transaction);
        self.revision = revision;
        Ok(())
    }

    /// The changes of credentials that were not handed out yet, and the revision of the last one. What comes in
    /// meanwhile has a higher revision: nothing is skipped.
    fn hand_out_credentials(&self, removed_too: bool) -> rusqlite::Result<u64> {
        let mut revision = self.revision;
        loop {
            let chunk = users::since(&self.connection, revision, removed_too, CHUNK)?;
            let Some(last) = chunk.last() else { return Ok(revision) };
            revision = last.revision;
            (self.sink)(vec![StoreEvent::Credentials(chunk)]);
        }
    }

    fn hand_out(&self, mut records: Vec<Record>) {
        while records.len() > CHUNK {
            let rest = records.split_off(CHUNK);
            (self.sink)(vec![StoreEvent::Changes(std::mem::replace(&mut records, rest))]);
        }
        if !records.is_empty() {
            (self.sink)(vec![StoreEvent::Changes(records)]);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "driver: how long changes were not read")]
fn clock() -> Instant {
    Instant::now()
}

/// The records that some writer wrote after what `seen` says, and the vector afterwards.
///
/// One read transaction, so that the vector belongs to the records.
pub(crate) fn changes_since(
    connection: &Connection,
    seen: &Vector,
) -> rusqlite::Result<(Vec<Record>, Vector)> {
    let transaction = connection.unchecked_transaction()?;
    let now = writers(&transaction)?;
    let mut records = Vec::new();
    let sql = format!(
        "SELECT {} FROM bindings WHERE writer = ?1 AND sequence > ?2 ORDER BY sequence",
        rows::COLUMNS
    );
    let mut statement = transaction.prepare_cached(&sql)?;
    for (&writer, &sequence) in &now.0 {
        if sequence > seen.get(writer) {
            for record in
                statement.query_map(params![writer.0, seen.get(writer) as i64], rows::read)?
            {
                records.push(record?);
            }
        }
    }
    Ok((records, now))
}

fn writers(connection: &Connection) -> rusqlite::Result<Vector> {
    let mut statement = connection.prepare_cached("SELECT id, sequence FROM writers")?;
    let rows =
        statement.query_map([], |row| Ok((WriterId(row.get(0)?), row.get::<_, i64>(1)? as u64)))?;
    rows.collect::<rusqlite::Result<_>>().map(Vector)
}
