//! The SIP gateway: translates between phones, which know nothing of pools, and the pools of the core.
//!
//! - [`core`] is the protocol core without IO: [`core::Gateway`].
//! - [`driver`] runs it over sockets.
//! - [`config`] is its configuration file, [`cli`] the daemon.

pub mod cli;
pub mod config;
pub mod core;
pub mod driver;
mod metrics;
