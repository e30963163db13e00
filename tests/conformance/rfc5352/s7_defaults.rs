//! Section 7: timers and thresholds, as the profile `rfc` has them.

use std::time::Duration;

use dialtone_asap_client::ClientConfig;
use dialtone_pool_element::ElementsConfig;
use dialtone_pool_user::UsersConfig;

/// T4 and T6 are shown by `it_registers_again_when_t4_expires_and_before_its_life_ends` and where announcements are made.
///
/// Proves A-157.
#[test]
fn the_values_of_the_rfc() {
    let s = Duration::from_secs;
    let (users, elements) = (UsersConfig::rfc(), ElementsConfig::rfc());
    let client = ClientConfig::rfc(Vec::new());
    assert_eq!((users.t1, users.max_retransmit), (s(15), 2));
    assert_eq!((elements.t2, elements.t3, elements.t4_max), (s(30), s(30), s(600)));
    assert_eq!((elements.max_attempts, elements.give_up), (2, true));
    assert_eq!((client.hunt_initial, client.hunt_max), (s(10), s(60)));
    assert_eq!(client.announce_lifetime, s(5));
}
