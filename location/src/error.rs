//! What can go wrong with a store, with the file or server that it concerns.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Errors of this crate. No state has changed when one is returned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The database could not be opened, created or used.
    #[error("{}: {source}", path.display())]
    Database { path: PathBuf, source: rusqlite::Error },
    /// The file belongs to something else.
    #[error("{}: not a location database (application id {found:#010x}, expected {expected:#010x})", path.display())]
    Foreign { path: PathBuf, found: u32, expected: u32 },
    /// The file is damaged.
    #[error("{}: damaged or not an SQLite database: {detail}", path.display())]
    Damaged { path: PathBuf, detail: String },
    /// A newer program wrote the file.
    #[error("{}: schema version {found}, this program knows versions up to {known}", path.display())]
    Version { path: PathBuf, found: i64, known: i64 },
    /// A folder or file that is needed cannot be used.
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    /// A client file says something wrong.
    #[error("{}:{line}: {problem}", path.display())]
    Options { path: PathBuf, line: u32, problem: String },
    /// A file that is read line by line has a wrong one.
    #[error("{}:{line}: {problem}", path.display())]
    Line { path: PathBuf, line: u64, problem: String },
    /// A database server refuses what was asked, and will go on refusing.
    #[error("database server {node}: {problem}")]
    Refused { node: SocketAddr, problem: String },
    /// No database server answered in time.
    #[error("no database server answers: {0}")]
    Unreachable(String),
    /// A database on a server belongs to something else.
    #[error("database server {node}: {database} is not a location database: {found}")]
    ForeignDatabase { node: SocketAddr, database: String, found: String },
    /// A newer program made the tables.
    #[error(
        "database server {node}: schema version {found} in {database}, this program knows versions up to {known}"
    )]
    DatabaseVersion { node: SocketAddr, database: String, found: u32, known: u32 },
    /// A store did not do what a tool asked of it.
    #[error("the location database did not carry this out: {0}")]
    Failed(String),
}
