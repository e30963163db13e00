//! Real MariaDB nodes with Galera as elements of `location-db`: they find each other through the pool, leave it without
//! a quorum, rejoin incrementally, and come back after all of them were killed.

#[path = "../location/tests/common/mod.rs"]
mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use common::{contract::CONTRACT, mariadb::Mariadb};
use dialtone::launcher::{Exclusive, Launcher, Layout, Life, Location, Sidecar, Signal, wait_for};
use dialtone_location::mysql::{ClientFile, Node};
use dialtone_sidecar::galera::disk::DataFolder;
use nix::{sys::signal::kill, unistd::Pid};
use serde_json::Value;

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
    (1..=nodes).for_each(|n| await_noted(&launcher, n));
    launcher
}

/// Waits until a node has noted that its data is whole; one that is killed in the moment before copies everything.
fn await_noted(launcher: &Launcher, n: u8) {
    let folder = DataFolder::new(launcher.folder().join(format!("location-db-{n}/mysql")));
    let noted = wait_for(Duration::from_secs(10), || folder.saved()?.cluster);
    assert!(noted.is_some(), "node {n}");
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

/// Everything of these nodes has ended, whatever it was started by.
fn assert_nothing_remains(folder: &Path) {
    let folder = folder.to_str().unwrap();
    let remains = || -> Vec<String> {
        let commands = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
            let command = fs::read(entry.path().join("cmdline")).ok()?;
            Some(String::from_utf8_lossy(&command).replace('\0', " "))
        });
        commands.filter(|command| command.contains(folder)).collect()
    };
    let gone = wait_for(Duration::from_secs(10), || remains().is_empty().then_some(()));
    assert!(gone.is_some(), "left behind: {:#?}", remains());
}

/// Carries a statement out at a node, as soon as that is possible.
fn sql(launcher: &Launcher, n: u8, statement: &str) -> String {
    let mut said = String::new();
    let done = wait_for(Duration::from_secs(10), || {
        let output = Command::new("mariadb")
            .arg(format!("--defaults-file={}", launcher.database_credentials().display()))
            .arg(format!("--host={}", launcher.database_address(n).ip()))
            .args(["--skip-column-names", "--execute", statement])
            .output()
            .unwrap();
        said = String::from_utf8_lossy(&output.stderr).into_owned();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    });
    done.unwrap_or_else(|| panic!("{statement}: {said}"))
}

/// Prints what MariaDB said if the test fails.
struct Logs(Vec<PathBuf>);

impl Logs {
    fn of(launcher: &Launcher) -> Self {
        Self((1..=3).map(|n| launcher.database_log(n)).collect())
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        for path in self.0.iter().filter(|_| std::thread::panicking()) {
            let log = String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
            let lines: Vec<&str> = log.lines().filter(|line| line.contains("WSREP")).collect();
            let last = lines[lines.len().saturating_sub(100)..].join("\n");
            eprintln!("--- {}\n{last}", path.display());
        }
    }
}

/// Starts a node again and waits until it is in service; what MariaDB logged meanwhile.
fn rejoin(launcher: &mut Launcher, n: u8) -> String {
    let before = fs::read(launcher.database_log(n)).unwrap().len();
    launcher.restart(&format!("location-db-{n}")).unwrap();
    await_noted(launcher, n);
    let log = fs::read(launcher.database_log(n)).unwrap();
    String::from_utf8_lossy(&log[before..]).into_owned()
}

/// What every store has to do, on a cluster: each writer prefers the first node and follows the others.
fn the_contract_holds(launcher: &Launcher) {
    let socket = launcher.folder().join("location-db-1/mysql/mysql.sock");
    let rights = Command::new("mariadb")
        .args(["--no-defaults", &format!("--socket={}", socket.display())])
        .args(["--execute", "GRANT ALL ON *.* TO dialtone@'%'"])
        .output()
        .unwrap();
    assert!(rights.status.success(), "{}", String::from_utf8_lossy(&rights.stderr));
    let began = clock();
    let client = ClientFile::read(&launcher.database_credentials()).unwrap();
    for (name, test) in CONTRACT {
        let nodes = (1..=3).map(|n| Node { id: n.into(), address: launcher.database_address(n) });
        let (nodes, _) = tokio::sync::watch::channel(nodes.collect());
        let client = ClientFile { database: (*name).into(), ..client.clone() };
        println!("{name}");
        test(&Mariadb {
            nodes,
            client,
            patience: Duration::from_secs(15),
            stall: Duration::from_secs(60),
        });
    }
    println!("table: the contract of stores, on three nodes: {:.1?}", began.elapsed());
}

#[test]
fn three_nodes() {
    if !is_installed() {
        return;
    }
    let _turn = Exclusive::wait().unwrap();
    let mut launcher = start(3);
    let _logs = Logs::of(&launcher);
    let folder = launcher.folder().to_owned();
    the_contract_holds(&launcher);
    sql(&launcher, 1, "CREATE TABLE t (n INT PRIMARY KEY)");
    // Whoever is killed while a table is made has to copy everything, too.
    sql(&launcher, 3, "SELECT n FROM t");
    await_noted(&launcher, 3);

    // Killed and started again: it takes what it lacks, not everything.
    kill_node(&mut launcher, 3);
    let out = await_members(&mut launcher, 2, Duration::from_secs(3));
    sql(&launcher, 1, "INSERT INTO t VALUES (1)");
    let began = clock();
    let log = rejoin(&mut launcher, 3);
    await_members(&mut launcher, 3, Duration::from_secs(3));
    let back = began.elapsed();
    assert!(log.contains("IST received"), "{log}");
    assert!(!log.contains("rsync SST completed"), "{log}");
    println!(
        "table: a killed node: out of the pool after {out:.2?}, back by IST {back:.1?} after its start"
    );

    // A cluster that lives is not begun anew.
    let fake = fake(&launcher, "intruder", &["--bootstrap"]);
    launcher.spawn_sidecar(&fake).unwrap();
    let refused =
        wait_for(Duration::from_secs(20), || match launcher.process("intruder").unwrap().life() {
            Life::Ended(ended) => Some(ended.to_string()),
            _ => None,
        });
    assert_eq!(refused.as_deref(), Some("exit code 69"));
    let log = launcher.log("intruder").unwrap();
    assert!(
        log.contains("not begun: the cluster lives, the pool location-db has 3 members"),
        "{log}"
    );

    // One of three has no quorum: it runs, answers SELECT 1, and is out of the pool.
    kill_node(&mut launcher, 2);
    kill_node(&mut launcher, 3);
    let out = await_members(&mut launcher, 0, Duration::from_secs(9));
    assert!(launcher.database_pid(1).is_some());
    let log = launcher.log("location-db-1").unwrap();
    assert!(log.contains("the component non-Primary"), "{log}");
    // The second one makes a majority.
    let began = clock();
    rejoin(&mut launcher, 2);
    await_members(&mut launcher, 2, Duration::from_secs(3));
    let back = began.elapsed();
    println!(
        "table: two of three killed: the third out of the pool after {out:.1?}; both serve {back:.1?} after one was started"
    );
    rejoin(&mut launcher, 3);
    await_members(&mut launcher, 3, Duration::from_secs(3));

    // All of them at once, with their sidecars; two come back.
    (1..=3).for_each(|n| kill_node(&mut launcher, n));
    await_members(&mut launcher, 0, Duration::from_secs(9));
    let began = clock();
    launcher.respawn("location-db-1").unwrap();
    launcher.respawn("location-db-2").unwrap();
    await_members(&mut launcher, 2, Duration::from_secs(60));
    let back = began.elapsed();
    println!("table: all three killed: two serve {back:.1?} after their start");
    let resumed = [1, 2].map(|n| {
        launcher.log(&format!("location-db-{n}")).unwrap().contains("going on from this node")
    });
    assert!(resumed[0] != resumed[1], "one of them went on: {resumed:?}");
    sql(&launcher, 2, "INSERT INTO t VALUES (2)");
    let log = rejoin(&mut launcher, 3);
    assert!(log.contains("IST received"), "{log}");
    await_members(&mut launcher, 3, Duration::from_secs(3));
    assert_eq!(sql(&launcher, 3, "SELECT n FROM t ORDER BY n"), "1\n2\n");

    // Who goes on is left alone in that moment: it does not serve until another one of the last component is there.
    (1..=3).for_each(|n| kill_node(&mut launcher, n));
    await_members(&mut launcher, 0, Duration::from_secs(9));
    let begun = |launcher: &mut Launcher, n: u8| {
        let log = launcher.log(&format!("location-db-{n}")).unwrap();
        log.matches("beginning a cluster from this node").count()
    };
    let before = [1, 2].map(|n| begun(&mut launcher, n));
    launcher.respawn("location-db-1").unwrap();
    launcher.respawn("location-db-2").unwrap();
    let left = wait_for(Duration::from_secs(30), || {
        let now = [1, 2].map(|n| begun(&mut launcher, n));
        [2, 1].into_iter().zip(now).zip(before).find(|((_, now), before)| now > before)
    });
    let ((left, _), _) = left.expect("one of them goes on");
    launcher.kill_tree(&format!("location-db-{left}"), Signal::SIGKILL).unwrap();
    let served = wait_for(Duration::from_secs(4), || (members(&mut launcher)? > 0).then_some(()));
    assert!(served.is_none(), "it serves alone");
    launcher.respawn("location-db-3").unwrap();
    await_members(&mut launcher, 2, Duration::from_secs(30));
    rejoin(&mut launcher, left);
    await_members(&mut launcher, 3, Duration::from_secs(10));

    // The third one goes on alone and dies; the others are begun without it, and pass it.
    for n in [2, 1] {
        assert!(launcher.stop(&format!("location-db-{n}")).unwrap(), "node {n} stopped in order");
    }
    sql(&launcher, 3, "INSERT INTO t VALUES (3)");
    kill_node(&mut launcher, 3);
    await_members(&mut launcher, 0, Duration::from_secs(3));
    fs::write(folder.join("location-db-1/bootstrap"), "force").unwrap();
    rejoin(&mut launcher, 1);
    for n in 4..8 {
        sql(&launcher, 1, &format!("INSERT INTO t VALUES ({n})"));
    }
    let log = rejoin(&mut launcher, 2);
    assert!(!log.contains("rsync SST completed"), "{log}");
    rejoin(&mut launcher, 3);
    let log = launcher.log("location-db-3").unwrap();
    assert!(
        log.contains("the cluster went on without the last transactions of this node"),
        "{log}"
    );
    await_members(&mut launcher, 3, Duration::from_secs(10));
    for n in 1..=3 {
        assert_eq!(
            sql(&launcher, n, "SELECT n FROM t ORDER BY n"),
            "1\n2\n4\n5\n6\n7\n",
            "node {n}"
        );
    }

    // In order, and all again.
    for n in [3, 2, 1] {
        assert!(launcher.stop(&format!("location-db-{n}")).unwrap(), "node {n} stopped in order");
    }
    await_members(&mut launcher, 0, Duration::from_secs(3));
    let began = clock();
    launcher.start_databases().unwrap();
    await_members(&mut launcher, 3, Duration::from_secs(3));
    println!("table: a stopped cluster of three: serves {:.1?} after its start", began.elapsed());

    drop(launcher);
    assert_nothing_remains(&folder);
}

#[test]
fn two_nodes_and_an_arbitrator() {
    if !is_installed() {
        return;
    }
    let _turn = Exclusive::wait().unwrap();
    let mut launcher = start(2);
    let _logs = Logs::of(&launcher);
    let folder = launcher.folder().to_owned();
    let three = wait_for(Duration::from_secs(10), || {
        let log = fs::read_to_string(launcher.database_log(1)).ok()?;
        log.contains("memb_num = 3").then_some(())
    });
    assert!(three.is_some(), "the arbitrator is no member");

    kill_node(&mut launcher, 2);
    await_members(&mut launcher, 1, Duration::from_secs(3));
    // Longer than it takes a node to find out that it has lost its quorum.
    let lost = wait_for(Duration::from_secs(4), || (members(&mut launcher)? == 0).then_some(()));
    assert!(lost.is_none(), "{}", launcher.log("location-db-1").unwrap());
    rejoin(&mut launcher, 2);
    await_members(&mut launcher, 2, Duration::from_secs(3));

    // Nodes and arbitrator are gone; the nodes alone are two of three.
    kill_node(&mut launcher, 1);
    kill_node(&mut launcher, 2);
    launcher.kill_tree("galera-arbitrator", Signal::SIGKILL).unwrap();
    await_members(&mut launcher, 0, Duration::from_secs(9));
    let began = clock();
    launcher.respawn("location-db-1").unwrap();
    launcher.respawn("location-db-2").unwrap();
    await_members(&mut launcher, 2, Duration::from_secs(60));
    println!(
        "table: two nodes and their arbitrator killed: both nodes serve {:.1?} after their start",
        began.elapsed()
    );

    launcher.restart("galera-arbitrator").unwrap();
    let garbd = launcher.process("galera-arbitrator").unwrap().server().unwrap();
    kill(garbd, Signal::SIGKILL).unwrap();
    let again = wait_for(Duration::from_secs(10), || {
        let server = launcher.process("galera-arbitrator").unwrap().server()?;
        (server != garbd).then_some(())
    });
    assert!(again.is_some(), "{}", launcher.log("galera-arbitrator").unwrap());
    drop(launcher);
    assert_nothing_remains(&folder);
}

/// A sidecar of a node whose server only writes down with what it was started.
fn fake(launcher: &Launcher, name: &str, options: &[&str]) -> Sidecar {
    let data = launcher.folder().join(format!("{name}-data"));
    fs::create_dir_all(&data).unwrap();
    let mut all = vec!["--check=tcp".to_owned(), format!("--galera={}", data.display())];
    all.extend(options.iter().map(|option| (*option).to_owned()));
    let script = format!("echo \"$@\" >>{}/started; exec sleep 1000", data.display());
    Sidecar {
        name: name.to_owned(),
        pool: "location-db".to_owned(),
        transport: format!("tcp:{}:3306", launcher.slice().host(70)),
        options: all,
        command: ["sh", "-c", &script, "fake"].map(Into::into).to_vec(),
    }
}

#[test]
fn nothing_is_begun_without_order() {
    let layout = Layout { registrars: 1, ..Layout::default() };
    let mut launcher = Launcher::for_test(BINARY, layout).unwrap();
    launcher.start_registrar(1).unwrap();
    let node = fake(&launcher, "node", &[]);
    let data = launcher.folder().join("node-data");
    let started = data.join("started");
    launcher.spawn_sidecar(&node).unwrap();
    await_log(
        &mut launcher,
        "A cluster is never begun without order: start exactly one node with --bootstrap",
    );

    // An order, but another node may know more.
    fs::write(
        data.join("grastate.dat"),
        "version: 2.1\nuuid:    070459c0-e50e-11f1-acc8-27d9eeb9924a\nseqno:   5\nsafe_to_bootstrap: 0\n",
    )
    .unwrap();
    let order = |force: &[&str]| {
        let output = Command::new(BINARY)
            .args(["galera-recover", "--data-dir"])
            .arg(launcher.folder().join("node"))
            .args(force)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    order(&[]);
    let objected = wait_for(Duration::from_secs(5), || {
        let log = fs::read_to_string(launcher.folder().join("run/node.log")).ok()?;
        log.contains("not begun:").then_some(())
    });
    assert!(objected.is_some() && !started.exists());
    order(&["--force"]);
    let options = wait_for(Duration::from_secs(5), || {
        fs::read_to_string(&started).ok().filter(|text| !text.is_empty())
    });
    let expected = "--wsrep-cluster-address=gcomm:// --wsrep-new-cluster \
        --wsrep-start-position=070459c0-e50e-11f1-acc8-27d9eeb9924a:5\n";
    assert_eq!(options.as_deref(), Some(expected));
    assert!(!launcher.folder().join("node/bootstrap").exists());

    // Others were seen, and the data is gone: the others may have it.
    let blank = fake(&launcher, "blank", &["--bootstrap"]);
    fs::create_dir_all(launcher.folder().join("blank")).unwrap();
    fs::write(launcher.folder().join("blank/peers"), "127.0.0.9:3306\n").unwrap();
    launcher.spawn_sidecar(&blank).unwrap();
    let refused =
        wait_for(Duration::from_secs(10), || match launcher.process("blank").unwrap().life() {
            Life::Ended(ended) => Some(ended.to_string()),
            _ => None,
        });
    assert_eq!(refused.as_deref(), Some("exit code 69"));
    let log = launcher.log("blank").unwrap();
    assert!(log.contains("there is no data here, but other nodes were seen"), "{log}");

    // It remembers another node: then it joins that, and asks nobody.
    fs::write(launcher.folder().join("node/peers"), "127.0.0.9:3306\n").unwrap();
    launcher.respawn("node").unwrap();
    let joined = wait_for(Duration::from_secs(10), || {
        fs::read_to_string(&started).ok()?.contains("gcomm://127.0.0.9 ").then_some(())
    });
    assert!(joined.is_some(), "{}", launcher.log("node").unwrap());

    // What it tells while it waits.
    let found = wait_for(Duration::from_secs(10), || {
        let output = Command::new(BINARY)
            .args(["galera-recover", "--registrar", &launcher.slice().host(1).to_string()])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.contains("acc8-27d9eeb9924a:5").then_some(text)
    });
    let text = found.unwrap_or_else(|| panic!("{}", launcher.log("node").unwrap()));
    assert!(
        text.contains("No majority of the last cluster is here") && text.contains("--force"),
        "{text}"
    );
}

fn await_log(launcher: &mut Launcher, text: &str) {
    let found = wait_for(Duration::from_secs(10), || {
        launcher.log("node").unwrap().contains(text).then_some(())
    });
    assert!(found.is_some(), "no {text:?} in:\n{}", launcher.log("node").unwrap());
}

/// A localnet with one node, until its ready file is there; what that says.
fn localnet(folder: &Path, edge: &str) -> (Child, Value) {
    let mut process = Command::new(BINARY)
        .args(["localnet", "--location", "galera", "--databases", "1", "--sip-address", edge])
        .args(["--registrars", "1", "--gateways", "1", "--proxies", "1", "--ready-file"])
        .arg(folder.join("ready.json"))
        .arg("--data-dir")
        .arg(folder.join("data"))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let ready = wait_for(Duration::from_secs(60), || {
        assert!(process.try_wait().unwrap().is_none(), "localnet ended");
        serde_json::from_slice(&fs::read(folder.join("ready.json")).ok()?).ok()
    });
    let Some(ready) = ready else {
        let _ = process.kill();
        panic!("no ready file");
    };
    (process, ready)
}

#[test]
fn a_localnet_with_a_node_leaves_nothing_and_comes_back_with_its_data() {
    if !is_installed() {
        return;
    }
    let _turn = Exclusive::wait().unwrap();
    let folder = std::env::temp_dir().join(format!("dialtone-galera-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let edge = format!("127.{}.{}.1", fastrand::u8(10..60), fastrand::u8(..));
    for end in [Signal::SIGKILL, Signal::SIGTERM] {
        let (mut process, ready) = localnet(&folder, &edge);
        let node =
            ready["processes"].as_array().unwrap().iter().find(|p| p["role"] == "location-db");
        let node = node.unwrap_or_else(|| panic!("no location-db in {ready:#}"));
        let command = fs::read(format!("/proc/{}/cmdline", node["pid"])).unwrap();
        assert!(command.starts_with(b"/usr/sbin/mariadbd"), "pid {} is no mariadbd", node["pid"]);
        assert!(node["addresses"]["mysql"].as_str().unwrap().ends_with(".81:3306"));
        kill(Pid::from_raw(process.id() as i32), end).unwrap();
        let ended = wait_for(Duration::from_secs(40), || process.try_wait().unwrap()).unwrap();
        assert!(end == Signal::SIGKILL || ended.success(), "{ended}");
        assert_nothing_remains(&folder);
        let _ = fs::remove_file(folder.join("ready.json"));
    }
    fs::remove_dir_all(&folder).unwrap();
}
