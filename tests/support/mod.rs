//! What the tests with sidecars share: servers for them, and waiting for the pool to have as many elements.

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use dialtone::launcher::{Launcher, Layout, Sidecar, wait_for};
use nix::unistd::Pid;

/// Names the address that the test program serves at when it is started as a server.
const LISTEN: &str = "DIALTONE_TEST_LISTEN";

/// The server that sidecars start: the test program itself with its test `tcp_server`, which calls this. Accepts TCP
/// connections for ever; returns at once when it is run as a test.
pub(crate) fn serve_if_asked() {
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

/// Registrars, and sidecars `echo-1` … with servers, all in service and in the pool `echo` of every registrar.
pub(crate) fn start(registrars: u8, sidecars: u8) -> Launcher {
    let layout = Layout { registrars, ..Layout::default() };
    let mut launcher = Launcher::for_test(env!("CARGO_BIN_EXE_dialtone"), layout).unwrap();
    let names: Vec<String> =
        (1..=registrars).map(|n| launcher.spawn_registrar(n).unwrap()).collect();
    for name in &names {
        launcher.wait_ready(name).unwrap();
    }
    for n in 1..=sidecars {
        let sidecar = sidecar(&launcher, n);
        launcher.spawn_sidecar(&sidecar).unwrap();
    }
    for n in 1..=sidecars {
        launcher.wait_ready(&format!("echo-{n}")).unwrap();
    }
    for name in &names {
        await_elements(&mut launcher, name, sidecars.into(), Duration::from_secs(5));
    }
    launcher
}

fn children(pid: i32) -> Vec<i32> {
    let text =
        std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// The server below a sidecar: sidecar, keeper, server. Children are listed under the thread that started them.
pub(crate) fn server(launcher: &mut Launcher, sidecar: &str) -> Pid {
    let sidecar = launcher.process(sidecar).unwrap().pid() as i32;
    let keeper = children(sidecar)[0];
    Pid::from_raw(children(keeper)[0])
}

/// Waits until as many elements are in the pool `echo` of a registrar; says how long it took.
#[expect(clippy::disallowed_methods, reason = "processes live in real time")]
pub(crate) fn await_elements(
    launcher: &mut Launcher,
    registrar: &str,
    count: usize,
    limit: Duration,
) -> Duration {
    let started = Instant::now();
    let found = wait_for(limit, || {
        let pools = launcher.pools(registrar)?;
        (pools.elements("echo").len() == count).then_some(())
    });
    assert!(
        found.is_some(),
        "not {count} elements within {limit:?}: {:?}",
        launcher.pools(registrar)
    );
    started.elapsed()
}
