//! Section 4: which messages registrars, elements and users deal with.

use std::time::Duration;

use dialtone_pool_element::{Command as ElementCommand, ElementKey, ElementsConfig};
use dialtone_pool_user::{Command, Users, UsersConfig};
use dialtone_wire::PeId;

use crate::client_world::{self, World, ms};
use crate::lab::bytes::*;
use crate::lab::clients::{POOL, element_before, is_registered, outcome, pool, said};
use crate::lab::registrars::Lab;

/// An ERROR that says nothing in particular.
fn error() -> Vec<u8> {
    message(ERROR, 0, &[tlv(OPERATION_ERROR, &tlv(0x0, &[]))])
}

/// Proves.
#[test]
fn users_resolve_and_bear_errors() {
    let mut world = World::new(1, Users::new(UsersConfig::rfc()));
    world.add(POOL, client_world::element(1));
    world.run(ms(100));
    let assoc = world.client.home().unwrap().assoc;
    world.deliver(assoc, error());
    world.run(ms(10));
    assert_eq!(world.client.counters().errors_received, 1);
    assert_eq!((world.home(), world.said.len()), (Some(1), 0), "no answer, and no reason to leave");
    world.command(Command::Resolve { id: 1, handle: pool() });
    world.run(ms(10));
    assert_eq!(said(&world, HANDLE_RESOLUTION).len(), 1);
    assert_eq!(outcome(&world, 1).unwrap().as_ref().unwrap().members.len(), 1);
}

/// Proves.
#[test]
fn elements_register_answer_leave_and_bear_errors() {
    let mut world = element_before(1, ElementsConfig::rfc());
    world.run_until(Duration::from_secs(1), is_registered);
    let assoc = world.client.home().unwrap().assoc;
    world.deliver(assoc, error());
    world.deliver(assoc, message(KEEP_ALIVE, 0, &[word(1), handle(POOL)]));
    world.run(ms(10));
    assert_eq!(world.client.counters().errors_received, 1);
    assert_eq!(said(&world, KEEP_ALIVE_ACK).len(), 1);
    assert!(is_registered(&world));
    world.command(ElementCommand::Deregister(ElementKey { handle: pool(), pe_id: PeId(7) }));
    world.run(ms(10));
    assert_eq!(world.said.last().unwrap().2, deregistration(POOL, 7));
    assert!(world.pools.is_empty());
}

/// Proves.
#[test]
fn registrars_register_watch_remove_and_bear_errors() {
    let mut lab = Lab::new(1);
    let (element, user) = (lab.sctp(9, 1), lab.sctp(10, 1));
    let answer = lab.ask(element, registration(POOL, &Pe::new(7, element.ip())));
    assert_eq!((answer.kind, answer.flags), (REGISTRATION_RESPONSE, 0));
    lab.run(ms(150));
    assert_eq!(lab.answers(user, error()), []);
    lab.say(user, unreachable(POOL, 7));
    lab.run(ms(5));
    assert_eq!(lab.keep_alives(element).len(), 1);
    // The answer is what keeps it: without it the element would be gone after 1.25 s.
    lab.ack(element, POOL, 7);
    lab.run(ms(400));
    lab.ack(element, POOL, 7);
    lab.run(ms(1000));
    assert!(lab.has(1, POOL, 7) && lab.world.element(user).is_connected());
    assert_eq!(lab.ask(element, deregistration(POOL, 7)).kind, DEREGISTRATION_RESPONSE);
    assert!(!lab.has(1, POOL, 7));
}
