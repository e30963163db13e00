//! Section 3.1 at the registrar: who may join a pool, what becomes of it, and who hears of it.

use std::net::SocketAddr;

use crate::lab::bytes::*;
use crate::lab::registrars::Lab;
use crate::world::ms;

fn pe(id: u32, who: SocketAddr) -> Pe {
    Pe::new(id, who.ip())
}

/// Kinds of an element: policy, transport, transport use.
fn kinds(who: SocketAddr) -> [Pe; 5] {
    let at = SocketAddr::new(who.ip(), 5060);
    let of = |id, transport, policy| Pe { transport, policy, ..Pe::new(id, who.ip()) };
    [
        of(1, transport(TCP, at, 0), policy(ROUND_ROBIN, &[])),
        of(2, transport(TCP, at, 0), policy(PRIORITY, &[5])),
        of(3, transport(UDP, at, 0), policy(ROUND_ROBIN, &[])),
        of(4, transport(SCTP, at, 0), policy(ROUND_ROBIN, &[])),
        of(5, transport(SCTP, at, 1), policy(ROUND_ROBIN, &[])),
    ]
}

/// Why the first element's pool does not take the second one.
fn conflict(first: &Pe, second: &Pe) -> Vec<u16> {
    let number = |pe: &Pe| pe.policy[4..8].to_vec();
    let kind = |pe: &Pe| pe.transport[..2].to_vec();
    let use_ = |pe: &Pe| pe.transport[6..8].to_vec();
    let mut causes = Vec::new();
    if number(first) != number(second) {
        causes.push(0x5);
    }
    if kind(first) != kind(second) {
        causes.push(0x7);
    } else if use_(first) != use_(second) {
        causes.push(0x8);
    }
    causes
}

/// The rules of a pool are those of its first element: whoever comes first, the others are measured by it.
///
/// Proves.
#[test]
fn the_first_element_makes_the_rules_for_all_others() {
    let mut lab = Lab::new(1);
    let who = lab.sctp(9, 1);
    for (n, first) in kinds(who).iter().enumerate() {
        let pool = format!("pool-{n}");
        assert!(!lab.has(1, &pool, first.id));
        lab.register(who, &pool, first);
        assert_eq!(
            lab.ask(who, resolution(&pool, false)).elements(),
            [first.id],
            "its only member"
        );
        for second in kinds(who).iter().filter(|second| second.id != first.id) {
            let answer = lab.ask(who, registration(&pool, second));
            assert_eq!(answer.kind, REGISTRATION_RESPONSE);
            assert_eq!(
                (answer.flags, answer.causes()),
                (1, conflict(first, second)),
                "{first:?} {second:?}"
            );
            assert!(!lab.has(1, &pool, second.id));
        }
        // Another one of the same kind is welcome.
        lab.register(who, &pool, &Pe { id: 77, ..first.clone() });
        assert!(lab.has(1, &pool, 77));
    }
}

/// Proves.
#[test]
fn a_known_element_registers_again() {
    let mut lab = Lab::new(1);
    let who = lab.sctp(9, 1);
    let weight = |weight| policy(0x2, &[weight]);
    let before = Pe { policy: weight(1), ..pe(7, who) };
    lab.register(who, "echo", &before);
    // The same three tests, though it is alone (G6).
    let other = Pe { policy: policy(RANDOM, &[]), ..before.clone() };
    assert_eq!(lab.ask(who, registration("echo", &other)).causes(), [0x5]);
    let other =
        Pe { transport: transport(UDP, SocketAddr::new(who.ip(), 5060), 0), ..before.clone() };
    assert_eq!(lab.ask(who, registration("echo", &other)).causes(), [0x7]);
    // All attributes are replaced.
    let after = Pe {
        life: 77,
        policy: weight(5),
        transport: transport(TCP, SocketAddr::new(who.ip(), 5099), 0),
        ..before
    };
    lab.register(who, "echo", &after);
    let answer = lab.ask(who, resolution("echo", false));
    assert_eq!(answer.elements(), [7], "still one");
    let element = answer.find(POOL_ELEMENT).unwrap();
    assert_eq!(element.word(8), 77);
    let parts = element.behind(12);
    assert_eq!((parts[0].bytes(), parts[1].bytes()), (after.transport, after.policy));
}

/// Proves.
#[test]
fn the_registrar_that_accepts_becomes_the_home() {
    let mut lab = Lab::new(2);
    let first = lab.sctp(9, 1);
    lab.register(first, "echo", &pe(7, first));
    lab.run(ms(20));
    assert_eq!((lab.home(1, "echo", 7), lab.home(2, "echo", 7)), (Some(1), Some(1)));
    // It goes to the other one.
    lab.world.kill(first);
    let second = lab.sctp(9, 2);
    lab.register(second, "echo", &pe(7, second));
    lab.run(ms(20));
    assert_eq!((lab.home(1, "echo", 7), lab.home(2, "echo", 7)), (Some(2), Some(2)));
    // The ASAP Transport, last in the parameter, is where the message came from: 127.0.1.9, SCTP port 3863.
    let answer = lab.ask(second, resolution("echo", false));
    let parts = answer.find(POOL_ELEMENT).unwrap().behind(12);
    let asap = parts.iter().filter(|part| part.kind == SCTP).collect::<Vec<_>>();
    assert_eq!(asap.len(), 1);
    assert_eq!(asap[0].bytes(), transport(SCTP, SocketAddr::new(second.ip(), 3863), 0));
}

/// Proves.
#[test]
fn every_registration_is_answered_whatever_is_wrong_with_it() {
    let mut lab = Lab::new(1);
    let who = lab.sctp(9, 1);
    let fine = pe(7, who);
    let at = |text: &str| transport(TCP, text.parse().unwrap(), 0);
    for (element, cause) in [
        (Pe { life: 0, ..fine.clone() }, 0x3),
        (Pe { life: -2, ..fine.clone() }, 0x3),
        (Pe { id: 0, ..fine.clone() }, 0x3),
        (Pe { transport: at("0.0.0.0:5060"), ..fine.clone() }, 0x3),
        (Pe { transport: at("127.9.9.9:5060"), ..fine.clone() }, 0xa),
    ] {
        let answer = lab.ask(who, registration("echo", &element));
        assert_eq!((answer.kind, answer.flags), (REGISTRATION_RESPONSE, 1), "{element:?}");
        assert_eq!(answer.causes(), [cause], "{element:?}");
        // It names whom it answers.
        assert_eq!(answer.find(POOL_HANDLE).unwrap().bytes(), handle("echo"));
        assert_eq!(answer.find(PE_ID).unwrap().word(0), element.id);
    }
    // A registration without one of its parameters is none.
    for parts in [&[handle("echo")][..], &[fine.tlv()][..]] {
        assert_eq!(lab.answers(who, message(REGISTRATION, 0, parts)), []);
    }
    lab.register(who, "echo", &fine);
}

/// Proves A-008.
#[test]
fn registered_addresses_are_those_of_the_association() {
    let mut lab = Lab::new(1);
    let who = lab.sctp(9, 1);
    let foreign: SocketAddr = "127.0.1.10:5060".parse().unwrap();
    let own = SocketAddr::new(who.ip(), 5060);
    for kind in [TCP, UDP, SCTP] {
        let pool = format!("pool-{kind}");
        let element = |addr| Pe { transport: transport(kind, addr, 0), ..pe(7, who) };
        assert_eq!(lab.ask(who, registration(&pool, &element(foreign))).causes(), [0xa]);
        lab.register(who, &pool, &element(own));
    }
    // One own address does not excuse a foreign one.
    let ports = vec![0x13, 0xc4, 0, 0];
    let both = tlv(SCTP, &join(&[ports, address(own.ip()), address(foreign.ip())]));
    let element = Pe { transport: both, ..pe(8, who) };
    assert_eq!(lab.ask(who, registration("both", &element)).causes(), [0xa]);
}

/// Proves.
#[test]
fn a_granted_registration_is_answered_without_error() {
    let mut lab = Lab::new(1);
    let who = lab.sctp(9, 1);
    lab.world.element(who).take();
    lab.say(who, registration("sip", &pe(0x1234_5678, who)));
    lab.run(ms(10));
    let answer = [
        0x03, 0x00, 0x00, 0x14, // Type, R=0, Length: 20
        0x00, 0x09, 0x00, 0x07, b's', b'i', b'p', 0x00, // Pool Handle
        0x00, 0x0e, 0x00, 0x08, 0x12, 0x34, 0x56, 0x78, // PE Identifier
    ];
    assert_eq!(lab.world.element(who).take(), [answer]);
}

/// Proves.
#[test]
fn peers_hear_of_what_was_granted_and_of_nothing_else() {
    let mut lab = Lab::new(2);
    let who = lab.sctp(9, 1);
    let before = lab.updates(1).len();
    lab.register(who, "echo", &pe(7, who));
    lab.register(who, "echo", &pe(7, who));
    let updates = lab.updates(1);
    assert_eq!(updates.len(), before + 2, "the new one, and the re-registration");
    for (action, update) in &updates[before..] {
        assert_eq!(*action, ADD_PE);
        let parts = update.behind(12);
        assert_eq!(parts[0].bytes(), handle("echo"));
        assert_eq!((parts[1].kind, parts[1].word(0), parts[1].word(4)), (POOL_ELEMENT, 7, 1));
    }
    let refused = Pe { policy: policy(RANDOM, &[]), ..pe(8, who) };
    assert_eq!(lab.ask(who, registration("echo", &refused)).flags, 1);
    lab.run(ms(100));
    assert_eq!(lab.updates(1).len(), before + 2);
    assert!(!lab.has(2, "echo", 8));
}
