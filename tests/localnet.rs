//! `dialtone localnet` as a user has it: the ready file, the table, deaths and takeovers told, and nothing left behind
//! however it ends.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Write},
    net::UdpSocket,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use dialtone::launcher::{Signal, wait_for};
use nix::{sys::signal::kill, unistd::Pid};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(30);

/// A running localnet on addresses and a folder of its own.
struct Localnet {
    process: Child,
    folder: PathBuf,
    output: Arc<Mutex<String>>,
}

/// An address for the edge that no other test has.
fn edge_address() -> String {
    format!("127.{}.{}.1", fastrand::u8(10..60), fastrand::u8(..))
}

impl Localnet {
    fn start(test: &str, options: &[&str]) -> Self {
        let folder =
            std::env::temp_dir().join(format!("dialtone-localnet-{test}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self::start_in(folder, &edge_address(), options)
    }

    fn start_in(folder: PathBuf, edge: &str, options: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_dialtone"))
            .args(["localnet", "--sip-address", edge, "--ready-file"])
            .arg(folder.join("ready.json"))
            .arg("--data-dir")
            .arg(folder.join("data"))
            .args(options)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = Arc::new(Mutex::new(String::new()));
        collect(process.stdout.take().unwrap(), &output);
        collect(process.stderr.take().unwrap(), &output);
        Self { process, folder, output }
    }

    /// What the ready file says, once it is there.
    fn ready(&mut self) -> Value {
        let path = self.folder.join("ready.json");
        let found = wait_for(LIMIT, || {
            let running = self.process.try_wait().unwrap().is_none();
            assert!(running, "localnet ended:\n{}", self.output());
            fs::read(&path).ok().map(|json| serde_json::from_slice(&json).unwrap())
        });
        found.unwrap_or_else(|| panic!("no ready file within {LIMIT:?}:\n{}", self.output()))
    }

    fn output(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    fn await_output(&self, text: &str) {
        let found = wait_for(LIMIT, || self.output().contains(text).then_some(()));
        assert!(found.is_some(), "no {text:?} within {LIMIT:?} in:\n{}", self.output());
    }

    /// The number of the registrar where a process registered last.
    fn home_of(&self, name: &str) -> u8 {
        let log = fs::read_to_string(self.folder.join(format!("data/run/{name}.log"))).unwrap();
        let home = log.lines().rfind(|line| line.contains("registered pool=")).and_then(|line| {
            let address = line.split("registrar=").nth(1)?.split(':').next()?;
            address.rsplit('.').next()?.parse().ok()
        });
        home.unwrap_or_else(|| panic!("no registration in:\n{log}"))
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id() as i32), signal).unwrap();
    }

    fn ended(&mut self) -> ExitStatus {
        wait_for(LIMIT, || self.process.try_wait().unwrap())
            .unwrap_or_else(|| panic!("still running:\n{}", self.output()))
    }

    /// Whatever runs with this test's folder on its command line.
    fn remains(&self) -> Vec<String> {
        let folder = self.folder.to_str().unwrap();
        let commands = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
            let command = fs::read(entry.path().join("cmdline")).ok()?;
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            (command.contains(folder) && pid != self.process.id())
                .then_some(format!("{pid} {command}"))
        });
        commands.collect()
    }

    fn assert_nothing_remains(&self) {
        let gone = wait_for(Duration::from_secs(10), || self.remains().is_empty().then_some(()));
        assert!(gone.is_some(), "left behind: {:#?}", self.remains());
    }
}

impl Drop for Localnet {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.output());
            print_logs(&self.folder.join("data/run"));
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn collect(stream: impl std::io::Read + Send + 'static, into: &Arc<Mutex<String>>) {
    let into = Arc::clone(into);
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let mut text = into.lock().unwrap();
            text.push_str(&line);
            text.push('\n');
        }
    });
}

fn print_logs(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "log") {
            let log = fs::read_to_string(entry.path()).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!(
                "--- {}\n{}",
                entry.path().display(),
                lines[lines.len().saturating_sub(40)..].join("\n")
            );
        }
    }
}

fn process<'a>(ready: &'a Value, name: &str) -> &'a Value {
    let processes = ready["processes"].as_array().unwrap();
    processes
        .iter()
        .find(|process| process["name"] == name)
        .unwrap_or_else(|| panic!("no {name} in {ready:#}"))
}

fn pid(ready: &Value, name: &str) -> Pid {
    Pid::from_raw(process(ready, name)["pid"].as_i64().unwrap() as i32)
}

#[test]
fn everything_comes_up_tells_of_deaths_and_stops_in_order() {
    let mut localnet = Localnet::start("whole", &["--domain", "example.test"]);
    let ready = localnet.ready();
    assert_eq!(ready["domain"], "example.test");
    let mut roles: Vec<&str> = ready["processes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|process| process["role"].as_str().unwrap())
        .collect();
    roles.sort_unstable();
    assert_eq!(
        roles,
        [
            "conference",
            "conference",
            "location-db",
            "media-relay",
            "media-relay",
            "registrar-ns",
            "registrar-ns",
            "sip-gateway",
            "sip-gateway",
            "sip-proxy",
            "sip-proxy"
        ]
    );
    for (name, keys) in [
        ("registrar-ns-1", &["asap", "admin"][..]),
        ("sip-gateway-1", &["sip-udp", "sip-tcp", "sip-core", "admin"]),
        ("sip-gateway-2", &["sip-udp", "sip-tcp", "sip-core", "admin"]),
        ("sip-proxy-2", &["sip-core", "admin"]),
        ("media-relay-1", &["ng", "media", "admin"]),
        ("conference-2", &["sip-core", "media", "admin", "asap"]),
        ("location-db", &["asap"]),
    ] {
        let addresses = &process(&ready, name)["addresses"];
        keys.iter().for_each(|key| {
            assert!(addresses[key].is_string(), "{name} has no {key}: {addresses}")
        });
    }
    let edge =
        |name: &str| process(&ready, name)["addresses"]["sip-udp"].as_str().unwrap().to_owned();
    assert!(edge("sip-gateway-1").ends_with(":5060") && edge("sip-gateway-2").ends_with(":5070"));

    localnet.await_output("in service");
    localnet.await_output(&format!("kill -9 {}", pid(&ready, "sip-proxy-1")));

    kill(pid(&ready, "sip-proxy-1"), Signal::SIGKILL).unwrap();
    localnet.await_output("died (SIGKILL); sip-proxy-2 carries on");
    localnet.await_output("sip-proxy-1 was taken out of its pool after");
    localnet.await_output(&format!(
        "sip-proxy-1 (pid {}): dead (SIGKILL), pool -",
        pid(&ready, "sip-proxy-1")
    ));
    kill(pid(&ready, "media-relay-1"), Signal::SIGKILL).unwrap();
    localnet.await_output("died (SIGKILL); media-relay-2 carries on");
    localnet.await_output("media-relay-1 was taken out of its pool after");
    kill(pid(&ready, "media-relay-2"), Signal::SIGKILL).unwrap();
    localnet.await_output("died (SIGKILL); in new calls phones send media to each other");
    kill(pid(&ready, "conference-1"), Signal::SIGKILL).unwrap();
    localnet.await_output("died (SIGKILL); conference-2 carries on");
    localnet.await_output("conference-1 was taken out of its pool after");
    kill(pid(&ready, "sip-gateway-2"), Signal::SIGSTOP).unwrap();
    localnet.await_output("is frozen; sip-gateway-1 carries on");
    localnet.await_output("sip-gateway-2 was taken out of its pool after");
    kill(pid(&ready, "sip-gateway-2"), Signal::SIGCONT).unwrap();
    localnet.await_output("sip-gateway-2 is back in its pool");
    // One that has elements: they may all have come to the same.
    let home = localnet.home_of("location-db");
    let (home, other) = (format!("registrar-ns-{home}"), format!("registrar-ns-{}", 3 - home));
    kill(pid(&ready, &home), Signal::SIGKILL).unwrap();
    localnet.await_output(&format!("died (SIGKILL); {other} carries on"));
    localnet.await_output(&format!("the elements of {home} are with {other}"));

    localnet.signal(Signal::SIGTERM);
    assert_eq!(localnet.ended().code(), Some(0), "{}", localnet.output());
    localnet.await_output("everything has stopped in order");
    localnet.assert_nothing_remains();
    assert!(!localnet.folder.join("ready.json").exists());
}

#[test]
fn a_killed_localnet_leaves_no_process() {
    let mut localnet = Localnet::start(
        "killed",
        &["--gateways=1", "--proxies=1", "--registrars=1", "--relays=1", "--conferences=1"],
    );
    let ready = localnet.ready();
    assert_eq!(localnet.remains().len(), 6, "{:#?}", localnet.remains());
    // A frozen child hears no signal but SIGKILL.
    kill(pid(&ready, "sip-proxy-1"), Signal::SIGSTOP).unwrap();
    localnet.signal(Signal::SIGKILL);
    localnet.ended();
    localnet.assert_nothing_remains();
}

#[test]
fn the_dead_are_started_again_if_asked() {
    let options = [
        "--restart",
        "--gateways=1",
        "--registrars=1",
        "--proxies=1",
        "--relays=0",
        "--conferences=0",
    ];
    let mut localnet = Localnet::start("restart", &options);
    let first = localnet.ready();
    kill(pid(&first, "sip-proxy-1"), Signal::SIGKILL).unwrap();
    localnet.await_output("sip-proxy-1 was started again, pid ");
    localnet.await_output("sip-proxy-1 is in service again");
    let second = wait_for(LIMIT, || {
        let ready = localnet.ready();
        (pid(&ready, "sip-proxy-1") != pid(&first, "sip-proxy-1")).then_some(ready)
    });
    let pids: BTreeSet<i32> = second.unwrap()["processes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["pid"].as_i64().unwrap() as i32)
        .collect();
    assert_eq!(pids.len(), 4);
    localnet.signal(Signal::SIGINT);
    assert_eq!(localnet.ended().code(), Some(0));
    localnet.assert_nothing_remains();
}

#[test]
fn secure_mode_makes_certificates_and_tells_tools_how() {
    let options = [
        "--secure",
        "--registrars=2",
        "--gateways=1",
        "--proxies=1",
        "--relays=1",
        "--conferences=1",
    ];
    let mut localnet = Localnet::start("secure", &options);
    localnet.ready();
    localnet.await_output("Secure mode");
    let output = localnet.output();
    let command = output.lines().find_map(|line| line.strip_prefix("  dialtone pool-user watch "));
    let words: Vec<&str> = command.unwrap().split(' ').collect();
    for pool in ["sip-proxy", "sip-gateway", "location-db", "media-relay", "conference"] {
        let asked = Command::new(env!("CARGO_BIN_EXE_dialtone"))
            .args(["pool-user", "resolve", pool])
            .args(&words[1..])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&asked.stdout);
        assert!(asked.status.success() && text.contains("1 element"), "{pool}: {asked:?}");
    }
    let key = localnet.folder.join("data/tls/sip-proxy-1.key");
    assert_eq!(fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
    localnet.signal(Signal::SIGTERM);
    assert!(localnet.ended().success());
    localnet.assert_nothing_remains();
}

#[test]
fn users_are_made_once() {
    let options = [
        "--auth",
        "--registrars=1",
        "--gateways=1",
        "--proxies=1",
        "--relays=0",
        "--conferences=0",
    ];
    let mut localnet = Localnet::start("auth", &options);
    localnet.ready();
    let users = |localnet: &Localnet| -> Vec<(String, String)> {
        localnet.await_output("Break something");
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let output = localnet.output();
        let lines =
            output.lines().map(words).filter(|words| words.len() > 3 && words[2] == "password");
        lines.map(|words| (words[1].clone(), words[3].clone())).collect()
    };
    let made = users(&localnet);
    let names: Vec<&str> = made.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, ["alice", "bob", "carol", "dave"]);
    assert!(made.iter().all(|(_, password)| password.len() == 14), "{made:?}");
    let file = localnet.folder.join("data/users");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    // The command that is printed.
    let command = localnet.output();
    let command = command.lines().find_map(|line| line.strip_prefix("More users: ")).unwrap();
    let words: Vec<&str> = command.split(' ').collect();
    assert_eq!(words[1..4], ["user", "add", "NAME"]);
    let set = |user: &str| {
        let mut add = Command::new(env!("CARGO_BIN_EXE_dialtone"))
            .args(["user", "add", user])
            .args(&words[4..])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        add.stdin.take().unwrap().write_all(b"another\n").unwrap();
        assert!(add.wait().unwrap().success());
    };
    set("erin");
    set("bob");
    localnet.signal(Signal::SIGTERM);
    assert!(localnet.ended().success());
    let folder = std::mem::take(&mut localnet.folder);
    let mut again = Localnet::start_in(folder, &edge_address(), &options);
    again.ready();
    let later = users(&again);
    assert_eq!((&later[0], &later[2], &later[3]), (&made[0], &made[2], &made[3]));
    assert_eq!((&*later[1].1, &*later[4].0, &*later[4].1), ("(changed", "erin", "(changed"));
}

#[test]
fn what_cannot_work_is_named_and_nothing_is_left_running() {
    let edge = edge_address();
    let taken = UdpSocket::bind(format!("{edge}:5070")).unwrap();
    let folder =
        std::env::temp_dir().join(format!("dialtone-localnet-wrong-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let refused = |edge: &str, options: &[&str], code: i32, texts: &[&str]| {
        let mut localnet = Localnet::start_in(folder.clone(), edge, options);
        assert_eq!(localnet.ended().code(), Some(code), "{options:?}: {}", localnet.output());
        texts.iter().for_each(|text| localnet.await_output(text));
        localnet.assert_nothing_remains();
        drop(localnet);
        fs::create_dir_all(&folder).unwrap();
    };
    refused(
        &edge,
        &[],
        69,
        &[&format!("address in use: {edge}:5070 (UDP, key --base-port"), "another process listens"],
    );
    drop(taken);
    refused("192.0.2.201", &[], 69, &["not an address of this machine: 192.0.2.201:5060"]);
    refused("0.0.0.0", &[], 64, &["--sip-address 0.0.0.0: name the one address"]);
    refused(
        &edge,
        &["--base-port", "65530"],
        64,
        &["--base-port 65530: too high for 2 gateways; use 1 to 65525"],
    );
    refused(&edge, &["--gateways", "0"], 64, &["--gateways", "1..=19"]);
    refused(&edge, &["--relays", "20"], 64, &["--relays", "0..=19"]);
    refused(&edge, &["--conferences", "11"], 64, &["--conferences", "0..=10"]);
    refused(&edge, &["--base-address", "127.1.2.3"], 64, &["use 127.X.Y.0"]);
    refused(&edge, &["--domain", "a b"], 64, &["is no domain name"]);
    refused(&edge, &["--ready-fill", "x"], 64, &["--ready-file"]);

    // Neither a folder below a file nor one that another localnet has.
    fs::write(folder.join("data"), "").unwrap();
    refused(&edge, &[], 73, &["cannot create the data folder", "(key --data-dir)"]);
    let lock = dialtone_daemon::DataDir::open(&folder.join("data"), "--data-dir").unwrap();
    let text = "is in use by another process";
    refused(&edge, &[], 73, &[text]);
    drop(lock);
    let _ = fs::remove_dir_all(&folder);
}
