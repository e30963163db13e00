//! The shipped examples, started by hand as their comments say: one file per daemon, together one working system.
//! Only addresses and folders are moved, to a loopback slice and a temporary folder.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use dialtone::launcher::{Slice, wait_for};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A daemon; killed at the end of the test.
struct Daemon {
    process: Child,
    name: String,
    folder: PathBuf,
}

impl Daemon {
    fn start(folder: &Path, name: &str, arguments: &[String]) -> Self {
        let log = fs::File::create(folder.join(format!("{name}.log"))).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_dialtone"))
            .arg(name)
            .args(arguments)
            .arg("--ready-file")
            .arg(folder.join(format!("{name}.ready.json")))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { process, name: name.to_owned(), folder: folder.to_owned() }
    }

    fn await_ready(&mut self) {
        let file = self.folder.join(format!("{}.ready.json", self.name));
        let ready = wait_for(Duration::from_secs(20), || {
            assert!(self.process.try_wait().unwrap().is_none(), "{} has ended", self.name);
            file.exists().then_some(())
        });
        assert!(ready.is_some(), "{} is not in service", self.name);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.join(format!("{}.log", self.name)));
            eprintln!("--- {}\n{}", self.name, log.unwrap_or_default());
        }
    }
}

#[test]
fn the_examples_make_a_system() {
    let slice = Slice::any_free().unwrap();
    let folder = std::env::temp_dir().join(format!("dialtone-examples-{}", std::process::id()));
    fs::create_dir_all(folder.join("location")).unwrap();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/examples");
    let here = slice.host(0).to_string();
    let here = here.strip_suffix('0').unwrap();
    let mut daemons = Vec::new();
    let mut files: Vec<PathBuf> =
        fs::read_dir(examples).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
    // The registrar's comes first.
    files.sort();
    assert!(files.len() >= 3, "{files:?}");
    for file in files {
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(&file).unwrap();
        let text =
            text.replace("127.0.0.", here).replace("/var/lib/dialtone", folder.to_str().unwrap());
        let moved = folder.join(file.file_name().unwrap());
        fs::write(&moved, text).unwrap();
        let config = format!("--config={}", moved.display());
        let check = Command::new(env!("CARGO_BIN_EXE_dialtone"))
            .args([&name, &config, "--check-config"])
            .output()
            .unwrap();
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
        daemons.push(Daemon::start(&folder, &name, &[config]));
    }
    let database = folder.join("location/location.db");
    let options = [
        "--pool=location-db".to_owned(),
        format!("--transport=sqlite:{}", database.display()),
        format!("--registrar={}", slice.host(1)),
        format!("--address={}", slice.host(60)),
    ];
    daemons.push(Daemon::start(&folder, "pool-element", &options));
    for daemon in &mut daemons {
        daemon.await_ready();
    }
    // Each ends in order when it is asked to; registrars last, so that the others need not wait for them.
    for daemon in daemons.iter_mut().rev() {
        kill(Pid::from_raw(daemon.process.id() as i32), Signal::SIGTERM).unwrap();
        let ended = wait_for(Duration::from_secs(15), || daemon.process.try_wait().unwrap());
        assert_eq!(ended.and_then(|status| status.code()), Some(0), "{}", daemon.name);
    }
    drop(daemons);
    let _ = fs::remove_dir_all(&folder);
}
