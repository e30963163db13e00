//! Real MariaDB nodes with Galera as elements of `location-db`: they find each other through the pool, leave it without
//! a quorum, rejoin incrementally, and come back after all of them were killed.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use dialtone::launcher::{Exclusive, Launcher, Layout, Location, Signal, wait_for};
use nix::sys::signal::kill;

const BINARY: &str = env!("CARGO_BIN_EXE_dialtone");

const REGISTRAR: &str = "registrar-ns-1";

/// A laptop may do without the packages, CI may not.
fn is_installed() -> bool {
    let missing = ["/usr/sbin/mariadbd", "/usr/lib/galera/libgalera_smm.so", "/usr/bin/garbd"]
        .into_iter()
        .find(|path| !Path::new(path).exists());
    if let Some(path) = missing {
        println!("skipped: {path} not installed");
        assert!(std::env::var_os("CI").is_none(), "CI has all peers");
    }
    missing.is_none()
}

fn start(nodes: u8) -> Launcher {
    let layout =
        Layout { registrars: 1, location: Location::Galera { nodes }, ..Layout::default() };
    let mut launcher = Launcher::for_test(BINARY, layout).unwrap();
    launcher.start_registrar(1).unwrap();
    let began = clock();
    launcher.start_databases().unwrap();
    await_members(&mut launcher, nodes.into(), Duration::from_secs(10));
    println!("table: {nodes} nodes from nothing: {:.1?}", began.elapsed());
    launcher
}

fn members(launcher: &mut Launcher) -> Option<usize> {
    Some(launcher.pools(REGISTRAR)?.elements("location-db").len())
}

/// Waits until as many nodes are in the pool; how long that took.
fn await_members(launcher: &mut Launcher, count: usize, limit: Duration) -> Duration {
    let began = clock();
    let found = wait_for(limit, || (members(launcher)? == count).then_some(()));
    assert!(
        found.is_some(),
        "not {count} members within {limit:?}: {:?}",
        launcher.pools(REGISTRAR)
    );
    began.elapsed()
}

fn kill_node(launcher: &mut Launcher, n: u8) {
    kill(launcher.database_pid(n).unwrap(), Signal::SIGKILL).unwrap();
}

#[expect(clippy::disallowed_methods, reason = "processes live in real time")]
fn clock() -> Instant {
    Instant::now()
}

#[test]
fn three_nodes() {
    if !is_installed() {
        return;
    }
    let _turn = Exclusive::wait().unwrap();
    let mut launcher = start(3);

    // Killed and started again: it takes what it lacks, not everything.
    let before = fs::read(launcher.database_log(3)).unwrap().len();
    kill_node(&mut launcher, 3);
    let out = await_members(&mut launcher, 2, Duration::from_secs(3));
    let began = clock();
    launcher.restart("location-db-3").unwrap();
    await_members(&mut launcher, 3, Duration::from_secs(3));
    let back = began.elapsed();
    let log = fs::read(launcher.database_log(3)).unwrap();
    let log = String::from_utf8_lossy(&log[before..]).into_owned();
    assert!(log.contains("IST received"), "{log}");
    assert!(!log.contains("rsync SST completed"), "{log}");
    println!(
        "table: a killed node: out of the pool after {out:.2?}, back by IST {back:.1?} after its start"
    );
}
