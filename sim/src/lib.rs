//! Deterministic simulation of the RSerPool cores: registrars, elements and users on a virtual network with a virtual
//! clock. A seed decides everything; equal seeds give equal traces, byte by byte.
//!
//! | file | what |
//! |---|---|
//! | `world` | clock, queue, processes and how they use each other |
//! | `net` | associations: delay, loss of the tail, half-open ends, evidence and silence |
//! | `packets` | real SCTP stacks on lost, doubled, damaged and late datagrams, in some seeds |
//! | `scenario` | who takes part: how many registrars, elements and users, which policies |
//! | `schedule` | what is done to the system: episodes, disorder |
//! | `invariants` | what must hold, one file each |
//! | `coverage` | how often the things happened that a run is for |
//! | `plant` | bugs on purpose, which the invariants must notice |
//!
//! `cargo run --release -p dialtone-sim -- --seeds 1000` runs many, `--seed 42 --trace` shows one.

mod coverage;
mod describe;
mod invariants;
mod net;
mod packets;
mod plant;
mod process;
mod queue;
mod scenario;
mod schedule;
mod set;
pub mod sip;
mod trace;
mod world;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

pub use coverage::Coverage;
pub use plant::Plant;
pub use trace::Text;

/// How to run a seed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    pub text: Text,
    /// Planted on purpose, to see whether the invariants notice.
    pub plant: Option<Plant>,
}

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Virtual time since the start.
    pub at: Duration,
    /// The invariant's file.
    pub invariant: &'static str,
    pub what: String,
}

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub seed: u64,
    /// Empty when all is well; the run ends soon after the first.
    pub violations: Vec<Violation>,
    /// Over everything that happened; equal for equal seeds.
    pub hash: u64,
    /// The last lines of the trace, if asked for.
    pub tail: Vec<String>,
    /// How much virtual time passed.
    pub simulated: Duration,
    pub coverage: Coverage,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} s: {}: {}", self.at.as_secs_f64(), self.invariant, self.what)
    }
}

/// Runs one seed.
pub fn run(seed: u64, options: Options) -> Outcome {
    let scenario = scenario::Scenario::new(seed);
    let (acts, end) = schedule::plan(seed, &scenario);
    let mut world = world::World::new(seed, scenario, options);
    world.prepare(acts);
    world.run(end);
    if world.violations.is_empty() {
        invariants::finish(&mut world);
    }
    let (hash, tail) = world.trace.into_parts();
    let coverage = Coverage { seeds: 1, ..world.coverage };
    Outcome { seed, violations: world.violations, hash, tail, simulated: world.now, coverage }
}

/// Runs seeds on this many threads until one fails; the failing outcome with the smallest seed that was found, with
/// the tail of its trace.
pub fn search(
    seeds: std::ops::Range<u64>,
    threads: usize,
    plant: Option<Plant>,
    keep_going: bool,
    report: impl Fn(&Outcome) + Sync,
) -> Option<Outcome> {
    let next = AtomicU64::new(seeds.start);
    let failed: Mutex<Option<u64>> = Mutex::new(None);
    let lowest = || *failed.lock().unwrap_or_else(PoisonError::into_inner);
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || (!keep_going && lowest().is_some()) {
                        break;
                    }
                    let outcome = run(seed, Options { plant, ..Options::default() });
                    report(&outcome);
                    if !outcome.violations.is_empty() {
                        let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                        *failed = Some(failed.map_or(seed, |other| other.min(seed)));
                    }
                }
            });
        }
    });
    lowest().map(|seed| run(seed, Options { text: Text::Tail(60), plant }))
}
