//! Database nodes die, freeze and are cut off, under calls and registrations: no call notices, no REGISTER fails, and
//! every binding is found afterwards. `dialtone faults database` does the same at full size.
//!
//! Counts are exact; times are asserted at three times what is promised, since other work on the machine stretches them.

#[allow(dead_code, reason = "each test has use for a part of it")]
#[path = "support/netns.rs"]
mod netns;

use std::{path::Path, time::Duration};

use dialtone::{
    faults::{
        calls::Error,
        database::{Plan, measure, table},
    },
    launcher::{self, Exclusive},
};

const NOTHING: Plan = Plan {
    kills: 0,
    freezes: 0,
    cuts: 0,
    // The one that is written to.
    nodes: 1,
    blackouts: 0,
    rate: 50,
    register_rate: 100,
    phones: 800,
    undisturbed: Duration::from_secs(4),
    seed: 1,
};

fn nobody_notices(plan: Plan, rows: usize) {
    let binary = Path::new(env!("CARGO_BIN_EXE_dialtone"));
    let found = match measure(binary, plan, |line| println!("{line}")) {
        Err(Error::Launcher(launcher::Error::Package { packages })) => {
            return netns::missing(&packages, "not installed");
        }
        found => found.unwrap_or_else(|error| panic!("{error}")),
    };
    let text = table(&found);
    text.lines().for_each(|line| println!("table: {line}"));
    assert_eq!(found.len(), rows);
    assert!(!found.iter().any(|row| row.broken), "\n{text}");
}

#[test]
fn a_node_is_killed_and_frozen_then_all_are_gone() {
    let _turn = Exclusive::wait().unwrap();
    nobody_notices(Plan { kills: 1, freezes: 1, blackouts: 1, ..NOTHING }, 4);
}

#[test]
fn a_node_is_cut_off() {
    let _turn = Exclusive::wait().unwrap();
    netns::within("a_node_is_cut_off", |_| nobody_notices(Plan { cuts: 1, ..NOTHING }, 2));
}
