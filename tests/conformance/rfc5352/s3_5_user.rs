//! Section 3.5 at the one who cannot reach an element.

use std::time::Duration;

use dialtone_asap_client::core::Either;
use dialtone_pool_element::{Command as ElementCommand, Elements, ElementsConfig};
use dialtone_pool_user::{Command, Users, UsersConfig};
use dialtone_wire::PeId;

use crate::client_world::{self, World, ms};
use crate::lab::bytes::*;
use crate::lab::clients::{POOL, element, pool, said};

fn report(pe_id: u32) -> Command {
    Command::ReportUnreachable { handle: pool(), pe_id: PeId(pe_id) }
}

/// Proves.
#[test]
fn a_failure_is_reported_once() {
    let mut world = World::new(1, Users::new(UsersConfig::rfc()));
    for id in [1, 2] {
        world.add(POOL, client_world::element(id));
    }
    world.command(Command::Watch(pool()));
    world.run(ms(100));
    // Every call that fails notices the same failure.
    for _ in 0..50 {
        world.command(report(1));
        world.run(ms(10));
    }
    let all: Vec<_> = said(&world, UNREACHABLE).into_iter().map(|(.., report)| report).collect();
    assert_eq!(all, [Message::read(&unreachable(POOL, 1))]);
    // Another element is another failure; so is the next one of an element that answered in between.
    world.command(report(2));
    world.command(Command::Trust { handle: pool(), pe_id: PeId(1) });
    world.command(report(1));
    world.run(ms(10));
    let ids: Vec<u32> =
        said(&world, UNREACHABLE).iter().map(|(.., m)| m.find(PE_ID).unwrap().word(0)).collect();
    assert_eq!(ids, [1, 2, 1]);
}

/// Proves A-098.
#[test]
fn an_element_reports_over_its_sctp_association() {
    let roles = (Elements::new(ElementsConfig::rfc()), Users::new(UsersConfig::rfc()));
    let mut world = World::new(3, roles);
    world.add(POOL, client_world::element(1));
    world.command(Either::First(ElementCommand::Register(element(7))));
    world.command(Either::Second(Command::Watch(pool())));
    world.run(Duration::from_secs(1));
    let (attempts, home) = (world.connects.len(), world.home().unwrap());
    world.command(Either::Second(report(1)));
    world.run(ms(100));
    let reports = said(&world, UNREACHABLE);
    assert_eq!((reports.len(), reports[0].1), (1, home));
    assert_eq!(said(&world, REGISTRATION)[0].1, home);
    assert_eq!(world.connects.len(), attempts, "nothing else was dialled");
}
