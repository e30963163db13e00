//! Weighted round robin (RFC 5356, section 4.2): in each cycle everybody is named as often as its weight says.

use crate::ranks::{Ranks, Search};

/// One cycle: times have 64 fractional bits.
const CYCLE: u128 = 1 << 64;

/// Elements by when they are due. An element of weight w is due w times a cycle, at equal distances.
#[derive(Clone, Debug, Default)]
pub(crate) struct Weighted {
    ranks: Ranks,
    /// When the last one was due.
    now: u128,
    joined: u64,
}

impl Weighted {
    pub(crate) fn push(&mut self, weight: u32) {
        let due = self.join(weight);
        self.ranks.push(due);
    }

    pub(crate) fn update(&mut self, place: u32, old: u32, new: u32) {
        if old == new {
            return;
        }
        let due = match self.ranks.key(place) {
            // The share of the distance that it has waited for stays: who changes its weight all the time is named.
            Some(due) if new > 0 => {
                let left = due.saturating_sub(self.now) * u128::from(old) / u128::from(new);
                Some(self.now + left)
            }
            _ => self.join(new),
        };
        self.ranks.set(place, due);
    }

    /// When an element that comes now is due. Multiples of the golden ratio spread all of them evenly over the
    /// distance, whoever else comes. A weight of 0 means no service (RFC 5356, section 3.2).
    fn join(&mut self, weight: u32) -> Option<u128> {
        self.joined = self.joined.wrapping_add(1);
        let share = self.joined.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Some(self.now + u128::from(share.checked_div(weight.into())?))
    }

    pub(crate) fn swap_remove(&mut self, place: u32) {
        self.ranks.swap_remove(place);
    }

    /// Names the one that is due, and the next ones as others to try, `count` altogether. Only the first has had its
    /// turn.
    pub(crate) fn select(
        &mut self,
        count: usize,
        weight: impl Fn(u32) -> u32,
        search: &mut Search,
        found: &mut Vec<u32>,
    ) {
        self.ranks.smallest(count, search, found);
        let Some(first) = found.first() else { return };
        let distance = u64::MAX / u64::from(weight(*first).max(1));
        let now = &mut self.now;
        self.ranks.put_off(*first, |due| {
            *now = due;
            due + u128::from(distance)
        });
        // Keys have 96 bits, 32 of them count cycles.
        if self.now >= CYCLE << 31 {
            let now = std::mem::take(&mut self.now);
            self.ranks.renew(|due| due.saturating_sub(now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When cycles run out, they are counted anew, and nobody notices.
    #[test]
    fn cycles_never_end() {
        let weights = [5, 1, 2];
        let mut weighted = Weighted::default();
        weights.iter().for_each(|weight| weighted.push(*weight));
        let named = |weighted: &mut Weighted| {
            let mut found = Vec::new();
            let weight = |place| weights[place as usize];
            weighted.select(1, weight, &mut Search::default(), &mut found);
            found[0]
        };
        let cycle: Vec<u32> = (0..8).map(|_| named(&mut weighted)).collect();
        weighted.now += (CYCLE << 31) - CYCLE - 1;
        weighted.ranks.renew(|due| due + (CYCLE << 31) - CYCLE - 1);
        for (answers, expected) in cycle.iter().cycle().take(24).enumerate() {
            assert_eq!(named(&mut weighted), *expected, "after {answers}");
        }
        assert!(weighted.now < 4 * CYCLE);
    }
}
