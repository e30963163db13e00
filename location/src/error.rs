//! What can go wrong with a store, with the file or server that it concerns.

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
}
