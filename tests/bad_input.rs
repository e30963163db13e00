//! Bad input to every port of a system under calls, at a size for every day; `dialtone faults abuse` sends ten million.

use std::{path::Path, time::Duration};

use dialtone::{
    faults::abuse::{Plan, measure, table},
    launcher::Exclusive,
};

/// How much resident memory may grow. Everything is still warming up after a few thousand packets; 5 % holds for
/// millions.
const GROWTH: f64 = 0.4;

#[test]
fn bad_input_is_answered_or_counted_and_hurts_nobody() {
    let _turn = Exclusive::wait().unwrap();
    let plan = Plan {
        packets: 100_000,
        seed: 1,
        rounds: 1,
        quiet: Duration::ZERO,
        limit: Duration::from_secs(60),
        growth: GROWTH,
        calls: 20,
        phones: 50,
    };
    let binary = Path::new(env!("CARGO_BIN_EXE_dialtone"));
    let outcome = measure(binary, plan, |line| println!("{line}"));
    let outcome = outcome.unwrap_or_else(|error| panic!("{error}"));
    let text = table(&outcome);
    println!("{text}");
    assert!(outcome.wrong.is_empty(), "{:#?}", outcome.wrong);
    assert!(outcome.sent > 50_000, "only {} sent", outcome.sent);
    assert!(outcome.good.resolutions > 50 && outcome.good.phones.calls > 50);
}
