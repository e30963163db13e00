//! The commands that measure stay alive: tiny measurements of everything.

use std::{path::Path, time::Duration};

use dialtone::{
    figures::{Error, conference, location, media, name_service, sip},
    launcher::{self, Exclusive},
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

/// A third of what is promised: other work on the machine takes its share.
fn location(store: location::Kind, committed: f64, register_rates: Vec<u32>) -> Result<(), Error> {
    let plan = location::Plan {
        store,
        contacts: 20_000,
        refreshed: 10_000,
        runs: 1,
        outstanding: 2000,
        duration: Duration::from_secs(if register_rates.is_empty() { 0 } else { 2 }),
        register_rates,
        folder: std::env::temp_dir(),
    };
    let figures = location::measure(Path::new(BINARY), &plan, |line| println!("{line}"))?;
    location::table(&plan, &figures).lines().for_each(|line| println!("table: {line}"));
    assert!(figures.new_per_second >= committed / 3.0, "{figures:?}");
    assert!(figures.refreshed_per_second[0] >= committed / 3.0, "{figures:?}");
    assert_eq!(figures.loaded.contacts, 20_000);
    // Caches of the database's own weigh as much as a small table.
    const CACHES: u64 = 16 << 20;
    assert!(figures.loaded.counted <= 400 * 20_000, "{figures:?}");
    assert!(figures.loaded.memory <= 3 * 400 * 20_000 + CACHES, "{figures:?}");
    assert!(figures.loaded.seconds_per_million() <= 3.0 * 20.0, "{figures:?}");
    assert!(figures.registers.iter().all(|row| row.failed == 0), "{figures:?}");
    Ok(())
}

#[test]
fn bindings_in_sqlite() {
    let _turn = Exclusive::wait().unwrap();
    location(location::Kind::Sqlite, 20_000.0, vec![1000]).unwrap();
}

#[test]
fn bindings_in_a_cluster() {
    let _turn = Exclusive::wait().unwrap();
    match location(location::Kind::Galera, 15_000.0, Vec::new()) {
        Err(Error::Launcher(launcher::Error::Package { packages })) => {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "{packages} not installed");
            println!("skipped: {packages} not installed");
        }
        measured => measured.unwrap(),
    }
}

#[test]
fn rates_and_memory_of_a_registrar() {
    let _turn = Exclusive::wait().unwrap();
    let plan = name_service::Plan {
        duration: Duration::from_millis(200),
        runs: 1,
        kept_alive: 200,
        elements: 3000,
        associations: 8,
    };
    let figures =
        name_service::measure(Path::new(BINARY), plan, |line| println!("{line}")).unwrap();
    name_service::table(&figures).lines().for_each(|line| println!("table: {line}"));
    let ways: Vec<_> =
        figures.rows.iter().map(|row| (row.what, row.link, row.outstanding)).collect();
    let (resolutions, registrations) = ("resolutions", "registrations");
    assert_eq!(
        ways,
        [
            (resolutions, "TCP", 1),
            (resolutions, "TCP", 64),
            (resolutions, "SCTP", 1),
            (resolutions, "SCTP", 64),
            (registrations, "SCTP", 1),
            (registrations, "SCTP", 64)
        ]
    );
    assert!(figures.rows.iter().all(|row| row.per_second > 1.0 && row.cpu_us > 0.0), "{figures:?}");
    let kept = figures.kept_alive.as_ref().unwrap();
    assert_eq!(kept.removed, 0, "{kept:?}");
    // One for each element in a second; how many of them are late is a question of what else runs on this machine.
    assert!((50.0..300.0).contains(&kept.per_second) && kept.cores > 0.0, "{kept:?}");
    let many = figures.many.as_ref().unwrap();
    assert!(many.registrations_per_second > 1.0 && many.bytes_per_element > 100.0, "{many:?}");
    assert_eq!(many.compared, 1500);
    // Every pool, with all of its elements.
    assert_eq!((many.taken_over.resolved, many.taken_over.answered), (375, 3000), "{many:?}");
}

#[test]
fn participants_of_a_conference_server() {
    let _turn = Exclusive::wait().unwrap();
    let sizes =
        [(60, 10), (30, 30)].map(|(participants, room)| conference::Size { participants, room });
    let plan = conference::Plan {
        sizes: sizes.to_vec(),
        duration: Duration::from_secs(2),
        rounds: 1,
        threads: None,
        frames: 10,
    };
    let figures = conference::measure(Path::new(BINARY), &plan, |line| println!("{line}")).unwrap();
    conference::table(&plan, &figures).lines().for_each(|line| println!("table: {line}"));
    assert_eq!(figures.runs.iter().map(|run| run.size).collect::<Vec<_>>(), sizes);
    for run in &figures.runs {
        assert_eq!(run.wrong, 0, "{run:?}");
        // How many are late is a question of what else runs on this machine.
        assert!(run.loss() < 0.3, "{run:?}");
        assert!(run.cpu_seconds > 0.0 && run.resident_bytes > 0.0, "{run:?}");
        assert!(run.sent >= 2 * 50 * u64::from(run.size.participants) / 2, "{run:?}");
    }
}

#[test]
fn packets_and_calls_of_a_relay() {
    let _turn = Exclusive::wait().unwrap();
    let plan = media::Plan {
        rates: vec![4000, 1000],
        duration: Duration::from_millis(600),
        warm_up: Duration::from_millis(300),
        rounds: 1,
        setups: 100,
        threads: None,
    };
    let figures = media::measure(Path::new(BINARY), &plan, |line| println!("{line}")).unwrap();
    media::table(&plan, &figures).lines().for_each(|line| println!("table: {line}"));
    let relays = if figures.rtpengine.is_some() {
        2
    } else {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "rtpengine not installed");
        println!("skipped: rtpengine not installed");
        1
    };
    assert_eq!(figures.weights.len(), relays);
    assert_eq!(figures.runs.len(), plan.rates.len() * (relays + 1));
    for run in &figures.runs {
        // Directly for half of the time.
        assert!(run.received >= u64::from(run.rate) / 8, "{run:?}");
        assert_eq!(run.wrong, 0, "{run:?}");
        // How many are lost is a question of what else runs on this machine.
        assert!(run.loss() < 0.5, "{run:?}");
        assert_eq!(run.relay.is_some(), run.cpu_seconds > 0.0, "{run:?}");
    }
    for weight in &figures.weights {
        assert_eq!(weight.calls, 40);
        assert!(weight.setup_cpu_ms > 0.0 && weight.descriptors >= 2.0, "{weight:?}");
    }
}
