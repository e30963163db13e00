//! One pool: its elements, by identifier and in the order of its policy.

use crate::index::Index;
use crate::order::{Order, Scratch};
use crate::paged::Paged;
use crate::{Element, PoolKind};
use dialtone_wire::{PeId, Policy, ServerId};

/// A pool; there are no empty ones.
#[derive(Clone, Debug)]
pub struct Pool {
    kind: PoolKind,
    /// The place of each element.
    places: Index<u32>,
    elements: Paged<Element>,
    order: Order,
}

impl Pool {
    pub(crate) fn new(kind: PoolKind) -> Self {
        let order = Order::new(kind.policy);
        Self { kind, places: Index::default(), elements: Paged::new(), order }
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
        self.elements.get(self.places.get(pe_id)?)
    }

    /// All elements by identifier.
    pub fn elements(&self) -> impl Iterator<Item = &Element> {
        self.places.iter().filter_map(|(_, place)| self.elements.get(place))
    }

    /// The elements behind that identifier, whether it is there or not.
    pub(crate) fn behind(&self, pe_id: PeId) -> impl Iterator<Item = &Element> {
        self.places.behind(pe_id).filter_map(|(_, place)| self.elements.get(place))
    }

    /// How many elements there are; never 0.
    #[expect(clippy::len_without_is_empty, reason = "a pool ceases to exist with its last element")]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Puts an element of the pool's kind in; returns what it was before.
    pub(crate) fn put(&mut self, element: Element) -> Option<Element> {
        let Some(place) = self.places.get(element.pe_id) else {
            // There is no memory for 2^32 elements.
            self.places.insert(element.pe_id, self.elements.len() as u32);
            self.order.push(&element.policy);
            self.elements.push(element);
            return None;
        };
        let known = self.elements.get_mut(place)?;
        self.order.update(place, &known.policy, &element.policy);
        Some(std::mem::replace(known, element))
    }

    pub(crate) fn remove(&mut self, pe_id: PeId) -> Option<Element> {
        let place = self.places.remove(pe_id)?;
        self.order.swap_remove(place);
        let element = self.elements.swap_remove(place);
        if let Some(moved) = self.elements.get(place) {
            self.places.insert(moved.pe_id, place);
        }
        element
    }

    pub(crate) fn set_home(&mut self, pe_id: PeId, home: ServerId) -> Option<ServerId> {
        let element = self.elements.get_mut(self.places.get(pe_id)?)?;
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
