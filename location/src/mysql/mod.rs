//! The backend for more than one machine: MariaDB, alone or as a Galera cluster.
//!
//! Nodes come in through a watch channel and may change at any time. See `writer`, `reader` and `feeder` for what each
//! of them promises.

mod options;

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::watch;

pub use self::options::ClientFile;
use crate::error::Error;
use crate::record::WriterId;
use crate::store::{LocationStore, Request, Sink, SubmitError, Ticket};

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
    /// Transactions whose outcome had to be found out on another connection.
    pub doubts: u64,
    /// The node that is written to, if one is.
    pub node: Option<Node>,
}

/// An open database. Dropping it carries out what is queued if that takes no more than about two seconds.
#[derive(Debug)]
pub struct MysqlStore {}

impl MysqlStore {
    /// Waits for a server, makes the tables if need be, and starts to load what they hold into `sink`. Cancel safe.
    ///
    /// # Errors
    /// What will not go away by waiting: the user is refused, the database belongs to something else or is of a newer
    /// version; or nothing answered within [`Config::open_within`].
    pub async fn open(config: Config, sink: impl Sink) -> Result<Self, Error> {
        let _ = (config, sink);
        Err(Error::Unreachable("not there yet".to_owned()))
    }

    pub fn stats(&self) -> Stats {
        Stats::default()
    }
}

impl LocationStore for MysqlStore {
    fn submit(&self, ticket: Ticket, request: Request) -> Result<(), SubmitError> {
        let _ = (ticket, request);
        Err(SubmitError::Closed)
    }
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

/// Asks a server how it is: the check of a sidecar. Needs no tables and no database.
///
/// # Errors
/// It refuses the user, or does not answer within `patience`.
pub async fn check(
    node: SocketAddr,
    client: &ClientFile,
    patience: Duration,
) -> Result<Health, Error> {
    let _ = (node, client, patience);
    Err(Error::Unreachable("not there yet".to_owned()))
}
