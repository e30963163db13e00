//! Selection at the registrar (RFC 5356): which elements of a pool an answer names, and in which order.
//!
//! Heads, credits and turns are local to a registrar; several registrars approximate the policy (RFC 5356, section 4).
//! Until the other policies of RFC 5356 follow, the nearest one stands in: weighted round robin for weighted random,
//! least used for least used with degradation, priority least used and randomized least used; round robin for
//! policies that nobody knows.

use crate::pool::Slot;
use crate::{Element, Handlespace, Pool};
use dialtone_wire::{PeId, PolicyType};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

impl Handlespace {
    /// Selects at most `max_items` elements of a pool, none twice, in the order in which a user should try them;
    /// `None` if there is no such pool. Empty if no element can serve (weight 0).
    pub fn select(
        &mut self,
        handle: &[u8],
        max_items: usize,
        rng: &mut fastrand::Rng,
    ) -> Option<Vec<&Element>> {
        self.pools.get_mut(handle).map(|pool| pool.select(max_items, rng))
    }
}

impl Pool {
    fn select(&mut self, max_items: usize, rng: &mut fastrand::Rng) -> Vec<&Element> {
        match self.kind.policy {
            PolicyType::RANDOM => self.random(max_items, rng),
            PolicyType::WEIGHTED_ROUND_ROBIN | PolicyType::WEIGHTED_RANDOM => {
                self.weighted(max_items)
            }
            PolicyType::PRIORITY => self.ranked(max_items, |element| Reverse(priority(element))),
            PolicyType::LEAST_USED
            | PolicyType::LEAST_USED_DEGRADATION
            | PolicyType::PRIORITY_LEAST_USED
            | PolicyType::RANDOMIZED_LEAST_USED => {
                self.ranked(max_items, |element| element.policy.load().unwrap_or(0))
            }
            _ => self.round_robin(max_items),
        }
    }

    /// A circular list with a head that moves by one per answer, whatever the answer's length.
    fn round_robin(&mut self, max_items: usize) -> Vec<&Element> {
        let after_head = |head: Option<PeId>| head.map_or(Unbounded, Excluded);
        let former = self.head;
        let next = self.elements.range((after_head(former), Unbounded)).next();
        self.head = next.or_else(|| self.elements.first_key_value()).map(|(pe_id, _)| *pe_id);
        let Some(head) = self.head else { return Vec::new() };
        let circle = self.elements.range(head..).chain(self.elements.range(..head));
        circle.take(max_items).map(|(_, slot)| &slot.element).collect()
    }

    fn random(&self, max_items: usize, rng: &mut fastrand::Rng) -> Vec<&Element> {
        let mut elements: Vec<&Element> = self.elements().collect();
        let count = max_items.min(elements.len());
        for index in 0..count {
            let drawn = rng.usize(index..elements.len());
            elements.swap(index, drawn);
        }
        elements.truncate(count);
        elements
    }

    /// Smooth weighted round robin: each answer pays every element its weight, and whoever stands first pays the sum
    /// of all weights. The others follow in the order in which their turn would come.
    fn weighted(&mut self, max_items: usize) -> Vec<&Element> {
        let total: i64 = self.elements.values().map(weight).sum();
        let mut order = Vec::with_capacity(self.elements.len());
        for (pe_id, slot) in &mut self.elements {
            let weight = weight(slot);
            if weight > 0 {
                // Weights may have changed since the credit was given.
                slot.turn = slot.turn.clamp(-total, total) + weight;
                order.push((Reverse(slot.turn), *pe_id));
            }
        }
        self.first_of(order, max_items, |slot, _| slot.turn -= total)
    }

    /// Ascending by `key`; equal ones take turns.
    fn ranked<K: Ord + Copy>(
        &mut self,
        max_items: usize,
        key: impl Fn(&Element) -> K,
    ) -> Vec<&Element> {
        let order = self
            .elements
            .iter()
            .map(|(pe_id, slot)| ((key(&slot.element), slot.turn), *pe_id))
            .collect();
        self.turns += 1;
        self.first_of(order, max_items, |slot, turns| slot.turn = turns)
    }

    fn first_of<K: Ord>(
        &mut self,
        mut order: Vec<(K, PeId)>,
        max_items: usize,
        charge: impl FnOnce(&mut Slot, i64),
    ) -> Vec<&Element> {
        if max_items == 0 {
            return Vec::new();
        }
        if max_items < order.len() {
            order.select_nth_unstable(max_items);
            order.truncate(max_items);
        }
        order.sort_unstable();
        if let Some(slot) = order.first().and_then(|(_, pe_id)| self.elements.get_mut(pe_id)) {
            charge(slot, self.turns);
        }
        let elements: &BTreeMap<PeId, Slot> = &self.elements;
        order
            .iter()
            .filter_map(|(_, pe_id)| elements.get(pe_id))
            .map(|slot| &slot.element)
            .collect()
    }
}

fn weight(slot: &Slot) -> i64 {
    slot.element.policy.weight().map_or(0, i64::from)
}

const fn priority(element: &Element) -> u32 {
    match element.policy {
        dialtone_wire::Policy::Priority { priority } => priority,
        _ => 0,
    }
}
