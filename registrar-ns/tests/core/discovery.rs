//! Registrars that find each other by multicast (RFC 5351 section 3.1).

use std::net::{IpAddr, SocketAddr};

use dialtone_registrar_ns::core::{Config, Event};
use dialtone_transport::ENRP_PORT;
use dialtone_wire::enrp::{Body, Message};
use dialtone_wire::{SctpTransport, ServerId, ServerInformation, TransportUse};

use crate::element::Element;
use crate::world::{World, ms, reg};

fn alone(n: u8) -> Config {
    Config { multicast: true, ..Config::new(reg(n).ip()) }
}

fn peers(world: &World, n: u8) -> usize {
    let snapshot = world.registrar(n).snapshot(world.now);
    snapshot.peers.iter().filter(|peer| peer.addr.is_some()).count()
}

/// How many addresses of registrars the first one keeps in mind.
fn contacts(world: &World) -> usize {
    world.registrar(1).snapshot(world.now).contacts
}

/// A presence of a registrar that says to be at `claimed`.
fn presence(id: u32, claimed: IpAddr) -> Vec<u8> {
    let transport =
        SctpTransport { port: ENRP_PORT, use_: TransportUse::DATA_ONLY, addrs: claimed.into() };
    let server = Some(ServerInformation { server_id: ServerId(id), transport });
    let body = Body::Presence { reply_required: false, checksum: Some(0xffff), server };
    Message { sender: ServerId(id), receiver: ServerId::NONE, body }.encode().unwrap()
}

/// No address of another registrar stands anywhere, and yet they share a handlespace, take over from each other, and
/// a later one finds its mentor.
#[test]
fn registrars_find_each_other() {
    let mut world = World::new();
    for n in 1..=3 {
        world.add_configured(n, n.into(), alone(n));
    }
    let start = world.now;
    world.until(ms(4000), |world| (1..=3).all(|n| world.registrar(n).in_service()));
    world.until(ms(1500), |world| (1..=3).all(|n| peers(world, n) == 2));
    let element = Element::new("echo", 1, &[1, 2, 3, 4]);
    let name = element.name.clone();
    world.add_element(element);
    world.until(ms(100), |world| world.home_of(3, &name) == Some(1));

    world.add_configured(4, 4, alone(4));
    world.until(ms(1000), |world| world.registrar(4).in_service());
    let downloaded = |event: &Event| matches!(event, Event::InService { mentor: Some(_) });
    assert!(world.when(4, start, downloaded).is_some(), "a mentor was found");
    assert_eq!(world.home_of(4, &name), Some(1));

    world.kill(reg(1));
    world.until(ms(6000), |world| world.home_of(4, &name).is_some_and(|home| home != 1));
    assert_eq!(peers(&world, 4), 2);
}

/// With nobody there, service begins alone after the time for that, and whoever comes later finds it.
#[test]
fn the_first_one_does_not_wait_for_ever() {
    let mut world = World::new();
    world.add_configured(1, 1, alone(1));
    world.run(ms(1900));
    assert!(!world.registrar(1).in_service());
    world.run(ms(200));
    assert!(world.registrar(1).in_service());
    world.add_configured(2, 2, alone(2));
    world.until(ms(1000), |world| world.registrar(2).in_service());
    world.until(ms(1000), |world| peers(world, 1) == 1 && peers(world, 2) == 1);
}

/// A cut through the network heals: who was given up is found again by its presence alone.
#[test]
fn registrars_meet_again_after_a_cut() {
    let mut world = World::new();
    world.add_configured(1, 1, alone(1));
    world.add_configured(2, 2, alone(2));
    world.until(ms(4000), |world| peers(world, 1) == 1 && peers(world, 2) == 1);
    world.cut(reg(1), reg(2));
    world.until(ms(10_000), |world| peers(world, 1) == 0 && peers(world, 2) == 0);
    world.heal(reg(1), reg(2));
    world.until(ms(3000), |world| peers(world, 1) == 1 && peers(world, 2) == 1);
}

/// Who was found has answered while the finder got no CPU: it is not taken for silent.
#[test]
fn who_answers_a_starved_registrar_is_one() {
    let mut world = World::new();
    world.add_configured(1, 1, alone(1));
    world.add_configured(2, 2, Config { multicast: false, ..alone(2) });
    world.cut(reg(1), reg(2));
    world.until(ms(4000), |world| (1..=2).all(|n| world.registrar(n).in_service()));
    world.heal(reg(1), reg(2));
    world.present(reg(2), &presence(2, reg(2).ip()));
    world.until(ms(100), |world| peers(world, 2) == 1);
    assert_eq!(peers(&world, 1), 0, "the answer is on its way");
    world.freeze(reg(1));
    world.run(ms(1200));
    world.thaw(reg(1));
    world.until(ms(5), |world| peers(world, 1) == 1);
}

/// Datagrams prove nothing. A flood of them costs a few dials at a time, makes nobody a peer, keeps nobody alive, and
/// does not keep a real registrar out for long.
#[test]
fn a_flood_of_presences_is_bounded() {
    let mut world = World::new();
    world.add_configured(1, 1, alone(1));
    world.run(ms(3000));
    let mut rng = fastrand::Rng::with_seed(7);
    let flood = |world: &mut World, rng: &mut fastrand::Rng| {
        for _ in 0..500 {
            let from = SocketAddr::new(IpAddr::from([10, rng.u8(..), rng.u8(..), 9]), 1000);
            world.present(from, &presence(rng.u32(1..), from.ip()));
        }
        world.run(ms(100));
    };
    for _ in 0..50 {
        flood(&mut world, &mut rng);
        let contacts = contacts(&world);
        assert!(contacts <= 32, "{contacts}");
    }
    world.add_configured(2, 2, alone(2));
    let mut rounds = 0;
    while peers(&world, 2) == 0 {
        flood(&mut world, &mut rng);
        rounds += 1;
        assert!(rounds < 100, "not found in 10 s");
    }
    world.run(ms(5000));
    assert_eq!(world.registrar(1).snapshot(world.now).peers.len(), 1, "nobody else is a peer");
    assert_eq!(contacts(&world), 1, "what led to nobody is forgotten");
}

/// A presence in the name of another address makes nobody dial that address; nor does what is no presence.
#[test]
fn nobody_is_dialled_in_the_name_of_others() {
    let mut world = World::new();
    world.add_configured(1, 1, alone(1));
    world.run(ms(3000));
    let from = SocketAddr::new(IpAddr::from([10, 0, 0, 9]), 1000);
    let dropped = world.registrar(1).counters().dropped;
    world.present(from, &presence(7, IpAddr::from([10, 0, 0, 1])));
    world.present(from, &presence(0, from.ip()));
    world.present(from, b"no message");
    let request =
        Message { sender: ServerId(7), receiver: ServerId::NONE, body: Body::ListRequest };
    world.present(from, &request.encode().unwrap());
    assert_eq!(contacts(&world), 0);
    assert_eq!(world.registrar(1).counters().dropped, dropped + 4);
    // Our own, heard again, is nothing.
    world.present(reg(7), &presence(1, reg(7).ip()));
    assert_eq!(contacts(&world), 0);
    // The smallest one says no more than that: where it comes from.
    let bare = Body::Presence { reply_required: false, checksum: None, server: None };
    let bare = Message { sender: ServerId(7), receiver: ServerId::NONE, body: bare };
    world.present(from, &bare.encode().unwrap());
    assert_eq!(contacts(&world), 1);
}

/// Whoever accepts the association and then says nothing is given up, and its place is free again.
#[test]
fn a_silent_host_is_no_registrar() {
    let mut world = World::new();
    world.add_configured(1, 1, alone(1));
    world.run(ms(3000));
    let mut silent = Element::enrp_mailbox(50, 9);
    silent.addr.set_port(9899);
    let addr = silent.addr;
    world.add_element(silent);
    world.present(addr, &presence(50, addr.ip()));
    world.run(ms(100));
    assert_eq!(contacts(&world), 1);
    assert!(!world.element(addr).up.is_empty(), "it was dialled");
    world.run(ms(1500));
    assert_eq!(contacts(&world), 0);
    assert!(world.element(addr).up.is_empty());
}
