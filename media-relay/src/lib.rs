//! A media relay: takes part in calls that a proxy controls by the protocol NG, and forwards their media.
//!
//! - [`core`] is everything that decides, without IO: calls, offers and answers, limits.
//! - [`plane`] forwards packets; [`record`] writes them to files.
//! - [`driver`] connects the three with the control socket.
//! - [`config`] is the configuration file, [`cli`] the command line.

mod audit;
pub mod cli;
pub mod config;
pub mod core;
pub mod driver;
mod metrics;
pub mod plane;
pub mod record;
mod sockets;

/// The pool of the relays.
pub const POOL: &str = "media-relay";
