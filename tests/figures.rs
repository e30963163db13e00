//! The commands that measure stay alive: tiny measurements of everything.

use std::{path::Path, time::Duration};

use dialtone::{
    figures::{name_service, sip},
    launcher::Exclusive,
};
use dialtone_bench::phone::Transport;

const BINARY: &str = env!("CARGO_BIN_EXE_dialtone");

#[test]
fn cpu_time_and_memory_of_registrations_and_calls() {
    let _turn = Exclusive::wait().unwrap();
    let plan = sip::Plan {
        register_rate: 500,
        call_rate: 20,
        duration: Duration::from_secs(1),
        runs: 1,
        contacts: 100,
        transport: Transport::Udp,
    };
    let figures = sip::measure(Path::new(BINARY), plan, |line| println!("{line}")).unwrap();
    assert_eq!(figures.rows.len(), 7, "two of everything and the location database");
    assert!(figures.registers > 1000 && figures.calls > 0, "{figures:?}");
    assert_eq!((figures.registers_failed, figures.calls_failed), (0, 0), "{figures:?}");
    assert!(figures.total(|row| row.per_1000_registers) > 0.0, "{figures:?}");
    assert!(figures.total(|row| row.per_1000_calls) > 0.0, "{figures:?}");
}

#[test]
fn resolutions_and_memory_of_a_registrar() {
    let _turn = Exclusive::wait().unwrap();
    let plan = name_service::Plan { duration: Duration::from_millis(200), runs: 1, elements: 500 };
    let figures =
        name_service::measure(Path::new(BINARY), plan, |line| println!("{line}")).unwrap();
    let ways: Vec<_> = figures.rows.iter().map(|row| (row.link, row.outstanding)).collect();
    assert_eq!(ways, [("TCP", 1), ("TCP", 64), ("SCTP", 1), ("SCTP", 64)]);
    assert!(figures.rows.iter().all(|row| row.per_second > 1.0), "{figures:?}");
}
