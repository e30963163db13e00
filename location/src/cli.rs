//! What tools that open a store directly have in common: how the store is named, and a blocking client of it.

use std::collections::VecDeque;
use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use tokio::sync::watch;

use crate::error::Error;
use crate::mysql::{self, ClientFile, MysqlStore, Node};
use crate::record::WriterId;
use crate::sqlite::{self, SqliteStore};
use crate::store::{Answer, LocationStore, Request, Sink, StoreEvent, Ticket};

/// How long a tool waits for a store.
const PATIENCE: Duration = Duration::from_secs(30);

/// The writer that tools are; those that run at the same time share it and wait for each other.
pub const TOOL: WriterId = WriterId(u32::MAX);

/// Where the bindings are kept.
#[derive(Clone, Debug, clap::Args)]
pub struct StoreArgs {
    /// sqlite:PATH, or mysql:HOST:PORT[,HOST:PORT...]
    #[arg(long, value_name = "STORE")]
    pub store: StoreAddress,
    /// User and password of a MariaDB store.
    #[arg(
        long,
        value_name = "FILE",
        help = "User and password of a MariaDB store: a file in my.cnf form, section [client], mode 0600"
    )]
    pub credentials: Option<PathBuf>,
}

/// The name of a store on a command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreAddress {
    Sqlite(PathBuf),
    /// Hosts with ports, in the order of preference.
    Mysql(Vec<String>),
}

impl FromStr for StoreAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("sqlite", path)) if !path.is_empty() => Ok(Self::Sqlite(path.into())),
            Some(("mysql", nodes)) if !nodes.is_empty() => {
                let nodes: Vec<String> = nodes.split(',').map(str::to_owned).collect();
                for node in &nodes {
                    let port = node.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
                    if port.is_none_or(|port| port == 0) {
                        return Err(format!("{node:?} is not HOST:PORT"));
                    }
                }
                Ok(Self::Mysql(nodes))
            }
            _ => Err("use sqlite:PATH or mysql:HOST:PORT[,HOST:PORT...]".to_owned()),
        }
    }
}

impl StoreArgs {
    /// Opens the store; blocks until that is done. Not to be called within a runtime.
    ///
    /// # Errors
    /// As the backend's, and when a MariaDB store comes without credentials or does not answer within `patience`.
    pub fn open(
        &self,
        writer: WriterId,
        patience: Duration,
        sink: impl Sink,
    ) -> Result<Box<dyn LocationStore>, Error> {
        let nodes = match &self.store {
            StoreAddress::Sqlite(path) => {
                let store = SqliteStore::open(sqlite::Config::new(path, writer), sink)?;
                return Ok(Box::new(store));
            }
            StoreAddress::Mysql(nodes) => nodes,
        };
        let Some(credentials) = &self.credentials else {
            let problem = "a MariaDB store needs --credentials FILE".to_owned();
            return Err(Error::Failed(problem));
        };
        let client = ClientFile::read(credentials)?;
        let mut resolved = Vec::new();
        for (name, id) in nodes.iter().zip(1..) {
            let address = name.to_socket_addrs().ok().and_then(|mut found| found.next());
            let address =
                address.ok_or_else(|| Error::Unreachable(format!("{name}: no such host")))?;
            resolved.push(Node { id, address });
        }
        // Without a sender the nodes stay as they are.
        let (_, nodes) = watch::channel(resolved);
        let config = mysql::Config {
            patience,
            stall: patience,
            open_within: Some(patience),
            ..mysql::Config::new(nodes, client, writer)
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| Error::Io { path: "runtime".into(), source })?;
        Ok(Box::new(runtime.block_on(MysqlStore::open(config, sink))?))
    }
}

/// A store that is used by one thread, a request at a time.
pub struct Session {
    store: Box<dyn LocationStore>,
    events: Receiver<Vec<StoreEvent>>,
    /// What came while an answer was waited for.
    kept: VecDeque<StoreEvent>,
    next: u64,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("store", &self.store).finish_non_exhaustive()
    }
}

impl Session {
    /// Opens the store as [`TOOL`].
    ///
    /// # Errors
    /// As [`StoreArgs::open`].
    pub fn open(args: &StoreArgs) -> Result<Self, Error> {
        // What the store hands out waits here while it is not taken, so that a large one does not fill the memory.
        let (sender, events) = sync_channel(64);
        let store =
            args.open(TOOL, PATIENCE, move |batch: Vec<StoreEvent>| drop(sender.send(batch)))?;
        Ok(Self { store, events, kept: VecDeque::new(), next: 0 })
    }

    /// Carries a request out. What the store hands out meanwhile is forgotten.
    ///
    /// # Errors
    /// [`Error::Failed`] when the store answered [`Answer::Failed`], or nothing in time.
    pub fn call(&mut self, request: Request) -> Result<Answer, Error> {
        let ticket = self.submit(request)?;
        loop {
            if let StoreEvent::Answer { ticket: of, answer } = self.event()?
                && of == ticket
            {
                return match answer {
                    Answer::Failed(reason) => Err(Error::Failed(reason.to_string())),
                    answer => Ok(answer),
                };
            }
        }
    }

    /// Queues a request; its answer comes as an [`event`](Self::event).
    ///
    /// # Errors
    /// [`Error::Failed`] when the store does not take it.
    pub fn submit(&mut self, request: Request) -> Result<Ticket, Error> {
        self.next += 1;
        let ticket = Ticket(self.next);
        self.store.submit(ticket, request).map_err(|error| Error::Failed(error.to_string()))?;
        Ok(ticket)
    }

    /// The next thing that the store says.
    ///
    /// # Errors
    /// [`Error::Failed`] when it says nothing for half a minute.
    pub fn event(&mut self) -> Result<StoreEvent, Error> {
        loop {
            if let Some(event) = self.kept.pop_front() {
                return Ok(event);
            }
            let silent = |_| Error::Failed("the store does not answer".to_owned());
            self.kept.extend(self.events.recv_timeout(PATIENCE).map_err(silent)?);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The store's threads may wait for room in the channel while the store waits for them to end.
        let (_, closed) = sync_channel(0);
        self.events = closed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_are_named_in_two_ways() {
        let parse = |text: &str| text.parse::<StoreAddress>();
        assert_eq!(parse("sqlite:/a:b/c.db"), Ok(StoreAddress::Sqlite("/a:b/c.db".into())));
        let nodes = vec!["db1:3306".to_owned(), "[::1]:3307".to_owned()];
        assert_eq!(parse("mysql:db1:3306,[::1]:3307"), Ok(StoreAddress::Mysql(nodes)));
        for wrong in
            ["", "sqlite:", "mysql:", "mysql:db1", "mysql:db1:3306,", "/c.db", "mysql:db1:0"]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
