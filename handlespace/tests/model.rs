//! Selection compared with a naive model that sorts everything for each answer, over random changes.

mod common;

use common::element;
use dialtone_handlespace::{Checksum, Handle, Handlespace, PeId, Policy, ServerId};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug)]
enum Operation {
    /// Registers, or registers again.
    Put(u32, u32, u32),
    Remove(u32),
    Resolve(usize),
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    // Few values and few identifiers: many are equal, and many come again. The largest ones test sums.
    let value = prop_oneof![0_u32..4, Just(u32::MAX)];
    let operation = prop_oneof![
        4 => (1_u32..60, value.clone(), value).prop_map(|(pe_id, a, b)| Operation::Put(pe_id, a, b)),
        1 => (1_u32..60).prop_map(Operation::Remove),
        4 => (0_usize..70).prop_map(Operation::Resolve),
    ];
    vec(operation, 1..200)
}

/// An element of the model.
#[derive(Clone, Debug)]
struct Entry {
    pe_id: u32,
    policy: Policy<'static>,
    /// Least used with degradation: how often it was named since it registered.
    named: u128,
    turn: u64,
}

impl Entry {
    fn rank(&self) -> u128 {
        match self.policy {
            Policy::LeastUsed { load } => load.into(),
            Policy::LeastUsedDegradation { load, degradation } => {
                u128::from(load) + self.named * u128::from(degradation)
            }
            Policy::Priority { priority } => (u32::MAX - priority).into(),
            Policy::PriorityLeastUsed { load, degradation } => {
                u128::from(load) + u128::from(degradation)
            }
            _ => 0,
        }
    }
}

/// What RFC 5356 says about ordered policies, and nothing about how to do it fast.
#[derive(Default)]
struct Model {
    entries: Vec<Entry>,
    turns: u64,
}

impl Model {
    fn turn(&mut self) -> u64 {
        self.turns += 1;
        self.turns
    }

    fn put(&mut self, pe_id: u32, policy: Policy<'static>) {
        let new = Entry { pe_id, policy, named: 0, turn: self.turns + 1 };
        match self.entries.iter_mut().find(|entry| entry.pe_id == pe_id) {
            // It keeps its turn among its equals.
            Some(known) if known.rank() == new.rank() => *known = Entry { turn: known.turn, ..new },
            Some(known) => *known = new,
            None => self.entries.push(new),
        }
        self.turns += 1;
    }

    fn resolve(&mut self, count: usize) -> Vec<u32> {
        self.entries.sort_by_key(|entry| (entry.rank(), entry.turn));
        let chosen: Vec<u32> = self.entries.iter().take(count).map(|entry| entry.pe_id).collect();
        let mut last = None;
        for at in 0..chosen.len() {
            let rank = self.entries[at].rank();
            let degrading = matches!(self.entries[at].policy, Policy::LeastUsedDegradation { .. });
            if degrading || last != Some(rank) {
                last = Some(rank);
                let turn = self.turn();
                self.entries[at].turn = turn;
                self.entries[at].named += u128::from(degrading);
            }
        }
        chosen
    }
}

fn pool() -> Handle {
    "pool".parse().unwrap()
}

/// Applies what changes the pool; returns the answer if it is a resolution of a pool that exists.
fn apply(
    space: &mut Handlespace,
    operation: Operation,
    policy: impl Fn(u32, u32) -> Policy<'static>,
    rng: &mut fastrand::Rng,
) -> Option<Vec<u32>> {
    match operation {
        Operation::Put(pe_id, a, b) => {
            space.register(&pool(), element(pe_id, pe_id % 3, policy(a, b))).unwrap();
        }
        Operation::Remove(pe_id) => drop(space.remove(&pool(), PeId(pe_id))),
        Operation::Resolve(count) => {
            let selection = space.select(b"pool", count, rng)?;
            return Some(selection.iter().map(|element| element.pe_id.0).collect());
        }
    }
    let mut sums: BTreeMap<ServerId, Checksum> = BTreeMap::new();
    for (handle, element) in space.elements() {
        sums.entry(element.home).or_default().add(handle, element.pe_id);
    }
    for home in (0..3).map(ServerId) {
        let fresh = sums.get(&home).copied().unwrap_or_default();
        assert_eq!(space.checksum(home), fresh.value());
    }
    None
}

/// Weights that operations stand for: equal ones, none, and large ones.
fn weight(a: u32, b: u32) -> u32 {
    if a == 0 { 0 } else { a.saturating_add(b) }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// The ordered policies give exactly the answers of the model.
    #[test]
    fn ordered_policies_answer_as_the_model(which in 0_usize..5, operations in operations()) {
        let policy = |a: u32, b: u32| match which {
            0 => Policy::RoundRobin,
            1 => Policy::Priority { priority: a },
            2 => Policy::LeastUsed { load: a },
            3 => Policy::LeastUsedDegradation { load: a, degradation: b },
            _ => Policy::PriorityLeastUsed { load: a, degradation: b },
        };
        let (mut space, mut model) = (Handlespace::new(), Model::default());
        let mut rng = fastrand::Rng::with_seed(1);
        for operation in operations {
            match operation {
                Operation::Put(pe_id, a, b) => model.put(pe_id, policy(a, b)),
                Operation::Remove(pe_id) => model.entries.retain(|entry| entry.pe_id != pe_id),
                Operation::Resolve(_) => {}
            }
            if let Some(answer) = apply(&mut space, operation, policy, &mut rng)
                && let Operation::Resolve(count) = operation
            {
                prop_assert_eq!(answer, model.resolve(count));
            }
        }
    }

    /// The policies with weights and chances name nobody twice, nobody without weight, and as many as they can.
    #[test]
    fn weighted_policies_keep_their_promises(which in 0_usize..4, operations in operations(), seed in any::<u64>()) {
        let policy = |a: u32, b: u32| match which {
            0 => Policy::WeightedRoundRobin { weight: weight(a, b) },
            1 => Policy::WeightedRandom { weight: weight(a, b) },
            2 => Policy::RandomizedLeastUsed { load: a },
            _ => Policy::Random,
        };
        let mut space = Handlespace::new();
        let mut rng = fastrand::Rng::with_seed(seed);
        for operation in operations {
            let Some(mut answer) = apply(&mut space, operation, policy, &mut rng) else { continue };
            let Operation::Resolve(count) = operation else { continue };
            let serving = space.elements().filter(|(_, element)| element.policy.weight() != Some(0));
            let serving: Vec<u32> = serving.map(|(_, element)| element.pe_id.0).collect();
            prop_assert_eq!(answer.len(), count.min(serving.len()));
            answer.sort_unstable();
            prop_assert!(answer.windows(2).all(|pair| pair[0] != pair[1]));
            prop_assert!(answer.iter().all(|pe_id| serving.contains(pe_id)));
        }
    }

    /// After any changes, a cycle of weighted round robin names everybody as often as its weight says.
    #[test]
    fn weights_are_met_after_any_changes(operations in operations()) {
        // Small weights: the cycle is to end.
        let policy = |a: u32, b: u32| Policy::WeightedRoundRobin { weight: a % 5 * (b % 3) };
        let mut space = Handlespace::new();
        let mut rng = fastrand::Rng::with_seed(1);
        for operation in operations {
            apply(&mut space, operation, policy, &mut rng);
        }
        let weights: BTreeMap<u32, u32> = space
            .elements()
            .filter_map(|(_, element)| Some((element.pe_id.0, element.policy.weight()?)))
            .filter(|(_, weight)| *weight > 0)
            .collect();
        let mut named = BTreeMap::new();
        for _ in 0..weights.values().sum() {
            let selection = space.select(b"pool", 1, &mut rng).unwrap();
            let first = selection.iter().next().unwrap().pe_id.0;
            *named.entry(first).or_insert(0) += 1;
        }
        // Distances are rounded down to 2^-64 of a cycle: one more may come at the very end, instead of another.
        prop_assert!(named.iter().all(|(pe_id, named)| weights[pe_id].abs_diff(*named) <= 1), "{weights:?} {named:?}");
        prop_assert_eq!(named.values().sum::<u32>(), weights.values().sum::<u32>());
    }

    /// Pools of several chunks and pages: all are found, in order, through any additions and removals.
    #[test]
    fn large_pools_keep_everybody(ids in vec(0_u32..2000, 500..1500), gone in vec(0_u32..2000, 0..1500), ascending in any::<bool>()) {
        let mut space = Handlespace::new();
        let mut expected = BTreeMap::new();
        let mut ids = ids;
        if ascending {
            ids.sort_unstable();
        }
        for (load, pe_id) in (0..).zip(&ids) {
            space.register(&pool(), element(*pe_id, pe_id % 2, Policy::LeastUsed { load })).unwrap();
            expected.insert(*pe_id, load);
        }
        for pe_id in gone {
            prop_assert_eq!(space.remove(&pool(), PeId(pe_id)).is_some(), expected.remove(&pe_id).is_some());
        }
        let load = |element: &dialtone_handlespace::Element| (element.pe_id.0, element.policy.load().unwrap());
        let all: Vec<_> = space.elements().map(|(_, element)| load(element)).collect();
        prop_assert_eq!(&all, &expected.clone().into_iter().collect::<Vec<_>>());
        prop_assert_eq!(space.len(), expected.len());
        for home in [0, 1] {
            let owned: Vec<u32> = space.owned(ServerId(home)).map(|(_, pe_id)| pe_id.0).collect();
            let those: Vec<u32> = expected.keys().copied().filter(|pe_id| pe_id % 2 == home).collect();
            prop_assert_eq!(space.owned_len(ServerId(home)), those.len());
            prop_assert_eq!(owned, those);
        }
        for pe_id in 0..2000 {
            let found = space.get(b"pool", PeId(pe_id)).map(|element| load(element).1);
            prop_assert_eq!(found, expected.get(&pe_id).copied());
        }
        let mut by_load: Vec<_> = all.into_iter().map(|(pe_id, load)| (load, pe_id)).collect();
        by_load.sort_unstable();
        let mut rng = fastrand::Rng::with_seed(1);
        for count in [3, 40, 5000] {
            let first: Vec<u32> = by_load.iter().take(count).map(|(_, pe_id)| *pe_id).collect();
            let answer = apply(&mut space, Operation::Resolve(count), |_, _| Policy::Random, &mut rng);
            prop_assert_eq!(answer.unwrap_or_default(), first);
        }
    }
}
