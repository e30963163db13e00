//! The embedded backend: one SQLite file in WAL mode, as durable as with `synchronous=FULL`, shared by the proxies of
//! a machine.
//!
//! Three threads per open store, each with a connection of its own:
//! - `writer` takes what is queued, carries it out in one transaction and answers after its COMMIT and an fsync (group
//!   commit);
//! - `reader` answers lookups;
//! - `feeder` hands out the table at start and then what other writers changed, found by `PRAGMA data_version`.
//!
//! A process that is killed leaves the file consistent. One that is *frozen* in the middle of a transaction (about
//! 0.1 ms, the fsync comes later) keeps the others from writing until it continues or is killed; reading goes on.

mod feeder;
mod reader;
mod rows;
mod schema;
mod users;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::Error;
use crate::record::{MISSED_AFTER, WriterId};
use crate::store::{LocationStore, Request, Sink, SubmitError, Ticket};

/// How to open a file.
#[derive(Clone, Debug)]
pub struct Config {
    /// Made if it does not exist; its folder must exist.
    pub path: PathBuf,
    /// This process; no two living processes may share one.
    pub writer: WriterId,
    /// How many requests may wait for a thread; more are refused.
    pub queue: usize,
    /// The largest group that one transaction commits.
    pub batch: usize,
    /// The shortest time from the beginning of one transaction to that of the next. A request that comes after a pause
    /// is carried out at once; under load a transaction with its fsync costs more than what is in it, so groups get time
    /// to form.
    pub pace: Duration,
    /// How often the feeder looks for changes of others; up to four times as long while there are none.
    pub poll: Duration,
    /// When changes were not read for so long, everything is: removals may have been forgotten meanwhile.
    pub missed_after: Duration,
}

impl Config {
    pub fn new(path: impl Into<PathBuf>, writer: WriterId) -> Self {
        Self {
            path: path.into(),
            writer,
            queue: 16_384,
            batch: 1_000,
            pace: Duration::from_millis(10),
            poll: Duration::from_millis(15),
            missed_after: MISSED_AFTER,
        }
    }
}

/// Counts since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Transactions committed.
    pub commits: u64,
    /// Requests carried out in them.
    pub committed: u64,
    /// Times that a write had to wait for another process.
    pub busy: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) commits: AtomicU64,
    pub(crate) committed: AtomicU64,
    pub(crate) busy: AtomicU64,
}

/// What this process itself committed, as ranges of its sequence: the feeder need not read them back.
pub(crate) type OwnCommits = Arc<Mutex<Vec<(u64, u64)>>>;

/// An open file. Dropping it carries out what is queued, then closes the file; it waits about two seconds for a
/// process that holds the lock.
pub struct SqliteStore {
    path: PathBuf,
    counters: Arc<Counters>,
    writes: Option<SyncSender<(Ticket, Request)>>,
    reads: Option<SyncSender<(Ticket, Request)>>,
    closing: Arc<AtomicBool>,
    /// Dropped to stop the feeder.
    feeding: Option<SyncSender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteStore").field("path", &self.path).finish_non_exhaustive()
    }
}

impl SqliteStore {
    /// Opens the file, makes it if need be, and starts to load it into `sink`.
    ///
    /// # Errors
    /// Names the file: it is foreign, damaged, of a newer version, or cannot be opened or written.
    pub fn open(config: Config, sink: impl Sink) -> Result<Self, Error> {
        let sink: Arc<dyn Sink> = Arc::new(sink);
        let counters = Arc::new(Counters::default());
        let own = OwnCommits::default();
        let closing = Arc::new(AtomicBool::new(false));
        let writing = schema::open_writing(&config.path)?;
        let log = schema::open_log(&config.path)?;
        let reading = schema::open_reading(&config.path)?;
        let feeding = schema::open_reading(&config.path)?;
        let (writes, write_queue) = sync_channel(config.queue);
        let (reads, read_queue) = sync_channel(config.queue);
        let (stop, stopped) = sync_channel(1);
        let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(body)
                .map_err(|source| Error::Io { path: config.path.clone(), source })
        };
        let writer = writer::Writer::new(
            writing,
            log,
            &config,
            own.clone(),
            counters.clone(),
            closing.clone(),
            sink.clone(),
        );
        let feeder = feeder::Feeder::new(feeding, &config, own, sink.clone());
        let threads = vec![
            spawn("location-write", Box::new(move || writer.run(&write_queue)))?,
            spawn("location-read", Box::new(move || reader::run(reading, &read_queue, &*sink)))?,
            spawn("location-feed", Box::new(move || feeder.run(&stopped)))?,
        ];
        Ok(Self {
            path: config.path,
            counters,
            writes: Some(writes),
            reads: Some(reads),
            closing,
            feeding: Some(stop),
            threads,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn stats(&self) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            commits: read(&self.counters.commits),
            committed: read(&self.counters.committed),
            busy: read(&self.counters.busy),
        }
    }
}

impl LocationStore for SqliteStore {
    fn submit(&self, ticket: Ticket, request: Request) -> Result<(), SubmitError> {
        let queue = match request {
            Request::Lookup { .. }
            | Request::ReadClaim { .. }
            | Request::ListClaims { .. }
            | Request::ListCredentials { .. } => &self.reads,
            Request::Save(_)
            | Request::Expire { .. }
            | Request::Claim(_)
            | Request::Merge(_)
            | Request::Credentials(_) => &self.writes,
        };
        match queue.as_ref().map(|queue| queue.try_send((ticket, request))) {
            Some(Ok(())) => Ok(()),
            Some(Err(TrySendError::Full(_))) => Err(SubmitError::Full),
            Some(Err(TrySendError::Disconnected(_))) | None => Err(SubmitError::Closed),
        }
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Relaxed);
        drop((self.writes.take(), self.reads.take(), self.feeding.take()));
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!(path = %self.path.display(), "a thread of the location database ended by a panic");
            }
        }
    }
}

/// Whether `path` can be opened, belongs to us and answers a query: the check of a sidecar.
///
/// # Errors
/// As [`SqliteStore::open`]; a file that does not exist is an error here.
pub fn check(path: &Path) -> Result<(), Error> {
    let connection = schema::open_reading(path)?;
    connection
        .query_row("SELECT count(*) FROM writers", [], |row| row.get::<_, i64>(0))
        .map(drop)
        .map_err(|source| schema::explain(path, source))
}

/// Makes an empty database if the file does not exist, so that it can be watched before anyone writes to it.
///
/// # Errors
/// As [`SqliteStore::open`].
pub fn create(path: &Path) -> Result<(), Error> {
    schema::open_writing(path).map(drop)
}
