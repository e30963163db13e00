//! A conference server: a SIP focus (RFC 4579) that mixes the audio of everybody in a room.
//!
//! - [`mix`] is everything about sound, without sockets and clocks.
//! - [`core`] is everything about SIP that decides, without IO.
//! - [`media`] puts rooms on sockets and threads, [`driver`] connects them with the core.
//! - [`config`] is the configuration file, [`cli`] the command line, [`admin`] what `/rooms` shows.

pub mod admin;
pub mod cli;
pub mod config;
pub mod core;
pub mod driver;
pub mod media;
mod metrics;
pub mod mix;

/// The pool of the conference servers.
pub const POOL: &str = "conference";
