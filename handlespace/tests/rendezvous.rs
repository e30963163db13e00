//! Rendezvous hashing is agreed on by all processes of all versions: these results never change.

use dialtone_handlespace::PeId;
use dialtone_handlespace::rendezvous::{Member, order};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use std::collections::BTreeMap;

const CALL: &[u8] = b"a84b4c76e66710@pc33.atlanta.com";
const USER: &[u8] = b"sip:alice@dialtone.test";

fn raw(ids: Vec<PeId>) -> Vec<u32> {
    ids.into_iter().map(|pe_id| pe_id.0).collect()
}

fn weighted(key: &[u8], members: &BTreeMap<u32, u32>) -> Vec<u32> {
    raw(order(
        key,
        members.iter().map(|(pe_id, weight)| Member { pe_id: PeId(*pe_id), weight: *weight }),
    ))
}

/// Computed by an independent program, with logarithms of 50 digits.
#[test]
fn the_order_is_the_one_that_all_agree_on() {
    let plain = |key| raw(order(key, [1, 2, 3, 0x1234_5678, 0xfedc_ba98].map(PeId)));
    assert_eq!(plain(b""), [1, 0x1234_5678, 0xfedc_ba98, 3, 2]);
    assert_eq!(plain(CALL), [0xfedc_ba98, 1, 3, 2, 0x1234_5678]);
    assert_eq!(plain(USER), [0x1234_5678, 3, 0xfedc_ba98, 1, 2]);

    let members = BTreeMap::from([(1, 1), (2, 2), (3, 3), (0x1234_5678, 4), (0xfedc_ba98, 2)]);
    assert_eq!(weighted(b"", &members), [0x1234_5678, 1, 3, 0xfedc_ba98, 2]);
    assert_eq!(weighted(CALL, &members), [0xfedc_ba98, 1, 3, 2, 0x1234_5678]);
    assert_eq!(weighted(USER, &members), [0x1234_5678, 3, 0xfedc_ba98, 2, 1]);
    let members =
        BTreeMap::from([(1, 1), (2, 2), (3, 3), (0x1234_5678, 4), (0xfedc_ba98, u32::MAX)]);
    assert_eq!(weighted(b"", &members), [0xfedc_ba98, 0x1234_5678, 1, 3, 2]);
    assert_eq!(weighted(USER, &members), [0xfedc_ba98, 0x1234_5678, 3, 2, 1]);
}

#[test]
fn keys_spread_by_weight() {
    let members = BTreeMap::from([(1, 1), (2, 2), (3, 0), (4, 5)]);
    let mut wins = BTreeMap::new();
    for key in 0..8000_u32 {
        *wins.entry(weighted(&key.to_be_bytes(), &members)[0]).or_insert(0) += 1;
    }
    let near = |pe_id: u32, share: i32| (wins[&pe_id] - share).abs() < share / 8;
    assert!(wins.len() == 3 && near(1, 1000) && near(2, 2000) && near(4, 5000), "{wins:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// A member that leaves changes nothing among the others, so only its keys move; the same for one that comes.
    #[test]
    fn disruption_is_minimal(
        key in vec(any::<u8>(), 0..40),
        members in btree_map(any::<u32>(), 1_u32..1000, 1..12),
        gone in any::<prop::sample::Index>(),
    ) {
        let before = weighted(&key, &members);
        let gone = *members.keys().nth(gone.index(members.len())).unwrap();
        let mut without = members.clone();
        without.remove(&gone);
        let expected: Vec<u32> = before.into_iter().filter(|pe_id| *pe_id != gone).collect();
        prop_assert_eq!(weighted(&key, &without), expected);
    }

    /// Equal weights say nothing, whatever they are; more weight never moves a member backwards.
    #[test]
    fn weights_are_relative(
        key in vec(any::<u8>(), 0..40),
        members in btree_map(any::<u32>(), 1_u32..1000, 1..12),
        weight in 1..u32::MAX,
        favourite in any::<prop::sample::Index>(),
    ) {
        let equal = members.keys().map(|pe_id| (*pe_id, weight)).collect();
        prop_assert_eq!(weighted(&key, &equal), raw(order(&key, members.keys().copied().map(PeId))));
        let favourite = *members.keys().nth(favourite.index(members.len())).unwrap();
        let mut favoured = members.clone();
        *favoured.get_mut(&favourite).unwrap() *= 3;
        let place = |order: Vec<u32>| order.iter().position(|pe_id| *pe_id == favourite);
        prop_assert!(place(weighted(&key, &favoured)) <= place(weighted(&key, &members)));
    }
}
