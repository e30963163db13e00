//! What a proxy remembers of rooms: where they were, for the time in which the database does not answer, and how many
//! names it has claimed.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use dialtone_location::Claim;

/// Rooms that are remembered.
const MOST: usize = 10_000;

/// Claims as they were when a request went to their owner, if the database was quick to tell. Those of an element that has failed or left the pool are
/// forgotten, and those that this proxy tries to change.
#[derive(Debug, Default)]
pub(super) struct Known {
    claims: HashMap<Box<str>, Claim>,
    /// Names in the order in which they came, some of them forgotten since.
    order: VecDeque<Box<str>>,
}

impl Known {
    pub(super) fn get(&self, name: &str) -> Option<&Claim> {
        self.claims.get(name)
    }

    pub(super) fn learn(&mut self, claim: &Claim) {
        match self.claims.get_mut(&claim.name) {
            Some(known) if known.generation >= claim.generation => {}
            Some(known) => *known = claim.clone(),
            None => {
                self.order.push_back(claim.name.clone());
                self.claims.insert(claim.name.clone(), claim.clone());
                while self.order.len() > MOST {
                    let oldest = self.order.pop_front();
                    oldest.and_then(|name| self.claims.remove(&name));
                }
            }
        }
    }

    pub(super) fn forget(&mut self, name: &str) {
        if self.claims.remove(name).is_some() {
            self.order.retain(|other| **other != *name);
        }
    }

    pub(super) fn forget_owner(&mut self, element: u32) {
        self.claims.retain(|_, claim| claim.owner != element);
        let claims = &self.claims;
        self.order.retain(|name| claims.contains_key(name));
    }
}

/// Names that people use: calls in them have refreshed their sessions. The oldest are forgotten first.
#[derive(Debug, Default)]
pub(super) struct Used {
    names: HashSet<Box<str>>,
    order: VecDeque<Box<str>>,
}

impl Used {
    pub(super) fn learn(&mut self, name: &str) {
        if self.names.insert(name.into()) {
            self.order.push_back(name.into());
            if self.order.len() > MOST {
                let oldest = self.order.pop_front();
                oldest.map(|name| self.names.remove(&name));
            }
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }
}

/// How many names may be claimed: each is a row of the database for as long as its lease. A tenth is kept for names that
/// are in use, so that a flood of others leaves them room when their claims have run out.
#[derive(Debug)]
pub(super) struct Budget {
    left: f64,
    most: f64,
    per_second: f64,
    at: Instant,
}

impl Budget {
    pub(super) fn new(now: Instant, most: usize, lease: Duration) -> Self {
        let most = most as f64;
        Self { left: most, most, per_second: most / lease.as_secs_f64().max(1.0), at: now }
    }

    /// Takes one, if there is one for a name that is in use, or is not.
    pub(super) fn take(&mut self, now: Instant, is_used: bool) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.left = (self.left + passed * self.per_second).min(self.most);
        let kept = if is_used { 0.0 } else { (self.most / 10.0).floor() };
        let granted = self.left >= 1.0 + kept;
        if granted {
            self.left -= 1.0;
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(name: &str, owner: u32, generation: u64) -> Claim {
        Claim { name: name.into(), owner, generation, lease_until: 9 }
    }

    #[test]
    fn what_is_remembered_is_bounded_and_never_goes_back() {
        let mut known = Known::default();
        known.learn(&claim("a", 1, 5));
        known.learn(&claim("a", 2, 4));
        assert_eq!(known.get("a").unwrap().owner, 1);
        known.learn(&claim("a", 2, 6));
        assert_eq!(known.get("a").unwrap().owner, 2);
        known.forget("a");
        assert_eq!((known.get("a"), known.order.len()), (None, 0));
        known.learn(&claim("a", 2, 6));
        (0..2 * MOST).for_each(|number| known.learn(&claim(&number.to_string(), 3, 1)));
        assert_eq!((known.claims.len(), known.order.len()), (MOST, MOST));
        assert_eq!(known.get("a"), None, "the oldest goes first");
        known.forget_owner(3);
        assert_eq!((known.claims.len(), known.order.len()), (0, 0));
    }

    #[test]
    fn names_in_use_are_bounded() {
        let mut used = Used::default();
        used.learn("a");
        assert!(used.has("a") && !used.has("b"));
        (0..2 * MOST).for_each(|number| used.learn(&number.to_string()));
        assert!(!used.has("a") && used.has(&(2 * MOST - 1).to_string()));
        assert_eq!((used.names.len(), used.order.len()), (MOST, MOST));
    }

    #[test]
    fn a_budget_comes_back_within_a_lease() {
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let start = Instant::now();
        let mut budget = Budget::new(start, 10, Duration::from_secs(100));
        let take = |budget: &mut Budget, at, is_used| {
            (0..30).take_while(|_| budget.take(start + Duration::from_secs(at), is_used)).count()
        };
        assert_eq!(take(&mut budget, 0, true), 10);
        assert_eq!(take(&mut budget, 25, true), 2);
        assert_eq!(take(&mut budget, 1_000, true), 10);
        // Names that nobody uses leave a tenth.
        assert_eq!(take(&mut budget, 2_000, false), 9);
        assert_eq!(take(&mut budget, 2_000, true), 1);
    }
}
