//! RFC 5352 sections 3.1 to 3.3: registration, de-registration, resolution.

use std::net::SocketAddr;

use dialtone_registrar_ns::core::{Event, Reject, Removal};
use dialtone_transport::Link;
use dialtone_wire::asap::Message;
use dialtone_wire::enrp::{Body, Message as Enrp};
use dialtone_wire::{
    CauseCode, PeId, Policy, PoolElement, PoolHandle, SctpTransport, Transport, TransportUse,
    UpdateAction,
};

use crate::element::Element;
use crate::world::{World, ms, reg};

/// A mailbox at a single registrar, connected.
fn mailbox(world: &mut World, id: u8) -> SocketAddr {
    let mailbox = Element::mailbox(id, 1, Link::Sctp);
    let addr = mailbox.addr;
    world.add_element(mailbox);
    world.run(ms(20));
    addr
}

pub(crate) fn exchange(world: &mut World, from: SocketAddr, message: &Message<'_>) -> Vec<u8> {
    world.element(from).take();
    world.element(from).say(message);
    world.drain(from);
    world.run(ms(10));
    let received = world.element(from).take();
    let answers: Vec<_> = received.into_iter().filter(|payload| payload[0] != 0x07).collect();
    assert_eq!(answers.len(), 1, "one answer to {message:?}");
    answers[0].clone()
}

pub(crate) fn register(
    world: &mut World,
    from: SocketAddr,
    pool: &str,
    element: PoolElement<'static>,
) -> Option<CauseCode> {
    let pe_id = element.pe_id;
    let handle = PoolHandle(pool.as_bytes());
    let answer = exchange(world, from, &Message::Registration { handle, element });
    match Message::decode(&answer).unwrap().message {
        Message::RegistrationResponse { reject, handle, pe_id: answered, error } => {
            assert_eq!((handle.0, answered), (pool.as_bytes(), pe_id));
            assert_eq!(reject, error.is_some());
            error.map(|error| error.causes[0].code)
        }
        other => panic!("{other:?}"),
    }
}

fn updates(world: &World, from: u8) -> Vec<(UpdateAction, u32)> {
    let of = |payload: &[u8]| match Enrp::decode(payload).unwrap().message.body {
        Body::HandleUpdate { action, element, .. } => Some((action, element.pe_id.0)),
        _ => None,
    };
    world
        .enrp
        .iter()
        .filter(|(_, sender, ..)| *sender == reg(from))
        .filter_map(|(.., payload)| of(payload))
        .collect()
}

/// rules 1 to 4, the causes, and what peers hear of it.
#[test]
fn registration_rules_and_causes() {
    let mut world = World::with_registrars(2);
    let from = mailbox(&mut world, 9);
    let fine = world.element(from).pool_element();
    assert_eq!(register(&mut world, from, "echo", fine.clone()), None);
    let stored = world.registrar(1).handlespace().get(b"echo", PeId(9)).unwrap().clone();
    // home and ASAP transport are filled in, the encapsulation port from what was observed.
    assert_eq!((stored.home.0, stored.encaps_port), (1, Some(40000)));
    let asap = stored.asap_transport.unwrap();
    assert_eq!((asap.port, &asap.addrs[..]), (3863, &[from.ip()][..]));
    assert_eq!(world.home_of(2, &crate::world::Name("echo".into(), 9)), Some(1), "A-063");

    let other = |change: &dyn Fn(&mut PoolElement<'static>)| {
        let mut element = fine.clone();
        change(&mut element);
        element
    };
    let refused = [
        (other(&|e| e.policy = Policy::Random), CauseCode::INCONSISTENT_POLICY),
        (
            other(&|e| (e.pe_id, e.policy) = (PeId(10), Policy::Random)),
            CauseCode::INCONSISTENT_POLICY,
        ),
        (
            other(&|e| e.transport = Transport::udp(SocketAddr::new(from.ip(), 1))),
            CauseCode::INCONSISTENT_TRANSPORT,
        ),
        (other(&|e| e.life = 0), CauseCode::INVALID_VALUES),
        (other(&|e| e.life = -2), CauseCode::INVALID_VALUES),
        (other(&|e| e.pe_id = PeId(0)), CauseCode::INVALID_VALUES),
        (
            other(&|e| e.transport = Transport::tcp("127.9.9.9:5060".parse().unwrap())),
            CauseCode::SECURITY,
        ),
    ];
    let before = updates(&world, 1).len();
    for (element, cause) in refused {
        assert_eq!(register(&mut world, from, "echo", element.clone()), Some(cause), "{element:?}");
    }
    let sctp = |use_| Transport::Sctp(SctpTransport { port: 7, use_, addrs: from.ip().into() });
    let data = other(&|e| e.transport = sctp(TransportUse::DATA_ONLY));
    let control =
        other(&|e| (e.pe_id, e.transport) = (PeId(11), sctp(TransportUse::DATA_PLUS_CONTROL)));
    assert_eq!(updates(&world, 1).len(), before, "A-064: a denial tells the peers nothing");
    assert_eq!(register(&mut world, from, "sctp", data), None);
    assert_eq!(register(&mut world, from, "sctp", control), Some(CauseCode::INCONSISTENT_USE));

    // What the world sees of an advertised pool, and opaque transports, are taken as they are.
    let advertised = other(&|e| e.transport = Transport::tcp("198.51.100.1:5060".parse().unwrap()));
    assert_eq!(register(&mut world, from, "sip-edge-tcp", advertised), None);
    let opaque = other(&|e| e.transport = Transport::Opaque(b"sqlite:m:/x".to_vec().into()));
    assert_eq!(register(&mut world, from, "location-db", opaque), None);

    // G7: the same identifier from another place, while its holder is connected.
    let thief = mailbox(&mut world, 10);
    let mut stolen = world.element(thief).pool_element();
    stolen.pe_id = PeId(9);
    let cause = register(&mut world, thief, "echo", stolen);
    assert_eq!(cause, Some(CauseCode::NON_UNIQUE_PE_IDENTIFIER));
    assert!(
        world
            .events(1)
            .iter()
            .any(|(_, e)| matches!(e, Event::Rejected { reason: Reject::NonUniqueIdentifier, .. }))
    );
}

/// registration over TCP is refused.
#[test]
fn a_002_elements_use_sctp() {
    let mut world = World::with_registrars(1);
    let element = Element::mailbox(9, 1, Link::Tcp);
    let from = element.addr;
    let wanted = element.pool_element();
    world.add_element(element);
    world.run(ms(20));
    assert_eq!(register(&mut world, from, "echo", wanted), Some(CauseCode::SECURITY));
}

///
#[test]
fn deregistration_only_by_the_element_itself() {
    let mut world = World::with_registrars(2);
    let (owner, other) = (mailbox(&mut world, 9), mailbox(&mut world, 10));
    let element = world.element(owner).pool_element();
    assert_eq!(register(&mut world, owner, "echo", element), None);
    let leave = Message::Deregistration { handle: PoolHandle(b"echo"), pe_id: PeId(9) };
    let error_of = |answer: Vec<u8>| match Message::decode(&answer).unwrap().message {
        Message::DeregistrationResponse { error, .. } => error.map(|error| error.causes[0].code),
        other => panic!("{other:?}"),
    };
    assert_eq!(error_of(exchange(&mut world, other, &leave)), Some(CauseCode::SECURITY));
    assert!(!updates(&world, 1).contains(&(UpdateAction::DEL_PE, 9)), "A-077");
    assert_eq!(error_of(exchange(&mut world, owner, &leave)), None);
    assert!(updates(&world, 1).contains(&(UpdateAction::DEL_PE, 9)), "A-076");
    assert!(
        world.registrar(1).handlespace().is_empty() && world.registrar(2).handlespace().is_empty()
    );
    assert_eq!(error_of(exchange(&mut world, owner, &leave)), None, "A-073: unknown is granted");
}

/// after a change of registrars the element de-registers at the new one.
#[test]
fn a_070_deregistration_at_another_registrar() {
    let mut world = World::with_registrars(2);
    let mut element = Element::new("echo", 9, &[1]);
    element.answers_keep_alives = true;
    let (addr, name) = (element.addr, element.name.clone());
    world.add_element(element);
    world.run(ms(50));
    assert_eq!(world.home_of(2, &name), Some(1));
    // It connects to the other one and says nothing but goodbye.
    world.kill(addr);
    world.add_element(Element::mailbox(9, 2, Link::Sctp));
    world.run(ms(20));
    let leave = Message::Deregistration { handle: PoolHandle(b"echo"), pe_id: PeId(9) };
    exchange(&mut world, addr, &leave);
    world.run(ms(20));
    assert!(
        world.registrar(1).handlespace().is_empty() && world.registrar(2).handlespace().is_empty()
    );
}

/// L-003, L-004, option 0x803f.
#[test]
fn resolution_lists_the_pool_in_policy_order() {
    let mut world = World::with_registrars(1);
    for id in 1..=3 {
        world.add_element(Element::new("echo", id, &[1]));
        world.add_element(
            Element::new("load", id + 10, &[1])
                .with(Policy::LeastUsed { load: 100 - u32::from(id) }),
        );
    }
    let user = mailbox(&mut world, 99);
    let mut resolve = |pool: &str, items| {
        let message = Message::HandleResolution {
            subscribe: false,
            handle: PoolHandle(pool.as_bytes()),
            items,
        };
        let answer = exchange(&mut world, user, &message);
        match Message::decode(&answer).unwrap().message {
            Message::HandleResolutionResponse { accepted: false, outcome, .. } => outcome
                .map(|found| {
                    (found.policy, found.elements.iter().map(|e| e.pe_id.0).collect::<Vec<_>>())
                })
                .map(|(policy, ids)| (policy.map(|policy| policy.number()), ids))
                .map_err(|error| error.causes[0].code),
            other => panic!("{other:?}"),
        }
    };
    let first = resolve("echo", None).unwrap();
    assert_eq!((first.0, first.1.len()), (None, 3), "A-016: no policy means round robin");
    let second = resolve("echo", Some(u32::MAX)).unwrap().1;
    assert_eq!(second[0], first.1[1], "L-004: the head moves by one");
    assert_eq!(second[2], first.1[0]);
    assert_eq!(resolve("echo", Some(1)).unwrap().1.len(), 1);
    let load = resolve("load", None).unwrap();
    assert_eq!(
        load,
        (Some(dialtone_wire::PolicyType::LEAST_USED), vec![13, 12, 11]),
        "A-092, L-021"
    );
    assert_eq!(resolve("nobody", None), Err(CauseCode::UNKNOWN_POOL_HANDLE), "A-093");
}

/// A cached answer is what the codec itself would have written.
#[test]
fn answers_are_the_codecs_bytes() {
    let mut world = World::with_registrars(1);
    for id in 1..=2 {
        let mut element = Element::new("odd", id, &[1]);
        element.transport = Transport::Opaque(vec![id; 5].into());
        element.policy = Policy::Other {
            number: dialtone_wire::PolicyType(0x8000_0001),
            data: vec![1, 2, 3].into(),
        };
        world.add_element(element);
    }
    let user = mailbox(&mut world, 99);
    for _ in 0..3 {
        let message =
            Message::HandleResolution { subscribe: false, handle: PoolHandle(b"odd"), items: None };
        let answer = exchange(&mut world, user, &message);
        let decoded = Message::decode(&answer).unwrap().message;
        assert_eq!(decoded.encode().unwrap(), answer);
    }
}

/// E-054, G38: the registration life ends.
#[test]
fn a_078_registration_life_ends() {
    let mut world = World::with_registrars(2);
    let mut element = Element::new("echo", 9, &[1]);
    element.life = 3;
    let (addr, name) = (element.addr, element.name.clone());
    world.add_element(element);
    let start = world.now;
    world.run(ms(2900));
    assert_eq!((world.home_of(1, &name), world.home_of(2, &name)), (Some(1), Some(1)));
    world.run(ms(200));
    assert_eq!((world.home_of(1, &name), world.home_of(2, &name)), (None, None));
    let expired = |e: &Event| matches!(e, Event::Removed { reason: Removal::Expired, .. });
    assert!(world.when(1, start, expired).is_some());
    let told = world.element(addr).take();
    assert!(told.iter().any(|payload| payload[0] == 0x04), "DEREGISTRATION_RESPONSE comes unasked");
    assert_eq!(world.element(addr).downs, 0, "the association stays");
}

/// P-003 to P-006, P-033, A-022, A-023, G36.
#[test]
fn unknown_things_are_handled_by_their_action_bits() {
    let mut world = World::with_registrars(1);
    let from = mailbox(&mut world, 9);
    let mut ask = |payload: &[u8]| {
        world.element(from).take();
        world.element(from).say_bytes(payload.to_vec());
        world.drain(from);
        world.run(ms(10));
        world.element(from).take()
    };
    assert!(ask(&[0x3f, 0, 0, 4]).is_empty(), "00: silently");
    let report = ask(&[0x7f, 0, 0, 4]);
    assert_eq!(report[0][0], 0x0e, "01: ASAP_ERROR");
    assert!(ask(&report[0].clone()).is_empty(), "an error is not answered");
    // A resolution with an unknown parameter whose bits say: skip and report.
    let answers = ask(&[5, 0, 0, 16, 0, 9, 0, 8, b'n', b'o', b'n', b'e', 0xff, 0xfe, 0, 4]);
    let kinds: Vec<_> = answers.iter().map(|answer| answer[0]).collect();
    assert_eq!(kinds, [0x0e, 0x06]);
    assert!(ask(&[0x0e, 0, 0, 12, 0, 12, 0, 8, 0x7f, 0xff, 0, 4]).is_empty());
    assert!(ask(&[1, 0, 0, 200]).is_empty(), "truncated");
}
