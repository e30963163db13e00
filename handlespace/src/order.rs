//! The state of a pool's policy (RFC 5356): which elements an answer names, and in which order.
//!
//! Heads, counters and turns are local to a registrar; several registrars approximate the policy (section 4).
//!
//! | policy | key in the queue, smallest first | after an answer |
//! |---|---|---|
//! | round robin, and policies that nobody knows | turn | the first goes to the end |
//! | priority | priority, turn | the first of equals goes behind them |
//! | least used, priority least used | load or load + degradation, turn | the first of equals goes behind them |
//! | least used with degradation | load + counter * degradation, turn | all named ones pay their degradation |
//! | weighted round robin | when it is due | the first is due again after 1 / weight |
//!
//! | policy | weight in the draw |
//! |---|---|
//! | random | 1 |
//! | weighted random | weight |
//! | randomized least used | 0xffffffff - load, at least 1 |

use crate::lots::Lots;
use crate::ranks::{Frontier, Ranks};
use dialtone_wire::{Policy, PolicyType};

#[derive(Clone, Debug)]
pub(crate) enum Order {
    Drawn(Lots),
    Queued(Queue),
}

/// Elements are named by their places, as in [`Ranks`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Queue {
    ranks: Ranks,
    /// Counts what takes turns: who got its turn later stands behind.
    turns: u64,
    /// Weighted round robin: when the last one was due. In 2^-64 of a cycle, in which everybody is due as often as
    /// its weight says.
    now: u128,
}

/// Memory for one selection, to be used again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scratch {
    pub(crate) found: Vec<u32>,
    frontier: Frontier,
}

impl Order {
    pub(crate) fn new(policy: PolicyType) -> Self {
        match policy {
            PolicyType::RANDOM
            | PolicyType::RANDOMIZED_LEAST_USED
            | PolicyType::WEIGHTED_RANDOM => Self::Drawn(Lots::default()),
            _ => Self::Queued(Queue::default()),
        }
    }

    /// A new element at the next place.
    pub(crate) fn push(&mut self, policy: &Policy<'_>) {
        match self {
            Self::Drawn(lots) => lots.push(lot(policy)),
            Self::Queued(queue) => {
                let key = queue.join(policy);
                queue.ranks.push(key);
            }
        }
    }

    /// The element has registered again.
    pub(crate) fn update(&mut self, place: u32, old: &Policy<'_>, new: &Policy<'_>) {
        match self {
            Self::Drawn(lots) if lot(old) != lot(new) => lots.set(place, lot(new)),
            Self::Drawn(_) => {}
            Self::Queued(queue) => queue.update(place, old, new),
        }
    }

    /// The element is gone, and that of the last place takes its place.
    pub(crate) fn swap_remove(&mut self, place: u32) {
        match self {
            Self::Drawn(lots) => lots.swap_remove(place),
            Self::Queued(queue) => queue.ranks.swap_remove(place),
        }
    }

    /// Leaves at most `count` places in `scratch`, none twice, in the order in which a user should try them.
    pub(crate) fn select<'p>(
        &mut self,
        count: usize,
        policy: impl Fn(u32) -> Option<&'p Policy<'static>>,
        rng: &mut fastrand::Rng,
        scratch: &mut Scratch,
    ) {
        scratch.found.clear();
        match self {
            Self::Drawn(lots) => {
                lots.draw(count, |place| policy(place).map_or(0, lot), rng, &mut scratch.found);
            }
            Self::Queued(queue) => {
                queue.ranks.smallest(count, &mut scratch.frontier, &mut scratch.found);
                queue.charge(&scratch.found, policy);
            }
        }
    }
}

impl Queue {
    fn turn(&mut self) -> u64 {
        self.turns += 1;
        self.turns
    }

    /// The key of an element that comes to the end of its equals.
    fn join(&mut self, policy: &Policy<'_>) -> Option<u128> {
        let turn = self.turn();
        match policy {
            // A weight of 0 means no service (RFC 5356, section 3.2).
            Policy::WeightedRoundRobin { weight: 0 } => None,
            // Multiples of the golden ratio: whoever comes to them next, they are spread evenly over the interval.
            Policy::WeightedRoundRobin { weight } => {
                let phase = turn.wrapping_mul(0x9e37_79b9_7f4a_7c15) / u64::from(*weight);
                Some(self.now + u128::from(phase))
            }
            policy => Some(key(sum(policy), turn)),
        }
    }

    fn update(&mut self, place: u32, old: &Policy<'_>, new: &Policy<'_>) {
        let key = match (self.ranks.key(place), old, new) {
            (
                Some(due),
                Policy::WeightedRoundRobin { weight: old },
                Policy::WeightedRoundRobin { weight: new @ 1.. },
            ) => {
                if old == new {
                    return;
                }
                // The share of the interval that it has waited for stays.
                let left = due.saturating_sub(self.now) * u128::from(*old) / u128::from(*new);
                Some(self.now + left)
            }
            (_, _, Policy::WeightedRoundRobin { .. }) => self.join(new),
            // RFC 5356, section 5.2.2: the degradation counter starts again. Equal again, it keeps its turn.
            (Some(key), _, new) if (key >> 64) as u64 == sum(new) => return,
            (_, _, new) => self.join(new),
        };
        self.ranks.set(place, key);
    }

    /// What those who were named pay.
    fn charge<'p>(&mut self, found: &[u32], policy: impl Fn(u32) -> Option<&'p Policy<'static>>) {
        let mut last = None;
        for place in found {
            let (Some(old), Some(policy)) = (self.ranks.key(*place), policy(*place)) else {
                continue;
            };
            let sum = (old >> 64) as u64;
            let new = match policy {
                Policy::WeightedRoundRobin { weight } => {
                    self.now = old;
                    self.ranks
                        .set(*place, Some(old + u128::from(u64::MAX / u64::from(*weight).max(1))));
                    return;
                }
                Policy::LeastUsedDegradation { degradation, .. } => {
                    sum.saturating_add((*degradation).into())
                }
                _ if last == Some(sum) => continue,
                _ => sum,
            };
            last = Some(sum);
            let turn = self.turn();
            self.ranks.set(*place, Some(key(new, turn)));
        }
    }
}

const fn key(sum: u64, turn: u64) -> u128 {
    (sum as u128) << 64 | turn as u128
}

/// What the policy puts the smallest first of.
fn sum(policy: &Policy<'_>) -> u64 {
    match policy {
        Policy::LeastUsed { load } | Policy::LeastUsedDegradation { load, .. } => (*load).into(),
        Policy::Priority { priority } => (!priority).into(),
        // RFC 5356, section 5.3.2; more than 32 bits.
        Policy::PriorityLeastUsed { load, degradation } => {
            u64::from(*load) + u64::from(*degradation)
        }
        _ => 0,
    }
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
