//! The gate for SIP: flows with a fault after every output, random seeds, and bugs planted on purpose.

use dialtone_sim::sip::{Bugs, Options, Scenario, run, search, search_flows};

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

fn hold(scenario: Scenario, seeds: std::ops::Range<u64>) {
    if let Some(failed) = search(scenario, seeds, threads(), Bugs::default(), |_| ()) {
        for line in &failed.tail {
            println!("{line}");
        }
        panic!(
            "{}\nreplay: cargo run --release -p dialtone-sim -- sip --scenario {} --seed {} --trace",
            violations(&failed),
            format!("{scenario:?}").to_lowercase(),
            failed.seed
        );
    }
}

#[test]
fn sixty_seeds_of_calls_hold() {
    hold(Scenario::Calls, 0..60);
}

/// Here callees hung up before anybody had acknowledged their answer.
#[test]
fn callees_wait_for_the_acknowledgement() {
    hold(Scenario::Calls, 5130..5131);
    hold(Scenario::Calls, 5166..5167);
}

#[test]
fn three_hundred_seeds_of_registrations_hold() {
    hold(Scenario::Registrations, 0..300);
}

#[test]
fn two_hundred_seeds_of_rooms_hold() {
    hold(Scenario::Rooms, 0..200);
}

/// Here, while the database stood still, a proxy remembered rooms at a server that only the other one had given up; the
/// first to come there was followed by callers who met at the new server.
#[test]
fn callers_may_be_misled_by_memory_while_the_database_is_away() {
    hold(Scenario::Rooms, 20284..20285);
}

#[test]
fn a_seed_replays_identically() {
    for scenario in [Scenario::Calls, Scenario::Registrations, Scenario::Rooms] {
        let mut hashes = Vec::new();
        for seed in [1, 2, 30] {
            let once = || run(scenario, seed, Options::default()).hash;
            let (one, two) = (once(), once());
            assert_eq!(one, two, "{scenario:?} {seed}");
            hashes.push(one);
        }
        hashes.dedup();
        assert_eq!(hashes.len(), 3, "different seeds differ");
    }
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
fn answers_at_a_relay_that_the_phone_knows_nothing_of_are_noticed() {
    let what = caught(Bugs { own_relays: true, ..Bugs::default() });
    assert!(what.contains("media: call has"), "{what}");
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

#[test]
fn rooms_that_everybody_claims_for_himself_are_noticed() {
    let bugs = Bugs { split_claims: true, ..Bugs::default() };
    let failed = search(Scenario::Rooms, 0..50, threads(), bugs, |_| ());
    let what = violations(&failed.expect("a room that is split"));
    assert!(what.contains("do not meet"), "{what}");
}

/// What the first failing seed has to say about a planted bug.
fn caught_while_registering(bugs: Bugs) -> String {
    let failed = search(Scenario::Registrations, 0..200, threads(), bugs, |_| ());
    let failed = failed.unwrap_or_else(|| panic!("{bugs:?} is not noticed"));
    println!("{bugs:?}: seed {}: {}", failed.seed, failed.violations[0]);
    violations(&failed)
}

#[test]
fn a_database_that_takes_saves_in_any_order_brings_bindings_back() {
    let what = caught_while_registering(Bugs { unordered_saves: true, ..Bugs::default() });
    assert!(what.contains("is bound"), "{what}");
}

#[test]
fn a_proxy_that_does_not_hear_of_changes_is_noticed() {
    let what = caught_while_registering(Bugs { lost_changes: true, ..Bugs::default() });
    assert!(what.contains("bindings"), "{what}");
}

#[test]
fn a_call_that_waits_for_the_database_is_noticed() {
    let what = caught_while_registering(Bugs { patient_lookups: true, ..Bugs::default() });
    assert!(what.contains("the refusal of"), "{what}");
}

#[test]
fn a_clock_that_is_believed_loses_bindings() {
    let what = caught_while_registering(Bugs { trusted_clocks: true, ..Bugs::default() });
    assert!(what.contains("bound") || what.contains("is lost"), "{what}");
}
