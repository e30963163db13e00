//! Deterministic simulation of SIP on the pools: the cores of two gateways, two proxies and three conference servers,
//! models of the database and of media relays, phones that insist on legal SIP, and faults.
//!
//! | file | what |
//! |---|---|
//! | `world` | clock, queue, core connections, processes as their drivers run them |
//! | `phone` | user agents that check everything they see |
//! | `store` | the location database |
//! | `media` | where phones send media |
//! | `flows` | flows in which a process is killed or stopped after every single output |
//! | `random` | many calls with faults that a seed decides |
//! | `registrations` | bindings that change all the time while the database and the clocks misbehave |
//! | `rooms` | conferences whose servers die, while others come to them |
//! | `bindings` | what phones were told about their bindings |
//!
//! `cargo run --release -p dialtone-sim -- sip --seeds 1000` runs many seeds, `sip --seed 42 --trace` shows one,
//! `sip --flows` runs all flows with a fault after each output.

mod bindings;
pub mod cli;
mod flows;
mod media;
mod phone;
mod random;
mod registrations;
mod rooms;
mod store;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::trace::Text;
use crate::{Outcome, Violation};

pub use flows::{Case, Fault, Point, Report, flows, run_case, search_flows};

/// Planted on purpose, to see whether the checks notice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bugs {
    /// REGISTER is answered without a commit.
    pub early_answers: bool,
    /// Proxies do not hear of everything that others write.
    pub lost_changes: bool,
    /// CANCEL gets lost when the INVITE was sent more than once.
    pub lost_cancels: bool,
    /// Leg ids do not reach the delivering gateway: as if there were no delivery table.
    pub no_leg_ids: bool,
    /// A proxy takes every answer for one of a phone that has the ports of its own relay.
    pub own_relays: bool,
    /// Calls wait for the database.
    pub patient_lookups: bool,
    /// Proxies are told that they alone have claimed a room.
    pub split_claims: bool,
    /// A process that stood still goes on with what waits for it.
    pub stale_input: bool,
    /// The database is told the time of clocks that jump.
    pub trusted_clocks: bool,
    /// The database takes saves in any order.
    pub unordered_saves: bool,
}

/// How to run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    pub text: Text,
    pub bugs: Bugs,
}

/// What becomes of the bytes that a killed process has sent and that have not arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inflight {
    Arrives,
    /// Cut at any byte.
    Cut,
    Lost,
}

/// What a seed decides about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Scenario {
    /// Many calls at a time.
    Calls,
    /// Bindings that change while the database misbehaves.
    Registrations,
    /// Conferences.
    Rooms,
}

/// Runs one seed.
pub fn run(scenario: Scenario, seed: u64, options: Options) -> Outcome {
    match scenario {
        Scenario::Calls => random::run(seed, options),
        Scenario::Registrations => registrations::run(seed, options),
        Scenario::Rooms => rooms::run(seed, options),
    }
}

/// Runs seeds on this many threads until one fails; the failing outcome with the smallest seed that was found.
pub fn search(
    scenario: Scenario,
    seeds: std::ops::Range<u64>,
    threads: usize,
    bugs: Bugs,
    report: impl Fn(&Outcome) + Sync,
) -> Option<Outcome> {
    let failed = parallel(seeds, threads, |seed| {
        let outcome = run(scenario, seed, Options { bugs, ..Options::default() });
        report(&outcome);
        !outcome.violations.is_empty()
    });
    failed.map(|seed| run(scenario, seed, Options { text: Text::Tail(80), bugs }))
}

/// Works on numbers in parallel until `failed` says so; the smallest that failed.
fn parallel(
    numbers: std::ops::Range<u64>,
    threads: usize,
    failed: impl Fn(u64) -> bool + Sync,
) -> Option<u64> {
    let next = AtomicU64::new(numbers.start);
    let first: Mutex<Option<u64>> = Mutex::new(None);
    let lowest = || *first.lock().unwrap_or_else(PoisonError::into_inner);
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while lowest().is_none() {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= numbers.end {
                        break;
                    }
                    if failed(number) {
                        let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
                        *first = Some(first.map_or(number, |other| other.min(number)));
                    }
                }
            });
        }
    });
    lowest()
}

fn outcome(seed: u64, world: world::World) -> Outcome {
    let (hash, tail) = world.trace.into_parts();
    let simulated = world.now;
    Outcome { seed, violations: world.violations, hash, tail, simulated, ..Outcome::default() }
}

/// A violation as text, for reports.
fn texts(violations: &[Violation]) -> String {
    violations.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
