//! Selection at the registrar: distribution, zero weight, changes in mid-cycle, everything loaded.

mod common;

use common::element;
use dialtone_handlespace::{Handle, Handlespace, PeId, Policy};
use std::collections::BTreeMap;

fn handle(name: &str) -> Handle {
    name.parse().unwrap()
}

fn space(policies: &[(u32, Policy<'static>)]) -> Handlespace {
    let mut space = Handlespace::new();
    for (pe_id, policy) in policies {
        put(&mut space, *pe_id, policy.clone());
    }
    space
}

fn put(space: &mut Handlespace, pe_id: u32, policy: Policy<'static>) {
    space.register(&handle("p"), element(pe_id, 1, policy)).unwrap();
}

fn remove(space: &mut Handlespace, pe_id: u32) {
    assert!(space.remove(&handle("p"), PeId(pe_id)).is_some());
}

fn answer(space: &mut Handlespace, max_items: usize, rng: &mut fastrand::Rng) -> Vec<u32> {
    space.select(b"p", max_items, rng).unwrap().iter().map(|element| element.pe_id.0).collect()
}

/// The first element of each of `count` answers.
fn firsts(space: &mut Handlespace, count: usize) -> Vec<u32> {
    let mut rng = fastrand::Rng::with_seed(1);
    (0..count).map(|_| answer(space, 1, &mut rng)[0]).collect()
}

fn counts(chosen: &[u32]) -> BTreeMap<u32, usize> {
    chosen.iter().fold(BTreeMap::new(), |mut counts, pe_id| {
        *counts.entry(*pe_id).or_default() += 1;
        counts
    })
}

#[test]
fn nobody_knows_what_is_not_there() {
    assert!(Handlespace::new().select(b"p", 1, &mut fastrand::Rng::with_seed(1)).is_none());
}

#[test]
fn round_robin_moves_its_head_by_one() {
    let mut rng = fastrand::Rng::with_seed(1);
    let mut space = space(&[1, 2, 3].map(|pe_id| (pe_id, Policy::RoundRobin)));
    assert_eq!(answer(&mut space, 2, &mut rng), [1, 2]);
    assert_eq!(answer(&mut space, 2, &mut rng), [2, 3]);
    assert_eq!(answer(&mut space, 9, &mut rng), [3, 1, 2]);
    assert_eq!(answer(&mut space, 0, &mut rng), [0; 0]);
    assert_eq!(counts(&firsts(&mut space, 300)), BTreeMap::from([(1, 100), (2, 100), (3, 100)]));
}

#[test]
fn round_robin_takes_changes_in_mid_cycle() {
    let mut space = space(&[10, 20, 30].map(|pe_id| (pe_id, Policy::RoundRobin)));
    assert_eq!(firsts(&mut space, 2), [10, 20]);
    remove(&mut space, 20);
    put(&mut space, 25, Policy::RoundRobin);
    assert_eq!(firsts(&mut space, 4), [25, 30, 10, 25]);
    remove(&mut space, 30);
    remove(&mut space, 25);
    assert_eq!(firsts(&mut space, 2), [10, 10]);
}

#[test]
fn weights_are_met_exactly_and_evenly() {
    let weighted = |weight| Policy::WeightedRoundRobin { weight };
    let mut space =
        space(&[(1, weighted(5)), (2, weighted(1)), (3, weighted(1)), (4, weighted(0))]);
    assert_eq!(firsts(&mut space, 7), [1, 1, 2, 1, 3, 1, 1], "no bunch of five");
    assert_eq!(counts(&firsts(&mut space, 700)), BTreeMap::from([(1, 500), (2, 100), (3, 100)]));
    let all = answer(&mut space, 9, &mut fastrand::Rng::with_seed(1));
    assert_eq!(all.len(), 3, "nobody twice, weight 0 never");
    // Equal weights are plain round robin.
    let mut space = self::space(&[1, 2, 3].map(|pe_id| (pe_id, weighted(7))));
    assert_eq!(firsts(&mut space, 6), [1, 2, 3, 1, 2, 3]);
}

#[test]
fn weights_may_change_in_mid_cycle() {
    let weighted = |weight| Policy::WeightedRoundRobin { weight };
    let mut space = space(&[(1, weighted(u32::MAX)), (2, weighted(u32::MAX)), (3, weighted(2))]);
    firsts(&mut space, 5);
    put(&mut space, 1, weighted(3));
    remove(&mut space, 2);
    put(&mut space, 4, weighted(1));
    firsts(&mut space, 12);
    assert_eq!(counts(&firsts(&mut space, 600)), BTreeMap::from([(1, 300), (3, 200), (4, 100)]));
    for pe_id in [1, 3, 4] {
        put(&mut space, pe_id, weighted(0));
    }
    assert_eq!(answer(&mut space, 9, &mut fastrand::Rng::with_seed(1)), [0; 0], "nobody can serve");
}

#[test]
fn random_is_even_and_names_nobody_twice() {
    let mut rng = fastrand::Rng::with_seed(7);
    let mut space = space(&[1, 2, 3, 4].map(|pe_id| (pe_id, Policy::Random)));
    let mut pairs: BTreeMap<[u32; 2], usize> = BTreeMap::new();
    for _ in 0..12_000 {
        let chosen = answer(&mut space, 2, &mut rng);
        *pairs.entry([chosen[0], chosen[1]]).or_default() += 1;
    }
    assert_eq!(pairs.len(), 12, "every ordered pair of different elements");
    assert!(pairs.values().all(|count| (850..1150).contains(count)), "{pairs:?}");
    remove(&mut space, 2);
    let mut rest = answer(&mut space, 9, &mut rng);
    rest.sort_unstable();
    assert_eq!(rest, [1, 3, 4]);
}

#[test]
fn priority_comes_in_decreasing_order_and_equals_take_turns() {
    let mut rng = fastrand::Rng::with_seed(1);
    let prior = |priority| Policy::Priority { priority };
    let mut space = space(&[(1, prior(1)), (2, prior(9)), (3, prior(9)), (4, prior(0))]);
    assert_eq!(answer(&mut space, 9, &mut rng), [2, 3, 1, 4]);
    assert_eq!(answer(&mut space, 3, &mut rng), [3, 2, 1]);
    remove(&mut space, 2);
    put(&mut space, 5, prior(u32::MAX));
    assert_eq!(answer(&mut space, 2, &mut rng), [5, 3]);
    assert_eq!(firsts(&mut space, 3), [5, 5, 5]);
}

#[test]
fn least_used_comes_ascending_and_equals_take_turns() {
    let mut rng = fastrand::Rng::with_seed(1);
    let loaded = |load| Policy::LeastUsed { load };
    let mut space =
        space(&[(1, loaded(50)), (2, loaded(10)), (3, loaded(50)), (4, loaded(u32::MAX))]);
    assert_eq!(answer(&mut space, 9, &mut rng), [2, 1, 3, 4]);
    put(&mut space, 2, loaded(60));
    assert_eq!(firsts(&mut space, 4), [1, 3, 1, 3]);
    remove(&mut space, 1);
    assert_eq!(answer(&mut space, 2, &mut rng), [3, 2]);
    // Everybody at 100 %: still served, in turns.
    for pe_id in [2, 3] {
        put(&mut space, pe_id, loaded(u32::MAX));
    }
    assert_eq!(counts(&firsts(&mut space, 300)), BTreeMap::from([(2, 100), (3, 100), (4, 100)]));
}

/// Policies to come are served by their nearest relatives.
#[test]
fn other_policies_fall_back() {
    let weighted = |weight| Policy::WeightedRandom { weight };
    let mut weights = space(&[(1, weighted(3)), (2, weighted(1)), (3, weighted(0))]);
    assert_eq!(counts(&firsts(&mut weights, 400)), BTreeMap::from([(1, 300), (2, 100)]));
    let loaded = |load| Policy::RandomizedLeastUsed { load };
    assert_eq!(firsts(&mut space(&[(1, loaded(5)), (2, loaded(4))]), 2), [2, 2]);
    let private = || Policy::Other {
        number: dialtone_handlespace::PolicyType(0xb000_2001),
        data: vec![1].into(),
    };
    assert_eq!(firsts(&mut space(&[(1, private()), (2, private())]), 3), [1, 2, 1]);
}
