//! Section 3.3 at the one who asks, and what 2.2.6 says of reading answers. Timers as section 7 has them.

use std::time::{Duration, Instant};

use dialtone_asap_client::ClientConfig;
use dialtone_asap_client::core::Either;
use dialtone_pool_element::{Command as ElementCommand, Elements, ElementsConfig};
use dialtone_pool_user::{Command, ResolveError, Users, UsersConfig};
use dialtone_wire::PolicyType;

use crate::client_world::{self, Life, World, ms, remotes};
use crate::lab::bytes::*;
use crate::lab::clients::{POOL, element, outcome, pool, said};

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A user that knows so many registrars; element 1 is in the pool.
#[expect(clippy::disallowed_methods, reason = "virtual time starts at any instant")]
fn user(registrars: u8) -> World<Users> {
    let config = ClientConfig::rfc(remotes(1..=registrars));
    let mut world = World::with(Instant::now(), config, registrars, Users::new(UsersConfig::rfc()));
    world.add(POOL, client_world::element(1));
    world
}

fn at_home(registrars: u8) -> World<Users> {
    let mut world = user(registrars);
    world.run_until(s(1), |world| world.home().is_some());
    world
}

fn ask(world: &mut World<Users>, id: u64) {
    world.command(Command::Resolve { id, handle: pool() });
}

/// When requests were sent, in seconds, and to whom.
fn requests(world: &World<Users>) -> Vec<(u64, u8)> {
    said(world, HANDLE_RESOLUTION).iter().map(|(at, n, _)| (at.as_secs(), *n)).collect()
}

/// Proves.
#[test]
fn it_hunts_asks_for_the_handle_and_takes_the_answer() {
    let mut world = user(1);
    world.registrar(1).life = Life::Refusing;
    ask(&mut world, 1);
    world.run(s(9));
    assert_eq!(world.said, []);
    world.registrar(1).life = Life::Alive;
    world.run_until(s(20), |world| outcome(world, 1).is_some());
    let request = &said(&world, HANDLE_RESOLUTION)[0].2;
    let first = request.tlvs().remove(0);
    assert_eq!(first.bytes(), handle(POOL));
    let view = outcome(&world, 1).unwrap().clone().unwrap();
    assert_eq!(view.order.iter().map(|id| id.0).collect::<Vec<_>>(), [1]);
    // With a home there is nothing to hunt for.
    let hunts = world.client.counters().hunts;
    world.run(s(60));
    ask(&mut world, 2);
    world.run(ms(10));
    assert!(outcome(&world, 2).is_some());
    assert_eq!(world.client.counters().hunts, hunts);
}

/// Proves.
#[test]
fn an_element_asks_over_the_association_that_it_registered_with() {
    let roles = (Elements::new(ElementsConfig::rfc()), Users::new(UsersConfig::rfc()));
    let mut world = World::new(3, roles);
    world.command(Either::First(ElementCommand::Register(element(7))));
    world.command(Either::Second(Command::Resolve { id: 1, handle: pool() }));
    world.run(s(5));
    assert_eq!(world.connects.len(), 3, "the attempts of one hunt");
    let (registration, request) = (said(&world, REGISTRATION), said(&world, HANDLE_RESOLUTION));
    assert_eq!(registration[0].1, request[0].1);
    assert!(!said(&world, KEEP_ALIVE_ACK).is_empty(), "and is an element meanwhile");
    assert!(world.events.iter().any(|(_, event)| matches!(event, Either::Second(_))));
}

/// Proves.
#[test]
fn a_request_is_sent_again_when_t1_expires_and_given_up_after_max_request_retransmit() {
    let mut world = at_home(1);
    world.registrar(1).ignores_resolutions = true;
    ask(&mut world, 1);
    let hunts = world.client.counters().hunts;
    world.run(s(44));
    assert_eq!(requests(&world), [(0, 1), (15, 1), (30, 1)]);
    assert_eq!(world.client.counters().hunts, hunts + 2, "a hunt beside each");
    assert_eq!(outcome(&world, 1), None);
    world.run(s(2));
    assert_eq!(outcome(&world, 1), Some(&Err(ResolveError::NoRegistrar)));
    // It is discarded: nothing is asked for it any more.
    world.run(s(200));
    assert_eq!(requests(&world).len(), 3);
}

/// Proves A-131.
#[test]
fn a_registrar_that_answers_the_hunt_is_adopted_and_asked() {
    let mut world = at_home(2);
    let home = world.home().unwrap();
    world.registrar(home).ignores_resolutions = true;
    ask(&mut world, 1);
    world.run_until(s(16), |world| outcome(world, 1).is_some());
    assert_eq!(world.home(), Some(3 - home));
    assert_eq!(requests(&world), [(0, home), (15, home), (15, 3 - home)]);
    let said = said(&world, HANDLE_RESOLUTION);
    assert_eq!(said[0].2, said[2].2, "the same request");
}

/// Proves.
#[test]
fn a_request_that_could_not_be_delivered_is_made_anew_for_the_next_home() {
    let mut world = at_home(2);
    let home = world.home().unwrap();
    world.registrar(home).life = Life::Frozen;
    ask(&mut world, 1);
    world.kill(home, true);
    let took = world.run_until(s(1), |world| outcome(world, 1).is_some());
    assert!(took < s(1), "not by T1: {took:?}");
    assert_eq!(requests(&world), [(0, home), (0, 3 - home)], "once each");
    let said = said(&world, HANDLE_RESOLUTION);
    assert_eq!(said[0].2, said[1].2);
    world.run(s(60));
    assert_eq!(requests(&world).len(), 2);
}

/// Proves A-083.
#[test]
fn the_response_stops_t1() {
    let mut world = at_home(2);
    ask(&mut world, 1);
    world.run(ms(10));
    assert!(outcome(&world, 1).is_some());
    let hunts = world.client.counters().hunts;
    world.run(s(60));
    assert_eq!((requests(&world).len(), world.client.counters().hunts), (1, hunts));
}

/// Proves.
#[test]
fn fresh_answers_are_used_again_and_stale_ones_are_asked_for() {
    let mut world = at_home(1);
    ask(&mut world, 1);
    world.run(ms(10));
    for id in 2..10 {
        ask(&mut world, id);
        assert!(world.run_until(ms(1), |world| outcome(world, id).is_some()).is_zero());
    }
    assert_eq!(requests(&world).len(), 1, "from the cache");
    // stale.cache.value is 30 s here. Whoever asks then waits for what is true then.
    world.add(POOL, client_world::element(2));
    world.run(s(31));
    ask(&mut world, 10);
    assert_eq!(outcome(&world, 10), None);
    world.run(ms(10));
    assert_eq!(outcome(&world, 10).unwrap().clone().unwrap().order.len(), 2);
    assert_eq!(requests(&world).len(), 2);
}

/// The answer of a registrar: the pool's policy, and the policies of two elements.
fn answer(overall: Option<Vec<u8>>, policies: [Vec<u8>; 2]) -> Vec<u8> {
    let mut parts = vec![handle(POOL)];
    parts.extend(overall);
    for (id, policy) in (1..).zip(policies) {
        parts.push(Pe { policy, ..Pe::new(id, "127.0.0.61".parse().unwrap()) }.tlv());
    }
    message(HANDLE_RESOLUTION_RESPONSE, 0, &parts)
}

/// Proves.
#[test]
fn the_pool_s_policy_is_what_the_answer_says_not_what_its_elements_do() {
    for (overall, policies, expected) in [
        (None, [policy(PRIORITY, &[1]), policy(PRIORITY, &[2])], PolicyType::ROUND_ROBIN),
        (
            Some(policy(RANDOM, &[])),
            [policy(PRIORITY, &[1]), policy(ROUND_ROBIN, &[])],
            PolicyType::RANDOM,
        ),
        (
            Some(policy(LEAST_USED, &[0])),
            [policy(LEAST_USED, &[5]), policy(RANDOM, &[])],
            PolicyType::LEAST_USED,
        ),
    ] {
        let mut world = at_home(1);
        world.registrar(1).ignores_resolutions = true;
        ask(&mut world, 1);
        let assoc = world.client.home().unwrap().assoc;
        world.deliver(assoc, answer(overall, policies));
        world.run(ms(10));
        let view = outcome(&world, 1).unwrap().clone().unwrap();
        assert_eq!((view.policy, view.members.len()), (expected, 2));
    }
    // An Operation Error is a negative answer.
    let mut world = at_home(1);
    world.registrar(1).ignores_resolutions = true;
    ask(&mut world, 1);
    let assoc = world.client.home().unwrap().assoc;
    let error = tlv(OPERATION_ERROR, &tlv(0x9, &[]));
    world.deliver(assoc, message(HANDLE_RESOLUTION_RESPONSE, 0, &[handle(POOL), error]));
    world.run(ms(10));
    assert_eq!(outcome(&world, 1), Some(&Err(ResolveError::UnknownPool)));
}

/// Proves A-013.
#[test]
fn a_new_home_is_asked_to_subscribe_again() {
    let mut world = at_home(2);
    world.command(Command::Watch(pool()));
    world.run(s(1));
    let home = world.home().unwrap();
    world.kill(home, true);
    world.run_until(s(1), |world| world.home() == Some(3 - home));
    world.run(ms(10));
    let flags: Vec<(u8, u8)> =
        said(&world, HANDLE_RESOLUTION).iter().map(|(_, n, request)| (*n, request.flags)).collect();
    assert_eq!(flags, [(home, 1), (3 - home, 1)]);
}
