//! Servers on a network of a test's own.

use dialtone::launcher::{Launcher, Layout};

use crate::netns::SERVERS;

/// Everything but relays, with two gateways, at ports 5060 and 5070. Proxies use relays if the layout has some.
pub(crate) fn start(relays: u8) -> Launcher {
    let layout = Layout {
        edge_address: SERVERS.into(),
        edge_port: Some(5060),
        registrars: 1,
        relays,
        ..Layout::default()
    };
    let mut launcher = Launcher::for_test(env!("CARGO_BIN_EXE_dialtone"), layout).unwrap();
    launcher.start_registrar(1).unwrap();
    let names =
        [launcher.spawn_location_db(), launcher.spawn_gateway(1), launcher.spawn_gateway(2)];
    for name in names {
        launcher.wait_ready(&name.unwrap()).unwrap();
    }
    // After the gateways: a proxy that finds no pool of theirs looks again half a second later.
    launcher.start_proxy(1).unwrap();
    launcher
}
