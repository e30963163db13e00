//! The name service as processes: how fast faults are dealt with, and what `dialtone pool-user` shows.
//!
//! Bounds are asserted at three times what is promised: real time is not what decides about a protocol.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

use dialtone::{
    faults::{
        name_service::{Plan, measure},
        table::{Row, table},
    },
    launcher::{Exclusive, Launcher, Layout, Life, Pid, Sidecar, Signal, wait_for},
};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_dialtone");

#[test]
fn faults_are_dealt_with_in_time() {
    let _turn = Exclusive::wait().unwrap();
    let rows = measure(Path::new(BINARY), Plan { rounds: 1, seed: 1 }, |line| println!("{line}"));
    let rows = rows.unwrap_or_else(|error| panic!("{error}"));
    let text = table(&rows);
    text.lines().for_each(|line| println!("table: {line}"));
    assert!(!rows.iter().any(Row::broken), "\n{text}");
}

/// Two registrars, and two elements of the pool `echo` with known identifiers.
fn start() -> Launcher {
    let mut launcher =
        Launcher::for_test(BINARY, Layout { registrars: 2, ..Layout::default() }).unwrap();
    launcher.spawn_registrar(1).unwrap();
    launcher.spawn_registrar(2).unwrap();
    for n in 1..=2 {
        launcher.wait_ready(&format!("registrar-ns-{n}")).unwrap();
    }
    for n in 1..=2 {
        let address = format!("{}:7000", launcher.slice().host(60 + n));
        let sidecar = Sidecar {
            name: format!("echo-{n}"),
            pool: "echo".to_owned(),
            transport: format!("tcp:{address}"),
            options: vec![format!("--pe-id={n}"), format!("--policy=wrr:{n}")],
            command: [BINARY, "faults", "echo-server", &address].map(Into::into).to_vec(),
        };
        launcher.spawn_sidecar(&sidecar).unwrap();
    }
    for n in 1..=2 {
        launcher.wait_ready(&format!("echo-{n}")).unwrap();
    }
    let known = wait_for(Duration::from_secs(5), || {
        let mut all = ["registrar-ns-1", "registrar-ns-2"].map(|name| launcher.pools(name));
        let complete = |pools: &Option<_>| {
            pools
                .as_ref()
                .is_some_and(|p: &dialtone::launcher::Pools| p.elements("echo").len() == 2)
        };
        all.iter_mut().all(|pools| complete(pools)).then_some(())
    });
    assert!(known.is_some(), "both registrars know both elements");
    launcher
}

fn pool_user(arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.arg("pool-user").args(arguments).env_remove("DIALTONE_REGISTRARS");
    command
}

/// Output and exit code of `dialtone pool-user`.
fn ask(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = pool_user(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

fn ask_json(arguments: &[&str]) -> Value {
    let (code, stdout, stderr) = ask(arguments);
    assert_eq!(code, Some(0), "{arguments:?}: {stderr}");
    serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {stdout}"))
}

fn ids(view: &Value) -> BTreeSet<&str> {
    view["elements"]
        .as_array()
        .unwrap()
        .iter()
        .map(|element| element["id"].as_str().unwrap())
        .collect()
}

/// `dialtone pool-user watch --json`, a line at a time.
struct Watch {
    child: Child,
    lines: Receiver<Value>,
}

impl Watch {
    fn start(arguments: &[&str]) -> Self {
        let mut child = pool_user(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let (lines_in, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = lines_in.send(serde_json::from_str(&line).unwrap());
            }
        });
        Self { child, lines }
    }

    /// Waits for a line that satisfies `wanted`.
    fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut last = None;
        loop {
            match self.lines.recv_timeout(Duration::from_secs(10)) {
                Ok(line) if wanted(&line) => return line,
                Ok(line) => last = Some(line),
                Err(error) => panic!("{what}: {error}; last: {last:?}"),
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn pool_user_shows_pools_and_their_changes() {
    let _turn = Exclusive::wait().unwrap();
    let mut launcher = start();
    let first = launcher.slice().host(1).to_string();
    let own = launcher.slice().host(200).to_string();
    let asap = ["--registrar", &first, "--bind", &own];
    let with = |command: &[&'static str]| {
        let mut all: Vec<&str> = command.to_vec();
        all.extend(asap);
        all
    };
    let admin = format!("http://{first}:9090");

    // Over SCTP and over TCP the same, whichever element goes first.
    for arguments in
        [with(&["resolve", "echo", "--json"]), with(&["resolve", "echo", "--tcp", "--json"])]
    {
        let view = ask_json(&arguments);
        assert_eq!(view["handle"], "echo");
        assert_eq!(view["policy"], "weighted-round-robin");
        assert_eq!(ids(&view), BTreeSet::from(["0x00000001", "0x00000002"]));
        for element in view["elements"].as_array().unwrap() {
            assert_eq!(element["transport"], "tcp", "{element}");
            let n = element["policy"]["weight"].as_u64().unwrap();
            assert_eq!(element["id"], format!("{n:#010x}"));
            let address = format!("{}:7000", launcher.slice().host(60 + n as u8));
            assert_eq!(element["address"], address);
        }
    }
    // Everybody computes the same ranking.
    let keyed = with(&["resolve", "echo", "--key", "a call", "--json"]);
    let ranking = ask_json(&keyed)["ranking"].clone();
    assert_eq!(ranking.as_array().map(Vec::len), Some(2));
    assert_eq!(ask_json(&keyed)["ranking"], ranking);
    let (code, text, _) = ask(&with(&["resolve", "echo"]));
    assert_eq!(code, Some(0));
    assert!(text.contains("echo: 2 elements") && text.contains(":7000"), "{text}");

    let pools = ask_json(&["pools", "--admin", &admin, "--json"]);
    let echo = &pools["pools"][0];
    assert_eq!((&echo["handle"], ids(echo).len()), (&"echo".into(), 2));
    assert!(ask(&["pools", "--admin", &admin]).1.contains("0x00000002"));
    let peers = ask_json(&["peers", "--admin", &admin, "--json"]);
    let second = format!("{}:9899", launcher.slice().host(2));
    assert_eq!(peers["peers"][0]["address"], second.as_str(), "{peers}");
    assert_eq!(peers["peers"][0]["status"], "active");
    assert!(ask(&["peers", "--admin", &admin]).1.contains(&second));

    // Exit codes: unknown pool, no registrar, wrong usage.
    let (code, stdout, stderr) = ask(&with(&["resolve", "nobody", "--json"]));
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
    assert!(stderr.contains("nobody"), "{stderr}");
    let nowhere = launcher.slice().host(99).to_string();
    let silent = ["resolve", "echo", "--registrar", &nowhere, "--bind", &own, "--timeout", "1"];
    assert_eq!(ask(&silent).0, Some(69));
    assert_eq!(ask(&["pools", "--admin", &format!("http://{nowhere}:9090")]).0, Some(69));
    assert_eq!(ask(&["resolve", "echo", "--registrar", "localhost"]).0, Some(64));
    assert_eq!(ask(&["resolve"]).0, Some(64));

    let watch = Watch::start(&with(&["watch", "echo", "--json"]));
    let both = watch.until("both elements", |view| ids(view).len() == 2);
    assert_eq!((&both["freshness"], &both["complete"]), (&"fresh".into(), &true.into()));
    launcher.stop("echo-1").unwrap();
    let one = watch.until("an element left", |view| ids(view).len() == 1);
    assert_eq!(ids(&one), BTreeSet::from(["0x00000002"]));
    assert!(one["version"].as_u64() > both["version"].as_u64());
    launcher.restart("echo-1").unwrap();
    watch.until("it came back", |view| ids(view).len() == 2);
    // The last element gone, the pool is gone with it.
    launcher.stop("echo-1").unwrap();
    launcher.stop("echo-2").unwrap();
    watch.until("the pool is gone", |view| view["freshness"] == "absent" && ids(view).is_empty());
    let counted = with(&["watch", "echo", "--count", "1", "--json"]);
    assert_eq!(ask_json(&counted)["freshness"], "absent");
    assert!(launcher.stop_all().is_empty(), "everybody ended in order");
}

fn is_alive(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

#[test]
fn kill_9_of_sidecar_keeper_or_server_leaves_no_process_behind() {
    let _turn = Exclusive::wait().unwrap();
    let mut launcher = start();
    // Sidecar, keeper, server: whoever of them is killed, the others go, and the element with them.
    for killed in 0..3 {
        let sidecar = launcher.process("echo-1").unwrap();
        let mut family = vec![Pid::from_raw(sidecar.pid().cast_signed())];
        family.extend(sidecar.descendants());
        assert_eq!(family.len(), 3, "{family:?}");
        nix::sys::signal::kill(family[killed], Signal::SIGKILL).unwrap();
        let gone = wait_for(Duration::from_secs(5), || {
            let ended = matches!(launcher.process("echo-1").unwrap().life(), Life::Ended(_));
            (ended && !family.iter().any(|pid| is_alive(*pid))).then_some(())
        });
        assert!(gone.is_some(), "process {killed} of {family:?} was killed");
        let left = wait_for(Duration::from_secs(6), || {
            let pools = launcher.pools("registrar-ns-1")?;
            (pools.elements("echo").len() == 1).then_some(())
        });
        assert!(left.is_some(), "the element is out of its pool");
        launcher.restart("echo-1").unwrap();
    }
}
