//! A local network on which no address of a registrar stands anywhere: registrars, elements and users find each other by
//! multicast, over IPv4 and over IPv6. Each is a host of its own in a network of the test's own.

#[path = "support/netns.rs"]
#[allow(dead_code, reason = "servers have no host of their own here")]
mod netns;

use std::{
    env, fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use dialtone::launcher::wait_for;
use netns::{Host, Network, run};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_dialtone");
const LIMIT: Duration = Duration::from_secs(20);

/// A host with an address of each family.
struct Place {
    host: Host,
    address: IpAddr,
}

impl Place {
    fn new(network: &Network, n: u8, ipv6: bool) -> Self {
        let name = format!("host-{n}");
        let host = network.host(&name, Ipv4Addr::new(10, 77, 0, n));
        run(&format!("ip -n {name} address add fd77::{n}/64 dev eth0 nodad"));
        run(&format!("ip -n {name} route add 224.0.0.0/4 dev eth0"));
        let address = match ipv6 {
            true => format!("fd77::{n}").parse().unwrap(),
            false => IpAddr::V4(host.address),
        };
        Self { host, address }
    }

    fn dialtone(&self) -> Command {
        let mut command = self.host.command(BINARY);
        command.env_remove("DIALTONE_REGISTRARS");
        command
    }
}

/// A process that ends with the test, and what it said.
struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    fn start(command: &mut Command, log: PathBuf) -> Self {
        let output = fs::File::create(&log).unwrap();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(output).spawn();
        Self { child: child.unwrap(), log }
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() {
            println!(
                "{}:\n{}",
                self.log.display(),
                fs::read_to_string(&self.log).unwrap_or_default()
            );
        }
    }
}

/// In its own network the test is the first process: whoever has it as the parent is no orphan.
fn die_with_us() -> String {
    format!("--die-with-parent={}", std::process::id())
}

fn registrar(folder: &Path, place: &Place) -> Daemon {
    let name = place.host.name.clone();
    let config = folder.join(format!("{name}.toml"));
    let address = place.address;
    let text =
        format!("name = \"{name}\"\naddress = \"{address}\"\nannounce = true\ndiscover = true\n");
    fs::write(&config, text).unwrap();
    let mut command = place.dialtone();
    command.args(["registrar-ns", &die_with_us(), "--config"]).arg(&config);
    command.arg("--ready-file").arg(folder.join(format!("{name}.ready")));
    Daemon::start(&mut command, folder.join(format!("{name}.log")))
}

fn is_ready(folder: &Path, place: &Place) -> bool {
    folder.join(format!("{}.ready", place.host.name)).exists()
}

/// What a user at `place`, who was told no address, sees of the pool.
fn resolve(place: &Place) -> Option<Vec<String>> {
    let mut command = place.dialtone();
    command.args(["pool-user", "resolve", "echo", "--registrar", "multicast", "--json"]);
    // A group of IPv6 does not say on which interface it is heard.
    if place.address.is_ipv6() {
        command.args(["--bind", &place.address.to_string()]);
    }
    let Output { status, stdout, .. } = command.output().unwrap();
    if !status.success() {
        return None;
    }
    let view: Value = serde_json::from_slice(&stdout).unwrap();
    let elements = view["elements"].as_array().unwrap();
    Some(elements.iter().map(|element| element["id"].as_str().unwrap().to_owned()).collect())
}

/// Registrars find each other, the element finds one of them, a user any; and when a registrar dies, nothing is lost.
fn everybody_is_found(network: &Network, ipv6: bool) {
    let folder = env::temp_dir();
    let [first, second, server, user] = [11, 12, 21, 31].map(|n| Place::new(network, n, ipv6));
    let mut registrars = [&first, &second].map(|place| registrar(&folder, place));
    for place in [&first, &second] {
        let ready = wait_for(LIMIT, || is_ready(&folder, place).then_some(()));
        assert!(ready.is_some(), "{} is not in service", place.host.name);
    }
    let address = SocketAddr::new(server.address, 7000).to_string();
    let mut command = server.dialtone();
    command.args(["pool-element", &die_with_us(), "--pool", "echo", "--pe-id", "0x7"]);
    command.args(["--registrar", "multicast", "--transport", &format!("tcp:{address}"), "--"]);
    command.args([BINARY, "faults", "echo-server", &address]);
    let _element = Daemon::start(&mut command, folder.join("element.log"));

    let seen = || resolve(&user).filter(|ids| *ids == ["0x00000007"]).map(drop);
    assert!(wait_for(LIMIT, seen).is_some(), "the user does not see the element");
    // Whichever of them it registered with: after the other's end the one that is left knows it.
    for n in 0..2 {
        registrars[n].end();
        assert!(wait_for(LIMIT, seen).is_some(), "lost with registrar {n}");
        // It comes back, and finds the other one, since nobody else could tell it of the element.
        let place = [&first, &second][n];
        registrars[n] = registrar(&folder, place);
        let ready = wait_for(LIMIT, || is_ready(&folder, place).then_some(()));
        assert!(ready.is_some(), "{} is not back in service", place.host.name);
        assert!(wait_for(LIMIT, seen).is_some());
    }
    for registrar in &mut registrars {
        registrar.end();
    }
    assert_eq!(resolve(&user), None, "nobody is left to ask");
}

#[test]
fn everybody_is_found_over_ipv4() {
    netns::within("everybody_is_found_over_ipv4", |network| everybody_is_found(network, false));
}

#[test]
fn everybody_is_found_over_ipv6() {
    if !Path::new("/proc/net/if_inet6").exists() {
        return netns::missing("IPv6", "not in this kernel");
    }
    netns::within("everybody_is_found_over_ipv6", |network| everybody_is_found(network, true));
}
