//! SIP on pools: what gateways and proxies share so that a call survives the death of a server between them.
//!
//! - [`keys`] and [`token`]: the key file (a crate of its own) and what is signed with it (flow tokens, dialog cookies).
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
pub mod fuzz;
pub mod hops;
pub mod leg;
pub mod token;
pub mod uri;

pub use dialtone_keys::{self as keys, Error};
