//! The subcommand `sip` of `dialtone-sim`.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Bugs, Case, Options, Scenario, flows, run, run_case, search, search_flows, texts};
use crate::trace::Text;

/// Simulates gateways, proxies and phones with faults, and checks what must hold.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many seeds to run.
    #[arg(long, default_value_t = 200)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Of all kinds without it.
    #[arg(long)]
    scenario: Option<Scenario>,
    /// Run this one only.
    #[arg(long, conflicts_with_all = ["seeds", "from", "flows"], requires = "scenario")]
    seed: Option<u64>,
    /// Print all that happens; with --seed.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Run the flows instead, with a fault after each output.
    #[arg(long)]
    flows: bool,
    /// Only this flow; with --flows.
    #[arg(long, requires = "flows")]
    flow: Option<usize>,
    /// Print all that happens in one flow with one fault, named as a failure names it.
    #[arg(long, conflicts_with_all = ["seeds", "from", "flows", "seed"])]
    case: Option<Case>,
    /// Go on after a failure; with --flows.
    #[arg(long, requires = "flows")]
    keep_going: bool,
    /// Threads; by default all cores.
    #[arg(long)]
    threads: Option<usize>,
}

/// Runs it.
pub fn main(args: &Args) -> ExitCode {
    let threads =
        args.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, Into::into));
    if let (Some(seed), Some(scenario)) = (args.seed, args.scenario) {
        let text = if args.trace { Text::Print } else { Text::Tail(80) };
        let outcome = run(scenario, seed, Options { text, bugs: Bugs::default() });
        println!("{}", outcome.tail.join("\n"));
        println!("{}", texts(&outcome.violations));
        println!(
            "seed {seed}: {:.1} s simulated, trace {:016x}",
            outcome.simulated.as_secs_f64(),
            outcome.hash
        );
        return if outcome.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if let Some(case) = args.case {
        let outcome = run_case(case, Options { text: Text::Print, bugs: Bugs::default() });
        println!("{}", texts(&outcome.violations));
        return if outcome.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if args.flows {
        let failures = AtomicU64::new(0);
        let report = search_flows(
            threads,
            Options::default(),
            args.flow,
            args.keep_going,
            |case, violations| {
                failures.fetch_add(1, Ordering::Relaxed);
                println!("{}, {case}:\n{}", flows()[case.flow], texts(violations));
            },
        );
        if let Some(failure) = report.failure() {
            println!("{failure}");
        }
        println!(
            "{} runs {:?}, {} failed",
            report.runs,
            report.points,
            failures.load(Ordering::Relaxed)
        );
        return if failures.into_inner() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    for (name, scenario) in [
        ("calls", Scenario::Calls),
        ("registrations", Scenario::Registrations),
        ("rooms", Scenario::Rooms),
    ] {
        if args.scenario.is_some_and(|only| only != scenario) {
            continue;
        }
        let done = AtomicU64::new(0);
        let seeds = args.from..args.from + args.seeds;
        let failed = search(scenario, seeds, threads, Bugs::default(), |_| {
            done.fetch_add(1, Ordering::Relaxed);
        });
        println!("{name}: {} seeds", done.into_inner());
        if let Some(failed) = failed {
            println!(
                "{}\nseed {}:\n{}\nreplay: cargo run --release -p dialtone-sim -- sip --scenario {name} --seed {} \
                 --trace",
                failed.tail.join("\n"),
                failed.seed,
                texts(&failed.violations),
                failed.seed
            );
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
