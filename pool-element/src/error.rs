//! Errors of registrations.

use dialtone_asap_client::AgentError;
use dialtone_wire::CauseCode;

/// Why an element is not in its pool.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// The registrar refused; it will not be asked again before something is changed (RFC 5352 section 3.1).
    #[error("the registrar rejected the registration: {causes:?}")]
    Rejected { causes: Vec<CauseCode> },
    /// No registrar answered often enough (MAX-REG-ATTEMPT), and the configuration says to stop then.
    #[error("no registrar answered")]
    GaveUp,
    /// The element was de-registered.
    #[error("the element was de-registered")]
    Deregistered,
    /// The agent did not take the command.
    #[error(transparent)]
    Agent(#[from] AgentError),
}
