//! What pool elements and pool users share (RFC 5352 sections 3.6 and 3.7): the list of registrars, the server hunt,
//! exactly one home association, and the dispatch of messages to roles.
//!
//! - [`core::Client`] is the protocol core without IO; it is generic over a [`core::Role`]. Roles compose as tuples,
//!   so a process that is several pool elements and uses several pools has one home registrar.
//! - [`Agent`] is the driver: one tokio task that owns a client and its [`dialtone_transport::Endpoint`].
//!
//! # Contract of the cores
//! Feed one input (`handle_net`, `handle_command`, `handle_timeout`), then drain `poll` until it returns `None`, then
//! sleep until `next_deadline` at most. `now` never goes backwards. Nothing inside reads a clock, opens a socket,
//! locks, or draws randomness that was not passed in, so the same inputs give the same outputs.

pub mod agent;
mod config;
pub mod core;
mod error;
mod metrics;

pub use agent::{Agent, AgentConfig, Announcements, CommandSender, Facade, source_towards};
pub use config::{ClientConfig, Registrar, parse_registrar, registrar_sctp, registrar_tcp};
pub use dialtone_transport::tls::{TlsConfig, TlsError};
pub use error::{AgentError, ParseRegistrarError};
