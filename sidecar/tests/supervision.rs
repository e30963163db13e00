//! The sidecar as a process: its command never outlives it, whatever ends it, and passes its exit code on.
//!
//! Called with `pool-element` as its first argument this program *is* the sidecar, keeper included; otherwise it runs
//! the tests. No registrar is needed: what the sidecar owes its command does not depend on one.

use std::{
    ffi::OsString,
    fs,
    io::Read,
    path::PathBuf,
    process::{Child, Command, ExitCode, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use clap::Parser;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

#[derive(Debug, Parser)]
enum Cli {
    PoolElement(dialtone_sidecar::cli::Args),
}

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if arguments.get(1).is_some_and(|first| first == "pool-element") {
        return match Cli::try_parse_from(arguments) {
            Ok(Cli::PoolElement(args)) => dialtone_sidecar::cli::run(args),
            Err(error) => {
                eprintln!("{error}");
                ExitCode::from(64)
            }
        };
    }
    let tests: &[(&str, fn())] = &[
        ("a_killed_sidecar_takes_the_command_and_its_children_along", killed),
        ("a_killed_keeper_takes_the_command_along_and_ends_the_sidecar", keeper_killed),
        ("sigterm_ends_the_command_in_order", terminated),
        ("a_command_that_ignores_sigterm_is_killed", stubborn),
        ("the_exit_code_of_the_command_is_passed_on", exit_code),
        ("a_sidecar_dies_with_its_parent", with_parent),
        ("wrong_options_are_refused_before_anything_starts", refused),
    ];
    let filters: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let chosen: Vec<_> = tests
        .iter()
        .filter(|(name, _)| filters.is_empty() || filters.iter().any(|f| name.contains(f)))
        .collect();
    if std::env::args().any(|argument| argument == "--list") {
        chosen.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", chosen.len());
    let threads: Vec<_> =
        chosen.iter().map(|&&(name, test)| (name, std::thread::spawn(test))).collect();
    let mut failed = 0;
    for (name, thread) in threads {
        let ok = thread.join().is_ok();
        failed += usize::from(!ok);
        println!("test {name} ... {}", if ok { "ok" } else { "FAILED" });
    }
    let passed = chosen.len() - failed;
    let word = if failed == 0 { "ok" } else { "FAILED" };
    let filtered = tests.len() - chosen.len();
    println!(
        "\ntest result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured; {filtered} filtered out\n"
    );
    ExitCode::from(u8::from(failed > 0))
}

#[expect(clippy::disallowed_methods, reason = "a deadline of real time")]
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 10 s: {what}");
        sleep(Duration::from_millis(10));
    }
}

/// A sidecar whose command is a shell script; the script writes the pids of all it starts into `pids`.
struct Sidecar {
    process: Child,
    folder: PathBuf,
}

impl Sidecar {
    fn start(test: &str, script: &str, options: &[&str]) -> Self {
        let folder =
            std::env::temp_dir().join(format!("dialtone-sidecar-{test}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let process = Command::new("/proc/self/exe")
            .args([
                "pool-element",
                "--pool",
                "test",
                "--transport",
                "tcp:127.0.0.1:9",
                "--registrar",
                "127.0.0.1:9",
            ])
            .args(options)
            .args(["--", "sh", "-c", script])
            .current_dir(&folder)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { process, folder }
    }

    /// Waits until the script has written `count` pids.
    fn pids(&self, count: usize) -> Vec<i32> {
        let mut pids = Vec::new();
        eventually("the script runs", || {
            let text = fs::read_to_string(self.folder.join("pids")).unwrap_or_default();
            pids = text.lines().filter_map(|line| line.parse().ok()).collect();
            pids.len() == count
        });
        pids
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id() as i32), signal).unwrap();
    }

    fn exit_code(&mut self) -> Option<i32> {
        let mut code = None;
        eventually("the sidecar ends", || {
            code = self.process.try_wait().unwrap();
            code.is_some()
        });
        code.unwrap().code()
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let mut log = String::new();
            let _ = self.process.stderr.take().map(|mut stderr| stderr.read_to_string(&mut log));
            eprintln!("{log}");
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

fn all_gone(pids: &[i32]) {
    eventually(&format!("{pids:?} are gone"), || !pids.iter().any(|pid| is_alive(*pid)));
}

const WITH_CHILD: &str = "sleep 1000 & echo $! >>pids; echo $$ >>pids; wait";

fn killed() {
    let sidecar = Sidecar::start("killed", WITH_CHILD, &[]);
    let pids = sidecar.pids(2);
    assert!(pids.iter().all(|pid| is_alive(*pid)));
    sidecar.signal(Signal::SIGKILL);
    all_gone(&pids);
}

fn keeper_killed() {
    let mut sidecar = Sidecar::start("keeper", WITH_CHILD, &[]);
    let pids = sidecar.pids(2);
    let stat = fs::read_to_string(format!("/proc/{}/stat", pids[1])).unwrap();
    let keeper: i32 = stat.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap().parse().unwrap();
    kill(Pid::from_raw(keeper), Signal::SIGKILL).unwrap();
    assert_eq!(sidecar.exit_code(), Some(128 + 9));
    all_gone(&pids);
}

fn terminated() {
    let script =
        "trap 'echo asked >asked; exit 3' TERM; echo $$ >>pids; while :; do sleep 0.05; done";
    let mut sidecar = Sidecar::start("terminated", script, &[]);
    let pids = sidecar.pids(1);
    sidecar.signal(Signal::SIGTERM);
    assert_eq!(sidecar.exit_code(), Some(0));
    all_gone(&pids);
    assert!(sidecar.folder.join("asked").exists());
}

fn stubborn() {
    let script = "trap '' TERM; echo $$ >>pids; while :; do sleep 0.05; done";
    let mut sidecar = Sidecar::start("stubborn", script, &["--stop-grace", "300ms"]);
    let pids = sidecar.pids(1);
    sidecar.signal(Signal::SIGTERM);
    assert_eq!(sidecar.exit_code(), Some(0));
    all_gone(&pids);
}

fn exit_code() {
    let mut sidecar = Sidecar::start("exit", "sleep 1000 & echo $! >>pids; exit 42", &[]);
    let pids = sidecar.pids(1);
    assert_eq!(sidecar.exit_code(), Some(42));
    // What the command left behind is not left behind.
    all_gone(&pids);
    let mut sidecar = Sidecar::start("signal", "kill -USR1 $$; sleep 10", &[]);
    assert_eq!(sidecar.exit_code(), Some(128 + 10));
}

fn with_parent() {
    // The shell is the parent; it is killed, and so are sidecar, keeper and command.
    let folder =
        std::env::temp_dir().join(format!("dialtone-sidecar-parent-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let script = "\"$0\" pool-element --pool test --transport tcp:127.0.0.1:9 --registrar 127.0.0.1:9 --die-with-parent=$$ \
         -- sh -c 'echo $$ >>pids; exec sleep 1000' 2>/dev/null & echo $! >>pids; wait";
    let program = std::env::current_exe().unwrap();
    let mut shell =
        Command::new("sh").arg("-c").arg(script).arg(program).current_dir(&folder).spawn().unwrap();
    let mut pids: Vec<i32> = Vec::new();
    eventually("both run", || {
        let text = fs::read_to_string(folder.join("pids")).unwrap_or_default();
        pids = text.lines().filter_map(|line| line.parse().ok()).collect();
        pids.len() == 2
    });
    shell.kill().unwrap();
    shell.wait().unwrap();
    all_gone(&pids);
    let _ = fs::remove_dir_all(&folder);
}

fn refused() {
    let table: &[(&[&str], &str)] = &[
        (&["--transport", "tcp:203.0.113.9:5060"], "not an address of this machine"),
        (&["--transport", "udp:127.0.0.1:5060"], "choose --check sip"),
        (
            &["--transport", "tcp:127.0.0.1:5060", "--check", "ping"],
            "use tcp, sip, ng, ng:HOST:PORT, sqlite:PATH, mysql:FILE or galera:FILE",
        ),
        (&["--transport", "tcp:127.0.0.1:5060", "--check", "ng"], "--check ng needs"),
        (
            &["--transport", "udp:127.0.0.1:5060", "--check", "sip", "--capacity", "5"],
            "--capacity needs --check ng",
        ),
        (&["--transport", "tcp:127.0.0.1:5060", "--check-interval", "1s"], "use 20ms to 400ms"),
        (&["--transport", "tcp:127.0.0.1:5060", "--policy", "best"], "use rr, wrr:WEIGHT"),
        (
            &["--transport", "tcp:127.0.0.1:5060", "--registrar", "tcp:127.0.0.1"],
            "elements speak SCTP",
        ),
        (
            &["--transport", "tcp:127.0.0.1:5060", "--address", "127.0.0.2"],
            "register from where they serve",
        ),
    ];
    for (options, advice) in table {
        let output = Command::new("/proc/self/exe")
            .args(["pool-element", "--pool", "test", "--registrar", "127.0.0.1:9"])
            .args(*options)
            .args(["--", "sh", "-c", "echo started; sleep 1000"])
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains(advice), "{options:?}: {error}");
        assert_eq!(output.status.code(), Some(64), "{options:?}: {error}");
        assert!(output.stdout.is_empty(), "{options:?}: the command was started");
    }
}
