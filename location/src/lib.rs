//! Locations: which contacts are registered for an address-of-record, kept in a database that several proxies share.
//!
//! - [`LocationStore`] is the trait of every backend. It is handle-based: requests go in with a [`Ticket`], answers
//!   and changes made by other writers come back as batches of [`StoreEvent`] through the sink that was given when
//!   the store was opened. Nothing here waits on the caller's thread.
//! - [`sqlite::SqliteStore`] is the embedded backend: one file that all proxies of a machine share.
//! - [`mysql::MysqlStore`] keeps them in MariaDB, alone or as a Galera cluster, for proxies on several machines.
//! - [`Replica`] is the copy in memory that answers calls; it is fed with the records of [`StoreEvent`]s.
//! - [`Credentials`] is the copy of what users must know, fed in the same way.
//! - [`opaque`] names a database file in a pool element's Opaque transport.
//!
//! Every process is one *writer* ([`WriterId`]) and commits in order, so a vector of (writer, sequence) says exactly
//! what a reader has seen ([`Vector`]).

mod claim;
pub mod cli;
mod credential;
mod decide;
mod error;
pub mod mysql;
pub mod opaque;
mod record;
mod replica;
pub mod sqlite;
mod store;
mod table;
pub mod transfer;

pub use claim::{Claim, ClaimChange, ClaimOutcome};
pub use credential::{
    Credential, CredentialChange, CredentialCounts, CredentialOutcome, Credentials, NewCredential,
    Secrets,
};
pub use error::Error;
pub use record::{BindingKey, Record, TOMBSTONE_MS, Vector, Version, WriterId, limits};
pub use replica::{Replica, ReplicaStats, Target};
pub use store::{
    Answer, Change, LocationStore, Merge, NewBinding, Request, Save, SaveOutcome, Sink, StoreEvent,
    SubmitError, Ticket,
};
pub use table::Table;
