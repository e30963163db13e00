//! Section 3.2 at the element: how it leaves its pool.

use std::time::Duration;

use dialtone_pool_element::{Command, ElementKey, ElementsConfig, State};
use dialtone_wire::PeId;

use crate::client_world::{Life, World, ms};
use crate::lab::bytes::*;
use crate::lab::clients::{POOL, element_before, is_registered, pool, said, state};

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Element 7, registered with one of so many registrars, which is told to leave.
fn leaving(
    registrars: u8,
    before: impl FnOnce(&mut World<dialtone_pool_element::Elements>),
) -> World<dialtone_pool_element::Elements> {
    let mut world = element_before(registrars, ElementsConfig::rfc());
    world.run_until(s(1), is_registered);
    before(&mut world);
    world.command(Command::Deregister(ElementKey { handle: pool(), pe_id: PeId(7) }));
    world
}

fn has_left(world: &World<dialtone_pool_element::Elements>) -> bool {
    let last = world.events.last().map(|(_, change)| &change.state);
    last == Some(&State::Deregistered { confirmed: true })
}

/// Proves.
#[test]
fn it_deregisters_where_it_registered_by_the_same_handle_and_identifier() {
    let mut world = leaving(3, |_| {});
    world.run_until(s(1), has_left);
    let (registered, left) = (said(&world, REGISTRATION), said(&world, DEREGISTRATION));
    assert_eq!((registered.len(), left.len()), (1, 1));
    assert_eq!(
        world.connects.len(),
        3,
        "the hunt's attempts at the start; no association for this"
    );
    assert_eq!(left[0].1, registered[0].1);
    let bytes: Vec<_> = world.said.iter().map(|(.., bytes)| bytes.clone()).collect();
    assert_eq!(bytes.last().unwrap(), &deregistration(POOL, 7));
    assert!(world.pools.is_empty());
    // T3 was stopped: nothing more happens.
    let said = world.said.len();
    world.run(s(100));
    assert_eq!((world.said.len(), state(&world)), (said, None));
}

/// Proves.
#[test]
fn a_registrar_that_does_not_answer_within_t3_is_replaced() {
    let mut world = leaving(2, |world| {
        let home = world.home().unwrap();
        world.registrar(home).life = Life::Frozen;
    });
    let took = world.run_until(s(35), has_left);
    assert!(took >= s(30), "T3 is 30 s: {took:?}");
    let left = said(&world, DEREGISTRATION);
    let (first, last) = (&left[0], left.last().unwrap());
    assert_eq!(last.1, 3 - first.1, "it starts over with the other one");
    assert_eq!(last.2, first.2);
}

/// Proves.
#[test]
fn a_registrar_that_cannot_be_reached_is_replaced() {
    let mut world = leaving(2, |world| {
        let home = world.home().unwrap();
        world.registrar(home).life = Life::Frozen;
    });
    let home = world.home().unwrap();
    world.kill(home, true);
    let took = world.run_until(s(2), has_left);
    assert!(took < s(2), "not by T3: {took:?}");
    assert_eq!(said(&world, DEREGISTRATION).last().unwrap().1, 3 - home);
}

/// Proves A-071.
#[test]
fn the_response_stops_t3() {
    let mut world = leaving(2, |_| {});
    world.run_until(s(1), has_left);
    let (hunts, home) = (world.client.counters().hunts, world.home());
    world.run(s(90));
    assert_eq!((world.client.counters().hunts, world.home()), (hunts, home));
    assert_eq!(said(&world, DEREGISTRATION).len(), 1);
}

/// An element that is still registering waits for nothing either: it leaves all the same.
///
/// Proves A-067.
#[test]
fn an_element_whose_registration_is_not_answered_yet_leaves_as_well() {
    let mut world = element_before(1, ElementsConfig::rfc());
    world.run_until(s(1), |world| !said(world, REGISTRATION).is_empty());
    world.command(Command::Deregister(ElementKey { handle: pool(), pe_id: PeId(7) }));
    world.run(ms(100));
    assert!(has_left(&world));
    assert_eq!(world.said.last().unwrap().2, deregistration(POOL, 7));
    assert!(world.pools.is_empty());
}
