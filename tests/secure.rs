//! The name service in secure mode, as processes: registrations, resolutions and calls with TLS between all of them,
//! registrars that die, and `dialtone cert`.

#[allow(dead_code, reason = "each test has use for a part of it")]
#[path = "support/sip.rs"]
mod sip;

use std::{
    collections::BTreeSet,
    net::UdpSocket,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use dialtone::launcher::{Exclusive, Launcher, Layout, Sidecar, Signal, wait_for};
use sip::{Phone, Sip};

const BINARY: &str = env!("CARGO_BIN_EXE_dialtone");
const POOLS: [&str; 5] =
    ["location-db", "sip-edge-tcp", "sip-edge-udp", "sip-gateway", "sip-proxy"];

/// Output and exit code of a command of `dialtone`.
fn dialtone(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(BINARY);
    let Output { status, stdout, stderr } =
        command.args(arguments).env_remove("DIALTONE_REGISTRARS").output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

/// Two registrars, a proxy, two gateways and the database, all in service.
fn start() -> Launcher {
    let grants = vec![("echo".to_owned(), "echo-1".to_owned())];
    let layout = Layout { registrars: 2, secure: true, grants, ..Layout::default() };
    let mut launcher = Launcher::for_test(BINARY, layout).unwrap();
    launcher.spawn_registrar(1).unwrap();
    launcher.spawn_registrar(2).unwrap();
    for n in 1..=2 {
        launcher.wait_ready(&format!("registrar-ns-{n}")).unwrap();
    }
    let names = [
        launcher.spawn_location_db(),
        launcher.spawn_proxy(1),
        launcher.spawn_gateway(1),
        launcher.spawn_gateway(2),
    ];
    for name in names {
        launcher.wait_ready(&name.unwrap()).unwrap();
    }
    for n in 1..=2 {
        await_pools(&mut launcher, n, Duration::from_secs(10), |_| true);
    }
    launcher
}

/// Waits until all elements are known to registrar `n`, all with such a home.
fn await_pools(launcher: &mut Launcher, n: u8, limit: Duration, home: impl Fn(&str) -> bool) {
    let name = format!("registrar-ns-{n}");
    let found = wait_for(limit, || {
        let pools = launcher.pools(&name)?;
        let there = |pool: &&str| {
            let elements = pools.elements(pool);
            let expected = if matches!(*pool, "location-db" | "sip-proxy") { 1 } else { 2 };
            elements.len() == expected && elements.iter().all(|element| home(&element.home))
        };
        POOLS.iter().all(there).then_some(())
    });
    assert!(found.is_some(), "registrar {n}: {:?}", launcher.pools(&name));
}

/// A phone of this user at gateway `n`, registered.
fn phone(launcher: &mut Launcher, user: &str, n: u8) -> Phone {
    let socket = UdpSocket::bind((launcher.slice().host(100 + n), 0)).unwrap();
    let addresses = launcher.addresses(&format!("sip-gateway-{n}")).unwrap();
    let mut phone = Phone::new(user, socket, addresses["sip-udp"].parse().unwrap());
    phone.register();
    phone
}

fn call(alice: &mut Phone, bob: &mut Phone) -> Sip {
    let contact = alice.contact();
    let invite = alice.request("INVITE", "sip:bob@dialtone.test", &contact, "");
    alice.send(&invite);
    let invite = bob.expect("the call", |request| request.is("INVITE"));
    bob.answer(&invite, "486 Busy Here", "", "");
    alice.expect("a final answer", |answer| answer.status() >= 200)
}

/// Proves S-010.
#[test]
fn the_whole_system_runs_on_certificates() {
    let _turn = Exclusive::wait().unwrap();
    let mut launcher = start();
    let (mut alice, mut bob) = (phone(&mut launcher, "alice", 1), phone(&mut launcher, "bob", 2));
    assert_eq!(call(&mut alice, &mut bob).status(), 486);

    // A tool says who it is and gets an answer; without that, and to a plain question, there is none.
    let registrar = launcher.slice().host(1).to_string();
    let bind = launcher.slice().host(200).to_string();
    let options = launcher.certificate("tool").unwrap().options();
    let ask = [
        "pool-user",
        "resolve",
        "sip-proxy",
        "--registrar",
        &registrar,
        "--bind",
        &bind,
        "--timeout",
        "2",
    ];
    let secure: Vec<&str> = ask.iter().copied().chain(options.iter().map(String::as_str)).collect();
    let (code, text, error) = dialtone(&secure);
    assert_eq!(code, Some(0), "{error}");
    assert!(text.contains("sip-proxy: 1 element"), "{text}");
    assert_eq!(dialtone(&ask).0, Some(69), "no SCTP");
    let (code, _, error) = dialtone(&[&ask[..], &["--tcp"]].concat());
    assert!(code != Some(0), "in the clear: {error}");
    // The tool with another authority's certificate; then registrars that it has to refuse: of another authority, and
    // without the name that it is told. Whoever looks reads why there is no answer.
    let folder = launcher.folder().join("other");
    let other = folder.to_str().unwrap();
    assert_eq!(dialtone(&["cert", "authority", other]).0, Some(0));
    assert_eq!(dialtone(&["cert", "issue", other, "tool"]).0, Some(0));
    let [certificate, key, authority] = &options[..] else { panic!("{options:?}") };
    let foreign = |option: &str, file: &str| format!("--tls-{option}={other}/{file}");
    let of_other = [foreign("certificate", "tool.pem"), foreign("key", "tool.key")];
    let by_other = foreign("authority", "authority.pem");
    let name = "--tls-registrar-name=wrong.example";
    for (tls, why) in [
        (vec![&of_other[0], &of_other[1], authority], "received fatal alert: UnknownCA"),
        (vec![certificate, key, &by_other], "invalid peer certificate: UnknownIssuer"),
        (vec![certificate, key, authority, &name.to_owned()], "not valid for name"),
    ] {
        let tls: Vec<&str> =
            ask.iter().copied().chain(tls.into_iter().map(String::as_str)).collect();
        let (code, _, error) = dialtone(&tls);
        assert_eq!(code, Some(69), "{error}");
        assert!(error.contains(&registrar) && error.contains(why), "{error}");
    }

    // A sidecar in the pool that its certificate is granted, and one in a pool that it is not.
    let sidecar = |name: &str, pool: &str, host: u8| {
        let address = format!("{}:7000", launcher.slice().host(host));
        Sidecar {
            name: name.to_owned(),
            pool: pool.to_owned(),
            transport: format!("tcp:{address}"),
            options: Vec::new(),
            command: [BINARY, "faults", "echo-server", &address].map(Into::into).to_vec(),
        }
    };
    let (granted, other) = (sidecar("echo-1", "echo", 61), sidecar("echo-2", "echo", 62));
    launcher.start_sidecar(&granted).unwrap();
    launcher.spawn_sidecar(&other).unwrap();
    let refused = wait_for(Duration::from_secs(10), || {
        let log = launcher.log("registrar-ns-1").ok()? + &launcher.log("registrar-ns-2").ok()?;
        log.lines()
            .any(|line| line.contains("registration refused") && line.contains("security"))
            .then_some(())
    });
    assert!(refused.is_some(), "echo-2 is refused");
    assert_eq!(launcher.pools("registrar-ns-1").unwrap().elements("echo").len(), 1);
    launcher.stop("echo-2").unwrap();
    assert!(launcher.stop_all().is_empty(), "everybody ended in order");
}

#[test]
fn elements_find_another_registrar_by_themselves() {
    let _turn = Exclusive::wait().unwrap();
    let mut launcher = start();
    for (signal, n) in [(Signal::SIGKILL, 1), (Signal::SIGSTOP, 2)] {
        let other = 3 - n;
        launcher.kill(&format!("registrar-ns-{n}"), signal).unwrap();
        let own = launcher.status(&format!("registrar-ns-{other}")).unwrap().server_id;
        await_pools(&mut launcher, other, Duration::from_secs(20), |home| home == own);
        // And they stay: nobody is thrown out since nobody could be dialled.
        let all: BTreeSet<_> = POOLS.into();
        let left = wait_for(Duration::from_secs(8), || {
            let pools = launcher.pools(&format!("registrar-ns-{other}"))?;
            all.iter().any(|pool| pools.elements(pool).is_empty()).then_some(())
        });
        assert!(left.is_none(), "{signal}: a pool lost its elements");
        launcher.restart(&format!("registrar-ns-{n}")).unwrap();
        await_pools(&mut launcher, n, Duration::from_secs(10), |_| true);
    }
}

/// A folder of a test's own.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("dialtone-cert-{test}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn cert_makes_files_once_and_for_their_owner_only() {
    let folder = Folder::new("files");
    let dir = folder.0.to_str().unwrap();
    let (code, _, error) = dialtone(&["cert", "issue", dir, "a.example.org"]);
    assert_eq!(code, Some(64));
    assert!(error.contains(dir) && error.contains("cert authority"), "{error}");
    let (code, text, _) = dialtone(&["cert", "authority", dir, "--days", "30"]);
    assert_eq!(code, Some(0));
    assert!(text.contains("authority.pem"), "{text}");
    let issue = ["cert", "issue", dir, "ns1.example.org", "--registrar", "--ip", "192.0.2.1"];
    let (code, text, error) = dialtone(&issue);
    assert_eq!(code, Some(0), "{error}");
    assert!(text.starts_with("[tls]\n") && text.contains("ns1.example.org.key"), "{text}");
    let before = std::fs::read(folder.0.join("ns1.example.org.key")).unwrap();
    for again in [&issue[..], &["cert", "authority", dir]] {
        let (code, _, error) = dialtone(again);
        assert_eq!(code, Some(73));
        assert!(error.contains("exists already"), "{error}");
    }
    assert_eq!(std::fs::read(folder.0.join("ns1.example.org.key")).unwrap(), before);
    for (file, expected) in [
        ("authority.key", 0o600),
        ("ns1.example.org.key", 0o600),
        ("authority.pem", 0o644),
        ("ns1.example.org.pem", 0o644),
    ] {
        assert_eq!(mode(&folder.0.join(file)), expected, "{file}");
    }
    assert_eq!(mode(&folder.0), 0o700);
    for wrong in ["192.0.2.1", "a b", "bücher.example"] {
        assert_eq!(dialtone(&["cert", "issue", dir, wrong]).0, Some(64), "{wrong}");
    }
}

#[test]
fn certificates_that_cannot_be_used_are_named() {
    let folder = Folder::new("unusable");
    let dir = folder.0.to_str().unwrap();
    assert_eq!(dialtone(&["cert", "authority", dir]).0, Some(0));
    let config = folder.0.join("ns.toml");
    let text = format!(
        "address = \"127.0.0.1\"\nadmin = \"127.0.0.1:0\"\n[tls]\ncertificate = \"{dir}/none.pem\"\nkey = \"{dir}/none.key\"\n\
         authority = \"{dir}/authority.pem\"\nport = 39640\nenrp_port = 39641\n[tls.access]\necho = [\"a\"]\n"
    );
    std::fs::write(&config, text).unwrap();
    let (code, _, error) = dialtone(&["registrar-ns", "--config", config.to_str().unwrap()]);
    assert_eq!(code, Some(64), "{error}");
    assert!(error.contains("none.pem") && error.contains("tls.certificate"), "{error}");
    let (code, _, error) = dialtone(&[
        "pool-user",
        "resolve",
        "echo",
        "--tls-certificate",
        "/nonexistent/x.pem",
        "--tls-key",
        "/nonexistent/x.key",
        "--tls-authority",
        "/nonexistent/a.pem",
    ]);
    assert_eq!(code, Some(64), "{error}");
    assert!(error.contains("/nonexistent/x.pem"), "{error}");
    assert_eq!(
        dialtone(&["pool-user", "resolve", "echo", "--tls-certificate", "x.pem"]).0,
        Some(64)
    );
}
