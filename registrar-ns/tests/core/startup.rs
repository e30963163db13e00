//! RFC 5353 sections 3.2 and 3.4: mentors, download, peers.

use dialtone_registrar_ns::core::{Config, Event, Limits};
use dialtone_wire::ServerId;
use dialtone_wire::enrp::{Body, Message as Enrp};

use crate::element::Element;
use crate::world::{World, ms, reg};

fn in_service(event: &Event) -> bool {
    matches!(event, Event::InService { .. })
}

/// E-023: nobody configured.
#[test]
fn e_023_alone() {
    let mut world = World::new();
    world.add_registrar(1, 1, Vec::new());
    world.run(ms(1));
    assert!(world.registrar(1).in_service());
}

/// Nobody reachable: alone after a while, or never.
#[test]
fn alone_after_a_while() {
    let mut world = World::new();
    let start = world.now;
    world.add_registrar(1, 1, vec![reg(1), reg(2)]);
    world.add_configured(3, 3, Config { alone_after: None, ..World::config(3, vec![reg(2)]) });
    world.run(ms(10_000));
    let after = world.when(1, start, in_service).unwrap();
    assert!(after >= ms(1900) && after <= ms(2100), "{after:?}");
    assert!(!world.registrar(3).in_service());
}

/// Several start at the same moment: one goes ahead soon, the others find their mentor in it.
#[test]
fn e_029_registrars_that_start_together() {
    for count in [2, 3] {
        let mut world = World::new();
        let start = world.now;
        for n in 1..=count {
            world.add_registrar(n, u32::from(n), (1..=count).map(reg).collect());
        }
        world.run(ms(2000));
        for n in 1..=count {
            let after = world.when(n, start, in_service).expect("in service");
            assert!(after <= ms(1500), "{n}: {after:?}");
        }
    }
}

fn small_chunks(n: u8, peers: Vec<std::net::SocketAddr>) -> Config {
    let limits = Limits { table_elements: 3, ..Limits::default() };
    Config { limits, ..World::config(n, peers) }
}

/// E-031 to E-045: download in chunks; the mentor dies in the middle, a backup serves.
#[test]
fn e_045_mentor_dies_during_the_download() {
    let mut world = World::new();
    let all = vec![reg(1), reg(2), reg(3)];
    for n in [1, 2] {
        world.add_configured(n, u32::from(n), small_chunks(n, all.clone()));
    }
    world.run(ms(3000));
    let names: Vec<_> = (1..=30)
        .map(|id| {
            let element = Element::new(&format!("pool-{}", id % 4), id, &[1 + id % 2]);
            let name = element.name.clone();
            world.add_element(element);
            name
        })
        .collect();
    world.run(ms(1000));
    world.add_configured(3, 3, small_chunks(3, vec![reg(1), reg(2)]));
    // Part of the table has been sent.
    world.until(ms(500), |world| world.registrar(3).handlespace().len() > 5);
    let got = world.registrar(3).handlespace().len();
    assert!(got < 30, "{got}");
    world.kill(reg(1));
    let start = world.now;
    world.until(ms(3500), |world| world.registrar(3).in_service());
    let mentor = |e: &Event| matches!(e, Event::InService { mentor: Some(ServerId(2)) });
    assert!(world.when(3, start, mentor).is_some());
    assert_eq!(world.registrar(3).handlespace().len(), 30);
    world.run(ms(8000));
    for name in &names {
        let homes = [world.home_of(2, name), world.home_of(3, name)];
        assert!(
            homes[0] == homes[1] && homes[0].is_some_and(|home| home != 1),
            "{name:?}: {homes:?}"
        );
    }
}

/// Both dial at the same moment: one association stays, and nothing flaps.
#[test]
fn simultaneous_dials_leave_one_association() {
    let mut world = World::with_registrars(3);
    let start = world.now;
    let sent = world.enrp.len();
    world.run(ms(10_000));
    let noise = |e: &Event| !matches!(e, Event::InService { .. });
    for n in 1..=3 {
        assert_eq!(world.when(n, start, noise), None, "{:?}", world.events(n));
    }
    let presences = world.enrp.len() - sent;
    assert!((54..=66).contains(&presences), "one presence a second from each to each: {presences}");
}

/// A registrar that is known to one peer only gets to know the others from it (E-027, E-028, E-061).
#[test]
fn e_028_peers_are_learned() {
    let mut world = World::new();
    world.add_registrar(1, 1, Vec::new());
    world.add_registrar(2, 2, vec![reg(1)]);
    world.run(ms(1000));
    world.add_registrar(3, 3, vec![reg(1)]);
    world.run(ms(2000));
    for n in 1..=3 {
        let snapshot = world.registrar(n).snapshot(world.now);
        assert_eq!(snapshot.peers.iter().filter(|peer| peer.status == "active").count(), 2, "{n}");
    }
    world.add_element(Element::new("echo", 1, &[2]));
    world.run(ms(100));
    assert_eq!(world.home_of(3, &crate::world::Name("echo".into(), 1)), Some(2));
}

/// E-008, E-026: a mentor that does not answer is given up.
#[test]
fn e_026_frozen_mentor_is_given_up() {
    let mut world = World::with_registrars(2);
    world.add_element(Element::new("echo", 1, &[2]));
    world.run(ms(100));
    world.add_registrar(3, 3, vec![reg(1), reg(2)]);
    world.run(ms(3));
    world.freeze(reg(1));
    let start = world.now;
    world.run(ms(1900));
    let mentor = |e: &Event| matches!(e, Event::InService { mentor: Some(ServerId(2)) });
    assert!(world.when(3, start, mentor).is_some(), "{:?}", world.events(3));
}

/// RFC 5353 section 3.2.3: who has a mentor is not alone, however long the download takes, and what is asked for again
/// begins at the beginning, whatever session the mentor still has.
#[test]
fn a_slow_mentor_gives_the_whole_table() {
    let steady = [300; 8];
    for freezes in [&[300; 40][..], &[&steady[..], &[1300]].concat(), &[1300], &[1990]] {
        let mut world = World::new();
        world.add_configured(1, 1, small_chunks(1, vec![reg(1)]));
        world.run(ms(3000));
        (1..=30).for_each(|id| world.add_element(Element::new("echo", id, &[1])));
        world.run(ms(1000));
        world.add_configured(2, 2, small_chunks(2, vec![reg(1)]));
        world.until(ms(500), |world| world.registrar(2).handlespace().len() > 2);
        let start = world.now;
        // In between there is time for a chunk.
        for freeze in freezes {
            if world.registrar(2).in_service() {
                break;
            }
            world.freeze(reg(1));
            world.run(ms(*freeze));
            world.thaw(reg(1));
            world.run(ms(1));
        }
        world.until(ms(5000), |world| world.registrar(2).in_service());
        let mentor = |e: &Event| matches!(e, Event::InService { mentor: Some(ServerId(1)) });
        assert!(world.when(2, start, mentor).is_some(), "{freezes:?}: {:?}", world.events(2));
        assert_eq!(world.registrar(2).handlespace().len(), 30, "{freezes:?}");
    }
}

/// A table that was given up in the middle is asked for again when its sender's session is over: begun there, it would
/// leave out what had come before, and that would be taken for gone.
#[test]
fn a_resync_that_was_interrupted_begins_at_the_beginning() {
    let mut world = World::new();
    for n in [1, 2] {
        world.add_configured(n, u32::from(n), small_chunks(n, vec![reg(1), reg(2)]));
    }
    world.run(ms(3000));
    let stranger = Element::enrp_mailbox(50, 2);
    let addr = stranger.addr;
    world.add_element(stranger);
    (1..=30).for_each(|id| world.add_element(Element::new("echo", id, &[1])));
    world.run(ms(1000));
    assert_eq!(world.registrar(2).handlespace().len(), 30);
    let start = world.now;
    world.sever(reg(2), reg(1));
    let resync = |e: &Event| matches!(e, Event::ResyncStarted { .. });
    world.until(ms(3000), |world| world.when(2, start, resync).is_some());
    world.run(ms(5));
    // Somebody says to take the sender over, which is heard of a moment later.
    let body = Body::InitTakeover { target: ServerId(1) };
    let message = Enrp { sender: ServerId(9), receiver: ServerId(2), body };
    world.element(addr).say_bytes(message.encode().unwrap());
    world.drain(addr);
    let mut resyncs = 0;
    for _ in 0..5000 {
        world.run(ms(1));
        assert_eq!(world.registrar(2).handlespace().len(), 30);
        resyncs = world.events(2).iter().filter(|(at, e)| *at >= start && resync(e)).count();
    }
    assert!(resyncs >= 2, "{resyncs}");
    let done = |e: &Event| matches!(e, Event::ResyncDone { changed: 0, removed: 0, .. });
    assert!(world.when(2, start, done).is_some(), "{:?}", world.events(2));
}
