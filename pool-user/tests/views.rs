//! Resolution, subscriptions and reports (RFC 5352 sections 3.3, 3.5, 3.7.2) against scripted registrars in virtual
//! time.

#[path = "../../asap-client/tests/common/mod.rs"]
mod common;

use std::sync::Arc;

use common::{Life, Seen, World, element, ms};
use dialtone_asap_client::core::Either;
use dialtone_handlespace::Handle;
use dialtone_pool_element::{Command as ElementCommand, ElementConfig, Elements, ElementsConfig};
use dialtone_pool_user::{Command, Event, Freshness, ResolveError, Users, UsersConfig, View};
use dialtone_wire::{PeId, Policy, PolicyType};

const POOL: &str = "sip-proxy";

fn pool() -> Handle {
    Handle::new(POOL).unwrap()
}

fn world(registrars: u8) -> World<Users> {
    World::new(registrars, Users::new(UsersConfig::telephony()))
}

/// Watching a pool of elements 1 and 2, in the steady state.
fn watching(registrars: u8) -> World<Users> {
    let mut world = world(registrars);
    world.add(POOL, element(1));
    world.add(POOL, element(2));
    world.command(Command::Watch(pool()));
    world.run_until(ms(100), |world| view(world).freshness == Freshness::Fresh);
    world.run(ms(500));
    world
}

fn view(world: &World<Users>) -> &Arc<View> {
    world.client.role().view(&pool()).unwrap()
}

fn ids(view: &View) -> Vec<u32> {
    view.members.iter().map(|member| member.pe_id.0).collect()
}

fn resolutions(world: &World<Users>) -> usize {
    world.count(|seen| matches!(seen, Seen::Resolution { .. }))
}

fn reports(world: &World<Users>) -> usize {
    world.count(|seen| matches!(seen, Seen::Unreachable { .. }))
}

fn answer(world: &World<Users>, id: u64) -> Option<Result<Arc<View>, ResolveError>> {
    world.events.iter().find_map(|(_, event)| match event {
        Event::Resolved { id: answered, outcome } if *answered == id => Some(outcome.clone()),
        _ => None,
    })
}

/// The registrar of these tests insists on being asked for all elements.
///
/// Proves L-023, L-033.
#[test]
fn membership_is_pushed_and_versioned_apart_from_policy_values() {
    let mut world = watching(1);
    assert_eq!(ids(view(&world)), [1, 2]);
    assert!(view(&world).complete);
    let version = view(&world).version;

    world.add(POOL, element(3));
    let took = world.run_until(ms(100), |world| ids(view(world)) == [1, 2, 3]);
    assert!(took <= ms(2), "{took:?}");
    assert_eq!(view(&world).version, version + 1);

    for pe_id in 1..=3 {
        let policy = Policy::LeastUsed { load: 100 - pe_id };
        world.add(POOL, dialtone_wire::PoolElement { policy, ..element(pe_id) });
    }
    world.run_until(ms(100), |world| view(world).policy == PolicyType::LEAST_USED);
    world.run(ms(10));
    assert_eq!(view(&world).version, version + 1);
    assert_eq!(view(&world).member(PeId(3)).unwrap().policy.load(), Some(97));

    world.remove(POOL.as_bytes(), 2);
    world.run_until(ms(100), |world| ids(view(world)) == [1, 3]);
    assert_eq!(view(&world).version, version + 2);
    // The last ones go: the registrar that named them says so, and is believed at once.
    world.remove(POOL.as_bytes(), 1);
    world.remove(POOL.as_bytes(), 3);
    world.run_until(ms(100), |world| view(world).freshness == Freshness::Absent);
    assert_eq!(ids(view(&world)), [0; 0]);
}

#[test]
fn a_quiet_pool_costs_one_question_per_refresh() {
    let mut world = watching(1);
    let (before, events) = (resolutions(&world), world.events.len());
    world.run(ms(30_000));
    assert_eq!(resolutions(&world) - before, 10);
    assert_eq!(world.events.len(), events, "nothing changed, nothing to tell");
}

#[test]
fn an_unknown_pool_is_asked_for_until_it_appears() {
    let mut world = world(1);
    world.command(Command::Watch(pool()));
    world.run(ms(3000));
    assert_eq!(view(&world).freshness, Freshness::Absent);
    assert_eq!(resolutions(&world), 6);
    world.add(POOL, element(7));
    world.run_until(ms(510), |world| ids(view(world)) == [7]);
    // From here on by subscription.
    world.add(POOL, element(8));
    world.run_until(ms(5), |world| ids(view(world)) == [7, 8]);
}

#[test]
fn the_last_view_outlives_all_registrars() {
    let mut world = watching(3);
    let version = view(&world).version;
    for n in 1..=3 {
        world.kill(n, true);
    }
    world.run_until(ms(100), |world| view(world).is_stale());
    let Freshness::Stale { since } = view(&world).freshness else { panic!("stale") };
    world.run(ms(3_600_000));
    assert_eq!(view(&world).freshness, Freshness::Stale { since });
    assert_eq!((ids(view(&world)), view(&world).version), (vec![1, 2], version));

    // A registrar that starts anew knows nothing for a moment: its ignorance empties nothing.
    let former = std::mem::take(&mut world.pools);
    world.registrar(2).life = Life::Alive;
    world.run_until(ms(4100), |world| world.home() == Some(2));
    world.run(ms(1000));
    assert_eq!(ids(view(&world)), [1, 2]);
    assert!(view(&world).is_stale());
    world.pools = former;
    world.run_until(ms(600), |world| view(world).freshness == Freshness::Fresh);
    assert_eq!(view(&world).version, version);
}

#[test]
fn members_that_a_new_home_does_not_name_yet_stay_known_for_a_while() {
    let mut world = watching(2);
    let version = view(&world).version;
    let home = world.home().unwrap();
    let both = world.pools.clone();
    world.pools.get_mut(POOL.as_bytes()).unwrap().remove(&2);
    world.kill(home, true);
    world.run_until(ms(100), |world| world.home() == Some(3 - home) && !view(world).is_stale());
    assert_eq!((ids(view(&world)), view(&world).version), (vec![1, 2], version));
    assert_eq!(*view(&world).order, [PeId(1)], "but selection prefers who is named");
    // It registers there, and leaves in order: now it is known to be gone.
    world.run(ms(1000));
    world.pools = both;
    world.add(POOL, element(2));
    world.run_until(ms(5), |world| view(world).order.len() == 2);
    world.remove(POOL.as_bytes(), 2);
    world.run_until(ms(5), |world| ids(view(world)) == [1]);

    // One that does not come back is forgotten.
    let mut world = watching(2);
    let home = world.home().unwrap();
    world.pools.get_mut(POOL.as_bytes()).unwrap().remove(&2);
    world.kill(home, true);
    let took = world.run_until(ms(3100), |world| ids(view(world)) == [1]);
    assert!(took >= ms(3000), "{took:?}");
    assert_eq!(view(&world).version, version + 1);
}

#[test]
fn ignorance_that_lasts_is_believed() {
    let mut world = watching(2);
    let home = world.home().unwrap();
    world.pools.clear();
    world.kill(home, true);
    world.run_until(ms(100), |world| world.home() == Some(3 - home));
    world.run(ms(2900));
    assert_eq!(ids(view(&world)), [1, 2]);
    world.run(ms(200));
    assert_eq!(view(&world).freshness, Freshness::Absent);
}

#[test]
fn a_new_home_is_asked_to_subscribe_again() {
    let mut world = watching(2);
    let home = world.home().unwrap();
    world.kill(home, true);
    world.run_until(ms(100), |world| world.home() == Some(3 - home) && !view(world).is_stale());
    world.add(POOL, element(3));
    world.run_until(ms(5), |world| ids(view(world)) == [1, 2, 3]);
}

#[test]
fn a_frozen_home_is_noticed_by_the_refresh() {
    let mut world = watching(2);
    let home = world.home().unwrap();
    world.registrar(home).life = Life::Frozen;
    world.add(POOL, element(3));
    let took = world.run_until(ms(5000), |world| ids(view(world)) == [1, 2, 3]);
    assert!(took <= ms(4100), "{took:?}");
    assert_ne!(world.home(), Some(home));
    // What the former home says later is old news.
    let version = view(&world).version;
    world.thaw(home);
    world.run(ms(2000));
    assert_eq!(view(&world).version, version);
}

#[test]
fn a_registrar_without_subscriptions_is_polled_and_not_trusted_to_name_all() {
    let mut world = world(1);
    world.registrar(1).grants_subscriptions = false;
    world.add(POOL, element(1));
    world.command(Command::Watch(pool()));
    world.run(ms(100));
    assert!(!view(&world).complete);
    world.add(POOL, element(2));
    world.run_until(ms(1010), |world| ids(view(world)) == [1, 2]);
}

#[test]
fn single_questions_share_a_request_and_a_fresh_answer() {
    let mut world = world(1);
    world.add(POOL, element(1));
    world.run(ms(100));
    for id in 0..10 {
        world.command(Command::Resolve { id, handle: pool() });
    }
    world.run(ms(10));
    assert_eq!(resolutions(&world), 1);
    assert!((0..10).all(|id| ids(&answer(&world, id).unwrap().unwrap()) == [1]));
    world.command(Command::Resolve { id: 10, handle: pool() });
    world.run(ms(1));
    assert!(answer(&world, 10).is_some());
    assert_eq!(resolutions(&world), 1);

    // Stale after a second, and then forgotten.
    world.run(ms(1100));
    assert!(world.client.role().view(&pool()).is_none());
    world.pools.clear();
    world.command(Command::Resolve { id: 11, handle: pool() });
    world.run(ms(10));
    assert_eq!(answer(&world, 11), Some(Err(ResolveError::UnknownPool)));
    assert_eq!(resolutions(&world), 2);
    assert!(world.client.role().view(&pool()).is_none());
}

/// Found by the simulation: the next question comes after a cached answer's time and before the timer that forgets it.
#[test]
fn a_question_after_a_cached_answer_keeps_nobody_busy() {
    let mut world = world(1);
    world.add(POOL, element(1));
    world.run(ms(100));
    world.command(Command::Resolve { id: 1, handle: pool() });
    world.run(ms(10));
    let late = world.now + ms(1500);
    world.client.handle_command(late, Command::Resolve { id: 2, handle: pool() });
    assert!(world.client.next_deadline().is_some_and(|at| at > late));
}

#[test]
fn single_questions_end_whatever_happens() {
    let mut world = world(2);
    world.set_all(Life::Dead);
    world.command(Command::Resolve { id: 1, handle: pool() });
    world.run_until(ms(3010), |world| answer(world, 1) == Some(Err(ResolveError::NoRegistrar)));

    // The only registrar lives, but does not answer: T1 three times.
    let mut world = World::new(
        1,
        Users::new(UsersConfig { resolve_limit: ms(60_000), ..UsersConfig::telephony() }),
    );
    world.run(ms(100));
    world.registrar(1).ignores_resolutions = true;
    world.command(Command::Resolve { id: 2, handle: pool() });
    let took =
        world.run_until(ms(5000), |world| answer(world, 2) == Some(Err(ResolveError::NoRegistrar)));
    assert_eq!(took, ms(3000));
    assert_eq!(resolutions(&world), 3);
}

#[test]
fn an_unanswered_question_goes_to_another_registrar() {
    let mut world = world(2);
    world.add(POOL, element(1));
    world.run(ms(2000));
    let home = world.home().unwrap();
    world.registrar(home).ignores_resolutions = true;
    world.command(Command::Resolve { id: 1, handle: pool() });
    let took = world.run_until(ms(3000), |world| answer(world, 1).is_some());
    assert!(took <= ms(1010), "{took:?}");
    assert!(answer(&world, 1).unwrap().is_ok());
}

#[test]
fn one_report_for_each_failure() {
    let mut world = watching(1);
    let report = |pe| Command::ReportUnreachable { handle: pool(), pe_id: PeId(pe) };
    for _ in 0..100 {
        world.command(report(1));
        world.run(ms(10));
    }
    world.command(report(2));
    world.run(ms(10));
    assert_eq!(reports(&world), 2);
    assert_eq!(world.client.role().coalesced_reports(), 99);

    // It answered in between: another event.
    world.command(Command::Trust { handle: pool(), pe_id: PeId(1) });
    world.command(report(1));
    world.run(ms(10));
    assert_eq!(reports(&world), 3);

    // It was removed and came back: another event as well.
    world.remove(POOL.as_bytes(), 1);
    world.run(ms(10));
    world.add(POOL, element(1));
    world.run(ms(10));
    world.command(report(1));
    world.run(ms(10));
    assert_eq!(reports(&world), 4);

    // Without a home it waits, as long as it is news.
    world.kill(1, true);
    world.run(ms(10));
    world.run(ms(6000));
    world.command(report(2));
    world.registrar(1).life = Life::Alive;
    world.run_until(ms(4500), |world| reports(world) == 5);
}

#[test]
fn a_process_that_is_element_and_user_has_one_home() {
    let roles = (Elements::new(ElementsConfig::telephony()), Users::new(UsersConfig::telephony()));
    let mut world = World::new(3, roles);
    let own = ElementConfig::tcp(pool(), PeId(9), "127.0.0.61:5070".parse().unwrap());
    world.command(Either::First(ElementCommand::Register(own)));
    world.command(Either::Second(Command::Watch(pool())));
    world.run(ms(1500));
    assert_eq!(world.client.counters().homes_found, 1);
    assert_eq!(ids(world.client.role().1.view(&pool()).unwrap()), [9]);
    assert!(world.count(|seen| matches!(seen, Seen::Ack { .. })) >= 1);
}

#[test]
fn random_histories_end_with_the_true_membership() {
    for seed in 0..2_000 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut world = world(3);
        world.add(POOL, element(100));
        world.command(Command::Watch(pool()));
        for _ in 0..rng.u32(1..10) {
            world.run(ms(rng.u64(0..2000)));
            let n = rng.u8(1..=3);
            match rng.u8(0..8) {
                0 => world.kill(n, true),
                1 => world.kill(n, false),
                2 => world.registrar(n).life = Life::Frozen,
                3 => world.thaw(n),
                4 | 5 => world.add(POOL, element(rng.u32(1..10))),
                6 => world.remove(POOL.as_bytes(), rng.u32(1..10)),
                _ => world.suspect(n),
            }
        }
        for n in 1..=3 {
            world.thaw(n);
        }
        world.run(ms(10_000));
        let truth: Vec<u32> = world.pools[POOL.as_bytes()].keys().copied().collect();
        assert_eq!(ids(view(&world)), truth, "seed {seed}");
        assert_eq!(view(&world).freshness, Freshness::Fresh, "seed {seed}");
        world.add(POOL, element(50));
        world.run_until(ms(5), |world| view(world).member(PeId(50)).is_some());
    }
}
