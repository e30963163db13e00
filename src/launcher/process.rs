//! One child process: its command, its log, its ready file, its end.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use dialtone_daemon::ready::ReadyFile;
use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};

use super::{Error, clock, spawner};

/// How often files and children are looked at while something is awaited.
const LOOK: Duration = Duration::from_millis(10);

/// What a process is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Conference,
    GaleraArbitrator,
    LocationDb,
    MediaRelay,
    RegistrarNs,
    /// A pool element of a test's own.
    Sidecar,
    SipGateway,
    SipProxy,
}

impl Role {
    /// As the ready file has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Conference => "conference",
            Self::GaleraArbitrator => "galera-arbitrator",
            Self::LocationDb => "location-db",
            Self::MediaRelay => "media-relay",
            Self::RegistrarNs => "registrar-ns",
            Self::Sidecar => "pool-element",
            Self::SipGateway => "sip-gateway",
            Self::SipProxy => "sip-proxy",
        }
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Code(i32),
    Signal(i32),
}

impl Ended {
    fn of(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Code(code),
            (None, signal) => Self::Signal(signal.unwrap_or_default()),
        }
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(number) => match Signal::try_from(*number) {
                Ok(signal) => write!(f, "{signal}"),
                Err(_) => write!(f, "signal {number}"),
            },
        }
    }
}

/// What the kernel says about a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    Ended(Ended),
    /// By SIGSTOP or a debugger.
    Frozen,
    Running,
}

/// A daemon of the launcher's.
#[derive(Debug)]
pub struct Process {
    pub(super) name: String,
    pub(super) role: Role,
    /// The subcommand and its arguments.
    arguments: Vec<OsString>,
    ready_file: PathBuf,
    log: PathBuf,
    child: Child,
    ended: Option<Ended>,
    ready: Option<ReadyFile>,
    /// The server below it when it was in service last.
    worker: Option<Pid>,
    /// When the process was started last.
    started: Instant,
}

impl Process {
    /// Starts `binary` with `arguments`; `folder` takes its log and ready file.
    pub(super) fn start(
        binary: &Path,
        folder: &Path,
        name: String,
        role: Role,
        arguments: Vec<OsString>,
    ) -> Result<Self, Error> {
        let ready_file = folder.join(format!("{name}.ready.json"));
        let log = folder.join(format!("{name}.log"));
        let child = launch(binary, &arguments, &ready_file, &log)
            .map_err(|source| Error::Start { name: name.clone(), source })?;
        Ok(Self {
            name,
            role,
            arguments,
            ready_file,
            log,
            child,
            ended: None,
            ready: None,
            worker: None,
            started: clock(),
        })
    }

    /// Starts the same again; what still runs is killed before.
    pub(super) fn restart(&mut self, binary: &Path) -> Result<(), Error> {
        self.kill();
        self.child = launch(binary, &self.arguments, &self.ready_file, &self.log)
            .map_err(|source| Error::Start { name: self.name.clone(), source })?;
        (self.ended, self.ready, self.started) = (None, None, clock());
        Ok(())
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn role(&self) -> Role {
        self.role
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything that it started, and what that started; parents come before their children.
    pub fn descendants(&self) -> Vec<Pid> {
        let mut found = children(Pid::from_raw(self.child.id().cast_signed()));
        let mut next = 0;
        while let Some(pid) = found.get(next) {
            found.extend(children(*pid));
            next += 1;
        }
        found
    }

    /// The server below a sidecar: sidecar, keeper, server.
    pub fn server(&self) -> Option<Pid> {
        let keeper = *children(Pid::from_raw(self.child.id().cast_signed())).first()?;
        children(keeper).first().copied()
    }

    /// Who does the work: the database server below a sidecar, or else the process itself; and how that is.
    pub fn worker(&mut self) -> (u32, Life) {
        let life = self.life();
        if self.role != Role::LocationDb || !self.arguments.iter().any(|argument| argument == "--")
        {
            return (self.pid(), life);
        }
        // Before that there may be another one for a moment, which looks after the data.
        if self.worker.is_none() || self.is_ready() {
            self.worker = self.server().or(self.worker);
        }
        let pid = self.worker.map_or(self.pid(), |worker| worker.as_raw().cast_unsigned());
        match life {
            Life::Running if is_frozen(pid) => (pid, Life::Frozen),
            // A sidecar ends as its server did.
            Life::Ended(Ended::Code(code)) if code > 128 => {
                (pid, Life::Ended(Ended::Signal(code - 128)))
            }
            _ => (pid, life),
        }
    }

    /// When it was started last.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Where it listens, by purpose; empty until it was in service once.
    pub fn addresses(&mut self) -> BTreeMap<String, String> {
        self.look_ready();
        self.ready.as_ref().map(|ready| ready.addresses.clone()).unwrap_or_default()
    }

    /// Whether it has been in service since its last start.
    pub fn is_ready(&mut self) -> bool {
        self.look_ready();
        self.ready.is_some()
    }

    fn look_ready(&mut self) {
        if self.ready.is_none() {
            let found =
                fs::read(&self.ready_file).ok().and_then(|json| serde_json::from_slice(&json).ok());
            // A file of an earlier run may stand there until the new process has removed it.
            self.ready = found.filter(|ready: &ReadyFile| ready.pid == self.child.id());
        }
    }

    /// Runs, is frozen or has ended.
    pub fn life(&mut self) -> Life {
        if let Some(ended) = self.ended {
            return Life::Ended(ended);
        }
        if let Ok(Some(status)) = self.child.try_wait() {
            let ended = Ended::of(status);
            self.ended = Some(ended);
            return Life::Ended(ended);
        }
        if is_frozen(self.child.id()) { Life::Frozen } else { Life::Running }
    }

    /// Waits until it is in service; fails when it ends instead.
    pub(super) fn wait_ready(&mut self, limit: Duration) -> Result<(), Error> {
        let deadline = clock() + limit;
        loop {
            if self.is_ready() {
                return Ok(());
            }
            if let Life::Ended(ended) = self.life() {
                return Err(Error::Ended {
                    name: self.name.clone(),
                    ended,
                    log: self.last_words(),
                });
            }
            if clock() >= deadline {
                return Err(Error::NotReady {
                    name: self.name.clone(),
                    limit,
                    log: self.last_words(),
                });
            }
            sleep(LOOK);
        }
    }

    /// Everything the process wrote.
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Where the log is.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// The log's last lines, without colours.
    fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Sends a signal; nothing happens if the process has ended.
    pub(super) fn signal(&mut self, signal: Signal) {
        if !matches!(self.life(), Life::Ended(_))
            && let Ok(pid) = i32::try_from(self.child.id())
        {
            // Not reaped yet, so the number still is this process's.
            let _ = signal::kill(Pid::from_raw(pid), signal);
        }
    }

    /// Asks it to end and waits; kills it after `grace`. `true` if it ended by itself.
    pub(super) fn stop(&mut self, grace: Duration) -> bool {
        self.signal(Signal::SIGTERM);
        // Whoever is frozen hears nothing.
        self.signal(Signal::SIGCONT);
        let in_order = self.wait_ended(grace);
        self.kill();
        in_order
    }

    /// Waits for its end.
    pub(super) fn wait_ended(&mut self, limit: Duration) -> bool {
        let deadline = clock() + limit;
        while !matches!(self.life(), Life::Ended(_)) {
            if clock() >= deadline {
                return false;
            }
            sleep(LOOK);
        }
        true
    }

    pub(super) fn kill(&mut self) {
        if !matches!(self.life(), Life::Ended(_)) {
            let _ = self.child.kill();
            if let Ok(status) = self.child.wait() {
                self.ended = Some(Ended::of(status));
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn is_frozen(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses may contain anything; the state follows the last one.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['T', 't']))
}

/// The kernel lists children under the thread that started them.
fn children(pid: Pid) -> Vec<Pid> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|text| {
            text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()
        })
        .map(Pid::from_raw)
        .collect()
}

fn launch(
    binary: &Path,
    arguments: &[OsString],
    ready_file: &Path,
    log: &Path,
) -> io::Result<Child> {
    let _ = fs::remove_file(ready_file);
    let log: File = OpenOptions::new().create(true).append(true).open(log)?;
    let mut command = Command::new(binary);
    command
        .arg0("dialtone")
        // The subcommand; what follows may end in a command line of its own.
        .args(&arguments[..1])
        .arg("--ready-file")
        .arg(ready_file)
        .arg(format!("--die-with-parent={}", std::process::id()))
        .args(&arguments[1..])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Ctrl-C at the terminal is for the launcher, which stops its children in order.
        .process_group(0);
    spawner::spawn(command)
}
