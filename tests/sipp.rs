//! SIPp as an independent witness: it registers at gateway 1, is called through gateway 2, undisturbed and while
//! proxies are killed, and counts what failed and what it had to send again.
//!
//! Larger by environment: `DIALTONE_SIPP_USERS` (200), `DIALTONE_SIPP_SECONDS` of calls (8), `DIALTONE_SIPP_KILLS` (3).

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use dialtone::{
    faults::calls::{self, Fault},
    launcher::{Exclusive, Launcher, Layout, wait_for},
};

/// Calls per second.
const RATE: u64 = 50;

/// Ringing, talking, and the patience of a phone.
const LONGEST_CALL: Duration = Duration::from_secs(40);

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Where a SIPp runs and writes what it counted.
struct Sipp {
    process: Child,
    folder: PathBuf,
}

impl Sipp {
    fn start(
        folder: &Path,
        transport: &str,
        local: SocketAddr,
        remote: SocketAddr,
        arguments: &[&str],
    ) -> Self {
        fs::create_dir_all(folder).unwrap();
        let process = Command::new("sipp")
            .arg(remote.to_string())
            .args(["-t", transport, "-i", &local.ip().to_string(), "-p", &local.port().to_string()])
            .args(["-inf", "../users.csv", "-l", "10000", "-buff_size", "4194304", "-nostdin"])
            .args(["-trace_stat", "-stf", "statistics.csv", "-fd", "1"])
            .args(["-trace_err", "-error_file", "errors.log"])
            .args(arguments)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { process, folder: folder.to_owned() }
    }

    /// The latest counts by name.
    fn counts(&self) -> BTreeMap<String, u64> {
        let text = fs::read_to_string(self.folder.join("statistics.csv")).unwrap_or_default();
        let mut lines = text.lines();
        let names = lines.next().unwrap_or_default().split(';').map(str::to_owned);
        let values =
            lines.next_back().unwrap_or_default().split(';').map(|value| value.parse().ok());
        names.zip(values).filter_map(|(name, value)| Some((name, value?))).collect()
    }

    fn count(&self, name: &str) -> u64 {
        self.counts().get(&format!("{name}(C)")).copied().unwrap_or_default()
    }

    fn await_count(&self, name: &str, wanted: u64, limit: Duration) {
        let reached = wait_for(limit, || (self.count(name) >= wanted).then_some(()));
        assert!(reached.is_some(), "{name} is not {wanted} within {limit:?}: {}", self.story());
    }

    /// Counts that are not 0, and what SIPp complained of.
    fn story(&self) -> String {
        let mut counts = self.counts();
        counts.retain(|name, count| name.ends_with("(C)") && *count > 0);
        let errors = fs::read_to_string(self.folder.join("errors.log")).unwrap_or_default();
        // Every call that comes in is an event to SIPp.
        let errors = errors.split("Received out-of-call INVITE").filter(|text| text.len() > 100);
        let errors: String = errors.take(5).flat_map(|text| text.chars().take(3000)).collect();
        format!("{counts:?}\n{errors}")
    }
}

impl Drop for Sipp {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn calls_by_sipp(transport: &str) {
    if Command::new("sipp").arg("-v").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err()
    {
        assert!(std::env::var_os("CI").is_none(), "sipp is needed in CI");
        println!("skipped: sipp not installed");
        return;
    }
    let _turn = Exclusive::wait().unwrap();
    let binary = env!("CARGO_BIN_EXE_dialtone");
    let layout = Layout { registrars: 2, ..Layout::default() };
    let mut launcher = Launcher::for_test(binary, layout).unwrap();
    calls::start(&mut launcher).unwrap();

    let users = number("DIALTONE_SIPP_USERS", 200);
    let seconds = number("DIALTONE_SIPP_SECONDS", 8);
    let kills = u32::try_from(number("DIALTONE_SIPP_KILLS", 3)).unwrap();
    let list: String = (0..users).map(|n| format!("user{n};\n")).collect();
    fs::write(launcher.folder().join("users.csv"), format!("SEQUENTIAL\n{list}")).unwrap();
    let edge =
        |launcher: &Launcher, n: u8| launcher.layout().edge(n, launcher.slice().host(20 + n));
    let phones: IpAddr = launcher.slice().host(200);
    let scenario = |name| format!("{}/tests/sipp/{name}.xml", env!("CARGO_MANIFEST_DIR"));
    let (register, answer, call) = (scenario("register"), scenario("answer"), scenario("call"));

    let callees = Sipp::start(
        &launcher.folder().join("callees"),
        transport,
        SocketAddr::new(phones, 5070),
        edge(&launcher, 1),
        &["-sf", &register, "-oocsf", &answer, "-m", &users.to_string(), "-r", "200"],
    );
    callees.await_count("OutgoingCall", users, Duration::from_secs(60 + users / 100));
    let mut placed = 0;
    let mut run = |launcher: &mut Launcher, name: &str, port: u16, seconds: u64, kills: u32| {
        let count = RATE * seconds;
        let mut callers = Sipp::start(
            &launcher.folder().join(name),
            transport,
            SocketAddr::new(phones, port),
            edge(launcher, 2),
            &["-sf", &call, "-m", &count.to_string(), "-r", &RATE.to_string()],
        );
        let mut rng = fastrand::Rng::with_seed(1);
        calls::inflict(launcher, &mut rng, Fault::KillProxy, kills, |line| println!("{line}"))
            .unwrap();
        let limit = Duration::from_secs(seconds) + LONGEST_CALL;
        let ended = wait_for(limit, || callers.process.try_wait().unwrap());
        let results =
            ["SuccessfulCall", "FailedCall", "Retransmissions"].map(|name| callers.count(name));
        println!(
            "{name}: {kills} kills, {count} calls: successful, failed, sent again: {results:?}"
        );
        assert_eq!(results, [count, 0, 0], "{ended:?} {}", callers.story());
        placed += count;
        // SIPp writes its counts once a second. It calls every call that comes in "automatically answered": as many as
        // were placed came in, so nobody rang twice.
        callees.await_count("AutoAnswered", placed, Duration::from_secs(3));
        let results =
            ["AutoAnswered", "FailedCall", "Retransmissions"].map(|name| callees.count(name));
        assert_eq!(results, [placed, 0, 0], "callees: {}", callees.story());
    };
    run(&mut launcher, "undisturbed", 5071, seconds, 0);
    run(&mut launcher, "kills", 5072, seconds.max(u64::from(kills) * 2), kills);
    assert!(launcher.stop_all().is_empty(), "everybody ended in order");
}

#[test]
fn sipp_sees_nothing_of_kills_over_udp() {
    calls_by_sipp("u1");
}

#[test]
fn sipp_sees_nothing_of_kills_over_tcp() {
    calls_by_sipp("t1");
}
