//! Section 8.2: port numbers.

use dialtone_transport::multicast::asap_group;
use dialtone_transport::{ASAP_PORT, ASAP_TLS_PORT};

/// That registrars listen there is shown by `users_resolve_over_sctp_and_over_tcp_at_the_well_known_ports`.
///
/// Proves A-158.
#[test]
fn ports_are_those_that_were_assigned() {
    assert_eq!((ASAP_PORT, ASAP_TLS_PORT), (3863, 3864));
    for interface in ["127.0.0.1", "::1"] {
        assert_eq!(asap_group(interface.parse().unwrap()).port(), 3863, "udp");
    }
}
