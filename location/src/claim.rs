//! Claims: a name that belongs to one element at a time (for example a conference), changed only by
//! insert-if-absent and compare-and-swap.
//!
//! A lease that ends takes nothing from its owner: it lets a claim that nobody renews be forgotten, an hour later.

/// Who holds a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub name: Box<str>,
    /// Pool element identifier.
    pub owner: u32,
    /// Grows with every change of the claim; names are never reused with a smaller one.
    pub generation: u64,
    /// Milliseconds since 1970.
    pub lease_until: u64,
}

/// A change of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimChange {
    /// Take the name if nobody holds it, whatever became of the lease. `now_ms` is for the generation.
    Insert { name: Box<str>, owner: u32, lease_until: u64, now_ms: u64 },
    /// Replace owner and lease if the generation still is `generation`.
    Swap { name: Box<str>, generation: u64, owner: u32, lease_until: u64 },
    /// Give the name up if the generation still is `generation`.
    Release { name: Box<str>, generation: u64 },
}

impl ClaimChange {
    pub fn name(&self) -> &str {
        match self {
            Self::Insert { name, .. } | Self::Swap { name, .. } | Self::Release { name, .. } => {
                name
            }
        }
    }
}

/// The answer to a [`ClaimChange`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimOutcome {
    /// Done; the claim as it stands now.
    Done(Claim),
    /// Somebody else was first; the claim as it stands, or `None` if there is none to swap.
    Refused(Option<Claim>),
}
