//! RFC 5353 sections 3.3, 3.5, 3.6: takeover, late updates, audit.

use std::net::SocketAddr;

use dialtone_registrar_ns::core::{Event, Removal};
use dialtone_transport::Link;
use dialtone_wire::asap::Message as Ask;
use dialtone_wire::enrp::{Body, Message, PoolEntry};
use dialtone_wire::{PeId, Policy, PolicyType, PoolElement, PoolHandle, ServerId, UpdateAction};

use crate::element::Element;
use crate::world::{Name, World, ms, reg};

fn add_elements(world: &mut World, count: u8, registrar: u8) -> Vec<Name> {
    (1..=count)
        .map(|id| {
            // They know nobody else, so that only a takeover finds them a new home.
            let element = Element::new("echo", id + 50 * registrar, &[registrar]);
            let name = element.name.clone();
            world.add_element(element);
            name
        })
        .collect()
}

fn all_at(world: &World, seen_by: u8, names: &[Name], home: u32) -> bool {
    names.iter().all(|name| world.home_of(seen_by, name) == Some(home))
}

/// All handlespaces agree, and every home monitors what it owns.
fn converged(world: &World, registrars: &[u8]) -> bool {
    let table = |n: u8| {
        let space = world.registrar(n).handlespace();
        space.elements().map(|(handle, e)| (handle.clone(), e.pe_id, e.home)).collect::<Vec<_>>()
    };
    registrars.windows(2).all(|pair| table(pair[0]) == table(pair[1]))
}

fn bodies<'a>(
    world: &'a World,
    since: std::time::Instant,
) -> impl Iterator<Item = (SocketAddr, Message<'a>)> {
    world
        .enrp
        .iter()
        .filter(move |(at, ..)| *at >= since)
        .map(|(_, from, _, payload)| (*from, Message::decode(payload).unwrap().message))
}

/// A killed registrar: its elements have another home in 3 s, a frozen one's in 6 s. E-069 to E-085.
#[test]
fn elements_of_a_dead_registrar_are_rehomed() {
    for frozen in [false, true] {
        for seed in 0..8 {
            let mut world = World::with_registrars(3);
            let names = add_elements(&mut world, 10, 1);
            world.run(ms(2000 + 131 * seed));
            assert!(all_at(&world, 2, &names, 1) && all_at(&world, 3, &names, 1));
            let at = world.now;
            if frozen {
                world.freeze(reg(1));
            } else {
                world.kill(reg(1));
            }
            let limit = if frozen { ms(6000) } else { ms(3000) };
            world.until(limit, |world| {
                let home = world.home_of(2, &names[0]);
                home != Some(1)
                    && home.is_some()
                    && all_at(world, 2, &names, home.unwrap())
                    && converged(world, &[2, 3])
            });
            let winner = if world.home_of(2, &names[0]) == Some(2) { 2 } else { 3 };
            let lost = |e: &Event| matches!(e, Event::Removed { .. });
            world.run(ms(3000));
            assert_eq!(world.when(winner, at, lost), None, "nobody was dropped on the way");
            let started = |e: &Event| matches!(e, Event::TakeoverStarted { .. });
            assert!(world.when(winner, at, started).is_some());
            assert!(
                bodies(&world, at)
                    .any(|(_, m)| m.body == Body::TakeoverServer { target: ServerId(1) }),
                "E-080"
            );
            if frozen {
                // It finds out and fights nobody.
                world.thaw(reg(1));
                let back = world.now;
                world.run(ms(6000));
                assert!(converged(&world, &[1, 2, 3]), "{seed}");
                assert!(all_at(&world, 1, &names, u32::from(winner)), "{seed}");
                for n in 1..=3 {
                    let gone = |e: &Event| matches!(e, Event::Removed { reason, .. } if *reason != Removal::Moved);
                    assert_eq!(world.when(n, back, gone), None, "{seed}: {n}");
                    let again = |e: &Event| matches!(e, Event::TakeoverWon { .. });
                    assert_eq!(world.when(n, back, again), None, "{seed}: {n}");
                }
            }
        }
    }
}

/// E-074, E-075: two start at once; the larger identifier wins, once.
#[test]
fn e_074_two_start_a_takeover_at_once() {
    let mut world = World::with_registrars(3);
    let names = add_elements(&mut world, 5, 1);
    world.run(ms(2000));
    let at = world.now;
    world.kill(reg(1));
    // Neither hears the other until both have started.
    world.cut(reg(2), reg(3));
    world.until(ms(3000), |world| {
        let started = |e: &Event| matches!(e, Event::TakeoverStarted { target: ServerId(1) });
        [2, 3].iter().all(|n| world.when(*n, at, started).is_some())
    });
    world.heal(reg(2), reg(3));
    world.until(ms(3000), |world| all_at(world, 2, &names, 3) && all_at(world, 3, &names, 3));
    let won = |e: &Event| matches!(e, Event::TakeoverWon { target: ServerId(1), .. });
    assert!(world.when(3, at, won).is_some());
    assert_eq!(world.when(2, at, won), None);
    let lost =
        |e: &Event| matches!(e, Event::TakeoverLost { target: ServerId(1), to: Some(ServerId(3)) });
    assert!(world.when(2, at, lost).is_some());
}

/// G2: the announcement is lost with its association. Without repetition the smaller identifier, which starts later,
/// would wait for the larger one's acknowledgement, and the larger one for the smaller one's.
#[test]
fn g2_lost_announcements_are_repeated() {
    let mut world = World::with_registrars(3);
    let names = add_elements(&mut world, 5, 1);
    world.run(ms(2000));
    let at = world.now;
    world.kill(reg(1));
    world.freeze(reg(2));
    let started = |e: &Event| matches!(e, Event::TakeoverStarted { target: ServerId(1) });
    world.until(ms(3000), |world| world.when(3, at, started).is_some());
    world.until(ms(3000), |world| {
        let snapshot = world.registrar(3).snapshot(world.now);
        snapshot.peers.iter().any(|peer| peer.id == ServerId(2) && peer.addr.is_none())
    });
    world.thaw(reg(2));
    world.until(ms(6000), |world| all_at(world, 2, &names, 3) && all_at(world, 3, &names, 3));
    let taken = |e: &Event| matches!(e, Event::TakeoverWon { target: ServerId(2), .. });
    assert_eq!(world.when(3, at, taken), None, "nobody else was taken over");
}

/// G2: the winner dies after the acknowledgements, before it tells anybody.
#[test]
fn the_winner_dies_after_the_acks() {
    let mut world = World::with_registrars(4);
    let names = add_elements(&mut world, 5, 1);
    world.run(ms(2000));
    let at = world.now;
    world.kill(reg(1));
    let started = |e: &Event| matches!(e, Event::TakeoverStarted { target: ServerId(1) });
    world.until(ms(3000), |world| [2, 3, 4].iter().any(|n| world.when(*n, at, started).is_some()));
    let initiator = *[2, 3, 4].iter().find(|n| world.when(**n, at, started).is_some()).unwrap();
    // Its announcement has arrived, the acknowledgements are on the way, its conclusion never comes.
    world.run(ms(1));
    world.kill(reg(initiator));
    let acks = bodies(&world, at)
        .filter(|(_, m)| m.body == Body::InitTakeoverAck { target: ServerId(1) })
        .count();
    assert_eq!(acks, 2);
    assert!(!bodies(&world, at).any(|(_, m)| matches!(m.body, Body::TakeoverServer { .. })));
    let rest: Vec<u8> = [2, 3, 4].into_iter().filter(|n| *n != initiator).collect();
    world.until(ms(12_000), |world| {
        let home = world.home_of(rest[0], &names[0]);
        home.is_some_and(|home| {
            rest.contains(&(home as u8)) && all_at(world, rest[0], &names, home)
        }) && converged(world, &rest)
    });
    world.run(ms(5000));
    assert!(converged(&world, &rest));
}

/// E-072, E-073, E-079: the target comes back in the middle.
#[test]
fn e_079_the_target_comes_back() {
    let mut world = World::with_registrars(3);
    let names = add_elements(&mut world, 5, 1);
    world.run(ms(2000));
    let at = world.now;
    world.freeze(reg(1));
    // The other's acknowledgement is missing, so the takeover hangs.
    world.run(ms(1000));
    world.freeze(reg(3));
    let started = |e: &Event| matches!(e, Event::TakeoverStarted { target: ServerId(1) });
    world.until(ms(6000), |world| world.when(2, at, started).is_some());
    world.thaw(reg(1));
    world.run(ms(300));
    world.thaw(reg(3));
    world.run(ms(6000));
    let lost = |e: &Event| matches!(e, Event::TakeoverLost { target: ServerId(1), to: None });
    assert!(world.when(2, at, lost).is_some());
    assert!([1, 2, 3].iter().all(|n| all_at(&world, *n, &names, 1)));
}

/// Split between two registrars only, while elements reach both: everybody agrees again after it heals.
#[test]
fn a_partition_between_registrars_heals() {
    let mut world = World::with_registrars(2);
    let mut names = add_elements(&mut world, 4, 1);
    names.extend(add_elements(&mut world, 4, 2));
    world.run(ms(2000));
    world.cut(reg(1), reg(2));
    world.run(ms(10_000));
    for name in &names {
        assert!(
            world.home_of(1, name).is_some() && world.home_of(2, name).is_some(),
            "{name:?} stays resolvable"
        );
    }
    world.heal(reg(1), reg(2));
    world.run(ms(10_000));
    assert!(converged(&world, &[1, 2]));
    assert_eq!(world.registrar(1).handlespace().len(), names.len());
    // Quiet: no resync goes on for ever.
    let quiet = world.now;
    world.run(ms(20_000));
    for n in [1, 2] {
        assert_eq!(
            world.when(n, quiet, |e| !matches!(e, Event::PeerUp { .. })),
            None,
            "{:?}",
            world.events(n).last()
        );
    }
}

/// G15: an element moved on; its former home says that it is gone.
#[test]
fn g15_late_deletion_from_a_former_home() {
    let mut world = World::with_registrars(3);
    let element = Element::new("echo", 1, &[1]);
    let (addr, name) = (element.addr, element.name.clone());
    world.add_element(element);
    world.run(ms(500));
    // The former home does not hear of the move, so that it will find the element dead.
    world.cut(reg(1), reg(2));
    world.element(addr).move_to(2);
    world.drain(addr);
    world.cut(addr, reg(1));
    let at = world.now;
    world.run(ms(2400));
    let removed = |e: &Event| {
        matches!(e, Event::Removed { reason: Removal::KeepAlive | Removal::Unreachable, .. })
    };
    assert!(world.when(1, at, removed).is_some(), "{:?}", world.events(1));
    assert_eq!(world.home_of(3, &name), Some(2), "the deletion of a former home is ignored");
    assert_eq!(world.home_of(2, &name), Some(2));
    world.heal(reg(1), reg(2));
    world.run(ms(10_000));
    assert!((1..=3).all(|n| world.home_of(n, &name) == Some(2)));
}

/// A registrar that stood still takes a registration late, when the element has moved on: the two updates cross, and each
/// registrar gives the element up to the other.
#[test]
fn g16_registrations_that_cross_lose_no_element() {
    let mut world = World::with_registrars(3);
    let element = Element::new("echo", 1, &[1]);
    let (addr, name) = (element.addr, element.name.clone());
    world.add_element(element);
    world.run(ms(500));
    world.element(addr).register();
    world.drain(addr);
    world.freeze(reg(1));
    world.run(ms(10));
    world.element(addr).move_to(2);
    world.drain(addr);
    world.until(ms(100), |world| world.home_of(2, &name) == Some(2));
    world.thaw(reg(1));
    world.until(ms(10), |world| world.home_of(2, &name) == Some(1));
    assert_eq!(world.home_of(1, &name), Some(2), "they have crossed");
    settles(&mut world, &name, 2);
}

/// The update of a former home is on its way while the element registers with its new one, and the new one's as well.
/// The former home cannot ask the element.
#[test]
fn g16_an_update_that_comes_late_loses_no_element() {
    let mut world = World::with_registrars(3);
    let element = Element::new("echo", 1, &[1]);
    let (addr, name) = (element.addr, element.name.clone());
    world.add_element(element);
    world.run(ms(500));
    world.cut(reg(1), reg(2));
    world.cut(reg(1), reg(3));
    world.element(addr).register();
    world.drain(addr);
    world.run(ms(200));
    world.cut(addr, reg(1));
    world.element(addr).move_to(2);
    world.drain(addr);
    world.run(ms(1150));
    assert_eq!([1, 2, 3].map(|n| world.home_of(n, &name)), [Some(1), Some(2), Some(2)]);
    world.heal(reg(1), reg(2));
    world.heal(reg(1), reg(3));
    world.until(ms(20), |world| world.home_of(2, &name) == Some(1));
    assert_eq!(world.home_of(1, &name), Some(2), "they have crossed");
    settles(&mut world, &name, 2);
}

/// The former home did not hear that an element moved, and cannot ask it: when it removes the element for that, it knows
/// at once whose it is.
#[test]
fn an_element_that_moved_unheard_is_not_lost_with_its_former_home() {
    let mut world = World::with_registrars(2);
    let element = Element::new("echo", 1, &[1]);
    let (addr, name) = (element.addr, element.name.clone());
    world.add_element(element);
    world.run(ms(500));
    let at = world.now;
    world.cut(reg(1), reg(2));
    world.sever(addr, reg(1));
    world.element(addr).move_to(2);
    world.drain(addr);
    world.run(ms(100));
    world.sever(reg(1), reg(2));
    world.heal(reg(1), reg(2));
    world.run(ms(100));
    assert_eq!([1, 2].map(|n| world.home_of(n, &name)), [Some(1), Some(2)]);
    let removed = |e: &Event| matches!(e, Event::Removed { reason: Removal::KeepAlive, .. });
    world.until(ms(3000), |world| world.when(1, at, removed).is_some());
    world.run(ms(10));
    assert_eq!(world.home_of(1, &name), Some(2));
}

/// G17: two registrars create a pool with different policies at the same moment.
#[test]
fn g17_pools_created_twice() {
    let mut world = World::with_registrars(3);
    world.add_element(Element::new("echo", 1, &[2]).with(Policy::LeastUsed { load: 7 }));
    let other = Element::new("echo", 2, &[1]);
    let other_addr = other.addr;
    world.add_element(other);
    world.run(ms(3000));
    for n in 1..=3 {
        let space = world.registrar(n).handlespace();
        assert_eq!(
            space.pool(b"echo").unwrap().kind().policy,
            PolicyType::ROUND_ROBIN,
            "{n}: the smaller home's"
        );
        assert_eq!(space.len(), 1);
    }
    assert!(world.element(other_addr).up.len() == 1);
    let told = world.element("127.0.1.1:40000".parse().unwrap()).take();
    assert!(told.iter().any(|payload| payload[0] == 0x04), "the loser is told");
    let quiet = world.now;
    world.run(ms(20_000));
    let noise = |e: &Event| matches!(e, Event::ResyncStarted { .. } | Event::PoolConflict { .. });
    assert!((1..=3).all(|n| world.when(n, quiet, noise).is_none()), "no endless resync");
}

/// G17 between registrars that have answered already: answers name the policy that won.
#[test]
fn g17_answers_name_the_policy_that_won() {
    let mut world = World::with_registrars(2);
    let user = Element::mailbox(99, 2, Link::Sctp);
    let user_addr = user.addr;
    world.add_element(user);
    world.run(ms(20));
    let overall = |world: &mut World| -> Option<Policy<'static>> {
        let question =
            Ask::HandleResolution { subscribe: false, handle: PoolHandle(b"echo"), items: None };
        world.element(user_addr).take();
        world.element(user_addr).say(&question);
        world.drain(user_addr);
        world.run(ms(10));
        let answers = world.element(user_addr).take();
        match Ask::decode(&answers[0]).unwrap().message {
            Ask::HandleResolutionResponse { outcome: Ok(found), .. } => {
                found.policy.map(Policy::into_owned)
            }
            other => panic!("{other:?}"),
        }
    };
    world.cut(reg(1), reg(2));
    world.add_element(Element::new("echo", 1, &[2]).with(Policy::LeastUsed { load: 7 }));
    world.add_element(Element::new("echo", 2, &[1]));
    world.run(ms(100));
    assert!(matches!(overall(&mut world), Some(Policy::LeastUsed { .. })));
    world.heal(reg(1), reg(2));
    world.run(ms(3000));
    assert_eq!(overall(&mut world), None, "round robin, the smaller home's");
}

/// E-088 to E-100: updates that were lost are found by the checksum.
#[test]
fn e_089_lost_updates_are_found() {
    let mut world = World::with_registrars(2);
    let stays = Element::new("echo", 1, &[1]);
    let gone = Element::new("echo", 2, &[1]);
    let addr = gone.addr;
    world.add_element(stays);
    world.add_element(gone);
    world.run(ms(500));
    cut_for_a_while(&mut world, |world| world.kill(addr));
    assert!(converged(&world, &[1, 2]));
    assert_eq!(world.registrar(2).handlespace().len(), 1);
}

/// Two homes have each lost an element, and a third peer does not answer: they are not asked in turns meanwhile.
#[test]
fn orphans_of_two_homes_raise_no_storm() {
    let mut world = World::with_registrars(4);
    let elements = [Element::new("echo", 1, &[2]), Element::new("echo", 2, &[3])];
    let addrs = elements.each_ref().map(|element| element.addr);
    elements.into_iter().for_each(|element| world.add_element(element));
    world.run(ms(1000));
    assert_eq!(world.registrar(1).handlespace().len(), 2);
    world.cut(reg(1), reg(2));
    world.cut(reg(1), reg(3));
    addrs.into_iter().for_each(|addr| world.kill(addr));
    world.run(ms(2000));
    world.cut(reg(1), reg(4));
    let at = world.now;
    world.heal(reg(1), reg(2));
    world.heal(reg(1), reg(3));
    world.run(ms(2500));
    assert_eq!(world.registrar(1).handlespace().len(), 0, "{:?}", world.events(1).last());
    let resyncs = world
        .events(1)
        .iter()
        .filter(|(when, event)| *when >= at && matches!(event, Event::ResyncStarted { .. }));
    assert!(resyncs.count() <= 12);
}

/// The checksum covers no attributes: a resync follows every association that is established again.
#[test]
fn attributes_are_resynced_after_a_cut() {
    let mut world = World::with_registrars(2);
    let element = Element::new("echo", 1, &[1]).with(Policy::LeastUsed { load: 1 });
    let (addr, id) = (element.addr, dialtone_wire::PeId(element.name.1));
    world.add_element(element);
    world.run(ms(500));
    cut_for_a_while(&mut world, |world| {
        world.element(addr).policy = Policy::LeastUsed { load: 2 };
        world.element(addr).register();
        world.drain(addr);
    });
    let load = |n: u8| world.registrar(n).handlespace().get(b"echo", id).unwrap().policy.load();
    assert_eq!((load(1), load(2)), (Some(2), Some(2)));
}

/// A peer that has lost an association dials another, over which it asks for the table. What goes into the old one
/// afterwards is lost, and neither checksums nor another association show it.
#[test]
fn what_went_into_a_lost_association_is_asked_for() {
    let mut world = World::with_registrars(2);
    let element = Element::new("echo", 1, &[1]).with(Policy::LeastUsed { load: 1 });
    let (addr, id) = (element.addr, PeId(element.name.1));
    world.add_element(element);
    world.run(ms(500));
    let start = world.now;
    world.sever(reg(2), reg(1));
    let again = |e: &Event| matches!(e, Event::ResyncDone { .. });
    world.until(ms(1400), |world| world.when(2, start, again).is_some());
    world.element(addr).policy = Policy::LeastUsed { load: 2 };
    world.element(addr).register();
    world.drain(addr);
    world.run(ms(100));
    let loads = |world: &World| {
        [1, 2].map(|n| world.registrar(n).handlespace().get(b"echo", id).unwrap().policy.load())
    };
    assert_eq!(loads(&world), [Some(2), Some(1)], "the update is lost");
    world.run(ms(3000));
    assert_eq!(loads(&world), [Some(2), Some(2)]);
    let taken = |e: &Event| matches!(e, Event::TakeoverWon { .. });
    assert!([1, 2].iter().all(|n| world.when(*n, start, taken).is_none()));
}

/// What a dead registrar had claimed of its successor's came with its own, older word for the element. Its successor is
/// asked, and nobody else.
#[test]
fn older_values_do_not_survive_a_takeover() {
    for claimed in [true, false] {
        let mut world = World::with_registrars(1);
        world.add_element(Element::enrp_mailbox(50, 1));
        world.add_element(Element::enrp_mailbox(51, 1));
        let element = |home: u32, load: u32| {
            let element = Element::new("echo", 7, &[1]).with(Policy::LeastUsed { load });
            PoolElement { home: ServerId(home), ..element.pool_element() }
        };
        let add = |home, load| Body::HandleUpdate {
            takeover_suggested: false,
            action: UpdateAction::ADD_PE,
            handle: PoolHandle(b"echo"),
            element: Box::new(element(home, load)),
        };
        let table = |elements: Vec<PoolElement<'static>>| {
            let handle = PoolHandle(b"echo");
            let pools = elements.into_iter();
            let pools = pools.map(|element| PoolEntry { handle, elements: vec![element] });
            Body::HandleTableResponse { reject: false, more: false, pools: pools.collect() }
        };
        world.run(ms(20));
        for sender in [50, 51] {
            assert_eq!(tables_asked(&mut world, sender, Body::ListRequest), 1, "it is new");
            assert_eq!(tables_asked(&mut world, sender, table(Vec::new())), 0);
        }
        if claimed {
            tables_asked(&mut world, 51, add(51, 2));
        }
        tables_asked(&mut world, 50, add(50, 1));
        let takeover = Body::TakeoverServer { target: ServerId(50) };
        assert_eq!(tables_asked(&mut world, 51, takeover), usize::from(claimed));
        if claimed {
            tables_asked(&mut world, 51, table(vec![element(51, 2)]));
        }
        let space = world.registrar(1).handlespace();
        let entry = space.get(b"echo", PeId(7)).unwrap();
        let load = if claimed { 2 } else { 1 };
        assert_eq!((entry.home, entry.policy.load()), (ServerId(51), Some(load)));
    }
}

/// Resyncs that do not help come more and more seldom, until the peer has a new association.
#[test]
fn a_peer_that_returns_does_not_pay_for_former_resyncs() {
    let mut world = World::with_registrars(1);
    let mailbox = Element::enrp_mailbox(50, 1);
    let addr = mailbox.addr;
    world.add_element(mailbox);
    world.run(ms(20));
    let differs = || Body::Presence { reply_required: false, checksum: Some(1), server: None };
    let table = || Body::HandleTableResponse { reject: false, more: false, pools: Vec::new() };
    let mut asked = Vec::new();
    for _ in 0..8 {
        asked.push(tables_asked(&mut world, 50, differs()));
        tables_asked(&mut world, 50, table());
        world.run(ms(1000));
    }
    assert_eq!(asked, [1, 1, 0, 1, 0, 0, 0, 1]);
    world.element(addr).move_to(1);
    world.drain(addr);
    world.run(ms(20));
    assert_eq!(tables_asked(&mut world, 50, differs()), 1, "it has returned");
    tables_asked(&mut world, 50, table());
    world.run(ms(1000));
    assert_eq!(tables_asked(&mut world, 50, differs()), 1);
}

/// A peer that is asked again and again for other reasons than a difference is asked about a difference in time.
#[test]
fn resyncs_for_other_reasons_do_not_hold_back_one_for_a_difference() {
    let mut world = World::with_registrars(1);
    let claimants = 51..=55;
    for n in 50..=55 {
        world.add_element(Element::enrp_mailbox(n, 1));
    }
    world.run(ms(20));
    let handle = PoolHandle(b"echo");
    let element = |home: u8, n: u8| {
        let element = Element::new("echo", n, &[1]).pool_element();
        PoolElement { home: ServerId(home.into()), ..element }
    };
    let add = |home, n| Body::HandleUpdate {
        takeover_suggested: false,
        action: UpdateAction::ADD_PE,
        handle,
        element: Box::new(element(home, n)),
    };
    let table = |elements: Vec<PoolElement<'static>>| {
        let pools = vec![PoolEntry { handle, elements }];
        Body::HandleTableResponse { reject: false, more: false, pools }
    };
    let nothing = || Body::HandleTableResponse { reject: false, more: false, pools: Vec::new() };
    for n in 50..=55 {
        assert_eq!(tables_asked(&mut world, n, Body::ListRequest), 1, "{n} is new");
        tables_asked(&mut world, n, nothing());
    }
    for n in claimants.clone() {
        tables_asked(&mut world, 50, add(50, n));
        tables_asked(&mut world, n, add(n, n));
    }
    for n in claimants {
        let takeover = Body::TakeoverServer { target: ServerId(n.into()) };
        assert_eq!(tables_asked(&mut world, 50, takeover), 1, "for the sake of {n}'s");
        tables_asked(&mut world, 50, table((51..=n).map(|n| element(50, n)).collect()));
    }
    world.run(ms(2000));
    let differs = Body::Presence { reply_required: false, checksum: Some(1), server: None };
    assert_eq!(tables_asked(&mut world, 50, differs), 1);
}

/// Everybody soon knows that this is the element's home, and goes on knowing it.
fn settles(world: &mut World, name: &Name, home: u32) {
    let settled = |world: &World| (1..=3).all(|n| world.home_of(n, name) == Some(home));
    world.until(ms(500), settled);
    for _ in 0..1000 {
        world.run(ms(10));
        assert!(settled(world), "{}", world.story(name));
    }
}

/// A mailbox says something as a registrar; how often it is asked for its table then.
fn tables_asked(world: &mut World, sender: u8, body: Body<'_>) -> usize {
    let addr = Element::enrp_mailbox(sender, 1).addr;
    let message = Message { sender: ServerId(sender.into()), receiver: ServerId::NONE, body };
    world.element(addr).take();
    world.element(addr).say_bytes(message.encode().unwrap());
    world.drain(addr);
    world.run(ms(20));
    let received = world.element(addr).take();
    let asks = |payload: &Vec<u8>| {
        matches!(
            Message::decode(payload).unwrap().message.body,
            Body::HandleTableRequest { own_children_only: true }
        )
    };
    received.iter().filter(|payload| asks(payload)).count()
}

/// Long enough to end the associations, too short for a takeover; then time to get over it.
fn cut_for_a_while(world: &mut World, meanwhile: impl FnOnce(&mut World)) {
    let at = world.now;
    world.cut(reg(1), reg(2));
    meanwhile(world);
    world.run(ms(2000));
    world.heal(reg(1), reg(2));
    world.run(ms(3000));
    let taken = |e: &Event| matches!(e, Event::TakeoverWon { .. });
    assert!([1, 2].iter().all(|n| world.when(*n, at, taken).is_none()));
}
