//! What the elements of a pool have to agree on, and what a registrar answers when they do not.

use crate::Element;
use dialtone_wire::{Cause, CauseCode, ParameterType, Policy, PolicyType, Transport, TransportUse};

/// What all elements of a pool have in common (RFC 5352, section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PoolKind {
    /// The overall policy type.
    pub policy: PolicyType,
    /// The overall transport type.
    pub transport: ParameterType,
    /// Data-only, or data and control.
    pub use_: TransportUse,
}

/// An element that does not fit its pool.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("does not fit the pool, which has {}, {}, {}", pool.policy, pool.transport, pool.use_)]
pub struct Conflict {
    /// What the pool agrees on.
    pub pool: PoolKind,
    /// What to answer: causes 0x5, 0x7 and 0x8 as far as they apply, with the information of RFC 5354.
    pub causes: Vec<Cause<'static>>,
}

impl Conflict {
    /// Compares `element` with a pool of that kind; `example` is one of the pool's elements, whose transport shows
    /// the transport type.
    pub(crate) fn find(pool: PoolKind, example: &Element, element: &Element) -> Option<Self> {
        let kind = element.kind();
        if kind == pool {
            return None;
        }
        let mut causes = Vec::new();
        if kind.policy != pool.policy {
            let cause = Cause::inconsistent_policy(&Policy::of_pool(pool.policy));
            causes.push(cause.unwrap_or_else(|_| Cause::plain(CauseCode::INCONSISTENT_POLICY)));
        }
        if kind.transport != pool.transport {
            // The content of somebody else's opaque transport is nobody's business: only the type is shown.
            let cause = match &example.transport {
                Transport::Opaque(_) => {
                    Cause::inconsistent_transport(&Transport::Opaque((&[][..]).into()))
                }
                transport => Cause::inconsistent_transport(transport),
            };
            causes.push(cause.unwrap_or_else(|_| Cause::plain(CauseCode::INCONSISTENT_TRANSPORT)));
        } else if kind.use_ != pool.use_ {
            causes.push(Cause::plain(CauseCode::INCONSISTENT_USE));
        }
        Some(Self { pool, causes })
    }
}
