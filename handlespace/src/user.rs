//! Selection at the pool user (RFC 5356): which element of the list that a registrar handed out to use now.
//!
//! Round robin walks the list from its first element. Weighted round robin does so on the list in which each stands as
//! often as its weight says: it begins with the first and spreads the rest. Random policies draw evenly (the registrar
//! has applied the weights), priority takes the highest, the load policies take the list's order. Policies that nobody
//! knows are walked round robin.

use crate::Element;
use dialtone_wire::{PeId, Policy, PolicyType};
use std::borrow::Borrow;
use std::collections::BTreeMap;

/// Where a user stands in the list of one pool.
#[derive(Clone, Debug, Default)]
pub struct Selector {
    /// Round robin: index of the next element.
    next: usize,
    /// Weighted round robin: what each element is owed.
    credits: BTreeMap<PeId, i64>,
    /// Something was picked from this list.
    begun: bool,
}

impl Selector {
    /// A new list has come: round robin, with and without weights, begins with its first element, which the registrar
    /// has chosen. Credits outlive lists.
    pub const fn restart(&mut self) {
        self.next = 0;
        self.begun = false;
    }

    /// The index of the element to use now; `None` if nobody can serve. `policy` is the pool's, `list` in the order
    /// of the registrar's answer; elements that `suspect` names are passed over.
    pub fn pick<E: Borrow<Element>>(
        &mut self,
        policy: PolicyType,
        list: &[E],
        suspect: impl Fn(PeId) -> bool,
        rng: &mut fastrand::Rng,
    ) -> Option<usize> {
        let trusted = |index: &usize| !suspect(list[*index].borrow().pe_id);
        match policy {
            PolicyType::WEIGHTED_ROUND_ROBIN => self.weighted(list, suspect),
            PolicyType::RANDOM
            | PolicyType::WEIGHTED_RANDOM
            | PolicyType::RANDOMIZED_LEAST_USED => {
                let candidates: Vec<usize> = (0..list.len()).filter(trusted).collect();
                rng.choice(candidates)
            }
            // The first of equals: the registrar's order takes turns already.
            PolicyType::PRIORITY => (0..list.len()).rev().filter(trusted).max_by_key(|index| {
                match list[*index].borrow().policy {
                    Policy::Priority { priority } => priority,
                    _ => 0,
                }
            }),
            PolicyType::LEAST_USED
            | PolicyType::LEAST_USED_DEGRADATION
            | PolicyType::PRIORITY_LEAST_USED => (0..list.len()).find(trusted),
            _ => {
                let start = if self.next < list.len() { self.next } else { 0 };
                let index = (start..list.len()).chain(0..start).find(trusted)?;
                self.next = index + 1;
                Some(index)
            }
        }
    }

    fn weighted<E: Borrow<Element>>(
        &mut self,
        list: &[E],
        suspect: impl Fn(PeId) -> bool,
    ) -> Option<usize> {
        let weight = |element: &Element| element.policy.weight().map_or(0, i64::from);
        let elements = || list.iter().map(Borrow::borrow).enumerate();
        let serving =
            || elements().filter(|(_, element)| weight(element) > 0 && !suspect(element.pe_id));
        let total: i64 = serving().map(|(_, element)| weight(element)).sum();
        if self.credits.len() > list.len() {
            self.credits.retain(|pe_id, _| elements().any(|(_, element)| element.pe_id == *pe_id));
        }
        let mut best: Option<(i64, usize, PeId)> = None;
        for (index, element) in serving() {
            let credit = self.credits.entry(element.pe_id).or_default();
            *credit = (*credit).clamp(-total, total) + weight(element);
            let better = self.begun && best.is_some_and(|(most, ..)| *credit > most);
            if best.is_none() || better {
                best = Some((*credit, index, element.pe_id));
            }
        }
        let (_, index, pe_id) = best?;
        self.begun = true;
        *self.credits.entry(pe_id).or_default() -= total;
        Some(index)
    }
}
