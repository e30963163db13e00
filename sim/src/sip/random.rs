//! Many calls at a time, with kills, stops and restarts of proxies and relays and a database in all moods.

use std::time::Duration;

use dialtone_sip::Method;

use super::phone::Plan;
use super::store::Mood;
use super::world::{Act, GATEWAYS, PROCESSES, World};
use super::{Inflight, Options, outcome};
use crate::Outcome;

const PHONES: usize = 10;
const CALLS: usize = 40;
/// Frozen, and what the way itself takes.
const BOUND: Duration = Duration::from_millis(550);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

struct Call {
    name: String,
    caller: usize,
    callee: usize,
    plan: Plan,
    cancelled: bool,
}

/// Runs one seed.
pub(super) fn run(seed: u64, options: Options) -> Outcome {
    let mut rng = fastrand::Rng::with_seed(seed);
    let relays = rng.u8(..3) != 0;
    let mut world = World::new(seed, options.text, options.bugs, relays);
    let lossy = rng.u8(..4) == 0;
    world.loss = if lossy { 0.05 } else { 0.0 };
    for number in 0..PHONES {
        let user = format!("user{number}");
        let phone = world.add_phone(&user, &user, number % GATEWAYS, number % 4 < 2);
        world.at(ms(500 + 20 * number as u64), Act::Register { phone });
    }
    let mut end = ms(60_000);
    let faulty = !lossy || rng.bool();
    if faulty {
        faults(&mut world, &mut rng, &mut end);
    }
    let worn = faulty && lossy;
    for phone in &mut world.phones {
        (phone.lenient, phone.ack_twice) = (worn, faulty);
    }
    world.spare_dialogs = worn;
    let mood = moods(&mut world, &mut rng);
    world.phones.iter_mut().for_each(|phone| phone.patient = mood != Mood::Fine);
    for phone in 0..PHONES {
        for _ in 0..rng.usize(0..3) {
            world.at(ms(rng.u64(4_000..40_000)), Act::Register { phone });
        }
    }
    let calls: Vec<Call> = (0..CALLS).map(|number| call(&mut world, &mut rng, number)).collect();
    world.run_until(end + ms(75_000));
    for phone in 0..PHONES {
        world.phones[phone].finish(true);
        for effect in std::mem::take(&mut world.phones[phone].effects) {
            if let super::phone::Effect::Wrong(what) = effect {
                world.wrong("phone", what);
            }
        }
    }
    world.check_empty();
    for call in &calls {
        check(&mut world, call, lossy, worn);
        let phones = [call.caller, call.callee];
        // One that was cancelled and answered all the same ended at once.
        if !lossy
            && !call.cancelled
            && phones.iter().all(|phone| world.phones[*phone].target_of(&call.name).is_some())
        {
            world.check_media(&call.name, phones);
        }
    }
    if !lossy {
        world.check_relays();
    }
    let refused: Vec<String> = world
        .marks
        .iter()
        .filter(|(what, (_, code))| {
            what.contains("REGISTER") && *code != 200 && mood != Mood::Failing
        })
        .map(|(what, (_, code))| format!("{what} {code}"))
        .collect();
    refused.into_iter().for_each(|what| world.wrong("registration", what));
    outcome(seed, world)
}

/// One after the other, each over before the next.
pub(super) fn faults(world: &mut World, rng: &mut fastrand::Rng, end: &mut Duration) {
    let mut at = ms(rng.u64(3_000..6_000));
    while at < ms(42_000) {
        let process = rng.usize(GATEWAYS..PROCESSES + world.relays.len());
        let (act, lasts) = if process >= PROCESSES && rng.u8(..3) == 0 {
            let lasts = ms(rng.u64(50..6_000));
            (Act::Cut { process, lasts }, lasts)
        } else if rng.bool() {
            let lasts = match rng.u8(..10) {
                0 => ms(40_000),
                1..4 => ms(rng.u64(50..900)),
                _ => ms(rng.u64(900..6_000)),
            };
            (Act::Freeze { process, lasts }, lasts)
        } else {
            let inflight = [Inflight::Arrives, Inflight::Cut, Inflight::Lost][rng.usize(..3)];
            let lasts = ms(rng.u64(100..4_000));
            (Act::Kill { process, inflight, restart: Some(lasts) }, lasts)
        };
        world.at(at, act);
        at += lasts + ms(2_500) + ms(rng.u64(0..2_000));
    }
    *end = (*end).max(at);
}

/// How the database is for a while.
fn moods(world: &mut World, rng: &mut fastrand::Rng) -> Mood {
    let mood = match rng.u8(..3) {
        0 => Mood::Slow,
        1 => Mood::Failing,
        _ => return Mood::Fine,
    };
    let from = rng.u64(3_000..30_000);
    world.at(ms(from), Act::Mood(mood));
    world.at(ms(from + rng.u64(1_000..15_000)), Act::Mood(Mood::Fine));
    mood
}

fn call(world: &mut World, rng: &mut fastrand::Rng, number: usize) -> Call {
    let name = format!("call{number}");
    let caller = rng.usize(..PHONES);
    let callee = (caller + rng.usize(1..PHONES)) % PHONES;
    let at = rng.u64(3_000..42_000);
    let rings = rng.u64(30..3_000);
    let (answer, cancelled) = match rng.u8(..10) {
        0..6 => (Some((ms(rings), 200)), false),
        6 => (Some((ms(rings), 486)), false),
        7 => (Some((ms(rings), 200)), true),
        _ => (None, true),
    };
    if rng.u8(..8) == 0 {
        world.phones[caller].late.insert(name.clone());
    }
    let ring = (rng.u8(..4) != 0).then(|| ms(rng.u64(0..30)));
    let plan = Plan { ring, answer };
    world.phones[callee].plans.insert(name.clone(), plan);
    let act = |phone, method| Act::Within { phone, call: name.clone(), method };
    let to = world.phones[callee].user.clone();
    world.at(ms(at), Act::Invite { phone: caller, call: name.clone(), to });
    if cancelled {
        // Also before anything was heard, and in the moment of the answer.
        let after = if rng.bool() { rng.u64(0..3_000) } else { rings + rng.u64(0..10) };
        world.at(ms(at + after), Act::Cancel { phone: caller, call: name.clone() });
    }
    let hold = at + rings + 700;
    if rng.u8(..4) == 0 {
        let phone = if rng.bool() { caller } else { callee };
        world.at(ms(hold + 100), act(phone, Method::Invite));
    }
    for after in [1_000 + rng.u64(0..4_000), 12_000] {
        let phone = if rng.bool() { caller } else { callee };
        world.at(ms(hold + after), act(phone, Method::Bye));
    }
    Call { name, caller, callee, plan, cancelled }
}

/// How a call had to end, and how fast.
fn check(world: &mut World, call: &Call, lossy: bool, worn: bool) {
    let caller = world.phones[call.caller].name.clone();
    let callee = world.phones[call.callee].name.clone();
    let mark =
        |who: &str, what: &str| world.marks.get(&format!("{who} {} {what}", call.name)).copied();
    let mut faults = Vec::new();
    let began = mark(&caller, "calls");
    let ended = mark(&caller, "INVITE 1 answered");
    let rings = mark(&callee, "rings");
    let answers = mark(&callee, "answers");
    let wanted: &[u16] = match (call.plan.answer, call.cancelled) {
        (Some((_, 200)), true) => &[200, 487],
        (Some(_), true) => &[486, 487],
        (Some((_, 200)), false) => &[200],
        (Some(_), false) => &[486],
        (None, _) => &[487],
    };
    match ended {
        Some((_, code)) if !wanted.contains(&code) => {
            faults.push(format!("{} ended with {code} instead of {wanted:?}", call.name));
        }
        _ => {}
    }
    let spans = [("ringing", began, rings), ("the answer", answers, ended)];
    for (what, from, to) in spans.into_iter().filter(|_| !lossy) {
        if let (Some((from, _)), Some((to, _))) = (from, to)
            && to.saturating_sub(from) > BOUND
        {
            faults.push(format!("{what} of {} took {:?}", call.name, to - from));
        }
    }
    for phone in [call.caller, call.callee] {
        if world.phones[phone].has_dialog(&call.name) && !worn {
            faults.push(format!("{} never ended for {}", call.name, world.phones[phone].name));
        }
    }
    faults.into_iter().for_each(|what| world.wrong("call", what));
}
