//! Section 3.12: error causes and what they carry.

use std::net::SocketAddr;

use crate::lab::bytes::*;
use crate::lab::registrars::Lab;

/// The causes that a registration is refused with.
fn refused(lab: &mut Lab, who: SocketAddr, pool: &str, element: &Pe) -> Vec<Tlv> {
    let answer = lab.ask(who, registration(pool, element));
    assert_eq!((answer.kind, answer.flags), (REGISTRATION_RESPONSE, 1), "{element:?}");
    answer.find(OPERATION_ERROR).unwrap().behind(0)
}

fn cause(kind: u16, info: &[u8]) -> Tlv {
    Tlv { kind, value: info.to_vec() }
}

/// Proves P-023, P-028, P-029, P-030.
#[test]
fn who_does_not_fit_a_pool_is_told_what_fits() {
    let mut lab = Lab::new(1);
    let who = lab.sctp(9, 1);
    let at = SocketAddr::new(who.ip(), 5060);
    let first =
        Pe { policy: policy(0x2, &[3]), transport: transport(SCTP, at, 0), ..Pe::new(1, who.ip()) };
    lab.register(who, "echo", &first);
    let other = Pe { id: 2, ..first.clone() };
    let by_policy = Pe { policy: policy(RANDOM, &[]), ..other.clone() };
    let causes = refused(&mut lab, who, "echo", &by_policy);
    assert_eq!((causes.len(), causes[0].kind), (1, 0x5));
    // The pool's policy; its values say nothing.
    let shown = causes[0].behind(0);
    assert_eq!((shown.len(), shown[0].kind, shown[0].word(0)), (1, POLICY, 0x2));

    let by_transport = Pe { transport: transport(TCP, at, 0), ..other.clone() };
    let causes = refused(&mut lab, who, "echo", &by_transport);
    assert_eq!((causes.len(), causes[0].kind), (1, 0x7));
    let shown = causes[0].behind(0);
    assert_eq!((shown.len(), shown[0].kind), (1, SCTP));

    let by_use = Pe { transport: transport(SCTP, at, 1), ..other };
    assert_eq!(refused(&mut lab, who, "echo", &by_use), [cause(0x8, &[])]);

    let by_both = Pe { transport: transport(TCP, at, 0), ..by_policy };
    let kinds: Vec<u16> =
        refused(&mut lab, who, "echo", &by_both).iter().map(|cause| cause.kind).collect();
    assert_eq!(kinds, [0x5, 0x7], "all that is wrong at once");
}

/// Proves P-026.
#[test]
fn what_is_invalid_is_shown() {
    let mut lab = Lab::new(1);
    let who = lab.sctp(9, 1);
    let fine = Pe::new(7, who.ip());
    let nowhere = transport(TCP, "0.0.0.0:5060".parse().unwrap(), 0);
    let no_port = transport(TCP, SocketAddr::new(who.ip(), 0), 0);
    let nothing = policy(0x4000_0000, &[]);
    for (element, shown) in [
        (Pe { transport: nowhere.clone(), ..fine.clone() }, nowhere),
        (Pe { transport: no_port.clone(), ..fine.clone() }, no_port),
        (Pe { policy: nothing.clone(), ..fine.clone() }, nothing.clone()),
    ] {
        assert_eq!(refused(&mut lab, who, "echo", &element), [cause(0x3, &shown)], "{element:?}");
    }
    // What is no parameter of its own is shown with the element that it stands in.
    for element in [
        Pe { id: 0, ..fine.clone() },
        Pe { life: 0, ..fine.clone() },
        Pe { life: -7, policy: policy(0x2, &[3]), ..fine.clone() },
    ] {
        let shown = element.tlv();
        assert_eq!(refused(&mut lab, who, "echo", &element), [cause(0x3, &shown)], "{element:?}");
    }
    // Each on its own.
    let all = Pe { id: 0, policy: nothing.clone(), ..fine };
    assert_eq!(
        refused(&mut lab, who, "echo", &all),
        [cause(0x3, &nothing), cause(0x3, &all.tlv())]
    );
}

/// Proves P-027, P-031.
#[test]
fn causes_without_information() {
    let mut lab = Lab::new(1);
    let (who, thief) = (lab.sctp(9, 1), lab.sctp(10, 1));
    lab.register(who, "echo", &Pe::new(7, who.ip()));
    // The same identifier from somewhere else, while its holder is connected (G7).
    assert_eq!(refused(&mut lab, thief, "echo", &Pe::new(7, thief.ip())), [cause(0x4, &[])]);
    // An address that is somebody else's.
    assert_eq!(refused(&mut lab, thief, "echo", &Pe::new(8, who.ip())), [cause(0xa, &[])]);
    let answer = lab.ask(who, resolution("nobody", false));
    assert_eq!(answer.find(OPERATION_ERROR).unwrap().behind(0), [cause(0x9, &[])]);
}
