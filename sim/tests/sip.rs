//! The gate for SIP: flows with a fault after every output, random seeds, and bugs planted on purpose.

use dialtone_sim::sip::{Bugs, Options, run, search, search_flows};

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

fn violations(failed: &dialtone_sim::Outcome) -> String {
    failed.violations.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn flows_survive_a_fault_after_every_output() {
    let report = search_flows(threads(), Options::default(), None, false, |_, _| ());
    if let Some(failure) = report.failure() {
        panic!("{failure}");
    }
    println!("{} runs: {:?}", report.runs, report.points);
    assert!(report.runs > 2_000, "the enumeration has lost its points: {report:?}");
}

#[test]
fn sixty_seeds_hold() {
    if let Some(failed) = search(0..60, threads(), Bugs::default(), |_| ()) {
        for line in &failed.tail {
            println!("{line}");
        }
        panic!(
            "{}\nreplay: cargo run --release -p dialtone-sim -- sip --seed {} --trace",
            violations(&failed),
            failed.seed
        );
    }
}

#[test]
fn a_seed_replays_identically() {
    let mut hashes = Vec::new();
    for seed in [1, 2, 30] {
        let (one, two) = (run(seed, Options::default()), run(seed, Options::default()));
        assert_eq!(one.hash, two.hash, "seed {seed}");
        hashes.push(one.hash);
    }
    hashes.dedup();
    assert_eq!(hashes.len(), 3, "different seeds differ");
}

/// What the first failing flow has to say about a planted bug.
fn caught(bugs: Bugs) -> String {
    let report =
        search_flows(threads(), Options { bugs, ..Options::default() }, None, false, |_, _| ());
    let failed = report.failed.unwrap_or_else(|| panic!("{bugs:?} is not noticed"));
    let first = failed.1.first().expect("a failed run has a violation").to_string();
    println!("{bugs:?}: {}: {first}", failed.0);
    failed.1.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn without_the_delivery_table_a_phone_rings_twice() {
    let what = caught(Bugs { no_leg_ids: true, ..Bugs::default() });
    assert!(what.contains("rings twice"), "{what}");
}

#[test]
fn a_cancel_that_does_not_survive_fail_over_leaves_a_phone_ringing() {
    let what = caught(Bugs { lost_cancels: true, ..Bugs::default() });
    assert!(what.contains("still rings") || what.contains("final answer"), "{what}");
}

#[test]
fn a_proxy_that_goes_on_with_stale_input_rings_a_phone() {
    let what = caught(Bugs { stale_input: true, ..Bugs::default() });
    assert!(what.contains("rings twice"), "{what}");
}

#[test]
fn an_answer_before_the_commit_is_noticed() {
    let what = caught(Bugs { early_answers: true, ..Bugs::default() });
    assert!(what.contains("is not in the database"), "{what}");
}
