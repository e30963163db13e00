//! Proxies die and freeze, registrars die, under calls: no phone notices; media relays do, and only their own calls
//! fall silent. `dialtone faults calls` and `dialtone faults media` do the same at full size.
//!
//! Counts are exact; times are asserted at three times what is promised, since other work on the machine stretches them.

use std::{path::Path, time::Duration};

use dialtone::{
    faults::{
        calls::{Plan, measure, table},
        media,
    },
    launcher::Exclusive,
};
use dialtone_bench::phone::Transport;

fn calls_survive(transport: Transport) {
    let _turn = Exclusive::wait().unwrap();
    let plan = Plan {
        kills: 4,
        freezes: 2,
        registrar_kills: 2,
        rate: 50,
        phones: 400,
        transport,
        undisturbed: Duration::from_secs(5),
        seed: 1,
    };
    let binary = Path::new(env!("CARGO_BIN_EXE_dialtone"));
    let rows = measure(binary, plan, |line| println!("{line}"));
    let rows = rows.unwrap_or_else(|error| panic!("{error}"));
    let text = table(&rows);
    text.lines().for_each(|line| println!("table: {line}"));
    assert_eq!(rows.len(), 4);
    assert!(!rows.iter().any(|row| row.broken), "\n{text}");
}

#[test]
fn calls_survive_over_udp() {
    calls_survive(Transport::Udp);
}

#[test]
fn calls_survive_over_tcp() {
    calls_survive(Transport::Tcp);
}

#[test]
fn audio_survives_elsewhere() {
    let _turn = Exclusive::wait().unwrap();
    let plan = media::Plan {
        kills: 1,
        freezes: 1,
        rate: 10,
        phones: 100,
        undisturbed: Duration::from_secs(5),
        seed: 1,
    };
    let binary = Path::new(env!("CARGO_BIN_EXE_dialtone"));
    let rows = media::measure(binary, plan, |line| println!("{line}"));
    let rows = rows.unwrap_or_else(|error| panic!("{error}"));
    let text = media::table(&rows);
    text.lines().for_each(|line| println!("table: {line}"));
    assert_eq!(rows.len(), 3);
    assert!(!rows.iter().any(|row| row.broken), "\n{text}");
    assert_eq!(rows[0].hit, 0);
    // Somebody must have suffered, or nothing was shown.
    assert!(rows[1..].iter().all(|row| row.hit_silent > 0), "\n{text}");
}
