//! Section 5: policies by load.

use super::{Listed, User};

const LEAST_USED: u32 = 0x4000_0001;
const LEAST_USED_DEGRADATION: u32 = 0x4000_0002;
const PRIORITY_LEAST_USED: u32 = 0x4000_0003;
const RANDOMIZED_LEAST_USED: u32 = 0x4000_0004;

/// Proves L-022, L-023, L-028, L-033.
#[test]
fn load_policies_are_tried_in_the_order_of_the_list_which_has_backups() {
    let lists: [(u32, [Listed; 3]); 3] = [
        (LEAST_USED, [(2, &[10]), (3, &[20]), (1, &[5])]),
        (LEAST_USED_DEGRADATION, [(2, &[10, 9]), (3, &[20, 1]), (1, &[5, 1])]),
        (PRIORITY_LEAST_USED, [(2, &[10, 9]), (3, &[20, 1]), (1, &[5, 1])]),
    ];
    for (number, list) in lists {
        let mut user = User::new(number, &list);
        assert_eq!(user.picks(3), [2, 2, 2], "{number:#x}: the registrar's order, not the values");
        user.fails(2);
        assert_eq!(user.picks(2), [3, 3], "{number:#x}");
        user.fails(3);
        assert_eq!(user.picks(2), [1, 1], "{number:#x}");
        assert_eq!(user.wanted(), [u32::MAX], "as many as there are");
    }
}

/// Proves L-035.
#[test]
fn randomized_least_used_picks_evenly_from_the_list() {
    let mut user =
        User::new(RANDOMIZED_LEAST_USED, &[(1, &[0]), (2, &[1 << 31]), (3, &[u32::MAX])]);
    let shares = user.shares(3, 3000);
    assert!(shares.iter().all(|share| (870..=1130).contains(share)), "{shares:?}");
}
