//! Conferences: who calls the same name meets, whatever happens to servers, proxies and the database.
//!
//! Phones come to a few rooms one after the other, and to rooms of their own two at a time through different gateways.
//! Meanwhile conference servers and proxies are killed, stopped and asked to stop, one after the other, and for a while
//! the database does not do what it should.

use std::time::Duration;

use dialtone_sip::Method;

use super::store::Mood;
use super::world::{Act, FIRST_FOCUS, FOCUSES, GATEWAYS, Move, PROCESSES, World};
use super::{Inflight, Options, outcome};
use crate::Outcome;

const PHONES: usize = 12;
const ROOMS: usize = 3;
const VISITS: usize = 60;
/// Pairs of first calls to one room at the same moment.
const PAIRS: usize = 8;
/// From the call to the answer while the database is fine, whatever has died.
const BOUND: Duration = Duration::from_secs(1);
/// How long after the end of a fault rooms may still move because of it: what was found silent is believed again when it
/// has answered, and is back in the pool.
const AFTERMATH: Duration = Duration::from_secs(4);
/// How long the database may be felt after it is fine again: claims are waited for so long.
const SLOW: Duration = Duration::from_secs(3);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

struct Visit {
    name: String,
    room: String,
    phone: usize,
}

/// An element or proxy that was in trouble.
struct Fault {
    process: usize,
    from: Duration,
    to: Duration,
    /// Not all proxies notice.
    stopped: bool,
}

/// When the database was not fine.
#[derive(Clone, Copy)]
struct Trouble {
    from: Duration,
    to: Duration,
    /// What it says may have changed long before it is heard, or changes although it says that it failed: who has a room
    /// is known to nobody for sure then.
    misleads: bool,
}

/// What became of a visit.
struct Stay {
    name: String,
    room: String,
    focus: usize,
    began: Duration,
    answered: Duration,
    /// The database was not fine.
    troubled: bool,
}

/// Runs one seed.
pub(super) fn run(seed: u64, options: Options) -> Outcome {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut world = World::with_rooms(seed, options.text, options.bugs);
    for number in 0..PHONES {
        let phone = world.add_phone(
            &format!("user{number}"),
            &format!("user{number}"),
            number % GATEWAYS,
            number % 4 < 2,
        );
        // A server that was stopped goes on with an INVITE that somebody else has answered, and ends it by BYE.
        world.phones[phone].lenient = true;
        world.phones[phone].ack_twice = true;
    }
    let faults = faults(&mut world, &mut rng);
    let trouble = moods(&mut world, &mut rng);
    let mut visits: Vec<Visit> = Vec::new();
    let mut visit = |world: &mut World, rng: &mut fastrand::Rng, at, phone, room: String| {
        let name = format!("visit{}", visits.len());
        let to = format!("conf-{room}");
        world.at(ms(at), Act::Invite { phone, call: name.clone(), to });
        let mut then = at;
        if rng.u8(..4) == 0 {
            then += 1_500 + rng.u64(..2_000);
            let call = name.clone();
            world.at(ms(then), Act::Within { phone, call, method: Method::Invite });
        }
        for after in [2_600 + rng.u64(..8_000), 12_000] {
            let call = name.clone();
            world.at(ms(then + after), Act::Within { phone, call, method: Method::Bye });
        }
        visits.push(Visit { name, room, phone });
    };
    for _ in 0..VISITS {
        let (at, phone) = (rng.u64(3_000..42_000), rng.usize(..PHONES));
        let room = format!("room{}", rng.usize(..ROOMS));
        visit(&mut world, &mut rng, at, phone, room);
    }
    for pair in 0..PAIRS {
        let at = rng.u64(3_000..42_000);
        // Even numbers are at one gateway, odd ones at the other.
        let first = rng.usize(..PHONES);
        for phone in [first, (first + 1) % PHONES] {
            visit(&mut world, &mut rng, at, phone, format!("pair{pair}"));
        }
    }
    world.run_until(ms(135_000));
    for phone in 0..PHONES {
        world.phones[phone].finish(false);
        for effect in std::mem::take(&mut world.phones[phone].effects) {
            if let super::phone::Effect::Wrong(what) = effect {
                world.wrong("phone", what);
            }
        }
    }
    world.spare_dialogs = true;
    world.check_empty();
    let stays: Vec<Stay> =
        visits.iter().filter_map(|visit| check(&mut world, visit, &faults, trouble)).collect();
    check_company(&mut world, &stays, &faults);
    outcome(seed, world)
}

/// One after the other, each over before the next.
fn faults(world: &mut World, rng: &mut fastrand::Rng) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut at = ms(rng.u64(4_000..8_000));
    while at < ms(42_000) {
        let process = if rng.u8(..3) == 0 {
            rng.usize(GATEWAYS..PROCESSES)
        } else {
            FIRST_FOCUS + rng.usize(..FOCUSES)
        };
        let inflight = [Inflight::Arrives, Inflight::Cut, Inflight::Lost][rng.usize(..3)];
        let (act, lasts) = match rng.u8(..5) {
            0 | 1 => {
                let lasts = ms(rng.u64(50..6_000));
                (Act::Freeze { process, lasts }, lasts)
            }
            2 if process >= FIRST_FOCUS => (Act::Drain { process }, ms(2_000)),
            _ => {
                let lasts = ms(rng.u64(100..4_000));
                (Act::Kill { process, inflight, restart: Some(lasts) }, lasts)
            }
        };
        let stopped = matches!(act, Act::Freeze { .. });
        faults.push(Fault { process, from: at, to: at + lasts + AFTERMATH, stopped });
        world.at(at, act);
        at += lasts + ms(2_500) + ms(rng.u64(0..3_000));
    }
    faults
}

/// When the database is not fine.
fn moods(world: &mut World, rng: &mut fastrand::Rng) -> Trouble {
    let mood = match rng.u8(..6) {
        0 => Mood::Slow,
        1 => Mood::Failing,
        2 => Mood::Stalled,
        3 => Mood::Unsure,
        _ => return Trouble { from: Duration::MAX, to: Duration::MAX, misleads: false },
    };
    let from = ms(rng.u64(3_000..30_000));
    let to = from + ms(rng.u64(500..12_000));
    world.at(from, Act::Mood(mood));
    world.at(to, Act::Mood(Mood::Fine));
    let misleads = matches!(mood, Mood::Slow | Mood::Unsure);
    Trouble { from, to: to + SLOW, misleads }
}

/// How a visit had to begin, and how fast.
fn check(world: &mut World, visit: &Visit, faults: &[Fault], trouble: Trouble) -> Option<Stay> {
    let who = world.phones[visit.phone].name.clone();
    let mark = |what: &str| world.marks.get(&format!("{who} {} {what}", visit.name)).copied();
    let (began, _) = mark("calls")?;
    let Some((answered, code)) = mark("INVITE 1 answered") else {
        world.wrong("rooms", format!("{} was never answered", visit.name));
        return None;
    };
    let troubled = began <= trouble.to && trouble.from <= answered;
    if code != 200 {
        if !(troubled && code == 503) {
            let room = &visit.room;
            world.wrong("rooms", format!("{} to {room} ended with {code}", visit.name));
        }
        return None;
    }
    if !troubled && answered - began > BOUND {
        let took = answered - began;
        world.wrong("rooms", format!("{} to {} took {took:?}", visit.name, visit.room));
    }
    let target = world.phones[visit.phone].target_of(&visit.name).unwrap_or_default().to_owned();
    let Some(focus) = world.focus_at(&target) else {
        world.wrong("rooms", format!("{} is at {target}", visit.name));
        return None;
    };
    let lost = faults.iter().any(|fault| fault.from <= world.now && fault.process == focus);
    if world.phones[visit.phone].has_dialog(&visit.name) && !lost {
        world.wrong("rooms", format!("{} never ended", visit.name));
    }
    if troubled && trouble.misleads {
        return None;
    }
    let (name, room) = (visit.name.clone(), visit.room.clone());
    Some(Stay { name, room, focus, began, answered, troubled })
}

/// Whether somebody came by the memory of a proxy to a server that has stood still, and was given up meanwhile by the other
/// proxy, which moved the room. Without the database neither hears of the other, for as long as that lasts and however
/// long ago it was that the server stood still: so it does not matter which of two who do not meet was misled.
fn is_misled(moves: &[Move], stay: &Stay, fault: &Fault) -> bool {
    let claim = format!("conference/{}", stay.room);
    let while_it_lasted = fault.from..=fault.to;
    let moved = |step: &Move| {
        *step.name == *claim && step.to != fault.process && while_it_lasted.contains(&step.at)
    };
    stay.troubled
        && fault.stopped
        && fault.process == stay.focus
        && fault.from <= stay.began
        && moves.iter().any(moved)
}

/// Two who came to one room are at the same server, unless that of the first was in trouble meanwhile. Nor can anything
/// be done about a server that goes on just when it was given up, with a call that was waiting there for somebody else;
/// nor, without the database, about one that only the other proxy has given up ([`is_misled`]).
fn check_company(world: &mut World, stays: &[Stay], faults: &[Fault]) {
    for (number, one) in stays.iter().enumerate() {
        for other in stays[number + 1..].iter().filter(|other| other.room == one.room) {
            let (first, second) =
                if one.began <= other.began { (one, other) } else { (other, one) };
            let until = second.answered.max(first.answered);
            let excused = faults.iter().any(|fault| {
                let together = second.began <= first.answered;
                if [first, second].into_iter().any(|stay| is_misled(&world.moves, stay, fault)) {
                    return true;
                }
                (fault.process == first.focus || together && fault.process == second.focus)
                    && fault.from <= until
                    && first.began <= fault.to
            });
            if first.focus != second.focus && !excused {
                let (room, first, second) = (&one.room, &first.name, &second.name);
                world.wrong("split", format!("{first} and {second} do not meet in {room}"));
            }
        }
    }
}
