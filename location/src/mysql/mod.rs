//! The backend for more than one machine: MariaDB, alone or as a Galera cluster.
//!
//! Nodes come in through a watch channel and may change at any time. Three threads per open store, each with a
//! runtime of its own:
//! - `location-write`: the task `writer`, which commits what is queued, one transaction at a time, at the node that all
//!   processes prefer; and one that looks for that node when it was lost;
//! - `location-read`: `reader` answers lookups;
//! - `location-feed`: `feeder` hands out the tables at start and then what other writers changed. The sink may make it
//!   wait; lookups do not.
//!
//! `schema` says what is stored and why decisions are exact, `writer` what happens when nodes fail. What to know:
//! - Writes of all processes go one after the other, as with one SQLite file; a transaction takes up to 1,000 requests,
//!   so that is no limit before some ten thousand a second.
//! - Lookups and the feeder see what their node has applied: in a cluster that may be milliseconds behind a commit at
//!   another node. Nothing is decided by what they see.
//! - A cluster that loses a node stands still until it knows (`evs.suspect_timeout`); writes wait for it, reads go on.
//! - When all nodes have been gone for longer than that (`reach`), nobody waits: requests are answered with a failure at
//!   once, while the feeder looks for a node.
//! - A write that was answered with a failure may be carried out later. Saves are conditional, so that is harmless.

mod ahead;
mod connect;
mod feeder;
mod group;
mod options;
mod queue;
mod reach;
mod reader;
mod route;
mod schema;
mod sql;
mod writer;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use self::connect::{Connection, Fault};
pub use self::options::ClientFile;
use self::queue::{Entry, Queue};
use self::reach::Reach;
use self::route::Route;
use self::schema::Failure;
use crate::error::Error;
use crate::record::{Vector, WriterId};
use crate::store::{LocationStore, Request, Sink, SubmitError, Ticket};

/// For statements that only opening and tools need; making a table takes its time in a cluster.
const ADMIN_PATIENCE: Duration = Duration::from_secs(10);
/// Why a request is refused that waits for nobody.
const NO_NODE: &str = "no database node can be reached";
/// Between two attempts to open.
const OPEN_PAUSE: Duration = Duration::from_millis(200);

/// One server of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node {
    /// Pool element identifier; all processes prefer to write to the node with the smallest one.
    pub id: u32,
    pub address: SocketAddr,
}

/// How to use a database.
#[derive(Clone, Debug)]
pub struct Config {
    /// The servers, in any order; may be empty for a while.
    pub nodes: watch::Receiver<Vec<Node>>,
    pub client: ClientFile,
    /// This process; no two living processes may share one.
    pub writer: WriterId,
    /// How many requests may wait; more are refused.
    pub queue: usize,
    /// The largest group that one transaction commits.
    pub batch: usize,
    /// The shortest time from the beginning of one transaction to that of the next.
    pub pace: Duration,
    /// How often the feeder looks for changes of others; up to four times as long while there are none.
    pub poll: Duration,
    /// A write that could not be committed for so long is answered with a failure; it may be carried out later all the
    /// same.
    pub patience: Duration,
    /// When no node could be reached for so long, everything is answered with a failure at once, until one can be. More
    /// than a cluster needs to go on without one of its nodes: during that time none may be reached either.
    pub stall: Duration,
    /// How long opening may take; `None` waits until a server is there.
    pub open_within: Option<Duration>,
}

impl Config {
    pub fn new(nodes: watch::Receiver<Vec<Node>>, client: ClientFile, writer: WriterId) -> Self {
        Self {
            nodes,
            client,
            writer,
            queue: 16_384,
            batch: 1_000,
            pace: Duration::from_millis(5),
            poll: Duration::from_millis(20),
            patience: Duration::from_secs(5),
            stall: Duration::from_millis(3_500),
            open_within: None,
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
    /// Transactions that were rolled back and tried again: deadlocks, failed certifications, rows that had changed.
    pub conflicts: u64,
    /// Times that a node was given up.
    pub moves: u64,
    /// Transactions whose outcome was unknown, and which turned out to be committed.
    pub doubts: u64,
    /// The node that is written to, if one is.
    pub node: Option<Node>,
}

#[derive(Debug, Default)]
struct Counters {
    commits: AtomicU64,
    committed: AtomicU64,
    conflicts: AtomicU64,
    moves: AtomicU64,
    doubts: AtomicU64,
}

/// What the tasks of a store have in common.
struct Shared {
    sink: Box<dyn Sink>,
    queue: Queue,
    reach: Reach,
    counters: Counters,
    node: Mutex<Option<Node>>,
    /// What this process itself committed, as ranges of its sequence: the feeder need not read them back.
    own: Mutex<Vec<(u64, u64)>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("counters", &self.counters).finish_non_exhaustive()
    }
}

impl Shared {
    fn set_node(&self, node: Option<Node>) {
        *lock(&self.node) = node;
    }

    fn note_own(&self, before: u64, after: u64) {
        let mut own = lock(&self.own);
        match own.last_mut() {
            Some(last) if last.1 == before => last.1 = after,
            _ => own.push((before, after)),
        }
    }

    /// Steps over what this process committed and has already told its owner.
    fn skip_own(&self, seen: &mut Vector, writer: WriterId) {
        lock(&self.own).retain(|&(before, after)| {
            let last = seen.get(writer);
            if last == before {
                seen.advance(writer, after);
            }
            // A gap before it: the range is read like any other.
            last < before
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An open database. Dropping it carries out what is queued if that takes no more than about two seconds; it blocks
/// meanwhile.
pub struct MysqlStore {
    shared: Arc<Shared>,
    reads: Option<mpsc::Sender<(Ticket, Request)>>,
    /// Dropped to stop the feeder.
    feeding: Option<watch::Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for MysqlStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MysqlStore").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl MysqlStore {
    /// Waits for a server, makes the tables if need be, and starts to load what they hold into `sink`. Cancel safe.
    ///
    /// # Errors
    /// What will not go away by waiting: the user is refused, the database belongs to something else or is of a newer
    /// version; or nothing answered within [`Config::open_within`].
    pub async fn open(config: Config, sink: impl Sink) -> Result<Self, Error> {
        let mut route = Route::new(config.nodes.clone(), config.client.clone());
        let (connection, newest) = prepared(&config, &mut route).await?;
        let shared = Arc::new(Shared {
            sink: Box::new(sink),
            queue: Queue::new(config.queue),
            reach: Reach::new(config.stall),
            counters: Counters::default(),
            node: Mutex::default(),
            own: Mutex::default(),
        });
        let (reads, read_queue) = mpsc::channel(config.queue.max(1));
        let (feeding, stop) = watch::channel(());
        let mut this = Self {
            shared: shared.clone(),
            reads: Some(reads),
            feeding: Some(feeding),
            threads: Vec::new(),
        };
        // The connection that has prepared the tables belongs to the caller's runtime, which may end before the store.
        let first = connection.node;
        drop(connection);
        let (id, poll) = (config.writer, config.poll);
        let (write_shared, write_route) = (shared.clone(), route.clone());
        this.spawn("location-write", async move {
            writer::Writer::new(write_shared, &config, write_route, newest).run().await;
        })?;
        tracing::debug!(node = %first.address, "database ready");
        this.spawn("location-read", reader::run(shared.clone(), route.clone(), read_queue))?;
        this.spawn("location-feed", feeder::Feeder::new(shared, id, poll, route).run(stop))?;
        Ok(this)
    }

    fn spawn(
        &mut self,
        name: &str,
        body: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), Error> {
        let io = |source| Error::Io { path: name.into(), source };
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io)?;
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || runtime.block_on(body))
            .map_err(io)?;
        self.threads.push(thread);
        Ok(())
    }

    pub fn stats(&self) -> Stats {
        let counters = &self.shared.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            commits: read(&counters.commits),
            committed: read(&counters.committed),
            conflicts: read(&counters.conflicts),
            moves: read(&counters.moves),
            doubts: read(&counters.doubts),
            node: *lock(&self.shared.node),
        }
    }
}

impl LocationStore for MysqlStore {
    fn submit(&self, ticket: Ticket, request: Request) -> Result<(), SubmitError> {
        match request {
            Request::Lookup { .. }
            | Request::ReadClaim { .. }
            | Request::ListClaims { .. }
            | Request::ListCredentials { .. } => {
                let Some(reads) = &self.reads else { return Err(SubmitError::Closed) };
                reads.try_send((ticket, request)).map_err(|error| match error {
                    mpsc::error::TrySendError::Full(_) => SubmitError::Full,
                    mpsc::error::TrySendError::Closed(_) => SubmitError::Closed,
                })
            }
            Request::Save(_)
            | Request::Expire { .. }
            | Request::Claim(_)
            | Request::Merge(_)
            | Request::Credentials(_) => {
                self.shared.queue.put(Entry { ticket, request, since: clock() })
            }
        }
    }
}

impl Drop for MysqlStore {
    fn drop(&mut self) {
        self.shared.queue.close();
        drop((self.reads.take(), self.feeding.take()));
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the location database ended by a panic");
            }
        }
    }
}

/// A connection to a node whose tables are ready, and the newest change in them.
async fn prepared(config: &Config, route: &mut Route) -> Result<(Connection, Option<u64>), Error> {
    let begun = clock();
    loop {
        let mut problems = Vec::new();
        for node in route.order() {
            match prepare(config, node).await {
                Ok(prepared) => return Ok(prepared),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing(fault)) => {
                    tracing::debug!(node = %node.address, %fault, "database node not usable yet");
                    problems.push(format!("{}: {fault}", node.address));
                }
            }
        }
        let waited = clock().saturating_duration_since(begun);
        if config.open_within.is_some_and(|within| waited >= within) {
            let problem = if problems.is_empty() {
                "no node is known".to_owned()
            } else {
                problems.join("; ")
            };
            return Err(Error::Unreachable(problem));
        }
        sleep(OPEN_PAUSE).await;
    }
}

async fn prepare(config: &Config, node: Node) -> Result<(Connection, Option<u64>), Failure> {
    let client = &config.client;
    let denied = |fault: Fault| {
        if fault.is_denied() {
            return Failure::Final(Error::Refused {
                node: node.address,
                problem: fault.to_string(),
            });
        }
        Failure::Passing(fault)
    };
    let mut connection =
        Connection::open_within(node, client, None, ADMIN_PATIENCE / 5).await.map_err(denied)?;
    let database = &client.database;
    let enter = format!("USE {database}");
    match connection.query(&enter, ADMIN_PATIENCE).await {
        // ER_BAD_DB_ERROR
        Err(Fault::Server { code: 1049, .. }) => {
            let create = format!("CREATE DATABASE IF NOT EXISTS {database}");
            connection.query(&create, ADMIN_PATIENCE).await.map_err(denied)?;
            connection.query(&enter, ADMIN_PATIENCE).await.map_err(denied)?;
        }
        result => _ = result.map_err(denied)?,
    }
    schema::prepare(&mut connection, database, config.writer).await.map_err(
        |failure| match failure {
            Failure::Passing(fault) => denied(fault),
            failure => failure,
        },
    )?;
    let newest = writer::newest_change(&mut connection).await?;
    Ok((connection, newest))
}

/// What a server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Whether it takes queries: on a Galera node `wsrep_ready`, which is off without a quorum; else always.
    pub ready: bool,
    /// `wsrep_local_state_comment`, as `Synced` or `Donor/Desynced`; empty without Galera.
    pub state: Box<str>,
    /// Members of the cluster that it sees; 0 without Galera.
    pub cluster_size: u32,
}

impl Health {
    pub fn is_galera(&self) -> bool {
        !self.state.is_empty()
    }
}

/// Asks a server how it is: for tools and tests. Needs no tables and no database.
///
/// # Errors
/// It refuses the user, or does not answer within `patience`.
pub async fn check(
    address: SocketAddr,
    client: &ClientFile,
    patience: Duration,
) -> Result<Health, Error> {
    connect::ask(Node { id: 0, address }, client, patience).await.map_err(|fault| {
        if fault.is_denied() {
            return Error::Refused { node: address, problem: fault.to_string() };
        }
        Error::Unreachable(format!("{address}: {fault}"))
    })
}

#[expect(clippy::disallowed_methods, reason = "driver: how long real servers take")]
fn clock() -> Instant {
    Instant::now()
}
