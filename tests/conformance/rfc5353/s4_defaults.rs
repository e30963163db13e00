//! Sections 4.2 and 5.3: timers as the profile `rfc` has them, and ports.

use std::time::Duration;

use dialtone::launcher::Exclusive;
use dialtone_registrar_ns::core::TimerConfig;
use dialtone_transport::{ENRP_PORT, ENRP_TLS_PORT, Link, Protocol, multicast::enrp_group};

use crate::lab::bytes::*;
use crate::lab::daemons::{Line, registrars};

/// Proves E-103.
#[test]
fn the_values_of_the_rfc() {
    let timers = TimerConfig::rfc();
    let s = Duration::from_secs;
    assert_eq!((timers.heartbeat, timers.last_heard, timers.no_response), (s(30), s(61), s(5)));
}

/// The payload protocol identifier is what makes an association one of ENRP: 12, or nobody would answer.
///
/// Proves E-104.
#[tokio::test]
async fn registrars_speak_enrp_at_the_assigned_port() {
    assert_eq!((ENRP_PORT, ENRP_TLS_PORT), (9901, 9902));
    assert_eq!(enrp_group("127.0.0.1".parse().unwrap()).port(), 9901, "udp");
    let _turn = Exclusive::wait().unwrap();
    let launcher = registrars(1);
    let (own, registrar) = (launcher.slice().host(60), launcher.slice().host(1));
    let mut peer = Line::open(own, registrar, Link::Sctp, Protocol::Enrp).await;
    peer.say(presence(50, R, 0xffff));
    let answer = peer.hear(PRESENCE).await;
    let server = answer.behind(8).into_iter().find(|part| part.kind == SERVER_INFORMATION).unwrap();
    assert_eq!(server.behind(4)[0].value[..2], 9901u16.to_be_bytes());
    peer.close().await;
}
