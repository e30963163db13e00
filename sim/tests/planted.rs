//! Bugs planted on purpose: each is caught within a thousand seeds, by an invariant that is meant for it, and each
//! invariant catches one.

use std::collections::BTreeSet;

use dialtone_sim::{Plant, search};

/// Which invariants may notice it first.
fn meant_for(plant: Plant) -> &'static [&'static str] {
    match plant {
        Plant::Chatter => &["bounded", "deadlines", "quiet"],
        Plant::DeafToTargets => &["heard"],
        Plant::DoubleAnswers
        | Plant::DoublePresences
        | Plant::LostAcks
        | Plant::LostAnswers
        | Plant::LostTakeoverAcks => &["answered"],
        Plant::FirmRefusals => &["contested"],
        Plant::FirmRules => &["contested", "converged", "quiet", "resolvable"],
        Plant::FoldedSubtraction => &["converged", "quiet"],
        Plant::ForgetfulUsers => &["usable"],
        Plant::ForgottenEnds => &["bounded"],
        Plant::LostPushes => &["attributes", "converged", "gone"],
        Plant::MissedDeadlines => &["deadlines"],
        Plant::MuteRegistrar | Plant::UnheardAcks => &["spared"],
        Plant::NoResyncOnReturn => &["attributes", "converged", "resolvable", "settled"],
        Plant::ShortTables => &["converged", "quiet", "resolvable", "settled"],
        Plant::SilentGroup => &["converged", "resolvable"],
        Plant::SilentRemovals => &["converged", "gone", "quiet"],
        Plant::SilentTakeovers => &["converged", "rehomed", "settled"],
        Plant::SilentUpdates => &["attributes", "converged", "resolvable"],
        Plant::SlowSuccession => &["rehomed"],
        Plant::TakeoverMovesAll => &["converged", "rehomed", "resolvable", "settled"],
        Plant::UnheardAnswers => &["answered", "converged", "gone"],
        Plant::WrongValues => &["attributes"],
    }
}

/// All that the simulation checks.
const INVARIANTS: [&str; 14] = [
    "answered",
    "attributes",
    "bounded",
    "contested",
    "converged",
    "deadlines",
    "gone",
    "heard",
    "quiet",
    "rehomed",
    "resolvable",
    "settled",
    "spared",
    "usable",
];

#[test]
fn every_planted_bug_is_caught() {
    let threads = std::thread::available_parallelism().map_or(1, Into::into);
    let mut caught = BTreeSet::new();
    for plant in Plant::ALL {
        let failed = search(0..1000, threads, Some(plant), false, |_| ());
        let failed = failed.unwrap_or_else(|| panic!("{plant:?} is not noticed"));
        let violation = failed.violations.first().expect("a failed run has a violation");
        caught.extend(failed.violations.iter().map(|violation| violation.invariant));
        println!("{plant:?}: seed {}: {violation}", failed.seed);
        let meant = meant_for(plant).contains(&violation.invariant);
        assert!(meant, "{plant:?} is noticed by something else: {violation}");
    }
    let idle: Vec<_> = INVARIANTS.iter().filter(|name| !caught.contains(*name)).collect();
    assert!(idle.is_empty(), "no planted bug trips {idle:?}");
}
