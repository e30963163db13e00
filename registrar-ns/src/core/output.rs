//! What a registrar core says: commands for the network, and events for whoever keeps the log.

use dialtone_handlespace::Handle;
use dialtone_transport::NetCommand;
use dialtone_wire::{PeId, ServerId};

/// An output of [`crate::core::Registrar::poll`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    Net(NetCommand),
    Event(Event),
    /// For the multicast group of ENRP.
    Presence(Vec<u8>),
}

/// A transition worth a line in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Service begins: with the handlespace of a mentor, or alone.
    InService {
        mentor: Option<ServerId>,
    },
    /// A new element registered here, or one came here from another home.
    Registered {
        pool: Handle,
        pe: PeId,
        from: Option<ServerId>,
    },
    /// A registration was refused.
    Rejected {
        pool: Handle,
        pe: PeId,
        reason: Reject,
    },
    /// An element that was ours left the handlespace, or ours hands.
    Removed {
        pool: Handle,
        pe: PeId,
        reason: Removal,
    },
    /// A peer spoke for the first time, or again.
    PeerUp {
        peer: ServerId,
    },
    /// A peer is dead, as far as can be seen from here.
    PeerDown {
        peer: ServerId,
    },
    TakeoverStarted {
        target: ServerId,
    },
    /// The target spoke, or a peer with precedence takes it over.
    TakeoverLost {
        target: ServerId,
        to: Option<ServerId>,
    },
    TakeoverWon {
        target: ServerId,
        elements: usize,
    },
    /// Another registrar took over.
    TakenOver {
        target: ServerId,
        by: ServerId,
        elements: usize,
    },
    /// A resync with a peer begins.
    ResyncStarted {
        peer: ServerId,
    },
    /// It ended; so many entries were changed or removed.
    ResyncDone {
        peer: ServerId,
        changed: usize,
        removed: usize,
    },
    ResyncFailed {
        peer: ServerId,
    },
    /// Two registrars created a pool at the same time with different rules (G17); the version of `winner` stays.
    PoolConflict {
        pool: Handle,
        winner: ServerId,
    },
    /// This core was not called for this many milliseconds; nobody is judged by that time.
    Starved {
        millis: u64,
    },
}

/// Why an element was removed, or is no longer ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Removal {
    /// It asked for it.
    Deregistered,
    /// Its registration life ended.
    Expired,
    /// Keep-alives unanswered.
    KeepAlive,
    /// Its socket or host says that nobody listens.
    Unreachable,
    /// Reported unreachable too often.
    Reports,
    /// It registered with another registrar, or one took it over.
    Moved,
    /// Its pool's rules are those of another registrar (G17).
    Conflict,
}

impl Removal {
    /// As a metrics label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Conflict => "conflict",
            Self::Deregistered => "deregistered",
            Self::Expired => "expired",
            Self::KeepAlive => "keep-alive",
            Self::Moved => "moved",
            Self::Reports => "reports",
            Self::Unreachable => "unreachable",
        }
    }
}

/// Why a registration was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reject {
    /// Cause 0x3.
    InvalidValues,
    /// Cause 0x4.
    NonUniqueIdentifier,
    /// Cause 0x5.
    Policy,
    /// Cause 0x6.
    Resources,
    /// Cause 0xa: over TCP without security, for somebody else's address, or not granted.
    Security,
    /// Cause 0x7.
    Transport,
    /// Cause 0x8.
    TransportUse,
}

impl Reject {
    /// As a metrics label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::InvalidValues => "invalid-values",
            Self::NonUniqueIdentifier => "non-unique-identifier",
            Self::Policy => "policy",
            Self::Resources => "resources",
            Self::Security => "security",
            Self::Transport => "transport",
            Self::TransportUse => "transport-use",
        }
    }
}

/// Totals since start, besides what events tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    pub registrations: u64,
    pub rejects: u64,
    pub deregistrations: u64,
    pub resolutions: u64,
    /// Resolutions of unknown pools.
    pub resolutions_negative: u64,
    /// Answers sent to subscribers unasked.
    pub pushes: u64,
    pub keep_alives: u64,
    pub reports: u64,
    /// Reports beyond the rate limit.
    pub reports_limited: u64,
    /// Messages beyond the rate limit of their address.
    pub requests_limited: u64,
    /// Associations ended since requests went on beyond the rate limit.
    pub hung_up: u64,
    /// Associations beyond the number for one address.
    pub associations_refused: u64,
    /// Subscriptions beyond the numbers for an association, an address, or all.
    pub subscriptions_refused: u64,
    pub removals: u64,
    pub takeovers: u64,
    pub resyncs: u64,
    pub pool_conflicts: u64,
    /// Deletions by a registrar that is not the element's home (G15).
    pub foreign_deletes: u64,
    /// Secure mode: messages of peers that have proven nothing.
    pub unprotected: u64,
    /// Messages that could not be decoded or had no business here.
    pub dropped: u64,
}
