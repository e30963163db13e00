//! The trait of every backend, its requests and its answers.

use std::fmt;
use std::sync::Arc;

use crate::claim::{Claim, ClaimChange, ClaimOutcome};
use crate::credential::{Credential, CredentialChange, CredentialOutcome};
use crate::record::{BindingKey, Record, Version, WriterId};

/// Connects an answer with its request; chosen by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// One contact of a REGISTER request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewBinding {
    pub key: BindingKey,
    pub contact: Box<str>,
    pub params: Box<str>,
    /// Thousandths.
    pub q: u16,
    /// Granted life, seconds; 0 removes the binding.
    pub lifetime: u32,
    pub user_agent: Box<str>,
    pub received: Box<str>,
    pub path: Box<str>,
    pub gateway: u32,
    pub flow_token: Box<str>,
    pub instance: Box<str>,
    pub reg_id: u32,
}

/// What a REGISTER request changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Adds, refreshes and removes these, all or none.
    Bindings(Vec<NewBinding>),
    /// `Contact: *` with `Expires: 0`.
    RemoveAll,
}

/// A conditional save (RFC 3261 section 10.3, steps 6 to 8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Save {
    pub aor: Box<str>,
    pub call_id: Box<str>,
    pub cseq: u32,
    /// Milliseconds since 1970.
    pub now_ms: u64,
    /// How many live bindings the address-of-record may have afterwards.
    pub max_bindings: usize,
    /// Whether the oldest ones make room for new ones above that; else the save is refused.
    pub evict_oldest: bool,
    pub change: Change,
}

impl Save {
    /// The record that one of its bindings becomes, `old` being what is kept under the same key. The store that commits
    /// it fills in the version.
    pub fn record(&self, new: &NewBinding, old: Option<&Record>) -> Record {
        Record {
            aor: self.aor.clone(),
            key: new.key.clone(),
            contact: new.contact.clone(),
            params: new.params.clone(),
            q: new.q,
            expires_at: self.now_ms + u64::from(new.lifetime) * 1_000,
            lifetime: new.lifetime,
            call_id: self.call_id.clone(),
            cseq: self.cseq,
            user_agent: new.user_agent.clone(),
            received: new.received.clone(),
            path: new.path.clone(),
            gateway: new.gateway,
            flow_token: new.flow_token.clone(),
            instance: new.instance.clone(),
            reg_id: new.reg_id,
            version: Version { writer: WriterId(0), sequence: 0 },
            changed_at: old.map_or(0, |old| old.changed_at + 1).max(self.now_ms),
            deleted_at: (new.lifetime == 0).then_some(self.now_ms),
        }
    }
}

/// What became of a [`Save`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SaveOutcome {
    /// Committed, or a replay of something committed before.
    Saved {
        /// All live bindings of the address-of-record.
        bindings: Vec<Record>,
        /// What the save changed, removals included: for the [`crate::Replica`].
        changed: Vec<Record>,
    },
    /// A newer request of the same Call-ID was there before; nothing has changed.
    OutOfOrder,
    /// The address-of-record would have too many bindings, or too many of them came and went within a short while;
    /// nothing has changed.
    TooMany,
}

/// What another database had, all taken in or none. A binding counts if it was changed later than what is stored under
/// its key, a claim if its generation is higher; so taking it in again changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merge {
    /// Removed ones included; their versions do not matter.
    pub bindings: Vec<Record>,
    pub claims: Vec<Claim>,
}

/// Work for a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    Save(Box<Save>),
    /// The live bindings of an address-of-record, read from the database.
    Lookup {
        aor: Box<str>,
        now_ms: u64,
    },
    /// Forget what expired or was removed more than [`crate::TOMBSTONE_MS`] before.
    Expire {
        now_ms: u64,
    },
    Claim(ClaimChange),
    ReadClaim {
        name: Box<str>,
    },
    /// The claims behind `after` in the order of their bytes, those that were given up included; at most `limit`, read
    /// from the database.
    ListClaims {
        after: Option<Box<str>>,
        limit: usize,
    },
    /// Takes in what another database had.
    Merge(Box<Merge>),
    Credentials(CredentialChange),
    /// The credentials behind `after` (user, realm) in the order of their bytes, at most `limit`, read from the
    /// database; removed users are left out.
    ListCredentials {
        after: Option<(Box<str>, Box<str>)>,
        limit: usize,
    },
}

/// Answers, in the order of [`Request`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Save(SaveOutcome),
    Found(Vec<Record>),
    /// How many rows were forgotten.
    Expired(usize),
    Claim(ClaimOutcome),
    ReadClaim(Option<Claim>),
    ClaimList(Vec<Claim>),
    /// How many rows of a [`Merge`] were taken; the others were not newer than what is there.
    Merged(usize),
    /// One for each user of the change, in its order.
    Credentials(Vec<CredentialOutcome>),
    CredentialList(Vec<Credential>),
    /// The database refused; nothing has changed.
    Failed(Arc<str>),
}

/// What a store tells its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreEvent {
    Answer {
        ticket: Ticket,
        answer: Answer,
    },
    /// Records written by others, or found at start; idempotent, in no particular order.
    Changes(Vec<Record>),
    /// Credentials found at start (removed users may be left out), all before `Loaded`; then every change in the order
    /// of revisions, those of this store included; idempotent.
    Credentials(Vec<Credential>),
    /// Everything that the database held when it was opened, or since [`StoreEvent::Reloading`], has been handed out.
    Loaded,
    /// Changes were missed for so long that removals may have been forgotten: everything is handed out once more, up to
    /// the next [`StoreEvent::Loaded`]. What does not come again is gone ([`crate::Replica::begin_reload`]).
    Reloading,
    /// The database could not be read for changes; the replica may be behind until `Recovered`.
    Behind(Arc<str>),
    /// Changes are being read again.
    Recovered,
}

/// Takes the events of a store, several at a time; called on the store's threads, must not block.
pub trait Sink: Fn(Vec<StoreEvent>) + Send + Sync + 'static {}

impl<F: Fn(Vec<StoreEvent>) + Send + Sync + 'static> Sink for F {}

/// Why a request was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// The queue is full: the database is slower than the load.
    #[error("too many requests wait for the database")]
    Full,
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

/// A backend. Every accepted request is answered exactly once; answers to writes come after the commit.
///
/// Writes of one store are carried out in the order of submission.
pub trait LocationStore: fmt::Debug + Send + Sync {
    /// Queues a request; never blocks.
    fn submit(&self, ticket: Ticket, request: Request) -> Result<(), SubmitError>;
}
