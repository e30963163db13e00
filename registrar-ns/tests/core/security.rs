//! Secure mode: RFC 5352 section 9, RFC 5353 section 6, RFC 5355 section 2.

use std::net::SocketAddr;

use dialtone_registrar_ns::core::{Access, Config, Event, Reject, Removal, Security};
use dialtone_transport::{Identity, Link};
use dialtone_wire::asap::Message;
use dialtone_wire::enrp::{Body, Message as Enrp};
use dialtone_wire::{CauseCode, PeId, PoolHandle, ServerId, Transport, UpdateAction};

use crate::element::Element;
use crate::registration::{exchange, register};
use crate::world::{World, ms, reg};

fn identity(names: &[&str]) -> Identity {
    Identity::new(names.iter().map(|name| (*name).to_owned()))
}

fn security(plain_resolutions: bool) -> Security {
    let mut access = Access::default();
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    access.grant(Some("echo".parse().unwrap()), names(&["A.example.org", "urn:example:echo"]));
    access.grant(Some("open".parse().unwrap()), names(&["*"]));
    access.grant(None, names(&["admin.example.org"]));
    Security { access, plain_resolutions }
}

/// Secure registrars that know each other.
fn secure(count: u8, plain_resolutions: bool) -> World {
    let mut world = World::new();
    for n in 1..=count {
        world.identities.insert(reg(n), identity(&["ns.example.org"]));
        let config = World::config(n, (1..=count).map(reg).collect());
        let config = Config { security: Some(security(plain_resolutions)), ..config };
        world.add_configured(n, u32::from(n), config);
    }
    world.run(ms(4000));
    for n in 1..=count {
        assert!(world.registrar(n).in_service(), "registrar {n} starts");
        assert_eq!(world.registrar(n).snapshot(world.now).peers.len(), usize::from(count) - 1);
    }
    world
}

/// Somebody who has dialled registrar `n` by TLS and proven these names.
fn known(world: &mut World, id: u8, n: u8, names: &[&str]) -> SocketAddr {
    let element = Element::mailbox(id, n, Link::Tcp);
    let addr = element.addr;
    world.identities.insert(addr, identity(names));
    world.add_element(element);
    world.run(ms(20));
    addr
}

/// Proves S-018, S-019.
#[test]
fn who_is_not_granted_a_pool_changes_nothing() {
    let mut world = secure(2, false);
    let cases: [(&[&str], &str, Option<CauseCode>); 9] = [
        (&["a.example.org"], "echo", None),
        (&["b.example.org", "urn:example:echo"], "echo", None),
        (&["b.example.org"], "open", None),
        (&["admin.example.org"], "anything", None),
        (&["a.example.org"], "other", Some(CauseCode::SECURITY)),
        (&["b.example.org"], "echo", Some(CauseCode::SECURITY)),
        (&["xa.example.org"], "echo", Some(CauseCode::SECURITY)),
        (&["URN:example:echo"], "echo", Some(CauseCode::SECURITY)),
        (&[], "open", Some(CauseCode::SECURITY)),
    ];
    for (id, (names, pool, cause)) in (1..).zip(cases) {
        let from = known(&mut world, id, 1, names);
        let element = world.element(from).pool_element();
        let before = world.enrp.len();
        assert_eq!(register(&mut world, from, pool, element), cause, "{names:?} in {pool}");
        let there = |n: u8| {
            world.registrar(n).handlespace().get(pool.as_bytes(), PeId(id.into())).is_some()
        };
        assert_eq!((there(1), there(2)), (cause.is_none(), cause.is_none()), "{names:?} in {pool}");
        let is_update = |payload: &[u8]| {
            matches!(Enrp::decode(payload).unwrap().message.body, Body::HandleUpdate { .. })
        };
        let told = world.enrp[before..].iter().any(|(.., payload)| is_update(payload));
        assert_eq!(told, cause.is_none(), "{names:?} in {pool}");
    }
    // Who came by TLS is not dialled.
    let stored = world.registrar(2).handlespace().get(b"echo", PeId(1)).unwrap();
    assert_eq!((&stored.asap_transport, stored.encaps_port), (&None, None));
}

/// Proves S-017, S-031, S-032.
#[test]
fn what_is_not_protected_is_rejected() {
    for plain_resolutions in [false, true] {
        let mut world = secure(1, plain_resolutions);
        let owner = known(&mut world, 1, 1, &["a.example.org"]);
        let element = world.element(owner).pool_element();
        assert_eq!(register(&mut world, owner, "echo", element), None);
        for (id, link) in [(8, Link::Sctp), (9, Link::Tcp)] {
            let mailbox = Element::mailbox(id, 1, link);
            let from = mailbox.addr;
            world.add_element(mailbox);
            world.run(ms(20));
            let element = world.element(from).pool_element();
            assert_eq!(register(&mut world, from, "open", element), Some(CauseCode::SECURITY));
            let leave = Message::Deregistration { handle: PoolHandle(b"echo"), pe_id: PeId(1) };
            let answer = exchange(&mut world, from, &leave);
            let Message::DeregistrationResponse { error: Some(error), .. } =
                Message::decode(&answer).unwrap().message
            else {
                panic!("{answer:?}");
            };
            assert_eq!(error.causes[0].code, CauseCode::SECURITY);
            let question = Message::HandleResolution {
                subscribe: true,
                handle: PoolHandle(b"echo"),
                items: None,
            };
            let answer = exchange(&mut world, from, &question);
            match Message::decode(&answer).unwrap().message {
                Message::HandleResolutionResponse { outcome: Err(error), .. } => {
                    assert_eq!(
                        (plain_resolutions, error.causes[0].code),
                        (false, CauseCode::SECURITY)
                    );
                }
                Message::HandleResolutionResponse { accepted, outcome: Ok(_), .. } => {
                    assert_eq!((plain_resolutions, accepted), (true, false), "no subscription");
                }
                other => panic!("{other:?}"),
            }
            // Many reports by strangers remove nobody.
            for _ in 0..20 {
                let report =
                    Message::EndpointUnreachable { handle: PoolHandle(b"echo"), pe_id: PeId(1) };
                world.element(from).say(&report);
            }
            world.drain(from);
            world.run(ms(50));
        }
        let space = world.registrar(1).handlespace();
        assert_eq!((space.len(), space.pool(b"open").is_none()), (1, true));
        assert_eq!(world.registrar(1).counters().reports, 0);
        assert!(world.registrar(1).counters().unprotected > 40);
    }
}

/// Proves S-033.
#[test]
fn updates_of_peers_that_are_not_protected_change_nothing() {
    let mut world = secure(1, false);
    let mailbox = Element::enrp_mailbox(9, 1);
    let (from, element) = (mailbox.addr, mailbox.pool_element());
    world.add_element(mailbox);
    world.run(ms(20));
    let update = Enrp {
        sender: ServerId(77),
        receiver: ServerId::NONE,
        body: Body::HandleUpdate {
            takeover_suggested: false,
            action: UpdateAction::ADD_PE,
            handle: PoolHandle(b"open"),
            element: Box::new(element),
        },
    };
    world.element(from).take();
    world.element(from).say_bytes(update.encode().unwrap());
    world.drain(from);
    world.run(ms(50));
    assert!(world.registrar(1).handlespace().is_empty());
    assert!(world.registrar(1).snapshot(world.now).peers.is_empty(), "nobody became a peer");
    let answers = world.element(from).take();
    let refused = answers.iter().any(|payload| match Enrp::decode(payload).unwrap().message.body {
        Body::Error(error) => error.causes[0].code == CauseCode::SECURITY,
        _ => false,
    });
    assert!(refused, "{answers:?}");
    assert_eq!(world.element(from).downs, 1, "and it is hung up");
}

/// G7: who has another name is somebody else, also at another registrar, also when the first one is not connected.
///
/// Proves S-020.
#[test]
fn an_identifier_belongs_to_the_name_that_registered_it() {
    let mut world = secure(2, false);
    let owner = known(&mut world, 1, 1, &["a.example.org"]);
    let element = world.element(owner).pool_element();
    assert_eq!(register(&mut world, owner, "open", element.clone()), None);
    for n in [1, 2] {
        let thief = known(&mut world, 10 + n, n, &["b.example.org"]);
        let mut stolen = world.element(thief).pool_element();
        stolen.pe_id = element.pe_id;
        let cause = register(&mut world, thief, "open", stolen);
        assert_eq!(cause, Some(CauseCode::NON_UNIQUE_PE_IDENTIFIER), "registrar {n}");
        let rejected = |event: &Event| {
            matches!(event, Event::Rejected { reason: Reject::NonUniqueIdentifier, .. })
        };
        assert!(world.events(n).iter().any(|(_, event)| rejected(event)));
        let leave = Message::Deregistration { handle: PoolHandle(b"open"), pe_id: element.pe_id };
        let answer = exchange(&mut world, thief, &leave);
        assert!(
            matches!(
                Message::decode(&answer).unwrap().message,
                Message::DeregistrationResponse { error: Some(_), .. }
            ),
            "registrar {n}"
        );
        let stored = world.registrar(n).handlespace().get(b"open", element.pe_id).unwrap();
        assert_eq!(stored.transport, element.transport);
    }
    // The owner comes back, from somewhere else: in secure mode the name counts.
    world.kill(owner);
    let moved = known(&mut world, 20, 1, &["a.example.org", "more.example.org"]);
    let mut again = element.clone();
    again.transport = Transport::tcp(SocketAddr::new(moved.ip(), 5060));
    assert_eq!(register(&mut world, moved, "open", again), None);
    // And to the other registrar, which knows it by its address, and may leave there.
    world.identities.insert(moved, identity(&["a.example.org"]));
    world.kill(moved);
    let there = known(&mut world, 20, 2, &["a.example.org"]);
    let leave = Message::Deregistration { handle: PoolHandle(b"open"), pe_id: element.pe_id };
    let answer = exchange(&mut world, there, &leave);
    assert!(matches!(
        Message::decode(&answer).unwrap().message,
        Message::DeregistrationResponse { error: None, .. }
    ));
    world.run(ms(20));
    assert!(
        world.registrar(1).handlespace().is_empty() && world.registrar(2).handlespace().is_empty()
    );
}

/// RFC 5355 section 2.13: one user who tells both registrars again and again removes nobody who answers, although the one
/// that is not the home cannot ask the element and tells the home.
#[test]
fn reports_by_way_of_another_registrar_are_one_users_reports() {
    let mut world = secure(2, false);
    let mut element = Element::new("open", 1, &[1]);
    element.link = Link::Tcp;
    let name = element.name.clone();
    world.identities.insert(element.addr, identity(&["a.example.org"]));
    world.add_element(element);
    let users = [1, 2].map(|n| known(&mut world, 10 + n, n, &["user.example.org"]));
    world.run(ms(200));
    assert_eq!(world.home_of(2, &name), Some(1));
    let report = Message::EndpointUnreachable { handle: PoolHandle(b"open"), pe_id: PeId(1) };
    let start = world.now;
    for user in users.into_iter().flat_map(|user| [user; 10]) {
        world.element(user).say(&report);
        world.drain(user);
        world.run(ms(1500));
    }
    let removed = |event: &Event| matches!(event, Event::Removed { .. });
    assert_eq!(world.when(1, start, removed), None, "{}", world.story(&name));
    let told = world.registrar(1).counters().foreign_deletes;
    assert!(told > 3, "the home was told {told} times");
}

/// A registrar that does not know under which name an element has registered, nor where it is, lets nobody de-register it.
#[test]
fn an_opaque_transport_is_nobodys_address() {
    let mut world = secure(2, false);
    let owner = known(&mut world, 1, 1, &["a.example.org"]);
    let mut element = world.element(owner).pool_element();
    element.transport = Transport::Opaque(b"elsewhere"[..].into());
    let pe_id = element.pe_id;
    assert_eq!(register(&mut world, owner, "open", element), None);
    let thief = known(&mut world, 12, 2, &["b.example.org"]);
    let leave = Message::Deregistration { handle: PoolHandle(b"open"), pe_id };
    let answer = exchange(&mut world, thief, &leave);
    assert!(matches!(
        Message::decode(&answer).unwrap().message,
        Message::DeregistrationResponse { error: Some(_), .. }
    ));
    world.run(ms(20));
    assert!(world.registrar(1).handlespace().get(b"open", pe_id).is_some());
}

/// Elements dial registrars, never the reverse: after a takeover they are waited for, and given up if they do not come.
#[test]
fn a_takeover_waits_for_the_hunt() {
    let mut world = secure(2, false);
    let mut living = Element::new("open", 1, &[1, 2]);
    living.link = Link::Tcp;
    let (living_addr, living_name) = (living.addr, living.name.clone());
    let dead = known(&mut world, 2, 1, &["b.example.org"]);
    world.identities.insert(living_addr, identity(&["a.example.org"]));
    world.add_element(living);
    let element = world.element(dead).pool_element();
    assert_eq!(register(&mut world, dead, "open", element), None);
    world.run(ms(500));
    assert_eq!(world.home_of(2, &living_name), Some(1));
    assert_eq!(world.registrar(2).handlespace().len(), 2);
    // The registrar and one of the elements disappear; the other one finds registrar 2.
    world.kill(reg(1));
    world.kill(dead);
    let killed = world.now;
    world.until(ms(10_000), |world| world.home_of(2, &living_name) == Some(2));
    let gone = world.until(ms(15_000), |world| world.registrar(2).handlespace().len() == 1);
    assert!(gone > ms(1000), "it was waited for: {gone:?}");
    assert!(world.now - killed < ms(15_000));
    let removed = |event: &Event| {
        matches!(event, Event::Removed { pe: PeId(2), reason: Removal::KeepAlive, .. })
    };
    assert!(world.events(2).iter().any(|(_, event)| removed(event)));
    world.run(ms(3000));
    assert_eq!(world.home_of(2, &living_name), Some(2), "it stays");
    assert_eq!(world.dialled_elements, 0);
}
