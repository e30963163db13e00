//! Phones that change their bindings all the time, and calls meanwhile, while the database is slow, stands still, fails,
//! or does not say what it did, proxies hear late of each other, die and freeze, and clocks are set.

use std::time::Duration;

use super::bindings::{CONTACTS, Change};
use super::phone::{Effect, Plan};
use super::random::faults;
use super::store::Mood;
use super::world::{Act, GATEWAYS, PROCESSES, World};
use super::{Options, outcome};
use crate::Outcome;

/// Phones that call each other; their bindings stay.
const STEADY: usize = 6;
/// Phones that change their bindings.
const MOVING: usize = 6;
const CHANGES: usize = 9;
const CALLS: usize = 16;
/// Frozen, and what the way itself takes.
const BOUND: Duration = Duration::from_millis(550);
/// What a call waits for the database, if nothing is known in memory of whom it is for: two proxies may ask.
const LOOKUPS: Duration = Duration::from_millis(200);
/// All moods and faults are over.
const CALM: u64 = 46_000;
const YEAR_MS: i64 = 365 * 24 * 3_600_000;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Runs one seed.
pub(super) fn run(seed: u64, options: Options) -> Outcome {
    let mut rng = fastrand::Rng::with_seed(seed ^ 0x0010_ca7e);
    let mut world = World::new(seed, options.text, options.bugs, false);
    // Impatient proxies: what they have given up is carried out later, perhaps after what another one was asked next.
    let impatient = rng.bool();
    if impatient {
        world.set_store_timeout(ms(rng.u64(300..1_500)));
    }
    for number in 0..STEADY + MOVING {
        let user = format!("user{number}");
        let phone = world.add_phone(&user, &user, number % GATEWAYS, number % 4 < 2);
        world.phones[phone].patient = true;
        if number < STEADY {
            world.at(ms(500 + 20 * number as u64), Act::Register { phone });
        }
    }
    let mut end = ms(60_000);
    let jumps = rng.bool();
    if jumps {
        clocks(&mut world, &mut rng);
    } else if rng.bool() {
        faults(&mut world, &mut rng, &mut end);
    }
    moods(&mut world, &mut rng);
    for phone in 0..STEADY + MOVING {
        for _ in 0..if phone < STEADY { 2 } else { CHANGES } {
            let act = match rng.u8(..6) {
                _ if phone < STEADY => Act::Register { phone },
                0 => Act::Change { phone, change: Change::RemoveAll },
                1 | 2 => Act::Change { phone, change: Change::Remove(rng.usize(..CONTACTS)) },
                _ => Act::Change { phone, change: Change::Add(rng.usize(..CONTACTS)) },
            };
            let at = rng.u64(3_000..CALM);
            let changed = match &act {
                Act::Change { change: Change::Add(contact), .. } => Some(*contact),
                _ => None,
            };
            world.at(ms(at), act);
            if let Some(contact) = changed.filter(|_| rng.bool()) {
                // As soon as the outcome is known, or not known, so that it may overtake.
                let change = Change::Remove(contact);
                world.at(ms(at + rng.u64(0..1_000)), Act::Change { phone, change });
            }
        }
    }
    let calls: Vec<(String, usize, bool)> = (0..CALLS)
        .map(|number| {
            let name = format!("call{number}");
            let caller = rng.usize(..STEADY);
            let callee = (caller + rng.usize(1..STEADY)) % STEADY;
            let unknown = rng.u8(..3) == 0;
            let to = if unknown { "nobody".to_owned() } else { world.phones[callee].user.clone() };
            let plan = Plan { ring: Some(ms(20)), answer: Some((ms(rng.u64(30..1_000)), 486)) };
            world.phones[callee].plans.insert(name.clone(), plan);
            let act = Act::Invite { phone: caller, call: name.clone(), to };
            world.at(ms(rng.u64(3_000..CALM)), act);
            (name, caller, unknown)
        })
        .collect();
    world.run_until(end.max(ms(CALM)) + ms(75_000));
    for phone in 0..world.phones.len() {
        world.phones[phone].finish(true);
        for effect in std::mem::take(&mut world.phones[phone].effects) {
            if let Effect::Wrong(what) = effect {
                world.wrong("phone", what);
            }
        }
    }
    world.check_empty();
    for (name, caller, unknown) in &calls {
        check_call(&mut world, name, *caller, *unknown);
    }
    check_bindings(&mut world);
    outcome(seed, world)
}

/// One after the other, until all is calm.
fn moods(world: &mut World, rng: &mut fastrand::Rng) {
    let mut at = rng.u64(2_500..6_000);
    while at < CALM - 8_000 {
        let (mood, lasts) = match rng.u8(..8) {
            0 => (Mood::Failing, rng.u64(500..5_000)),
            1 => (Mood::Full, rng.u64(200..3_000)),
            2..5 => (Mood::Slow, rng.u64(2_000..8_000)),
            5 => (Mood::Stalled, rng.u64(2_000..3_000)),
            _ => (Mood::Unsure, rng.u64(1_000..6_000)),
        };
        world.at(ms(at), Act::Lag(rng.bool()));
        world.at(ms(at), Act::Mood(mood));
        world.at(ms(at + lasts), Act::Mood(Mood::Fine));
        at += lasts + rng.u64(0..3_000);
    }
    world.at(ms(CALM), Act::Lag(false));
}

/// The clock of one proxy, or of both, is wrong by a year for a while, or for good.
fn clocks(world: &mut World, rng: &mut fastrand::Rng) {
    for process in GATEWAYS..PROCESSES {
        let by_ms = if rng.bool() { YEAR_MS } else { -YEAR_MS };
        let at = rng.u64(3_000..30_000);
        if rng.u8(..4) != 0 {
            world.at(ms(at), Act::Clock { process, by_ms });
        }
        if rng.bool() {
            let repaired = at + rng.u64(2_000..15_000);
            world.at(ms(repaired), Act::Clock { process, by_ms: 0 });
        }
    }
}

/// A call never waits for the database longer than it may.
fn check_call(world: &mut World, name: &str, caller: usize, unknown: bool) {
    let caller = world.phones[caller].name.clone();
    let mark = |what: &str| world.marks.get(&format!("{caller} {name} {what}")).copied();
    let began = mark("calls").map(|(at, _)| at);
    let rang = mark("hears 180").map(|(at, _)| at);
    let ended = mark("INVITE 1 answered");
    let mut faults = Vec::new();
    match ended {
        Some((_, 404 | 480)) if unknown => {}
        Some((_, 486)) if !unknown => {}
        other => faults.push(format!("{name} ended with {other:?}")),
    }
    let (what, until, bound) = if unknown {
        ("the refusal", ended.map(|(at, _)| at), BOUND + LOOKUPS)
    } else {
        ("ringing", rang, BOUND)
    };
    if let (Some(began), Some(until)) = (began, until)
        && until - began > bound + ms(20)
    {
        faults.push(format!("{what} of {name} took {:?}", until - began));
    }
    faults.into_iter().for_each(|what| world.wrong("call", what));
}

/// What phones were told is so, in the database and at all proxies.
fn check_bindings(world: &mut World) {
    let mut faults = Vec::new();
    let now_ms = world.wall_ms();
    for phone in &world.phones {
        let mut places: Vec<(String, Vec<String>)> = world
            .proxies()
            .map(|(name, proxy)| (name, world.replica_contacts(proxy, &phone.user)))
            .collect();
        let stored = world.store.contacts(&phone.user, now_ms);
        places.push(("the database".to_owned(), stored.into_iter().map(str::to_owned).collect()));
        for (place, contacts) in &places {
            if phone.asked.is_empty() {
                if !contacts.contains(&phone.contact()) {
                    faults.push(format!("{} is lost at {place}", phone.name));
                }
            } else {
                let wrong = phone.misled(contacts).into_iter();
                faults.extend(wrong.map(|what| format!("{what} at {place}")));
            }
            if *contacts != places[0].1 {
                faults.push(format!("{} differs at {place} and {}", phone.name, places[0].0));
            }
        }
    }
    faults.into_iter().for_each(|what| world.wrong("bindings", what));
}
