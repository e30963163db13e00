//! What tools that open a store directly have in common: how the store is named, and a blocking client of it.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::error::Error;
use crate::record::{Record, WriterId};
use crate::store::{Answer, LocationStore, Request, Sink};

/// The writer that tools are; those that run at the same time share it and wait for each other.
pub const TOOL: WriterId = WriterId(u32::MAX);

/// Where the bindings are kept.
#[derive(Clone, Debug, clap::Args)]
pub struct StoreArgs {
    /// sqlite:PATH, or mysql:HOST:PORT[,HOST:PORT...]
    #[arg(long, value_name = "STORE")]
    pub store: StoreAddress,
    /// User and password of a MariaDB store: a file in my.cnf form, section [client], mode 0600
    #[arg(long, value_name = "FILE")]
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
    /// Opens the store; blocks until that is done.
    ///
    /// # Errors
    /// As the backend's, and when a MariaDB store comes without credentials or does not answer within `patience`.
    pub fn open(
        &self,
        writer: WriterId,
        patience: Duration,
        sink: impl Sink,
    ) -> Result<Box<dyn LocationStore>, Error> {
        let _ = (writer, patience, sink);
        Err(Error::Unreachable("not there yet".to_owned()))
    }
}

/// A store that is used by one thread, a request at a time.
#[derive(Debug)]
pub struct Session {}

impl Session {
    /// Opens the store as [`TOOL`].
    ///
    /// # Errors
    /// As [`StoreArgs::open`].
    pub fn open(args: &StoreArgs) -> Result<Self, Error> {
        let _ = args;
        Err(Error::Unreachable("not there yet".to_owned()))
    }

    /// Carries a request out.
    ///
    /// # Errors
    /// [`Error::Failed`] when the store answered [`Answer::Failed`], or nothing in time.
    pub fn call(&mut self, request: Request) -> Result<Answer, Error> {
        Err(Error::Failed(format!("{request:?}")))
    }

    /// Hands out all bindings of the store, removed ones that are remembered included, once.
    ///
    /// # Errors
    /// [`Error::Failed`] when the store cannot be read to its end.
    pub fn records(
        &mut self,
        each: impl FnMut(Vec<Record>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let _ = each;
        Ok(())
    }
}
