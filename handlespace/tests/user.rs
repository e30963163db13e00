//! Selection at the pool user.

mod common;

use common::element;
use dialtone_handlespace::user::Selector;
use dialtone_handlespace::{Element, Handlespace, PeId, Policy, PolicyType};

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

/// Proves L-001, L-005.
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

fn weighted(weight: u32) -> Policy<'static> {
    Policy::WeightedRoundRobin { weight }
}

/// Proves L-008.
#[test]
fn weighted_round_robin_begins_with_the_first_and_spreads_by_weight() {
    let mut user = User::new(&[weighted(5), weighted(1), weighted(1), weighted(0)]);
    assert_eq!(user.picks(7), [1, 1, 2, 1, 3, 1, 1]);
    user.suspects = vec![1];
    assert_eq!(user.picks(4), [2, 3, 2, 3]);
    user.suspects = vec![1, 2, 3];
    assert_eq!(user.pick(), None);
    // The registrar's first is the first, whatever it weighs; then each has its share.
    let mut user = User::new(&[weighted(1), weighted(5)]);
    assert_eq!(user.picks(6), [1, 2, 2, 2, 2, 2]);
    assert_eq!(user.picks(60).iter().filter(|pe_id| **pe_id == 1).count(), 10);
    let mut user = User::new(&[weighted(1), weighted(1), weighted(1)]);
    assert_eq!(user.picks(6), [1, 2, 3, 1, 2, 3], "round robin");
}

/// A user that asks the registrar each time picks as often as the weights say.
#[test]
fn each_new_list_continues_the_registrars_cycle() {
    let mut space = Handlespace::new();
    for weight in 1..=3 {
        space.register(&"p".parse().unwrap(), element(weight, 9, weighted(weight))).unwrap();
    }
    let mut rng = fastrand::Rng::with_seed(1);
    let mut picked = [0; 4];
    for _ in 0..600 {
        let list: Vec<&Element> = space.select(b"p", 3, &mut rng).unwrap().iter().collect();
        let mut selector = Selector::default();
        let policy = PolicyType::WEIGHTED_ROUND_ROBIN;
        let index = selector.pick(policy, &list, |_| false, &mut rng).unwrap();
        picked[list[index].pe_id.0 as usize] += 1;
    }
    assert_eq!(picked, [0, 100, 200, 300]);
}

/// Proves L-010, L-014, L-035.
#[test]
fn random_draws_evenly_from_the_list() {
    for policy in [
        [Policy::Random, Policy::Random, Policy::Random],
        [1, 9, 1].map(|weight| Policy::WeightedRandom { weight }),
        [0, u32::MAX, 0].map(|load| Policy::RandomizedLeastUsed { load }),
    ] {
        let mut user = User::new(&policy);
        let picks = user.picks(3000);
        for pe_id in 1..=3 {
            let count = picks.iter().filter(|picked| **picked == pe_id).count();
            assert!((870..1130).contains(&count), "{count}, five standard deviations off");
        }
        user.suspects = vec![3];
        assert!(!user.picks(100).contains(&3));
    }
}

/// Proves L-017.
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

/// Proves L-022, L-028, L-033.
#[test]
fn load_policies_take_the_order_of_the_list() {
    let policies: [fn(u32) -> Policy<'static>; 3] = [
        |load| Policy::LeastUsed { load },
        |load| Policy::LeastUsedDegradation { load, degradation: 1 },
        |load| Policy::PriorityLeastUsed { load, degradation: 1 },
    ];
    for policy in policies {
        let mut user = User::new(&[policy(9), policy(1), policy(5)]);
        assert_eq!(user.picks(2), [1, 1]);
        user.suspects = vec![1];
        assert_eq!(user.picks(2), [2, 2]);
        user.suspects = vec![1, 2];
        assert_eq!(user.pick(), Some(3));
    }
    assert_eq!(User::new(&[]).pick(), None);
}
