//! What can be wrong with authorities and requests.

use std::{io, path::PathBuf};

/// No certificate was made, or not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Never overwritten: somebody may still use it.
    #[error("{} exists already; move it away, or choose another folder", path.display())]
    Exists { path: PathBuf },
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{}: not a key of an authority: {source}", path.display())]
    Key { path: PathBuf, source: rcgen::Error },
    #[error("{}: there is no authority; make one with `dialtone cert authority {}`", dir.display(), dir.display())]
    NoAuthority { dir: PathBuf },
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    #[error("{name:?} is not a name for a certificate: {reason}")]
    Name { name: String, reason: &'static str },
}
