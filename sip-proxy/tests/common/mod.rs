//! A proxy as a process of its own: this test binary, started again.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use clap::Parser;

const CONFIG: &str = "DIALTONE_SIP_PROXY_CONFIG";

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: dialtone_sip_proxy::cli::Args,
}

/// To be called by a test named `daemon`: in a process started by [`Process::start`] it is the proxy, else nothing.
pub(crate) fn daemon() {
    let Some(config) = std::env::var_os(CONFIG) else { return };
    let config = PathBuf::from(config);
    let ready = config.with_extension("ready");
    let args = [
        "sip-proxy".into(),
        "--config".into(),
        config.into_os_string(),
        "--ready-file".into(),
        ready.into_os_string(),
    ];
    let code = dialtone_sip_proxy::cli::run(Cli::parse_from(args).args);
    std::process::exit(i32::from(code != std::process::ExitCode::SUCCESS));
}

/// A folder that goes with the test.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("dialtone-sip-proxy-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("temporary folder");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running proxy; killed when dropped.
pub(crate) struct Process {
    child: Child,
    pub(crate) addresses: BTreeMap<String, SocketAddr>,
}

impl Process {
    /// A stand-alone proxy with edge listeners on free ports of `address`, database and keys in `folder`.
    pub(crate) fn start(folder: &Path, name: &str, address: &str) -> Self {
        let file = |what: &str| folder.join(what).display().to_string();
        let config = format!(
            "name = \"{name}\"\ndata_dir = {:?}\nkey_file = {:?}\naddress = \"{address}\"\nadmin = \"{address}:0\"\n\
             core = \"{address}:0\"\nlocation_db = {:?}\ndomains = [\"dialtone.test\"]\n\
             [edge]\nudp = \"{address}:0\"\ntcp = \"{address}:0\"\nrecord_route = true\n",
            file(name),
            file("keys"),
            file("location.db"),
        );
        let path = folder.join(format!("{name}.toml"));
        fs::write(&path, config).expect("configuration");
        let ready = path.with_extension("ready");
        let _ = fs::remove_file(&ready);
        let log = fs::File::create(path.with_extension("log")).expect("log");
        let child = Command::new(std::env::current_exe().expect("own path"))
            .args(["--exact", "daemon", "--nocapture"])
            .env(CONFIG, &path)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log"))
            .stderr(log)
            .spawn()
            .expect("proxy process");
        let mut process = Self { child, addresses: BTreeMap::new() };
        for _ in 0..1_000 {
            if let Ok(text) = fs::read_to_string(&ready) {
                process.addresses = addresses(&text);
                return process;
            }
            if let Some(status) = process.child.try_wait().expect("child") {
                panic!(
                    "{status}: {}",
                    fs::read_to_string(path.with_extension("log")).unwrap_or_default()
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("not ready: {}", fs::read_to_string(path.with_extension("log")).unwrap_or_default());
    }

    pub(crate) fn udp(&self) -> SocketAddr {
        self.addresses["sip-udp"]
    }

    pub(crate) fn tcp(&self) -> SocketAddr {
        self.addresses["sip-tcp"]
    }

    /// Kills the process at once, as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }

    /// Asks the process to stop; says whether it ended in order.
    pub(crate) fn stop(mut self) -> bool {
        let killed = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        assert!(killed.is_ok_and(|status| status.success()));
        self.child.wait().is_ok_and(|status| status.success())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The addresses of a ready file, without a JSON parser: `"sip-udp": "127.0.0.1:5060"`.
fn addresses(text: &str) -> BTreeMap<String, SocketAddr> {
    let mut quoted = text.split('"').skip(1).step_by(2);
    let mut found = BTreeMap::new();
    let mut before = "";
    for word in quoted.by_ref() {
        if let Ok(address) = word.parse() {
            found.insert(before.to_owned(), address);
        }
        before = word;
    }
    found
}
