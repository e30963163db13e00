//! The state of a pool's policy (RFC 5356): which elements an answer names, and in which order.
//!
//! Heads, counters and turns are local to a registrar; several registrars approximate the policy (section 4).
//!
//! | policy | first come those with | after an answer |
//! |---|---|---|
//! | round robin, and policies that nobody knows | the oldest turn | the first goes to the end |
//! | priority | the highest priority | the first of equals goes behind them |
//! | least used | the lowest load | the first of equals goes behind them |
//! | priority least used | the lowest load + degradation | the first of equals goes behind them |
//! | least used with degradation | the lowest load + counter * degradation | the counters of all go up |
//! | weighted round robin | the earliest time | the first is due again after 1 / weight |
//!
//! | policy | weight in the draw |
//! |---|---|
//! | random | 1 |
//! | weighted random | weight |
//! | randomized least used | 0xffffffff - load, at least 1 |

use crate::lots::Lots;
use crate::queue::Queue;
use crate::ranks::Search;
use crate::weighted::Weighted;
use dialtone_wire::{Policy, PolicyType};

/// Elements are named by their places in the pool, which are the numbers from 0 without gaps.
#[derive(Clone, Debug)]
pub(crate) enum Order {
    Degrading(Queue),
    Drawn(Lots),
    Queued(Queue),
    Weighted(Weighted),
}

/// Memory for one selection, to be used again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scratch {
    pub(crate) found: Vec<u32>,
    search: Search,
}

impl Order {
    pub(crate) fn new(policy: PolicyType) -> Self {
        match policy {
            PolicyType::LEAST_USED_DEGRADATION => Self::Degrading(Queue::default()),
            PolicyType::RANDOM
            | PolicyType::RANDOMIZED_LEAST_USED
            | PolicyType::WEIGHTED_RANDOM => Self::Drawn(Lots::default()),
            PolicyType::WEIGHTED_ROUND_ROBIN => Self::Weighted(Weighted::default()),
            _ => Self::Queued(Queue::default()),
        }
    }

    /// A new element at the next place.
    pub(crate) fn push(&mut self, policy: &Policy<'_>) {
        match self {
            Self::Degrading(queue) | Self::Queued(queue) => queue.push(policy),
            Self::Drawn(lots) => lots.push(lot(policy)),
            Self::Weighted(weighted) => weighted.push(weight(policy)),
        }
    }

    /// The element has registered again.
    pub(crate) fn update(&mut self, place: u32, old: &Policy<'_>, new: &Policy<'_>) {
        match self {
            Self::Degrading(queue) | Self::Queued(queue) => queue.update(place, old, new),
            Self::Drawn(lots) if lot(old) == lot(new) => {}
            Self::Drawn(lots) => lots.set(place, lot(new)),
            Self::Weighted(weighted) => weighted.update(place, weight(old), weight(new)),
        }
    }

    /// The element is gone, and that of the last place takes its place.
    pub(crate) fn swap_remove(&mut self, place: u32) {
        match self {
            Self::Degrading(queue) | Self::Queued(queue) => queue.swap_remove(place),
            Self::Drawn(lots) => lots.swap_remove(place),
            Self::Weighted(weighted) => weighted.swap_remove(place),
        }
    }

    /// Leaves at most `count` places in `scratch`, none twice, in the order in which a user should try them. `values`
    /// tells the policy of a place again.
    pub(crate) fn select<'p>(
        &mut self,
        count: usize,
        values: impl Fn(u32) -> Option<&'p Policy<'static>>,
        rng: &mut fastrand::Rng,
        scratch: &mut Scratch,
    ) {
        let Scratch { found, search } = scratch;
        found.clear();
        match self {
            Self::Degrading(queue) => queue.select_degrading(count, values, search, found),
            Self::Drawn(lots) => {
                lots.draw(count, |place| values(place).map_or(0, lot), rng, found);
            }
            Self::Queued(queue) => queue.select(count, search, found),
            Self::Weighted(weighted) => {
                weighted.select(count, |place| values(place).map_or(0, weight), search, found);
            }
        }
    }
}

fn weight(policy: &Policy<'_>) -> u32 {
    policy.weight().unwrap_or(0)
}

/// What the random policies draw by.
fn lot(policy: &Policy<'_>) -> u64 {
    match policy {
        Policy::WeightedRandom { weight } => (*weight).into(),
        // RFC 5356, section 5.4.2. When all are at 100 %, somebody has to serve nevertheless.
        Policy::RandomizedLeastUsed { load } => (!load).max(1).into(),
        _ => 1,
    }
}
