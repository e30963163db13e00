//! Registration life cycle (RFC 5352 sections 3.1, 3.2, 3.4) against scripted registrars in virtual time.

#[path = "../../asap-client/tests/common/mod.rs"]
mod common;

use common::{Life, Seen, World, ms};
use dialtone_handlespace::Handle;
use dialtone_pool_element::{
    Command, ElementConfig, ElementKey, Elements, ElementsConfig, State, StateChange,
};
use dialtone_transport::model::AssocId;
use dialtone_wire::asap::Message;
use dialtone_wire::{CauseCode, PeId, Policy};

const POOL: &str = "sip-proxy";

fn handle(name: &str) -> Handle {
    Handle::new(name).unwrap()
}

fn key(pe_id: u32) -> ElementKey {
    ElementKey { handle: handle(POOL), pe_id: PeId(pe_id) }
}

fn config(pe_id: u32) -> ElementConfig {
    ElementConfig::tcp(handle(POOL), PeId(pe_id), "127.0.0.61:5070".parse().unwrap())
}

fn world(registrars: u8) -> World<Elements> {
    World::new(registrars, Elements::new(ElementsConfig::telephony()))
}

/// With one element in its pool, in the steady state.
fn registered(registrars: u8) -> World<Elements> {
    let mut world = world(registrars);
    world.command(Command::Register(config(1)));
    world.run_until(ms(100), |world| is_registered(world, 1));
    world.run(ms(2500));
    world
}

fn is_registered(world: &World<Elements>, pe_id: u32) -> bool {
    matches!(world.client.role().state(&key(pe_id)), Some(State::Registered { .. }))
}

fn registrations(world: &World<Elements>) -> usize {
    world.count(|seen| matches!(seen, Seen::Registration { .. }))
}

fn registrations_at(world: &World<Elements>, n: u8) -> usize {
    world
        .seen
        .iter()
        .filter(|(_, at, seen)| *at == n && matches!(seen, Seen::Registration { .. }))
        .count()
}

fn last(world: &World<Elements>) -> &State {
    &world.events.last().unwrap().1.state
}

#[test]
fn registers_once_and_answers_probes_and_renews_before_the_life_ends() {
    let mut world = registered(3);
    assert_eq!(registrations(&world), 1);
    assert!(world.count(|seen| matches!(seen, Seen::Ack { .. })) >= 1);
    // A life of 30 s is renewed every 15 s.
    world.run(ms(40_000));
    assert_eq!(registrations(&world), 3);
    let states: Vec<_> = world.events.iter().map(|(_, change)| change.state.clone()).collect();
    assert_eq!(states.len(), 2, "{states:?}");
}

#[test]
fn several_elements_share_one_association_and_each_answers_a_probe() {
    let mut world = world(1);
    world.command(Command::Register(config(1)));
    world.command(Command::Register(config(2)));
    world.command(Command::Register(ElementConfig { handle: handle("sip-edge-tcp"), ..config(1) }));
    world.run(ms(1500));
    assert_eq!(world.connects.len(), 1);
    // One keep-alive for each pool: both elements of the one, the only one of the other (G10).
    let acks = |name: &str, pe| {
        world.count(
            |seen| matches!(seen, Seen::Ack { handle, pe_id } if handle == name && *pe_id == pe),
        )
    };
    assert_eq!((acks(POOL, 1), acks(POOL, 2), acks("sip-edge-tcp", 1)), (1, 1, 1));

    // RFC 5352 section 3.4 KA1: a handle that is not ours is dropped silently, even with H=1.
    let before = world.seen.len();
    world.registrar(1).probes = false;
    world.dial_and_probe(1, "somebody-else", true);
    world.run(ms(500));
    assert_eq!(world.seen.len(), before);
    assert_eq!(world.client.counters().adoptions, 0);
}

#[test]
fn a_home_that_does_not_answer_registrations_is_replaced_after_t2() {
    let mut world = world(2);
    world.run_until(ms(100), |world| world.home().is_some());
    let home = world.home().unwrap();
    world.registrar(home).life = Life::Frozen;
    world.command(Command::Register(config(1)));
    let took = world.run_until(ms(1200), |world| is_registered(world, 1));
    assert!(took >= ms(1000), "{took:?}");
    assert_ne!(world.home(), Some(home));
}

#[test]
fn without_another_registrar_the_element_waits_for_the_only_one() {
    let mut world = world(1);
    world.run_until(ms(100), |world| world.home().is_some());
    world.registrar(1).life = Life::Frozen;
    world.command(Command::Register(config(1)));
    world.run(ms(20_000));
    assert_eq!(last(&world), &State::Searching);
    world.thaw(1);
    world.run_until(ms(4200), |world| is_registered(world, 1));
}

/// By the values of the RFC, with a registrar that did not answer long enough and does now.
fn given_up() -> World<Elements> {
    let mut world =
        World::new(1, Elements::new(ElementsConfig { t2: ms(1000), ..ElementsConfig::rfc() }));
    world.run_until(ms(100), |world| world.home().is_some());
    world.registrar(1).life = Life::Frozen;
    world.command(Command::Register(config(1)));
    world.run(ms(20_000));
    assert_eq!(last(&world), &State::GaveUp);
    world.thaw(1);
    world
}

#[test]
fn by_the_values_of_the_rfc_it_reports_and_stops() {
    let mut world = given_up();
    let before = registrations(&world);
    world.run(ms(20_000));
    assert_eq!(registrations(&world), before);
    world.command(Command::Register(config(1)));
    world.run_until(ms(5000), |world| is_registered(world, 1));
}

#[test]
fn loss_of_the_home_with_evidence_is_healed_at_once() {
    let mut world = registered(3);
    let home = world.home().unwrap();
    world.kill(home, true);
    world.run_until(ms(20), |world| last(world) == &State::Searching);
    let took = world.run_until(ms(300), |world| is_registered(world, 1));
    assert!(took <= ms(150), "{took:?}");

    let home = world.home().unwrap();
    world.run(ms(2000));
    world.kill(home, false);
    world.suspect(home);
    world.run_until(ms(300), |world| world.home() != Some(home) && is_registered(world, 1));
}

#[test]
fn a_home_that_falls_silent_without_evidence_is_replaced_within_six_seconds() {
    for life in [Life::Dead, Life::Frozen] {
        let mut world = registered(3);
        let home = world.home().unwrap();
        world.registrar(home).life = life;
        let took = world
            .run_until(ms(6000), |world| world.home() != Some(home) && is_registered(world, 1));
        assert!(took <= ms(5000), "{life:?}: {took:?}");
    }
}

#[test]
fn a_claim_with_h_moves_the_elements_there_and_each_registers_once() {
    let mut world = registered(2);
    world.command(Command::Register(config(2)));
    world.run(ms(10_000));
    let former = world.home().unwrap();
    let other = 3 - former;
    let before = registrations_at(&world, other);
    world.registrar(former).life = Life::Frozen;
    world.dial_and_probe(other, POOL, true);
    let took = world.run_until(ms(500), |world| registrations_at(world, other) == before + 2);
    assert!(took <= ms(150), "{took:?}");
    assert_eq!(world.home(), Some(other));
    assert_eq!(world.client.counters().adoptions, 1);
    // The same registrar claims the other pools one by one: nothing more happens.
    world.run(ms(3000));
    assert_eq!(registrations_at(&world, other), before + 2);
    assert!(is_registered(&world, 1) && is_registered(&world, 2));
}

#[test]
fn a_claim_of_the_home_itself_makes_the_element_register_again() {
    // Whether it became the home long ago or has just done so.
    for since in [ms(1000), ms(10_000)] {
        let mut world = registered(2);
        world.run(since);
        let home = world.home().unwrap();
        let before = registrations_at(&world, home);
        let assoc = world.client.home().unwrap().assoc;
        world.probe(assoc, home, POOL.as_bytes(), true);
        world.run(ms(50));
        world.probe(assoc, home, POOL.as_bytes(), true);
        world.run(ms(500));
        assert_eq!(registrations_at(&world, home), before + 1);
        // It was taken from the home again, and is its own again: that is news, not to be forgotten.
        world.probe(assoc, home, POOL.as_bytes(), true);
        world.run(ms(500));
        assert_eq!(registrations_at(&world, home), before + 1, "not that often");
        world.run(ms(1500));
        assert_eq!(registrations_at(&world, home), before + 2);
        assert_eq!((world.home(), world.client.counters().adoptions), (Some(home), 0));
    }
}

#[test]
fn a_claim_that_crosses_the_registration_is_settled_by_it() {
    let mut world = registered(2);
    let home = world.home().unwrap();
    let before = registrations_at(&world, home);
    let assoc = world.client.home().unwrap().assoc;
    world.probe(assoc, home, POOL.as_bytes(), true);
    world.command(Command::Register(config(1)));
    world.run(ms(300));
    assert_eq!(registrations_at(&world, home), before + 1);
    world.probe(assoc, home, POOL.as_bytes(), true);
    world.run(ms(300));
    assert_eq!(registrations_at(&world, home), before + 2, "the next one is news");
}

#[test]
fn a_claim_that_is_older_news_is_answered_and_the_home_told_again() {
    let mut world = registered(3);
    let dead = world.home().unwrap();
    world.kill(dead, true);
    world.run_until(ms(300), |world| world.home() != Some(dead) && is_registered(world, 1));
    let home = world.home().unwrap();
    let winner = (1..=3).find(|n| *n != dead && *n != home).unwrap();
    let (before, acks) = (registrations_at(&world, home), world.seen.len());
    world.dial_and_probe(winner, POOL, true);
    world.run(ms(500));
    assert_eq!(world.home(), Some(home));
    assert_eq!(registrations_at(&world, home), before + 1);
    assert!(
        world.seen[acks..]
            .iter()
            .any(|(_, n, seen)| *n == winner && matches!(seen, Seen::Ack { .. }))
    );
}

#[test]
fn a_former_home_that_probes_on_makes_the_home_speak_but_not_flood() {
    let mut world = registered(2);
    world.run(ms(10_000));
    let home = world.home().unwrap();
    let before = registrations_at(&world, home);
    let assoc = world.dial_and_probe(3 - home, POOL, false);
    for _ in 0..20 {
        world.run(ms(100));
        world.probe(assoc, 3 - home, POOL.as_bytes(), false);
    }
    let sent = registrations_at(&world, home) - before;
    assert!((1..=2).contains(&sent), "{sent} in two seconds");
    assert_eq!(world.home(), Some(home));
}

/// The home's news of the registration under way may have crossed the former home's.
#[test]
fn a_former_home_that_probes_while_the_home_has_not_answered_makes_it_speak_again() {
    let mut world = registered(2);
    let home = world.home().unwrap();
    let before = registrations_at(&world, home);
    let assoc = world.dial(3 - home);
    world.run(ms(50));
    world.probe(assoc, 3 - home, POOL.as_bytes(), false);
    world.command(Command::Register(config(1)));
    world.run(ms(300));
    assert_eq!(registrations_at(&world, home), before + 2);
}

#[test]
fn an_element_that_was_removed_finds_out_after_three_silent_periods() {
    let mut world = registered(1);
    world.run(ms(4000));
    let before = registrations(&world);
    // Removed, and the association still up: nobody probes it any more.
    world.remove(POOL.as_bytes(), 1);
    let took = world.run_until(ms(3500), |world| registrations(world) > before);
    assert!(took >= ms(1900), "{took:?}");
    world.run(ms(100));
    assert!(world.pools[POOL.as_bytes()].contains_key(&1));
}

#[test]
fn expiry_told_by_the_registrar_leads_to_a_registration() {
    let mut world = registered(1);
    let assoc = world.client.home().unwrap().assoc;
    let before = registrations(&world);
    world.remove(POOL.as_bytes(), 1);
    world.reply(
        assoc,
        &Message::DeregistrationResponse {
            handle: handle(POOL).to_wire(),
            pe_id: PeId(1),
            error: None,
        },
    );
    world.run_until(ms(150), |world| registrations(world) == before + 1);
}

#[test]
fn policy_values_go_out_once_a_second_and_the_latest_counts() {
    let mut world = world(1);
    let load = |load| Policy::LeastUsed { load };
    world.command(Command::Register(config(1).with_policy(load(0))));
    world.run(ms(2000));
    let before = world.seen.len();
    for n in 1..=50 {
        world.command(Command::UpdatePolicy { key: key(1), policy: load(n) });
        world.run(ms(50));
    }
    world.run(ms(1500));
    let loads: Vec<_> = world.seen[before..]
        .iter()
        .filter_map(|(_, _, seen)| match seen {
            Seen::Registration { policy: Policy::LeastUsed { load }, .. } => Some(*load),
            _ => None,
        })
        .collect();
    assert!((3..=4).contains(&loads.len()), "{loads:?}");
    assert_eq!(loads.last(), Some(&50));
}

#[test]
fn a_rejection_is_reported_and_not_repeated() {
    let mut world = world(1);
    world.registrar(1).rejects = Some(CauseCode::INCONSISTENT_POLICY);
    world.command(Command::Register(config(1)));
    world.run(ms(60_000));
    assert_eq!(last(&world), &State::Rejected { causes: vec![CauseCode::INCONSISTENT_POLICY] });
    assert_eq!(registrations(&world), 1);
    // Corrected, it is tried again.
    world.registrar(1).rejects = None;
    world.command(Command::UpdatePolicy { key: key(1), policy: Policy::Random });
    world.run_until(ms(1100), |world| is_registered(world, 1));
}

/// Another registrar has the element in a pool of its policy, which the home's pool may have got from there meanwhile.
#[test]
fn who_is_refused_and_asked_as_a_member_asks_its_home_again() {
    for cause in [CauseCode::INCONSISTENT_POLICY, CauseCode::INVALID_VALUES] {
        let mut world = world(2);
        (1..=2).for_each(|n| world.registrar(n).rejects = Some(cause));
        world.command(Command::Register(config(1)));
        world.run(ms(5000));
        assert_eq!((last(&world), registrations(&world)), (&refused(cause), 1));
        let home = world.home().unwrap();
        (1..=2).for_each(|n| world.registrar(n).rejects = None);
        world.dial_and_probe(3 - home, POOL, false);
        world.run(ms(1000));
        let policy = cause == CauseCode::INCONSISTENT_POLICY;
        assert_eq!(is_registered(&world, 1), policy);
        assert_eq!((world.home(), registrations(&world)), (Some(home), 1 + usize::from(policy)));
    }
}

/// A home that stood still answers several copies of one registration, and its pool's policy may change in between.
#[test]
fn a_grant_that_follows_a_refusal_counts() {
    let mut world = world(1);
    world.registrar(1).rejects = Some(CauseCode::INCONSISTENT_POLICY);
    world.command(Command::Register(config(1)));
    world.run(ms(1000));
    assert_eq!(last(&world), &refused(CauseCode::INCONSISTENT_POLICY));
    let assoc = world.client.home().unwrap().assoc;
    answer(&mut world, assoc, false);
    world.run(ms(50));
    assert!(is_registered(&world, 1));
    assert_eq!(registrations(&world), 1);
    world.registrar(1).rejects = None;
    world.run_until(ms(60_000), |world| registrations(world) > 1);
}

/// Whoever changes a registration sees when the change has been granted.
#[test]
fn a_known_element_that_is_registered_anew_says_when_that_is_granted() {
    let mut world = registered(1);
    world.run(ms(5000));
    let before = world.events.len();
    let mut changed = config(1);
    changed.lifetime = ms(77_000);
    world.command(Command::Register(changed));
    assert_eq!(world.client.role().state(&key(1)), Some(&State::Registering));
    world.run(ms(20));
    let states: Vec<_> = world.events[before..].iter().map(|(_, change)| &change.state).collect();
    assert!(matches!(states[..], [State::Registering, State::Registered { .. }]), "{states:?}");
}

/// Who has given up is nobody's to wake, claims or not, and is heard of again when its registration is changed, also when
/// that was before there was a home.
#[test]
fn who_gave_up_registers_when_something_changes() {
    let mut world = given_up();
    world.run_until(ms(60_000), |world| world.home().is_some());
    let before = registrations(&world);
    world.dial_and_probe(1, POOL, true);
    // The home ends while the answer to the claim would still wait.
    world.run(ms(10));
    world.kill(1, true);
    world.run(ms(2000));
    assert_eq!((world.home(), registrations(&world)), (None, before), "nothing was changed");
    world.command(Command::UpdatePolicy { key: key(1), policy: Policy::Random });
    world.run(ms(2000));
    world.registrar(1).life = Life::Alive;
    world.run_until(ms(120_000), |world| is_registered(world, 1));
}

/// What was told over a slow association arrives after what was told over the next one, with the same registrar.
#[test]
fn a_late_grant_of_the_home_over_a_former_association_makes_the_element_register_again() {
    let mut world = registered(2);
    world.run(ms(10_000));
    let home = world.home().unwrap();
    let [former, elsewhere] = [home, 3 - home].map(|n| world.dial(n));
    world.run(ms(50));
    let before = registrations(&world);
    for (assoc, reject, more) in [(elsewhere, false, 0), (former, true, 0), (former, false, 1)] {
        answer(&mut world, assoc, reject);
        world.run(ms(200));
        assert_eq!(registrations_at(&world, home), before + more, "{assoc:?}, refused: {reject}");
    }
    assert_eq!((world.home(), registrations(&world)), (Some(home), before + 1));
}

/// A registrar answers a registration of element 1.
fn answer(world: &mut World<Elements>, assoc: AssocId, reject: bool) {
    let handle = handle(POOL);
    let (handle, pe_id) = (handle.to_wire(), PeId(1));
    world.reply(assoc, &Message::RegistrationResponse { reject, handle, pe_id, error: None });
}

fn refused(cause: CauseCode) -> State {
    State::Rejected { causes: vec![cause] }
}

#[test]
fn lack_of_resources_is_tried_again_with_growing_patience() {
    let mut world = world(1);
    world.registrar(1).rejects = Some(CauseCode::LACK_OF_RESOURCES);
    world.command(Command::Register(config(1)));
    world.run(ms(16_000));
    // At 0, 1, 3, 7, 15 s.
    assert_eq!(registrations(&world), 5);
    world.registrar(1).rejects = None;
    world.run_until(ms(17_000), |world| is_registered(world, 1));
}

#[test]
fn deregistration_completes_and_the_element_is_forgotten() {
    let mut world = registered(1);
    world.command(Command::Deregister(key(1)));
    let took =
        world.run_until(ms(100), |world| last(world) == &State::Deregistered { confirmed: true });
    assert!(took <= ms(5), "{took:?}");
    assert!(world.pools.is_empty());
    assert_eq!(world.client.role().state(&key(1)), None);
    let before = world.seen.len();
    world.run(ms(60_000));
    assert_eq!(world.seen.len(), before);
    // Whoever asks again gets an answer again.
    world.command(Command::Deregister(key(1)));
    world.run(ms(1));
    assert_eq!(
        world.events.last().unwrap().1,
        StateChange { key: key(1), state: State::Deregistered { confirmed: true } }
    );
}

#[test]
fn deregistration_finds_another_registrar_and_is_bounded() {
    let mut world = registered(2);
    let home = world.home().unwrap();
    world.registrar(home).life = Life::Frozen;
    world.command(Command::Deregister(key(1)));
    world.run_until(ms(1200), |world| last(world) == &State::Deregistered { confirmed: true });

    let mut world = registered(1);
    world.registrar(1).life = Life::Dead;
    world.command(Command::Deregister(key(1)));
    world.run_until(ms(3000), |world| last(world) == &State::Deregistered { confirmed: false });
}

#[test]
fn random_histories_end_registered() {
    for seed in 0..5_000 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut world = world(3);
        world.command(Command::Register(config(1)));
        for _ in 0..rng.u32(1..8) {
            world.run(ms(rng.u64(0..3000)));
            let n = rng.u8(1..=3);
            match rng.u8(0..8) {
                0 => world.kill(n, true),
                1 => world.kill(n, false),
                2 => world.registrar(n).life = Life::Frozen,
                3 => world.thaw(n),
                4 => drop(world.dial_and_probe(n, POOL, true)),
                5 => drop(world.dial_and_probe(n, POOL, false)),
                6 => world.remove(POOL.as_bytes(), 1),
                _ => world.suspect(n),
            }
        }
        for n in 1..=3 {
            world.thaw(n);
        }
        world.run(ms(10_000));
        assert!(is_registered(&world, 1), "seed {seed}");
        let (element, assoc) = &world.pools[POOL.as_bytes()][&1];
        assert_eq!(*assoc, world.client.home().map(|home| home.assoc), "seed {seed}");
        assert_eq!(element.home.0, u32::from(world.home().unwrap()), "seed {seed}");
        let before = registrations(&world);
        world.run(ms(5000));
        assert!(registrations(&world) <= before + 1, "seed {seed}: not quiet");
    }
}
