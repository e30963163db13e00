//! Section 2.1: what carries ASAP.

use dialtone::launcher::Exclusive;
use dialtone_transport::{Link, Protocol};

use crate::lab::bytes::*;
use crate::lab::daemons::{Line, registrars};

/// Proves.
#[tokio::test]
async fn users_resolve_over_sctp_and_over_tcp_at_the_well_known_ports() {
    let _turn = Exclusive::wait().unwrap();
    let launcher = registrars(1);
    let host = |n| launcher.slice().host(n);
    let mut element = Line::open(host(60), host(1), Link::Sctp, Protocol::Asap).await;
    element.say(registration("echo", &Pe::new(7, host(60))));
    assert_eq!(element.hear(REGISTRATION_RESPONSE).await.causes(), NO_CAUSES);
    for (n, link) in [(70, Link::Sctp), (71, Link::Tcp)] {
        let mut user = Line::open(host(n), host(1), link, Protocol::Asap).await;
        user.say(resolution("echo", false));
        assert_eq!(user.hear(HANDLE_RESOLUTION_RESPONSE).await.elements(), [7], "{link:?}");
        user.close().await;
    }
    element.close().await;
}

/// Proves A-002.
#[tokio::test]
async fn elements_register_over_sctp_only() {
    let _turn = Exclusive::wait().unwrap();
    let launcher = registrars(1);
    let host = |n| launcher.slice().host(n);
    for (n, link, causes) in [(60, Link::Tcp, vec![0xa]), (61, Link::Sctp, vec![])] {
        let mut element = Line::open(host(n), host(1), link, Protocol::Asap).await;
        element.say(registration("echo", &Pe::new(n.into(), host(n))));
        let answer = element.hear(REGISTRATION_RESPONSE).await;
        assert_eq!(
            (answer.flags, answer.causes()),
            (u8::from(!causes.is_empty()), causes),
            "{link:?}"
        );
        element.close().await;
    }
}
