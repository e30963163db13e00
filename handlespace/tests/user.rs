//! Selection at the pool user.

mod common;

use common::element;
use dialtone_handlespace::user::Selector;
use dialtone_handlespace::{Element, PeId, Policy};

struct User {
    selector: Selector,
    list: Vec<Element>,
    suspects: Vec<u32>,
    rng: fastrand::Rng,
}

impl User {
    fn new(policies: &[Policy<'static>]) -> Self {
        let list =
            (1..).zip(policies).map(|(pe_id, policy)| element(pe_id, 9, policy.clone())).collect();
        Self {
            selector: Selector::default(),
            list,
            suspects: Vec::new(),
            rng: fastrand::Rng::with_seed(3),
        }
    }

    fn pick(&mut self) -> Option<u32> {
        let policy = self.list.first()?.policy.number();
        let suspect = |pe_id: PeId| self.suspects.contains(&pe_id.0);
        let index = self.selector.pick(policy, &self.list, suspect, &mut self.rng)?;
        Some(self.list[index].pe_id.0)
    }

    fn picks(&mut self, count: usize) -> Vec<u32> {
        (0..count).filter_map(|_| self.pick()).collect()
    }
}

#[test]
fn round_robin_walks_the_list_from_the_first() {
    let mut user = User::new(&[Policy::RoundRobin, Policy::RoundRobin, Policy::RoundRobin]);
    assert_eq!(user.picks(4), [1, 2, 3, 1]);
    user.suspects = vec![2];
    assert_eq!(user.picks(3), [3, 1, 3]);
    user.list.truncate(2);
    assert_eq!(user.picks(2), [1, 1]);
    user.suspects = vec![1, 2];
    assert_eq!(user.pick(), None);
    user.suspects = vec![];
    user.selector.restart();
    assert_eq!(user.picks(2), [1, 2]);
}

#[test]
fn weighted_round_robin_spreads_by_weight() {
    let weighted = |weight| Policy::WeightedRoundRobin { weight };
    let mut user = User::new(&[weighted(5), weighted(1), weighted(1), weighted(0)]);
    assert_eq!(user.picks(7), [1, 1, 2, 1, 3, 1, 1]);
    user.suspects = vec![1];
    assert_eq!(user.picks(4), [2, 3, 2, 3]);
    user.suspects = vec![1, 2, 3];
    assert_eq!(user.pick(), None);
}

#[test]
fn random_draws_evenly_from_the_list() {
    for policy in [Policy::Random, Policy::WeightedRandom { weight: 1 }] {
        let mut user = User::new(&[policy.clone(), policy.clone(), policy]);
        user.suspects = vec![3];
        let picks = user.picks(2000);
        let ones = picks.iter().filter(|pe_id| **pe_id == 1).count();
        assert!((900..1100).contains(&ones) && !picks.contains(&3), "{ones}");
    }
}

#[test]
fn priority_takes_the_highest_that_is_active() {
    let prior = |priority| Policy::Priority { priority };
    let mut user = User::new(&[prior(3), prior(7), prior(7), prior(9)]);
    assert_eq!(user.picks(2), [4, 4]);
    user.suspects = vec![4];
    assert_eq!(user.picks(2), [2, 2], "the registrar's order takes turns");
    user.suspects = vec![4, 2, 3];
    assert_eq!(user.pick(), Some(1));
}

#[test]
fn load_policies_take_the_order_of_the_list() {
    let mut user = User::new(&[Policy::LeastUsed { load: 9 }, Policy::LeastUsed { load: 1 }]);
    assert_eq!(user.picks(2), [1, 1]);
    user.suspects = vec![1];
    assert_eq!(user.pick(), Some(2));
    assert_eq!(User::new(&[]).pick(), None);
}
