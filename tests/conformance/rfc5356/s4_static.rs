//! Section 4: policies whose values do not change.

use super::{Listed, User};

const ROUND_ROBIN: u32 = 0x1;
const RANDOM: u32 = 0x3;
const WEIGHTED_RANDOM: u32 = 0x4;
const PRIORITY: u32 = 0x5;

/// Proves L-005.
#[test]
fn round_robin_walks_the_list_from_its_first_until_there_is_a_new_one() {
    let mut user = User::new(ROUND_ROBIN, &[(3, &[]), (1, &[]), (2, &[])]);
    assert_eq!(user.picks(5), [3, 1, 2, 3, 1]);
    user.renew(ROUND_ROBIN, &[(1, &[]), (2, &[]), (3, &[])]);
    assert_eq!(user.picks(4), [1, 2, 3, 1]);
}

/// Proves L-010, L-014.
#[test]
fn random_policies_pick_evenly_from_the_list() {
    let lists: [(u32, [Listed; 3]); 2] = [
        (RANDOM, [(1, &[]), (2, &[]), (3, &[])]),
        // The registrar has heeded the weights already.
        (WEIGHTED_RANDOM, [(1, &[1]), (2, &[10]), (3, &[100])]),
    ];
    for (number, list) in lists {
        let mut user = User::new(number, &list);
        let shares = user.shares(3, 3000);
        // Five standard deviations.
        assert!(shares.iter().all(|share| (870..=1130).contains(share)), "{number:#x}: {shares:?}");
        let picks = user.picks(1000);
        let repeated = picks.windows(2).filter(|pair| pair[0] == pair[1]).count();
        assert!((250..=420).contains(&repeated), "each pick for itself: {repeated}");
    }
}

/// Proves L-017.
#[test]
fn priority_takes_the_highest_that_is_active() {
    let mut user = User::new(PRIORITY, &[(4, &[9]), (2, &[7]), (3, &[7]), (1, &[3])]);
    assert_eq!(user.picks(3), [4, 4, 4]);
    user.fails(4);
    assert_eq!(user.picks(2), [2, 2]);
    user.fails(2);
    user.fails(3);
    assert_eq!(user.picks(2), [1, 1]);
    // The order of the list is no matter here.
    let mut user = User::new(PRIORITY, &[(1, &[3]), (4, &[9])]);
    assert_eq!(user.picks(1), [4]);
}
