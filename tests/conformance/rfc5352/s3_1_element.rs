//! Section 3.1 at the element: how it registers, and goes on to be registered. Timers as section 7 has them.

use std::time::Duration;

use dialtone_pool_element::{Command, ElementConfig, ElementKey, ElementsConfig, State, pe_id};
use dialtone_wire::{CauseCode, PeId, Policy};

use crate::client_world::{Life, World, ms};
use crate::lab::bytes::*;
use crate::lab::clients::{element, element_before, is_registered, pool, said, state};

type Elements = World<dialtone_pool_element::Elements>;

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Element 7, registered with one of so many registrars.
fn registered(registrars: u8) -> Elements {
    let mut world = element_before(registrars, ElementsConfig::rfc());
    world.run_until(s(1), is_registered);
    world
}

/// When registrations were sent, in whole seconds.
fn registrations(world: &Elements) -> Vec<u64> {
    said(world, REGISTRATION).iter().map(|(at, ..)| at.as_secs()).collect()
}

fn again(world: &mut Elements, change: impl FnOnce(&mut ElementConfig)) {
    let mut config = element(7);
    change(&mut config);
    world.command(Command::Register(config));
}

/// Proves.
#[test]
fn a_registration_says_all_that_it_has_to() {
    let mut world = World::new(1, dialtone_pool_element::Elements::new(ElementsConfig::rfc()));
    again(&mut world, |config| {
        config.lifetime = s(300);
        config.policy = Policy::WeightedRoundRobin { weight: 5 };
    });
    world.run_until(s(1), is_registered);
    let element = Pe {
        life: 300,
        transport: transport(TCP, "127.0.0.61:5060".parse().unwrap(), 0),
        policy: policy(0x2, &[5]),
        ..Pe::new(7, "127.0.0.61".parse().unwrap())
    };
    let bytes: Vec<_> = world.said.iter().map(|(.., bytes)| bytes.clone()).collect();
    assert_eq!(bytes, [registration("echo", &element)]);
}

/// Proves A-029.
#[test]
fn identifiers_are_good_random_numbers() {
    let mut ids: Vec<u32> = (0..1000).map(|_| pe_id::random().unwrap().0).collect();
    for bit in 0..32 {
        let ones = ids.iter().filter(|id| *id >> bit & 1 == 1).count();
        // Six standard deviations.
        assert!((405..=595).contains(&ones), "bit {bit}: {ones} of 1000");
    }
    ids.sort_unstable();
    ids.dedup();
    assert!(ids.len() >= 999 && ids[0] != 0, "{}", ids.len());
}

/// Proves.
#[test]
fn without_a_home_it_hunts_before_it_registers() {
    let mut world = World::new(5, dialtone_pool_element::Elements::new(ElementsConfig::rfc()));
    world.set_all(Life::Dead);
    world.command(Command::Register(element(7)));
    world.run(s(10));
    assert_eq!(world.said, []);
    assert!(!world.connects.is_empty());
    world.registrar(4).life = Life::Alive;
    world.run_until(s(10), is_registered);
    let to: Vec<u8> = world.said.iter().map(|(_, n, _)| *n).collect();
    assert_eq!((to, world.home()), (vec![4], Some(4)));
}

/// Proves.
#[test]
fn a_registrar_that_does_not_answer_within_t2_is_replaced() {
    let mut world = World::new(2, dialtone_pool_element::Elements::new(ElementsConfig::rfc()));
    world.run_until(s(1), |world| world.home().is_some());
    let home = world.home().unwrap();
    world.registrar(home).life = Life::Frozen;
    world.command(Command::Register(element(7)));
    let took = world.run_until(s(31), is_registered);
    assert!(took >= s(30), "T2 is 30 s: {took:?}");
    assert_eq!(world.home(), Some(3 - home));
    let all = said(&world, REGISTRATION);
    let last = all.last().unwrap();
    assert_eq!((last.1, &last.2), (3 - home, &all[0].2), "it starts over with the other one");
}

/// Proves.
#[test]
fn a_registrar_that_cannot_be_reached_is_replaced() {
    let mut world = World::new(2, dialtone_pool_element::Elements::new(ElementsConfig::rfc()));
    world.run_until(s(1), |world| world.home().is_some());
    let home = world.home().unwrap();
    world.registrar(home).life = Life::Frozen;
    world.command(Command::Register(element(7)));
    world.kill(home, true);
    let took = world.run_until(s(1), is_registered);
    assert!(took < s(1), "not by T2: {took:?}");
    assert_eq!(said(&world, REGISTRATION).last().unwrap().1, 3 - home);
}

/// Proves A-037.
#[test]
fn the_response_stops_t2() {
    let mut world = World::new(2, dialtone_pool_element::Elements::new(ElementsConfig::rfc()));
    again(&mut world, |config| config.lifetime = s(600));
    world.run_until(s(1), is_registered);
    let (hunts, home) = (world.client.counters().hunts, world.home());
    world.run(s(120));
    assert_eq!(registrations(&world), [0]);
    assert_eq!((world.client.counters().hunts, world.home()), (hunts, home));
}

/// Proves.
#[test]
fn it_registers_again_when_t4_expires_and_before_its_life_ends() {
    for (life, t4) in [(30, 15), (60, 40), (600, 580), (3600, 600)] {
        let mut world = World::new(1, dialtone_pool_element::Elements::new(ElementsConfig::rfc()));
        again(&mut world, |config| config.lifetime = s(life));
        world.run(s(3 * t4 + 1));
        assert_eq!(registrations(&world), [0, t4, 2 * t4, 3 * t4]);
        let all = said(&world, REGISTRATION);
        assert!(
            all.iter().all(|(.., message)| *message == all[0].2),
            "the same identifier, and all else"
        );
        let states = world.events.iter().map(|(_, change)| &change.state);
        assert_eq!(states.filter(|state| matches!(state, State::Registered { .. })).count(), 1);
    }
}

/// Proves.
#[test]
fn a_rejection_is_reported_and_nothing_tried_until_it_is_corrected() {
    for cause in [CauseCode::INCONSISTENT_POLICY, CauseCode::INVALID_VALUES, CauseCode::SECURITY] {
        let mut world = element_before(1, ElementsConfig::rfc());
        world.registrar(1).rejects = Some(cause);
        world.run(s(3600));
        assert_eq!(registrations(&world), [0]);
        assert_eq!(state(&world), Some(&State::Rejected { causes: vec![cause] }));
        assert_eq!(world.events.last().unwrap().1.state, State::Rejected { causes: vec![cause] });
        world.registrar(1).rejects = None;
        again(&mut world, |config| config.policy = Policy::Random);
        world.run_until(s(1), is_registered);
    }
}

/// Proves.
#[test]
fn policy_values_and_lifetime_change_at_any_time() {
    let mut world = registered(1);
    world.run(s(2));
    let key = ElementKey { handle: pool(), pe_id: PeId(7) };
    world.command(Command::UpdatePolicy { key, policy: Policy::Priority { priority: 9 } });
    again(&mut world, |config| {
        config.policy = Policy::Priority { priority: 9 };
        config.lifetime = s(99);
    });
    world.run(s(1));
    let said = said(&world, REGISTRATION);
    assert!(said.len() >= 2);
    let element = said.last().unwrap().2.find(POOL_ELEMENT).unwrap();
    assert_eq!((element.word(0), element.word(8)), (7, 99));
    assert_eq!(element.behind(12)[1].bytes(), policy(PRIORITY, &[9]));
}

/// Proves.
#[test]
fn after_max_reg_attempt_it_reports_and_stops() {
    let mut world = element_before(1, ElementsConfig::rfc());
    world.run_until(s(1), is_registered);
    // Life 30 s: T4 after 15. Then nothing but silence: MAX-REG-ATTEMPT is 2, the third failure exceeds it.
    world.registrar(1).life = Life::Frozen;
    world.run(s(200));
    assert_eq!(registrations(&world), [0, 15, 45, 75]);
    assert_eq!(state(&world), Some(&State::GaveUp));
    let given_up = world.events.last().unwrap();
    assert_eq!((given_up.0.as_secs(), &given_up.1.state), (105, &State::GaveUp));
    // Whoever starts it again starts the count again.
    world.thaw(1);
    world.run(ms(5000));
    again(&mut world, |_| {});
    world.run_until(s(10), is_registered);
    world.registrar(1).life = Life::Frozen;
    let before = registrations(&world).len();
    world.run(s(110));
    assert_eq!(registrations(&world).len(), before + 3);
    assert_eq!(state(&world), Some(&State::GaveUp));
}
