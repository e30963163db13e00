//! What ends a daemon early, and the exit code that says so.

use crate::{bind::BindError, config::ConfigError, data_dir::DataDirError, ready::ReadyError};

/// Exit codes, from sysexits.h.
pub mod exit {
    /// The configuration or the command line is wrong.
    pub const CONFIG: u8 = 64;
    /// Something that the daemon needs is not to be had: a port in use, a child that would not start.
    pub const UNAVAILABLE: u8 = 69;
    /// A bug, or a failure that has no code of its own.
    pub const SOFTWARE: u8 = 70;
    /// A file or folder cannot be created or written.
    pub const CANT_CREATE: u8 = 73;
}

/// What ends a daemon early. Its text is the line that the operator reads.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// Anything else.
    #[error(transparent)]
    Other(Box<dyn std::error::Error + Send + Sync>),
    #[error(transparent)]
    Ready(#[from] ReadyError),
    /// A wrong value on the command line or in a place that has no position.
    #[error("{0}")]
    Usage(String),
    /// Something outside of this process is missing or does not answer.
    #[error("{0}")]
    Unavailable(String),
}

impl Error {
    /// Wraps an error that has no kind of its own here; exit code 70.
    pub fn other(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Other(error.into())
    }

    /// The code that a process ending with this error exits with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Usage(_) => exit::CONFIG,
            Self::Bind(_) | Self::Unavailable(_) => exit::UNAVAILABLE,
            Self::DataDir(_) | Self::Ready(_) => exit::CANT_CREATE,
            Self::Other(_) => exit::SOFTWARE,
        }
    }
}
