//! Sections 3.1 to 3.11 and 3.15: parameters.

use std::net::SocketAddr;

use crate::lab::bytes::*;
use crate::lab::registrars::Lab;
use crate::world::ms;

const DCCP: u16 = 0x3;
const UDP_LITE: u16 = 0x7;

/// A pool whose elements may have any address.
const ADVERTISED: &str = "sip-edge-tcp";

fn at(who: SocketAddr) -> SocketAddr {
    SocketAddr::new(who.ip(), 5060)
}

/// A DCCP, TCP, UDP or UDP-Lite transport with these bytes where SCTP has its Transport Use, and these addresses.
fn plain(kind: u16, reserved: u16, addresses: &[Vec<u8>]) -> Vec<u8> {
    let mut fixed = [5060u16.to_be_bytes(), reserved.to_be_bytes()].concat();
    if kind == DCCP {
        fixed.extend(word(0x1234_5678));
    }
    tlv(kind, &join(&[&[fixed], addresses].concat()))
}

/// Proves P-011, P-014, P-015, P-016.
#[test]
fn all_transports_but_sctp_are_for_data_only_and_have_one_address() {
    let mut lab = Lab::new(1);
    let who = lab.sctp(9, 1);
    let (v4, v6) = (address(who.ip()), address("::1".parse().unwrap()));
    for (n, kind) in (1..).zip([DCCP, TCP, UDP, UDP_LITE]) {
        let pool = format!("pool-{kind}");
        let element = |id, transport| Pe { id, transport, ..Pe::new(id, who.ip()) };
        lab.register(who, &pool, &element(n, plain(kind, 0, std::slice::from_ref(&v4))));
        // Where SCTP says that it has a control channel these have nothing: no other kind of element.
        lab.register(who, &pool, &element(n + 10, plain(kind, 1, std::slice::from_ref(&v4))));
        let answer = lab.ask(who, resolution(&pool, false));
        for element in answer.find_all(POOL_ELEMENT) {
            assert_eq!(element.behind(12)[0].bytes(), plain(kind, 0, std::slice::from_ref(&v4)));
        }
        // Two addresses, or none.
        for addresses in [&[v4.clone(), v4.clone()][..], &[v4.clone(), v6.clone()], &[]] {
            let wrong = registration(&pool, &element(n + 20, plain(kind, 0, addresses)));
            let answers = lab.answers(who, wrong);
            assert!(
                answers
                    .iter()
                    .all(|answer| answer.kind != REGISTRATION_RESPONSE || answer.flags == 1)
            );
            assert!(!lab.has(1, &pool, n + 20), "{kind} {addresses:?}");
        }
    }
}

/// Proves P-012, P-013.
#[test]
fn sctp_has_a_use_of_two_and_one_or_more_addresses_of_both_families() {
    let mut lab = Lab::new(1);
    let who = lab.sctp(9, 1);
    let (v4, v6) = (address(who.ip()), address("2001:db8::7".parse().unwrap()));
    let transport = |use_: u16, addresses: &[Vec<u8>]| {
        let fixed = [5060u16.to_be_bytes(), use_.to_be_bytes()].concat();
        tlv(SCTP, &join(&[&[fixed], addresses].concat()))
    };
    let element = |id, transport| Pe { id, transport, ..Pe::new(id, who.ip()) };
    for use_ in [2, 3, 0x100, 0xffff] {
        let wrong = registration("use", &element(7, transport(use_, std::slice::from_ref(&v4))));
        assert_eq!(lab.ask(who, wrong).causes(), [0x3], "{use_}");
    }
    for (pool, use_) in [("data", 0), ("control", 1)] {
        lab.register(who, pool, &element(7, transport(use_, std::slice::from_ref(&v4))));
    }
    assert_eq!(lab.answers(who, registration("none", &element(7, transport(0, &[])))), []);
    assert!(!lab.has(1, "none", 7));
    for (id, addresses) in (1..).zip([[v4.clone(), v6.clone()], [v6.clone(), v4.clone()]]) {
        let mixed = transport(0, &addresses);
        lab.register(who, ADVERTISED, &element(id, mixed.clone()));
        let answer = lab.ask(who, resolution(ADVERTISED, false));
        let found =
            answer.find_all(POOL_ELEMENT).into_iter().find(|found| found.word(0) == id).unwrap();
        assert_eq!(found.behind(12)[0].bytes(), mixed);
    }
}

/// Proves P-017.
#[test]
fn all_policies_have_the_same_form() {
    let mut lab = Lab::new(1);
    let who = lab.sctp(9, 1);
    let values = [7, 9];
    let policies = [
        (0x1, 0),
        (0x2, 1),
        (0x3, 0),
        (0x4, 1),
        (0x5, 1),
        (0x4000_0001, 1),
        (0x4000_0002, 2),
        (0x4000_0003, 2),
        (0x4000_0004, 1),
        // One that is private: its values are carried along.
        (0x8000_0001, 2),
    ];
    for (number, count) in policies {
        let pool = format!("pool-{number:x}");
        let policy = policy(number, &values[..count]);
        assert_eq!(policy.len(), 8 + 4 * count);
        lab.register(who, &pool, &Pe { policy: policy.clone(), ..Pe::new(7, who.ip()) });
        let answer = lab.ask(who, resolution(&pool, false));
        assert_eq!(answer.find_all(POOL_ELEMENT)[0].behind(12)[1].bytes(), policy);
        let overall = answer.find(POLICY).map(|overall| overall.word(0));
        assert_eq!(overall, (number != ROUND_ROBIN).then_some(number));
    }
}

/// Proves P-018.
#[test]
fn pool_handles_are_bytes() {
    let mut lab = Lab::new(1);
    let who = lab.sctp(9, 1);
    let long = [0xaa; 300];
    let handles: [&[u8]; 7] = [b"a", b"a\0", b"A", b"\0", b"\xff\xfe", b"a b/\n", &long];
    for (id, handle) in (1..).zip(handles) {
        let parts = [tlv(POOL_HANDLE, handle), Pe::new(id, who.ip()).tlv()];
        assert_eq!(lab.ask(who, message(REGISTRATION, 0, &parts)).flags, 0, "{handle:?}");
    }
    // None of them is any other.
    for (id, handle) in (1..).zip(handles) {
        let answer = lab.ask(who, message(HANDLE_RESOLUTION, 0, &[tlv(POOL_HANDLE, handle)]));
        assert_eq!(answer.find(POOL_HANDLE).unwrap().value, handle);
        assert_eq!(answer.elements(), [id], "{handle:?}");
    }
}

/// Proves P-019, P-020.
#[test]
fn an_element_has_one_user_transport_and_an_sctp_transport_for_registrars() {
    let mut lab = Lab::new(1);
    let who = lab.sctp(9, 1);
    let tcp = || transport(TCP, at(who), 0);
    let sctp = || transport(SCTP, SocketAddr::new(who.ip(), 3863), 0);
    let policy = || policy(ROUND_ROBIN, &[]);
    let element = |parts: &[Vec<u8>]| {
        let fixed = [word(7), word(0), word(600)].concat();
        let element = tlv(POOL_ELEMENT, &join(&[&[fixed], parts].concat()));
        message(REGISTRATION, 0, &[handle("echo"), element])
    };
    // No transport; two; an ASAP Transport that is not SCTP.
    for parts in [&[policy()][..], &[tcp(), tcp(), policy()], &[tcp(), policy(), tcp()]] {
        assert_eq!(lab.answers(who, element(parts)), [], "{parts:?}");
        assert!(!lab.has(1, "echo", 7));
    }
    assert_eq!(lab.ask(who, element(&[tcp(), policy(), sctp()])).flags, 0);
    let answer = lab.ask(who, resolution("echo", false));
    let kinds: Vec<u16> =
        answer.find(POOL_ELEMENT).unwrap().behind(12).iter().map(|part| part.kind).collect();
    // Behind the ASAP Transport there may be the port of its UDP encapsulation, which others skip silently.
    assert_eq!(kinds[..3], [TCP, POLICY, SCTP]);
    assert!(kinds[3..].iter().all(|kind| kind >> 14 == 0b10), "{kinds:04x?}");
}

/// Proves P-021.
#[test]
fn a_home_may_be_undetermined_and_a_life_infinite() {
    let mut lab = Lab::new(1);
    let who = lab.sctp(9, 1);
    let element = Pe { life: -1, ..Pe::new(7, who.ip()) };
    assert_eq!(Message::read(&registration("echo", &element)).tlvs()[1].word(4), 0, "no home yet");
    lab.register(who, "echo", &element);
    // It answers keep-alives for a quarter of an hour, longer than any other life here.
    for _ in 0..9000 {
        lab.run(ms(100));
        if !lab.keep_alives(who).is_empty() {
            lab.ack(who, "echo", 7);
        }
    }
    let answer = lab.ask(who, resolution("echo", false));
    let found = answer.find(POOL_ELEMENT).unwrap();
    assert_eq!((found.word(4), found.word(8)), (1, u32::MAX), "the home is filled in");
}

/// ENRP messages that registrar 1 sent, of a kind.
fn sent(lab: &Lab, kind: u8) -> Vec<Message> {
    let sent = lab.world.enrp.iter().filter(|(_, from, ..)| *from == crate::world::reg(1));
    sent.map(|(.., bytes)| Message::read(bytes)).filter(|message| message.kind == kind).collect()
}

/// Proves P-022, P-032.
#[test]
fn registrars_describe_themselves_by_identifier_and_sctp_transport() {
    let lab = Lab::new(2);
    let presences = sent(&lab, PRESENCE);
    assert!(!presences.is_empty());
    for presence in &presences {
        // Sender and receiver stand before.
        let parts = presence.behind(8);
        let checksum = parts.iter().find(|part| part.kind == PE_CHECKSUM).unwrap();
        assert_eq!(checksum.value, [0xff, 0xff], "two bytes: of no element at all");
        for server in parts.iter().filter(|part| part.kind == SERVER_INFORMATION) {
            assert_eq!(server.word(0), 1);
            let kinds: Vec<u16> = server.behind(4).iter().map(|part| part.kind).collect();
            assert_eq!(kinds, [SCTP]);
        }
    }
    assert!(
        presences
            .iter()
            .any(|presence| presence.behind(8).iter().any(|part| part.kind == SERVER_INFORMATION))
    );
}
