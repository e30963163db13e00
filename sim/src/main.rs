//! `dialtone-sim`: runs seeds of the RSerPool simulation.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use clap::Parser;
use dialtone_sim::{Coverage, Options, Plant, Text, run, search};

/// Simulates registrars, elements and users with faults that a seed decides, and checks what must hold.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    other: Option<Other>,
    /// How many seeds to run.
    #[arg(long, default_value_t = 200)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Run this one only.
    #[arg(long, conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// Print all that happens; with --seed.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Go on after a failure, and count them.
    #[arg(long)]
    keep_going: bool,
    /// Threads; by default all cores.
    #[arg(long)]
    threads: Option<usize>,
    /// Plant a bug, to see what notices it.
    #[arg(long)]
    plant: Option<Plant>,
}

/// Other simulations.
#[derive(Debug, clap::Subcommand)]
enum Other {
    /// Gateways, proxies and phones instead.
    Sip(dialtone_sim::sip::cli::Args),
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(Other::Sip(args)) = &args.other {
        return dialtone_sim::sip::cli::main(args);
    }
    if let Some(seed) = args.seed {
        let text = if args.trace { Text::Print } else { Text::Tail(60) };
        let outcome = run(seed, Options { text, plant: args.plant });
        for line in &outcome.tail {
            println!("{line}");
        }
        for violation in &outcome.violations {
            println!("seed {seed}: {violation}");
        }
        println!(
            "seed {seed}: {:.1} s simulated, trace {:016x}",
            outcome.simulated.as_secs_f64(),
            outcome.hash
        );
        return if outcome.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let threads =
        args.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, Into::into));
    let failures = AtomicU64::new(0);
    let coverage = Mutex::new(Coverage::default());
    let failed = search(
        args.from..args.from + args.seeds,
        threads,
        args.plant,
        args.keep_going,
        |outcome| {
            *coverage.lock().unwrap_or_else(PoisonError::into_inner) += outcome.coverage;
            if let Some(violation) = outcome.violations.first() {
                failures.fetch_add(1, Ordering::Relaxed);
                println!("seed {}: {violation}", outcome.seed);
            }
        },
    );
    let coverage = coverage.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{} seeds, {} failed", coverage.seeds, failures.into_inner());
    for (name, count) in coverage.rows() {
        let per_hundred = count as f64 * 100.0 / coverage.seeds.max(1) as f64;
        println!("{name}: {count}, {per_hundred:.1} in 100 seeds");
    }
    let missing = coverage.missing();
    if !missing.is_empty() {
        println!("never happened: {}", missing.join(", "));
    }
    let Some(failed) = failed else {
        return if missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    };
    for line in &failed.tail {
        println!("{line}");
    }
    for violation in &failed.violations {
        println!("seed {}: {violation}", failed.seed);
    }
    println!("replay: cargo run --release -p dialtone-sim -- --seed {} --trace", failed.seed);
    ExitCode::FAILURE
}
