//! Errors of resolution and selection.

use dialtone_asap_client::AgentError;
use dialtone_wire::CauseCode;

/// Why a pool handle was not resolved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// The registrar knows no pool of this name.
    #[error("unknown pool handle")]
    UnknownPool,
    /// The registrar refused for another reason.
    #[error("the registrar refused: {causes:?}")]
    Refused { causes: Vec<CauseCode> },
    /// No registrar answered in time.
    #[error("no registrar answered")]
    NoRegistrar,
    /// The agent has stopped or is overloaded.
    #[error("the ASAP agent takes no requests")]
    Agent,
}

impl From<AgentError> for ResolveError {
    fn from(_: AgentError) -> Self {
        Self::Agent
    }
}

/// Why no element was selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SelectError {
    /// The pool has no element that can serve, or it is not known yet.
    #[error("the pool has no element")]
    Empty,
    /// Every element was tried already.
    #[error("every element of the pool was tried")]
    Exhausted,
    /// Selection by key needs all members, and the registrar did not promise that these are all.
    #[error("selection by key needs the complete pool")]
    Incomplete,
}
