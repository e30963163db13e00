//! The SIP registrar and proxy.
//!
//! - [`core`] is everything that decides, without IO: registrar, routing, forking.
//! - [`driver`] connects it to sockets, to the location database and to the pools.
//! - [`config`] is its configuration file, [`cli`] its command line.

pub mod cli;
pub mod config;
pub mod core;
mod database;
pub mod driver;
pub mod intake;
mod relays;

/// The pool of the proxies.
pub const POOL: &str = "sip-proxy";
/// The pool of the conference servers.
pub const CONFERENCES: &str = "conference";
/// The pool of the media relays.
pub const RELAYS: &str = "media-relay";
