//! RFC 5352 sections 3.4 and 3.5: keep-alives, evidence, reports. Bounds are those of telephony's timers.

use std::time::Duration;

use dialtone_registrar_ns::core::{Event, Removal};
use dialtone_transport::Link;
use dialtone_wire::asap::Message;
use dialtone_wire::{PeId, Policy, PoolHandle};

use crate::element::Element;
use crate::world::{World, ms, reg};

fn removed(event: &Event) -> bool {
    matches!(event, Event::Removed { .. })
}

/// A killed process is out of the pool in 2 s without traffic, a frozen one in 3 s, everywhere.
#[test]
fn removal_bounds() {
    for seed in 0..20 {
        let mut world = World::with_registrars(2);
        let (killed, frozen) = (Element::new("echo", 1, &[1]), Element::new("echo", 2, &[1]));
        let names = [killed.name.clone(), frozen.name.clone()];
        let addrs = [killed.addr, frozen.addr];
        world.add_element(killed);
        world.add_element(frozen);
        world.run(ms(1000 + 137 * seed));
        assert_eq!(world.home_of(2, &names[1]), Some(1));
        world.kill(addrs[0]);
        world.freeze(addrs[1]);
        let at = world.now;
        world.until(ms(2000), |world| world.home_of(2, &names[0]).is_none());
        world.until(ms(3000), |world| world.home_of(2, &names[1]).is_none());
        assert!(world.now - at <= ms(3000), "{seed}: {:?}", world.now - at);
        // It lives and learns that it was removed.
        world.thaw(addrs[1]);
        world.until(ms(2000), |world| world.home_of(2, &names[1]) == Some(1));
    }
}

/// Under traffic users notice first, wherever the element's home is: gone in 1 s.
#[test]
fn a_101_reports_are_followed_by_a_probe_at_once() {
    // However long ago the last keep-alive was.
    for (home, offset) in [1, 2].into_iter().flat_map(|home| (0..40).map(move |n| (home, 31 * n))) {
        let mut world = World::with_registrars(2);
        let element = Element::new("echo", 1, &[home]);
        let (addr, name) = (element.addr, element.name.clone());
        world.add_element(element);
        let user = Element::mailbox(9, 1, Link::Tcp);
        let user_addr = user.addr;
        world.add_element(user);
        world.run(ms(2050 + offset));
        world.kill(addr);
        let report = Message::EndpointUnreachable { handle: PoolHandle(b"echo"), pe_id: PeId(1) };
        world.element(user_addr).say(&report);
        world.drain(user_addr);
        // The bound is 1 s; evidence makes it a matter of round trips, and keep-alives are 100 ms apart at least.
        world.until(ms(150), |world| {
            world.home_of(1, &name).is_none() && world.home_of(2, &name).is_none()
        });
    }
}

/// An element that answers stays, until too many reports say otherwise; those of one user alone do not.
/// Proves.
#[test]
fn a_106_too_many_reports_remove() {
    let mut world = World::with_registrars(1);
    let element = Element::new("echo", 1, &[1]);
    let name = element.name.clone();
    world.add_element(element);
    let users = [8, 9].map(|id| {
        let user = Element::mailbox(id, 1, Link::Sctp);
        let addr = user.addr;
        world.add_element(user);
        addr
    });
    world.run(ms(50));
    let report = |world: &mut World, user: usize, wait: Duration| {
        let report = Message::EndpointUnreachable { handle: PoolHandle(b"echo"), pe_id: PeId(1) };
        // Many at once are one.
        for _ in 0..20 {
            world.element(users[user]).say(&report);
        }
        world.drain(users[user]);
        world.run(wait);
    };
    let start = world.now;
    for _ in 0..6 {
        // Counters halve: at this pace they never pass three.
        report(&mut world, 0, ms(31_000));
    }
    assert_eq!(world.when(1, start, removed), None);
    for _ in 0..10 {
        report(&mut world, 0, ms(200));
    }
    assert_eq!(world.when(1, start, removed), None, "one user alone");
    report(&mut world, 1, ms(200));
    let reason = |e: &Event| matches!(e, Event::Removed { reason: Removal::Reports, .. });
    assert!(world.when(1, start, reason).is_some());
    world.until(ms(1000), |world| world.home_of(1, &name).is_some());
}

/// 1 s without CPU, of the registrar or of an element, removes nobody and starts no takeover.
#[test]
fn starvation_removes_nobody() {
    for seed in 0..30 {
        let mut world = World::with_registrars(2);
        let elements: Vec<_> = (1..=10).map(|id| Element::new("echo", id, &[1])).collect();
        let addrs: Vec<_> = elements.iter().map(|element| element.addr).collect();
        elements.into_iter().for_each(|element| world.add_element(element));
        world.run(ms(1500 + 71 * seed));
        let start = world.now;
        world.freeze(reg(1));
        world.run(ms(1000));
        world.thaw(reg(1));
        world.run(ms(3000));
        for addr in &addrs {
            world.freeze(*addr);
        }
        world.run(ms(1000));
        for addr in &addrs {
            world.thaw(*addr);
        }
        world.run(ms(3000));
        let bad = |e: &Event| removed(e) || matches!(e, Event::TakeoverStarted { .. });
        assert_eq!(world.when(1, start, bad), None, "{seed}");
        assert_eq!(world.when(2, start, bad), None, "{seed}");
    }
}

/// The whole machine sleeps for a while: nobody is dead, no registration has ended.
#[test]
fn a_suspended_machine_removes_nobody() {
    for seed in 0..20 {
        let mut world = World::with_registrars(2);
        let mut addrs = vec![reg(1), reg(2)];
        for id in 1..=5 {
            let mut element = Element::new("echo", id, &[1 + id % 2]);
            element.life = 3;
            addrs.push(element.addr);
            world.add_element(element);
        }
        let start = world.now;
        let mut pass = |seconds: u64| {
            for _ in 0..seconds {
                world.run(ms(1000));
                for addr in &addrs[2..] {
                    world.element(*addr).register();
                    world.drain(*addr);
                }
            }
            world.run(ms(50 + 43 * seed));
            for addr in &addrs {
                world.freeze(*addr);
            }
            world.run(ms(7000));
            for addr in &addrs {
                world.thaw(*addr);
            }
            world.run(ms(500));
        };
        pass(2);
        pass(3);
        let bad = |e: &Event| removed(e) || matches!(e, Event::TakeoverStarted { .. });
        for n in [1, 2] {
            assert_eq!(world.when(n, start, bad), None, "{seed}: {:?}", world.events(n));
        }
    }
}

/// keep-alives are spread, and every owned element is asked at least every 1.5 s.
#[test]
fn a_109_keep_alives_are_spread() {
    let mut world = World::with_registrars(1);
    let addrs: Vec<_> = (1..=20)
        .map(|id| {
            let element = Element::new("echo", id, &[1]);
            let addr = element.addr;
            world.add_element(element);
            addr
        })
        .collect();
    world.run(ms(20_000));
    for addr in addrs {
        let asked: Vec<_> = world
            .element(addr)
            .received
            .iter()
            .filter(|(_, payload)| payload[0] == 0x07)
            .map(|(at, _)| *at)
            .collect();
        assert!((13..=40).contains(&asked.len()), "{}", asked.len());
        assert!(asked.windows(2).all(|pair| pair[1] - pair[0] <= ms(1510)));
    }
}

/// An orderly end of the association without de-registration: the element is asked, and is gone if it does not listen.
#[test]
fn an_element_whose_association_ends_is_asked() {
    let mut world = World::with_registrars(1);
    let element = Element::new("echo", 1, &[1]);
    let (addr, name) = (element.addr, element.name.clone());
    world.add_element(element);
    world.run(ms(50));
    let start = world.now;
    let assoc = world.element(addr).up[0];
    world.element(addr).out.push_back(dialtone_transport::NetCommand::Abort { assoc });
    world.drain(addr);
    world.run(ms(3000));
    assert_eq!(world.when(1, start, removed), None, "it came back");
    let assoc = *world.element(addr).up.last().unwrap();
    world.element(addr).out.push_back(dialtone_transport::NetCommand::Abort { assoc });
    world.drain(addr);
    world.kill(addr);
    world.until(ms(500), |world| world.home_of(1, &name).is_none());
}

/// A registrar that has dialled an element becomes its home, and stays it when it refuses the element: with another home
/// the element would ask for the same again.
#[test]
fn a_refused_element_keeps_its_home() {
    let mut world = World::with_registrars(2);
    let element = Element::new("echo", 1, &[1]);
    let (addr, name) = (element.addr, element.name.clone());
    world.add_element(element);
    world.add_element(Element::new("echo", 2, &[2]));
    world.run(ms(500));
    world.kill(reg(1));
    world.until(ms(3000), |world| world.home_of(2, &name) == Some(2));
    world.run(ms(2000));
    world.element(addr).policy = Policy::LeastUsed { load: 0 };
    let leave = Message::Deregistration { handle: PoolHandle(b"echo"), pe_id: PeId(name.1) };
    world.element(addr).say(&leave);
    world.element(addr).register();
    world.drain(addr);
    world.run(ms(100));
    let refused = |world: &mut World| {
        let received = world.element(addr).take();
        received.iter().any(|payload| {
            let message = Message::decode(payload).unwrap().message;
            matches!(message, Message::RegistrationResponse { reject: true, .. })
        })
    };
    assert!(refused(&mut world) && world.home_of(2, &name).is_none());
    let downs = world.element(addr).downs;
    world.run(ms(70_000));
    assert_eq!(world.element(addr).downs, downs);
    assert!(world.element(addr).is_connected() && world.home_of(2, &name).is_none());
}
