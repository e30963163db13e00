//! One pool: its elements, by identifier and in the order of its policy.

use crate::order::{Order, Scratch};
use crate::paged::Paged;
use crate::{Element, PoolKind};
use dialtone_wire::{PeId, Policy, ServerId};
use std::collections::{BTreeMap, btree_map};
use std::ops::RangeBounds;

/// A pool; there are no empty ones.
#[derive(Clone, Debug)]
pub struct Pool {
    kind: PoolKind,
    /// The place of each element.
    by_id: BTreeMap<PeId, u32>,
    elements: Paged<Element>,
    order: Order,
}

impl Pool {
    pub(crate) fn new(kind: PoolKind) -> Self {
        let order = Order::new(kind.policy);
        Self { kind, by_id: BTreeMap::new(), elements: Paged::new(), order }
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
        self.elements.get(*self.by_id.get(&pe_id)?)
    }

    /// All elements by identifier.
    pub fn elements(&self) -> impl Iterator<Item = &Element> {
        self.range(..)
    }

    /// The elements of these identifiers, in their order.
    pub(crate) fn range(&self, range: impl RangeBounds<PeId>) -> impl Iterator<Item = &Element> {
        self.by_id.range(range).filter_map(|(_, place)| self.elements.get(*place))
    }

    /// How many elements there are; never 0.
    #[expect(clippy::len_without_is_empty, reason = "a pool ceases to exist with its last element")]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Puts an element of the pool's kind in; returns what it was before.
    pub(crate) fn put(&mut self, element: Element) -> Option<Element> {
        match self.by_id.entry(element.pe_id) {
            btree_map::Entry::Occupied(entry) => {
                let known = self.elements.get_mut(*entry.get())?;
                self.order.update(*entry.get(), &known.policy, &element.policy);
                Some(std::mem::replace(known, element))
            }
            btree_map::Entry::Vacant(entry) => {
                // There is no memory for 2^32 elements.
                entry.insert(self.elements.len() as u32);
                self.order.push(&element.policy);
                self.elements.push(element);
                None
            }
        }
    }

    pub(crate) fn remove(&mut self, pe_id: PeId) -> Option<Element> {
        let place = self.by_id.remove(&pe_id)?;
        self.order.swap_remove(place);
        let element = self.elements.swap_remove(place);
        if let Some(moved) = self.elements.get(place) {
            self.by_id.insert(moved.pe_id, place);
        }
        element
    }

    pub(crate) fn set_home(&mut self, pe_id: PeId, home: ServerId) -> Option<ServerId> {
        let element = self.elements.get_mut(*self.by_id.get(&pe_id)?)?;
        Some(std::mem::replace(&mut element.home, home))
    }

    pub(crate) fn select<'a>(
        &'a mut self,
        max_items: usize,
        rng: &mut fastrand::Rng,
        scratch: &'a mut Scratch,
    ) -> Selection<'a> {
        let elements = &self.elements;
        let values = |place| elements.get(place).map(|element| &element.policy);
        self.order.select(max_items, values, rng, scratch);
        Selection { elements, places: &scratch.found }
    }
}

/// The elements that an answer names, in the order in which a user should try them.
#[derive(Clone, Copy, Debug)]
pub struct Selection<'a> {
    elements: &'a Paged<Element>,
    places: &'a [u32],
}

impl<'a> Selection<'a> {
    /// The elements in their order.
    pub fn iter(self) -> impl Iterator<Item = &'a Element> {
        self.places.iter().filter_map(|place| self.elements.get(*place))
    }

    /// How many there are.
    pub const fn len(self) -> usize {
        self.places.len()
    }

    /// Whether nobody can serve.
    pub const fn is_empty(self) -> bool {
        self.places.is_empty()
    }
}
