//! The handlespace: pools, their elements, who owns them, and how one is selected. Pure data without IO or time;
//! whoever owns a [`Handlespace`] keeps timers and keep-alive state elsewhere, keyed by ([`Handle`], [`PeId`]).
//!
//! - [`Handlespace`]: registration with the checks of RFC 5352 (section 3.1), import from peers with a deterministic
//!   tie-break (G17), ownership indexes, checksums (RFC 5353, section 3.6.2), ordered download, selection at the
//!   registrar (RFC 5356).
//! - [`user`]: selection at the pool user, over the list that a registrar handed out.
//! - [`rendezvous`]: selection by key, the same on every machine.

mod checksum;
mod conflict;
mod element;
mod handle;
mod index;
mod lots;
mod order;
mod owner;
mod paged;
mod pool;
mod queue;
mod ranks;
pub mod rendezvous;
mod space;
mod table;
pub mod user;
mod weighted;

pub use checksum::Checksum;
pub use conflict::{Conflict, PoolKind};
pub use dialtone_wire::{
    PeId, Policy, PolicyType, SctpTransport, ServerId, Transport, TransportUse,
};
pub use element::Element;
pub use handle::{Handle, HandleError};
pub use pool::{Pool, Selection};
pub use space::{Handlespace, Import, Imported, Registered};
pub use table::{Chunk, Cursor};
