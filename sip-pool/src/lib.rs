//! SIP on pools: what gateways and proxies share so that a call survives the death of a server between them.
//!
//! - [`keys`] and [`token`]: the key file and everything signed with it (flow tokens, dialog cookies).
//! - [`uri`]: pool URIs such as `sip:COOKIE@sip-proxy.pool.invalid;lr`.
//! - [`leg`]: leg ids, the identity of a request over all its attempts, carried in a Via branch.
//! - [`hops`]: persistent connections to the elements of one pool and the detection of their failure.
//! - [`delivery`]: the table that makes sending a request again harmless.
//! - [`dialog`]: compact records of the dialogs that pass a gateway.
//! - [`driver`]: the tokio side of the core network: listener and dialled connections.
//!
//! [`hops`], [`delivery`] and [`dialog`] are cores without IO: `now` and random numbers are passed in, outputs are
//! drained with `poll`, and `next_deadline` says when to call `handle_timeout`.

pub mod delivery;
pub mod dialog;
pub mod driver;
pub mod hops;
pub mod keys;
pub mod leg;
pub mod token;
pub mod uri;

use std::path::PathBuf;

/// What can go wrong in this crate. No state has changed when one of these is returned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The key file cannot be read or written.
    #[error("key file {path}: {source}")]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The key file does not hold what it should.
    #[error("key file {path}: {reason}")]
    KeyFormat {
        /// The file.
        path: PathBuf,
        /// What would be right.
        reason: &'static str,
    },
    /// A token is not one of ours: wrong format, unknown key or wrong MAC.
    #[error("token refused")]
    Refused,
    /// The operating system has no random numbers.
    #[error("no random numbers from the operating system")]
    NoRandomness,
}
