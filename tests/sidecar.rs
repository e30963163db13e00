//! Sidecars, their servers and registrars as processes: what leaves the pool, what comes back, and when.
//!
//! Bounds are asserted at three times what is promised: other tests run at the same time.

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use dialtone::launcher::{Launcher, Layout, Life, Sidecar, Signal, wait_for};
use nix::{sys::signal::kill, unistd::Pid};

/// Names the address that this test program serves at when it is started as a server.
const LISTEN: &str = "DIALTONE_TEST_LISTEN";

/// Not a test but the server that sidecars start: accepts TCP connections for ever.
#[test]
fn tcp_server() {
    let Ok(address) = std::env::var(LISTEN) else { return };
    let listener = TcpListener::bind(address).unwrap();
    for connection in listener.incoming() {
        drop(connection);
    }
}

fn sidecar(launcher: &Launcher, n: u8) -> Sidecar {
    let address = format!("{}:7000", launcher.slice().host(60 + n));
    let server = std::env::current_exe().unwrap();
    Sidecar {
        name: format!("echo-{n}"),
        pool: "echo".to_owned(),
        transport: format!("tcp:{address}"),
        options: vec!["--check=tcp".to_owned()],
        command: vec![
            "env".into(),
            format!("{LISTEN}={address}").into(),
            server.into(),
            "--exact".into(),
            "tcp_server".into(),
        ],
    }
}

/// A registrar and `count` sidecars with servers, all in service.
fn start(count: u8) -> Launcher {
    let layout = Layout { registrars: 1, ..Layout::default() };
    let mut launcher = Launcher::for_test(env!("CARGO_BIN_EXE_dialtone"), layout).unwrap();
    launcher.start_registrar(1).unwrap();
    for n in 1..=count {
        let sidecar = sidecar(&launcher, n);
        launcher.spawn_sidecar(&sidecar).unwrap();
    }
    for n in 1..=count {
        launcher.wait_ready(&format!("echo-{n}")).unwrap();
    }
    launcher
}

fn children(pid: i32) -> Vec<i32> {
    let text =
        std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// The server below the sidecar: sidecar, keeper, server. Children are listed under the thread that started them.
fn server(launcher: &mut Launcher, n: u8) -> Pid {
    let sidecar = launcher.process(&format!("echo-{n}")).unwrap().pid() as i32;
    let keeper = children(sidecar)[0];
    Pid::from_raw(children(keeper)[0])
}

/// Waits until as many elements are in the pool; says how long it took.
#[expect(clippy::disallowed_methods, reason = "processes live in real time")]
fn await_elements(launcher: &mut Launcher, count: usize, limit: Duration) -> Duration {
    let started = Instant::now();
    let found = wait_for(limit, || {
        let pools = launcher.pools("registrar-ns-1")?;
        (pools.elements("echo").len() == count).then_some(())
    });
    assert!(
        found.is_some(),
        "not {count} elements within {limit:?}: {:?}",
        launcher.pools("registrar-ns-1")
    );
    started.elapsed()
}

#[test]
fn a_frozen_server_leaves_the_pool_and_comes_back() {
    let mut launcher = start(2);
    await_elements(&mut launcher, 2, Duration::from_secs(5));
    let server = server(&mut launcher, 1);
    kill(server, Signal::SIGSTOP).unwrap();
    let out = await_elements(&mut launcher, 1, Duration::from_secs(3));
    kill(server, Signal::SIGCONT).unwrap();
    let back = await_elements(&mut launcher, 2, Duration::from_secs(6));
    println!(
        "table: a frozen server: out of the pool after {out:.2?}, back {back:.2?} after it went on (bound 2 s)"
    );
}

#[test]
fn a_killed_server_ends_its_sidecar_and_leaves_the_pool() {
    let mut launcher = start(2);
    await_elements(&mut launcher, 2, Duration::from_secs(5));
    kill(server(&mut launcher, 1), Signal::SIGKILL).unwrap();
    let out = await_elements(&mut launcher, 1, Duration::from_secs(3));
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
    let mut launcher = start(3);
    await_elements(&mut launcher, 3, Duration::from_secs(5));
    launcher.kill("echo-1", Signal::SIGKILL).unwrap();
    let killed = await_elements(&mut launcher, 2, Duration::from_secs(6));
    launcher.kill("echo-2", Signal::SIGSTOP).unwrap();
    let frozen = await_elements(&mut launcher, 1, Duration::from_secs(9));
    launcher.kill("echo-2", Signal::SIGCONT).unwrap();
    let back = await_elements(&mut launcher, 2, Duration::from_secs(6));
    println!(
        "table: a sidecar: removed {killed:.2?} after SIGKILL (bound 2 s), {frozen:.2?} after SIGSTOP (bound 3 s), \
         back {back:.2?} after SIGCONT (bound 2 s)"
    );
    launcher.restart("echo-1").unwrap();
    await_elements(&mut launcher, 3, Duration::from_secs(3));
}

#[test]
fn sigterm_takes_the_server_out_of_the_pool_before_it_ends() {
    let mut launcher = start(1);
    await_elements(&mut launcher, 1, Duration::from_secs(5));
    let server = server(&mut launcher, 1);
    assert!(launcher.stop("echo-1").unwrap(), "stopped in order");
    // The registrar confirmed before the process ended; its snapshot follows within moments.
    await_elements(&mut launcher, 0, Duration::from_millis(500));
    assert!(kill(server, None).is_err(), "the server has ended");
    let log = launcher.log("echo-1").unwrap();
    let at = |text: &str| log.find(text).unwrap_or_else(|| panic!("no {text:?} in:\n{log}"));
    assert!(at("de-registered") < at("the server has ended"));
    assert!(launcher.stop("registrar-ns-1").unwrap(), "stopped in order");
}
