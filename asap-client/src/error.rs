//! Errors of the agent and of registrar addresses.

use std::io;
use std::net::SocketAddr;

/// Why an agent could not start or a request could not be handed to it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// The agent's task has ended; nothing was done.
    #[error("the ASAP agent has stopped")]
    Stopped,
    /// The agent's queue is full; nothing was done.
    #[error("the ASAP agent is overloaded")]
    Busy,
    /// The multicast group in which registrars announce themselves could not be joined.
    #[error("cannot hear registrars in the multicast group {group}: {source}")]
    Announcements { group: SocketAddr, source: io::Error },
    /// The endpoint could not be opened.
    #[error("cannot open the ASAP endpoint: {0}")]
    Endpoint(#[from] io::Error),
}

/// Why a registrar's address could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[error(
    "expected [sctp:|tcp:]ADDRESS[:PORT] of a registrar or multicast[:GROUP:PORT], got {got:?}"
)]
pub struct ParseRegistrarError {
    /// The text as given.
    pub got: String,
}
