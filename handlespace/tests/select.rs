//! Selection at the registrar (RFC 5356): order, distribution, zero weight, changes in mid-cycle, everything loaded.

mod common;

use common::element;
use dialtone_handlespace::{Handle, Handlespace, PeId, Policy, PolicyType};
use dialtone_wire::CauseCode;
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
    let selection = space.select(b"p", max_items, rng).unwrap();
    let chosen: Vec<u32> = selection.iter().map(|element| element.pe_id.0).collect();
    assert_eq!((selection.len(), selection.is_empty()), (chosen.len(), chosen.is_empty()));
    chosen
}

/// The first element of each of `count` answers.
fn firsts(space: &mut Handlespace, count: usize) -> Vec<u32> {
    let mut rng = fastrand::Rng::with_seed(1);
    (0..count).map(|_| answer(space, 1, &mut rng)[0]).collect()
}

fn counts<T: Copy + Ord>(chosen: &[T]) -> BTreeMap<T, usize> {
    chosen.iter().fold(BTreeMap::new(), |mut counts, item| {
        *counts.entry(*item).or_default() += 1;
        counts
    })
}

/// As often as `probability` says, within five standard deviations of `draws` draws.
fn assert_share(count: usize, probability: f64, draws: usize) {
    let mean = probability * draws as f64;
    let limit = 5.0 * (mean * (1.0 - probability)).sqrt();
    let off = count as f64 - mean;
    assert!(off.abs() <= limit, "{count} instead of {mean} (at most {limit} off)");
}

/// Draws two of three, so many times, and compares all ordered pairs with drawing without putting back.
fn assert_pairs(space: &mut Handlespace, weights: &[(u32, f64)]) {
    const DRAWS: usize = 20_000;
    let mut rng = fastrand::Rng::with_seed(7);
    let pairs: Vec<[u32; 2]> = (0..DRAWS)
        .map(|_| answer(space, 2, &mut rng).try_into().expect("two different ones"))
        .collect();
    let seen = counts(&pairs);
    let sum: f64 = weights.iter().map(|(_, weight)| weight).sum();
    for (first, weight) in weights {
        for (second, other) in weights.iter().filter(|(second, _)| second != first) {
            let count = seen.get(&[*first, *second]).copied().unwrap_or(0);
            assert_share(count, weight / sum * other / (sum - weight), DRAWS);
        }
    }
    assert!(pairs.iter().all(|[first, second]| first != second));
}

#[test]
fn nobody_knows_what_is_not_there() {
    assert!(Handlespace::new().select(b"p", 1, &mut fastrand::Rng::with_seed(1)).is_none());
}

/// Proves L-001, L-002, L-003, L-004.
#[test]
fn round_robin_moves_its_head_by_one() {
    let mut rng = fastrand::Rng::with_seed(1);
    let mut space = space(&[1, 2, 3].map(|pe_id| (pe_id, Policy::RoundRobin)));
    assert_eq!(answer(&mut space, 2, &mut rng), [1, 2]);
    assert_eq!(answer(&mut space, 2, &mut rng), [2, 3]);
    assert_eq!(answer(&mut space, 9, &mut rng), [3, 1, 2]);
    assert_eq!(answer(&mut space, 0, &mut rng), [0; 0]);
    assert_eq!(answer(&mut space, 1, &mut rng), [1], "nobody was named, the head stays");
    assert_eq!(counts(&firsts(&mut space, 300)), BTreeMap::from([(1, 100), (2, 100), (3, 100)]));
}

#[test]
fn round_robin_takes_changes_in_mid_cycle() {
    let mut space = space(&[10, 20, 30].map(|pe_id| (pe_id, Policy::RoundRobin)));
    assert_eq!(firsts(&mut space, 2), [10, 20]);
    remove(&mut space, 20);
    // Who comes stands at the end of the circle; who registers again keeps its place.
    put(&mut space, 25, Policy::RoundRobin);
    put(&mut space, 30, Policy::RoundRobin);
    assert_eq!(firsts(&mut space, 4), [30, 10, 25, 30]);
    remove(&mut space, 30);
    remove(&mut space, 25);
    assert_eq!(firsts(&mut space, 2), [10, 10]);
}

fn weighted(weight: u32) -> Policy<'static> {
    Policy::WeightedRoundRobin { weight }
}

/// Proves L-006.
#[test]
fn weights_are_met_exactly() {
    let mut space =
        space(&[(1, weighted(5)), (2, weighted(1)), (3, weighted(1)), (4, weighted(0))]);
    let cycle = firsts(&mut space, 7);
    assert_eq!(counts(&cycle), BTreeMap::from([(1, 5), (2, 1), (3, 1)]));
    assert_eq!(firsts(&mut space, 7), cycle, "the list is circular");
    assert_eq!(counts(&firsts(&mut space, 700)), BTreeMap::from([(1, 500), (2, 100), (3, 100)]));
    // Equal weights are plain round robin.
    let mut space = self::space(&[1, 2, 3].map(|pe_id| (pe_id, weighted(7))));
    let cycle = firsts(&mut space, 3);
    assert_eq!(counts(&cycle), BTreeMap::from([(1, 1), (2, 1), (3, 1)]));
    assert_eq!(firsts(&mut space, 6), [cycle.clone(), cycle].concat());
}

/// Proves L-007.
#[test]
fn weights_are_spread_evenly() {
    // No bunch of five between the two others: they stand as far apart as they can.
    let mut few = space(&[(1, weighted(5)), (2, weighted(1)), (3, weighted(1))]);
    let cycle = firsts(&mut few, 14);
    assert!(cycle.windows(4).all(|window| window != [1; 4]), "{cycle:?}");
    // At every moment each element is less than two behind or ahead of its share.
    let mut rng = fastrand::Rng::with_seed(3);
    for _ in 0..50 {
        let weights: Vec<u32> = (0..rng.u32(2..12)).map(|_| 1 << rng.u32(0..8)).collect();
        let policies: Vec<_> = (1..).zip(weights.iter().map(|weight| weighted(*weight))).collect();
        let mut space = space(&policies);
        let sum: u32 = weights.iter().sum();
        let mut named = vec![0_u32; weights.len()];
        for answers in 1..=2 * sum {
            named[firsts(&mut space, 1)[0] as usize - 1] += 1;
            for (named, weight) in named.iter().zip(&weights) {
                let share = f64::from(answers) * f64::from(*weight) / f64::from(sum);
                let off = f64::from(*named) - share;
                assert!(off.abs() < 2.0, "{off} after {answers} of {weights:?}");
            }
        }
    }
}

/// Proves L-036.
#[test]
fn who_weighs_nothing_serves_nobody() {
    let mut rng = fastrand::Rng::with_seed(1);
    let random = |weight| Policy::WeightedRandom { weight };
    let policies: [fn(u32) -> Policy<'static>; 2] = [weighted, random];
    for policy in policies {
        let mut space = space(&[(1, policy(0)), (2, policy(1)), (3, policy(u32::MAX))]);
        for _ in 0..100 {
            let mut all = answer(&mut space, 9, &mut rng);
            all.sort_unstable();
            assert_eq!(all, [2, 3]);
        }
        for pe_id in [2, 3] {
            put(&mut space, pe_id, policy(0));
        }
        assert_eq!(answer(&mut space, 9, &mut rng), [0; 0], "nobody can serve");
        put(&mut space, 1, policy(7));
        assert_eq!(answer(&mut space, 9, &mut rng), [1]);
    }
}

#[test]
fn weights_may_change_in_mid_cycle() {
    let mut space = space(&[(1, weighted(u32::MAX)), (2, weighted(u32::MAX)), (3, weighted(2))]);
    firsts(&mut space, 5);
    put(&mut space, 1, weighted(3));
    remove(&mut space, 2);
    put(&mut space, 4, weighted(1));
    firsts(&mut space, 12);
    assert_eq!(counts(&firsts(&mut space, 600)), BTreeMap::from([(1, 300), (3, 200), (4, 100)]));
    // Who changes its weight all the time still gets its share.
    let mut chosen = Vec::new();
    for round in 0..600 {
        chosen.extend(firsts(&mut space, 1));
        put(&mut space, 4, weighted(1 + round % 2));
    }
    let named = counts(&chosen);
    assert!((100..180).contains(&named[&4]), "{named:?}");
}

/// Proves L-009.
#[test]
fn random_is_even_and_names_nobody_twice() {
    let mut rng = fastrand::Rng::with_seed(7);
    let mut space = space(&[1, 2, 3, 4].map(|pe_id| (pe_id, Policy::Random)));
    assert_pairs(&mut space, &[1, 2, 3, 4].map(|pe_id| (pe_id, 1.0)));
    remove(&mut space, 2);
    let mut rest = answer(&mut space, 9, &mut rng);
    rest.sort_unstable();
    assert_eq!(rest, [1, 3, 4]);
    put(&mut space, 5, Policy::Random);
    assert_pairs(&mut space, &[1, 3, 4, 5].map(|pe_id| (pe_id, 1.0)));
}

/// Proves L-011, L-012, L-013.
#[test]
fn weighted_random_draws_by_weight_without_putting_back() {
    let random = |weight| Policy::WeightedRandom { weight };
    let mut space = space(&[(1, random(3)), (2, random(1)), (3, random(0)), (4, random(6))]);
    assert_pairs(&mut space, &[(1, 3.0), (2, 1.0), (4, 6.0)]);
    remove(&mut space, 1);
    put(&mut space, 3, random(2));
    put(&mut space, 4, random(4));
    put(&mut space, 9, random(8));
    assert_pairs(&mut space, &[(2, 1.0), (3, 2.0), (4, 4.0), (9, 8.0)]);
}

/// Proves L-034.
#[test]
fn randomized_least_used_draws_by_what_is_free() {
    let loaded = |load| Policy::RandomizedLeastUsed { load };
    let percent = |percent: u64| loaded((percent * u64::from(u32::MAX) / 100) as u32);
    let mut space =
        space(&[(1, percent(20)), (2, percent(50)), (3, percent(90)), (4, loaded(u32::MAX))]);
    assert_pairs(&mut space, &[(1, 0.8), (2, 0.5), (3, 0.1), (4, 0.0)]);
    // Everybody at 100 %: still served, evenly.
    for pe_id in 1..=3 {
        put(&mut space, pe_id, loaded(u32::MAX));
    }
    assert_pairs(&mut space, &[1, 2, 3, 4].map(|pe_id| (pe_id, 1.0)));
}

/// Proves L-015, L-016.
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

/// Proves L-018, L-019, L-020, L-021.
#[test]
fn least_used_comes_ascending_and_equals_take_turns() {
    let mut rng = fastrand::Rng::with_seed(1);
    let loaded = |load| Policy::LeastUsed { load };
    let mut space =
        space(&[(1, loaded(50)), (2, loaded(10)), (3, loaded(50)), (4, loaded(u32::MAX))]);
    assert_eq!(answer(&mut space, 9, &mut rng), [2, 1, 3, 4]);
    assert_eq!(answer(&mut space, 2, &mut rng), [2, 3], "also behind the first");
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

/// Proves L-024, L-025, L-026, L-027.
#[test]
fn degradation_counts_answers_until_the_element_registers_again() {
    let mut rng = fastrand::Rng::with_seed(1);
    let degraded = |load, degradation| Policy::LeastUsedDegradation { load, degradation };
    let mut space = space(&[(1, degraded(10, 10)), (2, degraded(15, 20)), (3, degraded(40, 5))]);
    // 10 15 40, then 20 15 40, 20 35 40, 30 35 40, 40 35 40, 40 55 40: each that is named pays.
    assert_eq!(firsts(&mut space, 6), [1, 2, 1, 1, 2, 3]);
    // 40 55 45: all that are named pay.
    assert_eq!(answer(&mut space, 2, &mut rng), [1, 3]);
    assert_eq!(answer(&mut space, 3, &mut rng), [1, 3, 2], "50 55 50");
    assert_eq!(answer(&mut space, 3, &mut rng), [3, 1, 2], "60 75 55");
    // The same values again are a re-registration, too.
    put(&mut space, 2, degraded(15, 20));
    assert_eq!(answer(&mut space, 3, &mut rng), [2, 3, 1], "70 15 60");
    remove(&mut space, 2);
    put(&mut space, 2, degraded(15, 20));
    assert_eq!(firsts(&mut space, 1), [2], "added again: 15, not 35");
}

#[test]
fn degradation_goes_beyond_32_bits() {
    let full = |degradation| Policy::LeastUsedDegradation { load: u32::MAX, degradation };
    let mut space = space(&[(1, full(u32::MAX)), (2, full(u32::MAX)), (3, full(0))]);
    // Sums beyond 32 bits: nobody overtakes the one that nothing degrades.
    assert_eq!(firsts(&mut space, 8), [1, 2, 3, 3, 3, 3, 3, 3]);
}

/// Proves L-029, L-030, L-031, L-032.
#[test]
fn priority_least_used_goes_by_the_load_to_come() {
    let mut rng = fastrand::Rng::with_seed(1);
    let degraded = |load, degradation| Policy::PriorityLeastUsed { load, degradation };
    // The example of section 5.3.1: 50 + 10 before 50 + 50.
    let mut space = space(&[(2, degraded(50, 50)), (1, degraded(50, 10)), (3, degraded(20, 40))]);
    assert_eq!(answer(&mut space, 9, &mut rng), [1, 3, 2]);
    assert_eq!(answer(&mut space, 9, &mut rng), [3, 1, 2], "equals take turns");
    assert_eq!(answer(&mut space, 2, &mut rng), [1, 3]);
    // Sums beyond 32 bits do not wrap.
    put(&mut space, 1, degraded(u32::MAX, 1));
    assert_eq!(answer(&mut space, 9, &mut rng), [3, 2, 1]);
}

/// Proves L-037.
#[test]
fn policies_that_nobody_knows_are_round_robin_and_two_are_invalid() {
    let other = |number, data: &'static [u8]| Policy::Other {
        number: PolicyType(number),
        data: data.into(),
    };
    for number in [0x0000_0006, 0x4000_0005, 0x8000_0000, 0xb000_2001, 0xffff_ffff] {
        assert_eq!(element(1, 1, other(number, b"?")).invalid_values(), []);
        let mut space = space(&[(1, other(number, b"one")), (2, other(number, b"two"))]);
        assert_eq!(firsts(&mut space, 3), [1, 2, 1]);
        let kept = space.get(b"p", PeId(2)).unwrap();
        assert_eq!(kept.policy, other(number, b"two"), "values survive");
    }
    for number in [0x0000_0000, 0x4000_0000] {
        let causes = element(1, 1, other(number, b"")).invalid_values();
        assert_eq!(causes.len(), 1);
        assert_eq!(causes[0].code, CauseCode::INVALID_VALUES);
    }
}
