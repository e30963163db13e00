//! Section 3.4 at the element: keep-alives, and who becomes its home by them.

use std::time::Duration;

use dialtone_asap_client::ClientConfig;
use dialtone_pool_element::{Command, Elements, ElementsConfig};
use dialtone_transport::AssocId;

use crate::client_world::{World, ms, remotes};
use crate::lab::bytes::*;
use crate::lab::clients::{POOL, element, is_registered, said};

const H: u8 = 1;

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Element 7 at registrar 1; two more registrars that it does not know. Nobody sends keep-alives but the test.
#[expect(clippy::disallowed_methods, reason = "virtual time starts at any instant")]
fn start() -> World<Elements> {
    let config = ClientConfig::rfc(remotes([1]));
    let elements = Elements::new(ElementsConfig::rfc());
    let mut world = World::with(std::time::Instant::now(), config, 3, elements);
    world.registrars.values_mut().for_each(|registrar| registrar.probes = false);
    world.command(Command::Register(element(7)));
    world.run_until(s(1), is_registered);
    world
}

fn home_assoc(world: &World<Elements>) -> AssocId {
    world.client.home().unwrap().assoc
}

/// A keep-alive for a pool from the registrar with this identifier.
fn ask(world: &mut World<Elements>, assoc: AssocId, flags: u8, server: u32, pool: &str) {
    world.deliver(assoc, message(KEEP_ALIVE, flags, &[word(server), handle(pool)]));
    world.run(ms(200));
}

/// Proves.
#[test]
fn every_keep_alive_is_answered_where_it_came_from() {
    let mut world = start();
    let (home, other) = (home_assoc(&world), world.dial(2));
    world.run(ms(10));
    for (assoc, flags, n) in [(home, 0, 1), (other, 0, 2), (home, H, 1), (other, H, 2)] {
        let before = said(&world, KEEP_ALIVE_ACK).len();
        ask(&mut world, assoc, flags, n.into(), POOL);
        let acks = said(&world, KEEP_ALIVE_ACK);
        assert_eq!(acks.len(), before + 1, "{n}, flags {flags}");
        let (_, to, ack) = acks.last().unwrap();
        assert_eq!(*to, n);
        assert_eq!(
            ack.tlvs().iter().map(|tlv| tlv.bytes()).collect::<Vec<_>>(),
            [handle(POOL), pe_id(7)]
        );
    }
}

/// Proves A-094.
#[test]
fn a_keep_alive_for_another_pool_is_dropped_silently() {
    let mut world = start();
    let (home, other) = (home_assoc(&world), world.dial(2));
    world.run(ms(10));
    let before = world.said.len();
    for (assoc, server) in [(home, 1), (other, 2)] {
        for flags in [0, H] {
            ask(&mut world, assoc, flags, server, "echo2");
            ask(&mut world, assoc, flags, server, "ech");
        }
    }
    assert_eq!(world.said.len(), before);
    assert_eq!(world.home(), Some(1));
}

/// Proves.
#[test]
fn who_asks_with_h_becomes_the_only_home() {
    let mut world = start();
    world.run(s(1));
    let other = world.dial(2);
    world.run(ms(10));
    // Without H it is answered, and that is all.
    ask(&mut world, other, 0, 2, POOL);
    assert_eq!(world.home(), Some(1));
    ask(&mut world, other, H, 2, POOL);
    assert_eq!((world.home(), home_assoc(&world)), (Some(2), other));
    // It registers there, once, and everything else goes there, too.
    let begin = world.at();
    world.run(s(100));
    let registrations = said(&world, REGISTRATION);
    let later: Vec<u8> =
        registrations.iter().filter(|(at, ..)| *at > begin).map(|(_, n, _)| *n).collect();
    assert!(later.len() > 3 && later.iter().all(|n| *n == 2), "{later:?}");
    assert!(world.said.iter().filter(|(at, ..)| *at > begin).all(|(_, n, _)| *n == 2));
    // The next one, though the element has a home that lives.
    let third = world.dial(3);
    world.run(ms(10));
    ask(&mut world, third, H, 3, POOL);
    assert_eq!(world.home(), Some(3));
}

/// Proves A-096.
#[test]
fn without_a_home_it_adopts_who_asks_with_h() {
    let mut world = start();
    world.kill(1, true);
    world.run_until(s(1), |world| world.home().is_none());
    let other = world.dial(2);
    world.run(ms(10));
    ask(&mut world, other, H, 2, POOL);
    assert_eq!(world.home(), Some(2));
    assert_eq!(said(&world, REGISTRATION).last().unwrap().1, 2);
}
