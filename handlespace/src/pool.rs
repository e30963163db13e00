//! One pool: its elements in the order of their identifiers, and the state of its policy.

use crate::{Element, PoolKind};
use dialtone_wire::{PeId, Policy};
use std::collections::BTreeMap;

/// A pool; there are no empty ones.
#[derive(Clone, Debug)]
pub struct Pool {
    pub(crate) kind: PoolKind,
    pub(crate) elements: BTreeMap<PeId, Slot>,
    /// Who stood first in the last round robin answer.
    pub(crate) head: Option<PeId>,
    /// Counts selections; breaks ties in turn.
    pub(crate) turns: i64,
}

/// An element and its place in the policy.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) element: Element,
    /// Weighted round robin: credit. Priority and load: when it stood first the last time.
    pub(crate) turn: i64,
}

impl Pool {
    pub(crate) const fn new(kind: PoolKind) -> Self {
        Self { kind, elements: BTreeMap::new(), head: None, turns: 0 }
    }

    /// What its elements agree on.
    pub const fn kind(&self) -> PoolKind {
        self.kind
    }

    /// The overall policy as a resolution tells it (RFC 5352, section 2.2.6).
    pub const fn policy(&self) -> Policy<'static> {
        Policy::of_pool(self.kind.policy)
    }

    /// The element of that identifier.
    pub fn get(&self, pe_id: PeId) -> Option<&Element> {
        self.elements.get(&pe_id).map(|slot| &slot.element)
    }

    /// All elements by identifier.
    pub fn elements(&self) -> impl ExactSizeIterator<Item = &Element> {
        self.elements.values().map(|slot| &slot.element)
    }

    /// How many elements there are; never 0.
    #[expect(clippy::len_without_is_empty, reason = "a pool ceases to exist with its last element")]
    pub fn len(&self) -> usize {
        self.elements.len()
    }
}
