//! The gate: 200 seeds hold every invariant, and a seed replays byte by byte.

use dialtone_sim::{Options, run, search};

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

#[test]
fn two_hundred_seeds_hold_the_invariants() {
    if let Some(failed) = search(0..200, threads(), None, false, |_| ()) {
        for line in &failed.tail {
            println!("{line}");
        }
        panic!(
            "{}\nreplay: cargo run --release -p dialtone-sim -- --seed {} --trace",
            failed.violations.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
            failed.seed
        );
    }
}

#[test]
fn a_seed_replays_identically() {
    let mut hashes = Vec::new();
    for seed in [3, 4, 17, 90] {
        let (one, two) = (run(seed, Options::default()), run(seed, Options::default()));
        assert_eq!(one.hash, two.hash, "seed {seed}");
        assert_eq!(one.violations, two.violations, "seed {seed}");
        hashes.push(one.hash);
    }
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 4, "different seeds differ");
}
