//! The policies that put elements into an order and let equal ones take turns: round robin, priority, least used with
//! its variants (RFC 5356, sections 4.1, 4.5, 5.1 to 5.3).

use crate::ranks::{Ranks, Search};
use dialtone_wire::Policy;

/// Elements by what the policy puts the smallest first of, and by turn.
#[derive(Clone, Debug, Default)]
pub(crate) struct Queue {
    ranks: Ranks,
    /// Who got its turn later stands behind.
    turns: u32,
}

impl Queue {
    pub(crate) fn push(&mut self, policy: &Policy<'_>) {
        let turn = self.turn();
        self.ranks.push(Some(key(sum(policy), turn)));
    }

    /// Among its new equals it stands behind; if nothing has changed, it keeps its turn.
    pub(crate) fn update(&mut self, place: u32, old: &Policy<'_>, new: &Policy<'_>) {
        let former = match new {
            // RFC 5356, section 5.2.2: the degradation counter starts again.
            Policy::LeastUsedDegradation { .. } => {
                self.ranks.key(place).map(|key| (key >> 32) as u64)
            }
            _ => Some(sum(old)),
        };
        if former != Some(sum(new)) {
            let turn = self.turn();
            self.ranks.set(place, Some(key(sum(new), turn)));
        }
    }

    pub(crate) fn swap_remove(&mut self, place: u32) {
        self.ranks.swap_remove(place);
    }

    /// Names the first `count`. The first of each group of equals goes behind the others.
    pub(crate) fn select(&mut self, count: usize, search: &mut Search, found: &mut Vec<u32>) {
        self.ranks.smallest(count, search, found);
        let mut last = None;
        for place in found {
            let sum = self.ranks.key(*place).map(|key| (key >> 32) as u64);
            if last.replace(sum) != Some(sum) {
                let turn = self.turn();
                self.ranks.put_off(*place, |old| old >> 32 << 32 | u128::from(turn));
            }
        }
    }

    /// Names the first `count`. All of them pay their degradation: the key is load + counter * degradation (RFC 5356,
    /// section 5.2.2). More than 64 bits do not become less.
    pub(crate) fn select_degrading<'p>(
        &mut self,
        count: usize,
        values: impl Fn(u32) -> Option<&'p Policy<'static>>,
        search: &mut Search,
        found: &mut Vec<u32>,
    ) {
        self.ranks.smallest(count, search, found);
        for place in found {
            let degradation = match values(*place) {
                Some(Policy::LeastUsedDegradation { degradation, .. }) => u64::from(*degradation),
                _ => 0,
            };
            let turn = self.turn();
            self.ranks
                .put_off(*place, |old| key(((old >> 32) as u64).saturating_add(degradation), turn));
        }
    }

    fn turn(&mut self) -> u32 {
        if self.turns == u32::MAX {
            self.turns = 0;
            self.ranks.renew(|key| {
                self.turns += 1;
                key >> 32 << 32 | u128::from(self.turns)
            });
        }
        self.turns += 1;
        self.turns
    }
}

const fn key(sum: u64, turn: u32) -> u128 {
    (sum as u128) << 32 | turn as u128
}

/// What the policy puts the smallest first of; nothing in round robin.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// When turns run out, they are given anew in the same order.
    #[test]
    fn turns_never_end() {
        let mut queue = Queue::default();
        for load in [5, 5, 4, 5] {
            queue.push(&Policy::LeastUsed { load });
        }
        queue.turns = u32::MAX - 2;
        let mut answer = |count| {
            let mut found = Vec::new();
            queue.select(count, &mut Search::default(), &mut found);
            (found, queue.turns)
        };
        assert_eq!(answer(4), (vec![2, 0, 1, 3], u32::MAX));
        // Four were given anew, and two have their turn behind them.
        assert_eq!(answer(4), (vec![2, 1, 3, 0], 6));
        assert_eq!(answer(4).0, [2, 3, 0, 1]);
    }

    #[test]
    fn degradation_ends_at_64_bits() {
        let full = Policy::LeastUsedDegradation { load: u32::MAX, degradation: u32::MAX };
        let mut queue = Queue::default();
        queue.push(&full);
        queue.push(&full);
        let answers = |queue: &mut Queue| {
            let mut found = Vec::new();
            queue.select_degrading(1, |_| Some(&full), &mut Search::default(), &mut found);
            found
        };
        queue.ranks.set(0, Some(key(u64::MAX - 1, 1)));
        queue.ranks.set(1, Some(key(u64::MAX - 1, 2)));
        let all: Vec<_> = (0..5).flat_map(|_| answers(&mut queue)).collect();
        assert_eq!(all, [0, 1, 0, 1, 0]);
    }
}
