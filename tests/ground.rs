//! Faults of the ground that a registrar stands on: no file descriptors, a disk that is full, a clock that jumps. It says
//! so, and goes on.

#[path = "support/netns.rs"]
#[allow(dead_code, reason = "only its namespaces are needed")]
mod netns;

use std::{
    env, fs,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use dialtone::launcher::{Slice, wait_for};

const BINARY: &str = env!("CARGO_BIN_EXE_dialtone");
const LIMIT: Duration = Duration::from_secs(20);

/// A registrar alone, started by a command of the shell in which `$0` is the binary and `"$@"` its arguments.
struct Registrar {
    child: Child,
    address: IpAddr,
    folder: PathBuf,
}

impl Registrar {
    fn start(test: &str, address: IpAddr, ready: Option<&Path>, script: &str) -> Self {
        let folder = env::temp_dir().join(format!("dialtone-{test}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let config = folder.join("registrar-ns.toml");
        fs::write(&config, format!("address = \"{address}\"\nalone_after_ms = 0\n")).unwrap();
        let ready = ready.map_or(folder.join("ready"), Path::to_owned);
        let child = Command::new("sh")
            .args(["-c", script, BINARY, "registrar-ns"])
            .arg(format!("--die-with-parent={}", std::process::id()))
            .arg("--config")
            .arg(&config)
            .arg("--ready-file")
            .arg(&ready)
            .env("LOG", folder.join("log"))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let registrar = Self { child, address, folder };
        assert!(
            wait_for(LIMIT, || registrar.answers("").then_some(())).is_some(),
            "{}",
            registrar.log()
        );
        registrar
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// A user who asks for an unknown pool over `scheme` (`""`: SCTP) is told so.
    fn answers(&self, scheme: &str) -> bool {
        let status = Command::new(BINARY)
            .args(["pool-user", "resolve", "nobody", "--timeout", "2", "--registrar"])
            .arg(format!("{scheme}{}", self.address))
            .env_remove("DIALTONE_REGISTRARS")
            .stderr(Stdio::null())
            .status();
        status.unwrap().code() == Some(1)
    }

    fn lives(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Registrar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// With few descriptors there are few TCP connections: the log says so at the start, those beyond are refused, and SCTP,
/// which needs none, goes on.
#[test]
fn few_descriptors_bound_the_connections() {
    let slice = Slice::any_free().unwrap();
    let script = "ulimit -n 80; exec \"$0\" \"$@\" 2>\"$LOG\"";
    let mut registrar = Registrar::start("descriptors", slice.host(1), None, script);
    assert!(registrar.log().contains("leaves room for 16 TCP connections"), "{}", registrar.log());
    let asap = SocketAddr::new(registrar.address, 3863);
    let streams: Vec<_> = (0..60).map(|_| TcpStream::connect(asap).unwrap()).collect();
    let is_served = |mut stream: &TcpStream| {
        // A resolution of the pool "x".
        let _ = stream.write_all(&[5, 0, 0, 9, 0, 9, 0, 5, b'x', 0, 0, 0]);
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        matches!(stream.read(&mut [0; 64]), Ok(1..))
    };
    let served = streams.iter().filter(|stream| is_served(stream)).count();
    assert_eq!(served, 16);
    assert!(registrar.answers(""), "{}", registrar.log());
    assert!(!registrar.answers("tcp:"));
    drop(streams);
    let again = wait_for(LIMIT, || registrar.answers("tcp:").then_some(()));
    assert!(again.is_some() && registrar.lives(), "{}", registrar.log());
}

/// Nobody reads the log, or its disk is full: what cannot be written is lost, and nothing else.
#[test]
fn a_log_that_cannot_be_written_ends_nothing() {
    let slice = Slice::any_free().unwrap();
    let script = "export RUST_LOG=trace; exec \"$0\" \"$@\" 2>/dev/full";
    let mut registrar = Registrar::start("log", slice.host(1), None, script);
    assert!(registrar.answers("") && registrar.answers("tcp:"));
    assert!(registrar.lives());
}

/// The ready file's disk is full: that is said, and service begins.
#[test]
fn a_full_disk_does_not_keep_a_registrar_from_service() {
    netns::within("a_full_disk_does_not_keep_a_registrar_from_service", |_| {
        let full = env::temp_dir().join("full");
        fs::create_dir_all(&full).unwrap();
        netns::run(&format!("mount -t tmpfs -o size=16k none {}", full.display()));
        let _ = fs::write(full.join("junk"), vec![0; 1 << 20]);
        let script = "exec \"$0\" \"$@\" 2>\"$LOG\"";
        let address = IpAddr::from([127, 0, 0, 1]);
        let ready = full.join("ready");
        let mut registrar = Registrar::start("disk", address, Some(&ready), script);
        let is_said = || {
            let log = registrar.log();
            let said = log.contains("cannot write the ready file") && log.contains("No space left");
            said.then_some(())
        };
        assert!(wait_for(LIMIT, is_said).is_some(), "{}", registrar.log());
        assert!(registrar.answers("tcp:") && registrar.lives(), "{}", registrar.log());
    });
}

/// The clock of the machine jumps by decades, forwards and back: nobody's registration ends, and keep-alives go on.
#[test]
fn a_clock_that_jumps_ends_no_registration() {
    let library = ["x86_64", "aarch64"]
        .map(|machine| format!("/usr/lib/{machine}-linux-gnu/faketime/libfaketimeMT.so.1"))
        .into_iter()
        .find(|path| Path::new(path).exists());
    let Some(library) = library else { return netns::missing("faketime", "not installed") };
    let slice = Slice::any_free().unwrap();
    let clock = env::temp_dir().join(format!("dialtone-time-{}", std::process::id()));
    let set = |time: &str| fs::write(&clock, format!("@{time}\n")).unwrap();
    set("2030-01-01 12:00:00");
    // Of what a processor counts only the time of day is changed, as by who sets a clock.
    let script = format!(
        "export LD_PRELOAD={library} FAKETIME_TIMESTAMP_FILE={} FAKETIME_NO_CACHE=1 \
         FAKETIME_DONT_FAKE_MONOTONIC=1; exec \"$0\" \"$@\" 2>\"$LOG\"",
        clock.display()
    );
    let mut registrar = Registrar::start("clock", slice.host(1), None, &script);
    let address = registrar.address;
    let element = |pool: &str| {
        let element = Command::new(BINARY)
            .args(["pool-element", "--pool", pool, "--lifetime", "2s"])
            .arg(format!("--die-with-parent={}", std::process::id()))
            .arg("--transport")
            .arg(format!("tcp:{address}:3863"))
            .args(["--registrar", &address.to_string()])
            .stderr(Stdio::null())
            .spawn();
        Ended(element.unwrap())
    };
    let mut old = element("clocks");
    let is_there = || {
        let status = Command::new(BINARY)
            .args(["pool-user", "resolve", "clocks", "--timeout", "2", "--registrar"])
            .arg(address.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        status.unwrap().success()
    };
    assert!(wait_for(LIMIT, || is_there().then_some(())).is_some(), "{}", registrar.log());
    for (time, year) in [("2061-07-28 12:00:00", "2061-"), ("1986-02-09 12:00:00", "1986-")] {
        set(time);
        // As long as several lives, the element is there whenever somebody asks.
        let gone = wait_for(Duration::from_secs(5), || (!is_there()).then_some(()));
        assert!(gone.is_none(), "{year} {}", registrar.log());
        // Who comes now is told of in the log with the new time: so the registrar has seen it.
        let _new = element("newcomers");
        let is_told = || {
            let log = registrar.log();
            let told = |line: &str| line.starts_with(year) && line.contains("pool=newcomers");
            log.lines().any(told).then_some(())
        };
        assert!(wait_for(LIMIT, is_told).is_some(), "{}", registrar.log());
    }
    assert!(registrar.lives() && old.0.try_wait().unwrap().is_none());
    let _ = fs::remove_file(&clock);
}

/// Ends with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
