//! Sidecars, their servers and a registrar as processes: what leaves the pool, what comes back, and when.
//!
//! Bounds are asserted at three times what is promised: other programs run at the same time.

mod support;

use std::time::Duration;

use dialtone::launcher::{Exclusive, Life, Signal, wait_for};
use nix::sys::signal::kill;
use support::{await_elements, server, start};

const REGISTRAR: &str = "registrar-ns-1";

/// Not a test but the server that sidecars start.
#[test]
fn tcp_server() {
    support::serve_if_asked();
}

#[test]
fn a_frozen_server_leaves_the_pool_and_comes_back() {
    let _turn = Exclusive::wait().unwrap();
    let mut launcher = start(1, 2);
    let server = server(&mut launcher, "echo-1");
    kill(server, Signal::SIGSTOP).unwrap();
    let out = await_elements(&mut launcher, REGISTRAR, 1, Duration::from_secs(3));
    kill(server, Signal::SIGCONT).unwrap();
    let back = await_elements(&mut launcher, REGISTRAR, 2, Duration::from_secs(6));
    println!(
        "table: a frozen server: out of the pool after {out:.2?}, back {back:.2?} after it went on (bound 2 s)"
    );
}

#[test]
fn a_killed_server_ends_its_sidecar_and_leaves_the_pool() {
    let _turn = Exclusive::wait().unwrap();
    let mut launcher = start(1, 2);
    kill(server(&mut launcher, "echo-1"), Signal::SIGKILL).unwrap();
    let out = await_elements(&mut launcher, REGISTRAR, 1, Duration::from_secs(3));
    let ended =
        wait_for(Duration::from_secs(3), || match launcher.process("echo-1").unwrap().life() {
            Life::Ended(ended) => Some(ended.to_string()),
            _ => None,
        });
    assert_eq!(ended.as_deref(), Some("exit code 137"));
    println!("table: a killed server: out of the pool after {out:.2?}");
}

#[test]
fn a_killed_or_frozen_sidecar_is_removed_by_its_registrar() {
    let _turn = Exclusive::wait().unwrap();
    let mut launcher = start(1, 3);
    launcher.kill("echo-1", Signal::SIGKILL).unwrap();
    let killed = await_elements(&mut launcher, REGISTRAR, 2, Duration::from_secs(6));
    launcher.kill("echo-2", Signal::SIGSTOP).unwrap();
    let frozen = await_elements(&mut launcher, REGISTRAR, 1, Duration::from_secs(9));
    launcher.kill("echo-2", Signal::SIGCONT).unwrap();
    let back = await_elements(&mut launcher, REGISTRAR, 2, Duration::from_secs(6));
    println!(
        "table: a sidecar: removed {killed:.2?} after SIGKILL (bound 2 s), {frozen:.2?} after SIGSTOP (bound 3 s), \
         back {back:.2?} after SIGCONT (bound 2 s)"
    );
    launcher.restart("echo-1").unwrap();
    await_elements(&mut launcher, REGISTRAR, 3, Duration::from_secs(3));
}

#[test]
fn sigterm_takes_the_server_out_of_the_pool_before_it_ends() {
    let _turn = Exclusive::wait().unwrap();
    let mut launcher = start(1, 1);
    let server = server(&mut launcher, "echo-1");
    assert!(launcher.stop("echo-1").unwrap(), "stopped in order");
    // The registrar confirmed before the process ended; its snapshot follows within moments.
    await_elements(&mut launcher, REGISTRAR, 0, Duration::from_millis(500));
    assert!(kill(server, None).is_err(), "the server has ended");
    let log = launcher.log("echo-1").unwrap();
    let at = |text: &str| log.find(text).unwrap_or_else(|| panic!("no {text:?} in:\n{log}"));
    assert!(at("de-registered") < at("the server has ended"));
    assert!(launcher.stop("registrar-ns-1").unwrap(), "stopped in order");
}
