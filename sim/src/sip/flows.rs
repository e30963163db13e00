//! Flows, and each of them once more for every output of every process: killed or stopped right after it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use dialtone_sip::Method;

use super::phone::Plan;
use super::world::{Act, Blow, GATEWAYS, PROCESSES, RELAYS, World, name};
use super::{Inflight, Options, outcome, parallel, texts};
use crate::trace::Text;
use crate::{Outcome, Violation};

/// A run of a flow: which one, with which transports, and what happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// Its place in [`flows`].
    pub flow: usize,
    /// Phones that use UDP use TCP and the other way round.
    pub swapped: bool,
    /// Media goes through relays.
    pub relays: bool,
    pub fault: Option<Point>,
}

/// When a process is killed or stopped. Processes are numbered: gateways, then proxies, then relays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Whose outputs are counted.
    pub sender: usize,
    /// After which of them, from 1.
    pub output: usize,
    /// To whom it happens.
    pub victim: usize,
    /// What happens.
    pub fault: Fault,
}

/// What happens to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing reaches it (relays only).
    Cut(Duration),
    Freeze(Duration),
    /// Killed; with what becomes of what it has sent, and after how long it is started again.
    Kill(Inflight, Option<Duration>),
}

/// When the flow begins: phones are registered and connections are made.
const BEGIN: Duration = Duration::from_secs(3);
/// Beyond the undisturbed run, killed and frozen.
const KILLED: Duration = Duration::from_millis(250);
const FROZEN: Duration = Duration::from_millis(500);

/// After how long a gateway gives up a core connection that is silent, and cancels what nobody waits for.
const SILENT: Duration = Duration::from_secs(5);
const ORPHANED: Duration = Duration::from_secs(2);

const ALICE: usize = 0;
const BOB: usize = 1;
const CAROL: usize = 3;
const DAVE: usize = 4;

/// Names of the flows.
pub fn flows() -> &'static [&'static str] {
    &[
        "register",
        "answered at once",
        "rings, then answered, bye by the caller",
        "rings, then answered, bye by the callee",
        "cancelled while it rings",
        "busy",
        "forked, one answers",
        "forked, all busy",
        "re-INVITE from either side",
        "within one gateway",
        "nobody there",
        "rings for long",
        "the offer comes with the answer",
    ]
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn ringing(after: u64, code: u16) -> Plan {
    Plan { ring: Some(ms(20)), answer: Some((ms(after), code)) }
}

/// Acts and plans of a flow; returns when it is over.
fn script(world: &mut World, flow: usize) -> Duration {
    let call = || "call".to_owned();
    let invite = |to: &str| Act::Invite { phone: ALICE, call: call(), to: to.to_owned() };
    let within = |phone, method| Act::Within { phone, call: call(), method };
    let mut plan = |phone: usize, plan: Plan| {
        world.phones[phone].plans.insert(call(), plan);
    };
    let mut acts = Vec::new();
    match flow {
        0 => acts.extend([
            (ms(0), Act::Register { phone: ALICE }),
            (ms(1000), Act::Register { phone: BOB }),
        ]),
        1 => {
            plan(BOB, Plan { ring: None, answer: Some((ms(0), 200)) });
            acts.extend([(ms(0), invite("bob")), (ms(1500), within(ALICE, Method::Bye))]);
        }
        2 | 3 => {
            plan(BOB, ringing(400, 200));
            let ends = if flow == 2 { ALICE } else { BOB };
            acts.extend([(ms(0), invite("bob")), (ms(2500), within(ends, Method::Bye))]);
        }
        4 => {
            plan(BOB, Plan { ring: Some(ms(20)), answer: None });
            acts.extend([
                (ms(0), invite("bob")),
                (ms(1000), Act::Cancel { phone: ALICE, call: call() }),
            ]);
        }
        5 => {
            plan(BOB, ringing(100, 486));
            acts.push((ms(0), invite("bob")));
        }
        6 => {
            plan(CAROL, Plan { ring: Some(ms(20)), answer: None });
            plan(CAROL + 2, ringing(500, 200));
            acts.extend([(ms(0), invite("carol")), (ms(2500), within(ALICE, Method::Bye))]);
        }
        7 => {
            plan(CAROL, ringing(100, 486));
            plan(CAROL + 2, ringing(300, 486));
            acts.push((ms(0), invite("carol")));
        }
        8 => {
            plan(BOB, ringing(100, 200));
            acts.extend([
                (ms(0), invite("bob")),
                (ms(1500), within(ALICE, Method::Invite)),
                (ms(2500), within(BOB, Method::Invite)),
                (ms(3500), within(BOB, Method::Bye)),
            ]);
        }
        9 => {
            plan(DAVE, ringing(300, 200));
            acts.extend([(ms(0), invite("dave")), (ms(2000), within(DAVE, Method::Bye))]);
        }
        10 => acts.push((ms(0), invite("nobody"))),
        12 => {
            plan(BOB, ringing(300, 200));
            world.phones[ALICE].late.insert(call());
            acts.extend([
                (ms(0), invite("bob")),
                (ms(1500), within(BOB, Method::Invite)),
                (ms(2500), within(ALICE, Method::Bye)),
            ]);
        }
        _ => {
            plan(BOB, ringing(7000, 200));
            acts.extend([(ms(0), invite("bob")), (ms(9000), within(ALICE, Method::Bye))]);
        }
    }
    let end = acts.iter().map(|(at, _)| *at).max().unwrap_or_default() + ms(1500);
    for (at, act) in acts {
        world.at(BEGIN + at, act);
    }
    BEGIN + end
}

/// Runs a flow: how it went, and how many outputs each process had.
fn play(case: Case, options: Options) -> (World, [usize; PROCESSES]) {
    let mut seed = 0xcafe_u64;
    for number in [case.flow, usize::from(case.swapped) + 2 * usize::from(case.relays)] {
        seed = seed.wrapping_mul(31).wrapping_add(number as u64);
    }
    if let Some(point) = case.fault {
        seed = seed.wrapping_mul(31).wrapping_add((point.sender * 1000 + point.output) as u64);
    }
    let mut world = World::new(seed, options.text, options.bugs, case.relays);
    let phones: [(&str, &str, usize, bool); 6] = [
        ("alice", "alice", 0, false),
        ("bob", "bob", 1, true),
        ("erin", "erin", 1, false),
        ("carol", "carol", 1, false),
        ("dave", "dave", 0, true),
        ("carol2", "carol", 0, true),
    ];
    for (number, (name, user, gateway, tcp)) in phones.into_iter().enumerate() {
        let phone = world.add_phone(name, user, gateway, tcp != case.swapped);
        world.at(ms(500 + 50 * number as u64), Act::Register { phone });
    }
    world.run_until(BEGIN - ms(1));
    world.counting = true;
    let mut quiet = ms(40_000);
    if let Some(Point { sender, output, victim: process, fault }) = case.fault {
        let act = match fault {
            Fault::Cut(lasts) => Act::Cut { process, lasts },
            Fault::Freeze(lasts) => Act::Freeze { process, lasts },
            Fault::Kill(inflight, restart) => Act::Kill { process, inflight, restart },
        };
        world.blow = Some(Blow { sender, output, act });
        world.phones.iter_mut().for_each(|phone| phone.ack_twice = true);
        if process < GATEWAYS {
            quiet = ms(110_000);
        }
        if let Fault::Freeze(lasts) | Fault::Cut(lasts) = fault {
            quiet += lasts;
        }
    }
    let end = script(&mut world, case.flow);
    world.run_until(end);
    world.counting = false;
    world.run_until(end + quiet);
    let strict = !world.gateway_killed;
    for phone in 0..world.phones.len() {
        world.phones[phone].finish(strict);
        for effect in std::mem::take(&mut world.phones[phone].effects) {
            if let super::phone::Effect::Wrong(what) = effect {
                world.wrong("phone", what);
            }
        }
    }
    world.check_empty();
    if strict {
        check_relays(&mut world);
    }
    let outputs = std::array::from_fn(|process| world.procs[process].outputs);
    (world, outputs)
}

/// Both phones of an established call have ports of one relay, and relays have been told of the end.
fn check_relays(world: &mut World) {
    let joined: Vec<usize> = (0..world.phones.len())
        .filter(|phone| world.phones[*phone].target_of("call").is_some())
        .collect();
    if let [one, other] = joined[..] {
        world.check_media("call", [one, other]);
    }
    world.check_relays();
}

type Marks = BTreeMap<String, (Duration, u16)>;

/// Runs a flow with a fault and compares it with the undisturbed one.
pub fn run_case(case: Case, options: Options) -> Outcome {
    let base = Options { text: Text::None, ..options };
    let (calm, _) = play(Case { fault: None, ..case }, base);
    finish(case, options, &calm.marks)
}

fn finish(case: Case, options: Options, calm: &Marks) -> Outcome {
    let (mut world, _) = play(case, options);
    if !world.gateway_killed {
        let bound = match case.fault {
            Some(Point { fault: Fault::Freeze(_) | Fault::Cut(_), .. }) => FROZEN,
            _ => KILLED,
        };
        let mut faults = Vec::new();
        for (what, (at, code)) in calm {
            match world.marks.get(what) {
                // 180 is a courtesy; one that a proxy takes to its grave is not asked for again.
                None if what.ends_with(" hears 180") => {}
                None => faults.push(format!("never: {what} {code}")),
                Some((_, other)) if other != code => {
                    faults.push(format!("{what} {other} instead of {code}"));
                }
                Some((late, _)) if *late > *at + bound + allowance(what, case) => {
                    faults.push(format!("{what} {code} is late by {:?}", *late - *at));
                }
                Some(_) => {}
            }
        }
        let new = |what: &&String| !calm.contains_key(*what) && what.ends_with(" rings");
        faults.extend(world.marks.keys().filter(new).map(|what| format!("only now: {what}")));
        faults.into_iter().for_each(|what| world.wrong("compared", what));
    }
    outcome(0, world)
}

/// The proxy that is to cancel the other phones of a fork may die when it has passed the answer on. Nobody repeats the
/// request then: they are cancelled when the gateway finds that nobody waits for them.
fn allowance(what: &str, case: Case) -> Duration {
    let loser = case.flow == 6 && what.starts_with("carol ");
    match case.fault {
        Some(Point { fault: Fault::Kill(..), .. }) if loser => ORPHANED,
        Some(Point { fault: Fault::Freeze(_), .. }) if loser => ORPHANED + SILENT,
        _ => Duration::ZERO,
    }
}

/// What came of running all flows.
#[derive(Debug, Default)]
pub struct Report {
    /// How many runs.
    pub runs: u64,
    /// Runs by process.
    pub points: BTreeMap<String, u64>,
    /// The first failure: its case, its violations, the end of its trace.
    pub failed: Option<(Case, Vec<Violation>, Vec<String>)>,
}

/// What is done to a process: proxies are also stopped, relays are cut off.
fn faults(victim: usize) -> Vec<Fault> {
    if victim >= PROCESSES {
        return vec![
            Fault::Kill(Inflight::Lost, None),
            Fault::Kill(Inflight::Lost, Some(ms(300))),
            Fault::Freeze(ms(1000)),
            Fault::Cut(ms(40_000)),
        ];
    }
    let proxy = victim >= GATEWAYS;
    let mut faults =
        vec![Fault::Kill(Inflight::Lost, None), Fault::Kill(Inflight::Arrives, Some(ms(300)))];
    if proxy {
        faults.extend([
            Fault::Kill(Inflight::Cut, Some(ms(3000))),
            Fault::Freeze(ms(1000)),
            Fault::Freeze(ms(40_000)),
        ]);
    }
    faults
}

/// Every flow, with both transports, and every fault after every output.
fn cases(options: Options, only: Option<usize>) -> Vec<Case> {
    let mut cases = Vec::new();
    for flow in (0..flows().len()).filter(|flow| only.is_none_or(|only| only == *flow)) {
        for (swapped, relays) in [(false, false), (true, false), (false, true), (true, true)] {
            let calm = Case { flow, swapped, relays, fault: None };
            let (_, outputs) = play(calm, Options { text: Text::None, ..options });
            cases.push(calm);
            for (sender, count) in outputs.into_iter().enumerate() {
                // Also a proxy that has work before it, after an output of a gateway, and relays: but not once more for
                // the other transports.
                let everybody = 0..PROCESSES + if relays { RELAYS } else { 0 };
                let victims = everybody.filter(|other| {
                    let busy = outputs.get(*other).is_none_or(|outputs| *outputs > 0);
                    let beside = *other >= GATEWAYS && busy && !(relays && swapped);
                    *other == sender || beside
                });
                for (victim, output) in
                    victims.flat_map(|victim| (1..=count).map(move |output| (victim, output)))
                {
                    for fault in faults(victim) {
                        let fault = Some(Point { sender, output, victim, fault });
                        cases.push(Case { fault, ..calm });
                    }
                }
            }
        }
    }
    cases
}

/// Runs all flows (or one) with all faults until one fails.
pub fn search_flows(
    threads: usize,
    options: Options,
    only: Option<usize>,
    keep_going: bool,
    say: impl Fn(&Case, &[Violation]) + Sync,
) -> Report {
    let cases = cases(options, only);
    let kind = |case: &Case| (case.flow, case.swapped, case.relays);
    let calm: Mutex<BTreeMap<(usize, bool, bool), Marks>> = Mutex::new(BTreeMap::new());
    let quick = Options { text: Text::None, ..options };
    for case in cases.iter().filter(|case| case.fault.is_none()) {
        let (world, _) = play(*case, quick);
        if let Ok(mut calm) = calm.lock() {
            calm.insert(kind(case), world.marks);
        }
    }
    let calm = calm.into_inner().unwrap_or_default();
    let failed = parallel(0..cases.len() as u64, threads, |number| {
        let case = cases[number as usize];
        let outcome = finish(case, quick, &calm[&kind(&case)]);
        if !outcome.violations.is_empty() {
            say(&case, &outcome.violations);
        }
        !outcome.violations.is_empty() && !keep_going
    });
    let mut report = Report { runs: cases.len() as u64, ..Report::default() };
    for point in cases.iter().filter_map(|case| case.fault) {
        *report.points.entry(name(point.victim)).or_default() += 1;
    }
    report.failed = failed.map(|number| {
        let case = cases[number as usize];
        let text = Options { text: Text::Tail(120), ..options };
        let outcome = finish(case, text, &calm[&kind(&case)]);
        (case, outcome.violations, outcome.tail)
    });
    report
}

impl std::str::FromStr for Case {
    type Err = String;

    /// `FLOW:SWAPPED:RELAYS:SENDER:OUTPUT:VICTIM:FAULT`, as `2:false:true:0:4:3:kill-Lost`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text}: not FLOW:SWAPPED:RELAYS:SENDER:OUTPUT:VICTIM:FAULT");
        let parts: Vec<&str> = text.split(':').collect();
        let [flow, swapped, relays, sender, output, victim, fault] = parts[..] else {
            return Err(wrong());
        };
        let known = [GATEWAYS, PROCESSES].map(faults).concat();
        let fault = known.into_iter().find(|known| known.to_string() == fault);
        Ok(Self {
            flow: flow.parse().map_err(|_| wrong())?,
            swapped: swapped.parse().map_err(|_| wrong())?,
            relays: relays.parse().map_err(|_| wrong())?,
            fault: Some(Point {
                sender: sender.parse().map_err(|_| wrong())?,
                output: output.parse().map_err(|_| wrong())?,
                victim: victim.parse().map_err(|_| wrong())?,
                fault: fault.ok_or_else(wrong)?,
            }),
        })
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.flow, self.swapped, self.relays)?;
        match self.fault {
            Some(Point { sender, output, victim, fault }) => {
                write!(f, ":{sender}:{output}:{victim}:{fault}")
            }
            None => Ok(()),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cut(lasts) => write!(f, "cut-{}", lasts.as_secs()),
            Self::Freeze(lasts) => write!(f, "freeze-{}", lasts.as_secs()),
            Self::Kill(inflight, None) => write!(f, "kill-{inflight:?}"),
            Self::Kill(inflight, Some(restart)) => {
                write!(f, "restart-{inflight:?}-{}", restart.as_millis())
            }
        }
    }
}

impl Report {
    /// What went wrong, for people.
    pub fn failure(&self) -> Option<String> {
        let (case, violations, tail) = self.failed.as_ref()?;
        let flow = flows()[case.flow];
        Some(format!(
            "{}\n{flow}, {case}:\n{}\nreplay: cargo run --release -p dialtone-sim -- sip --case {case}",
            tail.join("\n"),
            texts(violations)
        ))
    }
}
